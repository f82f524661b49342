"""Stop: SIGTERM ends the server in time, whatever is in progress, and does not wait for work that can be done later."""

import signal
import sqlite3
import time
import unittest
from contextlib import closing

from disturb.case import Chaos
from disturb.server import Disturbed
from kit.deadline import until
from kit.frames import Bytes, RawSocket
from kit.http2 import Client, StreamSocket

CONFIG = """
[server.timeouts]
drain = "12s"
handshake = "1s"

[session]
store = "sqlite:site.db"
sweep_interval = "1s"

[http]
middleware = ["hosts", "session"]

[[http.route]]
path = "/events/"
view = "events"
middleware = []
options = { group = "news", heartbeat = "1h" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
close_timeout = "1s"
"""

ROWS = 600_000
EXPIRED = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO oneport_session (key_hash, data, version, expires_at) SELECT lower(hex(randomblob(32))), '{}', 1, 1 FROM numbers
"""
# Half of the drain: what the end takes when nothing holds it up.
SECONDS_MAX = 6.0


class Stop(Chaos):
    def ends_soon(self, server):
        self.record.during()
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        server.wait()
        self.assertLess(time.monotonic() - began, SECONDS_MAX)

    def test_while_expired_sessions_are_deleted(self):
        """They are deleted as well after the next start."""
        first = Disturbed(CONFIG)
        self.addCleanup(first.close)
        first.start()
        first.stop()
        with closing(sqlite3.connect(first.directory / "site.db")) as database, database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute(EXPIRED, [ROWS])
        first.start()
        self.watch(first)
        until(lambda: self.left(first) < ROWS, "the first of them to be deleted")
        self.assertGreater(self.left(first), 0, "all were deleted at once: there is nothing to wait for")
        self.ends_soon(first)
        with closing(sqlite3.connect(first.directory / "site.db")) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))

    def left(self, server):
        with closing(sqlite3.connect(server.directory / "site.db", timeout=20)) as database:
            return database.execute("SELECT count(*) FROM oneport_session").fetchone()[0]

    def test_while_clients_of_every_kind_are_silent(self):
        """Half a head, a quiet event stream, sockets that do not answer the close frame; over HTTP/1 and HTTP/2."""
        server = self.start(CONFIG)
        for data in (b"", b"GET /", b"GET /events/ HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            client = self.enterContext(Bytes(("127.0.0.1", server.port)))
            client.send(data)
        self.enterContext(RawSocket(server, "/ws/echo/"))
        self.enterContext(Client(server))
        client = self.enterContext(Client(server))
        client.head(client.ask("/events/"))
        StreamSocket(client, "/ws/echo/")
        self.ends_soon(server)

    def test_a_second_signal_ends_at_once(self):
        server = self.start(CONFIG)
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.signal(signal.SIGTERM)
        self.assertEqual(raw.frame().code, 1001)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        code = server._process.wait(SECONDS_MAX)
        server._process = None
        self.assertLess(time.monotonic() - began, 1.0, f"it ended with {code}")


if __name__ == "__main__":
    unittest.main()
