"""Groups: `broadcast` and `feed`, and a group as Server-Sent Events."""

import json
import unittest

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.peer import Peer, refusal
from kit.server import Server
from kit.stream import Stream

CONFIG = """
[[http.route]]
path = "/events/{room:slug}/"
name = "events"
view = "events"
options = { group = "chat_{room}", history = 5, heartbeat = "300ms", retry = "1s" }

[[http.route]]
path = "/shown/{room:slug}/"
view = "events"
options = { group = "room_{room}" }

[[websocket.route]]
path = "/ws/chat/{room:slug}/"
consumer = "chat"
options = { group = "chat_{room}", history = 5 }

[[websocket.route]]
path = "/ws/all/{room:slug}/"
consumer = "broadcast"
options = { group = "room_{room}" }

[[websocket.route]]
path = "/ws/others/{room:slug}/"
consumer = "broadcast"
options = { group = "room_{room}", include_sender = false }

[[websocket.route]]
path = "/ws/kept/{room:slug}/"
consumer = "broadcast"
options = { group = "kept_{room}", history = 2 }

[[websocket.route]]
path = "/ws/feed/{room:slug}/"
name = "feed"
consumer = "feed"
options = { groups = ["room_{room}", "chat_{room}"] }

[[websocket.route]]
path = "/ws/mine/"
consumer = "feed"
middleware = ["hosts", "origin", "session", "auth"]
options = { groups = ["user_{user.id}"] }
"""


class Groups(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def join(self, path):
        return self.enterContext(Peer(self.server, path))

    def test_broadcast_reaches_every_member_as_it_is_the_sender_too(self):
        anna, ben = self.join("/ws/all/a/"), self.join("/ws/all/a/")
        for message in ("text ☕", b"\x00\xff", "", b"", "x" * 65536):
            anna.send(message)
            self.assertEqual((anna.receive(), ben.receive()), (message, message))

    def test_broadcast_without_the_sender_reaches_the_others(self):
        anna, ben = self.join("/ws/others/b/"), self.join("/ws/others/b/")
        anna.send("from anna")
        ben.send("from ben")
        self.assertEqual((anna.receive(), ben.receive()), ("from ben", "from anna"))

    def test_two_routes_share_a_group(self):
        everybody, others = self.join("/ws/all/c/"), self.join("/ws/others/c/")
        others.send("one")
        self.assertEqual(everybody.receive(), "one")
        everybody.send("two")
        self.assertEqual((everybody.receive(), others.receive()), ("two", "two"))

    def test_a_group_of_many_members_is_served_whole_and_in_order(self):
        members = [self.join("/ws/all/many/") for _ in range(60)]
        for number in range(50):
            members[0].send(str(number))
        for member in members:
            self.assertEqual([member.receive() for _ in range(50)], [str(number) for number in range(50)])

    def test_the_history_of_a_broadcast_is_for_those_who_join_later(self):
        anna = self.join("/ws/kept/d/")
        for message in ("one", b"two", "three"):
            anna.send(message)
            anna.receive()
        ben = self.join("/ws/kept/d/")
        self.assertEqual([ben.receive(), ben.receive()], [b"two", "three"])

    def test_a_feed_hears_all_its_groups(self):
        listener = self.join("/ws/feed/e/")
        self.join("/ws/all/e/").send("by broadcast")
        self.assertEqual(listener.receive(), "by broadcast")
        self.join("/ws/chat/e/").say({"message": "by chat"})
        self.assertEqual(listener.event()["message"], "by chat")

    def test_a_feed_that_speaks_is_closed_with_1008(self):
        for message in ("a word", b""):
            listener = self.join("/ws/feed/f/")
            listener.send(message)
            self.assertEqual(listener.closed(), (1008, "this socket is for listening"))

    def test_a_feed_of_a_user_is_refused_to_an_anonymous_visitor(self):
        self.assertEqual(refusal(self.server, "/ws/mine/").status_code, 403)

    def test_a_name_that_is_no_group_is_404(self):
        self.assertEqual(refusal(self.server, f"/ws/all/{'a' * 200}/").status_code, 404)


class ServerSentEvents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def stream(self, room, last_event_id=None, query=""):
        return self.enterContext(Stream(self.server, f"/events/{room}/{query}", last_event_id))

    def speaker(self, room):
        peer = self.enterContext(Peer(self.server, f"/ws/chat/{room}/"))

        def say(*messages):
            for message in messages:
                peer.say({"message": message})
                peer.next("chat.message", message=message)

        return say

    def test_a_stream_hears_what_a_websocket_says(self):
        stream, say = self.stream("live"), self.speaker("live")
        fields = stream.response.headers
        self.assertEqual((stream.response.status, fields["content-type"]), (200, "text/event-stream"))
        self.assertEqual((fields["cache-control"], fields["content-length"]), ("no-store", None))
        self.assertEqual(stream.first()[1], 1000)
        say("one", "zwei ☕")
        first, second = stream.event(), stream.event()
        self.assertEqual([json.loads(event["data"])["message"] for event in (first, second)], ["one", "zwei ☕"])
        self.assertRegex(first["id"], r"^[0-9a-f]+\.\d+$")
        self.assertNotIn("event", first)

    def test_lines_of_a_text_arrive_once_each_whatever_ended_them(self):
        stream = self.enterContext(Stream(self.server, "/shown/lines/"))
        self.assertEqual(stream.first()[1], 3000)
        peer = self.enterContext(Peer(self.server, "/ws/all/lines/"))
        for said, lines in (
            ("one\r\ntwo\rthree\nfour", ["one", "two", "three", "four"]),
            ("\r\none\r\n", ["", "one", ""]),
            ("\rone\r", ["", "one", ""]),
            ("one\r\r\n\ntwo", ["one", "", "", "two"]),
            ("one\n\rtwo", ["one", "", "two"]),
            ("\r\n\r\n", ["", "", ""]),
            (" one\r\n two: \r\n:three", [" one", " two: ", ":three"]),
            ("data: one\r\nid: 7\revent: two", ["data: one", "id: 7", "event: two"]),
            ("", [""]),
        ):
            with self.subTest(said=said):
                peer.send(said)
                event = stream.event()
                self.assertEqual(event["data"], "\n".join(lines))
                self.assertEqual(event.keys(), {"id", "data"})

    def test_comments_keep_a_quiet_stream_alive(self):
        stream = self.stream("quiet")
        self.assertEqual(stream.first()[1], 1000)
        for _ in range(3):
            (comment,) = stream.block()
            self.assertTrue(comment.startswith(":"), comment)

    def test_who_comes_back_gets_what_it_missed_and_no_gap(self):
        for way in ("field", "query"):
            with self.subTest(way=way):
                room = f"back-{way}"
                say = self.speaker(room)
                with Stream(self.server, f"/events/{room}/") as stream:
                    say("one")
                    last = stream.event()["id"]
                say("two", "three")
                again = self.stream(room, last) if way == "field" else self.stream(room, query=f"?last_event_id={last}")
                self.assertEqual([again.message(), again.message()], ["two", "three"])
                say("four")
                self.assertEqual(again.message(), "four")

    def test_who_missed_nothing_gets_nothing_twice(self):
        say = self.speaker("nothing")
        with Stream(self.server, "/events/nothing/") as stream:
            say("one")
            last = stream.event()["id"]
        again = self.stream("nothing", last)
        say("two")
        self.assertEqual(again.message(), "two")

    def test_who_comes_back_too_late_is_told_of_the_gap_before_what_is_left(self):
        say = self.speaker("late")
        with Stream(self.server, "/events/late/") as stream:
            say("zero")
            last = stream.event()["id"]
        say(*(str(number) for number in range(1, 9)))
        again = self.stream("late", last)
        gap = again.event()
        self.assertEqual((gap["event"], gap["data"]), ("oneport.gap", "{}"))
        self.assertNotIn("id", gap)
        self.assertEqual([again.message() for _ in range(5)], ["4", "5", "6", "7", "8"])

    def test_an_id_that_is_not_this_servers_is_a_gap(self):
        say = self.speaker("foreign")
        say("kept")
        for last in ("dead.1", "nonsense", "1.x", "é.1"):
            with self.subTest(last=last):
                with Stream(self.server, "/events/foreign/", last.encode()) as again:
                    self.assertEqual(again.event()["event"], "oneport.gap")
                    self.assertEqual(again.message(), "kept")

    def test_nothing_is_lost_between_connecting_and_the_first_event(self):
        with self.stream("unheard") as stream:
            position, _ = stream.first()
        self.speaker("unheard")("one", "two")
        again = self.stream("unheard", position)
        self.assertEqual([again.message(), again.message()], ["one", "two"])

    def test_position_of_the_first_bytes_goes_on_where_the_client_was(self):
        say = self.speaker("goes-on")
        with self.stream("goes-on") as stream:
            first, _ = stream.first()
            say("one")
            last = stream.event()["id"]
        with self.stream("goes-on", last) as stream:
            self.assertEqual(stream.first()[0], last)
        with self.stream("goes-on", first) as stream:
            self.assertEqual(stream.first()[0], first)
            self.assertEqual(stream.message(), "one")

    def test_an_empty_last_event_id_is_none(self):
        say = self.speaker("empty")
        say("kept")
        for last, query in (("", ""), (" ", ""), (None, "?last_event_id="), ("", "?last_event_id=")):
            with self.subTest(last=last, query=query), self.stream("empty", last, query) as stream:
                stream.first()
                say("new")
                self.assertEqual(stream.message(), "new")
        position = self.stream("empty").first()[0]
        say("newer")
        # A client with the position in the URL may also send the empty field.
        self.assertEqual(self.stream("empty", "", f"?last_event_id={position}").message(), "newer")

    def test_a_position_of_a_group_that_was_let_go_is_a_gap(self):
        with Stream(self.server, "/shown/gone/") as stream:
            position, _ = stream.first()
        until(lambda: self.server.metric("oneport_event_streams") == 0, "no stream that is open")
        with Stream(self.server, "/shown/gone/", position) as again:
            self.assertEqual(again.event()["event"], "oneport.gap")

    def test_a_stream_that_is_read_too_slowly_is_told_of_the_gap(self):
        slow = self.enterContext(Bytes(("127.0.0.1", self.server.port), receive_buffer=4096))
        slow.send(b"GET /events/slow/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(slow.head()[0], 200)
        peer = self.enterContext(Peer(self.server, "/ws/chat/slow/"))
        before = self.server.metric("oneport_events_dropped_total")
        text = "a" * 4000

        def is_too_slow():
            for _ in range(200):
                peer.say({"message": text})
                peer.next("chat.message")
            return self.server.metric("oneport_events_dropped_total") > before

        until(is_too_slow, "an event that found no room")
        slow.until(b"event: oneport.gap\n")

    def test_a_stream_that_ends_leaves_nothing_behind(self):
        before = self.server.metric("oneport_tasks")
        streams = [Stream(self.server, "/events/many/") for _ in range(20)]
        for stream in streams:
            self.assertEqual(stream.first()[1], 1000)
        for stream in streams:
            stream.__exit__()
        until(
            lambda: self.server.metric("oneport_tasks") <= before,
            lambda: f"at most {before} tasks, found {self.server.metric('oneport_tasks')}",
        )

    def test_head_and_other_methods_are_answered(self):
        self.assertEqual(self.server.request("/events/head/", "POST", body=b"")[0], 405)
        status, fields, body = self.server.request("/events/head/", "HEAD")
        self.assertEqual((status, fields["content-type"], body), (200, "text/event-stream", b""))


if __name__ == "__main__":
    unittest.main()
