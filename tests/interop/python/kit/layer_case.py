"""Processes of the server that share a Redis, and the checks that the tests of the channel layer share."""

import http.client
import json
import re
import time
import unittest
from contextlib import contextmanager
from itertools import count

import jwt

from .deadline import DEADLINE, Late, until
from .peer import Peer
from .redis_server import Redis
from .server import Server

# `timeout` and `lease` of the layer, and what a busy machine may add to either, in seconds.
TIMEOUT = 1.0
LEASE = 1.5
MOMENT = 1.5

_SECRET = "0123456789abcdef" * 4

CONFIG = """
[log]
access = false

[channel_layer]
{layer}

[auth.bearer]
key = "{secret}"

[http]
middleware = ["hosts"]

[[http.route]]
path = "/events/{{room:slug}}/"
name = "events"
view = "events"
options = {{ group = "kept_{{room}}", history = 5, heartbeat = "300ms" }}

[[http.route]]
path = "/many/{{room:slug}}/"
name = "many"
view = "events"
options = {{ group = "long_{{room}}", history = 20_000 }}

[[http.route]]
path = "/shown/{{room:slug}}/"
name = "shown"
view = "events"
options = {{ group = "room_{{room}}" }}

[websocket]
middleware = ["hosts", "origin", "auth"]
ping_interval = "0s"
max_message = "4 MiB"
send_queue = "8 MiB"

# No history, no presence.
[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
name = "chat"
consumer = "chat"
options = {{ group = "chat_{{room}}" }}

# With presence.
[[websocket.route]]
path = "/ws/presence/{{room:slug}}/"
name = "presence"
consumer = "chat"
options = {{ group = "presence_{{room}}", presence = true }}

# With recovery.
[[websocket.route]]
path = "/ws/kept/{{room:slug}}/"
name = "kept"
consumer = "chat"
options = {{ group = "kept_{{room}}", history = 5, recover = true }}

[[websocket.route]]
path = "/ws/both/{{room:slug}}/"
name = "both"
consumer = "chat"
options = {{ group = "both_{{room}}", history = 5, recover = true, presence = true }}

[[websocket.route]]
path = "/ws/long/{{room:slug}}/"
name = "long"
consumer = "chat"
options = {{ group = "long_{{room}}", history = 20_000, recover = true }}

[[websocket.route]]
path = "/ws/past/{{room:slug}}/"
name = "past"
consumer = "chat"
options = {{ group = "past_{{room}}", history = 3 }}

[[websocket.route]]
path = "/ws/brief/{{room:slug}}/"
name = "brief"
consumer = "chat"
options = {{ group = "brief_{{room}}", history = 5, history_expiry = "1s" }}

[[websocket.route]]
path = "/ws/all/{{room:slug}}/"
name = "all"
consumer = "broadcast"
options = {{ group = "room_{{room}}" }}

[[websocket.route]]
path = "/ws/others/{{room:slug}}/"
name = "others"
consumer = "broadcast"
options = {{ group = "room_{{room}}", include_sender = false }}

[[websocket.route]]
path = "/ws/frames/{{room:slug}}/"
name = "frames"
consumer = "broadcast"
options = {{ group = "frames_{{room}}", history = 3 }}

[[websocket.route]]
path = "/ws/feed/{{room:slug}}/"
name = "feed"
consumer = "feed"
options = {{ groups = ["room_{{room}}", "chat_{{room}}"] }}

# Members of the groups of `kept` who ask for no history.
[[websocket.route]]
path = "/ws/plain/{{room:slug}}/"
name = "plain"
consumer = "broadcast"
options = {{ group = "kept_{{room}}" }}

[[websocket.route]]
path = "/ws/news/{{room:slug}}/"
name = "news"
consumer = "feed"
options = {{ groups = ["kept_{{room}}"], history = 5, recover = true }}
"""

# The log lines of an outage, once each.
LOST = r"the channel layer lost Redis"
BACK = r"the channel layer is connected to Redis again"

_ROOMS = count(1)


def layer_server(backend, *, start=None, more="", **keys):
    """Returns a server with that layer; `keys` are those of `[channel_layer]`, `more` is the rest of its file."""
    # `long` keeps 20,000 events.
    keys = {"group_history_size": "64 MiB", "timeout": f"{int(TIMEOUT * 1000)}ms", "lease": f"{int(LEASE * 1000)}ms", **keys}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in {"backend": backend, **keys}.items())
    return Server(CONFIG.format(layer=lines, secret=_SECRET) + more, start=start)


def is_connected(server):
    return server.metric("oneport_layer_connected") == 1


def connected(server):
    """Waits until a server has Redis."""
    until(lambda: is_connected(server), lambda: f"a server that has Redis\n{server.log()}")
    return server


def disconnected(server):
    """Waits until a server has noticed that Redis is unavailable."""
    until(lambda: not is_connected(server), lambda: f"a server that knows that Redis is away\n{server.log()}")
    return server


def reconnects(server):
    return server.metric("oneport_layer_reconnects_total")


@contextmanager
def reconnected(*servers):
    """Inside something ends the connections of all these servers; waits until each has Redis again."""
    before = {server: reconnects(server) for server in servers}
    yield
    for server in servers:
        until(lambda server=server: reconnects(server) > before[server], "a server that has Redis again")
        connected(server)


def dropped(server, reason):
    return server.metric("oneport_events_dropped_total", reason=reason)


def lines(server, pattern):
    """Returns the lines of the log that match."""
    return [line for line in server.log().splitlines() if re.search(pattern, line)]


def field(line, name):
    """Returns the number that a line of the log gives under a name."""
    found = re.search(rf"\b{name}=([0-9.e+-]+)", line)
    if found is None:
        raise AssertionError(f"expected {name}=NUMBER in a line of the log, found {line!r}")
    return float(found[1])


def name_of(user):
    """Returns the header fields of a user with a name."""
    if user is None:
        return {}
    claims = {"sub": user, "name": user, "exp": int(time.time()) + 600}
    return {"authorization": f"Bearer {jwt.encode(claims, _SECRET, 'HS256')}"}


class Member(Peer):
    """A socket whose user may have a name."""

    def __init__(self, server, path, user=None, **options):
        super().__init__(server, path, additional_headers=name_of(user), **options)

    def hears(self, *messages, event_type="chat.message"):
        """Reads as many events as there are messages, and compares; any other event fails."""
        found = []
        for _ in messages:
            event = self.event()
            found.append(event.get("message", event) if event["type"] == event_type else event)
        if found != list(messages):
            raise AssertionError(f"expected {list(messages)}, found {found}")

    def messages(self, number, deadline=DEADLINE):
        """Returns the next messages; other events are passed over."""
        found = []
        end = time.monotonic() + deadline
        while len(found) < number:
            try:
                event = json.loads(self.receive(max(0.0, end - time.monotonic())))
            except Late:
                raise Late(f"expected {number} messages within {deadline} s, found {len(found)}: {str(found[-5:])[:500]}") from None
            if event["type"] == "chat.message":
                found.append(event["message"])
        return found

    def messages_until(self, end):
        """Returns all up to a message, that one too; events that are none are returned whole."""
        found = []
        while end not in found:
            event = self.event()
            found.append(event.get("message", event))
        return found

    def joined(self):
        """Reads the first frame of a socket that recovers; returns it."""
        event = self.event()
        if event.get("type") != "oneport.joined" or event.keys() != {"type", "offset", "recovered"}:
            raise AssertionError(f"expected oneport.joined with offset and recovered, found {event}")
        return event

    def hears_nothing(self, seconds):
        """Fails when anything comes within that time."""
        try:
            found = self.socket.recv(timeout=seconds)
        except TimeoutError:
            return
        raise AssertionError(f"expected nothing within {seconds} s, found {found!r}")


class Stream:
    """A reader of Server-Sent Events."""

    def __init__(self, server, path, last_event_id=None):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        headers = {"accept": "text/event-stream"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        self._connection.request("GET", path, headers=headers)
        self._response = self._connection.getresponse()
        if self._response.status != 200:
            raise AssertionError(f"expected 200 for {path}, found {self._response.status}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def event(self):
        """Returns the next event as a dictionary of its fields; comments and `retry` are passed over."""
        end = time.monotonic() + DEADLINE
        fields = {}
        while time.monotonic() < end:
            line = self._response.readline().decode("utf-8")
            if not line:
                raise EOFError("expected an event, found the end")
            name, _, value = line.rstrip("\n").partition(":")
            if line == "\n":
                if "data" in fields:
                    return fields
                fields = {}
            elif name:
                value = value.removeprefix(" ")
                fields[name] = f"{fields['data']}\n{value}" if name == "data" and "data" in fields else value
        raise Late(f"expected an event within {DEADLINE} s, found comments")

    def message(self):
        return json.loads(self.event()["data"])["message"]


TOKEN = "token-of-at-least-32-characters-0"
# A server API, as `more` of a server.
API = f"""
[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "test", token = "{TOKEN}", groups = ["*"], connections = true }}] }}
"""


def api(server, method, call, body=None):
    """Calls the server API; returns what it answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    connection.request(method, f"/api/{call}", None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    found = response.read()
    connection.close()
    if response.status != 200:
        raise AssertionError(f"expected 200 for {call}, found {response.status} {found[:200]!r}")
    return json.loads(found)


class LayerCase(unittest.TestCase):
    """A Redis and two servers that share it, `self.a` and `self.b`; each test has a room of its own."""

    # Of `[channel_layer]`, and whether Redis keeps what it holds.
    layer = {}
    kept = False
    # The rest of the servers' files.
    more = ""

    @classmethod
    def setUpClass(cls):
        cls.redis = cls.enterClassContext(Redis(kept=cls.kept))
        cls.a, cls.b = (cls.enterClassContext(cls.gateway()) for _ in range(2))
        for server in cls.servers():
            connected(server)

    @classmethod
    def gateway(cls, **keys):
        """Returns a further server; `keys` are those of `[channel_layer]`, and `more`."""
        return layer_server(cls.redis.url(), **{"more": cls.more, **cls.layer, **keys})

    @classmethod
    def servers(cls):
        return cls.a, cls.b

    def setUp(self):
        self.room = f"r{next(_ROOMS)}"

    def join(self, server, kind, user=None, *, room=None, since=None):
        """Opens a socket in the test's room; `kind` is the name of a route."""
        query = "" if since is None else f"?since={since}"
        return self.enterContext(Member(server, f"/ws/{kind}/{room or self.room}/{query}", user))

    def stream(self, server, kind="events", last_event_id=None):
        return self.enterContext(Stream(server, f"/{kind}/{self.room}/", last_event_id))
