"""Presence and leases: a process that stands still, dies or loses Redis, in all three formats.

A process that stands still for less than its lease loses nothing. Members that left and came back, whatever the reason, are
told to all others: at any time the joins minus the leaves that a client has heard are the members that there are.
"""

import json
import signal
import threading
import time
import unittest

from kit.deadline import DEADLINE, Late, until
from kit.layer_case import API, LOST, MOMENT, LayerCase, Member, api, connected, disconnected, lines, reconnects

LEASE = 2.0


class LeaseCase(LayerCase):
    """Processes with that lease. `timeout` is shorter, so that a process may stand still for longer than it."""

    layer_format = None

    @classmethod
    def setUpClass(cls):
        cls.layer = {"format": cls.layer_format, "lease": f"{int(LEASE * 1000)}ms", "timeout": "1s", "capacity": 10_000}
        super().setUpClass()

    def frozen(self, server, seconds, meanwhile):
        """Lets a process stand still for that long."""
        begun = time.monotonic()
        server.freeze()
        try:
            meanwhile()
            time.sleep(max(0.0, begun + seconds - time.monotonic()))
        finally:
            server.thaw()


class Pause:
    """A process stands still for less than its lease."""

    def test_a_process_that_stands_still_for_less_than_its_lease_loses_nothing(self):
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        numbers = [str(number) for number in range(1500)]

        def say():
            for number in numbers:
                ben.say({"message": number})
            self.assertEqual(ben.messages(1500), numbers)

        before = reconnects(self.a)
        self.frozen(self.a, 0.6 * LEASE, say)
        self.assertEqual(anna.messages(1500), numbers)
        anna.say({"message": "on"})
        ben.hears("on")
        self.assertEqual(reconnects(self.a), before)
        for server in self.servers():
            self.assertEqual(lines(server, rf"{LOST}|stood still|no longer listed|another process died"), [])

    def test_its_members_stay(self):
        anna, ben = self.join(self.a, "presence", "anna"), self.join(self.b, "presence", "ben")
        ben.next("chat.join", members=2)
        self.frozen(self.a, 0.9 * LEASE, lambda: None)
        ben.hears_nothing(MOMENT)
        for member in (anna, ben):
            member.say({"type": "who"})
            self.assertEqual(sorted(member.next("chat.who")["users"]), ["anna", "ben"])


class OneportPause(Pause, LeaseCase):
    layer_format = "oneport"


class PubsubPause(Pause, LeaseCase):
    layer_format = "channels_redis.pubsub"


class CorePause(Pause, LeaseCase):
    layer_format = "channels_redis.core"

    def test_a_process_that_was_taken_for_dead_drains_its_inbox_and_says_that_events_are_lost(self):
        anna, ben = self.join(self.a, "kept"), self.join(self.b, "kept")
        anna.joined()
        ben.joined()
        ben.say({"message": "before"})
        since = anna.next("chat.message", message="before")["offset"]

        def say():
            ben.say({"message": "in the inbox"})
            ben.next("chat.message", message="in the inbox")
            self.b.wait_for_log("another process died")
            ben.say({"message": "lost"})
            ben.next("chat.message", message="lost")

        self.frozen(self.a, 0.0, say)
        anna.next("chat.message", message="in the inbox")
        self.a.wait_for_log("this process stood still for longer than its lease")
        self.a.wait_for_log("Redis no longer listed this process in its groups: events of other processes since then are lost")
        ben.say({"message": "after"})
        anna.hears("after")
        again = self.join(self.a, "kept", since=since)
        self.assertIs(again.joined()["recovered"], False)

    def test_what_is_lost_with_a_membership_is_not_said_to_be_recovered(self):
        anna, ben = self.join(self.a, "kept"), self.join(self.b, "kept")
        anna.joined()
        ben.joined()
        stream = self.stream(self.a)
        ben.say({"message": "one"})
        since = anna.event()["offset"]
        self.assertEqual(stream.event()["id"], since)
        with self.redis.client() as client:
            client.flushdb()
        ben.say({"message": "two"})
        ben.next("chat.message", message="two")
        again = self.join(self.a, "kept", since=since)
        self.assertIs(again.joined()["recovered"], False)
        streamed = self.stream(self.a, last_event_id=since)
        self.assertEqual(streamed.event().get("event"), "oneport.gap")
        # From then on it can be recovered again, on this process.
        again.hears("one")
        ben.say({"message": "three"})
        since = again.event()["offset"]
        ben.say({"message": "four"})
        again.hears("four")
        later = self.join(self.a, "kept", since=since)
        self.assertIs(later.joined()["recovered"], True)
        later.hears("four")


class Watch:
    """A member of a room with presence. Each `chat.join` and `chat.leave` must change the number that it knows by one."""

    def __init__(self, case, server, user):
        self.case, self.server, self.user = case, server, user
        self.member = case.join(server, "presence", user)
        self.id = self.members = None
        self.there = {}
        while self.id is None:
            self.take(self.member.event())

    def take(self, event):
        """Counts an event; returns it."""
        if event["type"] in ("chat.join", "chat.leave"):
            is_join = event["type"] == "chat.join"
            if self.members is not None:
                wanted = self.members + (1 if is_join else -1)
                if event["members"] != wanted:
                    raise AssertionError(f"{self.user}: expected {wanted} members, found {event}")
            self.members = event["members"]
            if is_join and event["user"] == self.user:
                self.id = event["member"]
            if is_join and event["member"] in self.there:
                raise AssertionError(f"{self.user}: joined already: {event}")
            if is_join:
                self.there[event["member"]] = event["user"]
            else:
                self.there.pop(event["member"], None)
        return event

    def pump(self):
        """Takes what has arrived."""
        while True:
            try:
                self.take(json.loads(self.member.receive(0.02)))
            except Late:
                return

    def who(self):
        self.member.say({"type": "who"})
        while True:
            event = self.take(self.member.event())
            if event["type"] == "chat.who":
                return sorted(event["users"])

    def leave(self):
        self.member.__exit__()


class Converge:
    """Whatever happens to a process or to Redis: what each member is told adds up to the members that are there."""

    more = API

    def watch(self, server, *users):
        return [Watch(self, server, user) for user in users]

    def settle(self, *watchers, deadline=2 * LEASE + 5.0):
        """Waits until each of them knows the number of all of them, and `who` names them."""
        users = sorted(watcher.user for watcher in watchers)

        def is_settled():
            for watcher in watchers:
                watcher.pump()
            return all(watcher.members == len(users) and watcher.who() == users for watcher in watchers)

        found = lambda: [(watcher.user, watcher.members, watcher.who()) for watcher in watchers]  # noqa: E731
        until(is_settled, lambda: f"{users}, found {found()}\n{self.a.log()[-3000:]}\n---\n{self.b.log()[-3000:]}", deadline)
        # And it stays so.
        for number, watcher in enumerate(watchers):
            watcher.member.say({"message": f"settled {number}"})
        for watcher in watchers:
            awaited = {f"settled {number}" for number in range(len(watchers))}
            while awaited:
                awaited.discard(watcher.take(watcher.member.event()).get("message"))
        self.assertEqual([watcher.members for watcher in watchers], [len(users)] * len(users))

    def test_a_process_that_stands_still_for_two_leases(self):
        here, there = self.watch(self.a, "anna", "carl", "eve"), self.watch(self.b, "ben", "dora")
        self.settle(*here, *there)

        def meanwhile():
            there.pop().leave()
            there.extend(self.watch(self.b, "fred"))
            self.b.wait_for_log("another process died")

        said = len(lines(self.a, "stood still"))
        self.frozen(self.a, 2 * LEASE, meanwhile)
        self.settle(*here, *there)
        self.assertEqual(len(lines(self.a, "stood still")), said + 1)
        here.pop().leave()
        self.settle(*here, *there)

    def test_a_redis_that_is_emptied(self):
        here, there = self.watch(self.a, "anna", "carl"), self.watch(self.b, "ben", "dora")
        self.settle(*here, *there)
        with self.redis.client() as client:
            client.flushdb()
        here.pop().leave()
        there.extend(self.watch(self.b, "fred"))
        here.extend(self.watch(self.a, "gus"))
        self.settle(*here, *there)

    def test_a_process_that_is_killed(self):
        here, there = self.watch(self.a, "anna"), self.watch(self.b, "ben", "dora")
        with self.gateway() as third:
            connected(third)
            gone = self.watch(third, "gus", "hugo", "ida")
            self.settle(*here, *there, *gone)
            third.signal(signal.SIGKILL)
            third.wait(-signal.SIGKILL)
            there.pop().leave()
        self.settle(*here, *there)
        for watcher in gone:
            watcher.leave()

    def test_a_process_that_is_killed_after_redis_was_emptied(self):
        here = self.watch(self.a, "anna")
        with self.gateway() as third:
            connected(third)
            gone = self.watch(third, "gus")
            self.settle(*here, *gone)
            with self.redis.client() as client:
                client.flushdb()
            gone.extend(self.watch(third, "hugo"))
            third.signal(signal.SIGKILL)
            third.wait(-signal.SIGKILL)
        self.settle(*here)
        for watcher in gone:
            watcher.leave()

    def test_an_outage_with_joins_and_leaves_on_both_sides(self):
        here, there = self.watch(self.a, "anna", "carl", "eve"), self.watch(self.b, "ben", "dora")
        self.settle(*here, *there)
        for way in ("kill", "freeze"):
            getattr(self.redis, way)()
            for server in self.servers():
                disconnected(server)
            here.pop().leave()
            there.pop().leave()
            here.extend(self.watch(self.a, f"gus {way}"))
            there.extend(self.watch(self.b, f"hugo {way}"))
            for watchers in (here, there):
                for watcher in watchers:
                    watcher.pump()
            {"kill": self.redis.start, "freeze": self.redis.thaw}[way]()
            for server in self.servers():
                connected(server)
            self.settle(*here, *there)

    def test_connections_that_are_cut_while_members_come_and_go(self):
        here, there = self.watch(self.a, "anna"), self.watch(self.b, "ben")
        stop = threading.Event()

        def walk(server):
            while not stop.is_set():
                with Member(server, f"/ws/presence/{self.room}/", "walker"):
                    pass

        walkers = [threading.Thread(target=walk, args=[server]) for server in self.servers() for _ in range(2)]
        for walker in walkers:
            walker.start()
        try:
            with self.redis.client() as client:
                for kind in ("pubsub", "normal", "pubsub", "normal"):
                    time.sleep(0.3)
                    client.client_kill_filter(_type=kind, skipme=True)
                    for watcher in (*here, *there):
                        watcher.pump()
        finally:
            stop.set()
            for walker in walkers:
                walker.join(DEADLINE)
        self.settle(*here, *there)

    def test_a_member_is_named_by_its_connection(self):
        (anna,) = self.watch(self.a, "anna")
        (ben,) = self.watch(self.b, "ben")
        self.settle(anna, ben)
        found = api(self.a, "GET", f"connections?group=presence_{self.room}")["connections"]
        self.assertEqual({anna.id, ben.id}, {connection["id"] for connection in found})
        self.assertEqual(set(anna.there), {anna.id, ben.id})


class OneportConverge(Converge, LeaseCase):
    layer_format = "oneport"


class PubsubConverge(Converge, LeaseCase):
    layer_format = "channels_redis.pubsub"


class CoreConverge(Converge, LeaseCase):
    layer_format = "channels_redis.core"


if __name__ == "__main__":
    unittest.main()
