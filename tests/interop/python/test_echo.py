"""Echo: messages, fragments, control frames and closes as RFC 6455 wants them."""

import os
import unittest

import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from kit.deadline import until
from kit.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Bytes, RawSocket, close_payload, encode
from kit.peer import Peer
from kit.server import Server

LIMIT = 64 * 1024

CONFIG = """
[websocket]
max_fragments = 16
close_timeout = "2s"

[[websocket.route]]
path = "/ws/echo/"
name = "echo"
consumer = "echo"

[[websocket.route]]
path = "/ws/deflate/"
consumer = "echo"
compression = "auto"

[[websocket.route]]
path = "/ws/spoken/"
consumer = "echo"
subprotocols = ["v2.chat", "v1.chat"]

[[websocket.route]]
path = "/ws/alive/"
name = "alive"
consumer = "echo"
ping_interval = "300ms"
pong_timeout = "600ms"

[[websocket.route]]
path = "/ws/idle/"
name = "idle"
consumer = "echo"
idle_timeout = "500ms"

[[websocket.route]]
path = "/ws/brief/"
name = "brief"
consumer = "echo"
max_lifetime = "500ms"
"""


class Echo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def peer(self, path="/ws/echo/", **options):
        return self.enterContext(Peer(self.server, path, **options))

    def raw(self, path="/ws/echo/", **options):
        return self.enterContext(RawSocket(self.server, path, **options))

    def test_text_comes_back_as_text_and_binary_as_binary(self):
        peer = self.peer()
        for message in ("hi", "grüße ☕ \U0001f980", b"\x00\x01\xfe\xff", "", b"", "\x00"):
            with self.subTest(message=message):
                peer.send(message)
                self.assertEqual(peer.receive(), message)

    def test_every_form_of_the_length_comes_back_whole(self):
        peer = self.peer()
        for size in (1, 125, 126, 127, 4096, 16384, 65534, LIMIT - 1, LIMIT):
            with self.subTest(size=size):
                message = os.urandom(size)
                peer.send(message)
                self.assertEqual(peer.receive(), message)

    def test_a_message_of_exactly_the_limit_comes_back_and_one_more_byte_is_1009(self):
        peer = self.peer()
        peer.send("a" * LIMIT)
        self.assertEqual(peer.receive(), "a" * LIMIT)
        peer.send("a" * (LIMIT + 1))
        self.assertEqual(peer.closed()[0], 1009)

    def test_a_message_too_big_in_fragments_is_1009(self):
        raw = self.raw()
        raw.say(TEXT, b"a" * LIMIT, fin=False)
        raw.say(CONTINUATION, b"a")
        self.assertEqual(raw.frame().code, 1009)
        self.assertTrue(raw.is_at_end())

    def test_a_length_that_is_only_announced_is_1009_at_once(self):
        for length in (LIMIT + 1, 1 << 32, (1 << 63) - 1):
            with self.subTest(length=length):
                raw = self.raw()
                raw.send(encode(BINARY, b"", length=length))
                self.assertEqual(raw.frame().code, 1009)
                self.assertTrue(raw.is_at_end())

    def test_too_many_fragments_are_1008(self):
        raw = self.raw()
        raw.say(TEXT, b"a", fin=False)
        for _ in range(16):
            raw.say(CONTINUATION, b"a", fin=False)
        self.assertEqual(raw.frame().code, 1008)
        self.assertTrue(raw.is_at_end())

    def test_fragments_with_pings_between_them_are_one_message(self):
        raw = self.raw()
        raw.say(TEXT, b"one ", fin=False)
        raw.say(PING, b"first")
        raw.say(CONTINUATION, "zw\u00f6".encode()[:3], fin=False)
        raw.say(CONTINUATION, b"", fin=False)
        raw.say(PING, b"second")
        raw.say(CONTINUATION, "zw\u00f6".encode()[3:])
        frames = [raw.frame() for _ in range(3)]
        self.assertEqual([(frame.opcode, frame.payload) for frame in frames[:2]], [(PONG, b"first"), (PONG, b"second")])
        self.assertEqual((frames[2].opcode, frames[2].payload.decode()), (TEXT, "one zw\u00f6"))

    def test_a_message_byte_by_byte_is_one_message(self):
        raw = self.raw()
        for byte in encode(TEXT, b"slowly") + encode(PING, b"?"):
            raw.send(bytes([byte]))
        self.assertEqual(raw.frame().payload, b"slowly")
        self.assertEqual((raw.frame().opcode), PONG)

    def test_a_library_that_fragments_by_itself_is_understood(self):
        peer = self.peer()
        peer.send(["a", "", "b", "c" * 1000])
        self.assertEqual(peer.receive(), "ab" + "c" * 1000)

    def test_a_ping_is_answered_with_its_payload(self):
        raw = self.raw()
        for payload in (b"", b"payload", bytes(range(125))):
            raw.say(PING, payload)
            frame = raw.frame()
            self.assertEqual((frame.opcode, frame.payload), (PONG, payload))
        waiter = self.peer().socket.ping("by the library")
        self.assertTrue(waiter.wait(20))

    def test_a_pong_nobody_asked_for_is_ignored(self):
        raw = self.raw()
        raw.say(PONG, b"unasked")
        raw.say(TEXT, b"hi")
        self.assertEqual(raw.frame().payload, b"hi")

    def test_what_is_sent_along_with_the_handshake_is_not_lost(self):
        raw = self.raw(send_along=encode(TEXT, b"early") + encode(PING, b"bird"))
        self.assertEqual(raw.frame().payload, b"early")
        self.assertEqual(raw.frame().payload, b"bird")

    def test_a_burst_of_messages_comes_back_in_order(self):
        raw = self.raw()
        count = 2000
        raw.send(b"".join(encode(TEXT, b"%d" % number) for number in range(count)))
        self.assertEqual([raw.frame().payload for _ in range(count)], [b"%d" % number for number in range(count)])

    def test_an_application_close_is_echoed_with_its_code(self):
        raw = self.raw()
        raw.say(CLOSE, close_payload(4001, b"bye"))
        frame = raw.frame()
        self.assertEqual(frame.code, 4001)
        self.assertTrue(raw.is_at_end())
        peer = self.peer()
        peer.socket.close(4001, "bye")
        self.assertEqual(peer.socket.close_exc.rcvd.code, 4001)

    def test_every_close_code_a_client_may_send_is_echoed(self):
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999):
            with self.subTest(code=code):
                raw = self.raw()
                raw.say(CLOSE, close_payload(code, b"x" * 123))
                self.assertEqual(raw.frame().code, code)
                self.assertTrue(raw.is_at_end())

    def test_a_close_without_a_code_is_answered_without_one_or_with_1000(self):
        raw = self.raw()
        raw.say(CLOSE)
        self.assertIn(raw.frame().code, (1000, 1005))
        self.assertTrue(raw.is_at_end())

    def test_what_was_said_before_a_close_is_answered_before_it(self):
        raw = self.raw()
        raw.send(encode(TEXT, b"one") + encode(TEXT, b"two") + encode(CLOSE, close_payload(1000)))
        self.assertEqual([raw.frame().payload for _ in range(2)], [b"one", b"two"])
        self.assertEqual(raw.frame().code, 1000)
        self.assertTrue(raw.is_at_end())

    def test_what_follows_a_close_is_not_answered(self):
        raw = self.raw()
        raw.send(encode(CLOSE, close_payload(1000)) + encode(TEXT, b"late") + encode(PING, b"late"))
        self.assertEqual(raw.frame().code, 1000)
        self.assertEqual(raw.rest(), b"")

    def test_the_first_subprotocol_of_the_client_that_the_route_speaks_is_chosen(self):
        for offered, chosen in (
            (["v1.chat"], "v1.chat"),
            (["v1.chat", "v2.chat"], "v1.chat"),
            (["v9.chat", "v2.chat"], "v2.chat"),
            (["v9.chat"], None),
            (None, None),
        ):
            with self.subTest(offered=offered):
                self.assertEqual(self.peer("/ws/spoken/", subprotocols=offered).socket.subprotocol, chosen)

    def test_a_library_that_offers_compression_gets_through_whatever_the_route_answers(self):
        for path in ("/ws/echo/", "/ws/deflate/"):
            with self.subTest(path=path):
                peer = self.peer(path, compression="deflate")
                for message in ("short", "long " * 4000, os.urandom(4000)):
                    peer.send(message)
                    self.assertEqual(peer.receive(), message)

    def test_a_sans_io_client_agrees(self):
        sock = self.enterContext(Bytes(("127.0.0.1", self.server.port))).socket
        ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        origin = [(b"origin", self.server.origin.encode())]
        sock.sendall(ws.send(Request(host=self.server.host, target="/ws/echo/", extra_headers=origin)))
        seen = []

        def next_event():
            while not seen:
                ws.receive_data(sock.recv(65536) or None)
                seen.extend(ws.events())
            return seen.pop(0)

        self.assertIsInstance(next_event(), AcceptConnection)
        sock.sendall(ws.send(TextMessage("hi")) + ws.send(BytesMessage(b"\x00")) + ws.send(Ping(b"42")))
        got = [next_event() for _ in range(3)]
        self.assertEqual([type(event) for event in got], [TextMessage, BytesMessage, Pong])
        self.assertEqual([bytes(event.payload) for event in got[2:]], [b"42"])
        sock.sendall(ws.send(CloseConnection(4002, "done")))
        self.assertEqual(next_event().code, 4002)

    def test_a_silent_client_is_pinged_and_one_that_answers_stays(self):
        raw = self.raw("/ws/alive/")
        for _ in range(4):
            frame = raw.frame()
            self.assertEqual(frame.opcode, PING)
            raw.say(PONG, frame.payload)
        raw.say(TEXT, b"alive")
        self.assertEqual(raw.frame().payload, b"alive")

    def test_a_client_that_answers_no_ping_is_let_go(self):
        raw = self.raw("/ws/alive/")
        self.assertEqual(raw.frame().opcode, PING)
        raw.rest()
        self.ended_with("alive", "ping_timeout")

    def test_an_idle_socket_and_an_old_one_are_closed_with_1000(self):
        for name, cause in (("idle", "idle_timeout"), ("brief", "lifetime")):
            with self.subTest(name=name):
                self.assertEqual(self.peer(f"/ws/{name}/").closed()[0], 1000)
                self.ended_with(name, cause)

    def ended_with(self, route, cause):
        metric = "oneport_websockets_closed_total"
        until(lambda: self.server.metric(metric, route=route, cause=cause) >= 1, f"a socket that ended by {cause}")


if __name__ == "__main__":
    unittest.main()
