"""Kill: SIGKILL during every kind of write. The database is intact, acknowledged writes are present, and the next start works.

Twenty rounds of each, killed at moments that are spread over the time that the write takes.
"""

import os
import signal
import socket
import sqlite3
import stat
import subprocess
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from disturb.case import Chaos
from disturb.server import Disturbed
from kit.deadline import DEADLINE
from kit.server import binary
from kit.visitor import LOGIN, PAGES, PASSWORD, Visitor, add_user

CONFIG = (
    """
[session]
store = "sqlite:site.db"
cache = "0s"

"""
    + LOGIN
    + """\
options = { attempts_per_name = 1_000_000, attempts_per_address = 1_000_000 }

[[http.route]]
path = "/logout/"
view = "logout"

[[http.route]]
path = "/form/"
view = "template"
options = { template = "form.html" }

[[http.route]]
path = "/who/"
view = "template"
options = { template = "who.html" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""
)

ROUNDS = 20
# What the server and its database may leave behind.
FILES = {"oneport.toml", "stdout", "stderr", "pages", "run", "site.db", "site.db-wal", "site.db-shm", "site.db.secret_key"}


class Kill(Chaos):
    def begin(self, *more, **options):
        server = self.enterContext(Disturbed(CONFIG, *more, files=PAGES, **options))
        self.watch(server)
        return server

    def not_started(self, *more):
        server = Disturbed(CONFIG, *more, files=PAGES)
        self.addCleanup(server.close)
        return server

    def killed(self, server, write, moment):
        """Runs the write, kills the server after `moment` seconds, and starts it again; returns the response, if there was one."""
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(write)
            time.sleep(moment)  # the moment is what varies, nothing is waited for
            server.kill()
            try:
                answer = written.result()
            except (OSError, AssertionError):
                answer = None
        server.start()
        self.watch(server)
        self.is_intact(server)
        return answer

    def rounds(self, seconds):
        """Returns the moments, from half the time that a write takes to a little more than that."""
        return [seconds * (0.5 + number / ROUNDS) for number in range(ROUNDS)]

    def timed(self, write):
        began = time.monotonic()
        write()
        return time.monotonic() - began

    def is_intact(self, server):
        with closing(sqlite3.connect(server.directory / "site.db", timeout=DEADLINE)) as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        self.assertEqual(server.request("/health/")[0], 200)

    def left_nothing(self, server):
        """But for the draft of a secret key, which a process that is killed at that moment cannot remove: its owner's alone, too."""
        left = {path for path in server.directory.iterdir() if path.name not in FILES}
        drafts = {path for path in left if path.name.startswith("site.db.secret_key.")}
        self.assertEqual(left - drafts, set())
        self.assertLessEqual({stat.S_IMODE(path.stat().st_mode) for path in drafts}, {0o600})

    def counted(self, acknowledged):
        """Both must have happened, or the moments are badly chosen."""
        print(f"{self.id()}: acknowledged {acknowledged} of {ROUNDS}")
        self.assertGreater(acknowledged, 0, "no write was acknowledged before its server was killed")

    def form(self, visitor):
        """Returns what a login sends, so that the write is one request."""
        return {"username": "anna", "password": PASSWORD, "csrfmiddlewaretoken": visitor.token()}

    def test_logging_in(self):
        server = self.begin()
        add_user(server, "anna")
        visitor = Visitor(server)
        fields = self.form(visitor)
        acknowledged = 0
        for moment in self.rounds(self.timed(lambda: visitor.post("/login/", fields))):
            visitor = Visitor(server)
            fields = self.form(visitor)
            answer = self.killed(server, lambda: visitor.post("/login/", fields), moment)  # noqa: B023 - used in this round
            if answer is not None and answer.status == 303:
                acknowledged += 1
                self.assertEqual(visitor.name(), "anna")
            Visitor(server).log_in()
        self.counted(acknowledged)
        self.left_nothing(server)

    def test_a_session_that_gets_another_key(self):
        """A login over a login: the old key ends when the new one begins."""
        server = self.begin()
        add_user(server, "anna")
        visitor = Visitor(server).log_in()
        fields = self.form(visitor)
        acknowledged = 0
        for moment in self.rounds(self.timed(lambda: visitor.post("/login/", fields))):
            visitor = Visitor(server).log_in()
            old = Visitor(server, visitor.cookies)
            fields = self.form(visitor)
            answer = self.killed(server, lambda: visitor.post("/login/", fields), moment)  # noqa: B023
            if answer is not None and answer.status == 303:
                acknowledged += 1
                self.assertEqual(visitor.name(), "anna")
                self.assertIsNone(old.name())
        self.counted(acknowledged)

    def test_logging_out(self):
        server = self.begin()
        add_user(server, "anna")
        visitor = Visitor(server).log_in()
        acknowledged = 0
        fields = {"csrfmiddlewaretoken": visitor.token("/form/")}
        for moment in self.rounds(self.timed(lambda: visitor.post("/logout/", fields))):
            visitor = Visitor(server).log_in()
            key = dict(visitor.cookies)
            fields = {"csrfmiddlewaretoken": visitor.token("/form/")}
            answer = self.killed(server, lambda: visitor.post("/logout/", fields), moment)  # noqa: B023
            if answer is not None and answer.status == 303:
                acknowledged += 1
                self.assertIsNone(Visitor(server, key).name(), "a session that was ended lives")
        self.counted(acknowledged)

    def test_twenty_logins_at_once(self):
        """Every acknowledged write is present."""
        server = self.begin()
        add_user(server, "anna")
        visitors = [Visitor(server) for _ in range(20)]
        forms = [self.form(visitor) for visitor in visitors]

        def post(visitor, fields):
            try:
                return visitor.post("/login/", fields).status
            except OSError:
                return None

        with ThreadPoolExecutor(20) as pool:
            answers = [pool.submit(post, *pair) for pair in zip(visitors, forms, strict=True)]
            while sum(answer.done() for answer in answers) < 5:
                time.sleep(0.001)
            server.kill()
        server.start()
        self.watch(server)
        self.is_intact(server)
        lived = [visitor for visitor, answer in zip(visitors, answers, strict=True) if answer.result() == 303]
        self.assertGreaterEqual(len(lived), 5)
        for visitor in lived:
            self.assertEqual(visitor.name(), "anna")

    def test_adding_a_user(self):
        server = self.begin()
        add_user(server, "anna")
        command = [binary(), "user", "--config", server.config, "add", "--password-stdin", "--"]

        def add(name, moment=DEADLINE):
            """Returns whether the command reported the added user before it was killed."""
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            with subprocess.Popen([*command, name], cwd=server.directory, **pipes) as process:
                process.stdin.write(f"{PASSWORD}\n".encode())
                process.stdin.close()
                try:
                    return process.wait(moment) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    return False

        acknowledged = 0
        for number, moment in enumerate(self.rounds(self.timed(lambda: add("first")))):
            name = f"user{number}"
            was_added = add(name, moment)
            self.is_intact(server)
            with closing(sqlite3.connect(server.directory / "site.db")) as database:
                rows = database.execute("SELECT password FROM oneport_user WHERE username = ?", [name]).fetchall()
            self.assertLessEqual(len(rows), 1)
            if was_added:
                acknowledged += 1
            if was_added or rows:
                self.assertEqual(Visitor(server).log_in(name).name(), name)
            else:
                self.assertTrue(add(name))
        self.counted(acknowledged)
        self.left_nothing(server)

    def test_the_first_start(self):
        """The secret key and the tables are made, whole or not at all; the key is its owner's alone."""
        began = time.monotonic()
        whole = self.begin()
        seconds = time.monotonic() - began
        whole.stop()
        for number in range(ROUNDS):
            server = self.not_started()
            self.killed_at_the_start(server, seconds * number / ROUNDS)
            key = server.directory / "site.db.secret_key"
            if key.exists():
                self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
                self.assertGreaterEqual(len(key.read_text(encoding="utf-8").strip()), 32)
            server.start()
            self.is_intact(server)
            add_user(server, "anna")
            visitor = Visitor(server).log_in()
            server.kill()
            server.start()
            self.assertEqual(visitor.name(), "anna")
            server.stop()
            self.left_nothing(server)

    def test_making_a_unix_socket(self):
        began = time.monotonic()
        whole = self.begin()
        seconds = time.monotonic() - began
        whole.stop()
        server = self.not_started("--bind", "unix:run/oneport.sock")
        place = server.directory / "run/oneport.sock"
        for number in range(ROUNDS):
            self.killed_at_the_start(server, seconds * number / ROUNDS)
            server.start()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(DEADLINE)
                client.connect(str(place))
                client.sendall(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertRegex(client.recv(100), b"^HTTP/1.1 200 ")
            server.kill()
        server.start()
        server.stop()
        self.left_nothing(server)
        self.assertEqual(os.listdir(place.parent), [])

    def killed_at_the_start(self, server, moment):
        with open(os.devnull, "wb") as nothing:
            process = subprocess.Popen(
                [binary(), "serve", "--config", server.config, *server._arguments], stdout=nothing, stderr=nothing, cwd=server.directory
            )
        with process:
            time.sleep(moment)  # the moment is what varies
            process.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    unittest.main()
