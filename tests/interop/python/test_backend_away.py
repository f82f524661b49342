"""A backend that fails in every possible way: what clients see, what is counted and delivered later, and bounded memory."""

import binascii
import functools
import hmac
import itertools
import json
import os
import re
import signal
import socket
import struct
import tempfile
import threading
import time
import unittest
from dataclasses import dataclass
from pathlib import Path

from websockets.exceptions import InvalidStatus

from kit.deadline import DEADLINE, until
from kit.peer import Peer, refusal
from kit.postgres import free_port
from kit.server import Server

SECRET = "a secret of the tests"
MIB = 1 << 20
_ROOMS = itertools.count(1)


@dataclass
class Request:
    """One request that a backend was sent."""

    path: str
    fields: dict
    raw: bytes

    @functools.cached_property
    def body(self):
        return json.loads(self.raw)

    @property
    def kind(self):
        return self.body["events"][0]["type"]

    @property
    def event(self):
        return self.body["events"][0]

    @property
    def key(self):
        return self.fields["idempotency-key"]

    @property
    def connection(self):
        return self.body["connection"]["id"]

    @property
    def room(self):
        return self.body["scope"]["url_route"]["kwargs"]["room"]


class Backend:
    """An HTTP server of the tests' own. `answer` is given each request and returns bytes, pieces of them, or `None` to hang."""

    def __init__(self, path=None, secrets=(SECRET,)):
        """`path`: of a unix socket; `secrets`: what each request is signed with."""
        self.path = path
        self.secrets = secrets
        self.port = 0 if path else free_port()
        self.answer = lambda request: ok()
        self.heard = []
        self.changed = threading.Condition()
        self._listener = None
        self._held = set()
        self._released = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"http+unix://{self.path}:/ws?key=1" if self.path else f"http://127.0.0.1:{self.port}/ws"

    @property
    def label(self):
        return self.url.partition("?")[0]

    def start(self):
        """Listens, at the same place as before."""
        self._released = threading.Event()
        if self.path:
            Path(self.path).unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
        else:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(128)
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def stop(self):
        """Ends it and all connections to it; nothing listens any more."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        self._released.set()
        try:
            listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        listener.close()
        for held in list(self._held):
            shut(held)

    def release(self):
        """Lets those go that hang."""
        self._released.set()
        self._released = threading.Event()

    def requests(self, kind, room=None):
        """Returns the requests whose first event is of a type."""
        with self.changed:
            heard = list(self.heard)
        return [one for one in heard if one.kind == kind and (room is None or one.room == room)]

    def hear(self, kind, room=None, number=1):
        """Waits for `number` requests; returns the last of them."""
        return until(
            lambda: (found := self.requests(kind, room))[number - 1 :] and found[number - 1],
            lambda: f"{number} requests with {kind}, found {[one.body['events'] for one in self.heard][-5:]}",
        )

    def _accept(self, listener):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            self._held.add(peer)
            threading.Thread(target=self._serve, args=[peer], daemon=True).start()

    def _serve(self, peer):
        released = self._released
        try:
            peer.settimeout(3 * DEADLINE)
            reader = peer.makefile("rb")
            while (request := read_request(reader, self.secrets)) is not None:
                with self.changed:
                    self.heard.append(request)
                answer = self.answer(request)
                if answer is None:
                    released.wait(3 * DEADLINE)
                    return
                whole = isinstance(answer, bytes)
                for piece in [answer] if whole else answer:
                    peer.sendall(piece)
                if not whole or not is_whole(answer):
                    return
        except OSError:
            pass  # it went away
        finally:
            self._held.discard(peer)
            shut(peer)
            peer.close()


def shut(peer):
    try:
        peer.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def is_whole(answer):
    """Returns whether more can be sent after a response."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return bool(end) and ((length is not None and int(length[1]) == len(body)) or answer.endswith(b"0\r\n\r\n"))


def read_request(reader, secrets):
    first = reader.readline()
    if not first:
        return None
    method, path, _ = first.decode().split()
    fields = {}
    while (line := reader.readline().decode().rstrip("\r\n")) != "":
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    body = reader.read(int(fields["content-length"]))
    request = Request(path, fields, body)
    at, signatures = signed(request)
    wanted = [signature(secret, at, body) for secret in secrets]
    assert (method, fields["content-type"], signatures) == ("POST", "application/json", wanted)
    assert abs(time.time() - int(at)) < 30
    return request


def signed(request):
    """Returns when a request was signed, and the signatures."""
    at, *signatures = request.fields["oneport-signature"].split(",v1=")
    return at.removeprefix("t="), signatures


def signature(secret, at, body):
    return hmac.new(secret.encode(), at.encode() + b"." + body, "sha256").hexdigest()


def reply(status, body=b"", **fields):
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} x\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def ok(*events, **more):
    answer = {**more, "events": list(events)} if events or more else None
    return reply(200, b"" if answer is None else json.dumps(answer).encode())


def text(said):
    return {"type": "websocket.send", "text": said}


def on(kind, answer, room=None):
    """Answers requests with an event of that type so (of one room), and others well."""

    def of(request):
        if request.kind == kind and (room is None or request.room == room):
            return answer(request) if callable(answer) else answer
        return ok()

    return of


class AwayCase(unittest.TestCase):
    """A backend and a server; each test has a room of its own and begins with a backend that is well."""

    options = {}
    server_options = {}
    more = ""
    max_message = "64 KiB"
    secrets = (SECRET,)

    @classmethod
    def setUpClass(cls):
        cls.backend = cls.enterClassContext(Backend(secrets=cls.secrets))
        cls.server = cls.enterClassContext(Server(cls.config(cls.backend)))
        cls.backend.hear("oneport.node_started")

    @classmethod
    def config(cls, backend, **options):
        secret = cls.secrets[0] if len(cls.secrets) == 1 else cls.secrets
        options = {"url": backend.url, "secret": secret, **cls.options, **options}
        inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
        return f"""
[log]
access = true

[server]
name = "here"
{cls.more}
[websocket]
middleware = []
ping_interval = "0s"
max_message = "{cls.max_message}"

[[websocket.route]]
path = "/ws/{{room}}/"
name = "app"
consumer = "backend"
options = {{ {inline} }}
"""

    def setUp(self):
        self.room = f"r{next(_ROOMS)}"
        self.backend.answer = lambda request: ok()

    def tearDown(self):
        self.doCleanups()
        self.backend.release()

    def open(self, room=None, server=None, **options):
        return self.enterContext(Peer(server or self.server, f"/ws/{room or self.room}/", **options))

    def denied(self, room=None, server=None):
        return refusal(server or self.server, f"/ws/{room or self.room}/")

    def asked(self, outcome, server=None):
        return (server or self.server).metric("oneport_backend_requests_total", endpoint=self.backend.label, outcome=outcome)

    def ended(self, cause):
        return self.server.metric("oneport_websockets_closed_total", route="app", cause=cause)

    def closed_circuit(self, server=None):
        """Waits until the server speaks to the backend again."""
        server = server or self.server
        until(lambda: server.metric("oneport_backend_circuit_open", endpoint=self.backend.label) == 0, "a circuit that is closed")

    def anew(self):
        """Another room, and a backend that is well and known to be."""
        self.doCleanups()
        self.backend.release()
        self.setUp()
        self.is_well_again(self.server)
        self.nothing_waits()

    def is_well_again(self, server):
        """Waits until the server opens sockets again."""

        def is_well():
            try:
                with Peer(server, f"/ws/{self.room}-well/"):
                    return True
            except InvalidStatus:
                return False

        until(is_well, "a backend that is asked again")

    def server_that_keeps_no_connection(self):
        """Returns a server whose requests to a backend that stops all fail to connect.

        A request on a connection that was kept from before may break off instead. The server cannot know whether the backend read
        it, so it also tells of a disconnect, and each try of that is counted as `connection` beside the tries of the handshake.
        """
        beginnings = len(self.backend.requests("oneport.node_started"))
        self.backend.answer = lambda request: reply(200, connection="close")
        server = self.enterContext(Server(self.config(self.backend)))
        self.backend.hear("oneport.node_started", number=beginnings + 1)
        self.nothing_waits(server)
        return server

    def nothing_waits(self, server=None):
        server = server or self.server
        until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "no disconnect that waits")


def pieces_of(head, piece, number):
    """An answer in pieces, without holding it whole."""
    yield head
    for _ in range(number):
        yield piece


def chunked(*chunks):
    return b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(chunks)


def large_body(_):
    return pieces_of(b"HTTP/1.1 200 x\r\ncontent-length: %d\r\n\r\n" % (100 * MIB), b" " * MIB, 100)


def large_chunked_body(_):
    return pieces_of(chunked(), b"100000\r\n" + b" " * MIB + b"\r\n", 100)


def large_body_until_the_end(_):
    return pieces_of(b"HTTP/1.1 200 x\r\n\r\n", b" " * MIB, 100)


def large_refusal(status):
    return lambda _: pieces_of(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, 100 * MIB), b"x" * MIB, 100)


def endless_header(_):
    return pieces_of(b"HTTP/1.1 200 x\r\nx-long: ", b"x" * MIB, 100)


def endless_headers(_):
    return pieces_of(b"HTTP/1.1 200 x\r\n", b"x-one: 1\r\n" * 10_000, 1000)


def endless_status(_):
    return pieces_of(b"HTTP/1.1 200 ", b"x" * MIB, 100)


def endless_chunk_size(_):
    return pieces_of(chunked(), b"0" * MIB, 100)


def endless_chunk_extension(_):
    return pieces_of(chunked(b"1;"), b"x" * MIB, 100)


def endless_trailers(_):
    return pieces_of(chunked(b"2\r\n{}\r\n0\r\n"), b"x-one: 1\r\n" * 10_000, 1000)


def endless_continues(_):
    return pieces_of(b"", b"HTTP/1.1 103 x\r\nlink: </a>\r\n\r\n" * 10_000, 500)


LARGE = {
    "large body": large_body,
    "large chunked body": large_chunked_body,
    "large body until the end": large_body_until_the_end,
}
ENDLESS = {
    "endless header": endless_header,
    "endless headers": endless_headers,
    "endless status line": endless_status,
    "endless chunk extension": endless_chunk_extension,
    "endless trailers": endless_trailers,
}
# HTTP without meaning.
NONSENSE = {
    "html": reply(200, b"<html>"),
    "no object": reply(200, b"[]"),
    "half a JSON": reply(200, b'{"events": ['),
    "no UTF-8": reply(200, b'{"state": "\xff"}'),
    "nested deep": reply(200, b"[" * 60_000),
    "events that are none": reply(200, b'{"events": {}}'),
    "an unknown event": ok({"type": "websocket.sned", "text": "a"}),
    "an event without type": ok({"text": "a"}),
    "an ack that is none": ok(ack="x"),
}
# Well formed, but impossible.
IMPOSSIBLE = {
    "a send without content": ok({"type": "websocket.send"}),
    "a send of wrong base64": ok({"type": "websocket.send", "bytes": "a"}),
    "a group that is none": ok({"type": "group.add", "group": "a b"}),
    "an event of a group without type": ok({"type": "group.send", "group": "a", "event": {}}),
    "an event for a group that is none": ok({"type": "group.send", "group": "a b", "event": {"type": "a"}}),
}
# Not HTTP.
GARBAGE = {
    "no HTTP": b"junk\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bytes": os.urandom(2000),
    "a chunk size that is none": chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": chunked(b"1\r\n{}\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": chunked(b"fffffffffffffffff\r\n{}\r\n"),
    "a length that is none": b"HTTP/1.1 200 x\r\ncontent-length: x\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}1",
    "a head in UTF-16": "HTTP/1.1 200 x\r\n\r\n".encode("utf-16"),
    "101": b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
}
# It closes before the end of its response.
BROKEN_OFF = {
    "closes at once": b"",
    "closes in the head": b"HTTP/1.1 200 x\r\ncontent-le",
    "closes half way": b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{",
    "closes in a chunk": chunked(b"64\r\n{"),
    "closes between chunks": chunked(b"1\r\n{\r\n"),
}
TOO_MUCH = {
    "too many effects": ok(*[text("a")] * 11),
    "too large a state": ok(state="x" * 2000),
    "too large an answer": ok(text("x" * 70_000)),
}


class Denied(AwayCase):
    """In the handshake."""

    options = {
        "timeout": "700ms", "retries": 2, "max_effects": 10, "max_state": "1 KiB", "max_response": "64 KiB",
        "breaker_failures": 1000,
    }  # fmt: skip

    def check(self, answers, status, outcome, tries=1):
        """Each answer denies with that status, is counted so, and was asked for that often, with one key. Nobody knows what the
        backend decided: it is told that the connection is gone."""
        for name, answer in answers.items():
            with self.subTest(name):
                self.anew()
                self.backend.answer = on("websocket.connect", answer)
                outcomes = (outcome,) if isinstance(outcome, str) else outcome
                before = sum(self.asked(one) for one in outcomes)
                self.assertEqual(self.denied().status_code, status)
                requests = self.backend.requests("websocket.connect", self.room)
                self.assertEqual(len({one.key for one in requests}), 1)
                if tries:
                    self.assertEqual(len(requests), tries)
                until(lambda: self.backend.requests("websocket.disconnect", self.room), "the end")
                self.nothing_waits()
                counted = len(requests) + ("ok" in outcomes)  # so the end is
                self.assertEqual(sum(self.asked(one) for one in outcomes) - before, counted)
                told = self.backend.requests("websocket.disconnect", self.room)
                self.assertEqual([one.key for one in told], [requests[0].key[:-1] + "2"])
                for one in told:
                    self.assertEqual(one.body["events"][0]["code"], 1006)
                    self.assertIn(one.body["events"][0]["cause"], ("backend_away", "backend_error"))

    def test_nonsense_is_502(self):
        self.check(NONSENSE, 502, "invalid")

    def test_effects_that_cannot_be_done_are_502(self):
        no_response = {"a response of 200": ok({"type": "websocket.http.response", "status": 200})}
        self.check({**IMPOSSIBLE, **no_response}, 502, ("invalid", "ok"))

    def test_what_is_no_http_is_502(self):
        self.check(GARBAGE, 502, ("invalid", "connection", "status"), tries=None)

    def test_more_than_may_be_is_502(self):
        self.check(TOO_MUCH, 502, "too_large")

    def test_a_large_answer_is_502(self):
        self.check(LARGE, 502, "too_large")

    def test_an_answer_without_end_is_502(self):
        self.check(ENDLESS, 502, ("invalid", "connection", "too_large"), tries=None)

    def test_a_redirect_is_502_and_nobody_follows_it(self):
        with Backend() as other:
            answers = {str(status): reply(status, location=other.url) for status in (300, 301, 302, 303, 304, 307, 308)}
            self.check(answers, 502, "status")
            self.assertEqual(other.heard, [])

    def test_who_said_no_hears_of_no_end(self):
        for name, answer in {
            "403": reply(403),
            "429": reply(429),
            "a close": ok({"type": "websocket.close"}),
            "a response": ok({"type": "websocket.http.response", "status": 410}),
        }.items():
            with self.subTest(name):
                self.anew()
                self.backend.answer = on("websocket.connect", answer)
                self.denied()
                self.nothing_waits()
                self.assertEqual(self.backend.requests("websocket.disconnect", self.room), [])

    def test_two_fields_of_one_name_reach_the_client(self):
        headers = [["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-one", "1"]]
        self.backend.answer = on("websocket.connect", ok({"type": "websocket.accept", "headers": headers}))
        peer = self.open()
        self.assertEqual(peer.socket.response.headers.get_all("set-cookie"), ["a=1", "b=2"])
        self.assertEqual(peer.socket.response.headers["x-one"], "1")

    def test_a_failure_of_the_backend_is_502(self):
        self.check({str(status): reply(status, b"oops") for status in (500, 501, 505, 599)}, 502, "status")

    def test_a_backend_that_is_overloaded_is_502(self):
        self.check({str(status): reply(status) for status in (502, 503, 504)}, 502, "status", tries=None)

    def test_a_refusal_is_shown_to_the_client(self):
        for status in (400, 401, 403, 404, 410, 429, 451):
            with self.subTest(status):
                self.anew()
                self.backend.answer = on(
                    "websocket.connect", reply(status, "gehört nicht".encode(), content_type="text/plain; charset=utf-8")
                )
                before = self.asked("denied")
                found = self.denied()
                self.assertEqual((found.status_code, bytes(found.body).decode()), (status, "gehört nicht"))
                self.assertEqual(self.asked("denied") - before, 1)
                self.assertEqual(len(self.backend.requests("websocket.connect", self.room)), 1)

    def test_a_refusal_of_4_kib_is_shown_whole(self):
        self.backend.answer = on("websocket.connect", reply(403, b"x" * 4096))
        found = self.denied()
        self.assertEqual((found.status_code, bytes(found.body)), (403, b"x" * 4096))

    def test_a_refusal_that_is_too_long_is_a_refusal_all_the_same(self):
        for name, answer in {"5 KiB": reply(403, b"x" * 5000), "100 MiB": large_refusal(403)}.items():
            with self.subTest(name):
                self.anew()
                self.backend.answer = on("websocket.connect", answer)
                found = self.denied()
                self.assertEqual(found.status_code, 403)
                self.assertLessEqual(len(found.body), 4096)

    def test_a_backend_that_goes_away_is_tried_again_and_502(self):
        self.check(BROKEN_OFF, 502, "connection", tries=3)

    def test_a_backend_that_says_nothing_is_504(self):
        for name, answer in {
            "nothing": lambda _: None,
            "half a head": lambda _: pause_after(b"HTTP/1.1 200 x\r\n"),
            "half a body": lambda _: pause_after(b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\n{"),
            "a chunk": lambda _: pause_after(chunked(b"1\r\n{\r\n")),
            "a byte now and then": lambda _: drip(b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n" + b" " * 990),
        }.items():
            self.check({name: answer}, 504, "timeout")

    def test_a_backend_that_nobody_listens_at_is_502(self):
        server = self.server_that_keeps_no_connection()
        self.backend.stop()
        self.addCleanup(self.backend.start)
        self.assertEqual(self.denied(server=server).status_code, 502)
        self.assertEqual(self.asked("connection", server), 1 + self.options["retries"])
        # A backend that was never asked is not told of an end.
        self.assertEqual(server.metric("oneport_backend_disconnects_waiting"), 0)

    def test_an_accept_before_a_close_opens_the_socket(self):
        self.backend.answer = on(
            "websocket.connect", ok({"type": "websocket.accept"}, text("full"), {"type": "websocket.close", "code": 4001})
        )
        peer = self.open()
        self.assertEqual((peer.receive(), peer.closed()), ("full", (4001, "")))

    def test_a_denial_in_a_known_word_is_none_of_a_failing_backend(self):
        self.nothing_waits()  # what was told before is counted as `ok` too
        before = self.asked("ok")
        self.backend.answer = on("websocket.connect", ok({"type": "websocket.close"}))
        self.assertEqual(self.denied().status_code, 403)
        self.assertEqual(self.asked("ok") - before, 1)


def pause_after(data):
    yield data
    time.sleep(3)


def drip(data):
    for byte in data:
        yield bytes([byte])
        time.sleep(0.05)


class Hints(AwayCase):
    """An answer that never begins, though something comes all the time; each has a server and a backend of its own."""

    options = {"timeout": "700ms", "retries": 0}

    def check(self, answer):
        with Backend() as backend, Server(self.config(backend)) as server:
            backend.hear("oneport.node_started")
            backend.answer = on("websocket.connect", answer)
            statuses = []
            threads = [threading.Thread(target=lambda: statuses.append(refusal(server, "/ws/a/").status_code)) for _ in range(4)]
            for thread in threads:
                thread.start()
            until(lambda: len(backend.requests("websocket.connect")) == 4, "the requests")
            while any(thread.is_alive() for thread in threads):
                self.assertEqual(server.request("/health/")[0], 200)
                time.sleep(0.02)
            self.assertEqual(len(statuses), 4)
            self.assertLessEqual(set(statuses), {502, 504})
            backend.answer = lambda request: ok()
            with Peer(server, "/ws/b/"):
                self.assertEqual(server.request("/health/")[0], 200)

    def test_early_hints_without_end_do_not_stop_the_server(self):
        self.check(endless_continues)

    def test_a_chunk_size_without_end_does_not_stop_the_server(self):
        self.check(endless_chunk_size)


class Later(AwayCase):
    """On an open connection."""

    options = {
        "timeout": "700ms", "retries": 2, "max_effects": 10, "max_state": "1 KiB", "max_response": "64 KiB",
        "breaker_failures": 1000,
        "hold_time": "2s",
    }  # fmt: skip

    def check(self, answers, code, cause, outcome):
        """Each answer ends the connection so, is counted unless the outcome is `None`, and the end is told to the backend."""
        for name, answer in answers.items():
            with self.subTest(name):
                self.anew()
                outcomes = (outcome,) if isinstance(outcome, str) else outcome or ()
                peer = self.open()
                before = sum(self.asked(one) for one in outcomes), self.ended(cause)
                self.backend.answer = on("websocket.receive", answer)
                peer.send("hi")
                found = peer.closed()
                self.assertEqual(found and found[0], code)
                requests = self.backend.requests("websocket.receive", self.room)
                self.assertEqual(len({one.key for one in requests}), 1)
                disconnect = self.backend.hear("websocket.disconnect", self.room)
                self.assertEqual((disconnect.event["code"], disconnect.event["cause"]), (code, cause))
                until(lambda before=before: self.ended(cause) == before[1] + 1, f"one more that ended with {cause}")
                asked = len(self.backend.requests("websocket.receive", self.room))
                if outcomes:
                    counted = sum(self.asked(one) for one in outcomes) - before[0]
                    # The last request may be given up in the middle.
                    self.assertIn(counted, (asked - 1, asked) if code == 1013 else (asked,))

    def test_nonsense_is_1011(self):
        self.check(NONSENSE, 1011, "backend_error", "invalid")

    def test_effects_that_cannot_be_done_are_1011(self):
        wrong_here = {
            "an accept": ok({"type": "websocket.accept"}),
            "a response": ok({"type": "websocket.http.response", "status": 404}),
            "a close with a wrong code": ok({"type": "websocket.close", "code": 1006}),
            "an ack of what was never said": ok(ack=99),
            "an ack of what was before": ok(ack=0),
        }
        self.check({**IMPOSSIBLE, **wrong_here}, 1011, "backend_error", None)

    def test_what_is_no_http_is_1011(self):
        self.check(GARBAGE, 1011, "backend_error", ("invalid", "connection", "status"))

    def test_more_than_may_be_is_1011_and_counted(self):
        self.check(TOO_MUCH, 1011, "backend_error", "too_large")

    def test_a_large_answer_is_1011(self):
        self.check(LARGE, 1011, "backend_error", "too_large")

    def test_an_answer_without_end_is_1011(self):
        self.check(ENDLESS, 1011, "backend_error", ("invalid", "connection", "too_large"))

    def test_a_redirect_is_1011(self):
        with Backend() as other:
            self.check(
                {str(status): reply(status, location=other.url) for status in (301, 304, 307)}, 1011, "backend_error", "status"
            )
            self.assertEqual(other.heard, [])

    def test_a_failure_of_the_backend_is_1011(self):
        self.check({str(status): reply(status) for status in (500, 501, 505)}, 1011, "backend_error", "status")

    def test_a_refusal_is_1011(self):
        self.check({str(status): reply(status) for status in (400, 401, 403, 404, 410)}, 1011, "backend_error", "denied")

    def test_a_backend_that_is_away_for_longer_than_hold_time_is_1013(self):
        self.check(BROKEN_OFF, 1013, "backend_away", "connection")

    def test_a_backend_that_says_nothing_for_longer_than_hold_time_is_1013(self):
        self.check({"hangs": lambda _: None}, 1013, "backend_away", "timeout")

    def test_a_backend_that_is_overloaded_for_longer_than_hold_time_is_1013(self):
        self.check({str(status): reply(status) for status in (502, 503, 504)}, 1013, "backend_away", "status")
        self.check({"429": reply(429)}, 1013, "backend_away", "denied")

    def test_what_is_said_meanwhile_comes_in_order_and_with_new_keys(self):
        peer = self.open()
        tries = itertools.count()
        self.backend.answer = on("websocket.receive", lambda _: reply(503) if next(tries) < 3 else ok())
        for number in range(250):
            peer.send(str(number))
        said = {}

        def all_said():
            for one in self.backend.requests("websocket.receive", self.room):
                said.update({event["seq"]: event["text"] for event in one.body["events"]})
            return len(said) == 250

        until(all_said, "all to be said")
        self.assertEqual(said, {number + 2: str(number) for number in range(250)})
        for one in self.backend.requests("websocket.receive", self.room):
            self.assertEqual(one.key, f"{one.connection}-{one.event['seq']}")
            self.assertLessEqual(len(one.body["events"]), 100)

    def test_one_connection_that_fails_ends_alone(self):
        others = [self.open(f"{self.room}-{number}") for number in range(5)]
        peer = self.open()
        self.backend.answer = lambda request: reply(500) if request.room == self.room else ok(text("well"))
        peer.send("hi")
        for other in others:
            other.send("hi")
            self.assertEqual(other.receive(), "well")
        self.assertEqual(peer.closed()[0], 1011)

    def test_what_was_done_before_the_nonsense_was_done(self):
        peer = self.open()
        self.backend.answer = on("websocket.receive", ok(text("one"), {"type": "websocket.close", "code": 4001}, text("two")))
        peer.send("hi")
        self.assertEqual(peer.receive(), "one")
        self.assertEqual(peer.closed(), (4001, ""))
        self.assertEqual(self.backend.hear("websocket.disconnect", self.room).event["cause"], "consumer_close")


class Secrets(AwayCase):
    """One secret takes the place of another."""

    secrets = ("the new secret of the tests", "the old secret ☕")

    def test_every_request_is_signed_with_each_secret(self):
        with self.open() as peer:
            peer.send("hi")
            self.backend.hear("websocket.receive", self.room)
        self.backend.hear("websocket.disconnect", self.room)
        self.assertEqual(
            [request.kind for request in self.backend.heard],
            ["oneport.node_started", "websocket.connect", "websocket.receive", "websocket.disconnect"],
        )
        for request in self.backend.heard:
            with self.subTest(request.kind):
                at, signatures = signed(request)
                self.assertRegex(request.fields["oneport-signature"], r"^t=\d+,v1=[0-9a-f]{64},v1=[0-9a-f]{64}$")
                self.assertCountEqual(signatures, [signature(secret, at, request.raw) for secret in self.secrets])


class TriedAgain(AwayCase):
    options = {"timeout": "700ms", "breaker_failures": 1000}

    def test_what_is_tried_again_has_the_same_key_and_the_same_events(self):
        for name, answers in {
            "away": [b"", reply(503), reply(429), None, reply(504)],
            "half way": [BROKEN_OFF["closes half way"], BROKEN_OFF["closes in a chunk"]],
        }.items():
            with self.subTest(name):
                self.anew()
                peer = self.open()
                left = iter(answers)
                self.backend.answer = on("websocket.receive", lambda _, left=left: next(left, ok(text("back"))))
                peer.send("hällo")
                self.assertEqual(peer.receive(), "back")
                requests = self.backend.requests("websocket.receive", self.room)
                self.assertEqual(len(requests), len(answers) + 1)
                self.assertEqual({one.key for one in requests}, {f"{requests[0].connection}-2"})
                for one in requests:
                    self.assertEqual(one.body, requests[0].body)


class Bounded(AwayCase):
    """What the backend and the clients do does not make the server large."""

    options = {"timeout": "5s", "retries": 0, "breaker_failures": 1000, "hold_time": "10s"}
    GROWTH = 40 * MIB

    def setUp(self):
        super().setUp()
        # A client that is not read is gone after `hold_time`.
        until(lambda: self.server.metric("oneport_websockets") == 0, "no sockets", 2 * DEADLINE)
        self.most = 0
        self.stop = threading.Event()
        with self.open("first") as peer:  # what a first connection takes
            peer.send("hi")
        self.before = self.server.resident_bytes()
        self.watching = threading.Thread(target=self.watch)
        self.watching.start()
        self.addCleanup(self.unwatch)

    def watch(self):
        while not self.stop.wait(0.01):
            self.most = max(self.most, self.server.resident_bytes())

    def unwatch(self):
        self.stop.set()
        self.watching.join()

    def stays_small(self):
        self.unwatch()
        self.assertLess((self.most - self.before) / MIB, self.GROWTH / MIB)

    def test_a_backend_that_sends_a_lot_is_not_read_to_the_end(self):
        for name, answer in {**LARGE, **ENDLESS, "403": large_refusal(403), "500": large_refusal(500)}.items():
            with self.subTest(name):
                room = f"{self.room}-{name.replace(' ', '-')}"
                self.backend.answer = on("websocket.connect", answer)
                denied = [threading.Thread(target=refusal, args=[self.server, f"/ws/{room}-{at}/"]) for at in range(4)]
                for thread in denied:
                    thread.start()
                for thread in denied:
                    thread.join(2 * DEADLINE)
                self.assertLess((self.most - self.before) / MIB, self.GROWTH / MIB)
        self.stays_small()

    def test_a_client_that_floods_a_backend_that_hangs_is_held_back(self):
        peers = [self.open(f"{self.room}-{number}") for number in range(5)]
        self.backend.answer = on("websocket.receive", lambda _: None)
        payload = "x" * 60_000
        sent = [0] * len(peers)

        def flood(at):
            try:
                for _ in range(2000):
                    peers[at].send(payload)
                    sent[at] += len(payload)
            except Exception:  # noqa: BLE001 - it is ended in the end
                pass

        threads = [threading.Thread(target=flood, args=[at], daemon=True) for at in range(len(peers))]
        for thread in threads:
            thread.start()
        until(lambda: min(sent) >= MIB, "a MiB of each")
        until(lambda: self.still(sent), "clients that are held back")
        self.assertLess(max(sent), 16 * MIB)  # 1 MiB and 128 KiB ahead here, the rest in the kernel
        self.stays_small()
        for peer in peers:
            peer.socket.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(DEADLINE)

    @staticmethod
    def still(sent):
        before = list(sent)
        time.sleep(1)
        return sent == before

    def test_many_who_leave_while_the_backend_is_away_do_not_make_it_large(self):
        for _ in range(10):
            peers = [Peer(self.server, f"/ws/{self.room}/") for _ in range(50)]
            self.backend.stop()
            for peer in peers:
                peer.socket.close()
            until(lambda: self.server.metric("oneport_websockets") == 0, "no sockets")
            self.backend.start()

        def told():
            return {one.connection for one in self.backend.requests("websocket.disconnect", self.room)}

        until(lambda: len(told()) == 500, lambda: f"500 disconnects, found {len(told())}", 3 * DEADLINE)
        self.assertEqual(self.server.metric("oneport_backend_disconnects_lost_total"), 0)
        until(lambda: self.server.metric("oneport_backend_disconnects_waiting") == 0, "nothing that waits")
        self.stays_small()


class HeldTogether(AwayCase):
    """What waits for a backend is bounded over all connections."""

    options = {"hold": "1 MiB", "hold_total": "64 KiB", "hold_time": "60s", "retries": 0, "breaker_failures": 1000}
    PEERS, MESSAGES, LENGTH = 5, 100, 8_000
    # What is read of one connection beside: the message that waits for room, and one that came with the last.
    AHEAD = 2

    def received(self):
        return self.server.metric("oneport_messages_received_total", route="app")

    def stands_still(self):
        before = self.received()
        time.sleep(0.5)
        return self.received() == before

    def test_connections_that_have_too_much_waiting_together_are_not_read_until_the_backend_is_back(self):
        peers = {f"{self.room}-{number}": self.open(f"{self.room}-{number}") for number in range(self.PEERS)}
        before = self.received()
        is_back = threading.Event()
        self.addCleanup(is_back.set)
        taken = {room: [] for room in peers}

        def answer(request):
            if not is_back.is_set():
                return reply(503)
            taken[request.room] += [(event["seq"], event["text"].strip(".")) for event in request.body["events"]]
            return ok()

        self.backend.answer = on("websocket.receive", answer)
        for number in range(self.MESSAGES):
            for peer in peers.values():
                peer.send(str(number).ljust(self.LENGTH, "."))
        waiting = -(-(64 << 10) // self.LENGTH)
        until(lambda: self.received() - before >= waiting, "messages that wait")
        until(self.stands_still, "connections that are not read any more")
        self.assertLessEqual(self.received() - before, waiting + self.PEERS * self.AHEAD)
        is_back.set()
        until(lambda: all(len(one) >= self.MESSAGES for one in taken.values()), lambda: f"all of them, found {taken}"[:2000])
        for room, found in taken.items():
            self.assertEqual(found, [(number + 2, str(number)) for number in range(self.MESSAGES)], room)


class Flooded(AwayCase):
    """Many connections send long messages while the backend hangs."""

    PEERS, MESSAGES, LENGTH = 200, 4, MIB
    max_message = "1 MiB"
    HOLD_TOTAL, CONCURRENCY = 64 * MIB, 4
    options = {
        "timeout": "120s", "hold": "1 MiB", "hold_total": "64 MiB", "hold_time": "120s", "concurrency": CONCURRENCY,
        "retries": 0, "breaker_failures": 1000,
    }  # fmt: skip
    # Beside `hold_total`: a request for each of `concurrency`; of a connection the message that waits for room, the next one half
    # received, and 64 KiB undecoded.
    BOUND = HOLD_TOTAL + CONCURRENCY * 2 * LENGTH + PEERS * (2 * LENGTH + (64 << 10))

    def test_what_clients_send_is_bounded_in_bytes_and_nothing_of_it_is_lost(self):
        peers = [self.open(f"{self.room}-{number}") for number in range(self.PEERS)]
        is_back = threading.Event()
        self.addCleanup(is_back.set)
        taken = {}
        changed = threading.Lock()

        def answer(request):
            is_back.wait(10 * DEADLINE)
            with changed:
                for event in request.body["events"]:
                    taken[request.room, event["seq"]] = (len(event["bytes"]), event["bytes"][:8])
            self.backend.heard.clear()  # hundreds of MiB
            return ok()

        self.backend.answer = on("websocket.receive", answer)
        before = self.server.resident_bytes()
        sent = [0] * self.PEERS

        def send(at):
            for number in range(self.MESSAGES):
                peers[at].send(bytes([number]) * self.LENGTH)
                sent[at] += 1

        threads = [threading.Thread(target=send, args=[at], daemon=True) for at in range(self.PEERS)]
        for thread in threads:
            thread.start()
        bytes_read = lambda: self.server.metric("oneport_messages_received_total", route="app")  # noqa: E731
        until(lambda: bytes_read() >= self.HOLD_TOTAL // self.LENGTH, "messages that fill hold_total", 3 * DEADLINE)
        most = before
        still = 0
        while still < 5:
            then = (bytes_read(), sum(sent))
            most = max(most, self.server.resident_bytes())
            time.sleep(0.2)
            still = still + 1 if (bytes_read(), sum(sent)) == then else 0
        growth = most - before
        print(f"held {growth / MIB:.0f} MiB of {self.PEERS * self.MESSAGES * self.LENGTH / MIB:.0f}, bound {self.BOUND / MIB:.0f}")
        self.assertLess(growth / MIB, self.BOUND / MIB)
        is_back.set()
        for thread in threads:
            thread.join(10 * DEADLINE)
        wanted = self.PEERS * self.MESSAGES
        until(lambda: len(taken) == wanted, lambda: f"{wanted} messages, found {len(taken)}", 10 * DEADLINE)
        base64 = 4 * -(-self.LENGTH // 3)
        for number in range(self.MESSAGES):
            start = binascii.b2a_base64(bytes([number]) * 6, newline=False).decode()
            found = {taken[f"{self.room}-{at}", number + 2] for at in range(self.PEERS)}
            self.assertEqual(found, {(base64, start)})


class Unix(AwayCase):
    """A backend at a unix socket."""

    @classmethod
    def setUpClass(cls):
        directory = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="oneport-test-"))
        cls.backend = cls.enterClassContext(Backend(f"{directory}/socket"))
        cls.server = cls.enterClassContext(Server(cls.config(cls.backend)))
        cls.backend.hear("oneport.node_started")

    def test_it_is_told_and_answers_as_any_other(self):
        self.backend.answer = on(
            "websocket.receive", lambda request: ok(*(text(event["text"]) for event in request.body["events"]))
        )
        with self.open() as peer:
            for said in ("hällo", "", "x" * 60_000):
                peer.send(said)
                self.assertEqual(peer.receive(), said)
            peer.socket.close(4000, "bye")
        found = self.backend.hear("websocket.disconnect", self.room)
        self.assertEqual((found.event["code"], found.event["reason"], found.path), (4000, "bye", "/ws?key=1"))

    def test_one_that_nobody_listens_at_is_502_and_comes_back(self):
        server = self.server_that_keeps_no_connection()
        self.backend.stop()
        self.assertEqual(self.denied(server=server).status_code, 502)
        self.assertEqual(self.asked("connection", server), 1 + 2)  # 2 is the default of `retries`
        self.assertEqual(server.metric("oneport_backend_disconnects_waiting"), 0)
        Path(self.backend.path).unlink()
        self.assertIn(self.denied(server=server).status_code, (502, 503))
        self.backend.start()
        self.is_well_again(server)
        self.open(server=server)

    def test_a_refusal_is_shown(self):
        self.backend.answer = on("websocket.connect", reply(402, b"pay first"))
        found = self.denied()
        self.assertEqual((found.status_code, bytes(found.body)), (402, b"pay first"))


class Left(AwayCase):
    """A client, or the server, leaves while the backend is available or not."""

    options = {"timeout": "2s", "breaker_failures": 1000}

    def setUp(self):
        super().setUp()
        self.nothing_waits()

    def test_the_end_is_told_when_the_backend_is_back(self):
        peers = [self.open(f"{self.room}-{number}") for number in range(10)]
        for peer in peers[:5]:
            peer.send("hi")
            self.backend.hear("websocket.receive", f"{self.room}-{peers.index(peer)}")
        self.backend.stop()
        for peer in peers:
            peer.socket.close(4000, "bye")
        until(lambda: self.server.metric("oneport_backend_disconnects_waiting") == 10, "ten disconnects that wait")
        for number in range(10):
            self.assertEqual(self.backend.requests("websocket.disconnect", f"{self.room}-{number}"), [])
        self.backend.start()
        for number in range(10):
            found = self.backend.hear("websocket.disconnect", f"{self.room}-{number}")
            self.assertEqual((found.event["code"], found.event["reason"], found.event["cause"]), (4000, "bye", "client_close"))
            self.assertEqual(found.event["seq"], 3 if number < 5 else 2)
            self.assertEqual(found.key, f"{found.connection}-{found.event['seq']}")
            self.assertEqual(len(found.body["events"]), 1)
        self.nothing_waits()
        self.assertEqual(self.server.metric("oneport_backend_disconnects_lost_total"), 0)

    def test_the_end_is_told_again_with_the_same_key_until_it_is_heard(self):
        for name, bad in {
            "503": reply(503),
            "500": reply(500),
            "closes": b"",
            "half way": BROKEN_OFF["closes half way"],
            "429": reply(429),
        }.items():
            with self.subTest(name):
                self.anew()
                tries = itertools.count()
                answer = lambda _, bad=bad, tries=tries: bad if next(tries) < 2 else ok()  # noqa: E731
                self.backend.answer = on("websocket.disconnect", answer, self.room)
                with self.open(self.room) as peer:
                    peer.socket.close(1000)
                self.backend.hear("websocket.disconnect", self.room, 3)
                found = self.backend.requests("websocket.disconnect", self.room)
                self.assertEqual((len({one.key for one in found}), found[0].body), (1, found[2].body))
                self.nothing_waits()
                self.assertEqual(len(self.backend.requests("websocket.disconnect", self.room)), 3)

    def test_a_refusal_of_the_end_is_an_answer_too(self):
        for status in (400, 404, 410):
            with self.subTest(status):
                self.anew()
                self.backend.answer = on("websocket.disconnect", reply(status), self.room)
                with self.open() as peer:
                    peer.socket.close(1000)
                self.backend.hear("websocket.disconnect", self.room)
                self.nothing_waits()
                self.assertEqual(len(self.backend.requests("websocket.disconnect", self.room)), 1)

    def test_who_is_not_believed_tries_again(self):
        for status in (401, 403):
            with self.subTest(status):
                self.anew()
                tries = itertools.count()
                self.backend.answer = on("websocket.disconnect", lambda _, status=status, tries=tries: reply(status) if next(tries) < 2 else ok(), self.room)
                with self.open() as peer:
                    peer.socket.close(1000)
                self.backend.hear("websocket.disconnect", self.room, 3)
                self.nothing_waits()

    def test_who_leaves_while_the_backend_decides_is_told_of_after_it_has(self):
        said = []

        def answer(request):
            if request.event["type"] == "websocket.connect":
                time.sleep(0.5)
            said.append(request.event["type"])
            return ok()

        self.backend.answer = answer
        handshake = (
            f"GET /ws/{self.room}/ HTTP/1.1\r\nHost: {self.server.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: {self.server.origin}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.server.port), DEADLINE) as client:
            client.sendall(handshake.encode())
            self.backend.hear("websocket.connect", self.room)
        found = self.backend.hear("websocket.disconnect", self.room)
        self.assertEqual((found.event["cause"], found.event["seq"]), ("client_gone", 2))
        self.assertEqual(said, ["websocket.connect", "websocket.disconnect"])

    def test_a_reason_that_is_too_long_is_cut_at_a_character(self):
        self.backend.answer = on("websocket.receive", ok({"type": "websocket.close", "code": 4500, "reason": "xé" * 100}), self.room)
        peer = self.open()
        peer.send("hi")
        self.assertEqual(peer.closed(), (4500, "xé" * 41))
        self.assertEqual(self.backend.hear("websocket.disconnect", self.room).event["reason"], "xé" * 41)

    def test_what_was_said_before_the_end_is_told_before_it(self):
        peer = self.open()
        tries = itertools.count()
        self.backend.answer = on("websocket.receive", lambda _: reply(503) if next(tries) < 3 else ok())
        peer.send("the last words")
        self.backend.hear("websocket.receive", self.room)
        peer.socket.close(1000)
        self.backend.hear("websocket.disconnect", self.room)
        kinds = [one.kind for one in self.backend.heard if "scope" in one.body and one.room == self.room]
        self.assertEqual(kinds, ["websocket.connect", *["websocket.receive"] * 4, "websocket.disconnect"])

    def test_who_drops_the_connection_is_told_as_gone(self):
        peer = self.open()
        peer.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.socket.shutdown(socket.SHUT_RDWR)
        found = self.backend.hear("websocket.disconnect", self.room)
        self.assertEqual((found.event["code"], found.event["cause"]), (1006, "client_gone"))

    def test_a_state_comes_with_the_end(self):
        self.backend.answer = on("websocket.connect", ok(state={"count": [1, None, "ö"]}))
        with self.open() as peer:
            peer.socket.close(1000)
        found = self.backend.hear("websocket.disconnect", self.room)
        self.assertEqual(found.body["connection"]["state"], {"count": [1, None, "ö"]})
        self.assertEqual(found.body["scope"]["path"], f"/ws/{self.room}/")

    def test_more_disconnects_than_the_queue_holds_are_lost_and_counted(self):
        with Server(self.config(self.backend, disconnect_queue=3)) as server:
            self.backend.hear("oneport.node_started", number=2)
            until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "the beginning to be told")
            peers = [Peer(server, f"/ws/{self.room}/") for _ in range(8)]
            self.backend.stop()
            for peer in peers:
                peer.socket.close()
            until(lambda: server.metric("oneport_websockets") == 0, "no sockets")
            until(lambda: server.metric("oneport_backend_disconnects_lost_total") > 0, "lost disconnects")
            self.backend.start()
            until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "no disconnect that waits")
            lost = server.metric("oneport_backend_disconnects_lost_total")
            found = self.backend.requests("websocket.disconnect", self.room)
            self.assertEqual(lost + len(found), 8)
            # Up to sixteen are sent at once, in addition to the queue: the number of losses is not exact.
            self.assertGreaterEqual(len(found), 3)

    def test_disconnects_are_tried_no_longer_than_they_may(self):
        with Server(self.config(self.backend, disconnect_expiry="1s")) as server:
            until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "the beginning to be told")
            with Peer(server, f"/ws/{self.room}/"):
                self.backend.stop()
            until(lambda: server.metric("oneport_backend_disconnects_lost_total") == 1, "a disconnect that is lost", 3 * DEADLINE)
            until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "no disconnect that waits")
            self.backend.start()
        self.assertEqual(self.backend.requests("websocket.disconnect", self.room), [])


class Stopped(AwayCase):
    """The server stops, or is killed."""

    def test_a_drain_tells_of_each_connection(self):
        with Server(self.config(self.backend)) as server:
            peers = [Peer(server, f"/ws/{self.room}/") for _ in range(60)]
            server.signal(signal.SIGTERM)
            self.assertEqual({peer.closed()[0] for peer in peers}, {1001})
            server.wait()
        found = self.backend.requests("websocket.disconnect", self.room)
        self.assertEqual(len({one.connection for one in found}), 60)
        self.assertEqual(len(found), 60)
        self.assertEqual({(one.event["code"], one.event["cause"]) for one in found}, {(1001, "server_drain")})

    def test_a_drain_tells_what_waited_too(self):
        with Server(self.config(self.backend, breaker_failures=1000)) as server:
            peer = Peer(server, f"/ws/{self.room}/")
            self.backend.answer = lambda request: reply(503)
            peer.socket.close()
            until(lambda: server.metric("oneport_backend_disconnects_waiting") == 1, "a disconnect that waits")
            self.backend.hear("websocket.disconnect", self.room, 3)
            self.backend.answer = lambda request: ok()
            server.stop()
        self.assertGreaterEqual(len(self.backend.requests("websocket.disconnect", self.room)), 4)

    def test_a_drain_tries_for_three_seconds_and_says_what_is_lost(self):
        with Server(self.config(self.backend)) as server:
            peers = [Peer(server, f"/ws/{self.room}/") for _ in range(5)]
            self.backend.stop()
            self.addCleanup(self.backend.start)
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            for peer in peers:
                self.assertEqual(peer.closed()[0], 1001)
            server.wait()
            self.assertLess(time.monotonic() - began, 15)
            self.assertGreater(time.monotonic() - began, 2.5)
            self.assertRegex(server.log(), r"WARN.*disconnects lost: the server stops.*")
            self.assertRegex(server.log(), r"lost=5")

    def test_a_backend_that_comes_back_in_the_last_three_seconds_is_told(self):
        with Server(self.config(self.backend, breaker_failures=1000)) as server:
            peers = [Peer(server, f"/ws/{self.room}/") for _ in range(5)]
            self.backend.stop()
            server.signal(signal.SIGTERM)
            for peer in peers:
                self.assertEqual(peer.closed()[0], 1001)
            self.backend.start()
            server.wait()
        self.assertEqual(len({one.connection for one in self.backend.requests("websocket.disconnect", self.room)}), 5)

    def test_a_request_under_way_is_answered_before_the_end(self):
        with Server(self.config(self.backend)) as server:
            peer = Peer(server, f"/ws/{self.room}/")
            arrived, go_on = threading.Event(), threading.Event()

            def slow(_):
                arrived.set()
                go_on.wait(DEADLINE)
                return ok()

            self.backend.answer = on("websocket.receive", slow)
            peer.send("hi")
            self.assertTrue(arrived.wait(DEADLINE))
            server.signal(signal.SIGTERM)
            self.assertEqual(peer.closed()[0], 1001)
            go_on.set()
            server.wait()
        kinds = [one.kind for one in self.backend.heard if "scope" in one.body and one.room == self.room]
        self.assertEqual(kinds, ["websocket.connect", "websocket.receive", "websocket.disconnect"])

    def test_a_server_that_was_killed_begins_anew_with_another_id(self):
        with Server(self.config(self.backend)) as server:
            seen = [one.body["node"]["id"] for one in self.backend.requests("oneport.node_started")]
            peer = Peer(server, f"/ws/{self.room}/")
            node = self.backend.hear("websocket.connect", self.room).body["connection"]["node"]
            until(
                lambda: node in [one.body["node"]["id"] for one in self.backend.requests("oneport.node_started")], "its beginning"
            )
            server.signal(signal.SIGKILL)
            server.wait(-signal.SIGKILL)
            self.assertIsNone(peer.closed())
            server.start()
            until(
                lambda: (
                    len({one.body["node"]["id"] for one in self.backend.requests("oneport.node_started")} - {*seen, node}) >= 1
                ),
                "another beginning",
            )
            last = self.backend.requests("oneport.node_started")[-1]
            self.assertEqual((last.event["name"], last.event["node"], last.event["seq"]), ("here", last.body["node"]["id"], 0))
            self.assertNotIn("connection", last.body)
            self.assertNotIn("scope", last.body)
            self.assertRegex(last.body["node"]["id"], r"^[0-9a-f]{16}$")
            self.assertEqual(self.backend.requests("websocket.disconnect", self.room), [])
            with Peer(server, f"/ws/{self.room}/"):
                found = self.backend.hear("websocket.connect", self.room, 2)
            self.assertEqual(found.body["connection"]["node"], last.body["node"]["id"])

    def test_the_beginning_is_told_when_the_backend_is_there(self):
        with Backend() as late:
            late.stop()
            with Server(self.config(late)) as server:
                until(lambda: server.metric("oneport_backend_requests_total", outcome="connection") > 0, "a first try")
                self.assertEqual(server.request("/health/")[0], 200)
                late.start()
                late.hear("oneport.node_started")
                until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "nothing that waits")
                self.assertEqual(len(late.requests("oneport.node_started")), 1)

    def test_the_beginning_is_told_once_for_each_url(self):
        with Backend() as one, Backend() as two:
            config = self.config(one)
            for number, backend in enumerate((one, two)):
                config += f"""
[[websocket.route]]
path = "/more{number}/{{room}}/"
consumer = "backend"
options = {{ url = "{backend.url}", secret = "{SECRET}" }}
"""
            with Server(config) as server:
                one.hear("oneport.node_started")
                two.hear("oneport.node_started")
                with Peer(server, "/ws/a/"), Peer(server, "/more0/a/"), Peer(server, "/more1/a/"):
                    pass
                for backend, number in ((one, 2), (two, 1)):
                    until(
                        lambda backend=backend, number=number: len(backend.requests("websocket.disconnect")) == number, "the ends"
                    )
                    self.assertEqual(len(backend.requests("oneport.node_started")), 1)
                    self.assertEqual(len({request.connection for request in backend.requests("websocket.connect")}), number)


class Circuit(AwayCase):
    options = {
        "timeout": "500ms",
        "retries": 0,
        "breaker_failures": 3,
        "breaker_open": "1s",
        "hold_time": "20s",
        "concurrency": 4,
    }

    def tearDown(self):
        super().tearDown()
        self.backend.answer = lambda request: ok()
        self.anew()

    def is_open(self):
        return self.server.metric("oneport_backend_circuit_open", endpoint=self.backend.label) == 1

    def test_it_opens_after_so_many_failures_in_a_row_and_closes_when_the_backend_is_back(self):
        for name, bad in {"503": reply(503), "closes": b"", "hangs": None}.items():
            with self.subTest(name):
                self.anew()
                self.backend.answer = on("websocket.connect", bad) if bad is not None else on("websocket.connect", lambda _: None)
                for _ in range(2):
                    self.assertIn(self.denied().status_code, (502, 504))
                    self.assertFalse(self.is_open())
                self.assertIn(self.denied().status_code, (502, 504))
                self.assertTrue(self.is_open())
                asked = len(self.backend.heard)
                before = self.asked("circuit_open")
                denied = self.denied()
                if self.is_open() and len(self.backend.heard) == asked:  # on a busy machine the second may be over
                    self.assertEqual(denied.status_code, 503)
                    self.assertRegex(denied.headers["retry-after"], r"^\d+$")
                    # The disconnects of the three before wait for the circuit as well, and are counted whenever they try.
                    self.assertGreaterEqual(self.asked("circuit_open") - before, 1)
                self.backend.answer = lambda request: ok()
                self.backend.release()

                def is_well(name=name):
                    try:
                        with Peer(self.server, f"/ws/{self.room}-{name}-back/"):
                            return True
                    except InvalidStatus:
                        return False

                until(is_well, "a backend that is asked again")
                self.closed_circuit()
                self.open()

    def test_answers_of_any_kind_say_that_it_is_there(self):
        answers = itertools.cycle([reply(503), reply(503), reply(404)])
        self.backend.answer = on("websocket.connect", lambda _: next(answers))
        for _ in range(9):
            self.assertIn(self.denied().status_code, (502, 404))
            self.assertFalse(self.is_open())
        for bad in (reply(500), reply(200, b"junk"), reply(302), reply(403), reply(429)):
            self.backend.answer = on("websocket.connect", bad)
            for _ in range(4):
                self.denied()
            self.assertFalse(self.is_open())

    def test_one_request_finds_out(self):
        go_on = threading.Event()
        # The one that finds out waits longer than the test does.
        with Server(self.config(self.backend, timeout="60s")) as server:
            self.nothing_waits(server)
            self.backend.answer = lambda request: reply(503)
            for _ in range(3):
                self.denied(server=server)

            def hold(request):
                if request.kind == "websocket.connect":
                    go_on.wait(DEADLINE)
                return reply(503)

            self.backend.answer = hold
            statuses = []

            def ask():
                while not go_on.is_set():
                    statuses.append(self.denied(server=server).status_code)

            threads = [threading.Thread(target=ask) for _ in range(6)]
            try:
                for thread in threads:
                    thread.start()
                self.backend.hear("websocket.connect", self.room, 4)
                refused = len(statuses)
                until(lambda: len(statuses) >= refused + 20, "others that are refused meanwhile")
                self.assertEqual(set(statuses), {503})
                self.assertEqual(len(self.backend.requests("websocket.connect", self.room)), 4)
            finally:
                go_on.set()
                for thread in threads:
                    thread.join(DEADLINE)
                self.backend.answer = lambda request: ok()

    def test_open_connections_are_held_meanwhile_and_go_on(self):
        peers = [self.open(f"{self.room}-{number}") for number in range(8)]
        self.backend.stop()
        for number, peer in enumerate(peers):
            peer.send(f"one {number}")
            peer.send(f"two {number}")
        until(self.is_open, "a circuit that is open")
        self.backend.answer = on(
            "websocket.receive", lambda request: ok(*(text(event["text"]) for event in request.body["events"]))
        )
        self.backend.start()
        for number, peer in enumerate(peers):
            self.assertEqual([peer.receive() for _ in range(2)], [f"one {number}", f"two {number}"])
        self.closed_circuit()

    def test_more_than_may_wait_while_it_is_open_is_1013(self):
        with Server(self.config(self.backend, hold="64 KiB", breaker_open="30s")) as server:
            peer = Peer(server, f"/ws/{self.room}/")
            self.backend.stop()
            self.addCleanup(self.backend.start)
            label = self.backend.label

            def is_open():
                peer.send("hi")  # the first may still be answered
                return server.metric("oneport_backend_circuit_open", endpoint=label) == 1

            until(is_open, "a circuit that is open")
            try:
                for _ in range(40):
                    peer.send("x" * 10_000)
            except Exception:  # noqa: BLE001 - it was ended before the last
                pass
            self.assertEqual(peer.closed(), (1013, "the application is unavailable"))
            until(lambda: server.metric("oneport_websockets_closed_total", cause="backend_away") == 1, "the cause")

    def test_no_free_place_is_503_with_retry_after(self):
        with Server(self.config(self.backend, concurrency=2, timeout="700ms", breaker_failures=1000)) as server:
            until(lambda: server.metric("oneport_backend_disconnects_waiting") == 0, "the beginning to be told")
            go_on = threading.Event()
            self.addCleanup(go_on.set)
            at_once, most = [0], [0]
            lock = threading.Lock()

            def slow(_):
                with lock:
                    at_once[0] += 1
                    most[0] = max(most[0], at_once[0])
                go_on.wait(0.6)
                with lock:
                    at_once[0] -= 1
                return ok()

            self.backend.answer = on("websocket.connect", slow)
            statuses = []

            def open_one(at):
                try:
                    with Peer(server, f"/ws/{self.room}-{at}/"):
                        statuses.append((101, None))
                except InvalidStatus as refused:
                    statuses.append((refused.response.status_code, refused.response.headers.get("retry-after")))

            threads = [threading.Thread(target=open_one, args=[at]) for at in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
            self.assertEqual(most[0], 2)
            self.assertEqual(len(statuses), 10)
            refused = [one for one in statuses if one[0] != 101]
            self.assertTrue(refused)
            self.assertLessEqual({status for status, _ in refused}, {503, 504})
            for status, retry_after in refused:
                if status == 503:
                    self.assertRegex(retry_after, r"^\d+$")
            self.assertIn(503, {status for status, _ in refused})


if __name__ == "__main__":
    unittest.main()
