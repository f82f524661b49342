"""Session cookie: what it is worth, to whom it goes, and when it is worth nothing any more."""

import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from kit.deadline import DEADLINE, Late, until
from kit.login_case import CHECK, MOMENT, Login, SharedLogin, gateway
from kit.peer import refusal
from kit.visitor import Visitor, add_user


class Fixation(SharedLogin):
    def test_a_planted_key_that_nobody_has_is_never_taken_over(self):
        for planted in ("a" * 32, "0123456789abcdefghijklmnopqrstuv", "A" * 32, "short", ""):
            with self.subTest(planted=planted):
                visitor = self.visitor(cookies={"sessionid": planted})
                visitor.log_in("anna")
                self.assertNotEqual(visitor.cookies["sessionid"], planted)
                self.assertIsNone(self.visitor(cookies={"sessionid": planted}).name())

    def test_who_planted_a_session_has_nothing_of_the_login_in_it(self):
        attacker = self.visitor().log_in("berta")
        planted = attacker.cookies["sessionid"]
        victim = self.visitor(cookies={"sessionid": planted})
        victim.log_in("anna")
        self.assertNotEqual(victim.cookies["sessionid"], planted)
        self.assertEqual((victim.name(), attacker.name()), ("anna", None))

    def test_the_same_user_gets_another_key_at_each_login_and_the_old_one_is_gone(self):
        visitor = self.visitor()
        keys = [visitor.log_in("anna").cookies["sessionid"] for _ in range(3)]
        self.assertEqual(len(set(keys)), 3)
        known = [self.visitor(cookies={"sessionid": key}).name() for key in keys]
        self.assertEqual(known, [None, None, "anna"])

    def test_the_store_and_the_log_do_not_hold_the_key(self):
        visitor = self.visitor().log_in("anna")
        key = visitor.cookies["sessionid"].encode()
        files = [path for path in self.server.directory.iterdir() if path.is_file()]
        self.assertIn("site.db", [path.name for path in files])
        self.assertIn("stderr", [path.name for path in files])
        for path in files:
            self.assertNotIn(key, path.read_bytes(), path.name)

    def test_a_key_is_not_taken_in_other_clothes(self):
        key = self.visitor().log_in("anna").cookies["sessionid"]
        self.assertEqual(self.visitor(cookies={"sessionid": key}).name(), "anna")
        for other in (key.upper(), key + "a", key[:-1], key + "%20", f"{key},", "%" + key[1:], f"' OR session_key = '{key}"):
            with self.subTest(other=other):
                self.assertIsNone(self.visitor(cookies={"sessionid": other}).name())
        for name in ("SESSIONID", "Sessionid", "sessionid2", "xsessionid"):
            with self.subTest(name=name):
                self.assertIsNone(self.visitor(cookies={name: key}).name())


class Flags(Login):
    def cookies(self, server, headers=None):
        """Logs in; returns the session's cookie and that of the forms, as they were set."""
        visitor = Visitor(server, headers=headers)
        beside = visitor.request("/login/").cookies["csrftoken"]
        origin = visitor.always.get("X-Forwarded-Proto", "http") + f"://{server.host}"
        answer = visitor.try_to_log_in(headers={"Origin": origin})
        self.assertEqual(answer.status, 303, answer)
        return next(morsel for name, morsel in answer.cookies.items() if name != "csrftoken"), beside

    def test_the_cookies_are_for_this_server_alone_and_the_key_not_for_scripts(self):
        session, beside = self.cookies(self.start())
        self.assertEqual((session["path"], session["samesite"], session["domain"]), ("/", "Lax", ""))
        self.assertEqual(session["max-age"], str(14 * 24 * 3600))
        self.assertTrue(session["httponly"])
        self.assertEqual((beside["path"], beside["samesite"], beside["domain"]), ("/", "Lax", ""))
        self.assertFalse(beside["httponly"])  # scripts send it in X-CSRFToken
        self.assertFalse(session["secure"] or beside["secure"])

    def test_both_are_secure_when_a_trusted_proxy_says_https(self):
        server = self.start(proxies=["127.0.0.1"])
        for proto, is_secure in (("https", True), ("http", False)):
            with self.subTest(proto=proto):
                cookies = self.cookies(server, {"X-Forwarded-Proto": proto})
                self.assertEqual([bool(cookie["secure"]) for cookie in cookies], [is_secure] * 2)
        self.assertEqual([bool(cookie["secure"]) for cookie in self.cookies(server)], [False, False])

    def test_a_client_cannot_say_https_itself(self):
        server = self.start()
        answer = Visitor(server, headers={"X-Forwarded-Proto": "https", "Forwarded": "proto=https"}).request("/login/")
        self.assertFalse(answer.cookies["csrftoken"]["secure"])

    def test_the_configuration_decides(self):
        keys = """
            cookie = "__Secure-login"
            max_age = "90s"
            path = "/"
            domain = "127.0.0.1"
            secure = "always"
            http_only = false
            same_site = "strict"
        """
        session, beside = self.cookies(self.start(session=keys))
        self.assertEqual(session.key, "__Secure-login")
        self.assertEqual((session["max-age"], session["domain"], session["samesite"]), ("90", "127.0.0.1", "Strict"))
        self.assertTrue(session["secure"] and beside["secure"])
        self.assertFalse(session["httponly"])
        never = self.start(session='secure = "never"', proxies=["127.0.0.1"])
        session, beside = self.cookies(never, {"X-Forwarded-Proto": "https"})
        self.assertFalse(session["secure"] or beside["secure"])

    def test_a_cookie_goes_with_the_attributes_it_came_with(self):
        server = self.start(session='path = "/"\ndomain = "127.0.0.1"', proxies=["127.0.0.1"])
        visitor = Visitor(server, headers={"X-Forwarded-Proto": "https"})
        origin = {"Origin": f"https://{server.host}"}
        came = visitor.try_to_log_in(headers=origin).cookies["sessionid"]
        went = visitor.log_out(headers=origin).cookies["sessionid"]
        self.assertEqual((went.value, went["max-age"]), ("", "0"))
        for attribute in ("path", "domain", "secure", "samesite"):
            self.assertEqual(went[attribute], came[attribute], attribute)


class Sockets(Login):
    def test_a_logout_closes_the_sockets_of_the_session_at_once_and_no_other(self):
        server = self.start()  # which looks at logins once an hour
        add_user(server, "berta")
        anna, again, berta, nobody = (
            Visitor(server).log_in(),
            Visitor(server).log_in(),
            Visitor(server).log_in("berta"),
            Visitor(server),
        )
        live = [self.chat(anna, "one")[0], self.chat(anna, "two")[0], self.peer(anna, "/ws/members/")]
        stay = [self.chat(visitor, "one")[0] for visitor in (again, berta, nobody)]
        began = time.monotonic()
        anna.log_out()
        for peer in live:
            self.assertEqual(peer.closed(), (4401, "the login has ended"))
        self.assertLess(time.monotonic() - began, MOMENT)
        for peer in stay:
            self.is_open(peer)
        line = server.wait_for_log(r"websocket .*/ws/members/.*").group()
        self.assertRegex(line, r"cause=\W*session_ended")
        self.assertRegex(line, r"code=4401")
        self.assertRegex(line, r"user=\W*anna")
        # A client hears of its end before the server has counted it.
        until(lambda: server.metric("oneport_websockets_closed_total", cause="session_ended") == 3, "three ends that are counted")
        self.assertEqual(refusal(server, "/ws/members/", additional_headers=anna.headers).status_code, 403)

    def test_a_logout_without_a_token_closes_nothing(self):
        server = self.start()
        anna = Visitor(server).log_in()
        peer = self.chat(anna, "one")[0]
        self.assertEqual(anna.post("/logout/").status, 403)
        with self.assertRaises(Late):
            peer.receive(0.5)
        self.is_open(peer)

    def test_a_second_login_in_the_browser_ends_the_sockets_of_the_first(self):
        server = self.start(check_interval="500ms")
        add_user(server, "berta")
        visitor = Visitor(server).log_in("anna")
        peer = self.chat(visitor, "one")[0]
        visitor.log_in("berta")
        began = time.monotonic()
        self.assertEqual(peer.closed()[0], 4401)
        self.assertLess(time.monotonic() - began, CHECK + MOMENT)
        self.assertEqual(self.chat(visitor, "one")[1], "berta")

    def test_a_session_that_expires_takes_its_sockets_along(self):
        server = self.start(check_interval="500ms", session='max_age = "3s"')
        visitor = Visitor(server).log_in()
        began = time.monotonic()
        peer = self.chat(visitor, "one")[0]
        self.assertEqual(visitor.name(), "anna")
        self.assertEqual(peer.closed()[0], 4401)
        late = time.monotonic() - began
        self.assertTrue(1.5 < late < 3 + CHECK + MOMENT, late)
        self.assertIsNone(visitor.name())

    def test_many_sockets_of_one_session_all_close(self):
        server = self.start()
        visitor = Visitor(server).log_in()
        peers = [self.peer(visitor, "/ws/members/") for _ in range(60)]
        visitor.log_out()
        self.assertEqual({peer.closed()[0] for peer in peers}, {4401})

    def test_two_servers_on_one_file_share_logins_and_logouts(self):
        first = self.start(check_interval="500ms")
        second = self.enterContext(gateway(check_interval="500ms", file=first.directory / "site.db"))
        anna = Visitor(first).log_in()
        there = anna.at(second)
        self.assertEqual(there.name(), "anna")
        peer, who = self.chat(there, "shared")
        self.assertEqual(who, "anna")
        other = self.chat(Visitor(second).log_in(), "shared")[0]
        began = time.monotonic()
        anna.log_out()
        self.assertEqual(peer.closed()[0], 4401)
        self.assertLess(time.monotonic() - began, CHECK + MOMENT)
        self.assertIsNone(there.name())
        self.is_open(other)


class Lives(Login):
    def restart(self, server, config=None):
        server.stop()
        if config is not None:
            server.config.write_text(config, encoding="utf-8")
        server.start()

    def test_a_login_outlives_a_restart(self):
        server = self.start()
        visitor = Visitor(server).log_in()
        token = visitor.token("/form/")
        self.restart(server)
        self.assertEqual(visitor.name(), "anna")
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": token}).status, 200)
        visitor.log_out()
        self.restart(server)
        self.assertIsNone(visitor.name())

    def test_a_session_in_memory_does_not(self):
        server = self.start(store="memory")
        visitor = Visitor(server).log_in()
        self.assertEqual(visitor.name(), "anna")
        self.restart(server)
        self.assertIsNone(visitor.name())

    def test_the_key_of_the_first_start_is_kept_for_its_owner_alone_and_used_again(self):
        server = self.start()
        file = server.directory / "site.db.secret_key"
        Visitor(server).log_in()
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        key = file.read_bytes()
        self.assertGreaterEqual(len(key.strip()), 32)
        self.assertNotIn(key.strip().decode(), server.log())
        self.restart(server)
        Visitor(server).log_in()
        self.assertEqual(file.read_bytes(), key)
        self.assertEqual([path.name for path in server.directory.glob("*secret_key*")], [file.name])

    def test_servers_that_start_together_agree_on_one_key(self):
        first = gateway()
        servers = [first, *(gateway(file=first.directory / "site.db") for _ in range(3))]
        for server in servers:
            self.addCleanup(server.close)
        with ThreadPoolExecutor(len(servers)) as pool:
            for started in [pool.submit(server.start) for server in servers]:
                started.result(2 * DEADLINE)
        add_user(first, "anna")
        for server in servers:
            visitor = Visitor(server).log_in()
            self.assertEqual([visitor.at(other).name() for other in servers], ["anna"] * 4)
        self.assertEqual(len(list(first.directory.glob("*secret_key*"))), 1)

    def test_another_key_ends_all_logins_unless_the_old_one_is_among_the_fallbacks(self):
        old, new = "old-" * 12, "new-" * 12
        server = self.start(server=f'secret_key = "{old}"')
        self.assertFalse((server.directory / "site.db.secret_key").exists())
        visitor = Visitor(server).log_in()
        token = visitor.token("/form/")
        config = server.config.read_text()
        fallback = config.replace(f'secret_key = "{old}"', f'secret_key = "{new}"\nsecret_key_fallbacks = ["{old}"]')
        self.restart(server, fallback)
        self.assertEqual(visitor.name(), "anna")
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": token}).status, 200)
        self.restart(server, config.replace(f'secret_key = "{old}"', f'secret_key = "{new}"'))
        self.assertIsNone(visitor.name())
        self.assertEqual(Visitor(server).log_in().name(), "anna")


if __name__ == "__main__":
    unittest.main()
