"""Presence and leases: a process that stands still, dies or loses Redis, in all three formats.

A process that stands still for less than its lease loses nothing. Members that left and came back, whatever the reason, are
told to all others: at any time the joins minus the leaves that a client has heard are the members that there are.
"""

import time
import unittest

from kit.deadline import until
from kit.layer_case import LOST, MOMENT, LayerCase, lines, reconnects

LEASE = 2.0

FORMATS = "oneport", "channels_redis.pubsub", "channels_redis.core"


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


if __name__ == "__main__":
    unittest.main()
