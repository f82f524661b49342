"""Processor: clients that wait, leave by halves or are closed cost no processor time, and those that flood leave some to others."""

import http.client
import signal
import time
import unittest
from contextlib import ExitStack

from disturb import flood
from disturb.case import Chaos
from disturb.vitals import Vitals
from kit.deadline import DEADLINE, until
from kit.frames import Bytes, RawSocket
from kit.http2 import Client

CONFIG = """
[server.timeouts]
request = "2s"
keep_alive = "2s"
handshake = "2s"
drain = "8s"

[[http.route]]
path = "/events/"
view = "events"
options = { group = "news", heartbeat = "1s" }

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

CLIENTS = 10
# A connection is read for up to five seconds after our side was closed.
SECONDS = 6
# Of the whole time, for all clients of a kind.
CPU_MAX = 0.5
LARGE = bytes(1 << 24)

# How long anybody may wait while others flood, on a busy machine and with a server that was built for debugging.
WAIT_MAX = 1.0


def says(data):
    """Returns a kind of client that sends this, reads the first bytes of the answer, and no more."""

    def make(server):
        client = Bytes(("127.0.0.1", server.port))
        client.send(data)
        return client

    return make


def over_http2(act):
    def make(server):
        client = Client(server)
        act(client)
        return client

    return make


GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
KINDS = {
    "half a head": says(b"GET /health/ HT"),
    "a head that is none": says(b"\0\0\0\0\r\n\r\n"),
    "an answer, and silence": says(GET.format("/health/").encode()),
    "the last answer of a connection": says(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    "an answer to HTTP/1.0": says(b"GET /health/ HTTP/1.0\r\n\r\n"),
    "a body that the view does not read": says(
        b"POST /health/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000
    ),
    "a body that breaks off": says(b"POST /events/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"),
    "a download that is not read": says(GET.format("/files/large.bin").encode()),
    "a refused handshake": says(GET.format("/ws/echo/").encode()),
    "a frame that is none": lambda server: spoken(RawSocket(server, "/ws/echo/"), b"\xff" * 64),
    "a socket whose other half is closed": lambda server: half_closed(RawSocket(server, "/ws/echo/")),
    "an event stream whose other half is closed": lambda server: half_closed(says(GET.format("/events/").encode())(server)),
    "HTTP/2, and silence": over_http2(lambda client: client.answer(client.ask("/health/"))),
    "HTTP/2 without a request": over_http2(lambda client: None),
    "HTTP/2 with a frame that is none": over_http2(lambda client: client.send(b"\xff" * 64)),
    "a download over HTTP/2 that is not read": over_http2(lambda client: client.ask("/files/large.bin")),
}


def spoken(client, data):
    client.send(data)
    return client


def half_closed(client):
    client.socket.shutdown(1)
    return client


def close(client):
    (client.cut if isinstance(client, Client) else client.socket.close)()


class Idle(Chaos):
    def test_clients_that_wait_or_are_closed_cost_nothing(self):
        """Ten of each kind, each kind at a server of its own."""
        with ExitStack() as held:
            servers = {}
            for kind, make in KINDS.items():
                server = self.start(CONFIG, files={"files/large.bin": LARGE})
                clients = [make(server) for _ in range(CLIENTS)]
                for client in clients:
                    held.callback(close, client)
                servers[kind] = (server, Vitals.of(server.pid).cpu)
            time.sleep(SECONDS)  # the time that is watched
            used = {kind: Vitals.of(server.pid).cpu - cpu for kind, (server, cpu) in servers.items()}
        for kind, cpu in used.items():
            with self.subTest(kind):
                self.assertLess(cpu, CPU_MAX)

    def test_the_end_of_the_server_costs_nothing_while_clients_take_their_time(self):
        server = self.start(CONFIG, files={"files/large.bin": LARGE})
        held = [make(server) for kind, make in KINDS.items() for _ in range(3)]
        for client in held:
            self.addCleanup(close, client)
        until(lambda: self.record.during().descriptors > self.record.before.descriptors + 20, "open connections")
        server.signal(signal.SIGTERM)
        before = last = Vitals.of(server.pid)
        while (found := Vitals.of(server.pid)) is not None:
            last = found
            time.sleep(0.05)
        server.wait()
        self.assertLess(last.cpu - before.cpu, CPU_MAX)


class Floods(Chaos):
    """Endless messages, on as many sockets as there are workers, and more."""

    def others_wait_little(self, sockets, size, seconds=4):
        server = self.start(CONFIG.replace('keep_alive = "2s"', 'keep_alive = "30s"'), files={"files/large.bin": LARGE})
        peer = self.peer(server)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        process = flood.start(server, sockets, seconds, size)
        self.addCleanup(process.wait)
        until(lambda: Vitals.of(server.pid).cpu > self.record.before.cpu + 0.2, "the flood to begin")
        waits = []
        while process.poll() is None:
            for ask in (lambda: self.is_open(peer), lambda: self.is_served(server), lambda: served(connection)):
                began = time.monotonic()
                ask()
                waits.append(time.monotonic() - began)
        waits.sort()
        print(f"{self.id()}: {len(waits)} answers, the median after {waits[len(waits) // 2]:.3f} s, the last after {waits[-1]:.3f} s")
        self.assertLess(waits[-1], WAIT_MAX)

    def test_two_sockets_with_empty_messages(self):
        self.others_wait_little(2, 0)

    def test_eight_sockets_with_empty_messages(self):
        self.others_wait_little(8, 0)

    def test_eight_sockets_with_large_messages(self):
        self.others_wait_little(8, 60_000)


def served(connection):
    connection.request("GET", "/health/")
    with connection.getresponse() as response:
        assert response.read() and response.status == 200, f"expected 200, found {response.status}"


if __name__ == "__main__":
    unittest.main()
