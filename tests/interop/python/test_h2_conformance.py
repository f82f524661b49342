"""Conformance of HTTP/2 (RFC 9113) and of its header compression (RFC 7541), frame by frame, over TLS and with prior knowledge.

Each case sends bytes that the protocol forbids, or that it demands to be accepted, and names the error that the server must
answer. An error of a stream may also be reported as one of the connection, and the end of the connection must follow.

The library h2 has one code for every frame that it cannot decode, and for some that come too late: PROTOCOL_ERROR, where the
RFC has FRAME_SIZE_ERROR, COMPRESSION_ERROR or STREAM_CLOSED. `VAGUE` allows that, and nothing else.
"""

import socket
import struct
import time
import unittest

from hpack import Decoder, Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from kit.deadline import DEADLINE
from kit.frames import Bytes
from kit.server import Server
from kit.tls import Authority, SecureBytes, SecureServer

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page of 20 bytes.." }

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[http.route]]
path = "/events/"
view = "events"
options = { group = "news" }
"""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1

PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM = 1, 3, 5, 6, 7
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5

# The codes in whose place h2 reports PROTOCOL_ERROR.
VAGUE = {FRAME_SIZE_ERROR, COMPRESSION_ERROR, STREAM_CLOSED}

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """Encodes a frame, a wrong one too: `length` announces another length than the payload has."""
    announced = len(payload) if length is None else length
    return struct.pack("!I", announced)[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def settings(*pairs, flags=0, stream=0):
    return frame(SETTINGS, flags, stream, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def allowed(codes):
    return {*codes, PROTOCOL_ERROR} if VAGUE.intersection(codes) else set(codes)


class Speaker:
    """A client that sends what a case wants."""

    def __init__(self, opened, first=settings()):
        self._bytes = opened
        self._encoder, self._decoder = Encoder(), Decoder()
        self.scheme = "http"
        self.send(PREFACE + first)
        kind, flags, _, _ = self.read()
        assert (kind, flags) == (SETTINGS, 0), f"expected SETTINGS first, found {kind}"
        self.send(settings(flags=ACK))

    def send(self, *frames):
        try:
            self._bytes.send(b"".join(frames))
        except OSError:
            pass  # the server has closed the connection already: what it has said is read

    def read(self):
        """Reads the next frame; raises `EOFError` at the end."""
        try:
            head = self._bytes.exactly(9)
            length = int.from_bytes(head[:3], "big")
            return head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, self._bytes.exactly(length)
        except ConnectionResetError:
            raise EOFError("expected a frame, found a reset") from None

    def fields(self, method="GET", path="/page/", more=(), without=(), pseudo=()):
        fields = [(":method", method), (":scheme", self.scheme), (":path", path), (":authority", "localhost"), *pseudo]
        return [field for field in fields if field[0] not in without] + list(more)

    def block(self, *arguments, **options):
        return self._encoder.encode(self.fields(*arguments, **options), huffman=False)

    def encode(self, fields):
        return self._encoder.encode(fields, huffman=False)

    def headers(self, stream=1, flags=END_HEADERS | END_STREAM, **options):
        return frame(HEADERS, flags, stream, self.block(**options))

    def goaway(self, *codes):
        """Waits for the end of the connection with one of these errors."""
        while True:
            try:
                kind, _, _, payload = self.read()
            except EOFError:
                raise AssertionError(f"expected GOAWAY {codes}, found the end alone") from None
            if kind == GOAWAY:
                code = struct.unpack("!I", payload[4:8])[0]
                if code == 0:
                    continue
                assert code in allowed(codes), f"expected GOAWAY {codes}, found {code}"
                return

    def reset(self, stream, *codes):
        """Waits for the end of a stream with one of these errors, or that of the connection."""
        while True:
            try:
                kind, flags, found, payload = self.read()
            except EOFError:
                raise AssertionError(f"expected RST_STREAM {codes}, found the end") from None
            if kind == RST_STREAM and found == stream:
                code = struct.unpack("!I", payload)[0]
                assert code in allowed(codes), f"expected RST_STREAM {codes}, found {code}"
                return
            if kind == GOAWAY:
                code = struct.unpack("!I", payload[4:8])[0]
                assert code in allowed(codes), f"expected RST_STREAM {codes}, found GOAWAY {code}"
                return
            if kind == HEADERS and found == stream:
                status = dict(self._decoder.decode(payload))[":status"]
                assert status == "400", f"expected RST_STREAM {codes}, found {status}"
                return  # a malformed request may be answered (RFC 9113 §8.1.1)

    def answered(self, stream=1, status="200"):
        """Waits for a whole answer; returns its body."""
        body = b""
        while True:
            kind, flags, found, payload = self.read()
            assert kind != GOAWAY, f"expected an answer on stream {stream}, found GOAWAY {payload!r}"
            assert not (kind == RST_STREAM and found == stream), f"expected an answer, found RST_STREAM {payload!r}"
            if kind == HEADERS:
                fields = dict(self._decoder.decode(payload))
                if found == stream:
                    assert fields[":status"] == status, f"expected {status}, found {fields}"
            if kind == DATA and found == stream:
                body += payload
            if kind in (HEADERS, DATA) and found == stream and flags & END_STREAM:
                return body

    def works(self, stream):
        """The connection goes on."""
        self.send(self.headers(stream))
        self.answered(stream)

    def until(self, kind, flags=0):
        """Waits for a frame of this kind and returns its payload; others before it are passed over."""
        while True:
            found, found_flags, stream, payload = self.read()
            assert found != GOAWAY, f"expected frame {kind}, found GOAWAY {payload!r}"
            if found == HEADERS:
                self._decoder.decode(payload)
            if found == kind and found_flags & flags == flags:
                return stream, payload

    def ended(self):
        """Waits for the end of the connection."""
        try:
            while True:
                self.read()
        except EOFError:
            pass


class Cases:
    """The cases; a subclass opens the connection."""

    def open(self):
        raise NotImplementedError

    def client(self, first=settings()):
        opened = self.open()
        self.addCleanup(opened.socket.close)
        opened.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        speaker = Speaker(opened, first)
        speaker.scheme = self.SCHEME
        return speaker

    def goaway(self, codes, *frames, first=settings()):
        """Frames, or functions of the client that make them, that are an error of the connection."""
        codes = codes if isinstance(codes, tuple) else (codes,)
        client = self.client(first)
        client.send(*(made(client) if callable(made) else made for made in frames))
        client.goaway(*codes)
        client.ended()

    def reset(self, codes, *frames, stream=1):
        codes = codes if isinstance(codes, tuple) else (codes,)
        client = self.client()
        client.send(*(made(client) if callable(made) else made for made in frames))
        client.reset(stream, *codes)

    def malformed(self, fields, *more):
        """A request with these fields is malformed (§8.1.1)."""
        client = self.client()
        made = fields(client) if callable(fields) else fields
        flags = END_HEADERS if more else END_HEADERS | END_STREAM
        client.send(frame(HEADERS, flags, 1, client.encode(made)), *more)
        client.reset(1, PROTOCOL_ERROR)

    # §3.4

    def test_3_4_settings_come_first(self):
        client = self.client()
        client.until(SETTINGS, ACK)
        client.works(1)

    def test_3_4_another_preface_ends_the_connection(self):
        with self.open() as opened:
            opened.send(PREFACE[:20] + b"XXXX")
            opened.socket.shutdown(socket.SHUT_WR) if self.SCHEME == "http" else None
            opened.rest()

    def test_3_4_other_words_are_not_answered_in_http1(self):
        agreed = [b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n"] if self.SCHEME == "https" else []
        for words in (b"INVALID CONNECTION PREFACE\r\n\r\n", *agreed):
            with self.subTest(words), self.open() as opened:
                opened.send(words)
                self.assertNotIn(b"HTTP/1", opened.rest())

    # §4

    def test_4_1_unknown_frames_flags_and_the_reserved_bit_are_ignored(self):
        client = self.client()
        client.send(frame(0x16, 0xFF, 0, b"ignored"), frame(0x16, 0, 1, bytes(100)))
        client.send(frame(PING, 0x16, 0, b"12345678"))
        self.assertEqual(client.until(PING, ACK)[1], b"12345678")
        client.send(frame(PING, 0, 1 << 31, b"reserved"))
        self.assertEqual(client.until(PING, ACK)[1], b"reserved")
        client.works(1)

    def test_4_2_a_frame_of_the_largest_size_is_accepted(self):
        client = self.client()
        client.send(client.headers(flags=END_HEADERS, method="POST"), frame(DATA, END_STREAM, 1, bytes(1 << 14)))
        client.answered(1)

    def test_4_2_larger_frames_are_refused(self):
        too_large = bytes((1 << 14) + 1)
        self.goaway(FRAME_SIZE_ERROR, lambda c: c.headers(flags=END_HEADERS, method="POST"), frame(DATA, END_STREAM, 1, too_large))
        self.goaway(FRAME_SIZE_ERROR, frame(HEADERS, END_HEADERS, 1, too_large))
        self.goaway(FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, bytes(6 * 2731)))

    def test_4_3_a_broken_block_is_an_error_of_compression(self):
        self.goaway(COMPRESSION_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff"))

    def test_4_3_a_block_is_not_interrupted(self):
        begun = lambda c: c.headers(flags=END_STREAM)  # noqa: E731
        for between in (
            frame(PRIORITY, 0, 1, bytes(3) + b"\x03\x10"),
            frame(PRIORITY, 0, 3, bytes(3) + b"\x01\x10"),
            lambda c: c.headers(3),
            frame(PING, 0, 0, bytes(8)),
            frame(DATA, 0, 1, b"x"),
            frame(0x16, 0, 0, b"unknown"),
            settings(),
            frame(CONTINUATION, END_HEADERS, 3, b""),
        ):
            with self.subTest(between):
                self.goaway(PROTOCOL_ERROR, begun, between)

    # §5.1

    def test_5_1_idle_streams_take_headers_and_priority_only(self):
        self.goaway(PROTOCOL_ERROR, frame(DATA, END_STREAM, 1, b"test"))
        self.goaway(PROTOCOL_ERROR, frame(RST_STREAM, 0, 1, struct.pack("!I", 8)))
        self.goaway(PROTOCOL_ERROR, frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 100)))
        self.goaway(PROTOCOL_ERROR, frame(CONTINUATION, END_HEADERS, 1, b""))
        client = self.client()
        client.send(frame(PRIORITY, 0, 3, bytes(3) + b"\x01\x10"))
        client.works(1)

    def test_5_1_half_closed_streams_take_no_more_of_the_request(self):
        # No window: the answer is not sent, so that the stream stays half-closed.
        stalled = settings((INITIAL_WINDOW_SIZE, 0))
        for late in (frame(DATA, END_STREAM, 1, b"test"), lambda c: c.headers(1)):
            with self.subTest(late):
                client = self.client(stalled)
                client.send(client.headers(1), late(client) if callable(late) else late)
                self.expect(client, 1, STREAM_CLOSED)
        self.goaway((STREAM_CLOSED, PROTOCOL_ERROR), lambda c: c.headers(1), frame(CONTINUATION, END_HEADERS, 1, b""), first=stalled)

    def expect(self, client, stream, *codes):
        """Waits for an error of the stream or of the connection; an answer before it is passed over."""
        while True:
            try:
                kind, _, found, payload = client.read()
            except EOFError:
                raise AssertionError(f"expected an error of {codes}, found the end") from None
            if kind == RST_STREAM and found == stream or kind == GOAWAY:
                code = struct.unpack("!I", payload[:4] if kind == RST_STREAM else payload[4:8])[0]
                if code == 0:
                    continue  # the answer was complete without the rest of the request
                self.assertIn(code, allowed(codes))
                return

    def test_5_1_streams_that_the_client_reset_are_closed(self):
        cancelled = frame(RST_STREAM, 0, 1, struct.pack("!I", 8))
        for late in (frame(DATA, END_STREAM, 1, b"test"), lambda c: c.headers(1)):
            with self.subTest(late):
                client = self.client()
                client.send(client.headers(1, flags=END_HEADERS, method="POST"), cancelled)
                client.send(late(client) if callable(late) else late)
                self.expect(client, 1, STREAM_CLOSED)
        self.goaway(
            (STREAM_CLOSED, PROTOCOL_ERROR), lambda c: c.headers(1, flags=END_HEADERS), cancelled, frame(CONTINUATION, END_HEADERS, 1, b"")
        )

    def test_5_1_streams_that_were_answered_are_closed(self):
        for late in (frame(DATA, END_STREAM, 1, b"test"), lambda c: c.headers(1), frame(CONTINUATION, END_HEADERS, 1, b"")):
            with self.subTest(late):
                client = self.client()
                client.works(1)
                client.send(late(client) if callable(late) else late)
                self.expect(client, 1, STREAM_CLOSED, PROTOCOL_ERROR)

    def test_5_1_1_identifiers_are_odd_and_grow(self):
        self.goaway(PROTOCOL_ERROR, lambda c: c.headers(2))
        self.goaway((PROTOCOL_ERROR, STREAM_CLOSED), lambda c: c.headers(5), lambda c: c.headers(3))

    def test_5_1_2_streams_over_the_limit_are_refused(self):
        client = self.client(settings((INITIAL_WINDOW_SIZE, 0)))
        for stream in range(1, 2 * 251 + 1, 2):
            client.send(client.headers(stream))
        self.expect(client, 501, REFUSED_STREAM, PROTOCOL_ERROR)

    # §5.3 to §5.5

    def test_5_3_a_stream_does_not_depend_on_itself(self):
        priority = struct.pack("!IB", 1, 255)
        self.reset(PROTOCOL_ERROR, lambda c: frame(HEADERS, END_HEADERS | END_STREAM | HAS_PRIORITY, 1, priority + c.block()))
        self.reset(PROTOCOL_ERROR, frame(PRIORITY, 0, 1, priority))

    def test_5_3_priorities_are_accepted(self):
        client = self.client()
        priority = struct.pack("!IB", 3 | 1 << 31, 255)
        client.send(frame(HEADERS, END_HEADERS | END_STREAM | HAS_PRIORITY, 1, priority + client.block()))
        client.answered(1)

    def test_5_3_priorities_change_nothing(self):
        for what, payload in (
            ("the lowest weight", struct.pack("!IB", 0, 0)),
            ("the highest weight", struct.pack("!IB", 0, 255)),
            ("a stream that it depends on", struct.pack("!IB", 5, 15)),
            ("a stream that it depends on alone", struct.pack("!IB", 5 | 1 << 31, 15)),
        ):
            with self.subTest(what):
                client = self.client()
                client.send(frame(PRIORITY, 0, 1, payload))
                client.works(1)
        with self.subTest("an idle stream, and then a request on a lower one"):
            client = self.client()
            client.send(frame(PRIORITY, 0, 5, struct.pack("!IB", 0, 15)))
            client.works(1)
            client.works(3)

    def test_5_1_half_closed_streams_take_what_controls_them(self):
        stalled = settings((INITIAL_WINDOW_SIZE, 0))
        priority = frame(PRIORITY, 0, 1, struct.pack("!IB", 0, 15))
        with self.subTest("WINDOW_UPDATE"):
            client = self.client(stalled)
            client.send(client.headers(1), frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 100)))
            client.answered(1)
        with self.subTest("PRIORITY"):
            client = self.client(stalled)
            client.send(client.headers(1), priority, frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 100)))
            client.answered(1)
        with self.subTest("RST_STREAM"):
            client = self.client()
            client.send(client.headers(1), frame(RST_STREAM, 0, 1, struct.pack("!I", 8)))
            client.works(3)
        with self.subTest("PRIORITY on a closed stream"):
            client = self.client()
            client.works(1)
            client.send(priority)
            client.works(3)

    # §6

    def test_6_1_data_in_several_frames(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST"))
        client.send(frame(DATA, 0, 1, b"te"), frame(DATA, 0, 1, b""), frame(DATA, 0, 1, b"s"), frame(DATA, END_STREAM, 1, b"t"))
        client.answered(1)

    def test_6_1_data(self):
        self.goaway(PROTOCOL_ERROR, frame(DATA, 0, 0, b"test"))
        posted = lambda c: c.headers(1, flags=END_HEADERS, method="POST")  # noqa: E731
        self.goaway(PROTOCOL_ERROR, posted, frame(DATA, END_STREAM | PADDED, 1, b"\x05test"))
        self.goaway((PROTOCOL_ERROR, FRAME_SIZE_ERROR), posted, frame(DATA, END_STREAM | PADDED, 1, b""))
        client = self.client()
        client.send(posted(client), frame(DATA, END_STREAM | PADDED, 1, b"\x06test" + bytes(6)))
        client.answered(1)

    def test_6_2_headers(self):
        self.goaway(PROTOCOL_ERROR, lambda c: c.headers(0))
        self.goaway(PROTOCOL_ERROR, lambda c: frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\xff" + c.block()))
        client = self.client()
        client.send(frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\x03" + client.block() + bytes(3)))
        client.answered(1)

    def test_6_3_priority(self):
        self.goaway(PROTOCOL_ERROR, frame(PRIORITY, 0, 0, bytes(3) + b"\x01\x10"))
        self.reset(FRAME_SIZE_ERROR, lambda c: c.headers(1, flags=END_HEADERS, method="POST"), frame(PRIORITY, 0, 1, bytes(4)))

    def test_6_4_rst_stream(self):
        self.goaway(PROTOCOL_ERROR, frame(RST_STREAM, 0, 0, struct.pack("!I", 8)))
        self.goaway(PROTOCOL_ERROR, frame(RST_STREAM, 0, 1, struct.pack("!I", 8)))
        posted = lambda c: c.headers(1, flags=END_HEADERS, method="POST")  # noqa: E731
        self.goaway(FRAME_SIZE_ERROR, posted, frame(RST_STREAM, 0, 1, bytes(3)))

    def test_6_5_settings(self):
        self.goaway(FRAME_SIZE_ERROR, settings((1, 1), flags=ACK))
        self.goaway(PROTOCOL_ERROR, settings((MAX_CONCURRENT_STREAMS, 10), stream=1))
        self.goaway(FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, bytes(3)))
        self.goaway(PROTOCOL_ERROR, settings((ENABLE_PUSH, 2)))
        self.goaway((FLOW_CONTROL_ERROR, PROTOCOL_ERROR), settings((INITIAL_WINDOW_SIZE, 1 << 31)))  # h2: as of any other value
        self.goaway(PROTOCOL_ERROR, settings((MAX_FRAME_SIZE, (1 << 14) - 1)))
        self.goaway(PROTOCOL_ERROR, settings((MAX_FRAME_SIZE, 1 << 24)))

    def test_6_5_settings_are_acknowledged_and_unknown_ones_ignored(self):
        client = self.client()
        client.until(SETTINGS, ACK)
        client.send(settings((0xFF, 1), (MAX_CONCURRENT_STREAMS, 100)))
        client.until(SETTINGS, ACK)
        client.works(1)

    def test_6_5_3_the_last_value_counts(self):
        client = self.client(settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)))
        client.send(client.headers(1))
        self.assertEqual(len(client.until(DATA)[1]), 1)

    def test_6_6_a_client_does_not_push(self):
        self.goaway(PROTOCOL_ERROR, lambda c: frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 2) + c.block()))

    def test_6_7_ping(self):
        client = self.client()
        client.send(frame(PING, ACK, 0, b"unasked!"), frame(PING, 0, 0, b"question"))
        self.assertEqual(client.until(PING, ACK)[1], b"question")
        self.goaway(PROTOCOL_ERROR, frame(PING, 0, 1, bytes(8)))
        self.goaway(FRAME_SIZE_ERROR, frame(PING, 0, 0, bytes(6)))

    def test_6_8_goaway(self):
        self.goaway(PROTOCOL_ERROR, frame(GOAWAY, 0, 1, bytes(8)))

    def test_6_9_window_update(self):
        posted = lambda c: c.headers(1, flags=END_HEADERS, method="POST")  # noqa: E731
        self.goaway(PROTOCOL_ERROR, frame(WINDOW_UPDATE, 0, 0, bytes(4)))
        self.reset(PROTOCOL_ERROR, posted, frame(WINDOW_UPDATE, 0, 1, bytes(4)))
        self.goaway(FRAME_SIZE_ERROR, frame(WINDOW_UPDATE, 0, 0, bytes(3)))
        largest = struct.pack("!I", (1 << 31) - 1)
        self.goaway(FLOW_CONTROL_ERROR, frame(WINDOW_UPDATE, 0, 0, largest), frame(WINDOW_UPDATE, 0, 0, largest))
        client = self.client(settings((INITIAL_WINDOW_SIZE, 0)))
        client.send(client.headers(1), frame(WINDOW_UPDATE, 0, 1, largest), frame(WINDOW_UPDATE, 0, 1, largest))
        self.expect(client, 1, FLOW_CONTROL_ERROR)

    def test_6_9_windows_bound_what_is_sent(self):
        client = self.client(settings((INITIAL_WINDOW_SIZE, 1)))
        client.send(client.headers(1))
        self.assertEqual(client.until(DATA)[1], b"a")
        client.send(frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 4)))
        self.assertEqual(client.until(DATA)[1], b" pag")
        with self.subTest("a larger initial window frees the rest"):
            client.send(settings((INITIAL_WINDOW_SIZE, 100)))
            self.assertEqual(client.until(DATA)[1], b"e of 20 bytes..")

    def test_6_9_2_a_window_may_become_negative(self):
        client = self.client(settings((INITIAL_WINDOW_SIZE, 3)))
        client.send(client.headers(1))
        self.assertEqual(client.until(DATA)[1], b"a p")
        client.send(settings((INITIAL_WINDOW_SIZE, 2)), frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", 2)))
        self.assertEqual(client.until(DATA)[1], b"a")

    def test_6_9_2_too_large_a_window_by_settings(self):
        client = self.client(settings((INITIAL_WINDOW_SIZE, 0)))
        grown = frame(WINDOW_UPDATE, 0, 1, struct.pack("!I", (1 << 31) - 1))
        client.send(client.headers(1, path="/files/large.bin"), grown, settings((INITIAL_WINDOW_SIZE, (1 << 31) - 1)))
        self.expect(client, 1, FLOW_CONTROL_ERROR)

    def test_6_9_a_client_that_sends_more_than_its_window_is_ended(self):
        # The body of an event stream's request is kept unread as long as the stream is open, so its window stays used up.
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, path="/events/"))
        client.until(HEADERS)
        for _ in range(9):  # one more than 128 KiB
            client.send(frame(DATA, 0, 1, bytes(1 << 14)))
        self.expect(client, 1, FLOW_CONTROL_ERROR)

    def test_6_10_continuation(self):
        client = self.client()
        block = client.block()
        third = len(block) // 3
        client.send(frame(HEADERS, END_STREAM, 1, block[:third]), frame(CONTINUATION, 0, 1, block[third : 2 * third]))
        client.send(frame(CONTINUATION, END_HEADERS, 1, block[2 * third :]))
        client.answered(1)
        self.goaway(PROTOCOL_ERROR, lambda c: c.headers(1, flags=END_STREAM), frame(CONTINUATION, END_HEADERS, 0, b""))
        self.goaway((PROTOCOL_ERROR, STREAM_CLOSED), lambda c: c.headers(1), frame(CONTINUATION, END_HEADERS, 1, b""))
        posted = lambda c: c.headers(1, flags=END_HEADERS, method="POST")  # noqa: E731
        self.goaway(PROTOCOL_ERROR, posted, frame(DATA, 0, 1, b"test"), frame(CONTINUATION, END_HEADERS, 1, b""))
        begun = lambda c: c.headers(1, flags=0, method="POST")  # noqa: E731
        ended = frame(CONTINUATION, END_HEADERS, 1, b"")
        self.goaway((PROTOCOL_ERROR, STREAM_CLOSED), begun, ended, frame(CONTINUATION, END_HEADERS, 1, b""))

    # §7

    def test_7_unknown_error_codes_have_no_effect(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST"), frame(RST_STREAM, 0, 1, struct.pack("!I", 0xFF)))
        client.works(3)
        client.send(frame(GOAWAY, 0, 0, struct.pack("!II", 0, 0xFF)))
        client.ended()

    # §8

    def test_8_head_has_no_content(self):
        client = self.client()
        client.send(client.headers(1, method="HEAD"))
        self.assertEqual(client.answered(1), b"")

    def test_8_1_a_second_head_ends_the_stream(self):
        client = self.client()
        head = client.headers(1, flags=END_HEADERS, method="POST")
        client.send(head, frame(HEADERS, END_HEADERS, 1, client.encode([("x-a", "b")])))
        self.expect(client, 1, PROTOCOL_ERROR, STREAM_CLOSED)

    def test_8_1_a_second_head_behind_the_answer_is_an_error_too(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST"))
        client.until(HEADERS)
        client.send(frame(HEADERS, END_HEADERS, 1, client.encode([("x-a", "b")])))
        self.expect(client, 1, PROTOCOL_ERROR, STREAM_CLOSED)

    def test_8_1_an_early_answer_ends_without_a_reset(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST", more=[("content-length", "8")]))
        with self.subTest("the answer comes before the rest of the request"):
            self.assertEqual(client.answered(1), b"a page of 20 bytes..")
        client.send(frame(DATA, 0, 1, b"1234"), frame(DATA, END_STREAM, 1, b"5678"))
        self.assertEqual(self.resets_until_ping(client), [])
        client.works(3)

    def test_8_1_a_short_request_delays_the_end_of_its_early_answer(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST"), frame(DATA, 0, 1, b"1234"))
        client.until(DATA)
        client.send(frame(DATA, END_STREAM, 1, b"5678"))
        began = time.monotonic()
        kind, flags, stream, _ = client.read()
        while kind != DATA:
            kind, flags, stream, _ = client.read()
        self.assertEqual((flags & END_STREAM, stream), (END_STREAM, 1))
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(self.resets_until_ping(client), [])

    def test_8_1_an_early_answer_to_a_long_request_is_whole_before_the_reset(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST", more=[("content-length", "1000000")]))
        self.assertEqual(client.answered(1), b"a page of 20 bytes..")
        kind, _, stream, payload = client.read()
        while kind != RST_STREAM:
            kind, _, stream, payload = client.read()
        self.assertEqual((stream, payload), (1, bytes(4)))  # NO_ERROR
        client.works(3)

    def test_8_1_a_request_that_never_ends_is_reset_behind_its_answer(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST"))
        self.assertEqual(client.answered(1), b"a page of 20 bytes..")
        kind, _, stream, payload = client.read()
        while kind != RST_STREAM:
            kind, _, stream, payload = client.read()
        self.assertEqual((stream, payload), (1, bytes(4)))
        client.works(3)

    def resets_until_ping(self, client):
        """The streams that the server resets before it answers a ping."""
        client.send(frame(PING, 0, 0, b"anything"))
        resets = []
        while True:
            kind, flags, stream, payload = client.read()
            if kind == RST_STREAM:
                resets.append((stream, payload))
            if kind == PING and flags & ACK and payload == b"anything":
                return resets

    def test_8_1_trailers_are_accepted(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, method="POST"), frame(DATA, 0, 1, b"test"))
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encode([("x-a", "b")])))
        client.answered(1)

    def test_8_2_names_and_values(self):
        for more in (
            [("X-UPPER", "a")],
            [("connection", "keep-alive")],
            [("keep-alive", "1")],
            [("proxy-connection", "close")],
            [("transfer-encoding", "chunked")],
            [("upgrade", "websocket")],
            [("te", "trailers, deflate")],
            [("x-a b", "c")],
            [("x-a:b", "c")],
            [("", "c")],
            [("x-a", "line\r\nfeed")],
            [("x-a", "nul\0")],
        ):
            with self.subTest(more):
                self.malformed(lambda c, more=more: c.fields(more=more))

    def test_8_3_pseudo_fields(self):
        for name, options in (
            ("unknown", {"pseudo": [(":test", "ok")]}),
            ("of a response", {"pseudo": [(":status", "200")]}),
            ("after the others", {"without": (":authority",), "more": [("x-a", "b"), (":authority", "localhost")]}),
            ("no method", {"without": (":method",)}),
            ("no scheme", {"without": (":scheme",)}),
            ("no path", {"without": (":path",)}),
            ("empty path", {"path": ""}),
            ("two methods", {"pseudo": [(":method", "GET")]}),
            ("two schemes", {"pseudo": [(":scheme", self.SCHEME)]}),
            ("two paths", {"pseudo": [(":path", "/page/")]}),
            ("two authorities", {"pseudo": [(":authority", "localhost")]}),
        ):
            with self.subTest(name):
                self.malformed(lambda c, options=options: c.fields(**options))

    def test_8_3_pseudo_fields_in_trailers_are_refused_behind_others(self):
        client = self.client()
        client.send(
            client.headers(1, flags=END_HEADERS, method="POST", more=[("trailer", "x-test")]),
            frame(DATA, 0, 1, b"test"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encode([("x-test", "ok"), (":method", "200")])),
        )
        self.expect(client, 1, PROTOCOL_ERROR)

    def test_8_3_pseudo_fields_alone_in_trailers_change_nothing(self):
        # The request is malformed; h2 removes the field instead of refusing the request.
        client = self.client()
        client.send(
            client.headers(1, flags=END_HEADERS, method="POST"),
            frame(DATA, 0, 1, b"test"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, client.encode([(":path", "/nowhere/")])),
        )
        client.answered(1)
        client.works(3)

    def test_8_1_1_another_length_than_announced(self):
        for behind_the_answer in (False, True):
            for parts in ([b"test"], [b"te", b"st"], [b"testtest1"], [b"testtest", b"1"]):
                with self.subTest(parts, behind_the_answer=behind_the_answer):
                    client = self.client()
                    client.send(client.headers(1, flags=END_HEADERS, method="POST", more=[("content-length", "8")]))
                    if behind_the_answer:
                        client.until(HEADERS)
                    last = len(parts) - 1
                    client.send(*(frame(DATA, END_STREAM if at == last else 0, 1, part) for at, part in enumerate(parts)))
                    self.expect(client, 1, PROTOCOL_ERROR)
        with self.subTest("a head alone"):
            self.malformed(lambda c: c.fields(method="POST", more=[("content-length", "8")]))

    # RFC 7541

    def test_hpack_every_representation_is_read(self):
        huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode

        def text(value, coded):
            encoded = huffman(value) if coded else value
            return bytes([len(encoded) | (0x80 if coded else 0)]) + encoded

        cases = {"indexed": b"\x90", "a size of the table": (b"\x3f\x61", b""), "two sizes of the table": (b"\x20\x3f\x61", b"")}
        for what, named, new in (("with indexing", b"\x7a", b"\x40"), ("without", b"\x0f\x2b", b"\x00"), ("never", b"\x1f\x2b", b"\x10")):
            for coded in (False, True):
                cases[f"{what}, a known name, {coded=}"] = named + text(b"agent", coded)
                cases[f"{what}, a new name, {coded=}"] = new + text(b"x-test", coded) + text(b"value", coded)
        for what, field in cases.items():
            with self.subTest(what):
                before, field = field if isinstance(field, tuple) else (b"", field)
                client = self.client()
                scheme = b"\x87" if self.SCHEME == "https" else b"\x86"
                block = b"\x82" + scheme + b"\x04" + text(b"/page/", False) + b"\x01" + text(b"localhost", False)
                client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, before + block + field))
                client.answered(1)

    def test_hpack(self):
        for what, block in (
            ("an index beyond the tables (2.3.3)", b"\xc6"),
            ("index 0 (6.1)", b"\x80"),
            ("a literal with an index beyond the tables (6.2)", b"\x7f\x10\x01a"),
            ("a size of the table behind a field (4.2)", b"\x82\x20"),
            ("a size of the table over the limit (6.3)", b"\x3f\xe1\xff\xff\x0f\x82"),
            ("Huffman with more than 7 bits of padding (5.2)", b"\x82\x40\x01a\x82\x1f\xff\xff"[:6] + b"\xff\xff"),
            ("Huffman with padding of zeros (5.2)", b"\x00\x01a\x81\x18"),
            ("Huffman with EOS (5.2)", b"\x00\x01a\x84\xff\xff\xff\xfc"),
            ("a string cut off", b"\x00\x05ab"),
            ("a number without an end", b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ):
            with self.subTest(what):
                self.goaway(COMPRESSION_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, block))

    # Floods

    def test_rapid_resets_end_the_connection(self):
        client = self.client()
        cancelled = [client.headers(stream) + frame(RST_STREAM, 0, stream, struct.pack("!I", 8)) for stream in range(1, 8001, 2)]
        for at in range(0, len(cancelled), 100):
            client.send(*cancelled[at : at + 100])
        self.expect(client, 0, ENHANCE_YOUR_CALM)

    def test_an_endless_head_is_refused(self):
        client = self.client()
        client.send(frame(HEADERS, END_STREAM, 1, client.block()))
        began = time.monotonic()
        sent = 0
        while sent < 64 << 20 and time.monotonic() - began < DEADLINE:
            try:
                client._bytes.send(frame(CONTINUATION, 0, 1, b"\x00\x01a\x7f\x80\x7e" + bytes(16256)))
                sent += 16384
            except OSError:
                break
        client.ended()
        self.assertLess(sent, 64 << 20)

    def test_the_server_is_well_after_all_of_it(self):
        self.assertEqual(self.server.request("/page/")[0], 200)
        self.assertEqual(self.server.metric("oneport_panics_total"), 0)


FILES = {"files/large.bin": bytes(1 << 20)}


class OverTls(Cases, unittest.TestCase):
    SCHEME = "https"

    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        cls.server = SecureServer(cls.authority, CONFIG, files=FILES)
        cls.enterClassContext(cls.server)
        cls.context = cls.authority.context("h2")

    def open(self):
        return SecureBytes(self.server.connect(self.context))


class WithPriorKnowledge(Cases, unittest.TestCase):
    SCHEME = "http"

    @classmethod
    def setUpClass(cls):
        cls.server = Server(CONFIG, files=FILES)
        cls.enterClassContext(cls.server)

    def open(self):
        return Bytes(("127.0.0.1", self.server.port))


if __name__ == "__main__":
    unittest.main()
