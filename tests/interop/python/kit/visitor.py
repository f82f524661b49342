"""Visitor: a browser with its cookies, at a server with users of its own."""

import http.client
import json
import re
import subprocess
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from .deadline import DEADLINE
from .peer import Peer
from .server import binary

PASSWORD = "correct horse battery staple"

# The pages of these tests: a minimal form, and the user.
PAGES = {
    "pages/login.html": """<form method="post">
<input name="username" value="{{ form.username }}">
<input name="next" value="{{ form.next }}">
<input name="csrfmiddlewaretoken" value="{{ csrf_token() }}">
<p role="alert">{{ form.error }}</p>
</form>""",
    "pages/form.html": '<form><input name="csrfmiddlewaretoken" value="{{ csrf_token() }}"></form>',
    "pages/who.html": "{% if user %}{{ user.name }} {{ user.id }} {{ user.is_staff }}{% else %}nobody{% endif %}",
}


# Logging in with those pages, in a configuration. Keys of the login's route may follow.
LOGIN = """
[auth]
users = "sqlite:site.db"

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/login/"
view = "login"
"""


def user(server, *arguments, typed="", wanted=0):
    """Runs `oneport user` with a server's configuration; returns its standard output."""
    done = subprocess.run(
        [binary(), "user", "--config", server.config, *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=server.directory,
    )
    if done.returncode != wanted:
        raise AssertionError(f"expected exit code {wanted} of user {arguments}, found {done.returncode}: {done.stderr}")
    return done.stdout


def add_user(server, name, *more, password=PASSWORD):
    """Adds a user to a server's table."""
    user(server, "add", "--password-stdin", *more, "--", name, typed=f"{password}\n")


class Answer:
    """An HTTP answer, read to its end."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.cookies = SimpleCookie()
        for field in response.headers.get_all("Set-Cookie", []):
            self.cookies.load(field)

    def __repr__(self):
        return f"{self.status} {self.headers.items()} {self.body[:500]!r}"

    @property
    def text(self):
        return self.body.decode()

    @property
    def location(self):
        return self.headers["Location"]

    def json(self):
        return json.loads(self.body)

    def value(self, name):
        """Returns the value of a form's field."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.text)
        assert found, f"expected a field {name}, found {self.text!r}"
        return found[1]


class Visitor:
    """Keeps the cookies it is given, and gives them back."""

    def __init__(self, server, cookies=None, headers=None):
        """`headers`: what every one of its requests has, such as what a proxy adds."""
        self.server = server
        self.cookies = dict(cookies or {})
        self.always = dict(headers or {})

    def at(self, server):
        """Returns the same visitor with the same cookies at another server."""
        return Visitor(server, self.cookies, self.always)

    @property
    def headers(self):
        """Returns the cookies as a header field; none if there are none."""
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}

    def request(self, path, method="GET", headers=None, body=None, connection=None):
        """Makes a request and keeps the cookies of its answer. `None` leaves a field out, a list repeats it."""
        held = connection or http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
        try:
            held.putrequest(method, path, skip_accept_encoding=True)
            fields = {**self.headers, **self.always, **(headers or {})}
            body = body.encode() if isinstance(body, str) else body
            if body is not None:
                fields["Content-Length"] = str(len(body))
            for name, value in fields.items():
                for one in value if isinstance(value, list) else [value]:
                    if one is not None:
                        held.putheader(name, one)
            held.endheaders(body)
            answer = Answer(held.getresponse())
        finally:
            if connection is None:
                held.close()
        for name, morsel in answer.cookies.items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value
        return answer

    def post(self, path, fields=None, headers=None, connection=None):
        """Sends a form as the server's own page would."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": self.server.origin,
            "Accept": "text/html",
            **(headers or {}),
        }
        return self.request(path, "POST", headers, urlencode(fields or {}), connection)

    def post_json(self, path, value, headers=None):
        """Sends JSON as a program would, with the token of its cookie."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Origin": self.server.origin,
            "X-CSRFToken": self.cookies.get("csrftoken"),
            **(headers or {}),
        }
        return self.request(path, "POST", headers, value if isinstance(value, (str, bytes)) else json.dumps(value))

    def token(self, path="/login/"):
        """Loads a page; returns the token of its form."""
        answer = self.request(path)
        assert answer.status == 200, f"expected a page, found {answer}"
        return answer.value("csrfmiddlewaretoken")

    def try_to_log_in(self, name="anna", password=PASSWORD, headers=None, connection=None, **fields):
        """Loads the form, fills it in and sends it; returns the answer."""
        page = self.request("/login/", headers=headers, connection=connection)
        assert page.status == 200, f"expected a page, found {page}"
        token = page.value("csrfmiddlewaretoken")
        sent = {"username": name, "password": password, "csrfmiddlewaretoken": token, **fields}
        return self.post("/login/", sent, headers, connection)

    def log_in(self, name="anna", **more):
        """Logs in; returns itself."""
        answer = self.try_to_log_in(name, **more)
        assert answer.status == 303, f"expected to be logged in, found {answer}"
        return self

    def log_out(self, **more):
        answer = self.post("/logout/", {"csrfmiddlewaretoken": self.token("/form/")}, **more)
        assert answer.status == 303, f"expected to be logged out, found {answer}"
        return answer

    def name(self, **more):
        """Returns the name of the user for the server, or none."""
        answer = self.request("/who/", **more)
        assert answer.status == 200, f"expected a page, found {answer}"
        said = answer.text.split()[0]
        return None if said == "nobody" else said

    def peer(self, path, **options):
        """Returns a WebSocket with the cookies."""
        return Peer(self.server, path, additional_headers={**self.headers, **self.always}, **options)
