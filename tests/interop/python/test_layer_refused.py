"""Layer refused: a Redis user without the rights is named once in a while, Redis is not stormed, and members here are served all the same.

And the rights that the documentation names are all that are needed.
"""

import re
import time
import unittest
from contextlib import ExitStack

from kit.deadline import until
from kit.peer import Peer
from kit.redis_server import Redis
from kit.server import ROOT, Server

CONFIG = """
[log]
access = false

[channel_layer]
backend = "redis://app:pw@127.0.0.1:{port}/0"
format = "{format}"
lease = "1s"

[[websocket.route]]
path = "/ws/{{room}}/"
consumer = "chat"
middleware = []
options = {{ group = "chat_{{room}}", history = 10, presence = true }}
"""

FORMATS = {"oneport": "oneport", "channels_redis.pubsub": "asgi", "channels_redis.core": "asgi"}

# The rights of the user, and by format what the log names: the command, and the pattern of the names if there is one.
RULES = {
    "no keys": ("~other:* &* +@all", {format: rf"(SMEMBERS|EVALSHA|DEL|HSET) on {name}(:oneport)?:?\*" for format, name in FORMATS.items()}),
    "no channels": ("~* resetchannels &other* +@all", {format: rf"SUBSCRIBE on {name}(:oneport)?:\*" for format, name in FORMATS.items()}),
    "no scripts": ("~* &* +@all -@scripting", {format: r"'script\|load'" for format in FORMATS}),
    "no PUBLISH": (
        "~* &* +@all -publish",
        {"oneport": r"(PUBLISH|EVALSHA) on oneport:\*", "channels_redis.pubsub": r"PUBLISH on asgi\*", "channels_redis.core": None},
    ),
    "no SUBSCRIBE": ("~* &* +@all -subscribe", {format: rf"SUBSCRIBE on {name}(:oneport)?:\*" for format, name in FORMATS.items()}),
    "no UNSUBSCRIBE": (
        "~* &* +@all -unsubscribe",
        # In the other formats a group with a history stays for a while.
        {"oneport": r"UNSUBSCRIBE on oneport:\*", "channels_redis.pubsub": None, "channels_redis.core": None},
    ),
    "no BZPOPMIN": ("~* &* +@all -bzpopmin", {"oneport": None, "channels_redis.pubsub": None, "channels_redis.core": r"BZPOPMIN on asgi\*"}),
    "only our keys, to read": ("%R~* &* +@all", {format: rf"(EVALSHA|HSET|DEL|BZPOPMIN) on {name}" for format, name in FORMATS.items()}),
    "no writing": ("~* &* +@all -@write", {format: rf"(EVALSHA|HSET|DEL|BZPOPMIN) on {name}" for format, name in FORMATS.items()}),
}

# How long a server is watched, less than an interval of the log, and how often it may log or connect in that time.
# The lines: what is refused, that the layer is connected, and one that names what Redis was lost for.
WATCHED = 4.0
LINES = 3
NAMED = 1
CONNECTIONS = 25


class Refused(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.redis = cls.enterClassContext(Redis())
        cls.client = cls.enterClassContext(cls.redis.client())

    def allow(self, rule):
        self.client.flushall()  # what servers that were stopped without the rights to say so have left
        self.client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rule.split())

    def gateway(self, format):
        return self.enterContext(self.server(format))

    def server(self, format):
        return Server(CONFIG.format(port=self.redis.port, format=format))

    def talks(self, peers):
        """Each member of a room receives the first one's message."""
        said = f"said {time.monotonic()}"
        peers[0].say({"message": said})
        for peer in peers:
            peer.next("chat.message", message=said)

    def test_a_user_without_the_rights_is_named_once_and_redis_is_not_stormed(self):
        for what, (rule, named) in RULES.items():
            self.allow(rule)
            with self.subTest(what), ExitStack() as running:
                self.check(what, named, running)

    def check(self, what, named, running):
        before = self.client.info("stats")["total_connections_received"]
        began = time.monotonic()
        servers = {format: running.enter_context(self.server(format)) for format in FORMATS}
        peers = {
            format: [running.enter_context(Peer(server, "/ws/room/", origin=None)) for _ in range(2)]
            for format, server in servers.items()
        }
        if what == "no UNSUBSCRIBE":
            for server in servers.values():
                with Peer(server, "/ws/another/", origin=None):
                    pass
        while time.monotonic() - began < WATCHED:
            for pair in peers.values():
                self.talks(pair)
        connections = self.client.info("stats")["total_connections_received"] - before
        self.assertLess(connections, CONNECTIONS * len(FORMATS))
        for format, server in servers.items():
            with self.subTest(what, format=format):
                said = [line for line in server.log().splitlines() if re.search(r"Z +(WARN|ERROR) oneport::channels", line)]
                self.assertLessEqual(len(said), LINES, "\n".join(said[:10]))
                denied = [line for line in said if "NoPerm" in line or "no permissions" in line]
                self.assertLessEqual(len(denied), NAMED, "\n".join(denied[:10]))
                if named[format]:
                    self.assertRegex("\n".join(said), named[format])
                self.assertNotIn("pw@", server.log())

    def test_the_layer_works_once_the_rights_are_given(self):
        self.allow("~* &* +@all -subscribe")
        servers = [self.gateway("oneport") for _ in range(2)]
        self.allow("~* &* +@all")
        for server in servers:
            until(lambda server=server: server.metric("oneport_layer_connected") == 1, lambda server=server: server.log())
        self.talks([self.enterContext(Peer(server, "/ws/room/", origin=None)) for server in servers])

    def test_the_rights_of_the_documentation_are_enough(self):
        page = (ROOT / "docs/CONFIGURATION.md").read_text(encoding="utf-8")
        documented = re.search(r"ACL SETUSER \S+ on >\S+ (.*)", page)[1]
        for format, prefix in FORMATS.items():
            with self.subTest(format):
                self.allow(documented.replace("oneport", prefix))
                servers = [self.gateway(format) for _ in range(2)]
                for server in servers:
                    until(lambda server=server: server.metric("oneport_layer_connected") == 1, lambda server=server: server.log())
                peers = [self.enterContext(Peer(server, "/ws/room/", origin=None)) for server in servers for _ in range(2)]
                began = time.monotonic()
                while time.monotonic() - began < 1.5:  # the lease is renewed
                    self.talks(peers)
                for server in servers:
                    self.assertNotRegex(server.log(), r"Z +(WARN|ERROR) oneport::channels")


if __name__ == "__main__":
    unittest.main()
