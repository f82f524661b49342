"""Drain: no client is cut off before the deadline, and none delays the end after it."""

import json
import signal
import time
import unittest

from kit.deadline import until
from kit.frames import CLOSE, TEXT, Bytes, RawSocket, close_payload
from kit.peer import Peer
from kit.server import Server

CONFIG = """
[server.timeouts]
drain = "{drain}"
handshake = "1s"

[server.drain]
delay = "{delay}"

[[http.route]]
path = "/files/{{*path}}"
view = "static"
options = {{ dir = "files" }}

[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news" }}

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
close_timeout = "{close}"

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", presence = true }}
"""

FILE = bytes(range(256)) * (1 << 15)  # 8 MiB: more than the kernel's buffers take


class Drain(unittest.TestCase):
    def start(self, drain="20s", close="5s", delay="0s"):
        config = CONFIG.format(drain=drain, close=close, delay=delay)
        return self.enterContext(Server(config, files={"files/large.bin": FILE}))

    def download(self, server):
        """Begins to download the file, and stops reading."""
        client = self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=4096))
        client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, fields = client.head()
        self.assertEqual((status, fields["content-length"]), (200, str(len(FILE))))
        return client

    def test_sockets_are_closed_with_1001_while_a_request_finishes(self):
        server = self.start()
        client, peer = self.download(server), self.enterContext(Peer(server, "/ws/echo/"))
        server.signal(signal.SIGTERM)
        self.assertEqual(peer.closed(), (1001, "the server is shutting down; retry_after=5"))
        self.assertTrue(server.is_running)
        self.assertEqual(client.exactly(len(FILE)), FILE)
        server.wait()

    def test_sigint_does_the_same(self):
        server = self.start()
        peer = self.enterContext(Peer(server, "/ws/echo/"))
        server.signal(signal.SIGINT)
        self.assertEqual(peer.closed()[0], 1001)
        server.wait()

    def test_three_hundred_sockets_all_hear_of_it(self):
        server = self.start()
        sockets = [self.enterContext(RawSocket(server, "/ws/echo/")) for _ in range(300)]
        server.signal(signal.SIGTERM)
        for raw in sockets:
            self.assertEqual(raw.frame().code, 1001)
            raw.say(CLOSE, close_payload(1001))
            self.assertTrue(raw.is_at_end())
        server.wait()

    def test_a_socket_that_opens_while_the_signal_comes_hears_of_it_too(self):
        for _ in range(40):
            server = self.start()
            raw = self.enterContext(RawSocket(server, "/ws/echo/"))
            server.signal(signal.SIGTERM)
            self.assertEqual(raw.frame().code, 1001)
            raw.say(CLOSE, close_payload(1001))
            server.wait()

    def test_nobody_is_let_in_any_more_and_idle_connections_are_let_go(self):
        server = self.start()
        client = self.download(server)
        idle = self.enterContext(Bytes(("127.0.0.1", server.port)))
        idle.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        _, fields = idle.head()
        idle.exactly(int(fields["content-length"]))
        server.signal(signal.SIGTERM)
        self.assertTrue(idle.is_at_end())

        def is_refused():
            try:
                with Bytes(("127.0.0.1", server.port)):
                    return False
            except ConnectionRefusedError:
                return True

        until(is_refused, "a refused connection")
        client.exactly(len(FILE))
        server.wait()

    def test_a_stream_of_events_comes_to_its_end(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        client.send(b"GET /events/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        server.signal(signal.SIGTERM)
        self.assertTrue(client.rest().endswith(b"\r\n0\r\n\r\n"), "the last chunk says that nothing is missing")
        server.wait()

    def test_what_a_client_said_before_the_end_is_answered_before_it(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        raw.say(TEXT, b"last words")
        self.assertEqual(raw.frame().payload, b"last words")
        server.signal(signal.SIGTERM)
        self.assertEqual(raw.frame().code, 1001)
        raw.say(CLOSE, close_payload(1001))
        server.wait()

    def test_a_client_that_never_answers_the_close_holds_up_the_end_for_its_close_timeout_only(self):
        server = self.start(close="500ms")
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        began = time.monotonic()
        server.stop()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(raw.frame().code, 1001)

    def test_a_request_that_never_finishes_is_cut_off_at_the_deadline(self):
        server = self.start(drain="1s")
        self.download(server)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait_for_log(r"stopped.* cut_off=1")
        server.wait()
        self.assertTrue(0.9 <= time.monotonic() - began <= 5, f"{time.monotonic() - began} s")

    def test_a_second_signal_ends_at_once(self):
        server = self.start(drain="60s")
        self.download(server)
        server.signal(signal.SIGTERM)
        server.wait_for_log("a second signal exits at once")
        began = time.monotonic()
        server.stop()
        self.assertLess(time.monotonic() - began, 5)

    def test_all_is_served_in_the_delay_but_the_readiness_probe(self):
        server = self.start(delay="1s")
        old = self.enterContext(Peer(server, "/ws/echo/"))
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait_for_log("about to stop.* seconds=1")
        status, fields, body = server.request("/health/")
        self.assertEqual((status, json.loads(body)), (503, {"status": "draining"}))
        self.assertEqual(fields["connection"], "close")
        new = self.enterContext(Peer(server, "/ws/echo/"))
        for peer in old, new:
            peer.send("still here")
            self.assertEqual(peer.receive(), "still here")
        self.assertLess(time.monotonic() - began, 1)
        self.assertEqual([peer.closed()[0] for peer in (old, new)], [1001, 1001])
        self.assertGreaterEqual(time.monotonic() - began, 1)
        server.wait()

    def test_a_second_signal_ends_at_once_in_the_delay_too(self):
        server = self.start(delay="60s")
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.signal(signal.SIGINT)
        server.wait_for_log("a second signal exits at once")
        began = time.monotonic()
        server.stop()
        self.assertLess(time.monotonic() - began, 5)
        self.assertTrue(raw.is_at_end())

    def test_a_reload_sets_the_delay_of_the_stop_after_it(self):
        server = self.start(delay="60s")
        server.reload(CONFIG.format(drain="20s", close="5s", delay="0s"))
        server.stop()

    def test_who_has_not_finished_a_request_holds_up_the_end_for_the_handshake_timeout_only(self):
        for said in (b"", b"PRI * HTTP/2.0\r\n", b"GET /ws/echo/ HTTP/1.1\r\nHost: loc"):
            with self.subTest(said=said):
                server = self.start()
                half = self.enterContext(Bytes(("127.0.0.1", server.port)))
                half.send(said)
                server.request("/health/")  # so that the other is surely accepted
                began = time.monotonic()
                server.stop()
                self.assertLess(time.monotonic() - began, 5)

    def test_members_of_a_group_leave_one_after_the_other_and_all_end(self):
        server = self.start()
        peers = [self.enterContext(Peer(server, "/ws/chat/end/")) for _ in range(20)]
        server.signal(signal.SIGTERM)
        for peer in peers:
            self.assertEqual(peer.closed()[0], 1001)
        server.wait()
        self.assertNotIn("panicked", server.log())


if __name__ == "__main__":
    unittest.main()
