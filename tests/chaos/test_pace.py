"""Pace: clients that send or read at a crawl end after seconds, by `server.limits.min_rate`, and not at the total deadline.

The rate counts after five seconds of grace. It never ends an event stream, a WebSocket or a client that is merely slow.
"""

import socket
import time
import unittest
from contextlib import suppress
from threading import Thread

from disturb.case import Chaos
from disturb.vitals import Vitals
from kit.deadline import until
from kit.frames import Bytes
from kit.http2 import Client
from kit.stream import Stream

TOKEN = "a-token-of-these-tests-0123456789"
CONFIG = """
[server.timeouts]
request = "40s"

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[http.route]]
path = "/events/"
view = "events"
options = { group = "news", heartbeat = "1s" }

[[http.route]]
path = "/api/{*call}"
view = "publish"
options = { tokens = [{ name = "test", token = "a-token-of-these-tests-0123456789", groups = ["*"] }] }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""
HEAD = f"POST /api/groups/news HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
LARGE = bytes(1 << 25)  # more than the kernel's buffers take

# Five seconds of grace, some more until the average is below the rate, and what a busy machine adds; far below the 40 s above.
SECONDS_MAX = 16.0


class Pace(Chaos):
    def begin(self, config=CONFIG):
        return self.start(config, files={"files/large.bin": LARGE})

    def dribble(self, client, data, pause=1.0):
        """Sends byte by byte on a thread of its own, until the other side has ended or all is sent."""

        def send():
            for byte in data:
                try:
                    client.send(bytes([byte]))
                except OSError:
                    return
                time.sleep(pause)

        Thread(target=send, daemon=True).start()

    def is_ended_in_time(self, began):
        self.assertLess(time.monotonic() - began, SECONDS_MAX)

    def test_a_body_of_known_length(self):
        server = self.begin()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        began = time.monotonic()
        client.send(HEAD.encode() + b"Content-Length: 1000\r\n\r\n")
        self.dribble(client, b"x" * 60)
        self.assertEqual(client.head()[0], 408)
        self.is_ended_in_time(began)

    def test_a_body_in_chunks(self):
        server = self.begin()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        began = time.monotonic()
        client.send(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        self.dribble(client, b"1\r\nx\r\n" * 10)
        self.assertEqual(client.head()[0], 408)
        self.is_ended_in_time(began)

    def test_a_chunk_whose_length_never_ends(self):
        """Bytes arrive, and none of them is the body's."""
        server = self.begin()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        began = time.monotonic()
        client.send(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n1;")
        self.dribble(client, b"a" * 60)
        self.assertIn(client.head()[0], (400, 408))
        self.is_ended_in_time(began)

    def test_a_body_over_http2(self):
        server = self.begin()
        client = self.enterContext(Client(server))
        fields = [(":method", "POST"), (":scheme", "http"), (":path", "/api/groups/news"), (":authority", "localhost")]
        began = time.monotonic()
        stream = client.begin([*fields, ("authorization", f"Bearer {TOKEN}")], end_stream=False)
        while time.monotonic() - began < SECONDS_MAX and ":status" not in client.answers[stream][0]:
            client.listen(0.9)
            if stream not in client.resets and stream not in client.ended:
                client.write(stream, b"x")
        self.assertEqual(client.head(stream)[0], 408)
        self.assertEqual(client.answer(client.ask("/health/"))[0], 200, "another stream of the same connection")

    def test_a_slow_body_of_a_kilobyte_a_second_is_taken(self):
        server = self.begin()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        event = b'{"type":"a","text":"' + b"x" * 8000 + b'"}'
        client.send(HEAD.encode() + b"Content-Length: %d\r\n\r\n" % len(event))
        for start in range(0, len(event), 1000):
            client.send(event[start : start + 1000])
            time.sleep(1)
        self.assertEqual(client.head()[0], 200)

    def test_the_rate_can_be_turned_off(self):
        server = self.begin(CONFIG + '[server.limits]\nmin_rate = "0 B"\n')
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        event = b'{"type":"a"}'
        client.send(HEAD.encode() + b"Content-Length: %d\r\n\r\n" % len(event))
        self.dribble(client, event)
        self.assertEqual(client.head()[0], 200)

    def test_a_response_that_is_read_at_a_crawl(self):
        """Each client takes 50 bytes a second, so that writes make progress now and then: waiting without any ends after 10 s, and
        bytes that are too few earn no more."""
        server = self.begin(CONFIG.replace('request = "40s"', 'request = "10s"'))
        clients = [self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=1024)) for _ in range(10)]
        for client in clients:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            Thread(target=crawl, args=[client.socket], daemon=True).start()
        began = time.monotonic()
        # Requests that arrive together share an open file.
        until(lambda: self.record.during().descriptors > self.record.before.descriptors + 10, "connections and files that are open")
        until(lambda: self.freed(server), "an end of the connections", SECONDS_MAX + 10)
        self.assertLess(time.monotonic() - began, SECONDS_MAX + 10)

    def test_a_response_to_a_reader_with_large_buffers_is_not_cut(self):
        """It takes 200 KB a second. The kernel tells of room only when a third of its buffer is free, which is many seconds later."""
        server = self.begin()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began, taken = time.monotonic(), 0
        while time.monotonic() - began < 12:
            got = client.socket.recv(20_000)
            self.assertTrue(got, f"cut after {taken} bytes")
            taken += len(got)
            time.sleep(0.1)
        self.assertEqual(server.metric("oneport_slow_clients_total", direction="response"), 0)

    def test_event_streams_and_sockets_are_not_judged_by_the_rate(self):
        server = self.begin()
        peer, stream = self.peer(server), self.enterContext(Stream(server, "/events/"))
        stream.first()
        comments, began = 0, time.monotonic()
        while time.monotonic() - began < 12:
            comments += any(line.startswith(":") for line in stream.block())
        self.assertGreater(comments, 6)
        self.is_open(peer)

    def freed(self, server):
        return Vitals.of(server.pid).descriptors <= self.record.before.descriptors + 2


def crawl(reader):
    with suppress(OSError):
        while reader.recv(50):
            time.sleep(1)


if __name__ == "__main__":
    unittest.main()
