"""A server with users of its own, and the checks that its tests share."""

import json
import re
import sqlite3
import unittest
from contextlib import closing

from .server import Server
from .visitor import PAGES, Visitor, add_user

CONFIG = """
[server]
trusted_proxies = {proxies}
root_path = ""
{server}

[log]
level = "debug"

[session]
store = "{store}"
cache = "0s"
check_interval = "{check_interval}"
{session}

[auth]
users = "sqlite:{file}"
login_url = "/login/"

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/"
view = "respond"
options = {{ body = "front page" }}

[[http.route]]
path = "/login/"
view = "login"
options = {{ {login} }}

[[http.route]]
path = "/logout/"
view = "logout"

[[http.route]]
path = "/who/"
view = "template"
options = {{ template = "who.html" }}

[[http.route]]
path = "/form/"
view = "template"
methods = ["GET"]
options = {{ template = "form.html" }}

[[http.route]]
path = "/form/"
view = "respond"
methods = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
middleware = ["hosts", "session", "auth", "csrf"]
options = {{ body = "taken" }}

[[http.route]]
path = "/members/"
view = "respond"
middleware = ["hosts", "session", "auth", "login_required"]
options = {{ body = "for members" }}

[[http.route]]
path = "/staff/"
view = "respond"
middleware = ["hosts", "session", "auth", "staff_required"]
options = {{ body = "for staff" }}

[[http.route]]
path = "/events/{{room:slug}}/"
view = "events"
options = {{ group = "chat_{{room}}", history = 5, heartbeat = "300ms" }}

[[http.route]]
path = "/events/of/members/"
view = "events"
middleware = ["hosts", "session", "auth", "login_required"]
options = {{ group = "user_{{user.id}}" }}

[websocket]
middleware = ["hosts", "origin", "session", "auth"]

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
name = "chat"
consumer = "chat"
options = {{ group = "chat_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "login_required"]

[[websocket.route]]
path = "/ws/staff/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "staff_required"]
"""

# So many that only tests about the limit are ever limited.
UNLIMITED = "attempts_per_name = 1_000_000, attempts_per_address = 1_000_000"
KEY = re.compile(r"[a-z0-9]{32}")
# How often the logins of live sockets are looked at where that counts, and how much later a socket may notice, in seconds.
CHECK = 0.5
MOMENT = 2.0


def gateway(*more, file="site.db", store=None, proxies=(), check_interval="1h", server="", session="", login=UNLIMITED):
    """Returns a server that is not started yet; only a logout in it ends sockets, unless `check_interval` is set."""
    config = CONFIG.format(
        proxies=json.dumps(list(proxies)),
        server=server,
        file=file,
        store=store or f"sqlite:{file}",
        check_interval=check_interval,
        session=session,
        login=login,
    )
    return Server(config, *more, files=PAGES)


def deactivate(server, name):
    """Takes a user's right to log in; there is no command for it, so this uses SQL, as an operator would."""
    with closing(sqlite3.connect(server.directory / "site.db")) as database, database:
        changed = database.execute("UPDATE oneport_user SET is_active = 0 WHERE username = ?", [name]).rowcount
    assert changed == 1, f"expected a user {name}, found {changed}"


class Login(unittest.TestCase):
    def start(self, *more, **options):
        """Starts a server of the test's own, with anna."""
        server = self.enterContext(gateway(*more, **options))
        add_user(server, "anna")
        return server

    def peer(self, visitor, path, **options):
        return self.enterContext(visitor.peer(path, **options))

    def chat(self, visitor, room):
        """Opens a socket in a room; returns it, and whom the room was told of."""
        peer = self.peer(visitor, f"/ws/chat/{room}/")
        return peer, peer.next("chat.join")["user"]

    def is_open(self, peer):
        peer.say({"type": "who"})
        peer.next("chat.who")


class SharedLogin(Login):
    """With one server for all tests, where anna, berta (staff) and carla (who may not log in) are users."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(gateway())
        for name, *more in (("anna",), ("berta", "--staff"), ("carla",)):
            add_user(cls.server, name, *more)
        deactivate(cls.server, "carla")

    def visitor(self, **options):
        return Visitor(self.server, **options)
