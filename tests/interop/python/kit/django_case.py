"""A Django project with servers next to it, and the checks that its tests share."""

import json
import time
import unittest
from itertools import count

from .deadline import Late, until
from .django_project import DjangoProject
from .peer import Peer, refusal
from .server import Server

KEY = "django-insecure-0123456789-abcdefghijklmnopqrstuvwxyz-é☕"
# How often the logins of live sockets are looked at, and how much later a socket may notice, in seconds.
CHECK = 0.5
MOMENT = 2.0

CONFIG = """
[server]
secret_key = {key}
secret_key_fallbacks = {fallbacks}

[session]
store = {store}
cache = "{cache}"
check_interval = "500ms"
timeout = "2s"
{session}

[session.django]
{session_django}

[auth]
users = {users}

[auth.django]
{auth_django}

[csrf]
{csrf}

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/page/"
view = "template"
options = {{ template = "page.html" }}

[[http.route]]
path = "/session/"
view = "template"
options = {{ template = "session.txt" }}

[[http.route]]
path = "/members/"
view = "respond"
middleware = ["hosts", "session", "auth", "login_required"]

[[http.route]]
path = "/staff/"
view = "respond"
middleware = ["hosts", "session", "auth", "staff_required"]

[[http.route]]
path = "/form/"
view = "template"
methods = ["GET"]
middleware = ["hosts", "session", "auth", "csrf"]
options = {{ template = "form.html" }}

[[http.route]]
path = "/form/"
view = "respond"
methods = ["POST"]
middleware = ["hosts", "session", "auth", "csrf"]
options = {{ body = "taken" }}

[websocket]
middleware = ["hosts", "origin", "session", "auth"]

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
name = "chat"
consumer = "chat"
options = {{ group = "chat_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/feed/"
consumer = "feed"
options = {{ groups = ["user_{{user.id}}"] }}

[[websocket.route]]
path = "/ws/to/{{id}}/"
consumer = "broadcast"
options = {{ group = "user_{{id}}" }}

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "login_required"]

[[websocket.route]]
path = "/ws/staff/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "staff_required"]
"""

PAGES = {
    "pages/page.html": "{% if user %}{{ user.name }} {{ user.id }} {{ user.is_staff }}{% else %}nobody{% endif %}",
    "pages/session.txt": "{{ session | tojson }}",
    "pages/form.html": '<form><input name="csrfmiddlewaretoken" value="{{ csrf_token() }}"></form>',
}

_ROOMS = count(1)
_NAMES = count(1)


class Project(unittest.TestCase):
    """A project, and two servers next to it: one reads each time, the other caches a row for a second."""

    engine = "db"
    settings = {}
    session_django = {}
    auth_django = {}
    csrf = {}
    user_table, name_field = "auth_user", "username"

    @classmethod
    def setUpClass(cls):
        engine = f"django.contrib.sessions.backends.{cls.engine}"
        settings = {"SECRET_KEY": KEY, "SESSION_ENGINE": engine, **cls.settings, **cls.where()}
        cls.project = cls.enterClassContext(DjangoProject(settings))
        cls.ready()
        cls.server = cls.enterClassContext(cls.gateway())
        cls.caching = cls.enterClassContext(cls.gateway(cache="1s"))

    @classmethod
    def ready(cls):
        """Is called when the tables exist."""

    @classmethod
    def gateway(
        cls, *, key=KEY, fallbacks=(), cache="0s", session="", store=None, users=None, django=None, sessions=None, csrf=None
    ):
        """Returns a server next to the project.

        `django`, `sessions` and `csrf` are keys of `[auth.django]`, `[session.django]` and `[csrf]`.
        """
        config = CONFIG.format(
            key=json.dumps(key, ensure_ascii=False),
            fallbacks=json.dumps(list(fallbacks), ensure_ascii=False),
            cache=cache,
            session=session,
            store=json.dumps(store or cls.store()),
            users=json.dumps(users or cls.users()),
            auth_django=_lines({**cls.auth_django, **(django or {})}),
            csrf=_lines(cls.csrf if csrf is None else csrf),
            session_django=_lines({**cls.session_django, **(sessions or {})}),
        )
        return Server(config, files=PAGES)

    @classmethod
    def writer(cls):
        """Returns a server that may write."""
        return cls.gateway()

    def name(self, like="anna", **fields):
        """Makes a user; returns the name."""
        name = f"{like}{next(_NAMES)}"
        self.project.create_user(name, **fields)
        return name

    def browser(self, **fields):
        """Makes a user and logs in."""
        return self.project.browser(self.name(**fields))

    def peer(self, server, path, browser=None):
        return self.enterContext(Peer(server, path, additional_headers=browser.headers if browser else {}))

    def chat(self, server, browser=None):
        """Opens a socket in a room of its own; returns it, and whom the room was told of."""
        peer = self.peer(server, f"/ws/chat/room{next(_ROOMS)}/", browser)
        return peer, peer.next("chat.join")["user"]

    def meets(self, server, browser=None):
        """Returns whom a new handshake knows: the name, or none."""
        with Peer(server, f"/ws/chat/room{next(_ROOMS)}/", additional_headers=browser.headers if browser else {}) as peer:
            return peer.next("chat.join")["user"]

    def known(self, server, browser=None):
        """Returns whom a new handshake and a page know: the name, or none; they must agree."""
        name = self.meets(server, browser)
        self.assertEqual(self.page(server, browser).split()[0], name or "nobody")
        return name

    def page(self, server, browser=None, path="/page/"):
        status, _, body = server.request(path, headers=browser.headers if browser else {})
        self.assertEqual(status, 200, body)
        return body.decode()

    def refused(self, server, path, browser=None):
        return refusal(server, path, additional_headers=browser.headers if browser else {}).status_code

    def lets_in(self, path, browser):
        peer = self.peer(self.server, f"/ws{path}", browser)
        peer.send("in")
        self.assertEqual(peer.receive(), "in")
        self.assertEqual(self.server.request(path, headers=browser.headers)[0], 200)

    def stays(self, peer, seconds, **who):
        """Checks that a socket stays open for this time, and the members of its room then."""
        with self.assertRaises(Late):
            peer.receive(seconds)
        peer.say({"type": "who"})
        peer.next("chat.who", **who)

    def ends(self, browser, end):
        """Holds that a login is gone once `end` was done: for new handshakes, and for sockets that are open."""
        before = browser.copy()
        name = before.name()
        bystander = self.browser()
        stay = [self.chat(self.server, bystander), self.chat(self.server)]
        self.assertEqual([stayed[1] for stayed in stay], [bystander.name(), None])
        live = [self.chat(server, before) for server in (self.server, self.caching)]
        live.append((self.peer(self.server, "/ws/members/", before), name))
        self.assertEqual([found for _, found in live], [name] * 3)

        end()
        ended = time.monotonic()
        self.assertIsNone(self.known(self.server, before))
        self.assertEqual(self.refused(self.server, "/ws/members/", before), 403)
        for peer, _ in live:
            code = peer.closed()[0]
            late = time.monotonic() - ended
            self.assertEqual(code, 4401)
            self.assertLess(late, CHECK + MOMENT)
        until(lambda: self.meets(self.caching, before) is None, "the caching server to forget the login", 2.0)
        for peer, who in stay:
            self.stays(peer, 0.0, users=[who])
        self.assertIsNone(before.name())  # which is what Django says


def _lines(table):
    return "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())
