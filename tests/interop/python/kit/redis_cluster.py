"""A Redis Cluster: three masters with all slots, and one replica that can take the place of the first."""

from contextlib import ExitStack

from .deadline import DEADLINE, until
from .postgres import free_port
from .redis_node import Node

_PASSWORD = "s3cret"
_SLOTS = 16384
# A master that is silent for this long counts as dead.
_NODE_TIMEOUT = "1500"


class RedisCluster:
    def __enter__(self):
        with ExitStack() as held:
            self.nodes = [held.enter_context(self._node()) for _ in range(4)]
            first, *others = self.nodes
            for number, node in enumerate(self.nodes[:3]):
                bounds = number * _SLOTS // 3, (number + 1) * _SLOTS // 3 - 1
                self.ask(node, "CLUSTER", "ADDSLOTSRANGE", *bounds)
            for other in others:
                self.ask(first, "CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
            until(lambda: all(self.known(node) == 4 for node in self.nodes), "a cluster whose servers know each other")
            self.ask(self.nodes[3], "CLUSTER", "REPLICATE", self.identity(first))
            until(self.is_whole, lambda: f"a cluster that is whole\n{first.log()}")
            self._held = held.pop_all()
        return self

    def __exit__(self, *_):
        self._held.close()

    @staticmethod
    def _node():
        bus_port = free_port()
        node = Node(
            "--cluster-enabled", "yes",
            "--cluster-port", str(bus_port),
            "--cluster-node-timeout", _NODE_TIMEOUT,
            "--requirepass", _PASSWORD,
            "--masterauth", _PASSWORD,
            "--repl-diskless-sync-delay", "0",
            password=_PASSWORD,
        )  # fmt: skip
        node.bus_port = bus_port
        return node

    def url(self, *, nodes=None):
        """Returns the URL of the cluster, by some of its servers."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes or self.nodes)
        return f"redis+cluster://:{_PASSWORD}@{hosts}"

    def ask(self, node, *words):
        with node.client() as client:
            return client.execute_command(*words)

    def identity(self, node):
        return self.ask(node, "CLUSTER", "MYID")

    def known(self, node):
        return len(self.ask(node, "CLUSTER", "NODES").splitlines())

    def is_whole(self):
        """Waits until all servers report that all slots are served, and the replica follows."""
        replication = self.ask(self.nodes[3], "INFO", "replication")
        return replication.get("master_link_status") == "up" and all(
            "cluster_state:ok" in self.ask(node, "CLUSTER", "INFO") for node in self.nodes
        )

    def owner(self, key):
        """Returns the master that has a key."""
        slot = self.ask(self.nodes[1], "CLUSTER", "KEYSLOT", key)
        return next(node for node in self.nodes if self.has(node, slot)), slot

    def has(self, node, slot):
        ranges = self.ask(self.nodes[1], "CLUSTER", "SLOTS")
        return any(first <= slot <= last and master[1] == node.port for first, last, master, *_ in ranges)

    def begin_to_move(self, key):
        """Starts the migration of a key's slot to another master; returns a function that ends it."""
        source, slot = self.owner(key)
        target = next(node for node in self.nodes[1:3] if node is not source)
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.identity(source))
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.identity(target))

        def end():
            for node in (target, source, *self.nodes):
                if node is not self.nodes[3]:
                    self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self.identity(target))

        return source, target, slot, end

    def move(self, key):
        """Moves the slot of a key, with all that is in it, to another master, as an administrator's tool does."""
        source, target, slot, end = self.begin_to_move(key)
        milliseconds = int(DEADLINE * 1000)
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            yield
            self.ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, milliseconds, "AUTH", _PASSWORD, "KEYS", keys[0])
        end()
