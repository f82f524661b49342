"""The view `proxy` behind Oneport's own logins: whom the application is told of, what it is spared, and the cookies of both."""

import json

from kit.gunicorn import Gunicorn
from kit.http2 import Client
from kit.login_case import UNLIMITED, Login
from kit.server import Server
from kit.visitor import PAGES, Visitor, add_user

CONFIG = """
[session]
store = "sqlite:site.db"
cookie = "{cookie}"
cache = "0s"

[auth]
users = "sqlite:site.db"
login_url = "/login/"

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/login/"
view = "login"
options = {{ {login} }}

[[http.route]]
path = "/logout/"
view = "logout"

[[http.route]]
path = "/form/"
view = "template"
options = {{ template = "form.html" }}

[[http.route]]
path = "/{{*path}}"
view = "proxy"
options = {{ upstream = ["{url}"], request_headers = {{ x-user = "{{user.name}}", x-user-id = "{{user.id}}" }} }}

[[http.route]]
path = "/members/{{*path}}"
view = "proxy"
middleware = ["hosts", "session", "auth", "login_required"]
options = {{ upstream = ["{url}"], strip_prefix = "/members", request_headers = {{ x-user = "{{user.name}}" }} }}

[[http.route]]
path = "/guarded/{{*path}}"
view = "proxy"
middleware = ["hosts", "session", "auth", "csrf"]
options = {{ upstream = ["{url}"], strip_prefix = "/guarded" }}
"""


class BehindALogin(Login):
    COOKIE = "oneport_session"

    @classmethod
    def setUpClass(cls):
        cls.gunicorn = cls.enterClassContext(Gunicorn())
        config = CONFIG.format(cookie=cls.COOKIE, login=UNLIMITED, url=cls.gunicorn.url)
        cls.server = cls.enterClassContext(Server(config, files=PAGES))
        add_user(cls.server, "anna")

    def environ(self, visitor, path="/environ", **options):
        answer = visitor.request(path, **options)
        self.assertEqual(answer.status, 200, answer)
        return answer.json()

    def logged_in(self):
        visitor = Visitor(self.server)
        self.assertEqual(visitor.try_to_log_in("anna").status, 303)
        return visitor

    def test_the_application_is_told_of_the_user_and_of_no_other(self):
        visitor = Visitor(self.server)
        forged = {"X-User": "root", "X_User": "root", "X.User": "root", "X-User-Id": "0", "x-uSER-id": "0"}
        environ = self.environ(visitor, headers=forged)
        self.assertEqual([name for name in environ if "USER" in name and name.startswith("HTTP_X")], [])
        visitor = self.logged_in()
        environ = self.environ(visitor, headers=forged)
        self.assertEqual((environ["HTTP_X_USER"], environ["HTTP_X_USER_ID"]), ("anna", "1"))
        environ = self.environ(visitor, headers={"Connection": "keep-alive, X-User, Cookie", **forged})
        self.assertEqual(environ["HTTP_X_USER"], "anna")

    def test_the_user_is_told_over_http2_too(self):
        visitor = self.logged_in()
        with Client(self.server) as client:
            fields = [(":method", "GET"), (":scheme", "http"), (":path", "/environ"), (":authority", self.server.host)]
            fields += [("cookie", "a=b"), ("cookie", visitor.headers["Cookie"]), ("x-user", "root")]
            status, _, body = client.answer(client.begin(fields, end_stream=True))
        self.assertEqual(status, 200)
        environ = json.loads(bytes(body))
        self.assertEqual(environ["HTTP_X_USER"], "anna")
        self.assertIn("a=b; ", environ["HTTP_COOKIE"])

    def test_a_logout_ends_it(self):
        visitor = self.logged_in()
        before = visitor.at(self.server)
        self.assertEqual(self.environ(visitor)["HTTP_X_USER"], "anna")
        self.assertEqual(visitor.log_out().status, 303)
        for gone in (visitor, before):  # who kept the cookie has nothing
            self.assertNotIn("HTTP_X_USER", self.environ(gone))
            self.assertEqual(gone.request("/members/environ").status, 302)

    def test_pages_for_members_lead_to_the_login_and_back(self):
        visitor = Visitor(self.server)
        answer = visitor.request("/members/environ?a=b", headers={"Accept": "text/html"})
        self.assertEqual((answer.status, answer.location), (302, "/login/?next=/members/environ%3Fa%3Db"))
        for spelling in ("/members", "/members/", "/members%2Fenviron", "//members/environ", "/members;x/environ", "/%6dembers/environ"):
            with self.subTest(spelling):
                answer = visitor.request(spelling)
                self.assertIn(answer.status, (302, 400))
                self.assertNotIn(b"PATH_INFO", answer.body)
        visitor = self.logged_in()
        environ = self.environ(visitor, "/members/environ?a=b")
        self.assertEqual((environ["HTTP_X_USER"], environ["PATH_INFO"], environ["QUERY_STRING"]), ("anna", "/environ", "a=b"))
        self.assertEqual(environ["HTTP_X_FORWARDED_PREFIX"], "/members")

    def test_a_refused_upload_does_not_reach_the_application(self):
        visitor = Visitor(self.server)
        answer = visitor.request("/members/upload", "POST", body="x" * 100_000)
        self.assertIn(answer.status, (302, 303, 401, 403))
        answer = self.logged_in().request("/members/upload", "POST", body="x" * 100_000)
        self.assertEqual((answer.status, answer.text.split()[0]), (200, "100000"))

    def test_csrf_guards_the_application(self):
        visitor = self.logged_in()
        token = visitor.request("/form/").value("csrfmiddlewaretoken")
        self.assertEqual(visitor.post("/guarded/upload", {"a": "b"}).status, 403)
        answer = visitor.post("/guarded/upload", {"csrfmiddlewaretoken": token, "a": "b"})
        # The middleware has read the form for its token: the application gets it whole.
        sent = len(f"csrfmiddlewaretoken={token}&a=b")
        self.assertEqual((answer.status, answer.text.split()[0]), (200, str(sent)))
        evil = visitor.post("/guarded/upload", {"csrfmiddlewaretoken": token}, headers={"Origin": "http://evil.test"})
        self.assertEqual(evil.status, 403)
        self.environ(visitor, "/guarded/environ")

    def test_the_cookies_of_both_sides_live_side_by_side(self):
        visitor = self.logged_in()
        ours = visitor.cookies[self.COOKIE]
        answer = visitor.request("/cookies")
        self.assertEqual({name: morsel.value for name, morsel in answer.cookies.items()}, {"sessionid": "of-the-app", "theme": "dark"})
        self.assertEqual((visitor.cookies[self.COOKIE], visitor.cookies["sessionid"]), (ours, "of-the-app"))
        environ = self.environ(visitor)
        self.assertEqual(environ["HTTP_X_USER"], "anna")
        self.assertIn("sessionid=of-the-app", environ["HTTP_COOKIE"])
        visitor.log_out()
        self.assertEqual(visitor.cookies.get("sessionid"), "of-the-app")
        self.assertNotIn(self.COOKIE, visitor.cookies)
