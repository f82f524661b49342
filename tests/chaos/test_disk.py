"""Disk: a full database, or one that another process writes to, fails logins with 503, and the log reports it at intervals.

Reading goes on meanwhile, and writing when there is room again.
"""

import re
import sqlite3
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from disturb.case import Chaos, tail
from disturb.disk import Disk
from disturb.server import Disturbed
from kit.deadline import DEADLINE, until
from kit.visitor import PAGES, Visitor, add_user

CONFIG = """
[session]
store = "sqlite:{place}/site.db"
cache = "0s"
check_interval = "500ms"

[auth]
users = "sqlite:{place}/site.db"

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/login/"
view = "login"
options = {{ attempts_per_name = 1_000_000, attempts_per_address = 1_000_000 }}

[[http.route]]
path = "/logout/"
view = "logout"

[[http.route]]
path = "/form/"
view = "template"
options = {{ template = "form.html" }}

[[http.route]]
path = "/who/"
view = "template"
options = {{ template = "who.html" }}

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "login_required"]
"""

# Lines about the outage: two when it begins, and two for each ten seconds.
LINES_MAX = 2
SECONDS = 8
OUTAGE = re.compile(r"^.* (?:WARN|ERROR) oneport::(?:database|session|auth)\b.*$", re.MULTILINE)

OVER = re.compile(r"^(?!.*access:).*\b(?:again|answers|is back|is over|available)\b.*$", re.MULTILINE)


class Full(Chaos):
    def begin(self):
        self.disk = self.enterContext(Disk("1m"))
        config = CONFIG.format(place=self.disk.directory)
        server = self.enterContext(Disturbed(config, files=PAGES, limits=self.disk.limits))
        add_user(server, "anna")
        self.anna = Visitor(server).log_in()
        self.watch(server)
        return server

    def fill(self, server):
        """Fills the disk, and uses up what SQLite has left in its files."""
        self.disk.fill(server.pid)
        until(lambda: Visitor(server).try_to_log_in().status != 303, "a login that has no room")
        self.record.during()

    def test_a_login_is_503_and_reading_goes_on(self):
        server = self.begin()
        peer = self.enterContext(self.anna.peer("/ws/members/"))
        self.fill(server)
        for _ in range(5):
            answer = Visitor(server).try_to_log_in()
            self.assertEqual((answer.status, answer.headers["Retry-After"] is not None), (503, True))
            self.assertEqual(self.anna.name(), "anna")
            self.is_open(peer)
        self.assertEqual(Visitor(server).try_to_log_in(password="wrong").status, 401)
        self.assertEqual(server.request("/health/")[0], 200)
        self.assertGreater(server.metric("oneport_store_errors_total"), 0)

    def test_the_log_tells_it_now_and_then(self):
        """Reads succeed all the while: they do not end the outage, so it does not begin again either."""
        server = self.begin()
        self.fill(server)
        before = len(OUTAGE.findall(server.log()))
        began = time.monotonic()
        tried = 0
        while time.monotonic() - began < SECONDS:
            self.assertEqual(Visitor(server).try_to_log_in().status, 503)
            self.anna.name()
            tried += 1
        lines = OUTAGE.findall(server.log())
        self.assertGreater(tried, 5)
        self.assertGreater(len(lines), 0)
        self.assertLessEqual(len(lines) - before, LINES_MAX, "\n".join(lines[-6:]))
        self.assertLessEqual(before, LINES_MAX, "\n".join(lines[:6]))

    def test_writing_works_again_with_room_and_the_log_says_so_once(self):
        server = self.begin()
        self.fill(server)
        self.anna.name()
        before = self.said_over(server)
        self.assertEqual(before, 0, "the outage was said to be over by a read")
        self.disk.free(server.pid)
        until(lambda: Visitor(server).try_to_log_in().status == 303, "a login that works again")
        until(lambda: self.said_over(server) > before, lambda: f"a line that the outage is over\n{tail(server)}")
        for _ in range(5):
            Visitor(server).log_in()
        self.assertEqual(self.said_over(server), 1)
        with closing(sqlite3.connect(self.disk.directory / "site.db", timeout=DEADLINE)) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchone(), ("ok",))

    def said_over(self, server):
        return len(OVER.findall(without_banner(server.log())))

    def test_a_logout_without_room_is_503_and_ends_nothing_by_halves(self):
        """If the row cannot be removed the visitor stays logged in everywhere, and gets an error."""
        server = self.begin()
        token = self.anna.token("/form/")
        self.fill(server)
        answer = self.anna.post("/logout/", {"csrfmiddlewaretoken": token})
        if answer.status == 303:  # there was room for it after all: a removal may need none
            self.assertIsNone(self.anna.name())
        else:
            self.assertEqual(answer.status, 503)
            self.assertEqual(self.anna.name(), "anna")
        self.disk.free(server.pid)
        if answer.status == 503:
            until(lambda: self.anna.post("/logout/", {"csrfmiddlewaretoken": token}).status == 303, "a logout that works again")
        self.assertIsNone(self.anna.name())

    def test_a_start_without_room_is_one_sentence(self):
        """The tables cannot be made: the key and the place are named."""
        with Disk("64k") as disk:
            if not disk.is_mounted:
                self.skipTest("only root can mount a file system")
            with open(disk.directory / "ballast", "wb", buffering=0) as ballast:
                try:
                    while ballast.write(b"x" * 4096):
                        pass
                except OSError:
                    pass
            server = Disturbed(CONFIG.format(place=disk.directory), files=PAGES)
            self.addCleanup(server.close)
            with self.assertRaisesRegex(AssertionError, "ended before it listened") as failure:
                server.start()
            said = [line for line in str(failure.exception).splitlines()[1:] if line]
            self.assertEqual(len(said), 1, said)
            self.assertRegex(said[0], r"(?:session\.store|auth\.users|secret_key)\b.*(?:full|[Nn]o space)")


class Locked(Chaos):
    """Another process holds a write transaction open: a backup, or a person at a prompt."""

    def test_reading_goes_on_while_many_wait_for_their_turn_to_write(self):
        server = self.enterContext(Disturbed(CONFIG.format(place="."), files=PAGES))
        add_user(server, "anna")
        anna = Visitor(server).log_in()
        self.watch(server)
        with closing(sqlite3.connect(server.directory / "site.db", isolation_level=None)) as other, ThreadPoolExecutor(20) as pool:
            other.execute("BEGIN IMMEDIATE")
            logins = [pool.submit(lambda: Visitor(server).try_to_log_in().status) for _ in range(20)]
            statuses, waits = [], []
            while not all(login.done() for login in logins):
                began = time.monotonic()
                statuses.append(anna.request("/who/").status)
                waits.append(time.monotonic() - began)
                self.record.during()
            other.execute("ROLLBACK")
        self.assertEqual({login.result() for login in logins}, {503})
        print(f"{self.id()}: {len(waits)} pages, the last after {max(waits):.3f} s")
        self.assertEqual(set(statuses), {200})
        self.assertLess(max(waits), 1.0)
        until(lambda: Visitor(server).try_to_log_in().status == 303, "a login that works again")


def without_banner(log):
    return "\n".join(line for line in log.splitlines() if re.match(r"\d{4}-", line))


if __name__ == "__main__":
    unittest.main()
