"""Floods over HTTP/2: frames without content, frames for streams that are over, answers that are not read. Each ends, in little memory.

What h2 bounds and what the server bounds itself: docs/BEHAVIOUR.md, "Limits".
"""

import socket
import struct
import threading
import time
import unittest

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.server import Server
from test_h2_conformance import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Speaker,
    frame,
    settings,
)

TOKEN = "the-token-of-a-client"

CONFIG = f"""
[server.limits]
http2_streams = 20
header_size = "8 KiB"

[server.timeouts]
handshake = "1s"
request = "REQUEST"

[channel_layer]
backend = "memory"

[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "a page of 20 bytes.." }}

[[http.route]]
path = "/files/{{*path}}"
view = "static"
options = {{ dir = "files" }}

[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "client", token = "{TOKEN}", groups = ["*"] }}] }}

[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news" }}
"""

FILES = {"files/large.bin": bytes(1 << 22)}
# More than any budget; the connection ends long before.
FRAMES = 200_000
# What is sent at once.
BURST = 1_000
MEBIBYTES = 12


def number(value):
    return struct.pack("!I", value)


class Floods(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG.replace("REQUEST", "1s"), files=FILES))

    def setUp(self):
        until(lambda: self.server.metric("oneport_connections", protocol="http2") == 0, "no connection of a test before")

    def client(self, first=settings(), **options):
        opened = self.enterContext(Bytes(("127.0.0.1", self.server.port), **options))
        opened.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Speaker(opened, first)

    def flood(self, client, one, reads=True):
        """Sends frames until the server ends the connection; returns the code of GOAWAY."""
        codes, ended = [], threading.Event()

        def read():
            try:
                while True:
                    kind, _, _, payload = client.read()
                    if kind == GOAWAY:
                        codes.append(struct.unpack("!I", payload[4:8])[0])
            except (EOFError, OSError):
                ended.set()

        reader = threading.Thread(target=read, daemon=True)
        if reads:
            reader.start()
        sent = 0
        try:
            while sent < FRAMES and not ended.is_set():
                client._bytes.send(one * BURST)
                sent += BURST
        except OSError:
            pass
        if not reads:
            reader.start()
        self.assertTrue(ended.wait(DEADLINE), f"expected an end of the connection after {sent} frames")
        reader.join()
        client._bytes.socket.close()
        return codes[-1] if codes else None

    def is_ended(self, word, one, prepare=None):
        """A flood of this frame ends with ENHANCE_YOUR_CALM, is counted, and costs no memory."""
        name = "oneport_http2_floods_total"
        before, resident = self.server.metric(name, frame=word), self.server.resident_bytes()
        client = self.client()
        if prepare:
            prepare(client)
        code = self.flood(client, one)
        self.assertEqual(code, ENHANCE_YOUR_CALM)
        self.assertEqual(self.server.metric(name, frame=word), before + 1)
        self.assertLess(self.server.resident_bytes() - resident, MEBIBYTES << 20)
        self.server.wait_for_log("too many frames without content")

    def test_ping(self):
        self.is_ended("ping", frame(PING, 0, 0, bytes(8)))

    def test_acknowledgements_of_pings_that_were_not_sent(self):
        self.is_ended("ping", frame(PING, ACK, 0, bytes(8)))

    def test_settings(self):
        self.is_ended("settings", settings((INITIAL_WINDOW_SIZE, 1)) + settings((INITIAL_WINDOW_SIZE, 100)))

    def test_settings_while_many_streams_wait_for_window(self):
        """Each change goes through all streams."""

        def wait(client):
            client.send(settings((INITIAL_WINDOW_SIZE, 0)))
            client.until(4, ACK)
            client.send(*(client.headers(stream, path="/files/large.bin") for stream in range(1, 40, 2)))

        self.is_ended("settings", settings((INITIAL_WINDOW_SIZE, 1)) + settings((INITIAL_WINDOW_SIZE, 0)), wait)

    def test_priorities(self):
        self.is_ended("priority", frame(PRIORITY, 0, 7, number(3) + b"\x10"))

    def test_windows_of_the_connection(self):
        self.is_ended("window_update", frame(WINDOW_UPDATE, 0, 0, number(1)))

    def test_windows_of_a_stream_that_is_over(self):
        self.is_ended("window_update", frame(WINDOW_UPDATE, 0, 1, number(1)), lambda client: client.works(1))

    def test_windows_of_a_stream_that_has_nothing_to_send(self):
        def listen(client):
            client.send(client.headers(1, path="/events/"))
            client.until(HEADERS)

        self.is_ended("window_update", frame(WINDOW_UPDATE, 0, 1, number(1)), listen)

    def test_resets_of_a_stream_that_is_over(self):
        self.is_ended("rst_stream", frame(RST_STREAM, 0, 1, number(8)), lambda client: client.works(1))

    def test_frames_of_unknown_types(self):
        self.is_ended("other", frame(0x16, 0, 0, b"unknown"))

    def test_empty_data(self):
        """h2 bounds it by itself."""
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, path="/events/"))
        client.until(HEADERS)
        before = self.server.metric("oneport_http2_goaways_total", reason="enhance_your_calm")
        code = self.flood(client, frame(DATA, 0, 1, b""))
        self.assertEqual(code, ENHANCE_YOUR_CALM)
        counted = lambda: self.server.metric("oneport_http2_goaways_total", reason="enhance_your_calm")  # noqa: E731
        until(lambda: counted() == before + 1, "one more GOAWAY in the metric")
        self.server.wait_for_log("exceeds what a stream or a head may cost")

    def test_data_that_is_only_padding(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, path="/events/"))
        client.until(HEADERS)
        code = self.flood(client, frame(DATA, 0x8, 1, b"\x05" + bytes(5)))
        self.assertEqual(code, ENHANCE_YOUR_CALM)

    def test_data_byte_by_byte_that_no_view_reads(self):
        client = self.client()
        client.send(client.headers(1, flags=END_HEADERS, path="/events/"))
        client.until(HEADERS)
        code = self.flood(client, frame(DATA, 0, 1, b"x"))
        self.assertEqual(code, ENHANCE_YOUR_CALM)

    def test_ends_of_a_stream_that_has_ended(self):
        client = self.client()
        client.works(1)
        code = self.flood(client, frame(DATA, END_STREAM, 1, b""))
        self.assertIn(code, (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, STREAM_CLOSED))

    def test_streams_over_the_limit_are_refused_counted_and_end_the_connection(self):
        counted = lambda: self.server.metric("oneport_http2_resets_total", direction="sent", reason="refused_stream")  # noqa: E731
        before = counted()
        client = self.client(settings((INITIAL_WINDOW_SIZE, 0)))
        client.send(*(client.headers(stream) for stream in range(1, 43, 2)))
        client.reset(41, REFUSED_STREAM)
        self.assertEqual(counted(), before + 1)
        self.server.wait_for_log("http2_streams reached")
        self.assertEqual(self.server.metric("oneport_http2_streams"), 20)
        with self.subTest("1,024 of them"):
            for stream in range(43, 43 + 2 * 1100, 2):
                client.send(client.headers(stream))
            client.goaway(ENHANCE_YOUR_CALM)

    def test_resets_are_counted_in_both_directions(self):
        def counted(direction, reason):
            return self.server.metric("oneport_http2_resets_total", direction=direction, reason=reason)

        before = counted("received", "cancel"), counted("sent", "flow_control_error"), counted("received", "other")
        client = self.client()
        for stream, code in ((1, 8), (3, 0xFFFF)):
            client.send(client.headers(stream, path="/events/"), frame(RST_STREAM, 0, stream, number(code)))
        client.send(client.headers(5, path="/events/"), frame(WINDOW_UPDATE, 0, 5, number((1 << 31) - 1)))
        client.reset(5, 3)
        after = counted("received", "cancel"), counted("sent", "flow_control_error"), counted("received", "other")
        self.assertEqual(after, tuple(count + 1 for count in before))

    def test_answers_to_pings_that_are_not_read_take_no_memory(self):
        before = self.server.resident_bytes()
        client = self.client(receive_buffer=4096)
        self.flood(client, frame(PING, 0, 0, bytes(8)), reads=False)
        self.assertLess(self.server.resident_bytes() - before, MEBIBYTES << 20)

    def test_responses_that_are_not_read_take_little_memory_and_are_cut_off(self):
        """The windows are open, the kernel's buffers are full."""
        slow = lambda: self.server.metric("oneport_slow_clients_total", direction="response")  # noqa: E731
        before, resident = slow(), self.server.resident_bytes()
        for _ in range(4):
            client = self.client(settings((INITIAL_WINDOW_SIZE, 1 << 30)), receive_buffer=4096)
            client.send(frame(WINDOW_UPDATE, 0, 0, number(1 << 30)))
            client.send(*(client.headers(stream, path="/files/large.bin") for stream in range(1, 40, 2)))
        highest = 0

        def are_ended():
            nonlocal highest
            highest = max(highest, self.server.resident_bytes())
            return slow() == before + 4

        until(are_ended, "the end of the connections")
        self.assertLess(highest - resident, 20 << 20)  # 80 streams, of 100 KiB each

    def test_a_response_that_is_read_below_the_rate_is_cut_off(self):
        """Some bytes are read all the time, so each write makes progress; other streams are on the same connection."""
        slow = lambda: self.server.metric("oneport_slow_clients_total", direction="response")  # noqa: E731
        before, began = slow(), time.monotonic()
        client = self.client(settings((INITIAL_WINDOW_SIZE, 1 << 30)), receive_buffer=4096)
        client.send(frame(WINDOW_UPDATE, 0, 0, number(1 << 30)))
        client.send(client.headers(1, path="/files/large.bin"), client.headers(3, path="/page/"))

        def is_ended():
            try:
                client._bytes.socket.recv(10)
            except OSError:
                pass
            return slow() > before

        until(is_ended, "the end of the connection")
        self.assertGreater(time.monotonic() - began, 0.8)

    def test_many_control_frames_at_once_and_as_many_later_are_no_flood(self):
        """Clients that acknowledge each frame, cancel requests or measure their way do no harm."""
        client = self.client()
        for _ in range(3):
            client.send(frame(PING, 0, 0, b"anything") * 1_000)
            for _ in range(1_000):
                client.until(PING, ACK)
        client.works(1)
        with self.subTest("a window for each frame of a file"):
            client.send(client.headers(3, path="/files/large.bin"))
            read = len(client.until(DATA)[1])
            while read < 1 << 22:
                kind, _, _, payload = client.read()
                if kind == DATA:
                    read += len(payload)
                    client.send(*(frame(WINDOW_UPDATE, 0, stream, number(len(payload))) for stream in (0, 3) if payload))
        with self.subTest("requests that are cancelled"):
            for stream in range(5, 2005, 2):
                client.send(client.headers(stream, path="/events/"))
                client.until(HEADERS)
                client.send(frame(RST_STREAM, 0, stream, number(8)))
        client.works(2005)

    def test_a_download_that_is_acknowledged_in_small_parts_is_no_flood(self):
        """Go's client acknowledges each read of 4 KiB, for the stream and for the connection; gRPC measures with PING."""
        client = self.client()
        for stream in range(1, 17, 2):
            client.send(client.headers(stream, path="/files/large.bin"))
            windows = [frame(WINDOW_UPDATE, 0, opened, number(2048)) for opened in (0, stream)]
            taken, acknowledged, pings, flags = 0, 0, 0, 0
            while not flags & END_STREAM:
                kind, flags, _, payload = client.read()
                self.assertNotEqual(kind, GOAWAY, f"after {taken} bytes of stream {stream}: {payload!r}")
                if kind == HEADERS:
                    client._decoder.decode(payload)  # later heads refer to its table
                if kind != DATA:
                    flags = 0
                    continue
                taken += len(payload)
                parts = (taken - acknowledged) // 2048
                acknowledged += 2048 * parts
                measured = taken // (32 << 10)
                client._bytes.send(b"".join(windows * parts) + frame(PING, 0, 0, bytes(8)) * (measured - pings))
                pings = measured
            self.assertEqual(taken, len(FILES["files/large.bin"]))
        client.works(17)

    def test_others_are_served_during_a_flood(self):
        ended = threading.Event()

        def flood():
            while not ended.is_set():
                client = self.client()
                self.flood(client, frame(PING, 0, 0, bytes(8)))

        threads = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            took = []
            for _ in range(100):
                began = time.monotonic()
                self.assertEqual(self.server.request("/page/")[0], 200)
                took.append(time.monotonic() - began)
        finally:
            ended.set()
            for thread in threads:
                thread.join(DEADLINE)
        self.assertLess(sorted(took)[50], 1.0)


class Slow(unittest.TestCase):
    """Clients that send, over HTTP/2, slower than `min_rate`."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG.replace("REQUEST", "20s"), files=FILES))

    def client(self):
        return Speaker(self.enterContext(Bytes(("127.0.0.1", self.server.port))))

    def test_a_body_that_trickles_is_408_and_other_streams_go_on(self):
        client = self.client()
        fields = [("authorization", f"Bearer {TOKEN}"), ("content-type", "application/json"), ("content-length", "1000")]
        client.send(client.headers(1, flags=END_HEADERS, method="POST", path="/api/groups/news", more=fields))
        began, ended = time.monotonic(), threading.Event()

        def trickle():
            while not ended.wait(0.2):
                client.send(frame(DATA, 0, 1, b" "))

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        try:
            client.works(3)
            self.assertLess(time.monotonic() - began, 4)
            client.answered(1, status="408")
        finally:
            ended.set()
            thread.join()
        self.assertGreater(time.monotonic() - began, 4)
        self.assertEqual(self.server.metric("oneport_slow_clients_total", direction="request"), 1)
        client.works(5)

    def test_a_head_that_trickles_ends_at_the_handshake_deadline(self):
        client = self.client()
        began = time.monotonic()
        block = client.block()
        client.send(frame(HEADERS, END_STREAM, 1, block[:2]))
        parts = iter(frame(CONTINUATION, 0, 1, block[at : at + 1]) for at in range(2, 5))
        ended = threading.Event()

        def trickle():
            while not ended.wait(0.4):
                client.send(next(parts, frame(CONTINUATION, 0, 1, b"")))

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        try:
            client.ended()
        finally:
            ended.set()
            thread.join()
        self.assertLess(time.monotonic() - began, 5)


if __name__ == "__main__":
    unittest.main()
