"""Log lines: what clients send can neither forge a line or a field of one, nor make a line long.

Each value from outside is quoted and escaped in text, and arrives whole in JSON: quotes, C0 and C1 controls, line separators. A request of
some bytes makes no line of kilobytes, and an `X-Request-Id` that is no token is replaced.
"""

import json
import re
import subprocess
import unittest

from disturb.case import Chaos
from kit.deadline import DEADLINE, until
from kit.frames import CLOSE, Bytes, RawSocket, close_payload
from kit.http2 import Client
from kit.server import binary
from kit.visitor import LOGIN, PAGES, PASSWORD, Visitor

CONFIG = (
    """
[server]
trusted_proxies = ["127.0.0.1"]
allowed_hosts = ["localhost", "127.0.0.1", {hosts}]

[log]
format = "{style}"
level = "info,oneport=debug"

[session]
store = "sqlite:site.db"

"""
    + LOGIN
    + """
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
methods = ["POST"]
middleware = ["hosts", "session", "auth", "csrf"]

[[http.route]]
path = "/guarded/"
view = "respond"
middleware = ["hosts", "origin"]

[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news", history = 5 }}

[[http.route]]
path = "/{{*rest}}"
view = "respond"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", history = 5, recover = true }}
"""
)

# Enough of them that their list would fill pages.
HOSTS = ", ".join(f'"host-number-{number}.example.com"' for number in range(400))

# Tried in place of every value: each would end a value, a line, or confuse a terminal.
QUOTE = 'x" forged="1" allowed=['
PLAIN = "x forged=1 status=200"
C1 = "x\u0085y\u009b31mz\u2028forged=1\u202e"
BREAK = "x%0aforged=1%0d%1b[31m"
ATTACKS = (QUOTE, PLAIN, C1)

LINE_MAX = 4096
# Controls, and characters that move or hide the text of a line on a terminal.
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
FIELD = re.compile(r'(?<![^ ])([\w.]+)=("(?:[^"\\]|\\.)*"|[^\s"]+)(?= |$)')
BEGINNING = re.compile(r"\d{4}-\d\d-\d\dT\S+Z\s+(?:ERROR|WARN|INFO|DEBUG|TRACE) [\w:]+: ")


class LogLines(Chaos):
    style = "text"

    def begin(self):
        return self.start(CONFIG.format(hosts=HOSTS, style=self.style), files=PAGES)

    def say(self, server, data):
        """Sends bytes and reads the response until the end, or until it is complete."""
        with Bytes(("127.0.0.1", server.port)) as client:
            client.send(data)
            try:
                return client.head()
            except (EOFError, OSError, ValueError, IndexError):
                return None

    def get(self, server, path="/", *fields, method="GET", host="localhost"):
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *fields]
        return self.say(server, ("\r\n".join(lines) + "\r\n\r\n").encode())

    def upgrade(self, server, path="/ws/echo/", **changes):
        fields = {
            "Host": "localhost",
            "Origin": "http://localhost",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **changes,
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return self.say(server, ("\r\n".join(lines) + "\r\n\r\n").encode())

    def attack(self, server):
        """Puts each attack wherever a client can put anything."""
        for value in ATTACKS:
            encoded = value.replace(" ", "%20")
            self.get(server, f"/{encoded}")
            self.get(server, f"/missing{encoded}?{encoded}", "Accept: application/json")
            self.get(server, host=value)
            self.get(server, "/", f"X-Request-Id: {value}")
            self.get(server, "/", f"X-Forwarded-For: {value}", f"X-Forwarded-Host: {value}", f"X-Forwarded-Proto: {value}")
            self.get(server, "/", f"Forwarded: for={value}")
            self.get(server, "/", f"Cookie: sessionid={value}; csrftoken={value}")
            self.get(server, "/", f"Authorization: Bearer {value}", f"User-Agent: {value}", f"Referer: {value}")
            self.get(server, "/events/", f"Last-Event-ID: {value}", "Accept: text/event-stream")
            self.get(server, "/guarded/", f"Origin: {value}", method="POST")
            self.get(server, "/guarded/", f"Origin: http://{value}", "Origin: http://a.example", method="POST")
            self.get(server, "/form/", f"Origin: {value}", f"X-CSRFToken: {value}", "Content-Length: 0", method="POST")
            self.get(server, "/", f"{value}: a name")
            self.get(server, "/", method=value.replace(" ", "")[:10])
            self.get(server, "/", f"Transfer-Encoding: {value}", method="POST")
            self.get(server, "/", f"Content-Length: {value}", method="POST")
            self.upgrade(server, Origin=value)
            self.upgrade(server, Origin=f"http://{value}")
            self.upgrade(server, Host=value)
            self.upgrade(server, **{"Sec-WebSocket-Protocol": value})
            self.upgrade(server, **{"Sec-WebSocket-Version": value})
            self.upgrade(server, **{"Sec-WebSocket-Key": value})
            self.upgrade(server, **{"Sec-WebSocket-Extensions": value})
            self.upgrade(server, f"/ws/{encoded}/")
            self.upgrade(server, f"/ws/chat/a/?since={encoded}")
            self.say(server, f"{value}\r\n\r\n".encode())
            self.say(server, f"GET http://{value}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            self.close_with(server, value.encode())
            self.over_http2(server, value)
        self.get(server, f"/{BREAK}")
        self.log_in(server)
        self.record.during()

    def close_with(self, server, reason):
        with RawSocket(server, "/ws/echo/") as raw:
            raw.say(CLOSE, close_payload(4000, reason[:100]))
            raw.rest()

    def over_http2(self, server, value):
        with Client(server) as client:
            client.h2.config.validate_outbound_headers = False
            client.h2.config.normalize_outbound_headers = False
            streams = [
                client.ask(f"/{value}"),
                client.ask("/", authority=value),
                client.ask("/", method=value),
                client.ask_for_socket("/ws/echo/", {":protocol": value}),
                client.ask_for_socket("/ws/echo/", {"origin": value}),
            ]
            try:
                client.until(lambda: all(one in client.ended or one in client.resets for one in streams), "the ends of all streams")
            except (EOFError, OSError):
                pass  # it ended the connection, which is its right

    def log_in(self, server):
        """As users whose names are attacks themselves."""
        for name in (QUOTE, PLAIN, C1):
            done = subprocess.run(
                [binary(), "user", "--config", server.config, "add", "--password-stdin", "--", name],
                input=f"{PASSWORD}\n",
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                cwd=server.directory,
                check=False,
            )
            if done.returncode == 0:
                Visitor(server).log_in(name).name()
            Visitor(server).try_to_log_in(name, "wrong")

    def lines(self, server):
        """Returns the log's lines after a request that ends it."""
        server.request("/who/?the-last-one")
        until(lambda: server.log().count('"/who/"') > 0, "the last line")
        return [line for line in (server.directory / "stderr").read_text(encoding="utf-8").split("\n") if line]

    def test_no_line_and_no_field_is_forged(self):
        server = self.begin()
        self.attack(server)
        lines = self.lines(server)
        self.assertGreater(len(lines), 100)
        for what, wrong in {
            "lines that begin like none of the log's": [line for line in lines if not BEGINNING.match(line)],
            "lines with controls": [line for line in lines if UNSAFE.search(line)],
            "lines with a forged field": [line for line in lines if "forged" in dict(fields_of(line))],
            "lines with a field twice": [line for line in lines if len(dict(fields_of(line))) != len(fields_of(line))],
            "lines with a value that is neither quoted nor one word": [line for line in lines if " access: " in line and remains(line)],
        }.items():
            with self.subTest(what):
                self.assertEqual([line[:400] for line in wrong[:5]], [])

    def test_a_small_request_makes_no_long_line(self):
        server = self.begin()
        self.attack(server)
        long = [f"{len(line)}: {line[:300]}" for line in self.lines(server) if len(line) > LINE_MAX]
        self.assertEqual(long[:5], [])

    def test_a_long_request_makes_no_long_line(self):
        """Some bytes more than the longest of its values."""
        server = self.begin()
        much = "x" * 7000
        self.get(server, f"/{much}")
        self.get(server, "/", f"Origin: http://{much}", f"X-Request-Id: {much}")
        self.get(server, host=much)
        self.upgrade(server, Origin=f"http://{much}")
        self.upgrade(server, f"/ws/{much}/")
        self.upgrade(server, **{"Sec-WebSocket-Protocol": much})
        self.get(server, method=much)
        self.get(server, "/", f"X-Forwarded-For: {much}, {much}")
        long = [f"{len(line)}: {line[:200]}" for line in self.lines(server) if len(line) > len(much) + 1024]
        self.assertEqual(long[:5], [])

    def test_a_request_id_that_is_no_token_is_replaced(self):
        server = self.begin()
        for given in ("a b", QUOTE, C1, "x,y", "a/b", "a;b", "(a)", "a=b", "x" * 129, ""):
            with self.subTest(given):
                self.assertRegex(self.identified(server, given), r"^[0-9a-f]{16}$")
        for given in ("0123456789abcdef", "b6a7c1d2-3e4f-4a5b-8c6d-7e8f9a0b1c2d", "a.b_c~d!#$%&'*+^`|", "x" * 128):
            with self.subTest(given):
                self.assertEqual(self.identified(server, given), given)

    def identified(self, server, given):
        """Returns the id of a request that fails, which its answer names."""
        with Bytes(("127.0.0.1", server.port)) as client:
            client.send(f"GET /form HTTP/1.1\r\nHost: no.example\r\nAccept: application/json\r\nX-Request-Id: {given}\r\n\r\n".encode())
            _, fields = client.head()
            return json.loads(client.exactly(int(fields["content-length"])))["error"]["request_id"]


class JsonLines(LogLines):
    style = "json"

    def test_no_line_and_no_field_is_forged(self):
        server = self.begin()
        self.attack(server)
        wrong, parsed = [], []
        for line in self.lines(server):
            try:
                parsed.append(json.loads(line, object_pairs_hook=once))
            except ValueError as error:
                wrong.append(f"{error}: {line}")
        self.assertEqual([line[:400] for line in wrong[:5]], [])
        self.assertEqual([line["message"] for line in parsed if {"forged", "allowed"} & keys(line)][:5], [])

    def test_a_value_arrives_whole(self):
        server = self.begin()
        server.request("/%22%20forged=%221%22/")
        path = '/a"b/' + C1.replace("\u202e", "")
        self.get(server, path.replace(" ", "%20"))
        found = [json.loads(line) for line in self.lines(server)]
        paths = {value for line in found for value in values(line)}
        self.assertIn("/%22%20forged=%221%22/", paths)
        self.assertIn(path.replace(" ", "%20"), paths)


def fields_of(line):
    """Returns the fields of a line as a log reader parses them: a quoted text is one value."""
    return [(name, value) for name, value in FIELD.findall(line)]


def remains(line):
    """Returns the rest of an access line without its start, its fields and its message."""
    return FIELD.sub("", BEGINNING.sub("", line)).split()[1:]


def once(pairs):
    """Refuses an object with one name twice, of which parsers take either."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"a name twice among {[name for name, _ in pairs]}")
    return dict(pairs)


def keys(value):
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(inner) for inner in value.values()))


def values(value):
    if isinstance(value, dict):
        return {text for inner in value.values() for text in values(inner)}
    return {value} if isinstance(value, str) else set()


if __name__ == "__main__":
    unittest.main()
