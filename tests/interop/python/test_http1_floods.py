"""Floods over HTTP/1.1: bytes that are no content, requests whose responses are not read, bodies that are announced and held. Each
ends in time, in little memory, and others are served meanwhile."""

import threading
import time
import unittest

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.server import Server

TOKEN = "the-token-of-a-client"

CONFIG = f"""
[server.limits]
header_size = "8 KiB"
body_size = "256 KiB"

[server.timeouts]
handshake = "1s"
request = "REQUEST"

[channel_layer]
backend = "memory"

[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "a page" }}

[[http.route]]
path = "/api/{{*call}}"
request_timeout = "20s"
view = "publish"
options = {{ tokens = [{{ name = "client", token = "{TOKEN}", groups = ["*"] }}] }}
"""

MEBIBYTES = 8
# More than any bound, so the server ends it.
BYTES = 256 << 20

CALL = f"POST /api/groups/news HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
CHUNKED = f"{CALL}Transfer-Encoding: chunked\r\n\r\n".encode()


class Floods(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG.replace("REQUEST", "2s")))
        cls.server.request("/page/")

    def client(self, **options):
        return self.enterContext(Bytes(("127.0.0.1", self.server.port), **options))

    def flood(self, first, repeated, reads=True):
        """Sends bytes until the server has enough; returns what it answered, and how much was sent."""
        before = self.server.resident_bytes()
        client = self.client(receive_buffer=None if reads else 4096)
        answer, ended = [], threading.Event()

        def read():
            answer.append(client.rest())
            ended.set()

        reader = threading.Thread(target=read, daemon=True)
        if reads:
            reader.start()
        block = repeated * max(1, (1 << 16) // len(repeated))
        sent, highest = 0, 0
        try:
            client.send(first)
            while sent < BYTES and not ended.is_set():
                client.send(block)
                sent += len(block)
                highest = max(highest, self.server.resident_bytes())
        except OSError:
            pass
        if not reads:
            reader.start()
        self.assertTrue(ended.wait(DEADLINE), f"expected the end of the connection after {sent} bytes")
        client.socket.close()
        self.assertLess(highest - before, MEBIBYTES << 20)
        self.assertEqual(self.server.request("/page/")[0], 200)
        return answer[0], sent

    def is_refused(self, status, first, repeated):
        answer, sent = self.flood(first, repeated)
        self.assertEqual(answer[9:12], status, answer[:200])
        self.assertLess(sent, BYTES)

    def test_pipelined_requests_whose_responses_are_not_read(self):
        """The server reads no further request while it cannot write."""
        slow = lambda: self.server.metric("oneport_slow_clients_total", direction="response")  # noqa: E731
        before = slow()
        self.flood(b"", b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n", reads=False)
        self.assertEqual(slow(), before + 1)

    def test_a_head_without_an_end_is_refused_counted_and_logged(self):
        counted = lambda: self.server.metric("oneport_heads_refused_total", limit="header_size")  # noqa: E731
        before = counted()
        self.is_refused(b"431", b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n", b"X-Field: value\r\n")
        until(lambda: counted() == before + 1, "one more in the metric")
        self.server.wait_for_log("header_size reached: the client gets 431")

    def test_empty_lines_before_a_request(self):
        self.flood(b"", b"\r\n")

    def test_extensions_of_chunks(self):
        self.is_refused(b"400", CHUNKED, b"1;" + b"x" * 1000 + b"\r\n \r\n")

    def test_an_extension_without_an_end(self):
        self.is_refused(b"400", CHUNKED + b"1;", b"x")

    def test_the_length_of_a_chunk_without_an_end(self):
        """Zeros in front are no content: they earn no time."""
        began = time.monotonic()
        answer, _ = self.flood(CHUNKED, b"0")
        self.assertIn(answer[9:12], (b"400", b"408"), answer[:200])
        self.assertLess(time.monotonic() - began, 15)

    def test_lengths_of_chunks_that_are_no_numbers(self):
        for length in (b"1" + b"0" * 16, b"f" * 17, b"-1", b"+1", b"0x1", b" 1", b"1 1", b"", b"g"):
            with self.subTest(length):
                client = self.client()
                client.send(CHUNKED + length + b"\r\n \r\n0\r\n\r\n")
                self.assertEqual(client.head()[0], 400)

    def test_a_chunk_that_is_announced_larger_than_any_body(self):
        self.is_refused(b"413", CHUNKED + b"fffffffffffffff\r\n", b"x")

    def test_trailers_without_an_end(self):
        self.is_refused(b"400", CHUNKED + b"1\r\n \r\n0\r\n", b"X-Field: value\r\n")

    def test_chunks_of_one_byte(self):
        self.is_refused(b"413", CHUNKED, b"1\r\n \r\n")

    def test_a_body_that_nobody_reads(self):
        answer, sent = self.flood(b"POST /page/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")
        self.assertIn(b"connection: close", answer.lower())
        self.assertLess(sent, BYTES)


class Held(unittest.TestCase):
    """Bodies that do not come."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG.replace("REQUEST", "20s")))

    def test_a_body_that_the_server_was_asked_to_wait_for_is_408(self):
        """`Expect: 100-continue`, and then nothing; the body is as slow as any other, for several clients at once."""
        clients = [self.enterContext(Bytes(("127.0.0.1", self.server.port))) for _ in range(20)]
        for client in clients:
            client.send(f"{CALL}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
        for client in clients:
            self.assertEqual(client.head()[0], 100)
        # At the same time: a head over the limit is counted although its client does not close the connection.
        over = self.enterContext(Bytes(("127.0.0.1", self.server.port)))
        over.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nX-Field: " + b"x" * 20_000)
        self.assertEqual(over.head()[0], 431)
        self.assertEqual(self.server.metric("oneport_connection_phases", phase="body"), 20)
        for client in clients:
            self.assertEqual(client.head()[0], 408)
            client.rest()
        self.assertEqual(self.server.metric("oneport_slow_clients_total", direction="request"), 20)
        self.assertEqual(self.server.metric("oneport_connection_phases", phase="body"), 0)
        until(lambda: self.server.metric("oneport_heads_refused_total", limit="header_size") == 1, "one in the metric")


class Phases(unittest.TestCase):
    """The phases of connections, as the metrics show them."""

    def test_a_connection_is_in_one_phase_at_a_time(self):
        with Server(CONFIG.replace('handshake = "1s"', 'handshake = "60s"').replace("REQUEST", "60s")) as server:

            def phases():
                words = ("handshake", "head", "body", "response", "idle", "closing")
                # The connection of this request is in its response.
                found = {word: server.metric("oneport_connection_phases", phase=word) for word in words}
                return {word: count for word, count in found.items() if count and word != "response"}

            with Bytes(("127.0.0.1", server.port)) as client:
                for phase, sent, status in (
                    ({"head": 1}, b"", None),
                    ({"head": 1}, b"GET /pa", None),
                    ({"idle": 1}, b"ge/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
                    ({"head": 1}, b"POST", None),
                    ({"body": 1}, CALL.encode().removeprefix(b"POST") + b"Content-Length: 15\r\n\r\n", None),
                    ({"idle": 1}, b'{"type":"a.b" }', 200),
                ):
                    client.send(sent)
                    if status:
                        found, fields = client.head()
                        self.assertEqual(found, status)
                        client.exactly(int(fields["content-length"]))
                    until(lambda phase=phase: phases() == phase, lambda phase=phase: f"{phase}, found {phases()}")
            until(lambda: phases() == {}, "an empty list")


if __name__ == "__main__":
    unittest.main()
