"""PgBouncer: behind a pooler in transaction mode a visitor is themself, or gets 503; never another user, and never anonymous.

Each transaction gets one of two connections of PostgreSQL, which other clients use as well: they prepare statements under the names
that drivers count up, and leave settings behind.
"""

import html
import json
import subprocess
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from kit.deadline import DEADLINE, until
from kit.django_project import PASSWORD, Browser, DjangoProject
from kit.peer import Peer, refusal
from kit.pgbouncer import PgBouncer
from kit.postgres import Postgres
from kit.server import Server, binary
from test_database_away import BACK, CONFIG, KEY, LOGIN, PAGES

USERS = [f"user{number}" for number in range(4)]
SESSIONS = 64
CLIENTS = 20
POOL = 2

POSTGRES = None


def setUpModule():
    global POSTGRES
    POSTGRES = unittest.enterModuleContext(Postgres())


class Pooled:
    """What holds for both: `self.server`, `self.bouncer`, and `self.known`: a browser and its user for each session."""

    def page(self, who):
        browser, name = who
        status, _, body = self.server.request("/page/", headers=browser.headers)
        return name, status, body.decode()

    def ask_all(self, rounds=1):
        """Asks for a page of every session, many at once; returns what was wrong with the answers, and how many were 503."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(self.page, self.known * rounds))
        wrong = [answer for answer in answers if answer[1] != 503 and answer[1:] != (200, answer[0])]
        return wrong, sum(status == 503 for _, status, _ in answers)

    def name_statements(self, stop=None):
        """Another client prepares statements on the connections that we are lent, under the names that sqlx would give to its own."""
        for number in range(1, 13):
            for _ in range(3):
                with self.bouncer.connect(self.database) as other:
                    try:
                        other.execute(f"PREPARE sqlx_s_{number} (text) AS SELECT 'other'::text, '{{}}'::text, '1'::text WHERE $1 = ''")
                    except Exception as error:  # that connection has one of this name
                        self.assertIn("already exists", str(error))

    def test_every_session_is_who_it_is_and_a_restart_of_the_pooler_makes_503_at_most(self):
        self.name_statements()
        self.assertEqual(self.ask_all(rounds=3), ([], 0))
        with ThreadPoolExecutor(1) as pool:
            during = pool.submit(self.ask_all, 6)
            self.bouncer.stop()
            self.bouncer.start()
            self.assertEqual(during.result()[0], [])
        until(lambda: self.page(self.known[0])[1] == 200, "the pooler to be used again", BACK)
        self.name_statements()
        self.assertEqual(self.ask_all(), ([], 0))

    def test_handshakes_know_the_user(self):
        def meets(who):
            browser, name = who
            with Peer(self.server, "/ws/chat/", additional_headers=browser.headers) as peer:
                peer.say({"message": browser.session})
                return name, peer.next("chat.message", message=browser.session)["user"]

        with ThreadPoolExecutor(CLIENTS) as pool:
            wrong = [found for found in pool.map(meets, self.known) if found[0] != found[1]]
        self.assertEqual(wrong, [])

    def test_nothing_of_us_stays_on_the_connections(self):
        self.assertEqual(self.ask_all(), ([], 0))
        settings = "default_transaction_read_only", "transaction_read_only", "statement_timeout", "lock_timeout", "search_path"
        shown = ", ".join(f"current_setting('{name}')" for name in settings)
        for _ in range(2 * POOL):
            with self.bouncer.connect(self.database) as other:
                prepared = "(SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'sqlx_s_%%' OR NOT from_sql)"
                locks = "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
                found = other.execute(f"SELECT {shown}, {prepared}, {locks}").fetchone()
                self.assertEqual(found, ("off", "off", "0", "0", '"$user", public', 0, 0))

    def test_a_database_away_behind_the_pooler_is_503(self):
        POSTGRES.stop()
        try:
            self.assertEqual(self.page(self.known[0])[1], 503)
            refused = refusal(self.server, "/ws/chat/", additional_headers=self.known[0][0].headers)
            self.assertEqual((refused.status_code, refused.headers.get("Retry-After")), (503, "1"))
        finally:
            POSTGRES.start()
        until(lambda: self.page(self.known[0])[1] == 200, "the database to be read again", BACK)

    def test_every_error_of_the_database_is_503_and_never_nobody(self):
        role, sessions, users = self.role, self.session_table, self.user_table
        errors = {
            # What the administrator does, and what undoes it.
            "no right to the sessions": (f"REVOKE SELECT ON {sessions} FROM {role}", f"GRANT SELECT ON {sessions} TO {role}"),
            "no right to the users": (f"REVOKE SELECT ON {users} FROM {role}", f"GRANT SELECT ON {users} TO {role}"),
            "no sessions": (f"ALTER TABLE {sessions} RENAME TO moved", f"ALTER TABLE moved RENAME TO {sessions}"),
            "no users": (f"ALTER TABLE {users} RENAME TO moved", f"ALTER TABLE moved RENAME TO {users}"),
            "another column": (
                f"ALTER TABLE {users} RENAME COLUMN password TO pass",
                f"ALTER TABLE {users} RENAME COLUMN pass TO password",
            ),
            "another type": (
                f"ALTER TABLE {sessions} RENAME COLUMN {self.data_column} TO kept;"
                f"ALTER TABLE {sessions} ADD COLUMN {self.data_column} bytea NOT NULL DEFAULT '\\xff00'",
                f"ALTER TABLE {sessions} DROP COLUMN {self.data_column};"
                f"ALTER TABLE {sessions} RENAME COLUMN kept TO {self.data_column}",
            ),
        }
        for what, (does, undoes) in errors.items():
            with self.subTest(what):
                POSTGRES.execute(does, database=self.database)
                try:
                    found = self.page(self.known[0])[1:]
                finally:
                    POSTGRES.execute(undoes, database=self.database)
                if what == "another type":  # a row that is there and cannot be read counts as none, as in Django
                    self.assertEqual(found, (200, "nobody"))
                else:
                    self.assertEqual(found[0], 503, found)
                self.assertEqual(self.page(self.known[0])[1:], (200, self.known[0][1]))

    def test_a_table_that_is_locked_is_503_in_time(self):
        locked, done = threading.Event(), threading.Event()

        def lock():
            with POSTGRES.connect(self.database) as connection, connection.transaction():
                connection.execute(f"LOCK TABLE {self.session_table} IN ACCESS EXCLUSIVE MODE")
                locked.set()
                done.wait(DEADLINE)

        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(lock)
            try:
                self.assertTrue(locked.wait(DEADLINE))
                self.assertEqual(self.page(self.known[0])[1], 503)
            finally:
                done.set()
            holding.result()
        until(lambda: self.page(self.known[0])[1] == 200, "the table to be read again", BACK)

    def test_the_password_is_in_no_message(self):
        for secret in ("p@ss", "p%40ss", self.known[0][0].session):
            self.assertNotIn(secret, self.server.log())


class OwnTables(Pooled, unittest.TestCase):
    """Tables of the server's own, made through the pooler by several processes at once."""

    role, session_table, user_table, data_column = "visitor", "oneport_session", "oneport_user", "data"

    @classmethod
    def setUpClass(cls):
        cls.database = POSTGRES.create_database()
        POSTGRES.create_role(cls.role)
        POSTGRES.execute(f"GRANT ALL ON SCHEMA public TO {cls.role}", database=cls.database)
        cls.bouncer = cls.enterClassContext(PgBouncer(POSTGRES, pool=POOL, roles=["owner", cls.role]))
        cls.server = cls.enterClassContext(cls.gateway())
        config = cls.server.config
        with ThreadPoolExecutor(len(USERS)) as pool:
            list(pool.map(lambda name: cls.add_user(config, name), USERS))
        cls.known = [cls.log_in(USERS[number % len(USERS)]) for number in range(SESSIONS)]

    @classmethod
    def gateway(cls, database=None):
        url = json.dumps(cls.bouncer.url(database or cls.database, role=cls.role))
        return Server(CONFIG.format(key=KEY, store=url, users=url, login=LOGIN), files=PAGES)

    @classmethod
    def log_in(cls, name):
        browser = Browser(cls.server)
        browser.submit("/login/", wanted=303, username=name, password=PASSWORD)
        return browser, name

    @staticmethod
    def add_user(config, name):
        command = [binary(), "user", "add", name, "--password-stdin", "--config", config]
        done = subprocess.run(command, input=PASSWORD + "\n", capture_output=True, text=True, timeout=DEADLINE)
        if done.returncode != 0:
            raise AssertionError(f"expected a new user, found exit code {done.returncode}: {done.stdout}{done.stderr}")

    def test_processes_that_start_at_once_make_the_tables_once(self):
        database = POSTGRES.create_database()
        POSTGRES.execute(f"GRANT ALL ON SCHEMA public TO {self.role}", database=database)
        servers = [self.gateway(database) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            for server in pool.map(self.enterContext, servers):
                self.assertNotRegex(server.log(), "(?i)error|unavailable")
        rows = POSTGRES.execute("SELECT version, success FROM oneport_migration", database=database)
        self.assertEqual(rows, [(1, True)])

    def test_a_role_that_may_make_no_tables_can_start_when_they_are_there(self):
        POSTGRES.execute(f"REVOKE ALL ON SCHEMA public FROM {self.role}", database=self.database)
        POSTGRES.execute(f"GRANT USAGE ON SCHEMA public TO {self.role}", database=self.database)
        try:
            with self.gateway() as server:
                status, _, body = server.request("/page/", headers=self.known[0][0].headers)
                self.assertEqual((status, body.decode()), (200, self.known[0][1]))
        finally:
            POSTGRES.execute(f"GRANT ALL ON SCHEMA public TO {self.role}", database=self.database)

    def test_names_are_values_whatever_characters_they_have(self):
        for name in ["o'hara", "back\\slash", "$1", "'; DROP TABLE oneport_user; --", "é😀", '"quoted"', "E'\\''"]:
            with self.subTest(name):
                self.add_user(self.server.config, name)
                browser, _ = self.log_in(name)
                wrong = Browser(self.server)
                wrong.submit("/login/", wanted=401, username=name + "'", password=PASSWORD)
                found = POSTGRES.execute("SELECT username FROM oneport_user WHERE username = %s", [name], database=self.database)
                self.assertEqual(found, [(name,)])
                _, status, shown = self.page((browser, name))
                self.assertEqual((status, html.unescape(shown)), (200, name))


class TablesOfDjango(Pooled, unittest.TestCase):
    """Tables of a Django project, which are only read."""

    session_table, user_table, data_column = "django_session", "auth_user", "session_data"

    @classmethod
    def setUpClass(cls):
        cls.database = POSTGRES.create_database()
        databases = {"default": {"ENGINE": "django.db.backends.postgresql", **POSTGRES.parameters(cls.database)}}
        project = cls.enterClassContext(DjangoProject({"SECRET_KEY": KEY, "DATABASES": databases}))
        for name in USERS:
            project.create_user(name)
        cls.role = POSTGRES.create_reader(cls.database, "auth_user", "django_session")
        POSTGRES.execute(f"ALTER ROLE {cls.role} RESET default_transaction_read_only")
        cls.bouncer = cls.enterClassContext(PgBouncer(POSTGRES, pool=POOL, roles=["owner", cls.role]))
        url = json.dumps(cls.bouncer.url(cls.database, role=cls.role, scheme="django+postgres"))
        cls.server = cls.enterClassContext(Server(CONFIG.format(key=KEY, store=url, users=url, login=""), files=PAGES))
        cls.known = []
        for number in range(SESSIONS):
            name = USERS[number % len(USERS)]
            cls.known.append((project.browser(name), name))


if __name__ == "__main__":
    unittest.main()
