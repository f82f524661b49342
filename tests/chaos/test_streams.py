"""Streams: HTTP/2 clients that ask for files and give no window hold neither descriptors nor memory for long.

Four connections with 250 streams each. A file is opened when its first bytes can leave; until then a stream costs its head alone, and it is
reset within `timeouts.request`.
"""

import time
import unittest
from contextlib import suppress

from disturb.case import Chaos
from disturb.vitals import Vitals
from kit.deadline import Late, until
from kit.http2 import Client

CONFIG = """
[server.limits]
connections_per_ip = 5000  # each stream counts

[server.timeouts]
request = "3s"

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[http.route]]
path = "/text/"
view = "respond"
options = { body = "some words" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

CONNECTIONS, STREAMS = 4, 250
REQUEST_SECONDS = 3.0
# What a busy machine may add.
MOMENT = 4.0
# What may be held for all of them, in MiB: 64 KiB a stream before its first byte has left, and twice that where it was interrupted in a step.
MEBIBYTES, MEBIBYTES_OPEN = 64, 128
FILES = {"files/small.bin": bytes(1 << 17), "files/large.bin": bytes(1 << 23)}


class Streams(Chaos):
    def clients(self, server, path, **windows):
        clients = [self.enterContext(Client(server, **windows)) for _ in range(CONNECTIONS)]
        for client in clients:
            for _ in range(STREAMS):
                client.ask(path)
            self.record.during()
        return clients

    def held(self, server, path, **windows):
        """Asks on all streams; nothing much may be held meanwhile, and nothing once the deadline has passed."""
        peer = self.peer(server)
        clients = self.clients(server, path, **windows)
        asked = time.monotonic()
        for client in clients:
            for stream in client.answers:
                self.assertEqual(client.head(stream)[0], 200)
        self.record.during()
        self.is_open(peer)
        self.is_served(server)
        if not windows["stream_window"]:
            with self.subTest("descriptors while the streams wait"):
                self.assertLessEqual(self.record.highest.descriptors, self.record.before.descriptors + CONNECTIONS + 32)
        with self.subTest("memory while the streams wait"):
            self.assert_memory_grew_by_at_most(MEBIBYTES_OPEN if windows["stream_window"] else MEBIBYTES, self.record.highest)
        with self.subTest("all are reset in time"):
            for client in clients:
                client.until(lambda: len(client.resets) + len(client.ended) == STREAMS, "the end of every stream")
            self.assertLess(time.monotonic() - asked, REQUEST_SECONDS + MOMENT)
        self.freed(server, CONNECTIONS + 1)
        self.is_open(peer)
        for client in clients:
            client.cut()

    def freed(self, server, connections):
        until(
            lambda: Vitals.of(server.pid).descriptors <= self.record.before.descriptors + connections + 2,
            "the descriptors of the files to be freed",
        )

    def test_a_small_file_without_a_window(self):
        self.held(self.start(CONFIG, files=FILES), "/files/small.bin", stream_window=0)

    def test_a_large_file_without_a_window(self):
        self.held(self.start(CONFIG, files=FILES), "/files/large.bin", stream_window=0)

    def test_a_page_without_a_window(self):
        self.held(self.start(CONFIG, files=FILES), "/text/", stream_window=0)

    def test_a_window_of_one_byte(self):
        """The first byte leaves, so the files are open."""
        self.held(self.start(CONFIG, files=FILES), "/files/large.bin", stream_window=1)

    def test_a_connection_whose_window_one_stream_has_used_up(self):
        """The streams have windows, their connection has none."""
        server = self.start(CONFIG, files=FILES)
        client = self.enterContext(Client(server, stream_window=1 << 20))
        client.stuck.update(range(1, 1000, 2))
        for _ in range(STREAMS):
            client.ask("/files/small.bin")
        client.until(lambda: sum(len(body) for _, body in client.answers.values()) >= 65535, "the connection's window to be used up")
        self.record.during()
        self.assertLessEqual(self.record.highest.descriptors, self.record.before.descriptors + 32)
        with suppress(EOFError):
            client.until(lambda: len(client.resets) + len(client.ended) == STREAMS, "the end of every stream")
        self.freed(server, 1)

    def test_windows_that_are_taken_back(self):
        """The files are open, half sent, when the windows go below zero (RFC 9113, section 6.9.2)."""
        server = self.start(CONFIG, files=FILES)
        clients = []
        for _ in range(CONNECTIONS):
            client = self.enterContext(Client(server, stream_window=1 << 14, connection_window=1 << 24))
            client.stuck.update(range(1, 1000, 2))
            clients.append(client)
            for _ in range(STREAMS):
                client.ask("/files/large.bin")
            client.until(lambda: all(body for _, body in client.answers.values()), "the first bytes of every file")
            client.h2.update_settings({4: 0})
            client.flush()
            self.record.during()
        self.assert_memory_grew_by_at_most(MEBIBYTES_OPEN, self.record.highest)
        for client in clients:
            client.until(lambda: len(client.resets) == STREAMS, "a reset of every stream")
        self.freed(server, CONNECTIONS)

    def test_a_window_that_opens_byte_by_byte_is_too_slow(self):
        """Progress alone is not enough: one byte a second is below `server.limits.min_rate`."""
        server = self.start(CONFIG, files=FILES)
        client = self.enterContext(Client(server, stream_window=1))
        # Only this test gives window: a client that acknowledges each byte as it comes is fast enough once few streams are left.
        client.stuck.update(range(1, 100, 2))
        streams = [client.ask("/files/large.bin") for _ in range(20)]
        end = time.monotonic() + 20
        with suppress(EOFError):
            while len(client.resets) < len(streams):
                if time.monotonic() > end:
                    raise Late(f"expected {len(streams)} streams to be reset, found {len(client.resets)}")
                client.listen(0.9)
                for stream in streams:
                    if stream not in client.resets:
                        client.h2.increment_flow_control_window(1, stream)
                client.flush()
        self.freed(server, 1)


if __name__ == "__main__":
    unittest.main()
