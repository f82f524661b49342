"""Clock: a process that stood still, and a wall clock that jumps a day forward or back, end nothing that should live.

Sessions are as valid as the wall clock says; sockets, timeouts and intervals go by the monotonic clock. Nothing spins.
"""

import http.client
import json
import sqlite3
import tempfile
import time
import unittest
from contextlib import closing
from email.utils import parsedate_to_datetime

from disturb.case import Chaos
from disturb.clock import Clock
from disturb.server import Disturbed
from disturb.vitals import Vitals
from kit.deadline import DEADLINE, until
from kit.frames import PING, PONG, TEXT, Bytes, RawSocket
from kit.stream import Stream
from kit.visitor import LOGIN, PAGES, Visitor, add_user

CONFIG = (
    """
[server.timeouts]
request = "2s"
keep_alive = "2s"
handshake = "2s"

[session]
store = "sqlite:site.db"
max_age = "10h"
cache = "0s"
check_interval = "500ms"

"""
    + LOGIN
    + """
[[http.route]]
path = "/who/"
view = "template"
options = { template = "who.html" }

[[http.route]]
path = "/api/{*call}"
view = "publish"
middleware = []
options = { tokens = [{ name = "test", token = "a-token-of-these-tests-0123456789", groups = ["*"] }] }

[[http.route]]
path = "/events/"
view = "events"
middleware = []
options = { group = "news", heartbeat = "1s", history = 5 }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
ping_interval = "1s"
pong_timeout = "3s"

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "login_required"]

[[websocket.route]]
path = "/ws/chat/"
consumer = "chat"
options = { group = "news", history = 5, recover = true }
"""
)

AUTHORIZATION = b"Authorization: Bearer a-token-of-these-tests-0123456789\r\n"
STILL = 5.0


class Still(Chaos):
    def test_a_process_that_stood_still_closes_nothing(self):
        """Deadlines passed meanwhile, for want of the server: clients that answer at once keep their connections."""
        server = self.start(CONFIG, files=PAGES)
        peers = [self.peer(server) for _ in range(50)]
        stream = self.enterContext(Stream(server, "/events/"))
        stream.first()
        server.freeze()
        began = time.monotonic()
        waiting = RawSocket(server, "/ws/echo/", wait=False)  # the kernel takes it, and nobody accepts
        self.addCleanup(waiting.socket.close)
        time.sleep(STILL)  # the disturbance itself
        server.thaw()
        self.assertEqual(waiting.head()[0], 101)
        for peer in peers:
            self.is_open(peer)
        self.assertGreater(time.monotonic() - began, STILL)
        self.assertTrue(any(line.startswith(":") for line in stream.block()))
        self.assertEqual(server.metric("oneport_websockets_closed_total"), 0)
        self.ends_in_order(server, *peers)

    def test_a_request_whose_head_arrived_meanwhile_is_answered(self):
        server = self.start(CONFIG, files=PAGES)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        connection.request("GET", "/health/")
        connection.getresponse().read()
        server.freeze()
        connection.request("GET", "/health/")
        time.sleep(STILL)  # the disturbance itself
        server.thaw()
        self.assertEqual(connection.getresponse().status, 200)

    def test_a_body_that_arrived_meanwhile_is_read(self):
        server = self.start(CONFIG, files=PAGES)
        clients = [self.enterContext(Bytes(("127.0.0.1", server.port))) for _ in range(20)]
        for client in clients:
            client.send(b"POST /api/groups/news HTTP/1.1\r\nHost: localhost\r\n" + AUTHORIZATION + b"Content-Length: 12\r\n\r\n")
        until(lambda: Vitals.of(server.pid).descriptors >= self.record.before.descriptors + len(clients), "open connections")
        server.freeze()
        for client in clients:
            client.send(b'{"type":"a"}')
        time.sleep(STILL)  # the disturbance itself
        server.thaw()
        self.assertEqual([client.head()[0] for client in clients], [200] * len(clients))

    def test_a_pong_that_arrived_meanwhile_counts(self):
        server = self.start(CONFIG, files=PAGES)
        sockets = [self.enterContext(RawSocket(server, "/ws/echo/")) for _ in range(20)]
        for raw in sockets:
            self.assertEqual(raw.frame().opcode, PING)
        server.freeze()
        for raw in sockets:
            raw.say(PONG)
            raw.say(TEXT, b"still here")
        time.sleep(STILL)  # the disturbance itself
        server.thaw()
        for raw in sockets:
            frames = [raw.frame()]
            while frames[-1].opcode == PING:
                frames.append(raw.frame())
            self.assertEqual((frames[-1].opcode, frames[-1].payload), (TEXT, b"still here"))


class Jumps(Chaos):
    def begin(self):
        self.clock = Clock(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-clock-")))
        server = self.enterContext(Disturbed(CONFIG, files=PAGES, environment=self.clock.environment))
        add_user(server, "anna")
        self.watch(server)
        return server

    def moved(self, server, offset):
        """Moves the clock, and waits until the server's `Date` shows it."""
        self.clock.move(offset)
        hours = {"+1d": 24, "-1d": -24, "+0": 0, "+9h": 9}[offset]

        def is_there():
            said = parsedate_to_datetime(server.request("/health/")[1]["Date"]).timestamp()
            return abs(said - time.time() - hours * 3600) < 60

        until(is_there, f"a Date {hours} h from now")
        self.record.during()

    def spins_not(self, server, seconds=2.0):
        """Watches it with nothing to do."""
        before = Vitals.of(server.pid).cpu
        time.sleep(seconds)  # the time that is watched
        self.assertLess(Vitals.of(server.pid).cpu - before, seconds / 8, "the server is busy with nothing")

    def test_sockets_and_streams_stay_and_nothing_spins(self):
        server = self.begin()
        peers = [self.peer(server) for _ in range(10)]
        stream = self.enterContext(Stream(server, "/events/"))
        stream.first()
        for offset in ("+1d", "-1d", "+0", "-1d", "+1d", "+0"):
            self.moved(server, offset)
            for peer in peers:
                self.is_open(peer)
            self.record.during()
        self.moved(server, "-1d")
        self.spins_not(server)
        self.assertTrue(any(line.startswith(":") for line in stream.block()))
        self.assertEqual(server.metric("oneport_websockets_closed_total"), 0)
        self.ends_in_order(server, *peers)

    def test_pings_go_on_after_a_jump(self):
        server = self.begin()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        for offset in ("-1d", "+1d"):
            self.clock.move(offset)
            for _ in range(2):
                self.assertEqual(raw.frame().opcode, PING)
                raw.say(PONG)

    def test_timeouts_are_those_of_the_monotonic_clock(self):
        """An idle connection ends after its two seconds, neither at once nor a day later."""
        server = self.begin()
        for offset in ("+1d", "-1d"):
            with self.subTest(offset):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
                self.addCleanup(connection.close)
                connection.request("GET", "/health/")
                connection.getresponse().read()
                began = time.monotonic()
                self.clock.move(offset)
                self.assertEqual(connection.sock.recv(1), b"")
                self.assertGreater(time.monotonic() - began, 1.0)
                self.assertLess(time.monotonic() - began, 6.0)

    def test_a_session_ends_a_day_later_and_its_socket_with_it(self):
        server = self.begin()
        visitor = Visitor(server).log_in()
        peer = self.enterContext(visitor.peer("/ws/members/"))
        self.is_open(peer)
        self.moved(server, "+1d")
        self.assertIsNone(visitor.name())
        self.assertEqual(peer.closed()[0], 4401)

    def test_a_session_lives_within_its_age_and_after_a_jump_back(self):
        server = self.begin()
        visitor = Visitor(server).log_in()
        peer = self.enterContext(visitor.peer("/ws/members/"))
        for offset in ("+9h", "-1d", "+0"):
            self.moved(server, offset)
            self.assertEqual(visitor.name(), "anna", offset)
            self.is_open(peer)

    def test_a_login_after_a_jump_has_the_age_of_the_new_time(self):
        server = self.begin()
        self.moved(server, "-1d")
        visitor = Visitor(server).log_in()
        self.assertEqual(visitor.name(), "anna")
        with closing(sqlite3.connect(server.directory / "site.db")) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))
        self.moved(server, "+0")
        self.assertIsNone(visitor.name(), "a session of yesterday that lives ten hours")

    def test_logins_are_throttled_by_the_monotonic_clock(self):
        """A jump of a day grants no day's attempts; a jump back locks no one out."""
        server = self.begin()
        visitor = Visitor(server)
        for _ in range(10):
            visitor.try_to_log_in(password="wrong")
        self.assertEqual(visitor.try_to_log_in().status, 429)
        self.moved(server, "+1d")
        self.assertEqual(Visitor(server).try_to_log_in().status, 429)
        self.moved(server, "-1d")
        self.assertEqual(Visitor(server).try_to_log_in("berta", "wrong").status, 401)

    def test_histories_and_events_survive_a_jump(self):
        server = self.begin()
        peer = self.peer(server, "/ws/chat/")
        joined = peer.next("oneport.joined")
        peer.say({"message": "before"})
        peer.next("chat.message")
        for offset in ("-1d", "+1d"):
            self.moved(server, offset)
            peer.say({"message": f"after {offset}"})
            peer.next("chat.message", message=f"after {offset}")
        again = self.peer(server, f"/ws/chat/?since={joined['offset']}")
        self.assertIs(again.next("oneport.joined")["recovered"], True)
        self.assertEqual([json.loads(again.receive())["message"] for _ in range(3)], ["before", "after -1d", "after +1d"])


if __name__ == "__main__":
    unittest.main()
