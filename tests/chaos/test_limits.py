"""Limits: `connections_per_ip` counts clients, not the proxy they come through; a limit that is hit is logged once per interval.

1,500 clients come through one trusted proxy and are all served at once. One client with too much under way gets 503, directly or through
the proxy, whatever it writes into the forwarded fields itself. What is under way is an event stream here, which stays for as long as it likes.
"""

import re
import time
import unittest

from disturb.case import Chaos
from kit.deadline import until
from kit.frames import BINARY, Bytes, RawSocket, encode
from kit.http2 import Client

CONFIG = """
[server]
trusted_proxies = ["127.0.0.1"]
forwarded = "{forwarded}"

[server.limits]
connections_per_ip = {limit}

[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "a page" }}

[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news" }}

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

QUEUES = """
[server.limits]
send_queue_total = "{total}"

[[http.route]]
path = "/metrics/"
view = "metrics"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
send_queue = "1 MiB"
write_timeout = "60s"
close_timeout = "1s"
"""

MIB = 1 << 20
CLIENTS = 1500
LIMIT = 20
LINES_MAX = 2


class Limits(Chaos):
    def begin(self, limit=LIMIT, forwarded="x-forwarded-for"):
        return self.start(CONFIG.format(limit=limit, forwarded=forwarded))

    def open(self, server, field="", source="127.0.0.1", path="/events/"):
        """Opens a connection and makes a request on it; returns it, and the status."""
        client = Bytes(("127.0.0.1", server.port), source=source)
        self.addCleanup(client.socket.close)
        return client, self.ask(client, field, path)

    def ask(self, client, field="", path="/page/"):
        """Makes a request; reads the answer, and of an event stream the head alone."""
        line = f"{field}\r\n" if field else ""
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{line}\r\n".encode())
        status, fields = client.head()
        client.exactly(int(fields.get("content-length", 0)))
        return status

    def statuses(self, server, fields, **options):
        opened = [self.open(server, field, **options) for field in fields]
        self.record.during()
        return [status for _, status in opened]

    def test_fifteen_hundred_clients_through_one_proxy_are_all_served(self):
        server = self.begin(limit=1000)
        fields = [f"X-Forwarded-For: 198.51.{number // 250}.{number % 250}" for number in range(CLIENTS)]
        self.assertEqual(set(self.statuses(server, fields)), {200})
        self.assertEqual(server.metric("oneport_connections_refused_total"), 0)

    def test_the_same_by_the_other_family_of_fields(self):
        server = self.begin(forwarded="forwarded")
        fields = [f'Forwarded: for="198.51.100.{number}:1234"' for number in range(LIMIT * 3)]
        self.assertEqual(set(self.statuses(server, fields)), {200})

    def test_the_connections_that_a_proxy_keeps_are_nobodys(self):
        """It sends one client's request after another's over each; and one client's over all of them."""
        server = self.begin()
        clients = [self.open(server, f"X-Forwarded-For: 198.51.100.{number}", path="/page/")[0] for number in range(LIMIT * 2)]
        for turn in range(3):
            for number, client in enumerate(clients):
                self.assertEqual(self.ask(client, f"X-Forwarded-For: 203.0.113.{(number + turn) % (LIMIT * 2)}"), 200)
        for client in clients:
            self.assertEqual(self.ask(client, "X-Forwarded-For: 203.0.113.7"), 200)

    def test_one_client_over_the_limit_gets_503(self):
        server = self.begin()
        field = "X-Forwarded-For: 203.0.113.7"
        statuses = self.statuses(server, [field] * (LIMIT * 2))
        self.assertEqual(statuses.count(200), LIMIT, statuses)
        self.assertEqual(statuses.count(503), LIMIT, statuses)
        self.assertEqual(self.statuses(server, ["X-Forwarded-For: 203.0.113.8"]), [200], "another client")
        self.assertGreater(server.metric("oneport_connections_refused_total", reason="connections_per_ip"), 0)

    def test_sockets_count_and_give_their_place_back(self):
        server = self.begin()
        held = []
        for _ in range(LIMIT):
            client = Bytes(("127.0.0.1", server.port))
            self.addCleanup(client.socket.close)
            client.send(upgrade("203.0.113.7"))
            self.assertEqual(client.head()[0], 101)
            held.append(client)
        self.assertEqual(self.open(server, "X-Forwarded-For: 203.0.113.7")[1], 503)
        held.pop().socket.close()
        until(lambda: self.open(server, "X-Forwarded-For: 203.0.113.7")[1] == 200, "the place of the socket that left")

    def test_sockets_over_http2_count_as_others_do(self):
        """One connection carries 250 of them, each with queues of its own."""
        server = self.begin()
        client = self.enterContext(Client(server))
        streams = [client.ask_for_socket("/ws/echo/") for _ in range(LIMIT * 2)]
        accepted = sum(client.head(stream)[0] == 200 for stream in streams)
        self.record.during()
        self.assertLessEqual(accepted, LIMIT)
        self.assertGreaterEqual(accepted, LIMIT - 1)

    def test_what_a_client_writes_itself_changes_nothing(self):
        """The proxy adds the true address on the right."""
        server = self.begin()
        fields = [f"X-Forwarded-For: 192.0.2.{number}, 203.0.113.7" for number in range(LIMIT * 2)]
        self.assertEqual(self.statuses(server, fields).count(200), LIMIT)

    def test_a_peer_that_is_no_proxy_is_counted_by_its_own_address(self):
        server = self.begin()
        fields = [f"X-Forwarded-For: 192.0.2.{number}" for number in range(LIMIT * 2)]
        statuses = self.statuses(server, fields, source="127.0.0.2")
        self.assertEqual((statuses.count(200), statuses.count(503)), (LIMIT, LIMIT), statuses)
        self.assertEqual(self.statuses(server, [""], source="127.0.0.3"), [200])

    def test_the_log_says_so_once_per_interval_with_the_key_to_set(self):
        for name, options in (("through a proxy", {"field": "X-Forwarded-For: 203.0.113.7"}), ("directly", {"source": "127.0.0.2"})):
            with self.subTest(name):
                server = self.begin()
                for _ in range(LIMIT):
                    self.open(server, **options)
                began = time.monotonic()
                refused = 0
                while time.monotonic() - began < 3:
                    client, status = self.open(server, **options)
                    client.socket.close()
                    refused += status == 503
                self.assertGreater(refused, 20)
                lines = re.findall(r"^.*(?:WARN|ERROR).*connections_per_ip.*$", server.log(), re.MULTILINE)
                self.assertGreater(len(lines), 0, "nothing in the log")
                self.assertLessEqual(len(lines), LINES_MAX, "\n".join(lines[:5]))
                self.assertIn("server.limits.connections_per_ip", lines[0])

    def test_the_log_says_so_of_the_limit_of_all(self):
        server = self.start(CONFIG.format(limit=1000, forwarded="forwarded").replace("connections_per_ip = 1000", f"connections = {LIMIT}"))
        statuses = self.statuses(server, [""] * (LIMIT * 2))
        self.assertEqual(statuses.count(503), LIMIT, statuses)
        lines = re.findall(r"^.*(?:WARN|ERROR).*server\.limits\.connections\b.*$", server.log(), re.MULTILINE)
        self.assertEqual(len(lines), 1, lines[:5])


def upgrade(client):
    return (
        "GET /ws/echo/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"X-Forwarded-For: {client}\r\n\r\n"
    ).encode()


class SendQueues(Chaos):
    """Each of 30 clients floods `echo` and reads nothing; the server stops reading once half of a client's queue is full."""

    SOCKETS = 30

    def flooded(self, total):
        """Returns the most bytes that wait for all clients once none of them is read any more."""
        server = self.start(QUEUES.format(total=total))
        sockets = [self.enterContext(RawSocket(server, "/ws/echo/", receive_buffer=4096)) for _ in range(self.SOCKETS)]
        frame = encode(BINARY, bytes(16_000))
        for client in sockets:
            client.socket.settimeout(0.2)
        most = 0
        while sockets:
            for client in list(sockets):
                try:
                    for _ in range(200):
                        client.socket.sendall(frame)
                except OSError:  # the server reads no more; a frame is cut, so nothing may follow it
                    sockets.remove(client)
            most = max(most, server.metric("oneport_send_queue_bytes"))
        return most

    def test_what_waits_for_all_clients_is_bounded(self):
        # One read of 64 KiB may call forth as much for each client.
        self.assertLess(self.flooded("2 MiB"), 2 * MIB + self.SOCKETS * 2 * (64 << 10))

    def test_below_the_bound_each_client_has_its_own_queue(self):
        self.assertGreater(self.flooded("256 MiB"), 10 * MIB)


if __name__ == "__main__":
    unittest.main()
