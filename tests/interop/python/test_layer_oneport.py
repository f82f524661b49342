"""The channel layer in its own format: two processes at one Redis act as one, for members, reconnects and presence."""

import json
import unittest

from kit.deadline import until
from kit.layer_case import LEASE, LOST, MOMENT, LayerCase, Member, connected, dropped, layer_server, lines
from kit.layer_crowd import Crowd, contents, payload, said, shown
from kit.peer import Peer

# How long no event may arrive, in seconds; only where no later event can prove it.
QUIET = 0.3


class Groups(LayerCase):
    def test_a_chat_is_heard_on_the_other_process_in_both_directions(self):
        anna, ben = self.join(self.a, "chat", "anna"), self.join(self.b, "chat", "ben")
        anna.say({"message": "hi ben"})
        ben.next("chat.message", message="hi ben", user="anna")
        ben.say({"message": "grüße ☕ \U0001f980"})
        self.assertEqual(anna.event()["message"], "hi ben")
        heard = anna.event()
        self.assertEqual((heard["message"], heard["user"]), ("grüße ☕ \U0001f980", "ben"))
        self.assertEqual(ben.event(), heard)

    def test_an_event_is_the_same_on_both_processes_and_comes_once(self):
        members = [self.join(server, "chat") for server in (self.a, self.a, self.b, self.b)]
        for number, member in enumerate(members):
            member.say({"message": str(number)})
            whole = [peer.event() for peer in members]
            self.assertEqual(whole, [whole[0]] * 4)
            self.assertEqual(whole[0]["message"], str(number))

    def test_frames_of_a_broadcast_arrive_as_they_are(self):
        anna, ben = self.join(self.a, "all"), self.join(self.b, "all")
        for message in ("text ☕", b"\x00\xff", "", b"", "x" * 65536, b"\x80" * 65536, '{"type": "chat.message"}', "x" * 900_000):
            for speaker in (anna, ben):
                speaker.send(message)
                self.assertEqual((anna.receive(), ben.receive()), (message, message), f"{message[:20]!r}")

    def test_a_broadcast_without_the_sender_reaches_all_others_of_both_processes(self):
        anna, carl, ben = self.join(self.a, "others"), self.join(self.a, "others"), self.join(self.b, "others")
        anna.send("from anna")
        self.assertEqual((carl.receive(), ben.receive()), ("from anna", "from anna"))
        ben.send("from ben")
        self.assertEqual((anna.receive(), carl.receive()), ("from ben", "from ben"))
        carl.send("from carl")
        self.assertEqual((anna.receive(), ben.receive()), ("from carl", "from carl"))

    def test_a_feed_and_a_stream_hear_what_is_said_on_the_other_process(self):
        feed, stream = self.join(self.b, "feed"), self.stream(self.b, "shown")
        self.join(self.a, "all").send("by broadcast")
        self.assertEqual((feed.receive(), stream.event()["data"]), ("by broadcast", "by broadcast"))
        self.join(self.a, "chat").say({"message": "by chat"})
        self.assertEqual(feed.event()["message"], "by chat")

    def test_messages_of_one_sender_stay_in_order_on_the_other_process(self):
        for kind in ("chat", "long"):
            with self.subTest(kind=kind):
                anna, ben = self.join(self.a, kind), self.join(self.b, kind)
                numbers = [str(number) for number in range(500)]
                for number in numbers:
                    anna.say({"message": number})
                self.assertEqual(ben.messages(500), numbers)
                self.assertEqual(anna.messages(500), numbers)

    def test_another_room_hears_nothing(self):
        here, there = self.join(self.b, "chat", room="here"), self.join(self.b, "chat", room="there")
        self.join(self.a, "chat", room="there").say({"message": "for there"})
        there.next("chat.message", message="for there")
        self.join(self.a, "chat", room="here").say({"message": "for here"})
        self.assertEqual(here.event()["message"], "for here")

    def test_another_prefix_is_another_house(self):
        with self.gateway(prefix="other") as other:
            connected(other)
            stranger, ben = self.join(other, "chat"), self.join(self.b, "chat")
            self.join(self.a, "chat").say({"message": "not for strangers"})
            ben.next("chat.message", message="not for strangers")
            stranger.say({"message": "alone"})
            self.assertEqual(stranger.event()["message"], "alone")
            ben.hears_nothing(QUIET)

    def test_a_member_that_left_hears_nothing_and_the_group_is_not_heard_any_more(self):
        with self.redis.client() as client:

            def heard_by():
                return sum(number for name, number in client.pubsub_numsub(*client.pubsub_channels(f"*{self.room}}}")))

            with Member(self.b, f"/ws/chat/{self.room}/"), Member(self.b, f"/ws/chat/{self.room}/"):
                self.assertEqual(heard_by(), 1, "expected one subscription of the process for both members")
            until(lambda: heard_by() == 0, lambda: f"no subscription to a group without members, found {heard_by()}")

    def test_who_joins_and_leaves_all_the_time_hears_what_is_said_while_it_is_there(self):
        anna = self.join(self.a, "chat")
        for number in range(150):
            with Member(self.b, f"/ws/chat/{self.room}/") as ben:
                anna.say({"message": str(number)})
                self.assertEqual(ben.event()["message"], str(number))
        self.assertEqual(anna.messages(150), [str(number) for number in range(150)])

    def test_over_a_unix_socket_it_is_the_same_house(self):
        with self.gateway_at(f"redis+unix://{self.redis.unix_socket}?db=0&pass=s3cret") as third:
            connected(third)
            anna, carl = self.join(self.a, "chat"), self.join(third, "chat")
            anna.say({"message": "by TCP"})
            carl.next("chat.message", message="by TCP")
            carl.say({"message": "by a file"})
            anna.next("chat.message", message="by a file")

    def gateway_at(self, backend):
        return layer_server(backend)

    def test_what_went_out_and_came_in_is_counted(self):
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        before = [server.metric(f"oneport_layer_{name}_total") for server, name in ((self.a, "published"), (self.b, "received"))]
        for number in range(10):
            anna.say({"message": str(number)})
        ben.messages(10)
        after = [server.metric(f"oneport_layer_{name}_total") for server, name in ((self.a, "published"), (self.b, "received"))]
        self.assertEqual([now - then for now, then in zip(after, before, strict=True)], [10, 10])

    def test_the_log_says_where_redis_is_and_not_its_password(self):
        for server in self.servers():
            self.assertTrue(lines(server, rf"is connected to Redis .*127\.0\.0\.1:{self.redis.port}"), server.log())
            self.assertNotIn("s3cret", server.log())


class Presence(LayerCase):
    def who(self, member):
        member.say({"type": "who"})
        who = member.next("chat.who")
        self.assertEqual(who["members"], len(who["users"]), who)
        return sorted(str(user) for user in who["users"])

    def test_who_is_there_is_told_of_both_processes(self):
        for kind in ("chat", "presence", "kept"):
            with self.subTest(kind=kind):
                anna, ben = self.join(self.a, kind, "anna"), self.join(self.b, kind, "ben")
                self.join(self.b, kind)
                for member in (anna, ben):
                    until(
                        lambda member=member: self.who(member) == ["None", "anna", "ben"],
                        lambda member=member: f"anna, ben and somebody, found {self.who(member)}",
                        2.0,
                    )

    def test_the_answer_is_for_the_asker_alone(self):
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        self.who(anna)
        anna.say({"message": "end"})
        self.assertEqual(ben.event()["message"], "end")

    def test_who_comes_and_goes_is_told_on_both_processes_with_all_members(self):
        anna = self.join(self.a, "presence", "anna")
        anna.hears(*self.presence(["chat.join", "anna", 1]), event_type=None)
        with Member(self.b, f"/ws/presence/{self.room}/", "ben") as ben:
            ben.hears(*self.presence(["chat.join", "ben", 2]), event_type=None)
            anna.hears(*self.presence(["chat.join", "ben", 2]), event_type=None)
            with Member(self.a, f"/ws/presence/{self.room}/") as carl:
                for member in (anna, ben, carl):
                    member.hears(*self.presence(["chat.join", None, 3]), event_type=None)
            for member in (anna, ben):
                member.hears(*self.presence(["chat.leave", None, 2]), event_type=None)
        anna.hears(*self.presence(["chat.leave", "ben", 1]), event_type=None)
        self.assertEqual(self.who(anna), ["anna"])

    def presence(self, *told):
        return [Told(*each) for each in told]

    def test_nothing_of_a_group_is_left_in_redis_when_its_members_have_gone(self):
        with self.redis.client() as client:

            def names():
                keys = [key for key in client.keys("oneport:present:*") if client.type(key) == b"set"]
                lists = [entry for key in keys for entry in client.smembers(key)]
                return [name for name in (*client.keys(), *lists) if self.room.encode() in name.rstrip(b"}").split(b"_")]

            with Member(self.a, f"/ws/presence/{self.room}/") as anna, Member(self.a, f"/ws/presence/{self.room}/") as ben:
                until(lambda: len(names()) == 2, lambda: f"the group's members, and the group in the list of the process, found {names()}")
                ben.socket.close()
                anna.next("chat.leave", members=1)
                self.assertEqual(len(names()), 2, names())
            until(lambda: not names(), lambda: f"nothing of the group, found {names()}")

    def test_a_client_that_vanishes_is_told_to_the_other_process(self):
        anna = self.join(self.a, "presence", "anna")
        anna.next("chat.join", user="anna")  # a socket is open before its consumer has joined
        ben = self.join(self.b, "presence", "ben")
        anna.next("chat.join", user="ben", members=2)
        ben.socket.socket.shutdown(2)
        anna.next("chat.leave", user="ben", members=1)
        self.assertEqual(self.who(anna), ["anna"])

    def test_the_members_of_a_process_that_is_stopped_leave(self):
        anna = self.join(self.a, "presence", "anna")
        with self.gateway() as third:
            connected(third)
            for number in range(3):
                self.join(third, "presence", f"guest-{number}")
                anna.next("chat.join", members=number + 2)
            third.stop()
        left = {anna.next("chat.leave")["user"] for _ in range(3)}
        self.assertEqual(left, {"guest-0", "guest-1", "guest-2"})
        self.assertEqual(self.who(anna), ["anna"])

    def test_a_crowd_is_counted_whole(self):
        anna = self.join(self.a, "presence", "anna")
        others = [self.join(server, "presence") for server in self.servers() for _ in range(25)]
        until(lambda: len(self.who(anna)) == 51, lambda: f"51 members, found {len(self.who(anna))}")
        for other in others:
            other.socket.close()
        until(lambda: self.who(anna) == ["anna"], lambda: f"anna alone, found {self.who(anna)}")

    def test_members_stay_as_long_as_their_process_lives(self):
        anna = self.join(self.a, "presence", "anna")
        anna.next("chat.join", user="anna")  # a socket is open before its consumer has joined
        ben = self.join(self.b, "presence", "ben")
        anna.next("chat.join", user="ben")
        ben.next("chat.join", user="ben")
        anna.hears_nothing(2 * LEASE + MOMENT)
        self.assertEqual((self.who(anna), self.who(ben)), (["anna", "ben"], ["anna", "ben"]))


class Told:
    """Equals the matching presence event."""

    def __init__(self, event_type, user, members):
        self.wanted = (event_type, user, members)

    def __eq__(self, event):
        return isinstance(event, dict) and (event["type"], event["user"], event["members"]) == self.wanted

    def __repr__(self):
        return f"{self.wanted}"


class History(LayerCase):
    def say(self, member, *messages):
        """Sends this and waits until the sender itself has received it."""
        for message in messages:
            member.say({"message": message})
        self.assertEqual(member.messages(len(messages)), list(messages))

    def test_who_joins_on_the_other_process_gets_the_newest_of_the_history(self):
        self.say(self.join(self.a, "past"), "one", "two", "three", "four")
        ben = self.join(self.b, "past")
        ben.hears("two", "three", "four")
        self.say(ben, "five")
        self.join(self.a, "past").hears("three", "four", "five")

    def test_frames_are_kept_as_they_are(self):
        anna = self.join(self.a, "frames")
        for message in ("one", b"\x00\xff", "☕", b""):
            anna.send(message)
            anna.receive()
        ben = self.join(self.b, "frames")
        self.assertEqual([ben.receive() for _ in range(3)], [b"\x00\xff", "☕", b""])

    def test_presence_is_not_kept(self):
        anna = self.join(self.a, "both")
        with Member(self.a, f"/ws/both/{self.room}/"):
            anna.next("chat.join", members=2)
        anna.next("chat.leave", members=1)
        self.say(anna, "one")
        ben = self.join(self.b, "both")
        ben.joined()
        self.assertEqual(ben.event()["message"], "one")
        self.assertEqual(ben.event()["type"], "chat.join")

    def test_a_history_outlives_all_members_and_the_processes_that_knew_it(self):
        with self.gateway() as third:
            connected(third)
            with Member(third, f"/ws/past/{self.room}/") as carl:
                self.say(carl, "one", "two")
        with self.gateway() as fourth:
            connected(fourth)
            self.join(fourth, "past").hears("one", "two")
        self.join(self.a, "past").hears("one", "two")

    def test_a_history_expires_on_both_processes(self):
        anna = self.join(self.a, "brief")
        self.say(anna, "old")

        def is_forgotten():
            with Member(self.b, f"/ws/brief/{self.room}/") as ben:
                ben.say({"message": "new"})
                return ben.event()["message"] == "new"

        until(is_forgotten, "a history without what is older than a second", 6.0)

    def test_what_was_missed_comes_on_the_other_process(self):
        anna = self.join(self.a, "kept")
        self.assertIsNone(anna.joined()["recovered"])
        with Member(self.b, f"/ws/kept/{self.room}/") as ben:
            self.assertIsNone(ben.joined()["recovered"])
            self.say(anna, "one", "two")
            events = [ben.event(), ben.event()]
            self.assertEqual([event["message"] for event in events], ["one", "two"])
        self.say(anna, "three", "four")
        for server in self.servers():
            for event, missed in zip(events, (["two", "three", "four"], ["three", "four"]), strict=True):
                with self.subTest(server=server.port, since=event["offset"]):
                    again = self.join(server, "kept", since=event["offset"])
                    joined = again.joined()
                    self.assertEqual((joined["recovered"], joined["offset"]), (True, event["offset"]))
                    again.hears(*missed)
        again = self.join(self.b, "kept", since=events[1]["offset"])
        again.joined()
        self.say(anna, "five")
        again.hears("three", "four", "five")

    def test_who_missed_nothing_gets_nothing_twice(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        anna.say({"message": "one"})
        last = anna.event()["offset"]
        again = self.join(self.b, "kept", since=last)
        self.assertEqual(again.joined(), {"type": "oneport.joined", "offset": last, "recovered": True})
        self.say(anna, "two")
        again.hears("two")

    def test_who_was_there_before_the_first_event_recovers_too(self):
        with Member(self.b, f"/ws/kept/{self.room}/") as ben:
            first = ben.joined()["offset"]
        anna = self.join(self.a, "kept")
        self.say(anna, "one", "two")
        again = self.join(self.b, "kept", since=first)
        self.assertIs(again.joined()["recovered"], True)
        again.hears("one", "two")

    def test_who_missed_too_much_is_told_so_and_gets_what_there_is(self):
        anna = self.join(self.a, "kept")
        offset = anna.joined()["offset"]
        self.say(anna, *(str(number) for number in range(1, 9)))
        for server in self.servers():
            with self.subTest(server=server.port):
                again = self.join(server, "kept", since=offset)
                self.assertIs(again.joined()["recovered"], False)
                again.hears("4", "5", "6", "7", "8")

    def test_an_offset_that_is_none_of_the_groups_cannot_be_recovered(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        self.say(anna, "one")
        epoch = self.offset_of_newest(self.a).partition(".")[0]
        for since in ("dead.1", f"{epoch}.999", "nonsense", "1.x", f"{epoch}.", f"{epoch}.-1", "%C3%A9.1"):
            with self.subTest(since=since):
                again = self.join(self.b, "kept", since=since)
                self.assertIs(again.joined()["recovered"], False)
                again.hears("one")
        # An empty one counts as none: there is no recovery.
        again = self.join(self.b, "kept", since="")
        self.assertIsNone(again.joined()["recovered"])
        again.hears("one")
        # Another room's offset means nothing here.
        other = self.join(self.b, "kept", room=f"{self.room}-other", since=self.offset_of_newest(self.a))
        self.assertIs(other.joined()["recovered"], False)

    def offset_of_newest(self, server):
        with Member(server, f"/ws/kept/{self.room}/") as member:
            member.joined()
            return member.event()["offset"]

    def test_offsets_count_up_by_one_and_are_the_same_on_both_processes(self):
        anna, ben = self.join(self.a, "kept"), self.join(self.b, "kept")
        self.assertEqual(anna.joined(), ben.joined())
        for number in range(10):
            (anna, ben)[number % 2].say({"message": str(number)})
            here, there = anna.event(), ben.event()
            self.assertEqual((here, here["message"]), (there, str(number)))
            epoch, _, offset = here["offset"].partition(".")
            if number:
                self.assertEqual((epoch, int(offset)), (last[0], last[1] + 1))
            last = (epoch, int(offset))

    def test_events_of_presence_carry_the_offset_of_the_newest_kept_event(self):
        anna, ben = self.join(self.a, "both", "anna"), self.join(self.b, "both", "ben")
        anna.next("chat.join", user="ben")
        ben.next("chat.join", user="ben")
        anna.say({"message": "one"})
        offset = anna.event()["offset"]
        self.assertEqual(ben.event()["offset"], offset)
        with Member(self.b, f"/ws/both/{self.room}/", "carl"):
            for member in (anna, ben):
                self.assertEqual(member.next("chat.join", user="carl")["offset"], offset)
        for member in (anna, ben):
            self.assertEqual(member.next("chat.leave", user="carl")["offset"], offset)
        again = self.join(self.b, "both", since=offset)
        self.assertIs(again.joined()["recovered"], True)
        self.assertEqual(again.event()["type"], "chat.join")

    def test_a_feed_recovers_as_a_chat_does(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        with Member(self.b, f"/ws/news/{self.room}/") as ben:
            self.assertIsNone(ben.joined()["recovered"])
            self.say(anna, "one")
            last = ben.event()["offset"]
        self.say(anna, "two", "three")
        again = self.join(self.b, "news", since=last)
        self.assertIs(again.joined()["recovered"], True)
        again.hears("two", "three")

    def test_nobody_misses_or_hears_twice_who_comes_back_again_and_again_while_much_is_said(self):
        anna = self.join(self.a, "long")
        anna.joined()
        numbers = [str(number) for number in range(2000)]
        heard, since, at = [], None, 0
        while len(heard) < len(numbers):
            server = self.servers()[at % 2]
            at += 1
            query = "" if since is None else f"?since={since}"
            for number in numbers[100 * (at - 1) : 100 * at]:
                anna.say({"message": number})
            with Member(server, f"/ws/long/{self.room}/{query}") as ben:
                joined = ben.joined()
                if since is not None:
                    self.assertEqual((joined["recovered"], joined["offset"]), (True, since))
                for _ in range(min(37 + at, len(numbers) - len(heard)) if 100 * at < len(numbers) else len(numbers) - len(heard)):
                    event = ben.event()
                    heard.append(event["message"])
                    since = event["offset"]
        self.assertEqual(heard, numbers)

    def test_members_without_a_history_write_into_it_and_hear_nothing_twice(self):
        anna, plain = self.join(self.a, "kept"), self.join(self.b, "plain")
        anna.joined()
        anna.say({"message": "one"})
        self.assertEqual(json.loads(plain.receive())["message"], "one")
        plain.send(json.dumps({"n": "two"}))
        self.assertEqual(json.loads(plain.receive()), {"n": "two"})
        self.assertEqual(json.loads(anna.receive())["message"], "one")
        self.assertEqual(json.loads(anna.receive()), {"n": "two"})
        anna.say({"message": "three"})
        offset = anna.event()["offset"]
        self.assertEqual(json.loads(plain.receive())["message"], "three")
        self.assertEqual(offset.partition(".")[2], "3")
        # One who wants the history joins the process that had none.
        ben = self.join(self.b, "kept")
        ben.joined()
        self.assertEqual([json.loads(ben.receive()).get("message") for _ in range(3)], ["one", None, "three"])
        back = self.join(self.a, "kept", since=f"{offset.partition('.')[0]}.1")
        self.assertIs(back.joined()["recovered"], True)
        self.assertEqual([json.loads(back.receive()).get("n") for _ in range(2)], ["two", None])
        ben.say({"message": "four"})
        self.assertEqual(json.loads(plain.receive())["message"], "four", "expected nothing of the past, and nothing twice")
        late = self.join(self.b, "plain")
        ben.say({"message": "five"})
        for member in (plain, late):
            self.assertEqual(json.loads(member.receive())["message"], "five")

    def test_who_leaves_is_told_of_after_its_last_message(self):
        anna = self.join(self.a, "both")
        anna.joined()
        for number in range(40):
            with Member(self.b, f"/ws/both/{self.room}/") as ben:
                anna.next("chat.join", members=2)
                ben.say({"message": f"last {number}"})
            anna.next("chat.message", message=f"last {number}")
            anna.next("chat.leave", members=1)

    def test_an_event_over_a_mebibyte_reaches_the_members_of_its_process_and_is_not_kept(self):
        anna, ben = self.join(self.a, "frames"), self.join(self.b, "frames")
        before = dropped(self.a, "oversized")
        anna.send("x" * (2 << 20))
        anna.send("next")
        self.assertEqual(len(anna.receive()), 2 << 20)
        self.assertEqual((anna.receive(), ben.receive()), ("next", "next"))
        self.assertEqual(dropped(self.a, "oversized") - before, 1)
        self.assertEqual(self.join(self.b, "frames").receive(), "next")

    def test_an_event_stream_gets_more_of_the_past_than_may_wait_for_it(self):
        anna = self.join(self.a, "long")
        anna.joined()
        for number in range(500):
            anna.say({"message": str(number)})
        first = anna.event()
        self.assertEqual(len(anna.messages(499)), 499)
        stream = self.stream(self.b, "many", last_event_id=first["offset"])
        self.assertEqual([stream.message() for _ in range(499)], [str(number) for number in range(1, 500)])

    def test_an_event_stream_goes_on_at_the_other_process(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        stream = self.stream(self.a)
        self.say(anna, "one")
        last = stream.event()["id"]
        self.say(anna, "two", "three")
        again = self.stream(self.b, last_event_id=last)
        self.assertEqual([again.message(), again.message()], ["two", "three"])
        self.say(anna, "four")
        self.assertEqual(again.message(), "four")

    def test_ids_of_an_event_stream_are_the_offsets_of_sockets(self):
        anna, stream = self.join(self.a, "kept"), self.stream(self.b)
        anna.joined()
        anna.say({"message": "one"})
        offset, event = anna.event()["offset"], stream.event()
        self.assertEqual((event["id"], json.loads(event["data"])["message"]), (offset, "one"))
        self.say(anna, "two")
        again = self.join(self.b, "kept", since=event["id"])
        self.assertIs(again.joined()["recovered"], True)
        again.hears("two")

    def test_an_event_stream_that_comes_back_too_late_is_told_of_the_gap_at_the_other_process(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        stream = self.stream(self.a)
        self.say(anna, "zero")
        last = stream.event()["id"]
        self.say(anna, *(str(number) for number in range(1, 9)))
        for last_event_id in (last, "dead.1", "nonsense"):
            with self.subTest(last_event_id=last_event_id):
                again = self.stream(self.b, last_event_id=last_event_id)
                gap = again.event()
                self.assertEqual((gap.get("event"), gap["data"], gap.get("id")), ("oneport.gap", "{}", None))
                self.assertEqual([again.message() for _ in range(5)], ["4", "5", "6", "7", "8"])


class Malformed(LayerCase):
    """What others write where only processes of the server should."""

    def channels(self):
        """Returns the channels of Redis that are subscribed now."""
        with self.redis.client() as client:
            return {name.decode() for name in client.pubsub_channels()}

    def check(self, channels, payload, reason):
        """Publishes this on each channel; each subscribed process drops and counts it, and the layer continues."""
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        before = [dropped(server, reason) for server in self.servers()]
        with self.redis.client() as client:
            reached = sum(client.publish(channel, payload) for channel in channels)
        anna.say({"message": "on"})
        ben.hears("on")
        anna.hears("on")

        def counted():
            return sum(dropped(server, reason) for server in self.servers()) - sum(before)

        until(lambda: counted() == reached, lambda: f"{reached} events counted as {reason}, found {counted()}", 5.0)

    def test_garbage_between_processes_is_dropped_and_counted(self):
        self.join(self.a, "chat")
        group = [channel for channel in self.channels() if channel.endswith(f"{{chat_{self.room}}}")]
        self.assertEqual(len(group), 1, self.channels())
        others = sorted(channel for channel in self.channels() if channel.startswith("oneport:node"))
        self.assertEqual(len(others), 3, self.channels())
        for payload in (b"", b"\0", b"\xff" * 40, b"{}", b'{"type": "chat.message"}', b"\x01", b"\x01\x01", b"\x01\xff" + bytes(60), b"\x02\x01" + bytes(60)):
            for channels in (group, others):
                with self.subTest(payload=payload, channels=channels):
                    self.check(channels, payload, "malformed")

    def test_an_event_over_a_mebibyte_is_dropped_and_counted(self):
        self.join(self.a, "chat")
        group = [channel for channel in self.channels() if channel.endswith(f"{{chat_{self.room}}}")]
        for size in ((1 << 20) + 1, 2 << 20, 8 << 20):
            with self.subTest(size=size):
                self.check(group, bytes(size), "oversized")

    def test_a_history_that_others_spoiled_stops_nobody(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        anna.say({"message": "one"})
        anna.hears("one")
        with self.redis.client() as client:
            keys = [key for key in client.keys(f"*{{kept_{self.room}}}") if client.type(key) == b"stream"]
            self.assertEqual(len(keys), 1, client.keys())
            client.xadd(keys[0], {"nonsense": b"\xff"})
            client.xadd(keys[0], {"h": b"\xff", "t": b"\xff", "at": b"\xff"})
        ben = self.join(self.b, "kept")
        ben.joined()
        ben.say({"message": "two"})
        ben.next("chat.message", message="two")
        anna.next("chat.message", message="two")

    def test_keys_of_another_kind_stop_nobody_in_other_groups(self):
        keys = [f"oneport:history:{{both_{self.room}}}", f"oneport:stream:{{both_{self.room}}}", f"oneport:presence:{{both_{self.room}}}"]
        with self.redis.client() as client:
            for key in keys:
                client.set(key, "not what it should be")
            try:
                anna = self.join(self.a, "both")
                anna.say({"message": "one"})
                anna.next("chat.message", message="one")
                ben, carl = self.join(self.a, "chat"), self.join(self.b, "chat")
                ben.say({"message": "two"})
                carl.hears("two")
                self.assertEqual([server.metric("oneport_layer_connected") for server in self.servers()], [1, 1])
            finally:
                client.delete(*keys)


class Flood(LayerCase):
    """Every message, no others, in order."""

    def flood(self, kind, events, members, deadline):
        """Four members send `events` in all; returns the differing streams of each process, without those of the end."""
        each = events // 4
        size = len(shown(payload("a", 0)))
        lost = [server.metric("oneport_events_dropped_total") for server in self.servers()]
        with Crowd() as crowd:
            here, there = (crowd.join(server, f"/ws/{kind}/{self.room}/", members // 2) for server in self.servers())
            publishers = dict(zip("abcd", (here[0], here[-1], there[0], there[-1]), strict=True))
            for letter, publisher in publishers.items():
                crowd.say(publisher, b"".join(said(payload(letter, number)) for number in range(each)))
            crowd.read_until(size * events, deadline)
            # What comes twice comes before this.
            for letter, publisher in zip("wxyz", publishers.values(), strict=True):
                crowd.say(publisher, said(payload(letter, 0)))
            crowd.read_until(size * (events + 4), 20.0)
            wanted = {payload(letter, number) for letter, number in zip("wxyz", [0] * 4, strict=True)}
            streams = crowd.streams()
            for stream, number in streams.items():
                found = contents(stream, 6)
                self.assertEqual(set(found[events:]), wanted, f"of {number} members")
                for letter in publishers:
                    mine = [content for content in found[:events] if content[0] == ord(letter)]
                    if mine != [payload(letter, number) for number in range(each)]:
                        self.fail(self.difference(letter, mine, each, number))
            for server in self.servers():
                self.assertEqual(server.metric("oneport_events_dropped_total"), lost.pop(0), "expected no event dropped")
            return [{bytes(sitter.stream) for sitter in sitters} for sitters in (here, there)]

    @staticmethod
    def difference(letter, found, each, members):
        wanted = [payload(letter, number) for number in range(each)]
        lost = sorted(set(wanted) - set(found))
        at = next((at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), min(len(wanted), len(found)))
        return (
            f"expected {each} events of {letter} in order at {members} members, found {len(found)}, {len(lost)} lost {lost[:5]}, "
            f"{len(found) - len(set(found))} twice, the first difference at {at}: {found[at : at + 5]}"
        )


class Exact(Flood):
    # The machine is busy: Redis has as long to answer as by default.
    layer = {"timeout": "5s", "lease": "10s"}

    def test_100_000_events_of_4_publishers_reach_200_members_of_two_processes(self):
        self.flood("all", 100_000, 200, 60.0)

    def test_a_group_with_a_history_has_one_order_for_all_members_of_all_processes(self):
        here, there = self.flood("frames", 8_000, 60, 30.0)
        self.assertEqual((len(here), len(there)), (1, 1), "expected one order in each process")
        self.assertEqual(here, there, "expected the same order in both processes")

    def test_the_events_of_a_flood_are_all_counted_as_published_and_received(self):
        names = ("oneport_layer_published_total", "oneport_layer_received_total")
        before = [server.metric(name) for server in self.servers() for name in names]
        self.flood("all", 4_000, 20, 20.0)
        after = [server.metric(name) for server in self.servers() for name in names]
        self.assertEqual([now - then for now, then in zip(after, before, strict=True)], [2002.0] * 4)


class Busy(Flood):
    def test_a_process_that_has_more_to_hear_than_it_can_handle_in_time_does_not_take_redis_for_dead(self):
        self.flood("all", 100_000, 200, 60.0)
        for server in self.servers():
            self.assertEqual(lines(server, LOST), [])


if __name__ == "__main__":
    unittest.main()
