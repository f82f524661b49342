"""Descriptors: a process without free ones keeps serving, logs that once per interval, and recovers by itself.

400 clients come where the hard limit is 256. Open connections get their files and `health`, sockets live, SIGHUP reloads, the log stays
short, and new clients are served once others have left. A low soft limit is raised to the hard one at the start.
"""

import http.client
import re
import resource
import socket
import time
import unittest

from disturb.case import Chaos
from disturb.vitals import Vitals
from kit.deadline import DEADLINE, until

CONFIG = """
[[http.route]]
path = "/files/{{*path}}"
view = "static"
options = {{ dir = "files" }}

[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "{body}" }}

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

FILE = bytes(range(256)) * 1024  # 256 KiB: read in more than one step
LIMIT = 256
CLIENTS = 400
# How long the server is watched while it has no descriptor left, and how many lines it may log about that meanwhile.
SECONDS = 5
LINES_MAX = 3
TOLD = re.compile(r"^.*(?:WARN|ERROR) .*(?:open files|descriptors|limits\.connections).*$", re.MULTILINE)


class Descriptors(Chaos):
    def start_limited(self, soft=LIMIT, hard=LIMIT):
        limits = {resource.RLIMIT_NOFILE: (soft, hard)}
        return self.start(CONFIG.format(body="old"), limits=limits, files={"files/a.bin": FILE})

    def connections(self, server, count):
        """Connects, and sends nothing; the kernel takes those that the server cannot accept into its backlog."""
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
            self.addCleanup(client.close)
            clients.append(client)
        return clients

    def exhausted(self, server):
        """Returns the clients after which the server has no descriptor left."""
        clients = self.connections(server, CLIENTS)

        def is_full():
            self.record.during()
            # A reserve for files and the reload may be kept free.
            return Vitals.of(server.pid).descriptors >= LIMIT - 64

        until(is_full, "the server to run out of descriptors")
        return clients

    def get(self, connection, path, wanted):
        connection.request("GET", path)
        with connection.getresponse() as response:
            self.assertEqual((response.status, response.read() == wanted if wanted else True), (200, True), path)

    def kept_open(self, server):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        self.get(connection, "/health/", None)
        return connection

    def is_served_again(self, server):
        def served():
            try:
                return server.request("/health/")[0] == 200
            except OSError:
                return False

        until(served, "a new client to be served")

    def test_what_is_open_goes_on(self):
        server = self.start_limited()
        peer, connection = self.peer(server), self.kept_open(server)
        self.exhausted(server)
        self.is_open(peer)
        for _ in range(20):
            self.get(connection, "/health/", None)
            self.get(connection, "/files/a.bin", FILE)
        self.ends_in_order(server, peer)

    def test_the_log_tells_once_per_interval(self):
        server = self.start_limited()
        connection = self.kept_open(server)
        before = len(server.log())
        self.exhausted(server)
        began, cpu = time.monotonic(), Vitals.of(server.pid).cpu
        while time.monotonic() - began < SECONDS:
            self.get(connection, "/health/", None)
            time.sleep(0.1)  # the time that is watched, not a wait for something
        during = TOLD.findall(server.log(), before)
        self.assertGreater(len(during), 0, "nothing in the log")
        self.assertLessEqual(len(during), LINES_MAX, "\n".join(during[:5]))
        self.assertLess(Vitals.of(server.pid).cpu - cpu, SECONDS / 4, "the server is busy with nothing")

    def test_a_reload_works_meanwhile(self):
        server = self.start_limited()
        connection = self.kept_open(server)
        self.exhausted(server)
        server.write(CONFIG.format(body="new"))
        before = server.reloads()
        server.signal(1)
        until(lambda: server.reloads() > before, "a reload that the log tells of")
        self.get(connection, "/page/", b"new")

    def test_new_clients_are_served_once_others_have_left(self):
        server = self.start_limited()
        clients = self.exhausted(server)
        for client in clients:
            client.close()
        self.is_served_again(server)
        until(lambda: Vitals.of(server.pid).descriptors <= self.record.before.descriptors + 8, "the descriptors to be freed")

    def test_running_out_again_and_again_leaks_nothing(self):
        server = self.start_limited()
        for _ in range(5):
            for client in self.exhausted(server):
                client.close()
            self.is_served_again(server)
        until(lambda: Vitals.of(server.pid).descriptors <= self.record.before.descriptors + 8, "the descriptors to be freed")
        self.assert_memory_grew_by_at_most(24)

    def test_a_low_soft_limit_is_raised_at_the_start(self):
        server = self.start_limited(soft=64, hard=4096)
        self.assertEqual(resource.prlimit(server.pid, resource.RLIMIT_NOFILE), (4096, 4096))
        for client in self.connections(server, 300):
            client.sendall(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertRegex(client.recv(100), b"^HTTP/1.1 200 ")

    def test_a_hard_limit_below_the_connections_is_warned_about(self):
        server = self.start_limited()
        self.assertRegex(server.log(), r"(?i)WARN.*\b256\b.*|warning.*\b256\b")

    def test_too_few_end_the_start_with_a_sentence(self):
        for limit in (16, 79):
            with self.subTest(limit), self.assertRaises(AssertionError) as failure:
                self.start_limited(limit, limit)
            self.assertIn(f"oneport: the limit of open files is {limit}, at least 80 required", str(failure.exception))


if __name__ == "__main__":
    unittest.main()
