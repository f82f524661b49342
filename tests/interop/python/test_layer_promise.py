"""What the channel layer promises for outages, pauses and data that Redis lost, tried from outside.

The table "Several processes" of docs/BEHAVIOUR.md has the same promises. Positions are opaque here, as for a client.
"""

import json
import time
import unittest
from contextlib import contextmanager

from kit.away_case import AwayCase, each_way
from kit.deadline import DEADLINE, until
from kit.layer_case import API, LEASE, MOMENT, LayerCase, Stream, connected, disconnected, dropped, lines
from kit.layer_django import Django
from kit.layer_listener import LISTENERS, Caller, Listener, Speaker, difference, speaks

MORE = API + LISTENERS

# How long speakers speak in each part of a test, in seconds.
PART = 0.5
# Within this time after an outage every member has all it gets, in seconds.
SETTLED = 8.0


class PromiseCase(AwayCase):
    more = MORE
    maxDiff = None

    def listen(self, server, kind="listen", since=None):
        query = "" if since is None else f"?since={since}"
        return self.enterContext(Listener(server, f"/ws/{kind}/{self.room}/{query}", recovers=kind != "live"))

    def speak(self, **members):
        """Returns speakers that speak from now on."""
        return [self._stopped(Speaker(name, speaks(member))) for name, member in members.items()]

    def call(self, name, server, pause):
        """Returns a speaker that uses the server API."""
        caller = Caller(server, f"long_{self.room}")
        self.addCleanup(caller.close)
        return self._stopped(Speaker(name, caller, pause))

    def _stopped(self, speaker):
        self.addCleanup(speaker.stop)
        return speaker

    def check_heard(self, listeners, said):
        """Each of these was shown each message once, and each speaker's in order."""
        everything = [message for messages in said for message in messages]
        end = time.monotonic() + SETTLED
        for listener in listeners.values():
            listener.collect_for(everything, end - time.monotonic())
        wrong = {}
        for name, listener in listeners.items():
            # What comes twice comes within this time.
            found = difference(listener.collect(0.1).heard, said)
            if found:
                wrong[name] = found
        self.assertEqual(wrong, {})

    def check_positions(self, listener, seen=None):
        """No two events that it was shown have the same position."""
        shown = {}
        for event in listener.seen if seen is None else seen:
            other = shown.setdefault(event["offset"], event)
            self.assertIs(other, event, f"expected a position for each event, found one for {other} and {event}")


class GroupThatBegins(PromiseCase):
    """A group begins while Redis is away: nobody misses an event, and nobody is shown one twice."""

    def check(self):
        """Redis is away."""
        sockets = {"a1": self.listen(self.a, "long"), "a2": self.listen(self.a, "long"), "b1": self.listen(self.b, "long")}
        listeners = {"feed of a": self.listen(self.a), "feed of b": self.listen(self.b), "live at a": self.listen(self.a, "live")}
        speakers = [*self.speak(**sockets), self.call("api", self.a, 0.03)]
        time.sleep(PART)
        listeners["feed of b during the outage"] = self.listen(self.b)
        self.redis.start()
        for server in self.servers():
            connected(server)
        listeners["feed of b right after it"] = self.listen(self.b)
        time.sleep(PART)
        said = [speaker.stop() for speaker in speakers]
        self.assertGreater(min(len(messages) for messages in said), 10)
        # A member that did not ask for the history was there from the beginning on.
        self.check_heard({**sockets, **listeners}, said)
        late = {"late at a": self.listen(self.a), "late at b": self.listen(self.b)}
        self.check_heard(late, said)
        self.assertEqual(late["late at a"].heard, late["late at b"].heard)
        for name, listener in {**sockets, **listeners, **late}.items():
            if not name.startswith("live"):
                with self.subTest(listener=name):
                    self.check_positions(listener)

    def test_after_redis_was_stopped_every_member_hears_every_event_once(self):
        for number in range(2):
            with self.subTest(number=number):
                self.anew()
                self.redis.stop()
                for server in self.servers():
                    disconnected(server)
                self.check()

    def test_if_the_server_starts_first_every_member_hears_every_event_once(self):
        self.redis.stop()
        self.addCleanup(self.back)
        with self.gateway() as a, self.gateway() as b:
            both = self.a, self.b
            self.a, self.b = a, b
            try:
                for server in (a, b):
                    disconnected(server)
                self.check()
            finally:
                self.a, self.b = both


class Recovery(PromiseCase):
    """During and after an outage a position is that of one event, and who returns gets exactly what it has not seen."""

    kept = True

    @contextmanager
    def outage(self, **members):
        """Speakers speak before an outage, during it (inside) and after it; `said` is whole after it."""
        self.said = []
        speakers = self.speak(**members)
        time.sleep(PART / 2)
        with self.away("stopped"):
            yield
        time.sleep(PART)
        self.said += [speaker.stop() for speaker in speakers]

    def check_returned(self, parts, since):
        """A client was shown this by its connections, one after the other, and was told that nothing is missing."""
        for part in parts[1:]:
            self.assertIs(part.recovered, True, f"since {since}")
        last = parts[-1]
        before = [message for part in parts[:-1] for message in part.heard]
        everything = {message for messages in self.said for message in messages}
        last.collect_for(everything - set(before), SETTLED)
        last.collect(0.1)
        self.assertIsNone(difference([*before, *last.heard], self.said))
        self.check_positions(last, [event for part in parts for event in part.seen])

    def test_no_two_events_of_a_client_have_the_same_position(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        feeds = self.listen(self.a), self.listen(self.b)
        with self.outage(a=anna, b=ben):
            time.sleep(PART)
        self.check_heard(dict(zip("abcd", (anna, ben, *feeds), strict=True)), self.said)
        for listener in (anna, ben, *feeds):
            self.check_positions(listener)

    def test_members_of_the_process_itself_are_shown_an_event_at_once_and_the_others_after_the_outage(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        here, there = self.listen(self.a), self.listen(self.b)
        with self.away("stopped"):
            for number in range(10):
                anna.say({"message": f"a {number}"})
                ben.say({"message": f"b {number}"})
            here.collect_until([f"a {number}" for number in range(10)], MOMENT)
            there.collect_until([f"b {number}" for number in range(10)], MOMENT)
            self.assertEqual([len(here.heard), len(there.heard)], [10, 10])
        said = [[f"{name} {number}" for number in range(10)] for name in "ab"]
        self.check_heard({"here": here, "there": there}, said)

    def test_who_drops_during_an_outage_and_returns_after_it_gets_exactly_what_it_has_not_seen(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        gone = {(server, way): self.listen(server) for server in self.servers() for way in ("same process", "other process")}
        with self.outage(a=anna, b=ben):
            time.sleep(PART / 2)
            since = {who: listener.drop() for who, listener in gone.items()}
            time.sleep(PART / 2)
        for (server, way), listener in gone.items():
            other = self.b if server is self.a else self.a
            with self.subTest(process="ab"[server is self.b], returns_to=way):
                again = self.listen(server if way == "same process" else other, since=since[server, way])
                self.check_returned([listener, again], since[server, way])

    def test_who_drops_and_returns_during_an_outage_gets_exactly_what_it_has_not_seen(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        gone = {(server, way): self.listen(server) for server in self.servers() for way in ("same process", "other process")}
        with self.outage(a=anna, b=ben):
            time.sleep(PART / 2)
            again = {}
            for (server, way), listener in gone.items():
                since = listener.drop()
                time.sleep(0.05)
                other = self.b if server is self.a else self.a
                again[server, way] = since, self.listen(server if way == "same process" else other, since=since)
            time.sleep(PART / 2)
        for (server, way), listener in gone.items():
            with self.subTest(process="ab"[server is self.b], returns_to=way):
                since, last = again[server, way]
                self.check_returned([listener, last], since)

    def test_who_returns_again_and_again_before_during_and_after_an_outage_hears_everything_once(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        parts = {name: [self.listen(server)] for name, server in (("stays", self.a), ("moves", self.b))}

        def return_all(turn):
            for name, listened in parts.items():
                server = self.servers()[turn % 2 if name == "moves" else 0]
                listened.append(self.listen(server, since=listened[-1].drop()))

        speakers = self.speak(a=anna, b=ben)
        self.leave("stopped")
        for turn in range(5):
            return_all(turn)
            time.sleep(0.07)
        self.come_back("stopped")
        for turn in range(5):
            return_all(turn)
            time.sleep(0.05)
        self.back()
        time.sleep(PART / 2)
        self.said = [speaker.stop() for speaker in speakers]
        for name, listened in parts.items():
            # A process that is not connected yet does not know of offsets that the other already has, and says so.
            told = [at for at, part in enumerate(listened) if name == "moves" and part.recovered is False]
            with self.subTest(client=name):
                self.check_returned(listened[told[-1] if told else 0 :], "its last")

    def test_who_drops_during_an_outage_in_which_redis_loses_everything_gets_all_or_is_told(self):
        self.redis.kept = False
        self.addCleanup(setattr, self.redis, "kept", True)
        with self.away("killed"):
            pass
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        gone = {server: self.listen(server) for server in self.servers()}
        with self.outage(a=anna, b=ben):
            time.sleep(PART / 2)
            since = {server: listener.drop() for server, listener in gone.items()}
            time.sleep(PART / 2)
        for server, listener in gone.items():
            for target in self.servers():
                with self.subTest(process="ab"[server is self.b], returns_to="ab"[target is self.b]):
                    again = self.listen(target, since=since[server])
                    if again.recovered:
                        self.check_returned([listener, again], since[server])
                    else:
                        self.check_heard({"again": again}, self.said)

    def test_both_processes_show_a_confirmed_event_at_one_position_and_in_one_order(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        with self.outage(a=anna, b=ben):
            time.sleep(PART / 2)
        late = self.listen(self.a), self.listen(self.b)
        self.check_heard({"a": late[0], "b": late[1]}, self.said)
        shown = [[(event["message"], event["offset"]) for event in listener.seen] for listener in late]
        self.assertEqual(shown[0], shown[1])
        self.check_heard({"anna": anna, "ben": ben}, self.said)
        self.assertEqual(anna.position, ben.position, "everything is confirmed")
        self.assertEqual(anna.position, late[0].position)

    def test_an_event_stream_that_drops_during_an_outage_goes_on_where_it_was(self):
        anna = self.listen(self.a, "long")
        streams = {"same process": self.a, "other process": self.b}
        with self.away("stopped"):
            opened = {name: Stream(self.a, f"/many/{self.room}/") for name in streams}
            for number in range(20):
                anna.say({"message": str(number)})
            heard = {}
            for name, stream in opened.items():
                with stream:
                    heard[name] = [stream.event() for _ in range(10)]
        anna.say({"message": "end"})
        for name, server in streams.items():
            with self.subTest(returns_to=name):
                again = self.stream(server, "many", last_event_id=heard[name][-1]["id"])
                rest = [again.event() for _ in range(11)]
                self.assertEqual([event.get("event") for event in rest if event.get("event") == "oneport.gap"], [])
                shown = [json.loads(event["data"])["message"] for event in (*heard[name], *rest)]
                self.assertEqual(shown, [*(str(number) for number in range(20)), "end"])
                ids = [event["id"] for event in (*heard[name], *rest)]
                self.assertEqual(len(set(ids)), len(ids), ids)


class Emptied(PromiseCase):
    """Redis loses its data while every connection with it lives."""

    def say(self, member, *messages):
        for message in messages:
            member.say({"message": message})
            member.next("chat.message", message=message)

    def test_flushdb_between_two_events_starts_another_epoch(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        self.say(anna, "one", "two", "three")
        since = ben.collect_until(["three"]).drop()
        with self.redis.client() as client:
            client.flushdb()
        self.say(anna, "four", "five")
        # This process has seen both epochs.
        again = self.listen(self.a, since=since)
        again.collect_until(["four", "five"]).collect(0.1)
        self.assertEqual((again.recovered, again.heard), (True, ["four", "five"]))
        self.assertNotEqual(again.position.split(".")[0], since.split(".")[0], "expected another epoch")
        # These have not: one had no members any more, one has never seen the group.
        with self.gateway() as third:
            connected(third)
            for server in (self.b, third):
                there = self.listen(server, since=since)
                there.collect_until(["four", "five"]).collect(0.1)
                self.assertEqual((there.recovered, there.heard), (False, ["four", "five"]))


class EmptiedInDjangosFormat(PromiseCase):
    """The same in `channels_redis.core`, in which each process has its own history."""

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


class PauseBeyondTheLease(LayerCase):
    """A process that stood still for two leases returns: presence converges on every process."""

    more = MORE

    def presence(self, server, user):
        return self.enterContext(Listener(server, f"/ws/presence/{self.room}/", user, recovers=False))

    def members(self, listener, start=0):
        """Returns how many members a listener has been told of: those when it joined, and joins minus leaves since."""
        changes = [event for event in listener.collect().seen if event["type"] in ("chat.join", "chat.leave")]
        count = start
        for at, event in enumerate(changes):
            count = event["members"] if at == 0 and not start else count + (1 if event["type"] == "chat.join" else -1)
            self.assertEqual(event["members"], count, f"of {self.brief(changes)}")
        return count

    @staticmethod
    def brief(changes):
        return [f"{event['type'].removeprefix('chat.')} {event['user']} {event['members']}" for event in changes]

    def who(self, listener):
        listener.say({"type": "who"})
        while not (answers := [event for event in listener.collect(0.05).seen if event["type"] == "chat.who"]):
            pass
        for answer in answers:
            listener.seen.remove(answer)
        return sorted(answers[-1]["users"])

    def check_converges(self, listeners, users, deadline):
        def converged():
            return all(self.who(listener) == users and self.members(listener) == len(users) for listener in listeners)

        def found():
            return [(self.who(listener), self.members(listener), self.brief(listener.seen)) for listener in listeners]

        until(converged, lambda: f"{users} everywhere, found {found()}", deadline)

    def test_joins_minus_leaves_are_the_members_that_are_there(self):
        here = [self.presence(self.a, "anna"), self.presence(self.a, "ana")]
        with self.gateway() as third:
            connected(third)
            there = [self.presence(third, f"guest-{number}") for number in range(5)]
            users = sorted(["anna", "ana", *(f"guest-{number}" for number in range(5))])
            self.check_converges([*here, *there], users, DEADLINE)
            third.freeze()
            try:
                # Two of its members drop meanwhile; another process's member leaves, and one comes.
                until(lambda: self.who(here[0]) == ["ana", "anna"], "the members of the paused process to be removed", 3 * LEASE)
                there[0].socket.socket.close()
                there[1].socket.socket.close()
                come = self.presence(self.b, "ben")
                here[1].__exit__()
                time.sleep(LEASE / 2)
            finally:
                third.thaw()
            users = ["anna", "ben", "guest-2", "guest-3", "guest-4"]
            self.check_converges([here[0], come, *there[2:]], users, 3 * LEASE + MOMENT)
            # Nothing comes later.
            time.sleep(LEASE)
            self.check_converges([here[0], come, *there[2:]], users, MOMENT)
            self.assertEqual(len(lines(third, r"stood still")), 1, third.log())

    def test_a_killed_process_is_removed_between_one_lease_and_one_and_a_half_after_its_last_sign(self):
        anna = self.presence(self.a, "anna")
        with self.gateway() as third:
            connected(third)
            self.presence(third, "guest")
            anna.next("chat.join", user="guest")
            third.signal(9)
            begun = time.monotonic()
            third.wait(-9)
        anna.next("chat.leave", user="guest")
        took = time.monotonic() - begun
        # Its last sign was up to a third of a lease before its end.
        self.assertGreater(took, LEASE * 2 / 3 - 0.1)
        self.assertLess(took, LEASE * 1.5 + 0.5)


class PauseBeyondTheLeaseInPubsub(PauseBeyondTheLease):
    layer = {"format": "channels_redis.pubsub"}


class PauseBeyondTheLeaseInCore(PauseBeyondTheLease):
    layer = {"format": "channels_redis.core", "capacity": 5000}


class Counters(PromiseCase):
    """Each event that does not reach a member it was meant for is counted once, where that can be known."""

    def lost(self, reason="redis_away"):
        return sum(dropped(server, reason) for server in self.servers())

    def check(self, disturb):
        """Speaks on both processes while something is done; compares what members missed with what was counted."""
        # Two listeners on each process: a missed event counts once for its process.
        listeners = [self.enterContext(Listener(self.servers()[at % 2], f"/ws/chat/{self.room}/", recovers=False)) for at in range(4)]
        before = self.lost()
        speakers = self.speak(a=listeners[0], b=listeners[1])
        time.sleep(PART / 2)
        disturb()
        time.sleep(PART)
        said = [speaker.stop() for speaker in speakers]
        for member, end in zip(listeners, ("a end", "b end"), strict=False):
            member.say({"message": end})
        missed = 0
        for at, listener in enumerate(listeners):
            found = listener.collect_until(["a end", "b end"]).heard
            own, other = said[at % 2], set(said[1 - at % 2])
            self.assertEqual(len(found), len(set(found)), "expected nothing twice")
            self.assertEqual([message for message in found if message in set(own)], own)
            missed += len(other - set(found)) if at < 2 else 0
        self.assertGreater(missed, 0)
        until(lambda: self.lost() - before == missed, lambda: f"{missed} counted, found {self.lost() - before}", MOMENT)

    @each_way()
    def test_events_that_another_process_missed_in_an_outage_are_all_counted(self, way):
        def disturb():
            with self.away(way):
                time.sleep(PART / 2)

        self.check(disturb)

    def test_events_that_another_process_missed_because_its_subscription_broke_are_all_counted(self):
        def disturb():
            for _ in range(5):
                with self.redis.client() as client:
                    client.client_kill_filter(_type="pubsub", skipme=True)
                time.sleep(PART / 2)
            self.back()

        self.check(disturb)


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
