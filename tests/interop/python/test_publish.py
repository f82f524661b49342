"""The server API of two processes at one Redis: who is reached, counted and ended, what it says when somebody is silent, and
`oneport publish`.
"""

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import jwt

from kit.deadline import DEADLINE, until
from kit.frames import RawSocket
from kit.layer_case import connected, disconnected
from kit.peer import Peer
from kit.postgres import free_port
from kit.redis_server import Redis
from kit.server import ROOT, Server, binary

ADMIN = "the-token-of-the-admin"
SHOP = "the-token-of-the-shop"
SECRET = "0123456789abcdef" * 4

# How long a process may be silent before the others answer without it, for one call and for all events of a batch together,
# and what a busy machine may add, in seconds.
SILENCE = 1.0
BATCH_SILENCE = 5.0
MOMENT = 4.0

CONFIG = """
[log]
access = false

[server]
name = "{name}"

[server.limits]
uri_size = "16 KiB"

[channel_layer]
{layer}

[auth.bearer]
key = "{secret}"

[[http.route]]
path = "/api/{{*call}}"
name = "api"
view = "publish"
options = {{ idempotency_expiry = "{idempotency_expiry}", max_batch = {max_batch}, tokens = [
  {{ name = "admin", token = "{admin}", groups = ["*"], connections = true }},
  {{ name = "shop", token = "{shop}", groups = ["room_*", "new?", "*.end"] }},
] }}

[websocket]
middleware = ["hosts", "origin", "auth"]
ping_interval = "0s"

[[websocket.route]]
path = "/ws/feed/{{room}}/"
name = "feed"
consumer = "feed"
options = {{ groups = ["room_{{room}}"] }}

[[websocket.route]]
path = "/ws/news/{{room}}/"
name = "news"
consumer = "feed"
options = {{ groups = ["room_{{room}}", "news"] }}

[[websocket.route]]
path = "/ws/kept/{{room}}/"
name = "kept"
consumer = "feed"
options = {{ groups = ["kept_{{room}}"], history = 50 }}

[[websocket.route]]
path = "/ws/slow/{{room}}/"
name = "slow"
consumer = "feed"
options = {{ groups = ["room_{{room}}"] }}
send_queue = "64 KiB"
slow_client = "drop_newest"
write_timeout = "60s"

[[websocket.route]]
path = "/ws/long/{{*rest}}"
name = "long"
consumer = "echo"
"""

_ROOMS = count(1)


def api_server(backend, name="", *, idempotency_expiry="5m", max_batch=5, **layer):
    layer = {"timeout": "1s", "lease": "60s", **layer}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {"backend": backend, **layer}.items())
    more = {"idempotency_expiry": idempotency_expiry, "max_batch": max_batch}
    return Server(CONFIG.format(layer=lines, name=name, secret=SECRET, admin=ADMIN, shop=SHOP, **more))


def call(server, method, path, body=None, *, token=ADMIN, deadline=DEADLINE, **headers):
    """Makes one call; returns the status, the header fields and the JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=deadline)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            fields["authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        connection.request(method, f"/api/{path}", body=body, headers=fields)
        response = connection.getresponse()
        content = response.read()
        if response.headers["content-type"] != "application/json":
            raise AssertionError(f"expected JSON, found {response.status} {response.headers['content-type']}: {content[:200]!r}")
        return response.status, response.headers, json.loads(content) if content else None
    finally:
        connection.close()


def asked(server, path, **options):
    """Makes a call with GET that goes well; returns the answer."""
    return ok(call(server, "GET", path, **options))


def post(server, path, body, **options):
    return ok(call(server, "POST", path, body, **options))


def ok(answer):
    if answer[0] != 200:
        raise AssertionError(f"expected 200, found {answer[0]}: {answer[2]}")
    return answer[2]


def counts(matched, queued=None, dropped=0, unanswered=0):
    return {"matched": matched, "queued": matched if queued is None else queued, "dropped": dropped, "unanswered": unanswered}


def code(answer):
    return answer[0], (answer[2] or {}).get("error", {}).get("code")


def bearer(user):
    """Returns the header fields of a user with a name; the id is `id-NAME`."""
    if user is None:
        return {}
    claims = {"sub": f"id-{user}"[:100], "name": user, "exp": int(time.time()) + 600}
    return {"authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


class ApiCase(unittest.TestCase):
    """A Redis and two servers that share it, `self.a` and `self.b`; each test has a room of its own."""

    layer = {}
    # Options of the view.
    idempotency_expiry = "5m"
    max_batch = 5

    @classmethod
    def setUpClass(cls):
        cls.redis = cls.enterClassContext(Redis())
        cls.a, cls.b = (cls.enterClassContext(cls.another(name)) for name in ("a", "b"))
        for server in cls.servers():
            connected(server)
        until(lambda: asked(cls.a, "info")["nodes"] == 2, "two processes")
        cls.node_a, cls.node_b = (asked(server, "info")["node"] for server in cls.servers())

    @classmethod
    def another(cls, name=""):
        more = {"idempotency_expiry": cls.idempotency_expiry, "max_batch": cls.max_batch}
        return api_server(cls.redis.url(), name, **more, **cls.layer)

    @classmethod
    def servers(cls):
        return cls.a, cls.b

    def setUp(self):
        self.room = f"r{next(_ROOMS)}"
        self.group = f"room_{self.room}"

    def join(self, server, user=None, *, kind="feed", room=None):
        """Opens a socket and waits until its group has it."""
        group = f"{'kept' if kind == 'kept' else 'room'}_{room or self.room}"
        before = self.here(server, group)
        peer = self.enterContext(Peer(server, f"/ws/{kind}/{room or self.room}/", additional_headers=bearer(user)))
        peer.server = server
        until(lambda: self.here(server, group) > before, f"a member more in {group}")
        return peer

    @staticmethod
    def here(server, group):
        """Returns how many of a group are in that process."""
        node = asked(server, "info")["node"]
        found = pages(server, f"group={group}")
        return sum(connection["node"] == node for connection in found)

    def is_there(self, group, number):
        """Waits until both processes know of that many members."""
        for server in self.servers():
            until(lambda server=server: asked(server, f"groups/{group}")["members"] == number, f"{number} members of {group}")

    def id_of(self, peer):
        """Returns the id of a socket's connection, found by its address."""
        address = "{}:{}".format(*peer.socket.local_address[:2])
        found = [one["id"] for one in pages(peer.server, "") if one["client"] == address]
        self.assertEqual(len(found), 1, f"expected one connection from {address}")
        return found[0]


def pages(server, query, limit=1000):
    """Returns all connections, page by page."""
    found, cursor = [], None
    while True:
        after = "" if cursor is None else f"&cursor={cursor}"
        page = asked(server, f"connections?{query}&limit={limit}{after}".replace("?&", "?"))
        found += page["connections"]
        cursor = page["cursor"]
        if cursor is None:
            return found


class Publish(ApiCase):
    def test_an_event_reaches_the_members_of_both_processes_and_is_counted_exactly(self):
        here, there = [], []
        for step in ((0, 0), (1, 0), (0, 1), (2, 0), (0, 3)):
            here += [self.join(self.a) for _ in range(step[0])]
            there += [self.join(self.b) for _ in range(step[1])]
            number = len(here) + len(there)
            self.is_there(self.group, number)
            for server in self.servers():
                with self.subTest(here=len(here), there=len(there), asked=server is self.a and "a" or "b"):
                    event = {"type": "chat.message", "message": "hällo", "more": [1, None, {"a": 1.5}]}
                    self.assertEqual(post(server, f"groups/{self.group}", event), counts(number))
                    for member in here + there:
                        self.assertEqual(member.event(), event)

    def test_a_member_of_several_groups_hears_each_once(self):
        member = self.join(self.b, kind="news")
        other = self.join(self.a, kind="news", room=f"{self.room}-other")
        self.is_there("news", 2)
        self.assertEqual(post(self.a, "groups/news", {"type": "a"}), counts(2))
        self.assertEqual(post(self.a, f"groups/{self.group}", {"type": "b"}), counts(1))
        self.assertEqual([member.event()["type"] for _ in "ab"], ["a", "b"])
        self.assertEqual(other.event()["type"], "a")

    def test_a_raw_frame_is_shown_as_it_is_at_the_other_process(self):
        member = self.join(self.b)
        for event, frame in (
            ({"type": "websocket.send", "text": "hällo \x00"}, "hällo \x00"),
            ({"type": "websocket.send", "text": ""}, ""),
            ({"type": "websocket.send", "bytes": base64.b64encode(bytes(range(256))).decode()}, bytes(range(256))),
            ({"type": "websocket.send", "bytes": ""}, b""),
        ):
            with self.subTest(event=event):
                self.assertEqual(post(self.a, f"groups/{self.group}", event), counts(1))
                self.assertEqual(member.receive(), frame)
                self.assertEqual(post(self.a, f"connections/{self.id_of(member)}", event)["queued"], 1)
                self.assertEqual(member.receive(), frame)

    def test_events_of_one_caller_keep_their_order_everywhere(self):
        members = [self.join(server) for server in self.servers()]
        self.is_there(self.group, 2)
        for number in range(100):
            self.assertEqual(post(self.a, f"groups/{self.group}", {"type": "n", "number": number}), counts(2))
        for member in members:
            self.assertEqual([member.event()["number"] for _ in range(100)], list(range(100)))

    def test_counts_are_exact_while_many_call_at_once(self):
        members = [self.join(server) for server in self.servers() for _ in range(3)]
        self.is_there(self.group, 6)

        def say(number):
            return post(self.servers()[number % 2], f"groups/{self.group}", {"type": "n", "number": number})

        with ThreadPoolExecutor(8) as pool:
            for answer in pool.map(say, range(200)):
                self.assertEqual(answer, counts(6))
        for member in members:
            self.assertEqual(sorted(member.event()["number"] for _ in range(200)), list(range(200)))

    def test_a_group_with_a_history_counts_and_keeps_what_is_published(self):
        member = self.join(self.b, kind="kept")
        group = f"kept_{self.room}"
        for number in range(3):
            answer = post(self.a, f"groups/{group}", {"type": "n", "number": number})
            self.assertEqual(answer, counts(1))
            self.assertEqual(member.event()["number"], number)
        again = self.enterContext(Peer(self.a, f"/ws/kept/{self.room}/"))
        self.assertEqual([again.event()["number"] for _ in range(3)], [0, 1, 2])

    def test_what_a_slow_member_does_not_get_is_counted_as_dropped(self):
        for server in self.servers():
            with self.subTest(slow_at="a" if server is self.a else "b"):
                room = f"{self.room}-{server is self.a}"
                slow = self.enterContext(RawSocket(server, f"/ws/slow/{room}/", receive_buffer=4096))
                quick = self.join(server, room=room)
                self.is_there(f"room_{room}", 2)
                event = {"type": "n", "filler": "x" * 60_000}
                dropped = 0
                for _ in range(400):
                    answer = post(self.a, f"groups/room_{room}", event)
                    self.assertEqual(
                        (answer["matched"], answer["queued"] + answer["dropped"], answer["unanswered"]), (2, 2, 0), answer
                    )
                    self.assertEqual(quick.event(), event)
                    dropped += answer["dropped"]
                    if dropped > 3:
                        break
                self.assertGreater(dropped, 3)
                self.assertEqual(server.metric("oneport_messages_dropped_total", route="slow"), dropped)
                slow.socket.close()

    def test_who_is_in_a_group_is_counted_over_both_processes(self):
        self.assertEqual(
            asked(self.a, f"groups/{self.group}"),
            {"group": self.group, "members": 0, "users": [], "anonymous": 0, "left_out": 0, "unanswered": 0},
        )
        for server, user in (
            (self.a, "anna"),
            (self.b, "anna"),
            (self.b, "ben"),
            (self.a, None),
            (self.b, None),
            (self.b, "zoë"),
        ):
            self.join(server, user)
        self.is_there(self.group, 6)
        users = [("anna", 2), ("ben", 1), ("zoë", 1)]
        wanted = {
            "group": self.group,
            "members": 6,
            "users": [{"id": f"id-{name}", "name": name, "connections": number} for name, number in users],
            "anonymous": 2,
            "left_out": 0,
            "unanswered": 0,
        }
        for server in self.servers():
            self.assertEqual(asked(server, f"groups/{self.group}"), wanted)

    def test_pages_go_through_the_connections_of_both_processes(self):
        peers = [self.join(server, user) for user in ("anna", "ben", None) for server in (self.a, self.b)]
        ids = sorted(self.id_of(peer) for peer in peers)
        for server in self.servers():
            for limit in (1, 2, 4, 6, 1000):
                with self.subTest(limit=limit):
                    found = pages(server, f"group={self.group}", limit)
                    self.assertEqual(sorted(one["id"] for one in found), ids)
            self.assertEqual(len(pages(server, f"user=id-anna&group={self.group}")), 2)
            self.assertEqual(len(pages(server, f"route=feed&group={self.group}")), 6)
            self.assertEqual(pages(server, f"route=news&group={self.group}"), [])
            page = asked(server, f"connections?group={self.group}&limit=6")
            self.assertEqual((len(page["connections"]), page["cursor"], page["unanswered"]), (6, None, 0))

    def test_all_is_told_of_a_connection_of_the_other_process(self):
        before = datetime.now(UTC) - timedelta(seconds=1)
        for user in ("anna", None):
            peer = self.join(self.b, user, kind="news")
            found = asked(self.a, f"connections/{self.id_of(peer)}")
            opened_at = datetime.fromisoformat(found.pop("opened_at"))
            self.assertTrue(before <= opened_at <= datetime.now(UTC) + timedelta(seconds=1), opened_at)
            self.assertEqual(
                {**found, "groups": sorted(found["groups"])},
                {
                    "id": self.id_of(peer),
                    "node": self.node_b,
                    "route": "news",
                    "path": f"/ws/news/{self.room}/",
                    "user": user and {"id": "id-anna", "name": "anna"},
                    "client": "{}:{}".format(*peer.socket.local_address[:2]),
                    "groups": ["news", self.group],
                    "queue_bytes": 0,
                    "bytes_sent": 0,
                    "dropped": 0,
                },
            )
            self.assertTrue(found["id"].startswith(f"{self.node_b}."))
            self.assertEqual(asked(self.b, f"connections/{found['id']}"), {**found, "opened_at": self.opened_at(found["id"])})

    def opened_at(self, identity):
        return asked(self.a, f"connections/{identity}")["opened_at"]

    def test_a_connection_of_the_other_process_is_sent_to(self):
        peer, other = self.join(self.b), self.join(self.b)
        event = {"type": "chat.message", "message": "you"}
        self.assertEqual(post(self.a, f"connections/{self.id_of(peer)}", event), {"matched": 1, "queued": 1, "dropped": 0})
        self.assertEqual(peer.event(), event)
        post(self.a, f"groups/{self.group}", {"type": "all"})
        self.assertEqual((peer.event(), other.event()), ({"type": "all"}, {"type": "all"}))

    def test_a_connection_of_the_other_process_is_ended(self):
        for query, ended in (
            ("", (4500, "")),
            ("?code=4403&reason=bye%20now%C3%A9", (4403, "bye nowé")),
            ("?code=1000", (1000, "")),
        ):
            with self.subTest(query=query):
                peer = self.join(self.b)
                before = self.b.metric("oneport_websockets_closed_total", cause="disconnected")
                identity = self.id_of(peer)
                self.assertEqual(ok(call(self.a, "DELETE", f"connections/{identity}{query}")), {"matched": 1, "closed": 1})
                self.assertEqual(peer.closed(), ended)
                until(
                    lambda identity=identity: code(call(self.a, "GET", f"connections/{identity}")) == (404, "not_found"),
                    "no such connection",
                )
                after = self.b.metric("oneport_websockets_closed_total", cause="disconnected")
                self.assertEqual(after, before + 1)

    def test_a_connection_that_is_none_is_not_found(self):
        peer = self.join(self.b)
        identity = self.id_of(peer)
        number = int(identity.partition(".")[2])
        for other in (
            f"{self.node_b}.{number + 100_000}",
            f"{self.node_a}.99999999",
            "0123456789abcdef.1",
            "1",
            "x.y",
            f"{self.node_b}.",
        ):
            for method, body in (("GET", None), ("DELETE", None), ("POST", {"type": "a"})):
                with self.subTest(other=other, method=method):
                    self.assertEqual(code(call(self.a, method, f"connections/{other}", body)), (404, "not_found"))

    def test_a_user_is_ended_in_both_processes_and_nobody_else(self):
        for body, ended in (
            (None, (4500, "")),
            ({"code": 4001, "reason": "away"}, (4001, "away")),
            ({"reason": "só"}, (4500, "só")),
        ):
            with self.subTest(body=body):
                name = f"{self.room}-{ended[0]}-{len(ended[1])}"
                gone = [self.join(server, name) for server in (self.a, self.b, self.b)]
                left = [self.join(server, user) for server in self.servers() for user in (f"{name}x", None)]
                answer = ok(call(self.a, "POST", f"users/id-{name}/disconnect", body))
                self.assertEqual(answer, {"matched": 3, "closed": 3, "unanswered": 0})
                self.assertEqual([peer.closed() for peer in gone], [ended] * 3)
                self.is_there(self.group, len(left))
                self.assertEqual(post(self.b, f"groups/{self.group}", {"type": "still"}), counts(len(left)))
                for peer in left:
                    self.assertEqual(peer.event(), {"type": "still"})
                    peer.socket.close()
                self.is_there(self.group, 0)
                nobody = ok(call(self.a, "POST", f"users/id-{name}/disconnect", body))
                self.assertEqual(nobody, {"matched": 0, "closed": 0, "unanswered": 0})

    def test_info_is_of_the_process_that_is_asked(self):
        self.join(self.a)
        for server, name, node in ((self.a, "a", self.node_a), (self.b, "b", self.node_b)):
            found = asked(server, "info", token=SHOP)
            self.assertEqual(
                set(found),
                {"node", "name", "version", "uptime", "connections", "groups", "backend", "format", "connected", "nodes"},
            )
            self.assertEqual((found["node"], found["name"], found["nodes"], found["connected"]), (node, name, 2, True))
            self.assertEqual((found["backend"], found["format"]), ("redis", "oneport"))
            self.assertGreater(found["uptime"], 0)
        self.assertNotEqual(self.node_a, self.node_b)
        self.assertRegex(self.node_a, r"^[0-9a-f]{16}$")

    def test_no_connection_with_a_long_path_of_the_other_process_is_left_out(self):
        rest = "x" * 12_000
        for _ in range(100):
            self.enterContext(Peer(self.b, f"/ws/long/{self.room}{rest}"))
        for server in self.servers():
            found = pages(server, "route=long")
            self.assertEqual((len(found), len({one["id"] for one in found})), (100, 100))
            self.assertEqual(asked(server, "connections?route=long&limit=1000")["unanswered"], 0)


class Refused(ApiCase):
    def test_a_batch_with_one_bad_call_carries_out_the_others_in_order(self):
        here, there = self.join(self.a), self.join(self.b)
        self.is_there(self.group, 2)
        events = [
            {"group": self.group, "event": {"type": "one"}},
            {"group": "a b", "event": {"type": "two"}},
            {"connection": self.id_of(there), "event": {"type": "three"}},
            {"connection": f"{self.node_b}.99999999", "event": {"type": "four"}},
            {"group": self.group, "event": {"type": "five"}},
        ]
        results = post(self.a, "batch", {"events": events})["results"]
        self.assertEqual([result.get("matched") for result in results], [2, None, 1, None, 2])
        self.assertEqual([results[at]["error"]["code"] for at in (1, 3)], ["invalid_group", "not_found"])
        self.assertEqual(results[0], counts(2))
        self.assertEqual([there.event()["type"] for _ in range(3)], ["one", "three", "five"])
        self.assertEqual([here.event()["type"] for _ in range(2)], ["one", "five"])

    def test_each_event_of_a_batch_may_be_bad_in_its_own_way(self):
        good = {"group": self.group, "event": {"type": "good"}}
        for bad, wanted in (
            ({"group": self.group, "event": {}}, "invalid_event"),
            ({"group": self.group, "event": {"type": 3}}, "invalid_event"),
            ({"group": self.group, "event": {"type": "websocket.send", "bytes": "not base64!"}}, "invalid_event"),
            ({"group": "", "event": {"type": "a"}}, "invalid_group"),
            ({"group": self.group, "event": {"type": "a", "filler": "x" * 70_000}}, "too_large"),
            ({"event": {"type": "a"}}, "invalid_request"),
            ({"group": self.group, "connection": f"{self.node_b}.1", "event": {"type": "a"}}, "invalid_request"),
            ({"connection": "nonsense", "event": {"type": "a"}}, "not_found"),
        ):
            with self.subTest(bad=str(bad)[:100]):
                results = post(self.a, "batch", {"events": [good, bad, good]})["results"]
                self.assertEqual(results[0], counts(0))
                self.assertEqual(results[2], counts(0))
                self.assertEqual(results[1].get("error", {}).get("code"), wanted, results[1])

    def test_what_a_token_is_good_for_holds_in_a_batch_too(self):
        peer = self.join(self.b)
        for group, is_good in (
            (self.group, True),
            ("newx", False),
            ("new?", False),
            ("the.end", True),
            (".end", True),
            ("kept_1", False),
            ("end", False),
        ):
            event = {"group": group, "event": {"type": "a"}}
            with self.subTest(group=group):
                (result,) = post(self.a, "batch", {"events": [event]}, token=SHOP)["results"]
                if re.fullmatch(r"[A-Za-z0-9._-]+", group):
                    self.assertEqual("matched" in result, is_good, result)
                answer = call(self.a, "POST", f"groups/{group.replace('?', '%3F')}", {"type": "a"}, token=SHOP)
                if re.fullmatch(r"[A-Za-z0-9._-]+", group):
                    self.assertEqual(answer[0], 200 if is_good else 403, answer)
                else:
                    self.assertEqual(code(answer), (400, "invalid_group"))
        event = {"connection": self.id_of(peer), "event": {"type": "secret"}}
        (result,) = post(self.a, "batch", {"events": [event]}, token=SHOP)["results"]
        self.assertEqual(result["error"]["code"], "forbidden")

    def test_a_batch_of_more_than_may_be_is_refused_whole(self):
        member = self.join(self.b)
        events = [{"group": self.group, "event": {"type": str(at)}} for at in range(6)]
        self.assertEqual(code(call(self.a, "POST", "batch", {"events": events})), (413, "too_large"))
        self.assertEqual(len(post(self.a, "batch", {"events": events[:5]})["results"]), 5)
        self.assertEqual([member.event()["type"] for _ in range(5)], list("01234"))

    def test_bad_names_are_refused(self):
        for name in ("a%20b", "a%2Fb", "x" * 100, "%C3%A9", "a%00b", "a:b", "a%0Ab", "a*"):
            with self.subTest(name=name[:20]):
                status, _, answer = self.any_answer("POST", f"groups/{name}", '{"type": "a"}')
                self.assertIn(status, (400, 404))
                if answer is not None:
                    self.assertEqual(answer["error"]["code"], "not_found" if status == 404 else "invalid_group")
        self.assertEqual(post(self.a, f"groups/{'x' * 99}", {"type": "a"}), counts(0))

    def any_answer(self, method, path, body):
        """A path that no route may have is answered before the API sees it."""
        status, headers, content = self.a.request(f"/api/{path}", method, {"authorization": f"Bearer {ADMIN}"}, body)
        return status, headers, json.loads(content) if headers["content-type"] == "application/json" else None

    def test_an_event_may_be_as_long_as_max_event_and_no_longer(self):
        member = self.join(self.b)
        frame = '{"type":"a","filler":"%s"}'
        for size, wanted in (
            (64 * 1024, 200),
            (64 * 1024 + 1, 413),
            (1024 * 1024, 413),
            (1024 * 1024 + 1, 413),
            (3 * 1024 * 1024, 413),
        ):
            with self.subTest(size=size):
                body = frame % ("x" * (size - len(frame % "")))
                self.assertEqual(len(body), size)
                answer = call(self.a, "POST", f"groups/{self.group}", body)
                self.assertEqual(answer[0], wanted, answer[2])
                if wanted == 200:
                    self.assertEqual(member.receive(), body)
                else:
                    self.assertEqual(answer[2]["error"]["code"], "too_large")

    def test_what_is_no_event_is_refused(self):
        for body, wanted in (
            ("", "invalid_json"),
            ("{", "invalid_json"),
            (b"\xff\xfe", "invalid_json"),
            (b'{"type": "\xff"}', "invalid_json"),
            ('{"type": "a"} {}', "invalid_json"),
            ('"a"', "invalid_event"),
            ("null", "invalid_event"),
            ("3", "invalid_event"),
            ("{}", "invalid_event"),
            ('{"type": ""}', "invalid_event"),
            ('{"type": null}', "invalid_event"),
            ('{"type": "websocket.send"}', "invalid_event"),
            ('{"type": "websocket.send", "bytes": "a"}', "invalid_event"),
            ("[" * 100_000, "invalid_json"),
            ('{"type": "a", "b": ' + "[" * 5_000 + "]" * 4_999 + "}", "invalid_json"),
            ('{"type": "a", "b": NaN}', "invalid_json"),
            ('{"type": "a", "b": 01}', "invalid_json"),
            ('{"type": "a", "type": "b"}', "invalid_event"),
            ('{"type": "a", "typ\\u0065": "b"}', "invalid_event"),
            ('{"type": "\\ud800"}', "invalid_event"),
            ('{"type": "websocket.send", "text": "\\ud800"}', "invalid_event"),
        ):
            with self.subTest(body=body[:60]):
                self.assertEqual(code(call(self.a, "POST", f"groups/{self.group}", body)), (400, wanted))

    def test_an_event_is_shown_byte_for_byte(self):
        here, there = self.join(self.a), self.join(self.b)
        self.is_there(self.group, 2)
        id_there = self.id_of(there)
        for event in (
            '{"type":"a","n":[1e2,1E+2,1.0,-0,0.10,12345678901234567890123,1e400]}',
            '{ "type" : "a" ,\r\n\t"x" : [ ] }',
            '{"x":"\\ud800\\u00e9\\/ \u2028","\\udc00":1,"typ\\u0065":"a"}',
            '{"type":"a","x":1,"x":2,"":null}',
            '{"type":"a","x":' + "[" * 5_000 + "]" * 5_000 + "}",
            '{"type":"a","x":' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
        ):
            with self.subTest(event=event[:60]):
                self.assertEqual(post(self.a, f"groups/{self.group}", f"\n {event}\t".encode()), counts(2))
                batch = f'{{"events": [{{"group": "{self.group}", "event": {event} }}, {{"connection": "{id_there}", "event":{event}}}]}}'
                results = post(self.b, "batch", batch.encode())["results"]
                self.assertEqual([result.get("matched") for result in results], [2, 1])
                self.assertEqual([here.receive() for _ in range(2)], [event] * 2)
                self.assertEqual([there.receive() for _ in range(3)], [event] * 3)

    def test_another_method_is_told_which_ones_there_are(self):
        for path, allowed in (
            ("groups/a", {"GET", "POST"}),
            ("connections", {"GET"}),
            (f"connections/{self.node_a}.1", {"GET", "POST", "DELETE"}),
            ("users/7/disconnect", {"POST"}),
            ("batch", {"POST"}),
            ("info", {"GET"}),
            ("openapi.json", {"GET"}),
        ):
            for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - allowed:
                with self.subTest(path=path, method=method):
                    answer = call(self.a, method, path, "{}" if method != "GET" else None)
                    self.assertEqual(code(answer), (405, "method_not_allowed"))
                    self.assertEqual(set(re.split(r", *", answer[1]["allow"])), allowed)

    def test_who_has_no_good_token_is_told_nothing(self):
        for token in (None, "", "x", ADMIN[:-1], f"{ADMIN}x", ADMIN.upper()):
            for method, path in (
                ("POST", f"groups/{self.group}"),
                ("GET", "info"),
                ("GET", "connections"),
                ("GET", "nonsense"),
                ("POST", "batch"),
            ):
                with self.subTest(token=token, path=path):
                    answer = call(self.a, method, path, token=token)
                    self.assertEqual(code(answer), (401, "unauthorized"))
                    self.assertTrue(answer[1]["www-authenticate"].startswith("Bearer"))
        for scheme in ("Basic", "Token"):
            status, _, _ = self.a.request("/api/info", headers={"authorization": f"{scheme} {ADMIN}"})
            self.assertEqual(status, 401)
        status, _, _ = self.a.request("/api/info", headers={"authorization": f"bearer {ADMIN}"})
        self.assertEqual(status, 200)


class Once(ApiCase):
    """`Idempotency-Key`."""

    idempotency_expiry = "2s"

    def test_a_key_used_at_once_by_many_is_carried_out_once(self):
        members = [self.join(server) for server in self.servers()]
        self.is_there(self.group, 2)

        def say(_):
            return call(self.a, "POST", f"groups/{self.group}", {"type": "once"}, idempotency_key=self.room)

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(say, range(30)))
        self.assertEqual([ok(answer) for answer in answers], [counts(2)] * 30)
        replayed = [answer[1]["idempotency-replayed"] for answer in answers]
        self.assertEqual((replayed.count(None), replayed.count("true")), (1, 29))
        post(self.a, f"groups/{self.group}", {"type": "end"})
        for member in members:
            self.assertEqual([member.event()["type"] for _ in range(2)], ["once", "end"])

    def test_a_batch_and_a_user_are_ended_once_too(self):
        member = self.join(self.b, self.room)
        batch = {"events": [{"group": self.group, "event": {"type": "once"}}]}
        for _ in range(3):
            self.assertEqual(post(self.a, "batch", batch, idempotency_key=self.room), {"results": [counts(1)]})
        ended = [post(self.a, f"users/id-{self.room}/disconnect", {}, idempotency_key=f"{self.room}-2") for _ in range(3)]
        self.assertEqual(ended, [{"matched": 1, "closed": 1, "unanswered": 0}] * 3)
        self.assertEqual(member.event(), {"type": "once"})
        self.assertEqual(member.closed()[0], 4500)

    def test_the_same_key_with_another_request_is_a_conflict(self):
        key = self.room
        self.assertEqual(call(self.a, "POST", f"groups/{self.group}", {"type": "a"}, idempotency_key=key)[0], 200)
        for path, body in (
            (f"groups/{self.group}", {"type": "b"}),
            (f"groups/{self.group}x", {"type": "a"}),
            ("batch", {"events": []}),
        ):
            with self.subTest(path=path, body=body):
                answer = call(self.a, "POST", path, body, idempotency_key=key)
                self.assertEqual(code(answer), (409, "idempotency_conflict"))

    def test_a_reload_forgets_no_key(self):
        def say(key):
            answer = call(self.a, "POST", f"groups/{self.group}", {"type": "once"}, idempotency_key=key)
            self.assertEqual(answer[0], 200)
            return answer[1]["idempotency-replayed"]

        def kept(key):  # the key may be over by then where the machine is slow
            began, first = time.monotonic(), say(key)
            before = self.a.reloads()
            self.a.signal(signal.SIGHUP)
            until(lambda: self.a.reloads() > before, "a reload")
            again = say(key)
            return time.monotonic() - began < 2 and (first, again)

        found = next(filter(None, (kept(f"{self.room}-{number}") for number in range(10))))
        self.assertEqual(found, (None, "true"))

    def test_the_id_of_a_user_may_have_slashes(self):
        answer = post(self.a, "users/https%3A%2F%2Fid.example%2F7/disconnect", {})
        self.assertEqual(answer["closed"], 0)

    def test_a_key_is_forgotten_after_its_time(self):
        member = self.join(self.b)

        def say():
            return call(self.a, "POST", f"groups/{self.group}", {"type": "again"}, idempotency_key=self.room)

        began = time.monotonic()
        self.assertIsNone(say()[1]["idempotency-replayed"])
        until(lambda: say()[1]["idempotency-replayed"] is None, "a key that is forgotten")
        self.assertGreaterEqual(time.monotonic() - began, 1.9)
        self.assertEqual([member.event()["type"] for _ in range(2)], ["again"] * 2)

    def test_keys_that_are_none_are_refused(self):
        for key in ("", "x" * 256, "é"):
            with self.subTest(key=key[:5]):
                answer = call(self.a, "POST", f"groups/{self.group}", {"type": "a"}, idempotency_key=key.encode())
                self.assertEqual(code(answer), (400, "invalid_request"))
        self.assertEqual(call(self.a, "POST", f"groups/{self.group}", {"type": "a"}, idempotency_key="x" * 255)[0], 200)

    def test_a_caller_who_gave_up_and_tries_again_does_nothing_twice(self):
        here = self.join(self.a)
        self.join(self.b)
        self.is_there(self.group, 2)
        fields = f"Host: localhost\r\nAuthorization: Bearer {ADMIN}\r\nIdempotency-Key: {self.room}\r\n"
        body = '{"type": "once"}'
        request = f"POST /api/groups/{self.group} HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}"
        self.b.freeze()  # the answer takes a second
        try:
            with socket.create_connection(("127.0.0.1", self.a.port), DEADLINE) as impatient:
                impatient.sendall(request.encode())
                self.assertEqual(here.event(), {"type": "once"})
            answer = call(self.a, "POST", f"groups/{self.group}", body, idempotency_key=self.room)
            self.assertEqual(answer[0], 200, answer[2])
        finally:
            self.b.thaw()
        post(self.a, f"groups/{self.group}", {"type": "end"})
        self.assertEqual(here.event(), {"type": "end"})


class Silent(ApiCase):
    """A process that does not answer, or died."""

    layer = {"lease": "60s"}
    max_batch = 100

    def stopped(self):
        self.b.freeze()
        self.addCleanup(self.b.thaw)

    def timed(self, *arguments, silence=SILENCE, **options):
        began = time.monotonic()
        answer = call(self.a, *arguments, **options)
        seconds = time.monotonic() - began
        self.assertLess(seconds, silence + MOMENT)
        return answer

    def test_the_answer_says_how_many_processes_were_silent(self):
        here, there = self.join(self.a, "anna"), self.join(self.b, "anna")
        self.is_there(self.group, 2)
        self.stopped()
        answer = ok(self.timed("POST", f"groups/{self.group}", {"type": "late"}))
        self.assertEqual((answer["queued"], answer["dropped"], answer["unanswered"]), (1, 0, 1))
        self.assertEqual(here.event(), {"type": "late"})
        found = ok(self.timed("GET", f"groups/{self.group}"))
        self.assertEqual((found["members"], found["unanswered"]), (1, 1))
        found = ok(self.timed("GET", f"connections?group={self.group}"))
        self.assertEqual(([one["node"] for one in found["connections"]], found["unanswered"]), ([self.node_a], 1))
        found = ok(self.timed("POST", "users/id-nobody/disconnect"))
        self.assertEqual(found, {"matched": 0, "closed": 0, "unanswered": 1})
        results = ok(self.timed("POST", "batch", {"events": [{"group": self.group, "event": {"type": "batch"}}]}))["results"]
        self.assertEqual((results[0]["queued"], results[0]["unanswered"]), (1, 1))
        self.b.thaw()
        self.assertEqual([there.event()["type"] for _ in range(2)], ["late", "batch"])
        self.assertEqual([here.event()["type"] for _ in range(1)], ["batch"])
        until(lambda: asked(self.a, f"groups/{self.group}")["unanswered"] == 0, "all processes to answer")
        self.assertEqual(post(self.a, f"groups/{self.group}", {"type": "on"}), counts(2))

    def test_a_connection_of_a_silent_process_is_unavailable(self):
        peer = self.join(self.b)
        identity = self.id_of(peer)
        self.stopped()
        for method, body in (("GET", None), ("POST", {"type": "a"}), ("DELETE", None)):
            with self.subTest(method=method):
                answer = self.timed(method, f"connections/{identity}", body)
                self.assertEqual(code(answer), (503, "unavailable"))
                self.assertRegex(answer[1]["retry-after"], r"^\d+$")
        events = [{"group": self.group, "event": {"type": "a"}}, {"connection": identity, "event": {"type": "b"}}]
        results = ok(self.timed("POST", "batch", {"events": events}))["results"]
        self.assertEqual((results[0]["unanswered"], results[1]["error"]["code"]), (1, "unavailable"))

    def test_a_long_batch_is_answered_in_time_and_in_order_while_a_process_is_silent(self):
        one, both, there = self.join(self.a), self.join(self.a, kind="news"), self.join(self.b, kind="news")
        self.is_there(self.group, 3)
        self.is_there("news", 2)
        self.stopped()
        groups = ["news" if number % 3 == 0 else self.group for number in range(30)]
        events = [{"group": group, "event": {"type": "n", "number": number}} for number, group in enumerate(groups)]
        answer = ok(self.timed("POST", "batch", {"events": events}, silence=BATCH_SILENCE))
        found = [(result["queued"], result["dropped"]) for result in answer["results"]]
        self.assertEqual(found, [(1 if group == "news" else 2, 0) for group in groups])
        self.assertEqual({result["unanswered"] for result in answer["results"]}, {1})
        self.assertEqual([both.event()["number"] for _ in range(30)], list(range(30)))
        self.assertEqual([one.event()["number"] for _ in range(20)], [number for number in range(30) if number % 3])
        self.b.thaw()
        self.assertEqual([there.event()["number"] for _ in range(30)], list(range(30)))

    def test_many_calls_at_once_are_answered_in_time_while_a_process_is_silent(self):
        member = self.join(self.a)
        self.join(self.b)
        self.is_there(self.group, 2)
        self.stopped()
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda at: ok(self.timed("POST", f"groups/{self.group}", {"type": str(at)})), range(60)))
        self.assertEqual({(answer["queued"], answer["unanswered"]) for answer in answers}, {(1, 1)})
        self.assertEqual({member.event()["type"] for _ in range(60)}, {str(at) for at in range(60)})

    def test_a_process_that_died_is_not_waited_for(self):
        member = self.join(self.a)
        with self.another("c") as dead:
            connected(dead)
            peer = Peer(dead, f"/ws/feed/{self.room}/")
            peer.server = dead
            until(lambda: asked(self.a, f"groups/{self.group}")["members"] == 2, "two members")
            identity = self.id_of(peer)
            dead.signal(signal.SIGKILL)
            dead.wait(-signal.SIGKILL)
            until(lambda: asked(self.a, "info")["nodes"] == 2, "two processes")
            self.assertEqual(post(self.a, f"groups/{self.group}", {"type": "a"}), counts(1))
            self.assertEqual(member.event(), {"type": "a"})
            self.assertEqual(code(call(self.a, "GET", f"connections/{identity}")), (404, "not_found"))
            self.assertEqual(asked(self.a, f"groups/{self.group}")["unanswered"], 0)


class RedisAway(ApiCase):
    layer = {"queue": "64 KiB"}

    def tearDown(self):
        self.doCleanups()
        if not self.redis.is_running:
            self.redis.start()
        self.redis.thaw()
        for server in self.servers():
            connected(server)

    def test_members_of_the_process_itself_are_reached_and_counted(self):
        for way in ("killed", "frozen"):
            with self.subTest(way):
                room = f"{self.room}-{way}"
                here, there = self.join(self.a, room=room), self.join(self.b, room=room)
                self.is_there(f"room_{room}", 2)
                if way == "killed":
                    self.redis.kill()
                else:
                    self.redis.freeze()
                began = time.monotonic()
                answer = post(self.a, f"groups/room_{room}", {"type": "alone"})
                self.assertLess(time.monotonic() - began, SILENCE + MOMENT)
                self.assertEqual((answer["queued"], answer["dropped"]), (1, 0))
                self.assertEqual(here.event(), {"type": "alone"})
                disconnected(self.a)
                disconnected(self.b)
                before = self.a.metric("oneport_layer_unpublished_total")
                answer = post(self.a, f"groups/room_{room}", {"type": "alone again"})
                self.assertEqual(answer, counts(1, unanswered=1))
                self.assertEqual(here.event(), {"type": "alone again"})
                self.assertEqual(self.a.metric("oneport_layer_unpublished_total"), before + 1)
                info = asked(self.a, "info")
                self.assertEqual((info["connected"], info["nodes"]), (False, 1))
                self.assertEqual(asked(self.a, f"groups/room_{room}")["members"], 1)
                self.assertEqual(len(asked(self.a, f"connections?group=room_{room}")["connections"]), 1)
                if way == "killed":
                    self.redis.start()
                else:
                    self.redis.thaw()
                for server in self.servers():
                    connected(server)
                self.is_there(f"room_{room}", 2)
                self.assertEqual(post(self.a, f"groups/room_{room}", {"type": "together"}), counts(2))
                there.next("together")
                here.next("together")

    def test_a_connection_of_the_other_process_is_unavailable_while_redis_is_away(self):
        peer = self.join(self.b)
        identity = self.id_of(peer)
        self.redis.kill()
        disconnected(self.a)
        for method, body in (("GET", None), ("POST", {"type": "a"}), ("DELETE", None)):
            with self.subTest(method=method):
                answer = call(self.a, method, f"connections/{identity}", body)
                self.assertEqual(code(answer), (503, "unavailable"))
                self.assertRegex(answer[1]["retry-after"] or "", r"^\d+$")
        self.assertEqual(asked(self.b, f"connections/{identity}")["id"], identity)

    def test_a_group_that_has_no_room_in_the_queue_is_unavailable(self):
        here = self.join(self.a, kind="kept")
        there = self.join(self.b, kind="kept")
        self.is_there(f"kept_{self.room}", 2)
        self.redis.kill()
        disconnected(self.a)
        taken = 0
        while taken < 100:
            answer = call(self.a, "POST", f"groups/kept_{self.room}", {"type": "n", "number": taken, "filler": "x" * 4000})
            if answer[0] != 200:
                break
            taken += 1
        self.assertEqual(code(answer), (503, "unavailable"))
        self.assertRegex(answer[1]["retry-after"], r"^\d+$")
        self.assertTrue(1 <= taken <= 16, taken)
        self.redis.start()
        for server in self.servers():
            connected(server)
        for member in (here, there):
            self.assertEqual([member.event()["number"] for _ in range(taken)], list(range(taken)))


class FrozenRedis(ApiCase):
    """Redis is silent, with a long timeout."""

    layer = {"timeout": "20s"}

    def test_the_answer_does_not_wait_for_redis(self):
        here = self.join(self.a)
        self.join(self.b)
        self.is_there(self.group, 2)
        self.redis.freeze()
        self.addCleanup(self.redis.thaw)
        for method, path, body in (
            ("POST", f"groups/{self.group}", {"type": "a"}),
            ("GET", f"groups/{self.group}", None),
            ("GET", "connections", None),
            ("GET", "info", None),
        ):
            with self.subTest(method=method, path=path):
                began = time.monotonic()
                answer = call(self.a, method, path, body, deadline=2 * DEADLINE)
                self.assertEqual(answer[0], 200)
                self.assertLess(time.monotonic() - began, SILENCE + MOMENT)
        self.assertEqual(here.event(), {"type": "a"})


class Pubsub(ApiCase):
    """Django's formats: all are reached, and those of the process itself are counted."""

    layer = {"format": "channels_redis.pubsub"}

    def test_the_members_of_both_processes_are_reached(self):
        members = [self.join(server) for server in (self.a, self.b, self.b)]
        self.is_there(self.group, 3)
        event = {"type": "chat.message", "message": "hi"}
        for server, here in ((self.a, 1), (self.b, 2)):
            self.assertEqual(post(server, f"groups/{self.group}", event), counts(here))
            for member in members:
                self.assertEqual(member.event(), event)

    def test_connections_of_the_other_process_are_shown_sent_to_and_ended(self):
        peer = self.join(self.b, "anna")
        identity = self.id_of(peer)
        self.assertEqual(asked(self.a, f"connections/{identity}")["node"], self.node_b)
        self.assertEqual(post(self.a, f"connections/{identity}", {"type": "you"})["queued"], 1)
        self.assertEqual(peer.event(), {"type": "you"})
        self.assertEqual(post(self.a, "users/id-anna/disconnect", {}), {"matched": 1, "closed": 1, "unanswered": 0})
        self.assertEqual(peer.closed(), (4500, ""))


class Core(Pubsub):
    layer = {"format": "channels_redis.core"}


class Document(ApiCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.document = asked(cls.a, "openapi.json", token=None)

    def test_it_names_every_call_of_the_documentation(self):
        text = (ROOT / "docs/API.md").read_text(encoding="utf-8")
        calls = re.findall(r"^\| `(GET|POST|DELETE|PUT) ([^ `?]+)", text, re.MULTILINE)
        self.assertGreaterEqual(len(calls), 9)
        for method, path in calls:
            with self.subTest(method=method, path=path):
                self.assertIn(method.lower(), self.document["paths"].get(f"/{path}", {}))
        documented = {(method.lower(), f"/{path}") for method, path in calls} | {("get", "/openapi.json")}
        methods = "get", "post", "delete", "put", "patch"
        named = {(method, path) for path, item in self.document["paths"].items() for method in item if method in methods}
        self.assertEqual(named, documented)

    def test_it_names_every_error_code_of_the_documentation(self):
        text = (ROOT / "docs/API.md").read_text(encoding="utf-8")
        codes = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| \d{3} \|([^|]*)\|", text, re.MULTILINE))))
        self.assertLessEqual(codes, set(self.schema("Error")["properties"]["error"]["properties"]["code"]["enum"]))

    def test_every_reference_leads_somewhere(self):
        def walk(node):
            if isinstance(node, dict):
                if "$ref" in node:
                    self.assertIsInstance(self.resolve(node), dict)
                for child in node.values():
                    walk(child)
            elif isinstance(node, list):
                for child in node:
                    walk(child)

        walk(self.document)
        self.assertTrue(self.document["info"]["version"])
        identities = [
            one["operationId"] for item in self.document["paths"].values() for one in item.values() if isinstance(one, dict)
        ]
        self.assertEqual(len(identities), len(set(identities)))

    def resolve(self, node):
        while "$ref" in node:
            found = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node

    def schema(self, name):
        return self.document["components"]["schemas"][name]

    def test_real_answers_are_what_it_says(self):
        peer, other = self.join(self.b, "anna"), self.join(self.a)
        identity = self.id_of(peer)
        event = {"type": "a"}
        for method, path, named, body in (
            ("post", f"groups/{self.group}", "/groups/{group}", event),
            ("get", f"groups/{self.group}", "/groups/{group}", None),
            ("get", "connections", "/connections", None),
            ("get", "connections?limit=1", "/connections", None),
            ("get", f"connections/{identity}", "/connections/{id}", None),
            ("get", f"connections/{self.id_of(other)}", "/connections/{id}", None),
            ("post", f"connections/{identity}", "/connections/{id}", event),
            ("post", "batch", "/batch", {"events": [{"group": self.group, "event": event}, {"group": "", "event": event}]}),
            ("get", "info", "/info", None),
            ("delete", f"connections/{identity}?code=4000&reason=x", "/connections/{id}", None),
            ("post", "users/id-anna/disconnect", "/users/{id}/disconnect", None),
            ("get", "connections?nonsense=1", "/connections", None),
            ("get", "connections/1.1", "/connections/{id}", None),
        ):
            with self.subTest(method=method, path=path):
                status, _, answer = call(self.a, method.upper(), path, body)
                responses = self.document["paths"][named][method]["responses"]
                response = self.resolve(responses.get(str(status)) or responses["default"])
                self.check(answer, response["content"]["application/json"]["schema"])
                if status == 200:
                    self.assertIn("200", responses)

    def test_bodies_that_it_allows_are_taken(self):
        for named, path in (
            ("/groups/{group}", f"groups/{self.group}"),
            ("/batch", "batch"),
            ("/users/{id}/disconnect", "users/1/disconnect"),
        ):
            content = self.document["paths"][named]["post"]["requestBody"]["content"]["application/json"]
            examples = [content["example"]] if "example" in content else []
            examples += [example["value"] for example in content.get("examples", {}).values()]
            examples += self.resolve(content["schema"]).get("examples", [])
            for example in examples:
                with self.subTest(path=path, example=example):
                    self.assertEqual(call(self.a, "POST", path, example)[0], 200)

    def check(self, value, schema):
        """Checks a value against as much of JSON Schema as the document uses."""
        schema = self.resolve(schema)
        if "oneOf" in schema:
            fits = [one for one in schema["oneOf"] if self.fits(value, one)]
            self.assertEqual(len(fits), 1, f"expected one of the schemas for {value}")
            return
        if "enum" in schema:
            self.assertIn(value, schema["enum"])
        kinds = {
            "object": dict,
            "array": list,
            "string": str,
            "integer": int,
            "number": (int, float),
            "boolean": bool,
            "null": type(None),
        }
        wanted = schema.get("type")
        if wanted:
            names = [wanted] if isinstance(wanted, str) else wanted
            self.assertTrue(any(isinstance(value, kinds[name]) for name in names), f"expected {wanted}, found {value!r}")
        if isinstance(value, dict):
            self.assertLessEqual(set(schema.get("required", ())), set(value))
            properties = schema.get("properties")
            if properties is not None and not schema.get("additionalProperties"):
                self.assertLessEqual(set(value), set(properties), "expected no more than the schema names")
            for name, child in (properties or {}).items():
                if name in value:
                    self.check(value[name], child)
        if isinstance(value, list):
            for child in value:
                self.check(child, schema["items"])
        if schema.get("format") == "date-time":
            datetime.fromisoformat(value)

    def fits(self, value, schema):
        try:
            self.check(value, schema)
            return True
        except AssertionError:
            return False

    def test_it_is_the_same_with_a_token_and_at_the_other_process(self):
        self.assertEqual(asked(self.a, "openapi.json"), self.document)
        self.assertEqual(asked(self.b, "openapi.json", token="nonsense"), self.document)
        status, headers, body = self.a.request("/api/openapi.json", "HEAD")
        self.assertEqual((status, headers["content-type"], body), (200, "application/json", b""))


class Command(unittest.TestCase):
    """`oneport publish` against a running server."""

    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.server = cls.enterClassContext(
            Server(cls.config(f"127.0.0.1:{cls.port}"), bind=None, environment={"PUBLISH_TOKEN": ADMIN})
        )

    @staticmethod
    def config(bind, *, tokens=None, path="/api/{*call}", more="", route=""):
        """`more`: of `[server]` and sections behind it; `route`: further keys of the API's route."""
        tokens = tokens or '{ name = "first", token = "${PUBLISH_TOKEN}", groups = ["*"] }'
        return f"""
[server]
bind = ["{bind}"]
{more}

[[http.route]]
path = "{path}"
view = "publish"
{route}
options = {{ tokens = [{tokens}, {{ name = "shop", token = "{SHOP}", groups = ["news"] }}] }}

[websocket]
middleware = []

[[websocket.route]]
path = "/ws/{{group}}/"
consumer = "feed"
options = {{ groups = ["{{group}}"] }}
"""

    def setUp(self):
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        self.group = f"g{next(_ROOMS)}"

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/api/"

    def member(self, group=None):
        peer = self.enterContext(Peer(self.server, f"/ws/{group or self.group}/"))
        until(lambda: asked(self.server, f"groups/{group or self.group}")["members"] == 1, "a member")
        return peer

    def run_it(self, *arguments, standard_input=None, environment=None, config=True):
        command = [binary(), "publish"]
        if config:
            command += ["--config", self.server.config if config is True else config]
        variables = {"PATH": "/usr/bin:/bin", "PUBLISH_TOKEN": ADMIN, **(environment or {})}
        variables = {name: value for name, value in variables.items() if value is not None}
        if isinstance(standard_input, str):
            standard_input = standard_input.encode()
        return subprocess.run(
            [*command, *arguments],
            input=standard_input,
            stdin=subprocess.DEVNULL if standard_input is None else None,
            capture_output=True,
            timeout=2 * DEADLINE,
            cwd=self.directory,
            env=variables,
        )

    def says(self, done, code, *parts):
        """Checks the exit code and standard error, which never has a token."""
        self.assertEqual(done.returncode, code, (done.stdout, done.stderr))
        said = done.stderr.decode()
        for part in parts:
            self.assertIn(part, said)
        for token in (ADMIN, SHOP, "some-other-token"):
            self.assertNotIn(token, said + done.stdout.decode())

    def taken(self, done, number=1):
        self.says(done, 0)
        self.assertEqual(done.stderr, b"")
        self.assertEqual(json.loads(done.stdout), counts(number))

    def test_it_takes_all_from_the_configuration(self):
        member = self.member()
        event = {"type": "chat.message", "message": "hällo"}
        self.taken(self.run_it(self.group, json.dumps(event, ensure_ascii=False)))
        self.assertEqual(member.event(), event)
        self.taken(self.run_it(f"{self.group}-nobody", '{"type": "a"}'), 0)

    def test_it_reads_the_standard_input(self):
        member = self.member()
        for said in ('{"type": "a"}', '{\n  "type": "a"\n}\n', ' \n{"type":"a"}\r\n'):
            with self.subTest(said=said):
                self.taken(self.run_it(self.group, "-", standard_input=said))
                self.assertEqual(member.event(), {"type": "a"})
        for said, part in (
            ("", 'not JSON: ""'),
            ("junk", 'not JSON: "junk"'),
            (b"\xff\xfe", "standard input"),
            ('{"type": "a"}{', "not JSON: "),
        ):
            with self.subTest(said=said):
                self.says(self.run_it(self.group, "-", standard_input=said), 64, part)
        self.says(self.run_it(self.group, "-", standard_input=None), 64)

    def test_it_needs_no_configuration_with_url_and_token(self):
        member = self.member()
        for url in (self.url, self.url.rstrip("/"), self.url.replace("127.0.0.1", "localhost")):
            with self.subTest(url=url):
                done = self.run_it(
                    "--url", url, "--token", ADMIN, self.group, '{"type": "a"}', config=False, environment={"PUBLISH_TOKEN": None}
                )
                self.taken(done)
                self.assertEqual(member.event(), {"type": "a"})

    def test_it_takes_url_and_token_from_the_environment(self):
        member = self.member()
        variables = {"ONEPORT_PUBLISH_URL": self.url, "ONEPORT_PUBLISH_TOKEN": ADMIN, "PUBLISH_TOKEN": None}
        self.taken(self.run_it(self.group, '{"type": "a"}', config=False, environment=variables))
        self.assertEqual(member.event(), {"type": "a"})
        # Arguments override the environment.
        variables = {"ONEPORT_PUBLISH_URL": "http://127.0.0.1:1/", "ONEPORT_PUBLISH_TOKEN": "some-other-token"}
        self.taken(self.run_it("--url", self.url, "--token", ADMIN, self.group, '{"type": "b"}', environment=variables))
        self.assertEqual(member.event(), {"type": "b"})
        # And that before the configuration.
        self.says(self.run_it(self.group, '{"type": "c"}', environment={"ONEPORT_PUBLISH_TOKEN": "some-other-token"}), 1, "401")
        self.says(
            self.run_it(self.group, '{"type": "c"}', environment={"ONEPORT_PUBLISH_URL": "http://127.0.0.1:1/"}),
            1,
            "http://127.0.0.1:1/",
        )

    def test_a_token_alone_or_a_url_alone_leaves_the_rest_to_the_configuration(self):
        self.taken(self.run_it("--token", SHOP, "news", '{"type": "a"}'), 0)
        self.says(self.run_it("--token", SHOP, self.group, '{"type": "a"}'), 1, "403", "forbidden")
        self.taken(self.run_it("--url", self.url, self.group, '{"type": "a"}'), 0)
        done = self.run_it("--url", self.url, self.group, '{"type": "a"}', config=False)
        self.says(done, 64, "ONEPORT_PUBLISH_TOKEN")

    def test_what_the_server_refuses_is_1_and_said(self):
        self.says(self.run_it("--token", "some-other-token", self.group, '{"type": "a"}'), 1, "401", "unauthorized")
        self.says(self.run_it("--url", self.url.replace("/api/", "/nothing/"), self.group, '{"type": "a"}'), 1, "404")
        large = json.dumps({"type": "a", "filler": "x" * 70_000})
        self.says(self.run_it(self.group, large), 1, "413", "too_large")
        self.says(self.run_it(self.group, "-", standard_input=large), 1, "413", "too_large")

    def test_a_server_that_is_away_is_1_and_said(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = "http://127.0.0.1:{}/api/".format(nobody.getsockname()[1])
            self.says(self.run_it("--url", url, self.group, '{"type": "a"}'), 1, "oneport publish", url)

    def test_a_server_that_answers_nonsense_is_1(self):
        for said in (
            b"junk\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
            b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
        ):
            with self.subTest(said=said), socket.create_server(("127.0.0.1", 0)) as listener:
                listener.settimeout(DEADLINE)

                def serve(said=said, listener=listener):
                    peer, _ = listener.accept()
                    with peer:
                        peer.settimeout(DEADLINE)
                        peer.recv(65536)
                        peer.sendall(said)

                thread = threading.Thread(target=serve)
                thread.start()
                url = "http://127.0.0.1:{}/".format(listener.getsockname()[1])
                done = self.run_it("--url", url, self.group, '{"type": "a"}')
                thread.join(DEADLINE)
                self.says(done, 1, "oneport publish")

    def test_a_wrong_command_line_is_64(self):
        for arguments in (
            (),
            (self.group,),
            (self.group, '{"type": "a"}', "more"),
            ("a b", '{"type": "a"}'),
            ("", '{"type": "a"}'),
            ("x" * 100, '{"type": "a"}'),
            (self.group, "junk"),
            (self.group, "[]"),
            (self.group, "{}"),
            (self.group, '{"type": 3}'),
            (self.group, '{"type": "websocket.send", "bytes": "not base64!"}'),
            ("--nonsense", self.group, '{"type": "a"}'),
            ("--url", "ftp://127.0.0.1/", self.group, '{"type": "a"}'),
            ("--url", "nonsense", self.group, '{"type": "a"}'),
            ("--url", "", self.group, '{"type": "a"}'),
            ("--token", "a\nb", self.group, '{"type": "a"}'),
        ):
            with self.subTest(arguments=arguments):
                done = self.run_it(*arguments)
                self.says(done, 64)
                self.assertTrue(done.stderr)
                self.assertEqual(done.stdout, b"")

    def test_a_wrong_configuration_is_78(self):
        for name, content in (
            ("missing.toml", None),
            ("broken.toml", "nonsense = 1\n"),
            ("unset.toml", self.config("127.0.0.1:1")),
        ):
            with self.subTest(name=name):
                path = self.directory / name
                if content is not None:
                    path.write_text(content, encoding="utf-8")
                self.says(self.run_it(self.group, '{"type": "a"}', config=path, environment={"PUBLISH_TOKEN": None}), 78, name)

    def test_a_configuration_that_names_no_api_or_address_is_64(self):
        unix = self.config(f"unix:{self.directory}/socket")
        for content, part in (("", 'view = "publish"'), (unix, "--url")):
            with self.subTest(part=part):
                path = self.directory / "other.toml"
                path.write_text(content, encoding="utf-8")
                self.says(self.run_it(self.group, '{"type": "a"}', config=path), 64, part)

    def another(self, **options):
        """Returns a further server with a configuration of its own, where the tests may ask for what they watch by any host."""
        more = options.pop("more", "") + "\n[http]\nmiddleware = []\n"
        config = self.config(f"127.0.0.1:{free_port()}", more=more, **options)
        return self.enterContext(Server(config, bind=None, environment={"PUBLISH_TOKEN": ADMIN}))

    def test_it_says_a_host_that_the_server_answers_to(self):
        guarded = 'middleware = ["hosts"]\n'
        for allowed, host in (
            (["example.com"], None),
            ([".example.net", "example.com"], None),
            (["*"], "api.example.com"),
            (["example.com", "api.example.com"], "api.example.com"),
        ):
            with self.subTest(allowed=allowed, host=host):
                route = guarded + (f'host = "{host}"' if host else "")
                server = self.another(more=f"allowed_hosts = {json.dumps(allowed)}", route=route)
                peer = self.enterContext(Peer(server, f"/ws/{self.group}/"))

                def is_there(server=server, known=host or allowed[-1]):
                    return asked(server, f"groups/{self.group}", host=known)["members"] == 1

                until(is_there, "a member")
                self.taken(self.run_it(self.group, '{"type": "a"}', config=server.config))
                self.assertEqual(peer.event(), {"type": "a"})

    def test_it_says_a_host_where_a_whole_domain_or_any_host_is_answered_to(self):
        guarded = 'middleware = ["hosts"]\n'
        for allowed, route in (([".example.com"], ""), (["example.com"], 'host = "*"')):
            with self.subTest(allowed=allowed, route=route):
                server = self.another(more=f"allowed_hosts = {json.dumps(allowed)}", route=guarded + route)
                self.taken(self.run_it(self.group, '{"type": "a"}', config=server.config), 0)

    def test_it_takes_the_first_token_that_is_good_for_the_group(self):
        tokens = """
{ name = "first", token = "the-first-of-the-tokens", groups = ["other_*"] },
{ name = "second", token = "${PUBLISH_TOKEN}", groups = ["none", "g*"] }"""
        server = self.another(tokens=tokens)
        self.taken(self.run_it(self.group, '{"type": "a"}', config=server.config), 0)
        self.taken(self.run_it("other_1", '{"type": "a"}', config=server.config), 0)
        self.taken(self.run_it("news", '{"type": "a"}', config=server.config), 0)
        self.says(self.run_it("elsewhere", '{"type": "a"}', config=server.config), 64, "expected a token for that group")

    def test_it_finds_the_api_behind_a_prefix_and_a_root_path(self):
        port = free_port()
        api = self.config("unused").partition("[[http.route]]")[2].partition("[websocket]")[0]
        included = f'prefix = "/shop"\n[[http.route]]{api}'
        config = f'include = ["api.toml"]\n[server]\nbind = ["127.0.0.1:{port}"]\nroot_path = "/root"\n'
        environment = {"PUBLISH_TOKEN": ADMIN}
        server = Server(config, files={"api.toml": included}, bind=None, environment=environment)
        self.addCleanup(server.close)
        process = subprocess.Popen(
            [binary(), "serve", "--config", server.config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={"PUBLISH_TOKEN": ADMIN},
        )  # fmt: skip
        try:

            def answers():
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
                try:
                    connection.request("GET", "/root/shop/api/openapi.json")
                    response = connection.getresponse()
                    return response.status == 200 and json.loads(response.read())
                except OSError:
                    return None
                finally:
                    connection.close()

            document = until(answers, "a server that listens")
            self.assertEqual([one["url"] for one in document["servers"]], ["/root/shop/api"])
            done = self.run_it(self.group, '{"type": "a"}', config=server.config)
            self.taken(done, 0)
        finally:
            process.terminate()
            process.wait(DEADLINE)


class Check(unittest.TestCase):
    """The output of `oneport check` for a server API that cannot be called."""

    ROUTE = f"""
[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "admin", token = "{ADMIN}", groups = ["*"] }}] }}
"""
    BEARER = f'[auth.bearer]\nkey = "{SECRET}"\n'
    WARNING = 'the middleware "auth" reads the tokens of this view as bearer tokens of users'

    def check(self, config):
        """Returns its output for a sound configuration."""
        with tempfile.TemporaryDirectory(prefix="oneport-test-") as directory:
            path = Path(directory) / "oneport.toml"
            path.write_text(config, encoding="utf-8")
            done = subprocess.run([binary(), "check", "--config", path], capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout + done.stderr

    def test_it_warns_of_an_api_behind_bearer_tokens_of_users(self):
        guarded = 'middleware = ["hosts", "auth"]\n'
        for config, place in (
            (self.BEARER + self.ROUTE + guarded, "http.route[0].middleware"),
            (f"{self.BEARER}[http]\n{guarded}{self.ROUTE}", "http.middleware"),
        ):
            with self.subTest(place=place):
                self.assertIn(f"{place}: warning: {self.WARNING}", self.check(config))

    def test_it_says_nothing_of_an_api_that_can_be_called(self):
        for name, config in {
            "no auth": self.BEARER + self.ROUTE,
            "a list without it": f'{self.BEARER}[http]\nmiddleware = ["auth"]\n{self.ROUTE}middleware = ["hosts"]\n',
            "no bearer tokens": '[session]\nstore = "memory"\n' + self.ROUTE + 'middleware = ["hosts", "session", "auth"]\n',
            "another view": self.BEARER + '[[http.route]]\npath = "/"\nview = "respond"\nmiddleware = ["auth"]\n',
        }.items():
            with self.subTest(name):
                self.assertNotIn(self.WARNING, self.check(config))

    def test_what_it_warns_of_is_refused(self):
        with Server(self.BEARER + self.ROUTE + 'middleware = ["auth"]\n') as server:
            status, _, _ = server.request("/api/info", headers={"authorization": f"Bearer {ADMIN}"})
            self.assertEqual(status, 401)


class Hosts(unittest.TestCase):
    """Two hosts of one server with an API each, whose tokens have one name."""

    A, B = "the-token-of-the-first-host", "the-token-of-the-second-host"

    @classmethod
    def setUpClass(cls):
        config = '[server]\nallowed_hosts = ["a.example.com", "b.example.com", "127.0.0.1"]\n'
        for letter, token in (("a", cls.A), ("b", cls.B)):
            config += f"""
[[http.route]]
path = "/api/{{*call}}"
host = "{letter}.example.com"
view = "publish"
options = {{ tokens = [{{ name = "shop", token = "{token}", groups = ["{letter}_*", "both_*"] }}] }}
"""
        config += """
[[websocket.route]]
path = "/ws/{group}/"
consumer = "feed"
options = { groups = ["{group}"] }
"""
        cls.server = cls.enterClassContext(Server(config))

    def setUp(self):
        self.room = f"r{next(_ROOMS)}"

    def member(self, kind):
        group = f"{kind}_{self.room}"
        host, token = ("a.example.com", self.A) if kind != "b" else ("b.example.com", self.B)
        peer = self.enterContext(Peer(self.server, f"/ws/{group}/"))
        until(lambda: asked(self.server, f"groups/{group}", token=token, host=host)["members"] == 1, f"a member of {group}")
        return peer

    def say(self, letter, group, number):
        """Sends an event to one of the hosts, always with the same key; returns whether it was carried out now."""
        token = {"a": self.A, "b": self.B}[letter]
        answer = call(
            self.server, "POST", f"groups/{group}_{self.room}", {"type": "n", "number": number},
            token=token, host=f"{letter}.example.com", idempotency_key=self.room,
        )  # fmt: skip
        self.assertEqual(ok(answer), counts(1))
        return answer[1]["idempotency-replayed"] is None

    def test_a_key_is_of_one_token_though_others_have_its_name(self):
        member = self.member("both")
        self.assertEqual([self.say(letter, "both", 1) for letter in "abab"], [True, True, False, False])
        post(self.server, f"groups/both_{self.room}", {"type": "n", "number": 2}, token=self.A, host="a.example.com")
        self.assertEqual([member.event()["number"] for _ in range(3)], [1, 1, 2])

    def test_a_key_of_one_token_is_no_conflict_for_another_of_its_name(self):
        members = {letter: self.member(letter) for letter in "ab"}
        for letter, member in members.items():
            self.assertTrue(self.say(letter, letter, 1))
            self.assertEqual(member.event(), {"type": "n", "number": 1})


if __name__ == "__main__":
    unittest.main()
