"""Redis away: members of the same process are still served, no socket is closed, and it recovers by itself.

Redis is killed, stopped or stands still with its connections open, or it was never there. And the other way round: a process
dies, and the others notice.
"""

import json
import signal
import threading
import time
import unittest

from kit.away_case import NOTICED, WAYS, AwayCase, each_way
from kit.deadline import DEADLINE, until
from kit.layer_case import (
    BACK,
    LEASE,
    LOST,
    MOMENT,
    TIMEOUT,
    LayerCase,
    Member,
    api,
    connected,
    disconnected,
    dropped,
    field,
    is_connected,
    layer_server,
    lines,
    reconnected,
)
from kit.redis_server import Redis


class Away(AwayCase):
    @each_way()
    def test_members_of_the_process_itself_are_served_at_once(self, way):
        kinds = "chat", "presence", "kept", "past"
        rooms = {kind: [self.join(self.a, kind), self.join(self.a, kind), self.join(self.b, kind)] for kind in kinds}
        frames = [self.join(self.a, "all"), self.join(self.a, "all")]
        with self.away(way):
            for kind, (anna, carl, ben) in rooms.items():
                for number in range(5):
                    anna.say({"message": f"{kind} {number}"})
                    self.quick(carl, f"{kind} {number}")
                    self.quick(anna, f"{kind} {number}")
                    ben.say({"message": f"there {kind} {number}"})
                    self.quick(ben, f"there {kind} {number}")
            frames[0].send(b"\x00\xff")
            self.assertEqual([frame.receive(MOMENT) for frame in frames], [b"\x00\xff"] * 2)
            for server in self.servers():
                self.assertEqual(server.request("/health/")[0], 200)

    @each_way()
    def test_before_anybody_has_noticed_too(self, way):
        rooms = {kind: [self.join(self.a, kind), self.join(self.a, kind)] for kind in ("chat", "past")}
        with self.away(way, noticed=False):
            for kind, (anna, carl) in rooms.items():
                anna.say({"message": kind})
                # An event with a place in a history waits for Redis, but no longer than for an answer.
                self.quick(carl, kind, MOMENT if kind == "chat" else TIMEOUT + MOMENT)

    @each_way()
    def test_no_socket_is_closed_and_both_processes_hear_each_other_again(self, way):
        kinds = "chat", "presence", "kept", "past"
        rooms = [(self.join(self.a, kind), self.join(self.b, kind)) for kind in kinds]
        stream = self.stream(self.b)
        with self.away(way):
            time.sleep(0.2)
        for anna, ben in rooms:
            anna.say({"message": "to b"})
            ben.next("chat.message", message="to b")
            ben.say({"message": "to a"})
            anna.next("chat.message", message="to a")
        self.assertEqual([stream.message(), stream.message()], ["to b", "to a"])
        for server in self.servers():
            self.assertEqual(server.metric("oneport_websockets_closed_total", cause="consumer_error"), 0)

    @each_way()
    def test_who_comes_meanwhile_is_served_and_belongs_to_both_processes_after(self, way):
        ben = {kind: self.join(self.b, kind) for kind in ("chat", "past")}
        with self.away(way):
            come = {}
            for kind in ben:
                begun = time.monotonic()
                come[kind] = self.join(self.a, kind, "carl")
                come[kind].say({"message": "hello"})
                self.quick(come[kind], "hello")
                self.assertLess(time.monotonic() - begun, 2 * MOMENT)
            stream = self.stream(self.a, "shown")
            frames = self.join(self.a, "all")
            frames.send("shown")
            self.assertEqual((frames.receive(MOMENT), stream.event()["data"]), ("shown", "shown"))
        for kind, member in ben.items():
            member.say({"message": "after"})
            come[kind].next("chat.message", message="after")
            come[kind].say({"message": "answer"})
            member.next("chat.message", message="answer")

    @each_way()
    def test_who_is_there_is_answered_meanwhile_and_right_after(self, way):
        anna, ben = self.join(self.a, "presence", "anna"), self.join(self.b, "presence", "ben")
        anna.next("chat.join", user="ben")
        with self.away(way):
            anna.say({"type": "who"})
            self.assertIn("anna", anna.next("chat.who")["users"])
            gone = self.join(self.b, "presence", "gone")
            carl = self.join(self.a, "presence", "carl")
            gone.__exit__()
        for member in (anna, ben, carl):
            with self.subTest(member=member):
                until(
                    lambda member=member: self.who(member) == ["anna", "ben", "carl"],
                    lambda member=member: f"anna, ben and carl, found {self.who(member)}",
                    LEASE + MOMENT,
                )

    def who(self, member):
        member.say({"type": "who"})
        return sorted(member.next("chat.who")["users"])

    @each_way()
    def test_the_log_and_the_metrics_say_how_long_and_how_many(self, way):
        members = [self.join(self.a, kind, room=f"{self.room}-{number}") for kind in ("chat", "past") for number in range(3)]
        names = ("oneport_layer_reconnects_total", "oneport_layer_outage_seconds_total")
        before = {server: [server.metric(name) for name in names] for server in self.servers()}
        said = {server: (len(lines(server, LOST)), len(lines(server, BACK))) for server in self.servers()}
        self.leave(way)
        for server in self.servers():
            disconnected(server)
        begun = time.monotonic()
        time.sleep(1.2)
        for server in self.servers():
            self.assertEqual(len(lines(server, LOST)), said[server][0] + 1, server.log())
            self.assertEqual(len(lines(server, BACK)), said[server][1], server.log())
        at_least = time.monotonic() - begun
        self.come_back(way)
        self.back()
        at_most = time.monotonic() - begun + NOTICED
        for server, resubscribed in ((self.a, len(members)), (self.b, 0)):
            until(lambda server=server: len(lines(server, BACK)) > said[server][1], "a line of the log that says it is back")
            self.assertEqual((len(lines(server, LOST)), len(lines(server, BACK))), (said[server][0] + 1, said[server][1] + 1), server.log())
            line = lines(server, BACK)[-1]
            self.assertGreaterEqual(field(line, "seconds"), at_least, line)
            self.assertLessEqual(field(line, "seconds"), at_most, line)
            self.assertEqual((field(line, "lost"), field(line, "resubscribed")), (0, resubscribed), line)
            reconnects, seconds = (server.metric(name) - then for name, then in zip(names, before[server], strict=True))
            self.assertEqual(reconnects, 1)
            self.assertGreaterEqual(seconds, int(at_least))
            self.assertLessEqual(seconds, at_most + 1)
            self.assertNotIn("s3cret", server.log())

    @each_way()
    def test_without_history_what_was_lost_is_counted_where_it_was_missed(self, way):
        anna, carl, ben = self.join(self.a, "chat"), self.join(self.a, "chat"), self.join(self.b, "chat")
        for speaker, others in ((anna, (carl, ben)), (ben, (anna, carl))):
            speaker.say({"message": "before"})
            for member in (speaker, *others):
                self.quick(member, "before")
        before = [dropped(server, "redis_away") for server in self.servers()]
        unpublished = [server.metric("oneport_layer_unpublished_total") for server in self.servers()]
        with self.away(way):
            for number in range(20):
                anna.say({"message": f"away {number}"})
            self.assertEqual(carl.messages(20, MOMENT), [f"away {number}" for number in range(20)])
            for number in range(7):
                ben.say({"message": f"also away {number}"})
            self.assertEqual(ben.messages(7, MOMENT), [f"also away {number}" for number in range(7)])
            after = [server.metric("oneport_layer_unpublished_total") for server in self.servers()]
            self.assertEqual([now - then for now, then in zip(after, unpublished, strict=True)], [20, 7])
        # The event after those that were lost tells, and without one the sender does once its link has settled.
        anna.say({"message": "back"})
        self.assertEqual(ben.event()["message"], "back")
        self.assertEqual(dropped(self.b, "redis_away") - before[1], 20)
        until(lambda: dropped(self.a, "redis_away") - before[0] == 7, lambda: f"7 events missed, found {dropped(self.a, 'redis_away')}")
        time.sleep(MOMENT)
        self.assertEqual([dropped(server, "redis_away") - then for server, then in zip(self.servers(), before, strict=True)], [7, 20])
        self.assertEqual([field(lines(server, BACK)[-1], "lost") for server in self.servers()], [20, 7])

    @each_way()
    def test_with_history_what_was_said_meanwhile_comes_after_once_and_in_order(self, way):
        anna, carl, ben = self.join(self.a, "long"), self.join(self.a, "long"), self.join(self.b, "long")
        lost = [dropped(server, "redis_away") for server in self.servers()]
        anna.say({"message": "before"})
        for member in (anna, carl, ben):
            member.joined()
            self.quick(member, "before")
        numbers = [str(number) for number in range(100)]
        with self.away(way):
            for number in numbers:
                anna.say({"message": number})
                ben.say({"message": f"b{number}"})
            for member, wanted in ((carl, numbers), (ben, [f"b{number}" for number in numbers])):
                self.assertEqual(member.messages(100, 2 * MOMENT), wanted)
            late = self.join(self.b, "long")
        anna.say({"message": "end"})
        ben.say({"message": "end of b"})
        ends = {"end", "end of b"}
        here, there = self.until_both(carl, ends), self.until_both(ben, ends)
        self.assertEqual([message for message in here if message not in ends], [f"b{number}" for number in numbers])
        self.assertEqual([message for message in there if message not in ends], numbers)
        self.assertEqual([dropped(server, "redis_away") for server in self.servers()], lost)
        self.until_both(late, ends)
        # And who comes after sees all of it.
        new = self.join(self.a, "long")
        found = self.until_both(new, ends)
        for wanted in (numbers, [f"b{number}" for number in numbers]):
            self.assertEqual([message for message in found if message in set(wanted)], wanted)

    def until_both(self, member, ends):
        found = []
        while not ends <= set(found):
            found += member.messages(1)
        return found

    @each_way()
    def test_who_comes_back_after_it_can_go_on_where_it_was_or_is_told_that_it_cannot(self, way):
        """An earlier offset is only valid if Redis kept the history. No client may miss an event without learning of it."""
        anna = self.join(self.a, "long")
        anna.joined()
        with Member(self.b, f"/ws/long/{self.room}/") as ben:
            ben.joined()
            anna.say({"message": "one"})
            since = ben.event()["offset"]
        with self.away(way):
            anna.say({"message": "two"})
            anna.next("chat.message", message="two")
        anna.say({"message": "three"})
        anna.next("chat.message", message="three")
        again = self.join(self.b, "long", since=since)
        recovered = again.joined()["recovered"]
        self.assertIs(recovered, way == "frozen")
        # From another epoch everything is sent: recent events are sent again to a Redis that lost them.
        wanted = ["two", "three"] if recovered else ["one", "two", "three"]
        self.assertEqual(again.messages(len(wanted)), wanted)

    def test_a_redis_that_comes_back_with_an_older_state_is_told_what_it_forgot(self):
        anna, ben = self.join(self.a, "long"), self.join(self.b, "long")

        def say(word):
            said = [f"{word}{number}" for number in range(20)]
            for message in said:
                anna.say({"message": message})
            self.assertEqual((anna.messages(20), ben.messages(20)), (said, said))
            return said

        first = say("first")
        with self.redis.client() as client:
            client.save()
        second = say("second")
        with Member(self.b, f"/ws/long/{self.room}/") as carl:
            carl.joined()
            anna.say({"message": "carl's last"})
            since = carl.next("chat.message", message="carl's last")["offset"]
        for member in (anna, ben):
            self.assertEqual(member.messages(1), ["carl's last"])
        with self.away("killed"):
            pass
        (self.redis.directory / "dump.rdb").unlink()
        self.assertTrue([line for server in self.servers() for line in lines(server, "an older state")])
        third = say("third")
        # A member of the other epoch continues in this one, and a new one sees all of it, once.
        again = self.join(self.b, "long", since=since)
        self.assertIs(again.joined()["recovered"], True)
        self.assertEqual(again.messages(20), third)
        with self.gateway() as third_server:
            connected(third_server)
            new = self.join(third_server, "long")
            new.joined()
            self.assertEqual(new.messages(61), [*first, *second, "carl's last", *third])

    def test_the_queue_for_redis_is_bounded_and_members_here_are_served_all_the_same(self):
        with self.gateway(queue="64 KiB") as third:
            connected(third)
            anna, carl = self.join(third, "long"), self.join(third, "long")
            with self.away("killed"):
                disconnected(third)
                text = "x" * 1000
                for number in range(100):
                    anna.say({"message": f"{number} {text}"})
                self.assertEqual([message.split()[0] for message in carl.messages(100)], [str(number) for number in range(100)])
                full = dropped(third, "redis_queue_full")
                self.assertGreater(full, 0)
                self.assertLess(full, 80)
            connected(third)
            ben = self.join(self.b, "long")
            anna.say({"message": "end"})
            found = self.until_both(ben, {"end"})
            self.assertEqual(len(found), 101 - full)
            self.assertEqual(self.until_both(carl, {"end"}), ["end"])

    @each_way("killed", "frozen")
    def test_a_server_ends_in_time_while_redis_is_away(self, way):
        with self.gateway() as third:
            connected(third)
            anna = self.join(third, "both")
            anna.joined()
            with self.away(way):
                begun = time.monotonic()
                third.stop()
                self.assertLess(time.monotonic() - begun, 5.0)
            self.assertEqual(anna.closed()[0], 1001)

    def test_who_comes_and_goes_while_redis_comes_back_is_counted_right(self):
        """The start of a connection takes a while: changes in the meantime count too."""
        sitting = [self.join(self.a, "presence", room=f"{self.room}-{number}") for number in range(150)]
        going, paused = threading.Event(), threading.Event()
        self.addCleanup(going.set)

        def come_and_go(number):
            while not going.is_set():
                if paused.is_set():
                    time.sleep(0.01)
                    continue
                with Member(self.a, f"/ws/presence/{self.room}-{number % 150}/"):
                    pass
                number += 7

        def present():
            with self.redis.client() as client:
                return sum(client.hlen(key) for key in client.keys(f"oneport:presence:{{presence_{self.room}-*"))

        walkers = [threading.Thread(target=come_and_go, args=(number,)) for number in range(6)]
        for walker in walkers:
            walker.start()
        for _ in range(10):
            with reconnected(*self.servers()), self.redis.client() as client:
                client.client_kill_filter(_type="pubsub", skipme=True)
            time.sleep(0.1)
            paused.set()
            until(lambda: present() == len(sitting), lambda: f"{len(sitting)} members, found {present()}", LEASE)
            paused.clear()
        going.set()
        for walker in walkers:
            walker.join(DEADLINE)

    def test_redis_that_goes_and_comes_all_the_time_does_no_harm(self):
        anna, ben = self.join(self.a, "long"), self.join(self.b, "long")
        wanted = []
        for number in range(5):
            for way in ("killed", "frozen")[number % 2 :]:
                with self.away(way, noticed=False):
                    anna.say({"message": f"{number} {way}"})
                    wanted.append(f"{number} {way}")
                    time.sleep(0.05 * number)
        anna.say({"message": "end"})
        self.assertEqual(self.until_both(ben, {"end"}), [*wanted, "end"])
        self.assertEqual(self.until_both(anna, {"end"}), [*wanted, "end"])


class Refused(AwayCase):
    """Redis answers, but it does not do what it is asked."""

    def check_alone(self, backend, why):
        with layer_server(backend) as alone:
            rooms = [(self.join(alone, kind), self.join(alone, kind)) for kind in ("chat", "kept", "presence")]
            for anna, ben in rooms:
                anna.say({"message": "alone"})
                ben.next("chat.message", message="alone")
                anna.next("chat.message", message="alone")
            alone.wait_for_log(LOST)
            self.assertEqual(alone.metric("oneport_layer_connected"), 0)
            line = lines(alone, LOST)[0]
            self.assertRegex(line, why)
            self.assertNotIn("wrong-password", alone.log())
            self.assertNotIn("s3cret", alone.log())

    def test_a_wrong_password(self):
        self.check_alone(f"redis://:wrong-password@127.0.0.1:{self.redis.port}/0", "(?i)pass|auth")

    def test_a_user_who_may_do_nothing_of_it(self):
        self.check_alone(self.redis.url(user="reader"), "(?i)perm")

    def test_a_database_that_there_is_not(self):
        self.check_alone(self.redis.url(99), "(?i)index|database")

    def test_something_else_listens_there(self):
        self.check_alone(f"redis://{self.a.host}/0", ".")

    def test_a_redis_without_memory_left_stops_nobody_in_the_same_process(self):
        members = [(self.join(self.a, kind), self.join(self.a, kind)) for kind in ("chat", "kept", "presence")]
        with self.redis.client() as client:
            client.config_set("maxmemory", 1)
            try:
                for anna, carl in members:
                    anna.say({"message": "no room"})
                    carl.next("chat.message", message="no room")
            finally:
                client.config_set("maxmemory", 0)
        self.back()
        for anna, carl in members:
            anna.say({"message": "room again"})
            carl.next("chat.message", message="room again")

    def test_a_master_that_is_demoted_under_its_connections_loses_nothing_of_a_history(self):
        anna, ben = self.join(self.a, "long"), self.join(self.b, "long")
        with self.redis.client() as client:
            for number in range(60):
                if number == 20:
                    client.replicaof("127.0.0.1", 1)
                if number == 40:
                    client.replicaof("NO", "ONE")
                anna.say({"message": str(number)})
                time.sleep(0.01)
        numbers = [str(number) for number in range(60)]
        self.assertEqual((anna.messages(60), ben.messages(60)), (numbers, numbers))

    def test_an_event_without_a_history_is_not_said_again_after_a_loss(self):
        ben = self.join(self.b, "chat")
        carl = self.join(self.b, "all")
        with self.gateway() as third:
            connected(third)
            for number in range(20):
                event = {"type": "chat.message", "message": f"to a group that is not there {number}"}
                api(third, "POST", f"groups/chat_{self.room}", event)
            anna = self.join(third, "others")
            anna.send("from a member")
            self.assertEqual(carl.receive(), "from a member")
            self.assertEqual(len(ben.messages(20)), 20)
            for _ in range(3):
                with reconnected(*self.servers(), third), self.redis.client() as client:
                    client.client_kill_filter(_type="normal", skipme=True)
            anna.send("end")
            self.assertEqual(carl.receive(), "end")
            api(third, "POST", f"groups/chat_{self.room}", {"type": "chat.message", "message": "end"})
            self.assertEqual(ben.event()["message"], "end", "expected nothing twice")

    def test_connections_that_an_administrator_kills_are_made_anew(self):
        anna, ben = self.join(self.a, "long"), self.join(self.b, "long")
        numbers = [str(number) for number in range(200)]
        with self.redis.client() as client:
            for number in numbers:
                anna.say({"message": number})
                if number in ("50", "100", "150"):
                    client.client_kill_filter(_type="pubsub" if number == "100" else "normal", skipme=True)
        self.assertEqual(ben.messages(200), numbers)
        self.assertEqual(anna.messages(200), numbers)


class Traffic(AwayCase):
    """Redis goes away and returns while both processes send many events."""

    SECONDS = 4.0
    layer = {"timeout": "4s"}  # not so soon lost where the machine is slow

    def check(self, way, kind):
        """Returns what each member received, by sender: two on each process, the first of each sends."""
        members = {name: self.join(server, kind) for name, server in (("a1", self.a), ("a2", self.a), ("b1", self.b), ("b2", self.b))}
        heard = {name: [] for name in members}
        broken = []
        stop = threading.Event()

        def listen(name):
            try:
                ends = set()
                while ends != {"a1", "b1"}:
                    event = json.loads(members[name].receive(DEADLINE))
                    if event["type"] == "chat.message":
                        speaker, number = event["message"].split()
                        heard[name].append((speaker, number))
                        if number == "end":
                            ends.add(speaker)
            except Exception as error:  # noqa: BLE001 - told by the test itself
                broken.append(f"{name}: {error!r}")

        said = {"a1": 0, "b1": 0}

        def speak(name):
            while not stop.wait(0.001):
                members[name].say({"message": f"{name} {said[name]}"})
                said[name] += 1

        listeners = [threading.Thread(target=listen, args=[name], daemon=True) for name in members]
        speakers = [threading.Thread(target=speak, args=[name], daemon=True) for name in said]
        for thread in listeners + speakers:
            thread.start()
        time.sleep(self.SECONDS / 4)
        self.leave(way)
        for server in self.servers():
            disconnected(server)
        time.sleep(self.SECONDS / 4)
        self.come_back(way)
        self.back()
        time.sleep(self.SECONDS / 4)
        stop.set()
        for thread in speakers:
            thread.join(DEADLINE)
        for name in said:
            members[name].say({"message": f"{name} end"})
        for thread in listeners:
            thread.join(2 * DEADLINE)
        self.assertEqual(broken, [])
        self.assertGreater(min(said.values()), 200)
        return said, heard

    def check_recovered(self, way):
        said, heard = self.check(way, "long")
        for name, found in heard.items():
            for speaker, number in said.items():
                with self.subTest(way=way, member=name, speaker=speaker):
                    self.compare([each for by, each in found if by == speaker], [*(str(each) for each in range(number)), "end"])

    def compare(self, found, wanted):
        if found != wanted:
            lost = [each for each in wanted if each not in set(found)]
            at = next((at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1)
            self.fail(
                f"expected {len(wanted)} messages in order, found {len(found)}: {len(lost)} lost {lost[:10]}, "
                f"{len(found) - len(set(found))} twice, the first difference at {at}: {found[at : at + 5]}"
            )

    def test_with_history_every_event_is_recovered_by_all_members_of_both_processes(self):
        for way in WAYS:
            with self.subTest(way):
                self.anew()
                self.check_recovered(way)

    def test_without_history_nobody_hears_anything_twice_and_members_of_the_same_process_hear_all(self):
        for way in WAYS:
            with self.subTest(way):
                self.anew()
                before = {server: dropped(server, "redis_away") for server in self.servers()}
                said, heard = self.check(way, "chat")
                for name, found in heard.items():
                    for speaker, number in said.items():
                        wanted = [*(str(each) for each in range(number)), "end"]
                        mine = [each for by, each in found if by == speaker]
                        if name[0] == speaker[0]:
                            self.compare(mine, wanted)
                            continue
                        self.assertEqual(len(set(mine)), len(mine), f"{name} heard something of {speaker} twice")
                        self.assertEqual(mine, [each for each in wanted if each in set(mine)], f"{name} heard {speaker} out of order")
                # What the members of a process missed is counted there, once.
                for server, speaker, pair in ((self.a, "b1", ("a1", "a2")), (self.b, "a1", ("b1", "b2"))):
                    missed = {said[speaker] + 1 - sum(by == speaker for by, _ in heard[name]) for name in pair}
                    self.assertEqual(missed, {dropped(server, "redis_away") - before[server]}, way)
                    self.assertGreater(max(missed), 0)


class Kept(Traffic):
    """The same with a Redis that knows after a kill all that it had answered before."""

    kept = True
    test_without_history_nobody_hears_anything_twice_and_members_of_the_same_process_hear_all = None

    def test_with_history_every_event_is_recovered_by_all_members_of_both_processes(self):
        for way in ("killed", "stopped"):
            with self.subTest(way):
                self.anew()
                self.check_recovered(way)


class Start(unittest.TestCase):
    def test_a_server_starts_before_redis(self):
        with Redis() as redis:
            redis.stop()
            with layer_server(redis.url()) as a, layer_server(redis.url()) as b:
                for server in (a, b):
                    server.wait_for_log(LOST)
                    self.assertFalse(is_connected(server))
                kinds = "chat", "kept", "presence"
                members = {kind: [Member(server, f"/ws/{kind}/r/") for server in (a, a, b)] for kind in kinds}
                for anna, carl, ben in members.values():
                    for member in (anna, carl, ben):
                        self.addCleanup(member.__exit__)
                    anna.say({"message": "early"})
                    carl.next("chat.message", message="early")
                redis.start()
                for server in (a, b):
                    connected(server)
                for anna, _, ben in members.values():
                    anna.say({"message": "one house"})
                    ben.next("chat.message", message="one house")
                for server in (a, b):
                    server.wait_for_log(BACK)
                    self.assertEqual((len(lines(server, LOST)), len(lines(server, BACK))), (1, 1), server.log())
                    self.assertEqual(field(lines(server, BACK)[0], "resubscribed"), 3)
                ben.say({"type": "who"})
                self.assertEqual(ben.next("chat.who")["members"], 3)
                self.assertEqual(field(lines(a, BACK)[0], "lost"), 2, "a word in two groups without history")

    def test_what_was_said_before_redis_was_there_is_kept_for_the_others(self):
        with Redis() as redis:
            redis.stop()
            with layer_server(redis.url()) as a, layer_server(redis.url()) as b:
                a.wait_for_log(LOST)
                with Member(a, "/ws/past/r/") as anna, Member(b, "/ws/past/r/") as ben:
                    for number in range(3):
                        anna.say({"message": str(number)})
                    anna.hears("0", "1", "2")
                    redis.start()
                    ben.hears("0", "1", "2")
                    with Member(b, "/ws/past/r/") as late:
                        late.hears("0", "1", "2")


class Death(LayerCase):
    """A process dies, or is paused for too long."""

    def who(self, member):
        member.say({"type": "who"})
        return sorted(str(user) for user in member.next("chat.who")["users"])

    def test_the_members_of_a_process_that_is_killed_leave_after_its_lease_and_once_each(self):
        anna, ben = self.join(self.a, "presence", "anna"), self.join(self.b, "presence", "ben")
        guests = {f"guest-{number}" for number in range(5)}
        with self.gateway() as third:
            connected(third)
            members = [self.join(third, "presence", guest) for guest in sorted(guests)]
            chat = self.join(third, "chat", "guest")
            for member in (anna, ben):
                member.next("chat.join", members=7)
            third.signal(signal.SIGKILL)
            begun = time.monotonic()
            third.wait(-signal.SIGKILL)
        self.assertEqual(self.who(anna), sorted({"anna", "ben", *guests}))
        left = [anna.next("chat.leave") for _ in guests]
        self.assertLess(time.monotonic() - begun, 1.5 * LEASE + MOMENT)
        self.assertGreater(time.monotonic() - begun, LEASE)
        self.assertEqual({event["user"] for event in left}, guests)
        self.assertEqual({ben.next("chat.leave")["user"] for _ in guests}, guests)
        self.assertEqual(left[-1]["members"], 2)
        self.assertEqual((self.who(anna), self.who(ben)), (["anna", "ben"], ["anna", "ben"]))
        # No leave comes a second time.
        anna.say({"message": "end"})
        self.assertEqual((anna.event()["type"], ben.event()["type"]), ("chat.message", "chat.message"))
        for member in (*members, chat):
            member.__exit__()
        self.assertEqual(self.who(self.join(self.a, "chat", "anna")), ["anna"])

    def test_what_a_process_said_before_it_was_killed_is_kept(self):
        ben = self.join(self.b, "long")
        with self.gateway() as third:
            connected(third)
            anna = self.join(third, "long")
            for number in range(50):
                anna.say({"message": str(number)})
            self.assertEqual(ben.messages(50), [str(number) for number in range(50)])
            third.signal(signal.SIGKILL)
            third.wait(-signal.SIGKILL)
            anna.__exit__()
        self.assertEqual(self.join(self.a, "long").messages(50), [str(number) for number in range(50)])

    def test_who_clears_up_after_many_is_not_taken_for_dead(self):
        def reaped():
            # By its members: one that an earlier test killed may be reaped only now.
            return sum(len(lines(server, r"another process died.*\b150\b")) for server in self.servers())

        anna = self.join(self.a, "presence", "anna")
        with self.gateway() as third:
            connected(third)
            members = [self.join(third, "presence") for _ in range(150)]
            until(lambda: len(self.who(anna)) == 151, lambda: f"151 members, found {len(self.who(anna))}")
            third.signal(signal.SIGKILL)
            third.wait(-signal.SIGKILL)
        for member in members:
            member.__exit__()
        until(lambda: self.who(anna) == ["anna"], lambda: f"anna alone, found {len(self.who(anna))}", LEASE + MOMENT)
        # It is logged when the groups have been told.
        until(lambda: reaped() == 1, lambda: f"one log line about the process that died, found {reaped()}")
        time.sleep(LEASE)
        self.assertEqual(reaped(), 1)
        self.assertEqual(self.who(anna), ["anna"])

    def test_whoever_is_the_last_to_live_or_the_first_to_come_clears_up(self):
        """No other process ran when it died; the next one that starts does not list its members."""
        with self.gateway() as third, self.gateway() as fourth:
            for server in (third, fourth):
                connected(server)
            members = [self.join(server, "chat", "guest") for server in (third, fourth)]
            for server in (third, fourth):
                server.signal(signal.SIGKILL)
                server.wait(-signal.SIGKILL)
            for member in members:
                member.__exit__()
        anna = self.join(self.a, "chat", "anna")
        until(lambda: self.who(anna) == ["anna"], lambda: f"anna alone, found {self.who(anna)}", 1.5 * LEASE + MOMENT)

    def test_the_members_of_a_process_that_stood_still_are_there_again(self):
        anna = self.join(self.a, "presence", "anna")
        with self.gateway() as third:
            connected(third)
            carl = self.join(third, "presence", "carl")
            anna.next("chat.join", user="carl")
            third.freeze()
            try:
                anna.next("chat.leave", user="carl", members=1)
            finally:
                third.thaw()
            until(lambda: self.who(anna) == ["anna", "carl"], lambda: f"anna and carl, found {self.who(anna)}", LEASE + TIMEOUT + MOMENT)
            anna.say({"message": "still there?"})
            carl.next("chat.message", message="still there?")
            carl.say({"message": "yes"})
            anna.next("chat.message", message="yes")

    def test_a_process_that_stands_still_holds_up_nobody_else(self):
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        with self.gateway() as third:
            connected(third)
            carl = self.join(third, "chat")
            third.freeze()
            try:
                for number in range(500):
                    anna.say({"message": str(number)})
                self.assertEqual(ben.messages(500, 5.0), [str(number) for number in range(500)])
            finally:
                third.thaw()
            self.assertEqual(carl.messages(500), [str(number) for number in range(500)])


if __name__ == "__main__":
    unittest.main()
