"""Forgery: what another site can make a browser send, and where it can make it go."""

import unittest
from urllib.parse import quote

from kit.login_case import KEY, Login, SharedLogin
from kit.server import WATCHED
from kit.visitor import PASSWORD, Visitor


class Forgery(SharedLogin):
    def sent(self, visitor, headers=None, path="/form/", **fields):
        return visitor.post(path, fields, headers).status

    def test_the_token_of_the_page_or_of_the_cookie_is_taken_and_no_other(self):
        for who in (self.visitor(), self.visitor().log_in("anna")):
            token = who.token("/form/")
            stranger = self.visitor()
            strange = stranger.token("/form/")
            plain = who.cookies["csrftoken"]
            self.assertNotEqual(token, who.token("/form/"))  # masked anew for each page
            for good in (token, plain):
                self.assertEqual(self.sent(who, csrfmiddlewaretoken=good), 200)
                self.assertEqual(self.sent(who, {"X-CSRFToken": good}), 200)
            for bad in (
                strange,
                stranger.cookies["csrftoken"],
                "",
                "x",
                token[:-1],
                token[::-1],
                "A" * len(token),
                plain[:-2],
                "é☕",
            ):
                with self.subTest(bad=bad):
                    self.assertEqual(self.sent(who, csrfmiddlewaretoken=bad), 403)
            self.assertEqual(self.sent(who), 403)

    def test_every_method_that_changes_something_needs_it(self):
        visitor = self.visitor()
        token = visitor.token("/form/")
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            headers = {"Origin": self.server.origin}
            self.assertEqual(visitor.request("/form/", method, headers).status, 403, method)
            self.assertEqual(visitor.request("/form/", method, {**headers, "X-CSRFToken": token}).status, 200, method)
        self.assertEqual(visitor.request("/form/", "OPTIONS").status, 200)

    def test_login_and_logout_need_it_without_any_middleware(self):
        visitor = self.visitor()
        visitor.token()
        whole = {"username": "anna", "password": PASSWORD}
        self.assertEqual(self.sent(visitor, path="/login/", **whole), 403)
        self.assertEqual(visitor.post_json("/login/", whole, {"X-CSRFToken": None}).status, 403)
        self.assertIsNone(visitor.name())
        visitor.log_in("anna")
        self.assertEqual(self.sent(visitor, path="/logout/"), 403)
        self.assertEqual(self.sent(visitor, path="/logout/", csrfmiddlewaretoken="x"), 403)
        self.assertEqual(visitor.name(), "anna")

    def test_a_cookie_that_somebody_else_planted_is_worth_nothing(self):
        visitor, attacker = self.visitor().log_in("anna"), self.visitor()
        token = attacker.token("/form/")
        self.assertEqual(self.sent(attacker, csrfmiddlewaretoken=token), 200)
        # Signed, but not for anna's session.
        visitor.cookies["csrftoken"] = attacker.cookies["csrftoken"]
        self.assertEqual(self.sent(visitor, csrfmiddlewaretoken=token), 403)
        # Not signed.
        for made_up in ("a.b", "a" * 32, "a" * 64, ".", "", '"'):
            visitor.cookies["csrftoken"] = made_up
            self.assertEqual(self.sent(visitor, csrfmiddlewaretoken=made_up), 403, made_up)

    def test_a_page_from_before_the_login_has_to_be_loaded_again(self):
        visitor = self.visitor()
        token = visitor.token("/form/")
        visitor.log_in("anna")
        self.assertEqual(self.sent(visitor, csrfmiddlewaretoken=token), 403)
        self.assertEqual(self.sent(visitor, csrfmiddlewaretoken=visitor.token("/form/")), 200)
        token = visitor.token("/form/")
        visitor.log_out()
        self.assertEqual(self.sent(visitor, csrfmiddlewaretoken=token), 403)

    def test_a_page_of_another_origin_is_refused_whatever_token_it_has(self):
        visitor = self.visitor().log_in("anna")
        token = visitor.token("/form/")
        port = self.server.port
        for origin in (
            "http://evil.test",
            f"http://evil.test:{port}",
            "null",
            "",
            "http://127.0.0.1",
            f"http://127.0.0.1:{port + 1}",
            f"https://127.0.0.1:{port}",
            f"http://127.0.0.1:{port}.evil.test",
            f"http://127.0.0.1:{port}/",
            f"http://evil.test@127.0.0.1:{port}",
            f"http://localhost:{port}",
        ):
            for path in ("/form/", "/login/", "/logout/"):
                with self.subTest(origin=origin, path=path):
                    self.assertEqual(self.sent(visitor, {"Origin": origin}, path, csrfmiddlewaretoken=token), 403)
        for both in (
            [self.server.origin, "http://evil.test"],
            ["http://evil.test", self.server.origin],
            [self.server.origin] * 2,
        ):
            self.assertIn(self.sent(visitor, {"Origin": both}, csrfmiddlewaretoken=token), (400, 403))
        self.assertEqual(visitor.name(), "anna")
        self.assertEqual(self.sent(visitor, {"Origin": None}, csrfmiddlewaretoken=token), 200)

    def test_over_https_behind_a_proxy_the_origin_is_the_clients(self):
        server = self.start(proxies=["127.0.0.1"])
        proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1", "Origin": f"https://{server.host}"}
        visitor = Visitor(server, headers={name: proxied[name] for name in ("X-Forwarded-Proto", "X-Forwarded-For")})
        visitor.log_in("anna", headers=proxied)
        token = visitor.token("/form/")
        host = server.host

        def sent(**fields):
            return self.sent(visitor, {"Origin": None, **fields}, csrfmiddlewaretoken=token)

        self.assertEqual(sent(Origin=f"https://{host}"), 200)
        self.assertEqual(sent(Origin=f"http://{host}"), 403)
        self.assertEqual(sent(), 403)  # neither Origin nor Referer
        for good in (
            f"https://{host}/form/",
            f"https://{host}",
            f"https://{host}/?a=//evil.test",
            f"https://{host}?x",
            f"https://{host}#x",
        ):
            self.assertEqual(sent(Referer=good), 200, good)
        for bad in (
            f"http://{host}/form/",
            "https://evil.test/",
            f"https://evil.test/{host}/",
            f"https://{host}.evil.test/",
            f"https://{host}@evil.test/",
            f"https://evil.test\\@{host}/",
            f"https://evil.test?{host}",
            "https://127.0.0.1/",
            "/form/",
            "",
            "https://",
        ):
            self.assertEqual(sent(Referer=bad), 403, bad)
        # A good Referer makes no foreign Origin good.
        self.assertEqual(sent(Origin="https://evil.test", Referer=f"https://{host}/"), 403)
        # Only the host from the proxy counts.
        self.assertEqual(sent(**{"X-Forwarded-Host": "localhost", "Origin": "https://localhost"}), 200)
        self.assertEqual(sent(**{"X-Forwarded-Host": "localhost", "Origin": f"https://{host}"}), 403)


class Settings(Login):
    """Other names, and tokens in sessions of our own."""

    def visit(self, csrf):
        server = self.start(session=f"\n[csrf]\n{csrf}")
        return server, Visitor(server)

    def test_cookie_and_header_field_have_the_names_of_the_file(self):
        server, visitor = self.visit('cookie = "XSRF-TOKEN"\nheader = "X-XSRF-Token"')
        token = visitor.token("/form/")
        self.assertEqual(list(visitor.cookies), ["XSRF-TOKEN"])
        plain = visitor.cookies["XSRF-TOKEN"]
        for good in (token, plain):
            self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": good}).status, 200)
            self.assertEqual(visitor.post("/form/", {}, {"x-xsrf-token": good}).status, 200)
            answer = visitor.post("/form/", {}, {"X-CSRFToken": good, "Accept": "application/json"})
            self.assertEqual(answer.status, 403)
            self.assertIn("csrf.header", answer.text)
        del visitor.cookies["XSRF-TOKEN"]
        visitor.cookies["csrftoken"] = plain
        answer = visitor.post("/form/", {"csrfmiddlewaretoken": token}, {"Accept": "application/json"})
        self.assertEqual(answer.status, 403)
        self.assertIn("csrf.cookie", answer.text)
        self.assertNotIn("browser", answer.text)
        server.wait_for_log(r"csrf refused.*csrf\.cookie")
        visitor = Visitor(server).log_in("anna")
        login = {"username": "anna", "password": PASSWORD}
        visitor.token()
        for field, status in (("X-CSRFToken", 403), ("X-XSRF-Token", 200)):
            fields = {"X-CSRFToken": None, field: visitor.cookies["XSRF-TOKEN"]}
            self.assertEqual(visitor.post_json("/login/", login, fields).status, status)
        visitor.log_out()

    def test_a_session_of_our_own_holds_the_token(self):
        server, visitor = self.visit("use_sessions = true")
        token = visitor.token("/form/")
        self.assertEqual(list(visitor.cookies), ["sessionid"])
        self.assertNotEqual(token, visitor.token("/form/"))  # masked anew for each page
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": token}).status, 200)
        self.assertEqual(visitor.post("/form/", {}, {"X-CSRFToken": token}).status, 200)
        stranger = Visitor(server)
        strange = stranger.token("/form/")
        for bad in (strange, "", "x", token[:-1], token.swapcase(), "a" * 32, "a" * 64):
            self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": bad}).status, 403, bad)
        # Neither is a cookie worth anything.
        visitor.cookies["csrftoken"] = "a" * 32
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": "a" * 32}).status, 403)
        del visitor.cookies["csrftoken"]
        # The login makes a new one, and its form needs one as well.
        self.assertEqual(visitor.post("/login/", {"username": "anna", "password": PASSWORD}).status, 403)
        sent = {"username": "anna", "password": PASSWORD, "csrfmiddlewaretoken": token}
        self.assertEqual(visitor.post("/login/", sent).status, 303)
        self.assertEqual(visitor.name(), "anna")
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": token}).status, 403)
        token = visitor.token("/form/")
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": token}).status, 200)
        visitor.log_out()
        self.assertEqual(visitor.post("/form/", {"csrfmiddlewaretoken": token}).status, 403)

    def test_without_a_token_in_the_session_the_setting_is_named(self):
        _, visitor = self.visit("use_sessions = true")
        answer = visitor.post("/form/", {"csrfmiddlewaretoken": "a" * 64}, {"Accept": "application/json"})
        self.assertEqual(answer.status, 403)
        self.assertIn("csrf.use_sessions", answer.text)


# What a browser would take for another server's, or for no place at all.
ELSEWHERE = [
    "//evil.test",
    "//evil.test/%2f..",
    "///evil.test",
    "////evil.test",
    "/\\evil.test",
    "/\\/evil.test",
    "\\\\evil.test",
    "\\/evil.test",
    "/\t/evil.test",
    "/\n/evil.test",
    "/\r\n/evil.test",
    "/ /evil.test",
    " //evil.test",
    "\t//evil.test",
    "https://evil.test/",
    "https:evil.test",
    "https:/evil.test",
    "HTTP://evil.test",
    "http:///evil.test",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.test",
    "who/",
    "?next=x",
    "#x",
    ".",
    "@evil.test",
    "/who/\r\nSet-Cookie: sessionid=planted",
    "/who/\0",
    "/who/\x7f",
]
HERE = {
    "/who/": "/who/",
    "/who/?a=b&c=d#e": "/who/?a=b&c=d#e",
    "/café/☕": "/caf%C3%A9/%E2%98%95",
    "/who/?next=//evil.test": "/who/?next=//evil.test",
    "/a//b": "/a//b",
    "/%2F/evil.test": "/%2F/evil.test",
    "/@evil.test": "/@evil.test",
}


class Redirects(SharedLogin):
    def test_next_is_followed_only_to_a_path_of_this_server(self):
        visitor = self.visitor()
        for follow in ELSEWHERE:
            with self.subTest(follow=follow):
                answer = visitor.try_to_log_in("anna", next=follow)
                self.assertEqual((answer.status, answer.location), (303, "/"), answer)
                self.assertRegex(visitor.cookies["sessionid"], KEY)
        for follow, location in HERE.items():
            with self.subTest(follow=follow):
                self.assertEqual(visitor.try_to_log_in("anna", next=follow).location, location)

    def test_nor_does_a_program_or_the_form_hear_of_another_place(self):
        visitor = self.visitor()
        for follow in ELSEWHERE:
            with self.subTest(follow=follow):
                self.assertEqual(visitor.request(f"/login/?next={quote(follow, safe='')}").value("next"), "")
                self.assertEqual(visitor.try_to_log_in("anna", "wrong", next=follow).value("next"), "")
                answer = visitor.post_json("/login/", {"username": "anna", "password": PASSWORD, "next": follow})
                self.assertEqual(answer.json()["next"], "/")
                del visitor.cookies["sessionid"]
        self.assertNotEqual(visitor.request("/login/?next=/who/").value("next"), "")

    def test_under_a_prefix_all_ways_stay_under_it(self):
        server = self.start()
        server.reload(server.config.read_text().replace('root_path = ""', 'root_path = "/app"').replace(WATCHED, ""))
        visitor = Visitor(server)
        location = visitor.request("/app/members/").location
        self.assertEqual(location, "/app/login/?next=/app/members/")
        page = visitor.request(location)
        fields = {"username": "anna", "password": PASSWORD, "csrfmiddlewaretoken": page.value("csrfmiddlewaretoken")}
        self.assertEqual(visitor.post("/app/login/", fields).location, "/app/")
        token = visitor.token("/app/form/")
        self.assertEqual(visitor.post("/app/logout/", {"csrfmiddlewaretoken": token}).location, "/app/")


if __name__ == "__main__":
    unittest.main()
