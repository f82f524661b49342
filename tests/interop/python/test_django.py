"""Django: a login there is valid for the server, and ends with it; a real project, its databases and its Redis.

Each class is one way in which a project keeps sessions and users. All hold the same claims, and some of their own.
"""

import hashlib
import html
import json
import math
import pickle
import re
import sqlite3
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import parse_qs, urlencode, urlsplit

from kit.deadline import until
from kit.django_case import CHECK, KEY, MOMENT, Project
from kit.django_project import PASSWORD
from kit.peer import refusal
from kit.postgres import Postgres
from kit.redis_server import Redis

NEW_KEY = "the-key-that-was-made-after-the-old-one-had-leaked-01234"
NEW_PASSWORD = "another battery 9"

# What a view may put into a session, and what a page has to show of it.
BASKET = {
    "lines": [{"name": "Käse ☕ \U0001f9c0", "count": 3, "tags": []}, {"name": "<b>&\"'", "count": 0, "tags": ["α", ["β"]]}],
    "price": 12.5,
    "number": 9_007_199_254_740_991,
    "nothing": None,
    "yes": True,
    "": {"empty": {}},
}

POSTGRES = REDIS = None


def setUpModule():
    global POSTGRES, REDIS
    POSTGRES = unittest.enterModuleContext(Postgres())
    REDIS = unittest.enterModuleContext(Redis())


class Claims:
    """What holds for every project."""

    def test_who_is_logged_in_to_django_has_the_same_name_in_a_chat(self):
        browser = self.browser()
        for server in (self.server, self.caching):
            peer, name = self.chat(server, browser)
            self.assertEqual(name, browser.name())
            peer.say({"message": "hi"})
            self.assertEqual(peer.next("chat.message")["user"], browser.name())
            peer.say({"type": "who"})
            self.assertEqual(peer.next("chat.who")["users"], [browser.name()])

    def test_a_page_shows_the_users_name_key_and_whether_they_are_staff(self):
        for is_staff in (False, True):
            browser = self.browser(is_staff=is_staff)
            name, key, shown = self.page(self.server, browser).split()
            self.assertEqual({"name": name, "id": key}, browser.whoami())
            self.assertEqual(shown.lower(), str(is_staff).lower())

    def test_a_name_may_have_letters_of_any_script(self):
        name = self.name("Jörg.Ωμέγα@山")
        self.assertEqual(self.known(self.server, self.project.browser(name)), name)

    def test_without_a_cookie_a_visitor_is_anonymous(self):
        self.assertIsNone(self.known(self.server))
        self.assertEqual(self.refused(self.server, "/ws/feed/"), 403)

    def test_a_cookie_that_is_no_session_makes_an_anonymous_visitor_and_is_not_adopted(self):
        whole = self.browser()
        none = ("", "x", "a" * 32, "A" * 32, "a" * 31 + "é", "' OR 1=1 --", "a:b:c", "..::", "b" * 3000, whole.session[:-1])
        for value in none:
            with self.subTest(value=value):
                headers = {"Cookie": f"sessionid={value}".encode()}
                status, fields, body = self.server.request("/page/", headers=headers)
                self.assertEqual((status, body), (200, b"nobody"))
                self.assertNotIn("Set-Cookie", fields)

    def test_of_two_session_cookies_the_last_counts_as_it_does_in_django(self):
        browser = self.browser()
        for values, name in ((("x" * 32, browser.session), browser.name()), ((browser.session, "x" * 32), None)):
            headers = {"Cookie": "; ".join(f"sessionid={value}" for value in values)}
            self.assertEqual(self.server.request("/page/", headers=headers)[2].decode().split()[0], name or "nobody")

    def test_a_feed_is_its_users_own(self):
        names = [self.name(), self.name()]
        browsers = [self.project.browser(name) for name in names]
        keys = [browser.whoami()["id"] for browser in browsers]
        feeds = [self.peer(self.server, "/ws/feed/", browser) for browser in browsers]
        for key, name in zip(keys, names, strict=True):
            self.peer(self.server, f"/ws/to/{key}/").send(f"for {name}")
        self.assertEqual([feed.receive() for feed in feeds], [f"for {name}" for name in names])

    def test_login_required_lets_users_in_and_refuses_others_before_the_upgrade(self):
        self.lets_in("/members/", self.browser())
        self.assertEqual(self.refused(self.server, "/ws/members/"), 403)
        status, fields, _ = self.server.request("/members/?a=1&b=%2F", headers={"Accept": "text/html"})
        where = urlsplit(fields["Location"])
        self.assertEqual((status, where.path, parse_qs(where.query)), (302, "/login/", {"next": ["/members/?a=1&b=%2F"]}))
        self.assertEqual(self.server.request("/members/", headers={"Accept": "application/json"})[0], 401)

    def test_staff_required_lets_only_staff_in(self):
        self.lets_in("/staff/", self.browser(is_staff=True))
        self.lets_in("/staff/", self.browser(is_superuser=True))
        browser = self.browser()
        self.assertEqual(self.refused(self.server, "/ws/staff/", browser), 403)
        self.assertEqual(self.server.request("/staff/", headers=browser.headers)[0], 403)
        self.assertEqual(self.refused(self.server, "/ws/staff/"), 403)
        self.assertEqual(self.server.request("/staff/")[0], 302)

    def test_a_changed_password_ends_the_other_sessions_and_not_the_one_that_changed_it(self):
        other = self.browser()
        browser = self.project.browser(other.name())
        self.ends(other, lambda: browser.change_password(NEW_PASSWORD))
        self.assertEqual(self.known(self.server, browser), browser.name())

    def test_a_user_who_is_made_inactive_is_logged_out(self):
        browser = self.browser()
        self.ends(browser, lambda: self.project.update_user(browser.name(), is_active=False))

    def test_a_user_who_is_deleted_is_logged_out(self):
        browser = self.browser()
        self.ends(browser, lambda: self.project.delete_user(browser.name()))

    def test_a_user_who_is_renamed_has_the_new_name(self):
        browser = self.browser()
        renamed = f"{browser.name()}.renamed"
        self.project.update_user(browser.name(), **{self.name_field: renamed})
        self.assertEqual(self.known(self.server, browser), renamed)

    def test_the_end_of_a_login_is_a_cause_of_its_own(self):
        browser = self.browser()
        peer, _ = self.chat(self.server, browser)
        before = self.server.metric("oneport_websockets_closed_total", route="chat", cause="session_ended")
        self.project.delete_user(browser.name())
        self.assertEqual(peer.closed()[0], 4401)
        until(
            lambda: self.server.metric("oneport_websockets_closed_total", route="chat", cause="session_ended") == before + 1,
            "one more session_ended",
        )
        self.server.wait_for_log(r'cause="?session_ended')

    def test_a_server_with_another_secret_key_takes_everybody_for_anonymous(self):
        browser = self.browser()
        with self.gateway(key=KEY.swapcase()) as server:
            self.assertIsNone(self.known(server, browser))
        self.assertEqual(self.known(self.server, browser), browser.name())

    def test_an_old_secret_key_counts_as_long_as_it_is_a_fallback(self):
        browser = self.browser()
        with self.gateway(key=NEW_KEY, fallbacks=["never used " * 5, KEY]) as both:
            peer, name = self.chat(both, browser)
            self.assertEqual(name, browser.name())
            self.assertEqual(self.known(both, browser), browser.name())
            self.stays(peer, 3 * CHECK, users=[name])
        with self.gateway(key=NEW_KEY) as new:
            self.assertIsNone(self.known(new, browser))

    def test_a_project_that_changes_its_secret_key_keeps_its_users(self):
        old = self.browser()
        self.project.restart(SECRET_KEY=NEW_KEY, SECRET_KEY_FALLBACKS=[KEY])
        self.addCleanup(self.project.restart, SECRET_KEY=KEY, SECRET_KEY_FALLBACKS=[])
        new = self.project.browser(old.name())
        with self.gateway(key=NEW_KEY, fallbacks=[KEY]) as both, self.gateway(key=NEW_KEY) as later:
            self.assertEqual([self.known(both, browser) for browser in (old, new)], [old.name()] * 2)
            self.assertEqual(self.known(later, new), new.name())
            visited = old.copy()
            self.assertEqual(visited.name(), new.name())  # Django signs it anew
            self.assertEqual(self.known(later, visited), visited.name())

    def test_a_login_by_another_backend_than_the_listed_ones_does_not_count(self):
        browser = self.browser()
        with self.gateway(django={"backends": ["accounts.backends.Other"]}) as server:
            self.assertIsNone(self.known(server, browser))
        self.assertEqual(self.known(self.server, browser), browser.name())

    def test_without_the_sessions_hash_a_changed_password_ends_nothing(self):
        browser = self.browser()
        other = self.project.browser(browser.name())
        with self.gateway(django={"session_auth_hash": False}) as server:
            other.change_password(NEW_PASSWORD)
            self.assertIsNone(self.known(self.server, browser))
            self.assertEqual(self.known(server, browser), other.name())

    def test_what_a_view_put_into_the_session_is_seen_by_a_page(self):
        for browser in (self.browser(), self.project.browser()):
            browser.remember(basket=BASKET, **{"schlüssel": "wert"})
            found = json.loads(self.page(self.server, browser, "/session/"))
            self.assertEqual((found["basket"], found["schlüssel"]), (BASKET, "wert"))

    def test_what_json_has_no_word_for_does_not_end_a_login(self):
        for value in (math.nan, math.inf, -math.inf, 10**30, -(10**30), "\ud800", "a\0b"):
            with self.subTest(value=value):
                browser = self.browser()
                browser.remember(value=[value])
                self.assertEqual(browser.name(), self.known(self.server, browser))

    def test_a_storm_of_handshakes_writes_nothing(self):
        browsers = [self.browser(), self.project.browser()]
        browsers[1].remember(anonymous=True)
        gone = self.browser()
        self.project.delete_user(gone.name())
        browsers.append(gone)
        before = self.contents()
        with self.writer() as server, ThreadPoolExecutor(8) as pool:
            names = list(pool.map(lambda number: self.known(server, browsers[number % 3]), range(90)))
        self.assertEqual(names, [browsers[0].name(), None, None] * 30)
        self.assertEqual(self.contents(), before)

    def test_a_session_is_never_in_the_log(self):
        browser = self.browser()
        self.known(self.server, browser)
        self.server.wait_for_log(f'user="?{browser.name()}')
        self.assertNotIn(browser.session, self.server.log())


class Revocable:
    """What holds for every engine that keeps sessions in a place of its own."""

    def test_a_logout_in_django_ends_the_login(self):
        browser = self.browser()
        self.ends(browser, browser.log_out)

    def test_a_session_that_django_flushes_is_gone(self):
        browser = self.browser()
        self.ends(browser, browser.forget)

    def test_another_session_of_the_same_user_outlives_a_logout(self):
        one = self.browser()
        other = self.project.browser(one.name())
        peer, _ = self.chat(self.server, other)
        self.ends(one, one.log_out)
        self.assertEqual(self.known(self.server, other), other.name())
        self.stays(peer, 2 * CHECK, users=[other.name()])

    def test_a_session_that_has_expired_is_gone(self):
        browser = self.browser()
        self.ends(browser, lambda: self.expire(browser))

    def test_a_socket_outlives_a_login_that_is_renewed(self):
        browser = self.browser()
        browser.remember(_expiry=2)
        peer, _ = self.chat(self.caching, browser)
        browser.remember(_expiry=60)
        self.stays(peer, 2 + 2 * CHECK, users=[browser.name()])  # past the end that the session had at the handshake

    @staticmethod
    def expire(browser):
        browser.remember(_expiry=1)
        until(lambda: browser.copy().name() is None, "the session to expire in Django")


class Rows:
    """What holds where sessions are rows of a table."""

    def test_a_row_that_was_tampered_with_makes_an_anonymous_visitor_and_breaks_nothing(self):
        browser = self.browser()
        whole = self.project.control("session_data", key=browser.session)["data"]
        payload, stamp, signature = whole.rsplit(":", 2)
        theirs = self.project.control("session_data", key=self.browser().session)["data"].rsplit(":", 2)
        hashed = {"_auth_user_backend": "django.contrib.auth.backends.ModelBackend", "_auth_user_hash": "0" * 64}

        def signed(value, salt="django.contrib.sessions.SessionStore"):
            return self.project.control("sign", value=value, salt=salt)["data"]

        tampered = {
            "nothing": "",
            "no signature": "garbage",
            "a cut signature": whole[:-1],
            "another signature": f"{payload}:{stamp}:{'A' * len(signature)}",
            "padding": whole + "=",
            "another's payload": f"{theirs[0]}:{stamp}:{signature}",
            "another time": f"{payload}:1aaaaa:{signature}",
            "another salt": signed({"_auth_user_id": "1"}, "other"),
            "no table but a list": signed([1, 2]),
            "no table but a text": signed("text"),
            "no table but null": signed(None),
            "a login without backend and hash": signed({"_auth_user_id": browser.whoami()["id"]}),
            "a wrong hash": signed({"_auth_user_id": browser.whoami()["id"], **hashed}),
            "a key of another kind": signed({"_auth_user_id": "' OR 1=1 --", **hashed}),
            "a key over all numbers": signed({"_auth_user_id": "9" * 40, **hashed}),
            "a key that is no text": signed({"_auth_user_id": {"a": 1}, **hashed}),
            "a hash that is no text": signed({"_auth_user_id": "1", **hashed, "_auth_user_hash": 5}),
            "a million letters": "a" * 1_000_000,
            "colons": ":" * 100,
        }
        for what, data in tampered.items():
            with self.subTest(what):
                self.project.control("session_data", key=browser.session, data=data)
                self.assertIsNone(self.known(self.server, browser))
                self.assertEqual(self.server.request("/session/", headers=browser.headers)[0], 200)
        self.project.control("session_data", key=browser.session, data=whole)
        self.assertEqual(self.known(self.server, browser), browser.name())
        self.assertNotIn(browser.session, self.server.log())

    def test_tampering_with_the_row_of_an_open_socket_ends_it(self):
        browser = self.browser()
        self.ends(browser, lambda: self.project.control("session_data", key=browser.session, data="tampered:with:it"))

    def test_a_row_that_is_deleted_is_a_login_that_is_gone(self):
        browser = self.browser()
        self.ends(browser, lambda: self.project.control("delete_session", key=browser.session))


class SqliteProject(Project):
    @classmethod
    def where(cls):
        return {}

    @classmethod
    def store(cls):
        return f"django+sqlite:{cls.project.sqlite}"

    @classmethod
    def users(cls):
        return cls.store()

    def contents(self):
        with open(self.project.sqlite, "rb") as file:
            whole = hashlib.sha256(file.read()).hexdigest()
        rest = sorted(path.name for path in self.project.directory.iterdir() if path.name.startswith("db."))
        return whole, rest, self.project.tables("django_session", self.user_table)


class PostgresProject(Project):
    """The server reads by a role that may do nothing else."""

    @classmethod
    def where(cls):
        cls.database = POSTGRES.create_database()
        return {"DATABASES": {"default": {"ENGINE": "django.db.backends.postgresql", **POSTGRES.parameters(cls.database)}}}

    @classmethod
    def ready(cls):
        cls.reader = POSTGRES.create_reader(cls.database, cls.user_table, "django_session")

    @classmethod
    def store(cls):
        return cls.users()

    @classmethod
    def users(cls):
        return POSTGRES.url(cls.database, role=cls.reader, scheme="django+postgres")

    @classmethod
    def writer(cls):
        owner = POSTGRES.url(cls.database, scheme="django+postgres")
        return cls.gateway(store=owner if cls.store() == cls.users() else cls.store(), users=owner)

    def contents(self):
        rows = [POSTGRES.rows(self.database, table) for table in ("django_session", self.user_table)]
        return rows, POSTGRES.writes(self.database)


class OnSqlite(Claims, Revocable, Rows, SqliteProject):
    def test_while_django_writes_for_a_moment_a_handshake_waits(self):
        browser = self.browser()
        with closing(sqlite3.connect(self.project.sqlite, isolation_level=None)) as connection, ThreadPoolExecutor(1) as pool:
            connection.execute("BEGIN EXCLUSIVE")
            asked = pool.submit(self.known, self.server, browser)
            with self.assertRaises(TimeoutError):
                asked.result(0.5)
            connection.execute("ROLLBACK")
            self.assertEqual(asked.result(5), browser.name())

    def test_a_file_that_is_locked_for_long_is_a_database_that_is_away(self):
        browser = self.browser()
        peer, _ = self.chat(self.server, browser)
        with closing(sqlite3.connect(self.project.sqlite, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            refused = refusal(self.server, "/ws/members/", additional_headers=browser.headers)
            self.assertEqual((refused.status_code, refused.headers.get("Retry-After")), (503, "1"))
            self.assertLess(time.monotonic() - began, 2 + MOMENT)
            self.assertIsNone(self.known(self.server))
            self.stays(peer, 2 * CHECK, members=1)
            connection.execute("ROLLBACK")
        self.assertEqual(self.known(self.server, browser), browser.name())

    def test_a_form_of_the_server_takes_the_token_of_a_page_of_django(self):
        browser = self.browser()
        token = browser.token("/login/")
        for sent in (token, browser.cookies["csrftoken"]):
            self.assertEqual(self.post(browser, sent), (200, b"taken"))
        for sent in ("", "a" * 64, token[:-1], token.swapcase()):
            self.assertEqual(self.post(browser, sent)[0], 403)

    def test_a_form_of_django_takes_the_token_of_a_page_of_the_server(self):
        name = self.name()
        status, fields, page = self.server.request("/form/")
        self.assertEqual(status, 200)
        browser = self.project.browser()
        browser.cookies["csrftoken"] = re.search(r"csrftoken=(\w{32});", fields["Set-Cookie"])[1]
        token = re.search(r'value="(\w{64})"', page.decode())[1]
        sent = urlencode({"csrfmiddlewaretoken": token, "username": name, "password": PASSWORD})
        browser.ask("/login/", sent, "application/x-www-form-urlencoded", wanted=302)
        self.assertEqual(self.known(self.server, browser), name)

    def post(self, browser, token):
        headers = {**browser.headers, "Content-Type": "application/x-www-form-urlencoded"}
        status, _, body = self.server.request("/form/", "POST", headers, urlencode({"csrfmiddlewaretoken": token}))
        return status, body


class OnPostgres(Claims, Revocable, Rows, PostgresProject):
    def test_a_role_that_may_only_read_is_enough(self):
        browser = self.browser()
        for _ in range(10):
            self.assertEqual(self.known(self.server, browser), browser.name())
        found = [line for line in POSTGRES.log().splitlines() if f" {self.reader} " in line]
        self.assertEqual(found, [])

    def test_connections_that_an_administrator_ends_are_opened_again(self):
        browser = self.browser()
        peer, _ = self.chat(self.server, browser)
        POSTGRES.throw_out(self.database)
        until(lambda: self.is_known(browser), "the login to be known again", 5.0)
        self.stays(peer, 2 * CHECK, users=[browser.name()])

    def is_known(self, browser):
        return self.server.request("/members/", headers=browser.headers)[0] == 200


class CachedOnPostgres(Claims, Revocable, PostgresProject):
    """Django reads its cache first; the table holds the same."""

    engine = "cached_db"

    @classmethod
    def where(cls):
        return {**super().where(), "CACHES": caches(2)}

    def test_a_session_that_the_cache_has_lost_is_in_the_table(self):
        browser = self.browser()
        with REDIS.client(2) as client:
            client.flushdb()
        self.assertEqual(self.known(self.server, browser), browser.name())


class CacheOnRedis(Claims, Revocable, PostgresProject):
    """Sessions are pickled in Redis, which the server reads as a user that may do nothing else; users are in PostgreSQL."""

    engine = "cache"

    @classmethod
    def where(cls):
        return {**super().where(), "CACHES": caches(3)}

    @classmethod
    def store(cls):
        return REDIS.url(3, scheme="django+redis", user="reader")

    @classmethod
    def writer(cls):
        users = POSTGRES.url(cls.database, scheme="django+postgres")
        return cls.gateway(store=REDIS.url(3, scheme="django+redis"), users=users)

    def contents(self):
        return super().contents(), REDIS.content(3)

    def test_a_session_with_more_than_plain_values_is_refused_and_the_log_says_so(self):
        browser = self.browser()
        browser.remember(_moment=True)
        before = len(self.server.log())
        self.assertIsNone(self.known(self.server, browser))
        self.assertRegex(self.server.log()[before:], r"(?i)(WARN|ERROR).*(pickle|session)")
        self.assertEqual(browser.name(), browser.copy().name())  # Django takes it

    def test_a_value_that_is_no_session_makes_an_anonymous_visitor_and_breaks_nothing(self):
        browser = self.browser()
        key = f":1:django.contrib.sessions.cache{browser.session}"
        with REDIS.client(3) as client:
            whole = client.get(key)
            for what, value in no_sessions(whole).items():
                with self.subTest(what):
                    client.set(key, value)
                    self.assertIsNone(self.known(self.server, browser))
            client.set(key, whole)
        self.assertEqual(self.known(self.server, browser), browser.name())

    def test_a_small_value_does_not_become_a_large_one(self):
        browser = self.browser()
        key = f":1:django.contrib.sessions.cache{browser.session}"
        laughs = ["ha" * 50]
        for _ in range(30):
            laughs = [laughs, laughs]
        before = self.server.resident_bytes()
        with REDIS.client(3) as client:
            client.set(key, pickle.dumps({**pickle.loads(client.get(key)), "laughs": laughs}, 5))
        self.server.request("/page/", headers=browser.headers)
        self.assertLess(self.server.resident_bytes() - before, 64 << 20)
        self.assertIsNone(self.known(self.server))

    def test_a_prefix_and_a_version_of_the_cache(self):
        self.project.restart(CACHES=caches(3, KEY_PREFIX="club:ü", VERSION=7))
        self.addCleanup(self.project.restart, CACHES=caches(3))
        browser = self.browser()
        self.assertIsNone(self.known(self.server, browser))
        with self.gateway(sessions={"cache_key_prefix": "club:ü", "cache_version": 7}) as server:
            self.assertEqual(self.known(server, browser), browser.name())

    def test_while_redis_is_away_a_session_is_503_and_afterwards_it_works_by_itself(self):
        for leave, come_back in ((REDIS.stop, REDIS.start), (REDIS.freeze, REDIS.thaw)):
            with self.subTest(leave.__name__):
                browser = self.browser()
                peer, _ = self.chat(self.server, browser)
                leave()
                try:
                    began = time.monotonic()
                    refused = refusal(self.server, "/ws/members/", additional_headers=browser.headers)
                    self.assertEqual((refused.status_code, refused.headers.get("Retry-After")), (503, "1"))
                    self.assertLess(time.monotonic() - began, 2 + MOMENT)
                    self.assertIsNone(self.known(self.server))
                    self.stays(peer, 3 * CHECK, members=1)
                finally:
                    come_back()
                self.read_again()
                again = self.browser()
                self.assertEqual(self.known(self.server, again), again.name())

    def test_a_redis_that_was_restarted_while_nobody_asked_is_no_failure(self):
        self.assertIsNotNone(self.known(self.server, self.browser()))
        REDIS.stop()
        REDIS.start()
        self.addCleanup(self.read_again)
        browser = self.browser()
        self.assertEqual(self.known(self.server, browser), browser.name())

    def read_again(self):
        headers = {"Cookie": f"sessionid={'a' * 32}"}
        for server in (self.server, self.caching):
            until(lambda server=server: server.request("/page/", headers=headers)[0] == 200, "Redis to be read again", 5.0)


class SignedCookies(Claims, PostgresProject):
    """The session is the cookie: it cannot be revoked, except through its user."""

    engine = "signed_cookies"

    @classmethod
    def store(cls):
        return "django+signed_cookies:"

    def test_a_logout_in_django_does_not_end_a_cookie_that_was_kept(self):
        browser = self.browser()
        kept = browser.copy()
        peer, name = self.chat(self.server, kept)
        browser.log_out()
        self.assertEqual(kept.name(), name)  # nor does it for Django
        self.assertEqual(self.known(self.server, kept), name)
        self.stays(peer, 3 * CHECK, users=[name])

    def test_a_cookie_that_was_tampered_with_makes_an_anonymous_visitor(self):
        browser, other = self.browser(), self.browser()
        payload, stamp, signature = browser.session.rsplit(":", 2)
        their_payload, their_stamp, their_signature = other.session.rsplit(":", 2)
        for value in (
            f"{their_payload}:{stamp}:{signature}",
            f"{payload}:{stamp}:{their_signature}",
            f"{payload}:{stamp}A:{signature}",
            f"{payload}:{stamp}",
            f"{payload}:{stamp}:",
            f"{payload}:{stamp}:{signature}=",
            f"{payload}:{stamp}:{signature}:{signature}",
            f"A{payload}:{stamp}:{signature}",
        ):
            with self.subTest(value=value):
                forged = browser.copy()
                forged.cookies["sessionid"] = value
                self.assertIsNone(self.known(self.server, forged))

    def test_a_cookie_that_is_older_than_max_age_is_gone(self):
        with self.gateway(session='max_age = "3s"') as server:
            browser = self.browser()
            peer, name = self.chat(server, browser)
            self.assertEqual(name, browser.name())
            self.assertEqual(peer.closed()[0], 4401)
            until(lambda: self.meets(server, browser) is None, "the cookie to be too old", 5.0)


class Members:
    """A user model of the project's own."""

    settings = {"AUTH_USER_MODEL": "accounts.Member"}
    user_table, name_field = "user", "email"
    auth_django = {
        "table": "user",
        "id": "memberRef",
        "id_type": "uuid",
        "username": "loginName",
        "password": "passwordHash",
        "is_active": "isEnabled",
        "is_staff": "isCrew",
    }


class MembersOnSqlite(Members, Claims, Revocable, SqliteProject):
    """The file is in the mode that many projects choose for it: WAL."""

    @classmethod
    def ready(cls):
        with closing(sqlite3.connect(cls.project.sqlite)) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = wal").fetchone()
        assert mode == "wal", f"expected the mode wal, found {mode}"

    def contents(self):
        return self.project.tables("django_session", self.user_table)


class MembersOnPostgres(Members, Claims, Revocable, PostgresProject):
    pass


class Guests(SqliteProject):
    """Users with a text key, without columns for staff and inactive users."""

    settings = {"AUTH_USER_MODEL": "accounts.Guest"}
    user_table, name_field = "guests", "email"
    auth_django = {"table": "guests", "id": "code", "id_type": "text", "username": "email", "is_active": "", "is_staff": ""}

    def test_a_key_may_be_a_text(self):
        browser = self.browser()
        self.assertEqual(self.known(self.server, browser), browser.name())
        self.assertEqual(html.unescape(self.page(self.server, browser)).split()[1], f"guest/{browser.name()}")
        self.lets_in("/members/", browser)

    def test_without_a_column_for_staff_nobody_is(self):
        browser = self.browser()
        self.assertEqual(self.page(self.server, browser).split()[2].lower(), "false")
        self.assertEqual(self.refused(self.server, "/ws/staff/", browser), 403)

    def test_a_changed_password_ends_the_other_sessions(self):
        browser = self.browser()
        other = self.project.browser(browser.name())
        self.ends(browser, lambda: other.change_password(NEW_PASSWORD))


class Forms:
    """The project has its own names for the token against forgery; pages of both take the other's tokens."""

    def token_of(self, server, browser):
        """Returns the token of a page of the server."""
        status, fields, page = server.request("/form/", headers=browser.headers if browser.cookies else {})
        self.assertEqual(status, 200)
        self.assertNotIn("csrftoken=", fields.get("Set-Cookie", ""))
        return re.search(r'name="csrfmiddlewaretoken" value="(\w*)"', page.decode())[1], fields

    def post(self, server, browser, token="", **headers):
        headers = {**browser.headers, "Content-Type": "application/x-www-form-urlencoded", **headers}
        status, _, body = server.request("/form/", "POST", headers, urlencode({"csrfmiddlewaretoken": token}))
        return status, body.decode()

    def check_both_ways(self, browser):
        for token in (browser.token("/login/"), self.token_of(self.server, browser)[0]):
            self.assertEqual(self.post(self.server, browser, token), (200, "taken"))
            self.assertEqual(self.post(self.server, browser, **{self.header: token}), (200, "taken"))
            for bad in ("", "a" * 64, token[:-1], token.swapcase()):
                self.assertEqual(self.post(self.server, browser, bad)[0], 403)
            self.assertEqual(self.post(self.server, browser, **{"X-Another": token})[0], 403)
        # Django takes a token of a page of the server.
        name = self.name()
        token = self.token_of(self.server, browser)[0]
        sent = urlencode({"csrfmiddlewaretoken": token, "username": name, "password": PASSWORD})
        browser.ask("/login/", sent, "application/x-www-form-urlencoded", wanted=302)
        self.assertEqual(self.known(self.server, browser), name)
        # A login makes a new token.
        self.assertEqual(self.post(self.server, browser, token)[0], 403)
        self.assertEqual(self.post(self.server, browser, browser.token("/login/")), (200, "taken"))


class OtherNames(Forms, SqliteProject):
    settings = {"CSRF_COOKIE_NAME": "XSRF-TOKEN", "CSRF_HEADER_NAME": "HTTP_X_XSRF_TOKEN"}
    csrf = {"cookie": "XSRF-TOKEN", "header": "X-XSRF-Token"}
    header = "X-XSRF-Token"

    def test_pages_of_both_take_the_tokens_of_the_other(self):
        self.check_both_ways(self.browser())
        visitor = self.project.browser()
        visitor.token("/login/")
        self.assertEqual(list(visitor.cookies), ["XSRF-TOKEN"])
        self.check_both_ways(visitor)

    def test_a_page_of_the_server_sets_the_projects_cookie(self):
        visitor = self.project.browser()
        token, fields = self.token_of(self.server, visitor)
        visitor.cookies["XSRF-TOKEN"] = re.search(r"XSRF-TOKEN=(\w{32});", fields["Set-Cookie"])[1]
        self.assertEqual(self.post(self.server, visitor, token), (200, "taken"))
        self.check_both_ways(visitor)

    def test_a_server_that_was_told_no_names_says_which_settings_to_look_at(self):
        browser = self.browser()
        token = browser.token("/login/")
        with self.gateway(csrf={}) as server:
            status, page = self.post(server, browser, token)
            self.assertEqual(status, 403)
            self.assertIn("csrf.cookie", page)
            self.assertNotIn("browser", page)
            server.wait_for_log(r"csrf refused.*csrf\.cookie")
        with self.gateway(csrf={"cookie": "XSRF-TOKEN"}) as server:
            self.assertEqual(self.post(server, browser, token), (200, "taken"))
            status, page = self.post(server, browser, **{"X-XSRF-Token": token})
            self.assertEqual(status, 403)
            self.assertIn("csrf.header", page)


class TokensInSessions(Forms, SqliteProject):
    settings = {"CSRF_USE_SESSIONS": True}
    csrf = {"use_sessions": True}
    header = "X-CSRFToken"

    def test_pages_of_both_take_the_tokens_of_the_other(self):
        self.check_both_ways(self.browser())
        visitor = self.project.browser()
        visitor.token("/login/")
        self.assertEqual(list(visitor.cookies), ["sessionid"])
        self.check_both_ways(visitor)

    def test_a_cookie_is_worth_nothing(self):
        browser = self.browser()
        browser.token("/login/")
        for plain in ("a" * 32, "b" * 64):
            browser.cookies["csrftoken"] = plain
            self.assertEqual(self.post(self.server, browser, plain)[0], 403)

    def test_a_session_without_a_token_gets_none_from_the_server(self):
        before = self.contents()
        for browser in (self.project.browser(),):
            token, fields = self.token_of(self.server, browser)
            self.assertEqual((token, fields.get("Set-Cookie")), ("", None))
            status, page = self.post(self.server, browser, "a" * 64)
            self.assertEqual(status, 403)
            self.assertIn("csrf.use_sessions", page)
        self.assertEqual(self.contents(), before)

    def test_a_server_that_was_not_told_says_which_setting_to_look_at(self):
        browser = self.browser()
        token = browser.token("/login/")
        with self.gateway(csrf={}) as server:
            status, page = self.post(server, browser, token)
            self.assertEqual(status, 403)
            self.assertIn("csrf.use_sessions", page)


class TokensInSignedCookies(Forms, SqliteProject):
    """All three at once, where the session is the cookie."""

    engine = "signed_cookies"
    settings = {"CSRF_USE_SESSIONS": True, "CSRF_COOKIE_NAME": "unused", "CSRF_HEADER_NAME": "HTTP_X_TOKEN"}
    csrf = {"use_sessions": True, "cookie": "unused", "header": "x-token"}
    header = "X-Token"

    @classmethod
    def store(cls):
        return "django+signed_cookies:"

    @classmethod
    def users(cls):
        return f"django+sqlite:{cls.project.sqlite}"

    def test_pages_of_both_take_the_tokens_of_the_other(self):
        self.check_both_ways(self.browser())


def caches(database, **more):
    backend = "django.core.cache.backends.redis.RedisCache"
    return {"default": {"BACKEND": backend, "LOCATION": REDIS.url(database), **more}}


def no_sessions(whole):
    """Values that Django's cache does not write for a session, or that would do harm where they are believed."""
    login = pickle.loads(whole)
    deep = 200_000
    return {
        "nothing": b"",
        "a number": b"5",
        "a cut value": whole[:-1],
        "a list": pickle.dumps([login], 5),
        "a text": pickle.dumps("text", 5),
        "an end at once": b"\x80\x05.",
        "a protocol of the future": b"\x80\x63" + whole[2:],
        "a frame that is longer than the value": b"\x80\x05\x95" + b"\xff" * 8 + b"}.",
        "a text that is longer than the value": b"\x80\x05X\xff\xff\xff\xff}.",
        "a command to run": b"\x80\x05cos\nsystem\n(S'false'\ntR.",
        "a command to run, of protocol 4": b"\x80\x05\x8c\x02os\x8c\x06system\x93\x8c\x05false\x85R.",
        "a list in a list in a list": b"\x80\x05}\x8c\x01a" + b"]" * deep + b"a" * (deep - 1) + b"s.",
        "a list in itself": b"\x80\x05}\x94\x8c\x01a]\x94h\x01as.",
        "a memo that is not there": b"\x80\x05h\x63.",
        "a stack that is empty": b"\x80\x05ss.",
    }


if __name__ == "__main__":
    unittest.main()
