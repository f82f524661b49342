"""A client with the `wsproto` library, which does no I/O: plain, compressed, and with protocol errors."""

import itertools
import os
import unittest
from collections import deque

import wsproto
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

from kit.deadline import until
from kit.frames import Bytes
from kit.server import Server

CONFIG = """
[websocket]
close_timeout = "2s"
max_message = "2 MiB"

[[websocket.route]]
path = "/ws/fresh/"
name = "fresh"
consumer = "echo"
subprotocols = ["v2", "v1"]
compression_threshold = "0 B"

[[websocket.route]]
path = "/ws/kept/"
name = "kept"
consumer = "echo"
compression_threshold = "0 B"
server_context_takeover = true
client_context_takeover = true

[[websocket.route]]
path = "/ws/small/"
name = "small"
consumer = "echo"
compression_threshold = "0 B"
server_context_takeover = true
client_context_takeover = true
server_max_window_bits = 9
client_max_window_bits = 10

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
path = "/ws/listen/"
name = "listen"
consumer = "feed"
options = { groups = ["news"] }

[[websocket.route]]
path = "/ws/brief/"
name = "brief"
consumer = "echo"
max_lifetime = "300ms"

[[websocket.route]]
path = "/ws/alive/"
name = "alive"
consumer = "echo"
ping_interval = "200ms"
pong_timeout = "1s"
"""


class Broken(Extension):
    """An extension that the server never agreed to, and that changes each frame as a test wants."""

    name = "x-broken"

    def __init__(self, change):
        self._change = change

    def enabled(self):
        return True

    def offer(self):
        return True

    def finalize(self, offer):
        raise AssertionError(f"expected the server to pass over an extension it does not know, found {offer}")

    def frame_outbound(self, proto, opcode, rsv, data, fin):
        return self._change(opcode, rsv, data)


class Client:
    def __init__(self, server, path, *, extensions=(), subprotocols=(), headers=(), target=None):
        self._bytes = Bytes(("127.0.0.1", server.port))
        self.ws = wsproto.WSConnection(ConnectionType.CLIENT)
        self._events = deque()
        self._bytes.send(
            self.ws.send(
                Request(
                    host=server.host,
                    target=path,
                    extensions=list(extensions),
                    subprotocols=list(subprotocols),
                    extra_headers=[(b"origin", server.origin.encode()), *headers],
                )
            )
        )
        self.answer = self.event()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()

    def cut(self):
        self._bytes.socket.close()

    def event(self):
        while not self._events:
            self.ws.receive_data(self._bytes.socket.recv(1 << 16) or None)
            self._events.extend(self.ws.events())
        return self._events.popleft()

    def send(self, *events):
        self._bytes.send(b"".join(self.ws.send(event) for event in events))

    def say(self, message, *, is_last=True):
        self.send((TextMessage if isinstance(message, str) else BytesMessage)(message, message_finished=is_last))

    def receive(self):
        parts = []
        while True:
            event = self.event()
            assert isinstance(event, (TextMessage, BytesMessage)), f"expected a message, found {event}"
            parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            if event.message_finished:
                return ("" if isinstance(event, TextMessage) else b"").join(parts)

    def closed(self):
        """Returns code and reason of the close frame that comes next."""
        event = self.event()
        assert isinstance(event, CloseConnection), f"expected a close frame, found {event}"
        return int(event.code), event.reason

    def is_at_end(self):
        return self._bytes.is_at_end()


MESSAGES = [
    "",
    b"",
    "a",
    *(b"\x07" * size for size in (125, 126, 65535, 65536)),
    "grüße ☕ \U0001f980 " * 5000,
    os.urandom(65536),
    "said before " * 200,
    "said before " * 200,
    b"\x00" * (256 << 10),
]

# What each client wants, and whether anything can be compressed.
KINDS = {
    "plain": lambda: [],
    "deflate": lambda: [PerMessageDeflate()],
    "nothing kept": lambda: [PerMessageDeflate(client_no_context_takeover=True, server_no_context_takeover=True)],
    "small windows": lambda: [PerMessageDeflate(client_max_window_bits=9, server_max_window_bits=9)],
    "middle windows": lambda: [PerMessageDeflate(client_max_window_bits=11, server_max_window_bits=13)],
}
PATHS = ("/ws/fresh/", "/ws/kept/", "/ws/small/", "/ws/off/")


class SansIo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def client(self, path="/ws/fresh/", **options):
        return self.enterContext(Client(self.server, path, **options))

    def each(self, talk):
        """Lets a client of each kind talk on each route."""
        for path, (kind, extensions) in itertools.product(PATHS, KINDS.items()):
            with self.subTest(path=path, kind=kind):
                talk(self.client(path, extensions=extensions()))

    def ended_with(self, route, cause, before):
        metric = "oneport_websockets_closed_total"
        until(lambda: self.server.metric(metric, route=route, cause=cause) > before, f"a socket that ended by {cause}")

    def test_every_message_comes_back_as_it_was(self):
        def talk(client):
            self.assertIsInstance(client.answer, AcceptConnection)
            for message in MESSAGES:
                client.say(message)
                self.assertEqual(client.receive(), message)

        self.each(talk)

    def test_what_is_agreed_is_what_both_can_do(self):
        for path, kind, agreed in (
            ("/ws/fresh/", "plain", None),
            ("/ws/off/", "deflate", None),
            ("/ws/fresh/", "deflate", (True, True, 15, 15)),
            ("/ws/kept/", "deflate", (False, False, 15, 15)),
            ("/ws/kept/", "nothing kept", (True, True, 15, 15)),
            ("/ws/kept/", "middle windows", (False, False, 11, 13)),
            ("/ws/small/", "deflate", (False, False, 10, 9)),
            ("/ws/small/", "small windows", (False, False, 9, 9)),
        ):
            with self.subTest(path=path, kind=kind):
                extensions = self.client(path, extensions=KINDS[kind]()).answer.extensions
                found = [
                    (
                        one.client_no_context_takeover,
                        one.server_no_context_takeover,
                        one.client_max_window_bits,
                        one.server_max_window_bits,
                    )
                    for one in extensions
                ]
                self.assertEqual(found, [] if agreed is None else [agreed])

    def test_a_message_in_fragments_with_pings_between_them_comes_back_whole(self):
        def talk(client):
            parts = ["one ", "", "zwö ", "☕" * 1000, "\U0001f980"]
            for number, part in enumerate(parts):
                client.say(part, is_last=number == len(parts) - 1)
                client.send(Ping(b"%d" % number))
            pongs = []
            while isinstance(event := client.event(), Pong):
                pongs.append(bytes(event.payload))
            self.assertEqual(event.data, "".join(parts))
            while len(pongs) < len(parts):
                pongs.append(bytes(client.event().payload))
            self.assertEqual(pongs, [b"%d" % number for number in range(len(parts))])

        self.each(talk)

    def test_a_ping_is_answered_with_its_payload_and_a_pong_with_nothing(self):
        def talk(client):
            for payload in (b"", b"payload", b"\xff" * 125):
                client.send(Pong(b"unasked"), Ping(payload))
                event = client.event()
                self.assertIsInstance(event, Pong)
                self.assertEqual(bytes(event.payload), payload)

        self.each(talk)

    def test_the_servers_ping_can_be_answered_with_what_the_library_says(self):
        client = self.client("/ws/alive/", extensions=[PerMessageDeflate()])
        for _ in range(3):
            event = client.event()
            self.assertIsInstance(event, Ping)
            client.send(event.response())
        client.say("alive")
        self.assertEqual(client.receive(), "alive")

    def test_two_hundred_messages_that_are_all_under_way_come_back_in_order(self):
        def talk(client):
            messages = [f"message {number % 11} " * (number % 60) for number in range(200)]
            client.send(*(TextMessage(message) for message in messages))
            self.assertEqual([client.receive() for _ in messages], messages)

        self.each(talk)

    def test_the_clients_close_comes_back_with_its_code(self):
        before = self.server.metric("oneport_websockets_closed_total", route="kept", cause="client_close")
        for code, reason in ((1000, None), (1001, "away"), (1007, ""), (3000, "ü" * 61), (4999, "x" * 123)):
            for extensions in ([], [PerMessageDeflate()]):
                with self.subTest(code=code):
                    client = self.client("/ws/kept/", extensions=extensions)
                    client.send(CloseConnection(code, reason))
                    self.assertEqual(client.closed()[0], code)
                    self.assertIs(client.ws.state, ConnectionState.CLOSED)
                    self.assertTrue(client.is_at_end())
                    self.ended_with("kept", "client_close", before)
                    before += 1

    def test_a_close_without_a_code_comes_back_without_one(self):
        client = self.client()
        client.send(CloseConnection(CloseReason.NO_STATUS_RCVD))
        self.assertEqual(client.closed()[0], 1005)
        self.assertTrue(client.is_at_end())

    def test_the_servers_close_has_code_and_reason_and_is_answered(self):
        for path, speaks, expected in (
            ("/ws/listen/", True, (1008, "this socket is for listening")),
            ("/ws/brief/", False, (1000, "the connection reached its maximum lifetime")),
        ):
            for extensions in ([], [PerMessageDeflate()]):
                with self.subTest(path=path):
                    client = self.client(path, extensions=extensions)
                    if speaks:
                        client.say("a word")
                    event = client.event()
                    self.assertIsInstance(event, CloseConnection)
                    self.assertEqual(event.code, expected[0])
                    if speaks:
                        self.assertEqual(event.reason, expected[1])
                    client.send(event.response())
                    self.assertTrue(client.is_at_end())

    def test_what_was_said_before_a_close_is_answered_before_it(self):
        def talk(client):
            client.send(TextMessage("one"), BytesMessage(b"two"), CloseConnection(1000, "done"))
            self.assertEqual((client.receive(), client.receive()), ("one", b"two"))
            self.assertEqual(client.closed()[0], 1000)

        self.each(talk)

    def test_a_subprotocol_is_chosen_and_a_foreign_one_is_not(self):
        for offered, chosen in ((["v1"], "v1"), (["v9", "v2", "v1"], "v2"), (["v9"], None), ([], None)):
            self.assertEqual(self.client(subprotocols=offered).answer.subprotocol, chosen)

    def test_a_refusal_has_its_status_and_a_sentence(self):
        for path, status in (("/ws/nothing/", 404), ("/health/", 404)):
            client = self.client(path)
            self.assertIsInstance(client.answer, RejectConnection)
            self.assertEqual(client.answer.status_code, status)
            event = client.event()
            self.assertIsInstance(event, RejectData)
            self.assertTrue(event.data)

    def test_a_message_over_the_limit_is_1009_plain_or_compressed(self):
        before = self.server.metric("oneport_websockets_closed_total", route="narrow", cause="too_big")
        for extensions in ([], [PerMessageDeflate()]):
            for message in ("a" * 4097, os.urandom(4097), b"\x00" * (1 << 20)):
                client = self.client("/ws/narrow/", extensions=extensions)
                client.say(message[:4096])
                self.assertEqual(client.receive(), message[:4096])
                client.say(message)
                self.assertEqual(client.closed()[0], 1009)
                client.cut()
                self.ended_with("narrow", "too_big", before)
                before += 1

    def test_close_codes_that_may_not_be_sent_are_1002(self):
        for code in (0, 1, 999, 1004, 1016, 1100, 2000, 2999, 5000, 65535):
            with self.subTest(code=code):
                client = self.client()
                client.send(CloseConnection(code, "wrong"))
                self.assertEqual(client.closed()[0], 1002)
                self.assertTrue(client.is_at_end())

    def test_what_an_extension_nobody_agreed_to_does_to_frames_is_1002(self):
        def reserved(*bits):
            return lambda opcode, rsv, data: (RsvBits(*bits), data)

        for what, change in (
            ("the first bit", reserved(True, False, False)),
            ("the second bit", reserved(False, True, False)),
            ("the third bit", reserved(False, False, True)),
        ):
            for event in (TextMessage("a"), BytesMessage(b"a"), Ping(b"a"), CloseConnection(1000)):
                with self.subTest(what=what, event=event):
                    client = self.client("/ws/kept/")
                    client.ws = Connection(ConnectionType.CLIENT, [Broken(change)])
                    client.send(event)
                    self.assertEqual(client.closed()[0], 1002)
                    self.assertTrue(client.is_at_end())

    def test_an_extension_that_the_server_does_not_know_is_passed_over(self):
        def unchanged(opcode, rsv, data):
            return rsv, data

        client = self.client("/ws/kept/", extensions=[Broken(unchanged), PerMessageDeflate()])
        self.assertEqual([extension.name for extension in client.answer.extensions], ["permessage-deflate"])
        client.say("hello")
        self.assertEqual(client.receive(), "hello")

    def test_compressed_data_that_is_broken_on_the_way_is_1007(self):
        class Torn(PerMessageDeflate):
            def frame_outbound(self, proto, opcode, rsv, data, fin):
                rsv, data = super().frame_outbound(proto, opcode, rsv, data, fin)
                return rsv, b"\xff" * 8 + data if opcode is Opcode.BINARY else data

        for path in ("/ws/fresh/", "/ws/kept/"):
            client = self.client(path, extensions=[Torn()])
            client.say("whole")
            self.assertEqual(client.receive(), "whole")
            client.say(b"torn")
            self.assertEqual(client.closed()[0], 1007)
            self.assertTrue(client.is_at_end())

    def test_a_control_frame_between_fragments_that_is_compressed_is_1002(self):
        class Eager(PerMessageDeflate):
            def frame_outbound(self, proto, opcode, rsv, data, fin):
                if opcode.iscontrol():
                    return RsvBits(True, False, False), data
                return super().frame_outbound(proto, opcode, rsv, data, fin)

        client = self.client("/ws/kept/", extensions=[Eager()])
        client.say("begun ", is_last=False)
        client.send(Ping(b"a"))
        self.assertEqual(client.closed()[0], 1002)

    def test_a_window_larger_than_agreed_is_noticed_or_harmless(self):
        """A client that keeps more context than it announced is either understood or closed with 1007, and never gets wrong bytes back."""

        class Generous(PerMessageDeflate):
            def finalize(self, offer):
                super().finalize(offer)
                self.client_max_window_bits = 15

        block = os.urandom(3000)
        client = self.client("/ws/small/", extensions=[Generous()])
        client.say(block)
        self.assertEqual(bytes(client.receive()), block)
        client.say(block)
        event = client.event()
        if isinstance(event, CloseConnection):
            self.assertEqual(event.code, 1007)
        else:
            self.assertEqual(bytes(event.data), block)


if __name__ == "__main__":
    unittest.main()
