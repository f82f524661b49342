"""The channel layer at a Redis Cluster: groups at all of its masters, a master that dies, slots that move."""

import time
import unittest

from kit.deadline import until
from kit.layer_case import API, LOST, LayerCase, Member, api, connected, layer_server, lines
from kit.redis_cluster import RedisCluster
from kit.redis_node import Node
from test_layer_oneport import Flood

class ClusterCase(LayerCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(RedisCluster())
        cls.a, cls.b = (cls.enterClassContext(cls.gateway()) for _ in range(2))
        for server in cls.servers():
            connected(server)

    @classmethod
    def gateway(cls, **keys):
        return layer_server(cls.cluster.url(), more=API, **{**cls.layer, **keys})

    def rooms(self, number=12):
        return [f"{self.room}-{at}" for at in range(number)]


class Groups(ClusterCase, Flood):
    layer = {"timeout": "5s", "lease": "10s"}

    def test_rooms_at_all_masters_are_heard_on_both_processes(self):
        owners = {self.cluster.owner(f"{{both_{room}}}")[0].port for room in self.rooms()}
        self.assertEqual(len(owners), 3, "expected rooms at each of the masters")
        for room in self.rooms():
            anna = self.join(self.a, "both", "anna", room=room)
            anna.next("chat.join", user="anna", members=1)  # a socket is open before its consumer has joined
            ben = self.join(self.b, "both", "ben", room=room)
            anna.next("chat.join", user="ben", members=2)
            anna.say({"message": f"from anna in {room}"})
            ben.next("chat.message", message=f"from anna in {room}")
            ben.say({"message": f"from ben in {room}"})
            anna.next("chat.message", message=f"from ben in {room}")
            late = self.join(self.b, "both", room=room)
            self.assertEqual(late.messages(2), [f"from anna in {room}", f"from ben in {room}"])
            anna.next("chat.join", members=3)
            ben.__exit__()
            anna.next("chat.leave", user="ben", members=2)

    def test_the_server_api_counts_the_members_of_both_processes_at_each_master(self):
        for room in self.rooms():
            for server in (self.a, self.b, self.b):
                self.join(server, "chat", room=room)
            # A socket is open before its consumer has joined.
            until(lambda room=room: api(self.a, "GET", f"groups/chat_{room}")["members"] == 3, "three members")
            event = {"type": "chat.message", "message": "counted"}
            counts = api(self.a, "POST", f"groups/chat_{room}", event)
            self.assertEqual(counts, {"matched": 3, "queued": 3, "dropped": 0, "unanswered": 0})
            self.assertEqual(api(self.b, "GET", f"groups/chat_{room}")["members"], 3)
        self.assertEqual(api(self.a, "GET", "info")["nodes"], 2)

    def test_nothing_is_lost_or_swapped(self):
        self.flood("all", 20_000, 40, 60.0)
        self.flood("frames", 4_000, 20, 30.0)

    def test_a_server_that_is_told_of_one_master_finds_the_others(self):
        with Node() as bare, layer_server(self.cluster.url(nodes=[bare, self.cluster.nodes[1]]), **self.layer) as third:
            bare.kill()
            connected(third)
            for room in self.rooms():
                anna, ben = self.join(self.a, "chat", room=room), self.join(third, "chat", room=room)
                ben.say({"message": "hi"})
                anna.hears("hi")


class Moves(ClusterCase):
    def test_while_slots_move_nothing_of_a_history_is_lost_and_members_hear_each_other(self):
        anna, ben = self.join(self.a, "long"), self.join(self.b, "long")
        numbers = [str(number) for number in range(400)]
        for number in numbers[:100]:
            anna.say({"message": number})
        self.assertEqual(ben.messages(100), numbers[:100])
        before, _ = self.cluster.owner(f"{{long_{self.room}}}")
        said = iter(numbers[100:])
        for _ in self.cluster.move(f"{{long_{self.room}}}"):
            for number in (next(said) for _ in range(20)):
                anna.say({"message": number})
        for number in said:
            anna.say({"message": number})
        after, _ = self.cluster.owner(f"{{long_{self.room}}}")
        self.assertNotEqual(before.port, after.port)
        self.assertEqual(ben.messages(300), numbers[100:])
        self.assertEqual(anna.messages(400), numbers)
        # Both are where the group is now when the slots have come to rest.
        for server in self.servers():
            until(lambda server=server: server.metric("oneport_layer_reconnects_total") >= 1, "a server that looked for the slots anew")
            connected(server)
        event = {"type": "chat.message", "message": "counted"}
        # A process may reconnect once more, for slots that moved in the meantime; until then counts are too low.
        wanted = {"matched": 2, "queued": 2, "dropped": 0, "unanswered": 0}
        until(lambda: api(self.a, "POST", f"groups/long_{self.room}", event) == wanted, f"the counts {wanted}")
        for member in (anna, ben):
            member.next("chat.message", message="counted")


    def test_a_slot_that_stays_on_its_way_ends_no_connection_and_holds_up_nobody_else(self):
        before = [server.metric("oneport_layer_reconnects_total") for server in self.servers()]
        *_, end = self.cluster.begin_to_move(f"{{both_{self.room}}}")
        anna, ben = self.join(self.a, "both", "anna"), self.join(self.b, "both", "ben")
        anna.say({"message": "on its way"})
        for room in self.rooms(4):
            carl, dora = self.join(self.a, "long", room=room), self.join(self.b, "long", room=room)
            for number in range(3):
                carl.say({"message": str(number)})
            self.assertEqual(dora.messages(3, 10.0), ["0", "1", "2"])
        self.assertEqual([server.metric("oneport_layer_reconnects_total") for server in self.servers()], before)
        end()
        for member in (anna, ben):
            self.assertEqual(member.messages(1), ["on its way"])


class Failover(ClusterCase):
    def test_a_master_that_dies_is_replaced_and_nothing_of_a_history_is_lost(self):
        first = self.cluster.nodes[0]
        room = next(room for room in self.rooms(40) if self.cluster.owner(f"{{long_{room}}}")[0] is first)
        anna, ben = self.join(self.a, "long", room=room), self.join(self.b, "long", room=room)
        carl = self.join(self.a, "long", room=room)
        numbers = [str(number) for number in range(60)]
        for number in numbers[:20]:
            anna.say({"message": number})
        self.assertEqual(ben.messages(20), numbers[:20])
        first.kill()
        begun = time.monotonic()
        for number in numbers[20:40]:
            anna.say({"message": number})
        # Members of the same process do not wait for the cluster.
        self.assertEqual(carl.messages(40), numbers[:40])
        self.assertEqual(ben.messages(20), numbers[20:40])
        for server in self.servers():
            server.wait_for_log(LOST)
            connected(server)
        for number in numbers[40:]:
            ben.say({"message": number})
        for member in (ben, carl):
            self.assertEqual(member.messages(20), numbers[40:])
        self.assertEqual(self.join(self.b, "long", room=room).messages(60), numbers)
        self.assertLess(time.monotonic() - begun, 30.0)
        for server in self.servers():
            self.assertTrue(lines(server, "is connected to Redis again"))


class Refused(unittest.TestCase):
    def test_a_redis_that_is_no_cluster_is_not_taken_for_one(self):
        with Node() as node, layer_server(f"redis+cluster://127.0.0.1:{node.port}", timeout="1s") as alone:
            alone.wait_for_log(rf"{LOST}.*cluster")
            with Member(alone, "/ws/chat/r/") as anna:
                anna.say({"message": "alone"})
                anna.hears("alone")
