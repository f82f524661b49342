"""WebSockets over HTTP/2 (RFC 8441) with prior knowledge: `h2` makes the streams, `wsproto` the frames on them."""

import os
import signal
import time
import unittest

import h2.events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, RstStreamFrame
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from kit.deadline import until
from kit.frames import BINARY, CLOSE, TEXT, close_payload, encode
from kit.http2 import Client, StreamSocket
from kit.peer import Peer
from kit.server import Server

CONFIG = """
[server.timeouts]
handshake = "1s"

[websocket]
max_message = "2 MiB"
close_timeout = "2s"

[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }

[[http.route]]
path = "/events/"
view = "events"
options = { group = "all" }

[[websocket.route]]
path = "/ws/echo/"
name = "echo"
consumer = "echo"
subprotocols = ["v2", "v1"]
write_timeout = "60s"

[[websocket.route]]
path = "/ws/kept/"
name = "kept"
consumer = "echo"
compression_threshold = "0 B"
server_context_takeover = true
client_context_takeover = true

[[websocket.route]]
path = "/ws/off/"
name = "off"
consumer = "echo"
compression = "off"

[[websocket.route]]
path = "/ws/narrow/"
name = "narrow"
consumer = "echo"
max_message = "4 KiB"

[[websocket.route]]
path = "/ws/all/"
name = "all"
consumer = "broadcast"
options = { group = "all" }

[[websocket.route]]
path = "/ws/bounded/"
name = "bounded"
consumer = "broadcast"
send_queue = "256 KiB"
write_timeout = "60s"
options = { group = "bounded" }

[[websocket.route]]
path = "/ws/listen/"
name = "listen"
consumer = "feed"
options = { groups = ["all"] }

[[websocket.route]]
path = "/ws/chat/{room:slug}/"
name = "chat"
consumer = "chat"
options = { group = "chat_{room}", presence = true }

[[websocket.route]]
path = "/ws/alive/"
name = "alive"
consumer = "echo"
ping_interval = "200ms"
pong_timeout = "500ms"

[[websocket.route]]
path = "/ws/idle/"
name = "idle"
consumer = "echo"
idle_timeout = "400ms"

[[websocket.route]]
path = "/ws/hurried/"
name = "hurried"
consumer = "echo"
write_timeout = "600ms"

[[websocket.route]]
path = "/ws/programs/"
consumer = "echo"
missing_origin = "allow"
"""

MEBIBYTE = os.urandom(1 << 20)


class WebSocketsOverHttp2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def client(self, **options):
        return self.enterContext(Client(self.server, **options))

    def ended(self, route, cause):
        return self.server.metric("oneport_websockets_closed_total", route=route, cause=cause)

    def ends(self, route, cause, before):
        """Waits for one more socket that ended so."""
        until(lambda: self.ended(route, cause) == before + 1, lambda: f"{before + 1} ended, found {self.ended(route, cause)}")

    def test_the_settings_say_that_it_is_offered(self):
        client = self.client()
        client.answer(client.ask("/page/"))
        self.assertEqual(client.h2.remote_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL], 1)

    def test_a_listener_whose_switch_is_off_offers_nothing_and_opens_nothing(self):
        switched_off = '[server]\nbind = [{ address = "127.0.0.1:0", websocket_over_http2 = false }]\n'
        with Server(switched_off + CONFIG, bind=None) as server, Client(server) as client:
            self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
            self.assertEqual(client.h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, 0), 0)
            stream = client.ask_for_socket("/ws/echo/")
            client.until(lambda: stream in client.resets or stream in client.ended, "a refusal")
            self.assertNotEqual(client.answers[stream][0].get(":status"), "200")
            self.assertEqual(client.answer(client.ask("/page/"))[0], 200)

    def test_the_answer_is_200_and_has_none_of_the_fields_of_http1(self):
        fields = StreamSocket(self.client(), "/ws/echo/").fields
        self.assertEqual(fields[":status"], "200")
        for name in ("sec-websocket-accept", "upgrade", "connection", "content-length", "transfer-encoding"):
            self.assertNotIn(name, fields)

    def test_every_message_comes_back_as_it_was(self):
        socket = StreamSocket(self.client(), "/ws/echo/")
        noise = [os.urandom(size) for size in (125, 126, 16384, 65535, 65536)]
        for message in ("hi", "", b"", b"\x00\xff", "grüße ☕ \U0001f980" * 500, *noise):
            socket.say(message)
            self.assertEqual(socket.receive(), message)

    def test_frames_that_are_cut_and_joined_anywhere_are_the_same_frames(self):
        client = self.client()
        socket = StreamSocket(client, "/ws/echo/")
        messages = [f"message {number} " * number for number in range(40)]
        said = b"".join(bytes(socket.frames.send(TextMessage(message))) for message in messages)
        for at in range(0, 400):
            client.write(socket.stream, said[at : at + 1])
        client.write(socket.stream, said[400:])
        self.assertEqual([socket.receive() for _ in messages], messages)

    def test_empty_data_and_padding_are_no_frames(self):
        client = self.client()
        socket = StreamSocket(client, "/ws/echo/")
        frame = bytes(socket.frames.send(TextMessage("padded")))
        for part in (b"", frame[:3], b"", frame[3:], b""):
            client.h2.send_data(socket.stream, part, pad_length=200)
            client.flush()
        self.assertEqual(socket.receive(), "padded")

    def test_fragments_with_pings_between_them_are_one_message(self):
        socket = StreamSocket(self.client(), "/ws/echo/")
        socket.say("one ", is_last=False)
        socket.send(Ping(b"between"))
        socket.say("", is_last=False)
        socket.say("two")
        event = socket.event()
        self.assertIsInstance(event, Pong)
        self.assertEqual(bytes(event.payload), b"between")
        self.assertEqual(socket.receive(), "one two")

    def test_a_mebibyte_goes_both_ways_over_many_windows(self):
        large = 4 << 20
        for options in (
            {},
            {"connection_window": large},
            {"stream_window": 1000},
            {"stream_window": large, "connection_window": large},
        ):
            with self.subTest(options=options):
                socket = StreamSocket(self.client(**options), "/ws/off/")
                socket.say(MEBIBYTE)
                self.assertTrue(socket.receive() == MEBIBYTE, "the message comes back as it was")

    def test_several_sockets_and_requests_share_a_connection(self):
        client = self.client()
        sockets = [StreamSocket(client, "/ws/echo/") for _ in range(20)]
        for turn in range(5):
            for number, socket in enumerate(sockets):
                socket.say(f"{turn} of {number}")
            pages = [client.ask("/page/") for _ in range(5)]
            for number, socket in enumerate(reversed(sockets)):
                self.assertEqual(socket.receive(), f"{turn} of {len(sockets) - 1 - number}")
            for page in pages:
                self.assertEqual(client.answer(page)[2], b"a page")

    def test_sockets_of_both_versions_share_a_group(self):
        client = self.client()
        mine = [StreamSocket(client, "/ws/all/"), StreamSocket(client, "/ws/all/", extension=PerMessageDeflate())]
        peer = self.enterContext(Peer(self.server, "/ws/all/"))
        for message in ("from one", b"\x00\xff", "again and again " * 300):
            mine[0].say(message)
            self.assertEqual((mine[0].receive(), mine[1].receive(), peer.receive()), (message,) * 3)
            peer.send(message)
            self.assertEqual((mine[0].receive(), mine[1].receive(), peer.receive()), (message,) * 3)

    def test_frames_may_follow_the_handshake_before_its_answer(self):
        client = self.client()
        stream = client.ask_for_socket("/ws/echo/")
        client.write(stream, encode(TEXT, b"early"))
        client.until(lambda: len(client.answers[stream][1]) >= 7, "the echo")
        self.assertEqual(bytes(client.answers[stream][1]), b"\x81\x05early")

    def test_a_handshake_that_cannot_be_met_is_refused_and_the_connection_goes_on(self):
        client = self.client()
        stays = StreamSocket(client, "/ws/echo/")
        for what, path, changes, status in (
            ("no route", "/ws/nothing/", {}, 404),
            ("an ordinary page", "/page/", {}, 404),
            ("a foreign page", "/ws/echo/", {"origin": "https://evil.example"}, 403),
            ("no origin", "/ws/echo/", {"origin": None}, 403),
            ("no version", "/ws/echo/", {"sec-websocket-version": None}, 400),
            ("another version", "/ws/echo/", {"sec-websocket-version": "12"}, 426),
            ("another protocol", "/ws/echo/", {":protocol": "connect-udp"}, 501),
            ("a foreign host", "/ws/echo/", {":authority": "evil.example"}, 400),
            ("no subprotocol", "/ws/echo/", {"sec-websocket-protocol": "a b"}, 400),
        ):
            with self.subTest(what=what):
                stream = client.ask_for_socket(path, changes)
                found, _, body = client.answer(stream)
                self.assertEqual(found, status)
                self.assertTrue(body, "expected a sentence")
                stays.say(what)
                self.assertEqual(stays.receive(), what)

    def test_who_needs_no_origin_is_let_in_without_one(self):
        socket = StreamSocket(self.client(), "/ws/programs/", changes={"origin": None})
        socket.say("hi")
        self.assertEqual(socket.receive(), "hi")

    def test_a_connect_that_is_no_extended_one_is_refused(self):
        client = self.client()
        stream = client.begin([(":method", "CONNECT"), (":authority", "localhost")], end_stream=False)
        client.until(lambda: stream in client.ended or stream in client.resets, "a refusal")
        self.assertIn(client.answers[stream][0].get(":status", "reset"), ("400", "404", "405", "501", "reset"))
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)

    def test_a_subprotocol_is_chosen_and_a_foreign_one_is_not(self):
        client = self.client()
        for offered, chosen in (("v1", "v1"), ("v9, v2, v1", "v2"), ("v9", None)):
            with self.subTest(offered=offered):
                socket = StreamSocket(client, "/ws/echo/", changes={"sec-websocket-protocol": offered})
                self.assertEqual(socket.fields.get("sec-websocket-protocol"), chosen)

    def test_compression_is_agreed_to_as_over_http1(self):
        for path, extension, agreed in (
            ("/ws/echo/", PerMessageDeflate(), True),
            ("/ws/kept/", PerMessageDeflate(), True),
            ("/ws/kept/", PerMessageDeflate(True, 9, True, 9), True),
            ("/ws/kept/", PerMessageDeflate(False, 10, False, 9), True),
            ("/ws/off/", PerMessageDeflate(), False),
        ):
            with self.subTest(path=path, extension=extension):
                client = self.client()
                socket = StreamSocket(client, path, extension=extension)
                self.assertEqual("sec-websocket-extensions" in socket.fields, agreed)
                for message in ("", "said before " * 3000, b"\x00" * 65536, os.urandom(5000), *["said before " * 3000] * 20):
                    socket.say(message)
                    self.assertEqual(socket.receive(), message)
                size = len(client.answers[socket.stream][1])
                self.assertEqual(size < 200_000, agreed, f"{size} bytes of frames")

    def test_the_clients_close_is_answered_and_its_stream_ends_in_order(self):
        client = self.client()
        stays = StreamSocket(client, "/ws/off/")
        for code, reason in ((1000, None), (1001, "away"), (3000, "ü" * 61), (4999, "")):
            with self.subTest(code=code):
                before = self.ended("echo", "client_close")
                socket = StreamSocket(client, "/ws/echo/")
                socket.say("last words")
                socket.close(code, reason)
                self.assertEqual(socket.receive(), "last words")
                self.assertEqual(socket.closed()[0], code)
                socket.expect_end()
                socket.finish()
                self.ends("echo", "client_close", before)
        stays.say("still here")
        self.assertEqual(stays.receive(), "still here")
        self.assertEqual(client.resets, {})

    def test_a_close_and_the_end_of_the_stream_may_come_together(self):
        client = self.client()
        before = self.ended("echo", "client_close")
        socket = StreamSocket(client, "/ws/echo/")
        client.write(socket.stream, socket.frames.send(CloseConnection(1000)), end_stream=True)
        self.assertEqual(socket.closed()[0], 1000)
        socket.expect_end()
        self.ends("echo", "client_close", before)
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
        self.assertEqual(client.resets, {})

    def test_the_servers_close_is_said_and_its_stream_ends_in_order(self):
        client = self.client()
        socket = StreamSocket(client, "/ws/listen/")
        socket.say("a word")
        self.assertEqual(socket.closed(), (1008, "this socket is for listening"))
        socket.close(1008)
        socket.expect_end()
        socket.finish()
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
        self.assertEqual(client.resets, {})

    def test_a_client_that_never_ends_its_half_is_let_go_after_the_close_timeout(self):
        client = self.client()
        socket = StreamSocket(client, "/ws/echo/")
        socket.close()
        self.assertEqual(socket.closed()[0], 1000)
        socket.expect_end()
        until(lambda: self.server.metric("oneport_websockets", route="echo") == 0, "no open socket")
        began = time.monotonic()
        client.until(lambda: socket.stream in client.resets, "the server's reset of a stream that was left half open")
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)

    def test_what_breaks_the_rules_ends_with_its_code_for_this_stream_alone(self):
        client = self.client()
        stays = StreamSocket(client, "/ws/echo/")
        for what, path, said, code in (
            ("no mask", "/ws/echo/", encode(TEXT, b"a", masked=False), 1002),
            ("a reserved bit", "/ws/echo/", encode(TEXT, b"a", rsv=4), 1002),
            ("no text", "/ws/echo/", encode(TEXT, b"\xff"), 1007),
            ("a wrong code", "/ws/echo/", encode(CLOSE, close_payload(1005)), 1002),
            ("too long", "/ws/narrow/", encode(BINARY, bytes(4097)), 1009),
        ):
            with self.subTest(what=what):
                socket = StreamSocket(client, path)
                client.write(socket.stream, said)
                self.assertEqual(socket.closed()[0], code)
                socket.expect_end()
                socket.finish()
                stays.say(what)
                self.assertEqual(stays.receive(), what)
        self.assertEqual(client.resets, {})

    def test_a_reset_of_the_client_ends_its_own_socket_alone(self):
        for code in (ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR):
            with self.subTest(code=code):
                client = self.client()
                before = self.ended("echo", "client_gone")
                one, two = StreamSocket(client, "/ws/echo/"), StreamSocket(client, "/ws/echo/")
                client.reset(one.stream, code)
                self.ends("echo", "client_gone", before)
                two.say("still here")
                self.assertEqual(two.receive(), "still here")
                self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
                self.assertEqual(self.server.metric("oneport_websockets", route="echo"), 1)
                two.close()
                two.expect_end()
                two.finish()
                until(lambda: self.server.metric("oneport_websockets", route="echo") == 0, "no open socket")

    def test_an_end_without_a_close_frame_is_a_client_that_is_gone(self):
        client = self.client()
        before = self.ended("echo", "client_gone")
        socket = StreamSocket(client, "/ws/echo/")
        client.write(socket.stream, encode(TEXT, b"half a frame")[:5], end_stream=True)
        self.ends("echo", "client_gone", before)
        client.until(lambda: socket.stream in client.ended or socket.stream in client.resets, "the end of the stream")
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)

    def test_what_was_said_before_the_end_of_the_stream_was_still_said(self):
        client = self.client()
        listener = self.enterContext(Peer(self.server, "/ws/all/"))
        socket = StreamSocket(client, "/ws/all/")
        client.write(socket.stream, socket.frames.send(TextMessage("last words")), end_stream=True)
        self.assertEqual(listener.receive(), "last words")

    def test_a_connection_that_is_cut_ends_all_its_sockets(self):
        before = self.ended("chat", "client_gone")
        peer = self.enterContext(Peer(self.server, "/ws/chat/cut/"))
        client = Client(self.server)
        for _ in range(3):
            StreamSocket(client, "/ws/chat/cut/")
        peer.next("chat.join", members=4)
        client.cut()
        peer.next("chat.leave", members=1)
        until(lambda: self.ended("chat", "client_gone") == before + 3, "three clients that are gone")

    def test_a_handshake_that_is_reset_at_once_leaves_nothing_behind(self):
        before = self.server.metric("oneport_tasks")
        for _ in range(5):
            with Client(self.server) as client:
                # More of them at once are taken for an attack.
                for _ in range(10):
                    client.reset(client.ask_for_socket("/ws/alive/"), ErrorCodes.CANCEL)
                self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
        until(lambda: self.server.metric("oneport_websockets", route="alive") == 0, "no open socket")
        until(lambda: self.server.metric("oneport_tasks") <= before, "no task left behind")

    def test_a_client_that_gives_no_window_is_sent_nothing_more_and_others_go_on(self):
        client = self.client(connection_window=16 << 20)
        stuck, other = StreamSocket(client, "/ws/echo/"), StreamSocket(client, "/ws/echo/")
        client.stuck.add(stuck.stream)
        message = bytes(30_000)
        said = b"".join(bytes(stuck.frames.send(BytesMessage(message))) for _ in range(200))
        sent = client.write_what_fits(stuck.stream, said)
        self.assertLess(sent, 4 << 20, "the server stops to read")
        self.assertEqual(len(client.answers[stuck.stream][1]), 65535)
        for number in range(20):
            other.say(f"round {number}")
            self.assertEqual(other.receive(), f"round {number}")
            self.assertEqual(client.answer(client.ask("/page/"))[2], b"a page")
        self.assertEqual(len(client.answers[stuck.stream][1]), 65535, "the window is kept to")
        # With a window again all of it comes, and the rest is taken.
        client.stuck.clear()
        client.h2.acknowledge_received_data(65535, stuck.stream)
        client.flush()
        client.write(stuck.stream, said[sent:])
        for _ in range(200):
            self.assertEqual(len(stuck.receive()), len(message))

    def test_a_client_that_gives_no_window_is_a_slow_client_for_its_group(self):
        before = self.ended("bounded", "slow_client")
        client = self.client(connection_window=16 << 20)
        stuck, other = StreamSocket(client, "/ws/bounded/"), StreamSocket(client, "/ws/bounded/")
        client.stuck.add(stuck.stream)
        for number in range(100):
            other.say(f"{number} " + "a" * 10_000)
            self.assertTrue(other.receive().startswith(f"{number} "))
        self.ends("bounded", "slow_client", before)
        client.until(lambda: stuck.stream in client.resets, "a reset")
        self.assertEqual(len(client.answers[stuck.stream][1]), 65535)
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)

    def test_a_write_that_makes_no_progress_ends_that_stream_alone(self):
        before = self.ended("hurried", "write_timeout")
        client = self.client(connection_window=16 << 20)
        stuck, other = StreamSocket(client, "/ws/hurried/"), StreamSocket(client, "/ws/hurried/")
        client.stuck.add(stuck.stream)
        client.write_what_fits(stuck.stream, b"".join(encode(BINARY, bytes(30_000)) for _ in range(100)))
        self.ends("hurried", "write_timeout", before)
        client.until(lambda: stuck.stream in client.resets, "a reset")
        other.say("still here")
        self.assertEqual(other.receive(), "still here")

    def test_a_silent_client_is_pinged_and_one_that_answers_stays(self):
        socket = StreamSocket(self.client(), "/ws/alive/")
        for _ in range(4):
            event = socket.event()
            self.assertIsInstance(event, Ping)
            socket.send(event.response())
        socket.say("alive")
        self.assertEqual(socket.receive(), "alive")

    def test_a_client_that_answers_no_ping_loses_its_stream_alone(self):
        before = self.ended("alive", "ping_timeout")
        client = self.client()
        silent, other = StreamSocket(client, "/ws/alive/"), StreamSocket(client, "/ws/echo/")
        self.assertIsInstance(silent.event(), Ping)
        self.ends("alive", "ping_timeout", before)
        client.until(lambda: silent.stream in client.resets or silent.stream in client.ended, "the end of the stream")
        other.say("still here")
        self.assertEqual(other.receive(), "still here")

    def test_an_idle_socket_is_closed_with_1000(self):
        client = self.client()
        socket = StreamSocket(client, "/ws/idle/")
        self.assertEqual(socket.closed()[0], 1000)
        socket.close()
        socket.expect_end()
        socket.finish()
        self.assertEqual(client.resets, {})

    def test_five_hundred_sockets_in_a_row_leave_nothing_behind(self):
        client = self.client()
        before = self.server.metric("oneport_tasks")
        for number in range(500):
            socket = StreamSocket(client, "/ws/echo/")
            socket.say(str(number))
            self.assertEqual(socket.receive(), str(number))
            client.write(socket.stream, socket.frames.send(CloseConnection(1000)), end_stream=True)
            self.assertEqual(socket.closed()[0], 1000)
            socket.expect_end()
        self.assertEqual(client.resets, {})
        until(lambda: self.server.metric("oneport_tasks") <= before, "no task left behind")

    def test_a_window_that_would_overflow_ends_the_stream_or_the_connection_and_nothing_else(self):
        client = self.client()
        socket = StreamSocket(client, "/ws/all/")
        before = self.ended("all", "client_gone")
        client.send(b"\x00\x00\x04\x08\x00" + socket.stream.to_bytes(4, "big") + b"\x7f\xff\xff\xff")
        try:
            client.until(
                lambda: socket.stream in client.resets
                or any(isinstance(event, h2.events.ConnectionTerminated) for event in client.events),
                "the end of the stream",
            )
        except (EOFError, ConnectionResetError):
            pass
        self.ends("all", "client_gone", before)
        self.assertEqual(self.server.request("/health/")[0], 200)


class Drain(unittest.TestCase):
    def test_every_socket_hears_1001_before_the_server_ends(self):
        with Server(CONFIG) as server:
            with Client(server) as client:
                sockets = [StreamSocket(client, "/ws/echo/") for _ in range(10)]
                open_streams = {socket.stream for socket in sockets}
                half_open = set(open_streams)
                server.signal(signal.SIGTERM)
                heard, announced = {}, False
                for frame in client.frames():
                    if isinstance(frame, GoAwayFrame):
                        self.assertEqual(frame.error_code, ErrorCodes.NO_ERROR)
                        self.assertGreaterEqual(frame.last_stream_id, max(open_streams))
                        announced = True
                    elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                        client.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
                    elif isinstance(frame, RstStreamFrame):
                        self.fail(f"expected END_STREAM, found RST_STREAM {frame.error_code} on {frame.stream_id}")
                    elif isinstance(frame, DataFrame):
                        if frame.data:
                            heard[frame.stream_id] = heard.get(frame.stream_id, b"") + frame.data
                            data = encode(CLOSE, close_payload(1001))
                            client.send(DataFrame(frame.stream_id, data, flags=["END_STREAM"]).serialize())
                        if "END_STREAM" in frame.flags:
                            half_open.discard(frame.stream_id)
                    if not half_open:
                        break
                self.assertTrue(announced, "expected GOAWAY before the end of the last stream")
                # In which order sockets are closed, and thus which wait each is asked for, is open.
                reasons = [b"\x03\xe9the server is shutting down; retry_after=%d" % wait for wait in [5, 5, 6, 6, 7, 7, 8, 8, 9, 10]]
                self.assertEqual(heard.keys(), open_streams)
                self.assertEqual(sorted(heard.values()), sorted(bytes([0x88, len(reason)]) + reason for reason in reasons))
                server.wait()

    def test_a_client_that_never_answers_holds_up_the_end_for_its_close_timeout_only(self):
        for what in ("a socket", "a page"):
            with self.subTest(what=what), Server(CONFIG) as server, Client(server) as client:
                if what == "a socket":
                    StreamSocket(client, "/ws/echo/")
                else:
                    client.answer(client.ask("/page/"))
                began = time.monotonic()
                server.stop()
                self.assertLess(time.monotonic() - began, 10)

    def test_no_new_socket_opens_once_the_server_goes_down(self):
        with Server(CONFIG) as server:
            with Client(server) as client:
                StreamSocket(client, "/ws/echo/")
                server.signal(signal.SIGTERM)
                late = client.h2.get_next_available_stream_id()
                for frame in client.frames():
                    if isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                        client.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
                    if isinstance(frame, GoAwayFrame) and frame.last_stream_id < late:
                        break
                server.wait()

    def test_a_reload_that_changes_the_route_closes_its_sockets_with_1012(self):
        with Server(CONFIG) as server:
            with Client(server) as client:
                changed, stays = StreamSocket(client, "/ws/narrow/"), StreamSocket(client, "/ws/echo/")
                server.reload(CONFIG.replace("4 KiB", "5 KiB"))
                self.assertEqual(changed.closed()[0], 1012)
                changed.close(1012)
                changed.expect_end()
                changed.finish()
                stays.say("still here")
                self.assertEqual(stays.receive(), "still here")
                self.assertEqual(client.resets, {})


if __name__ == "__main__":
    unittest.main()
