"""Database away: requests that need PostgreSQL are refused in time, all others continue, and it recovers by itself.

PostgreSQL is stopped, killed, or stands still with its connections open. It holds the server's own sessions and users,
or those of Django.
"""

import json
import re
import subprocess
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from kit.deadline import DEADLINE, Late, until
from kit.django_project import PASSWORD, Browser, DjangoProject
from kit.peer import Peer, refusal
from kit.postgres import Postgres
from kit.server import Server, binary

KEY = "0123456789-abcdefghijklmnopqrstuvwxyz-0123456789-abcdefg"
# `session.timeout`, what a busy machine may add to it, and how long coming back may take, in seconds.
TIMEOUT = 1.0
MOMENT = 1.5
BACK = 5.0
CHECK = 0.5
# How often the log may report an unavailable database.
INTERVAL = 10.0

CONFIG = """
[server]
secret_key = "{key}"

[log]
access = false

[session]
store = {store}
cache = "0s"
check_interval = "500ms"
timeout = "1s"
connections = 4

[auth]
users = {users}

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/plain/"
view = "respond"
middleware = ["hosts"]
options = {{ body = "plain" }}

[[http.route]]
path = "/page/"
view = "template"
options = {{ template = "page.html" }}
{login}
[[websocket.route]]
path = "/ws/chat/"
consumer = "chat"
middleware = ["hosts", "origin", "session", "auth"]
options = {{ group = "chat", presence = false }}
"""

LOGIN = """
[[http.route]]
path = "/login/"
view = "login"
middleware = ["hosts", "session", "auth", "csrf"]
options = { attempts_per_name = 1000, attempts_per_address = 1000, redirect = "/page/" }

[[http.route]]
path = "/logout/"
view = "logout"
middleware = ["hosts", "session", "auth", "csrf"]

[[http.route]]
path = "/ticket/"
view = "ticket"
middleware = ["hosts", "session", "auth", "csrf"]
"""

PAGES = {
    "pages/page.html": "{% if user %}{{ user.name }}{% else %}nobody{% endif %}",
    "pages/login.html": '<form method="post"><input name="csrfmiddlewaretoken" value="{{ csrf_token() }}"></form>',
}

POSTGRES = None


def setUpModule():
    global POSTGRES
    POSTGRES = unittest.enterModuleContext(Postgres())


def each_way(test):
    """Makes a test for each way in which a database may be unavailable."""

    @wraps(test)
    def of_all(self):
        for way in ("stopped", "killed", "frozen"):
            with self.subTest(way):
                self.works_again()
                test(self, way)

    return of_all


class Away:
    """Shared by both: `self.server`, and `self.browser`, logged in as `self.known`."""

    @staticmethod
    def engine():
        """Returns the unavailable part."""
        return POSTGRES

    @contextmanager
    def away(self, way):
        """The database is unavailable inside, and back after it."""
        engine = self.engine()
        leave, come_back = {
            "stopped": (engine.stop, engine.start),
            "killed": (engine.kill, engine.start),
            "frozen": (engine.freeze, engine.thaw),
        }[way]
        leave()
        try:
            yield
        finally:
            come_back()

    def works_again(self):
        until(lambda: self.server.request("/page/", headers=self.browser.headers)[0] == 200, "the database to be read", BACK)

    def peer(self, server=None, browser=None):
        return self.enterContext(Peer(server or self.server, "/ws/chat/", additional_headers=browser.headers if browser else {}))

    def says(self, peer, user):
        """Holds that a socket is open, and who it belongs to."""
        said = f"said {time.monotonic()}"
        peer.say({"message": said})
        self.assertEqual(peer.next("chat.message", message=said)["user"], user)

    def stays(self, peer, seconds):
        with self.assertRaises(Late):
            while True:
                peer.receive(seconds)

    def refused(self, server=None):
        """Makes a handshake that needs the database; returns how long the refusal took."""
        began = time.monotonic()
        refused = refusal(server or self.server, "/ws/chat/", additional_headers=self.browser.headers)
        late = time.monotonic() - began
        self.assertEqual((refused.status_code, refused.headers.get("Retry-After")), (503, "1"))
        return late

    @each_way
    def test_a_handshake_with_a_cookie_is_503_in_time(self, way):
        with self.away(way):
            for _ in range(3):
                self.assertLess(self.refused(), TIMEOUT + MOMENT)

    @each_way
    def test_a_page_for_a_cookie_is_503_in_time(self, way):
        with self.away(way):
            began = time.monotonic()
            status, fields, _ = self.server.request("/page/", headers=self.browser.headers)
            self.assertEqual((status, fields.get("Retry-After")), (503, "1"))
            self.assertLess(time.monotonic() - began, TIMEOUT + MOMENT)

    @each_way
    def test_fifty_handshakes_at_once_are_503_in_time_though_there_are_four_connections(self, way):
        with self.away(way), ThreadPoolExecutor(50) as pool:
            late = [one.result() for one in [pool.submit(self.refused) for _ in range(50)]]
            self.assertLess(max(late), TIMEOUT + MOMENT)

    @each_way
    def test_what_needs_no_database_answers_at_once(self, way):
        with self.away(way), ThreadPoolExecutor(20) as pool:
            waiting = [pool.submit(self.refused) for _ in range(20)]
            while not all(one.done() for one in waiting):
                began = time.monotonic()
                self.assertEqual(self.server.request("/plain/")[2], b"plain")
                self.assertEqual(self.server.request("/page/")[2], b"nobody")
                self.assertLess(time.monotonic() - began, TIMEOUT / 2)
            for one in waiting:
                one.result()

    @each_way
    def test_a_handshake_without_a_cookie_is_accepted(self, way):
        with self.away(way):
            self.says(self.peer(), None)

    @each_way
    def test_sockets_that_are_open_stay_open(self, way):
        peers = [(self.peer(browser=self.browser), self.known), (self.peer(), None)]
        with self.away(way):
            self.stays(peers[0][0], TIMEOUT + 4 * CHECK)
            for peer, name in peers:
                self.says(peer, name)
        self.works_again()
        self.stays(peers[0][0], 3 * CHECK)
        for peer, name in peers:
            self.says(peer, name)

    @each_way
    def test_it_works_by_itself_when_the_database_is_back(self, way):
        with self.away(way):
            self.refused()
        self.works_again()
        self.says(self.peer(browser=self.browser), self.known)

    def test_a_database_that_was_restarted_while_nobody_asked_is_no_failure(self):
        with self.gateway() as server:
            peers = [self.peer(server, self.browser) for _ in range(8)]
            with self.away("stopped"):
                pass
            for peer in [*peers, self.peer(server, self.browser)]:
                self.says(peer, self.known)

    @each_way
    def test_a_logout_is_noticed_again_when_the_database_is_back(self, way):
        browser = self.new_browser()
        peer = self.peer(browser=browser)
        self.says(peer, self.known)
        with self.away(way):
            self.stays(peer, TIMEOUT + 2 * CHECK)
        self.log_out(browser)
        began = time.monotonic()
        self.assertEqual(peer.closed()[0], 4401)
        self.assertLess(time.monotonic() - began, BACK + CHECK)

    @each_way
    def test_the_log_says_it_once_in_a_while_and_not_once_for_each_handshake(self, way):
        with self.gateway() as server:
            self.says(self.peer(server, self.browser), self.known)
            before = len(server.log())
            with self.away(way), ThreadPoolExecutor(10) as pool:
                began = time.monotonic()
                for one in [pool.submit(self.refused, server) for _ in range(50)]:
                    one.result()
                seconds = time.monotonic() - began
                said = [line for line in server.log()[before:].splitlines() if line.strip()]
            self.assertGreaterEqual(len(said), 1)
            # Sessions and users are two databases to the server.
            self.assertLessEqual(len(said), 2 * (1 + int(seconds / INTERVAL)), "\n".join(said[:5]))
            self.assertRegex("\n".join(said), r"(?i)(WARN|ERROR)")
            self.hides_the_password(server)

    def test_failures_are_counted(self):
        self.works_again()
        before = self.server.metric("oneport_store_errors_total", store="session")
        with self.away("stopped"):
            self.refused()
        self.assertGreater(self.server.metric("oneport_store_errors_total", store="session"), before)

    @each_way
    def test_the_server_starts_while_the_database_is_away_and_says_so(self, way):
        with self.away(way):
            server = self.enterContext(self.gateway())
            self.assertEqual(server.request("/plain/")[2], b"plain")
            self.says(self.peer(server), None)
            self.assertLess(self.refused(server), TIMEOUT + MOMENT)
            server.wait_for_log(r"(?i)(WARN|ERROR).*(database|postgres|store|session)")
        until(lambda: self.is_known(server), "the database to be read", BACK)
        self.says(self.peer(server, self.browser), self.known)
        self.hides_the_password(server)

    @each_way
    def test_the_server_ends_in_time_while_the_database_is_away(self, way):
        with self.gateway() as server, ThreadPoolExecutor(8) as pool:
            self.says(self.peer(server, self.browser), self.known)
            with self.away(way):
                waiting = [pool.submit(self.refused, server) for _ in range(8)]
                began = time.monotonic()
                server.stop()
                self.assertLess(time.monotonic() - began, BACK)
                for one in waiting:
                    one.exception(DEADLINE)  # some came too late

    def is_known(self, server):
        status, _, body = server.request("/page/", headers=self.browser.headers)
        return (status, body.decode()) == (200, self.known)

    def hides_the_password(self, server):
        for secret in ("p@ss", "p%40ss", self.browser.session):
            self.assertNotIn(secret, server.log())


class OwnDatabase(Away, unittest.TestCase):
    """Sessions and users of the server's own."""

    known = "anna"

    @classmethod
    def setUpClass(cls):
        cls.database = POSTGRES.create_database()
        cls.server = cls.enterClassContext(cls.gateway())
        cls.add_user(cls.server, cls.known)
        cls.browser = cls.new_browser()

    @classmethod
    def gateway(cls, database=None, login=LOGIN, store=None):
        url = json.dumps(POSTGRES.url(database or cls.database))
        return Server(CONFIG.format(key=KEY, store=json.dumps(store) if store else url, users=url, login=login), files=PAGES)

    @staticmethod
    def add_user(server, name):
        command = [binary(), "user", "add", name, "--password-stdin", "--config", server.config]
        done = subprocess.run(command, input=PASSWORD + "\n", capture_output=True, text=True, timeout=DEADLINE)
        if done.returncode != 0:
            raise AssertionError(f"expected a new user, found exit code {done.returncode}: {done.stdout}{done.stderr}")

    @classmethod
    def new_browser(cls, server=None):
        """Logs in by the server's own view."""
        browser = Browser(server or cls.server)
        browser.submit("/login/", wanted=303, username=cls.known, password=PASSWORD)
        return browser

    def log_out(self, browser):
        self.works_again()
        browser.submit("/logout/", form="/login/", wanted=303)

    @each_way
    def test_a_login_is_503_in_time(self, way):
        browser = Browser(self.server)
        browser.token("/login/")
        with self.away(way):
            began = time.monotonic()
            browser.submit("/login/", wanted=503, username=self.known, password=PASSWORD)
            self.assertLess(time.monotonic() - began, TIMEOUT + MOMENT)
        self.works_again()
        browser.submit("/login/", wanted=303, username=self.known, password=PASSWORD)
        self.assertEqual(browser.ask("/page/")[1], self.known)

    def test_a_login_that_was_503_uses_up_no_attempt(self):
        login = LOGIN.replace("1000, attempts_per_address = 1000", '2, attempts_per_address = 3, attempts_window = "1h"')
        # Users and sessions are unavailable; users alone.
        for store in (None, "memory"):
            with self.subTest(store=store), self.gateway(login=login, store=store) as server:
                browser = Browser(server)
                browser.token("/login/")
                with self.away("stopped"):
                    for _ in range(5):
                        browser.submit("/login/", wanted=503, username=self.known, password=PASSWORD)
                until(lambda server=server: self.is_known(server) or store, "the database to be read", BACK)
                for wanted in (401, 303, 429):
                    password = "wrong" if wanted == 401 else PASSWORD
                    Browser(server).submit("/login/", wanted=wanted, username=self.known, password=password)

    def test_a_login_that_cannot_be_kept_uses_up_no_attempt(self):
        users = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-"))) / "users.db"
        login = LOGIN.replace("1000, attempts_per_address = 1000", '2, attempts_per_address = 3, attempts_window = "1h"')
        sessions, users = json.dumps(POSTGRES.url(self.database)), json.dumps(f"sqlite:{users}")
        with Server(CONFIG.format(key=KEY, store=sessions, users=users, login=login), files=PAGES) as server:
            self.add_user(server, self.known)
            browser = Browser(server)
            browser.token("/login/")
            with self.away("stopped"):
                for _ in range(5):
                    browser.submit("/login/", wanted=503, username=self.known, password=PASSWORD)
            until(lambda: self.is_503_no_more(server), "the database to be read", BACK)
            for wanted in (303, 303, 429):
                Browser(server).submit("/login/", wanted=wanted, username=self.known, password=PASSWORD)

    def is_503_no_more(self, server):
        return server.request("/page/", headers=self.browser.headers)[0] == 200

    @each_way
    def test_a_ticket_is_503_in_time(self, way):
        browser = self.new_browser()
        token = browser.token("/login/")

        def issue():
            fields = {**browser.headers, "X-CSRFToken": token, "Origin": self.server.origin}
            status, _, body = self.server.request("/ticket/", method="POST", headers=fields)
            return status, body.decode()

        status, text = issue()
        self.assertEqual(status, 200, text)
        ticket = json.loads(text)["ticket"]
        with self.away(way):
            self.assertEqual(issue()[0], 503)
            began = time.monotonic()
            self.assertEqual(refusal(self.server, "/ws/chat/", subprotocols=["ticket", ticket]).status_code, 503)
            self.assertLess(time.monotonic() - began, TIMEOUT + MOMENT)

    def test_a_logout_is_503_and_takes_nothing_away(self):
        browser = self.new_browser()
        token = browser.token("/login/")
        with self.away("stopped"):
            status, _ = browser.ask("/logout/", f"csrfmiddlewaretoken={token}", "application/x-www-form-urlencoded")
            self.assertEqual(status, 503)
            self.assertIn("sessionid", browser.cookies)
        self.works_again()
        self.assertEqual(browser.ask("/page/")[1], self.known)

    def test_a_server_that_started_without_its_database_makes_the_tables_when_it_comes(self):
        database = POSTGRES.create_database()
        with self.away("stopped"):
            server = self.enterContext(self.gateway(database))
        until(lambda: server.request("/page/", headers=self.browser.headers)[0] == 200, "the database to be read", BACK)
        self.add_user(server, self.known)
        self.says(self.peer(server, self.new_browser(server)), self.known)

    def test_the_command_for_users_fails_with_1_while_the_database_is_away(self):
        command = [binary(), "user", "list", "--config", self.server.config]
        with self.away("stopped"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertTrue(re.search(r"(?i)database|postgres|connect", done.stderr), done.stderr)
        self.assertNotIn("p%40ss", done.stderr)


class DatabaseOfDjango(Away, unittest.TestCase):
    """Sessions and users of a Django project, which are only read."""

    known = "anna"

    @classmethod
    def setUpClass(cls):
        cls.database = POSTGRES.create_database()
        databases = {"default": {"ENGINE": "django.db.backends.postgresql", **POSTGRES.parameters(cls.database)}}
        cls.project = cls.enterClassContext(DjangoProject({"SECRET_KEY": KEY, "DATABASES": databases}))
        cls.project.create_user(cls.known)
        cls.reader = POSTGRES.create_reader(cls.database, "auth_user", "django_session")
        cls.server = cls.enterClassContext(cls.gateway())
        cls.browser = cls.new_browser()

    @classmethod
    def gateway(cls):
        url = json.dumps(POSTGRES.url(cls.database, role=cls.reader, scheme="django+postgres"))
        return Server(CONFIG.format(key=KEY, store=url, users=url, login=""), files=PAGES)

    @classmethod
    def new_browser(cls):
        return cls.project.browser(cls.known)

    def log_out(self, browser):
        browser.log_out()


if __name__ == "__main__":
    unittest.main()
