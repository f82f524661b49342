"""MySQL: a Django project's sessions and users in a real MariaDB, by the driver that speaks to MySQL as well."""

import json
import time
import unittest

import test_database_away
import test_django
from kit.deadline import until
from kit.django_case import KEY, Project
from kit.django_project import PASSWORD, DjangoProject
from kit.mariadb import MariaDb
from kit.server import Server
from kit.visitor import Visitor
from test_database_away import BACK, CONFIG, LOGIN, PAGES

MARIADB = None


def setUpModule():
    global MARIADB
    MARIADB = unittest.enterModuleContext(MariaDb())


class MariaDbProject(Project):
    """The server reads by a user who may do nothing else."""

    @classmethod
    def where(cls):
        cls.database = MARIADB.create_database()
        return {"DATABASES": {"default": MARIADB.parameters(cls.database)}}

    @classmethod
    def ready(cls):
        cls.reader = MARIADB.create_reader(cls.database, f"`{cls.user_table}`", "django_session")

    @classmethod
    def store(cls):
        return cls.users()

    @classmethod
    def users(cls):
        return MARIADB.url(cls.database, role=cls.reader)

    @classmethod
    def writer(cls):
        owner = MARIADB.url(cls.database)
        return cls.gateway(store=owner, users=owner)

    def contents(self):
        return [MARIADB.rows(self.database, table) for table in ("django_session", self.user_table)]


class OnMariaDb(test_django.Claims, test_django.Revocable, test_django.Rows, MariaDbProject):
    def test_a_key_in_letters_of_another_case_is_another_key(self):
        browser = self.browser()
        self.assertEqual(self.known(self.server, browser), browser.name())
        session = browser.session
        other = browser.copy()
        for key in (session.upper(), session.swapcase(), session.capitalize()):
            if key == session:
                continue
            other.cookies["sessionid"] = key
            rows = MARIADB.execute("SELECT session_key FROM django_session WHERE session_key = %s", [key], database=self.database)
            self.assertEqual(rows, [(session,)])  # which is how the column compares
            self.assertIsNone(self.known(self.server, other))

    def test_a_unix_socket(self):
        url = MARIADB.url(self.database, role=self.reader, by_socket=True)
        browser = self.browser()
        with self.gateway(store=url, users=url) as server:
            self.assertEqual(self.known(server, browser), browser.name())

    def test_connections_that_an_administrator_ends_are_opened_again(self):
        browser = self.browser()
        for _ in range(3):
            self.assertEqual(self.known(self.server, browser), browser.name())
            for (number,) in MARIADB.execute("SELECT id FROM information_schema.processlist WHERE user = %s", [self.reader]):
                MARIADB.execute(f"KILL {number}")
        self.assertEqual(self.known(self.server, browser), browser.name())

    def test_every_error_of_the_database_is_503_and_never_nobody(self):
        browser = self.browser()
        errors = {
            "no right to the sessions": (f"REVOKE SELECT ON django_session FROM {self.reader}@'127.0.0.1'", f"GRANT SELECT ON django_session TO {self.reader}@'127.0.0.1'"),
            "no right to the users": (f"REVOKE SELECT ON auth_user FROM {self.reader}@'127.0.0.1'", f"GRANT SELECT ON auth_user TO {self.reader}@'127.0.0.1'"),
            "no sessions": ("RENAME TABLE django_session TO moved", "RENAME TABLE moved TO django_session"),
            "another column": ("ALTER TABLE auth_user RENAME COLUMN password TO pass", "ALTER TABLE auth_user RENAME COLUMN pass TO password"),
        }
        for what, (does, undoes) in errors.items():
            with self.subTest(what):
                MARIADB.execute(does, database=self.database)
                try:
                    status = self.server.request("/page/", headers=browser.headers)[0]
                finally:
                    MARIADB.execute(undoes, database=self.database)
                self.assertEqual(status, 503)
                self.assertEqual(self.known(self.server, browser), browser.name())


class MembersOnMariaDb(test_django.Members, test_django.Claims, test_django.Revocable, MariaDbProject):
    """The key is of MariaDB's own type uuid."""

    def test_a_key_may_be_digits_without_hyphens_as_in_mysql(self):
        browser = self.browser()
        MARIADB.execute(
            "CREATE TABLE older (memberRef char(32) PRIMARY KEY) CHARACTER SET utf8mb4 "
            "SELECT REPLACE(CAST(memberRef AS CHAR), '-', '') AS memberRef, loginName, passwordHash, isEnabled, isCrew FROM `user`",
            database=self.database,
        )
        owner = MARIADB.url(self.database)
        with self.gateway(store=owner, users=owner, django={"table": "older"}) as server:
            self.assertEqual(self.known(server, browser), browser.name())


class GuestsOnMariaDb(MariaDbProject, test_django.Guests):
    """The key is a text."""


class MariaDbAway(test_database_away.Away, unittest.TestCase):
    known = "anna"

    @staticmethod
    def engine():
        return MARIADB

    @classmethod
    def setUpClass(cls):
        cls.database = MARIADB.create_database()
        cls.project = cls.enterClassContext(DjangoProject({"SECRET_KEY": KEY, "DATABASES": {"default": MARIADB.parameters(cls.database)}}))
        cls.project.create_user(cls.known)
        cls.reader = MARIADB.create_reader(cls.database, "auth_user", "django_session")
        cls.server = cls.enterClassContext(cls.gateway())
        cls.browser = cls.new_browser()

    @classmethod
    def gateway(cls):
        url = json.dumps(MARIADB.url(cls.database, role=cls.reader))
        return Server(CONFIG.format(key=KEY, store=url, users=url, login=""), files=PAGES)

    @classmethod
    def new_browser(cls):
        return cls.project.browser(cls.known)

    def log_out(self, browser):
        browser.log_out()


class Spellings(unittest.TestCase):
    """The table compares without case and accents, so that a guesser has many names for one user."""

    def test_spellings_that_find_one_user_are_counted_together(self):
        database = MARIADB.create_database()
        settings = {"SECRET_KEY": KEY, "DATABASES": {"default": MARIADB.parameters(database)}}
        login = LOGIN.replace("attempts_per_name = 1000", 'attempts_window = "1h", attempts_per_name = 4')
        with DjangoProject(settings) as project:
            project.create_user("anna")
            config = CONFIG.format(key=KEY, store='"memory"', users=json.dumps(MARIADB.url(database)), login=login)
            with Server(config, files=PAGES) as server:
                spellings = ("anna", "ANNA", "ànnã", "anna ", "ÀnnA")
                answers = [Visitor(server).try_to_log_in(name, PASSWORD).status for name in spellings]
                self.assertEqual(answers, [303, 303, 303, 303, 429])


class TimeZones(unittest.TestCase):
    """A column of MySQL does not have its zone, as in SQLite."""

    def test_a_session_ends_when_django_ends_it(self):
        for zone, use_tz, setting in [
            ("Asia/Tokyo", False, "Asia/Tokyo"),
            ("America/Los_Angeles", False, "America/Los_Angeles"),
            ("Asia/Tokyo", True, ""),
        ]:
            with self.subTest(zone, use_tz=use_tz):
                database = MARIADB.create_database()
                settings = {"SECRET_KEY": KEY, "TIME_ZONE": zone, "USE_TZ": use_tz, "DATABASES": {"default": MARIADB.parameters(database)}}
                with DjangoProject(settings) as project:
                    project.create_user("anna")
                    url = json.dumps(MARIADB.url(database))
                    config = CONFIG.format(key=KEY, store=url, users=url, login="") + f'[session.django]\ntime_zone = "{setting}"\n'
                    with Server(config, files=PAGES) as server:
                        browser = project.browser("anna")
                        knows = lambda: server.request("/page/", headers=browser.headers)[2] == b"anna"  # noqa: E731
                        browser.remember(_expiry=3)
                        ends = time.monotonic() + 3
                        self.assertTrue(knows())
                        until(lambda: not knows(), "the end of a session", BACK)
                        self.assertLess(abs(time.monotonic() - ends), 1.5)
                        self.assertNotIn("time_zone is", server.log())

    def test_a_setting_that_does_not_fit_is_named(self):
        database = MARIADB.create_database()
        settings = {"SECRET_KEY": KEY, "TIME_ZONE": "Asia/Tokyo", "USE_TZ": False, "DATABASES": {"default": MARIADB.parameters(database)}}
        with DjangoProject(settings) as project:
            project.create_user("anna")
            url = json.dumps(MARIADB.url(database))
            with Server(CONFIG.format(key=KEY, store=url, users=url, login=""), files=PAGES) as server:
                server.request("/page/", headers=project.browser("anna").headers)
                server.wait_for_log(r"session\.django\.time_zone is \"\".*written with an offset of \+09:00")


if __name__ == "__main__":
    unittest.main()
