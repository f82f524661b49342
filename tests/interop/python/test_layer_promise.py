"""What the channel layer promises for outages, pauses and data that Redis lost, tried from outside.

The table "Several processes" of docs/BEHAVIOUR.md has the same promises. Positions are opaque here, as for a client.
"""

import time
import unittest
from contextlib import contextmanager

from kit.away_case import AwayCase
from kit.deadline import until
from kit.layer_case import API, LEASE, MOMENT, LayerCase, dropped
from kit.layer_django import Django
from kit.layer_listener import LISTENERS, Listener

MORE = API + LISTENERS


class PromiseCase(AwayCase):
    more = MORE
    maxDiff = None

    def listen(self, server, kind="listen", since=None):
        query = "" if since is None else f"?since={since}"
        return self.enterContext(Listener(server, f"/ws/{kind}/{self.room}/{query}", recovers=kind != "live"))


class EmptiedInDjangosFormat(PromiseCase):
    """Redis loses its data while every connection with it lives, in the format in which each process has its own history."""

    layer = {"format": "channels_redis.core", "capacity": 5000}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.django = cls.enterClassContext(Django("channels_redis.core", cls.redis.url(), capacity=5000))

    def lose(self):
        with self.redis.client() as client:
            client.flushdb()

    def send(self, message):
        self.django.group_send(f"long_{self.room}", {"type": "chat.message", "message": message})

    def check_told(self, since, unseen, server=None):
        """Who returns is told of the hole, or there is none."""
        again = self.listen(server or self.a, since=since)
        again.collect(0.2)
        self.assertTrue(
            again.recovered is False or again.heard[: len(unseen)] == unseen,
            f"expected recovered: false or {unseen}, found {again.first} and {again.heard}",
        )

    def test_flushdb_between_two_events_of_django_is_noticed_when_a_client_returns(self):
        stays, goes = self.listen(self.a), self.listen(self.a)
        self.send("one")
        stays.collect_until(["one"])
        since = goes.collect_until(["one"]).drop()
        self.lose()
        self.send("two")
        self.check_told(since, ["two"])

    def test_after_flushdb_the_group_is_joined_again_and_the_hole_is_known(self):
        stays, goes = self.listen(self.a), self.listen(self.a)
        self.send("one")
        stays.collect_until(["one"])
        since = goes.collect_until(["one"]).drop()
        self.lose()
        self.send("two")
        # Whatever the process does to be a member again, events arrive again.
        numbers = iter(range(1000))

        def arrives():
            self.send(f"again {next(numbers)}")
            return stays.collect(0.05).heard[-1].startswith("again")

        until(arrives, lambda: f"events after FLUSHDB, found {stays.heard}", 3 * LEASE + MOMENT)
        self.check_told(since, ["two"])

    def test_flushdb_between_two_events_of_another_oneport_is_noticed(self):
        speaker = self.listen(self.b, "long")
        goes = self.listen(self.a)
        stays = self.listen(self.a)
        speaker.say({"message": "one"})
        stays.collect_until(["one"])
        since = goes.collect_until(["one"]).drop()
        self.lose()
        speaker.say({"message": "two"})
        speaker.next("chat.message", message="two")
        self.check_told(since, ["two"])


class Pause(LayerCase):
    """A process that stands still for less than its lease keeps its memberships, its presence and its inbox."""

    more = MORE
    lease = 2.0
    layer = {"lease": "2s"}

    @contextmanager
    def paused(self, server):
        """The process stands still: for most of its lease, and whatever is done inside meanwhile."""
        server.freeze()
        begun = time.monotonic()
        try:
            yield
            time.sleep(max(0.0, 0.85 * self.lease - (time.monotonic() - begun)))
        finally:
            server.thaw()
        self.assertLess(time.monotonic() - begun, self.lease, "expected a pause within the lease: the machine is too slow")

    def test_nobody_is_told_that_its_members_left(self):
        anna = self.enterContext(Listener(self.a, f"/ws/presence/{self.room}/", recovers=False))
        ben = self.enterContext(Listener(self.b, f"/ws/presence/{self.room}/", recovers=False))
        for member in (anna, ben):
            member.next("chat.join", members=2)
        with self.paused(self.b):
            pass
        ben.say({"message": "awake"})
        for member in (anna, ben):
            self.assertEqual(member.event().get("message"), "awake", "expected nothing before it")
            member.say({"type": "who"})
            self.assertEqual(member.next("chat.who")["members"], 2)
        # Nor later, when others look for processes that died.
        time.sleep(self.lease / 2)
        for member in (anna, ben):
            self.assertEqual(member.collect().seen, [])


class PauseInPubsub(Pause):
    layer = {"format": "channels_redis.pubsub", "lease": "2s"}


class PauseInCore(Pause):
    lease = 3.0
    layer = {"format": "channels_redis.core", "capacity": 5000, "lease": "3s"}

    def test_its_inbox_is_kept(self):
        number = 1500
        with Django("channels_redis.core", self.redis.url(), capacity=5000) as django:
            ben = self.enterContext(Listener(self.b, f"/ws/long/{self.room}/"))
            events = [{"type": "chat.message", "message": str(each)} for each in range(number)]
            django.group_send(f"long_{self.room}", {"type": "chat.message", "message": "first"})
            ben.collect_until(["first"])
            with self.paused(self.b):
                django.flood(f"long_{self.room}", events, 20)
            ben.collect_until([str(each) for each in range(number)])
            self.assertEqual(len(ben.heard), number + 1)


class CountersInPubsub(AwayCase):
    """What others miss cannot be known in Django's formats: the sender counts it."""

    more = MORE
    layer = {"format": "channels_redis.pubsub"}

    def setUp(self):
        super().setUp()
        self.anna, self.ben = (
            self.enterContext(Listener(server, f"/ws/chat/{self.room}/", recovers=False)) for server in self.servers()
        )
        self.anna.say({"message": "first"})
        self.ben.collect_until(["first"])

    def say(self, number):
        said = [f"a {each}" for each in range(number)]
        for message in said:
            self.anna.say({"message": message})
        self.anna.collect_until(said)
        return said

    def test_what_is_sent_while_redis_is_away_is_counted_once_by_its_sender(self):
        with self.away("stopped"):
            before = [dropped(server, "redis_away") for server in self.servers()]
            self.say(20)
        found = [dropped(server, "redis_away") - then for server, then in zip(self.servers(), before, strict=True)]
        self.assertEqual(found, [20, 0])


class CountersInCore(CountersInPubsub):
    layer = {"format": "channels_redis.core", "capacity": 100, "lease": "10s"}

    def test_what_does_not_fit_into_an_inbox_is_counted_once_by_its_sender(self):
        before = dropped(self.a, "channel_full")
        self.b.freeze()
        try:
            said = self.say(400)
        finally:
            self.b.thaw()
        # A retry would come before this.
        time.sleep(MOMENT)
        self.anna.say({"message": "end"})
        missed = len(set(said) - set(self.ben.collect_until(["end"]).heard))
        self.assertGreater(missed, 0)
        self.assertEqual(dropped(self.a, "channel_full") - before, missed)


if __name__ == "__main__":
    unittest.main()
