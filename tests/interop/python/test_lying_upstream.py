"""An upstream that lies: malformed and ambiguous responses through the view `proxy`. Each becomes 502, passes as the one response
that it is, or visibly breaks off; what follows it on the upstream's connection is never the answer to another request."""

import re
import socket
import unittest

from kit.deadline import DEADLINE
from kit.http2 import Client
from kit.server import Server
from kit.strict_upstream import StrictUpstream
from kit.tls import Authority, SecureBytes, SecureServer

ROUTE = """
[server]
allowed_hosts = ["*"]
[[http.route]]
path = "/{*path}"
view = "proxy"
options = { upstream = ["http://127.0.0.1:%d"], response_timeout = "2s", idle_timeout = "2s", max_fails = 0 }
"""

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
KEEP, CLOSE = False, True
REFUSED = (502,)
HELLO = b"hello"
# The response begins, and has no end.
BROKEN = "broken"


def answer(fields=b"", body=b"hello", line=b"HTTP/1.1 200 OK\r\n"):
    return line + fields + b"\r\n" + body


LENGTH = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"

# What the upstream sends, whether it closes the connection behind it, and what the client may get: statuses, a body, `BROKEN`.
CASES = {
    "a plain response": (answer(LENGTH), KEEP, (HELLO,)),
    "chunks": (answer(CHUNKED, CHUNKS), KEEP, (HELLO,)),
    "a body that ends with the connection": (answer(), CLOSE, (HELLO,)),
    # Two lengths.
    "both lengths": (answer(LENGTH + CHUNKED, CHUNKS), KEEP, REFUSED),
    "both lengths, the other way around": (answer(CHUNKED + LENGTH, CHUNKS), KEEP, REFUSED),
    "two lengths": (answer(LENGTH + b"Content-Length: 6\r\n"), KEEP, REFUSED),
    "the same length twice": (answer(LENGTH + LENGTH), KEEP, (502, HELLO)),
    "a list of lengths": (answer(b"Content-Length: 5, 6\r\n"), KEEP, REFUSED),
    "a length with a plus": (answer(b"Content-Length: +5\r\n"), KEEP, REFUSED),
    "a length with a minus": (answer(b"Content-Length: -5\r\n"), KEEP, REFUSED),
    "a length in hexadecimal": (answer(b"Content-Length: 0x5\r\n"), KEEP, REFUSED),
    "an empty length": (answer(b"Content-Length: \r\n"), KEEP, REFUSED),
    "a length over 64 bits": (answer(b"Content-Length: 18446744073709551621\r\n"), KEEP, REFUSED),
    "a space before the colon of the length": (answer(b"Content-Length : 5\r\n"), KEEP, REFUSED),
    "a folded length": (answer(b"Content-Length:\r\n 5\r\n"), KEEP, (502, HELLO)),
    # Codings.
    "another coding": (answer(b"Transfer-Encoding: gzip\r\n"), CLOSE, REFUSED),
    "another coding before chunked": (answer(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), KEEP, REFUSED),
    "identity": (answer(b"Transfer-Encoding: identity\r\n"), CLOSE, REFUSED),
    "chunked twice": (answer(CHUNKED + CHUNKED, CHUNKS), KEEP, REFUSED),
    "a coding that only looks like chunked": (answer(b"Transfer-Encoding: xchunked\r\n", CHUNKS), CLOSE, REFUSED),
    "chunked with a vertical tab": (answer(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS), CLOSE, REFUSED),
    "chunked over HTTP/1.0": (answer(CHUNKED, CHUNKS, b"HTTP/1.0 200 OK\r\n"), CLOSE, (502, HELLO, CHUNKS)),
    # Bodies that are not what was announced.
    "a short body": (answer(b"Content-Length: 10\r\n"), CLOSE, (BROKEN,)),
    "a short chunk": (answer(CHUNKED, b"a\r\nhello"), CLOSE, (BROKEN,)),
    "no last chunk": (answer(CHUNKED, b"5\r\nhello\r\n"), CLOSE, (BROKEN,)),
    "a chunk size that is no number": (answer(CHUNKED, b"5\r\nhello\r\nzz\r\n"), CLOSE, (BROKEN,)),
    "a chunk size that overflows": (answer(CHUNKED, b"5\r\nhello\r\n10000000000000000\r\n"), CLOSE, (BROKEN,)),
    "an endless extension": (answer(CHUNKED, b"5\r\nhello\r\n1;" + b"a" * 100_000), CLOSE, (BROKEN,)),
    "endless trailers": (answer(CHUNKED, b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 20_000), CLOSE, (BROKEN,)),
    "a body that stops": (answer(b"Content-Length: 10\r\n"), KEEP, (BROKEN,)),
    "a reset instead of a head": (b"", CLOSE, REFUSED),
    # A second response behind the first.
    "a response behind one with a length": (answer(LENGTH) + EVIL, KEEP, (HELLO,)),
    "a response behind one in chunks": (answer(CHUNKED, CHUNKS) + EVIL, KEEP, (HELLO,)),
    "a response behind 204": (answer(b"", b"", b"HTTP/1.1 204 No Content\r\n") + EVIL, KEEP, (204,)),
    "a length of 204": (answer(b"Content-Length: %d\r\n" % len(EVIL), EVIL, b"HTTP/1.1 204 No Content\r\n"), KEEP, (204, 502)),
    "chunks of 204": (answer(CHUNKED, CHUNKS, b"HTTP/1.1 204 No Content\r\n"), KEEP, (204, 502)),
    "a body of 304": (answer(LENGTH, EVIL, b"HTTP/1.1 304 Not Modified\r\n"), KEEP, (304, 502)),
    "surplus bytes": (answer(LENGTH, b"hello and more"), KEEP, (HELLO,)),
    # Heads.
    "nonsense": (b"nonsense\r\n\r\n", CLOSE, REFUSED),
    "half a head": (b"HTTP/1.1 200 OK\r\nX: y\r\n", CLOSE, REFUSED),
    "a head that stops": (b"HTTP/1.1 200 OK\r\nX: y\r\n", KEEP, (504,)),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n", KEEP, REFUSED),
    "HTTP/2 in text": (answer(LENGTH, line=b"HTTP/2.0 200 OK\r\n"), CLOSE, REFUSED),
    "a status of two digits": (answer(LENGTH, line=b"HTTP/1.1 20 OK\r\n"), CLOSE, REFUSED),
    "a status of four digits": (answer(LENGTH, line=b"HTTP/1.1 2000 OK\r\n"), CLOSE, REFUSED),
    "a status below 100": (answer(LENGTH, line=b"HTTP/1.1 099 OK\r\n"), CLOSE, REFUSED),
    "a status with a sign": (answer(LENGTH, line=b"HTTP/1.1 +20 OK\r\n"), CLOSE, REFUSED),
    "a status without a reason": (answer(LENGTH, line=b"HTTP/1.1 200\r\n"), KEEP, (HELLO,)),
    "a carriage return in the reason": (answer(LENGTH, line=b"HTTP/1.1 200 OK\rX: y\r\n"), CLOSE, (502,)),
    "bare line feeds": (answer(LENGTH).replace(b"\r\n", b"\n"), KEEP, (502, HELLO)),
    "a bare carriage return": (answer(b"X: a\rTransfer-Encoding: chunked\r\n" + LENGTH), KEEP, REFUSED),
    "a NUL in a value": (answer(b"X: a\0b\r\n" + LENGTH), KEEP, REFUSED),
    "a space in a name": (answer(b"X y: a\r\n" + LENGTH), KEEP, REFUSED),
    "a field without a name": (answer(b": a\r\n" + LENGTH), KEEP, REFUSED),
    "a field without a colon": (answer(b"nonsense\r\n" + LENGTH), KEEP, REFUSED),
    "a look-alike of the coding": (answer(b"Transfer_Encoding: chunked\r\n" + LENGTH), KEEP, (HELLO,)),
    "an endless head": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500_000, CLOSE, REFUSED),
    "an endless field": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 3_000_000, CLOSE, REFUSED),
    "a field of the connection named Content-Length": (answer(b"Connection: Content-Length\r\n" + LENGTH), KEEP, (HELLO,)),
    # Interim responses.
    "100 unasked": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(LENGTH), KEEP, (HELLO,)),
    "hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + answer(LENGTH), KEEP, (HELLO,)),
    "a storm of interim responses": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 50_000 + answer(LENGTH), KEEP, (502, HELLO)),
    "interim responses without an end": (b"HTTP/1.1 102 Processing\r\n\r\n", KEEP, (504,)),
    "a switch of protocols unasked": (answer(b"Connection: upgrade\r\nUpgrade: websocket\r\n", EVIL, b"HTTP/1.1 101 Switching\r\n"), KEEP, REFUSED),
    "a body of 103": (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + answer(LENGTH), KEEP, (502, HELLO)),
}


class OverHttp1(unittest.TestCase):
    """The cases for a client of HTTP/1.1 without TLS."""

    @classmethod
    def setUpClass(cls):
        cls.upstream = cls.enterClassContext(StrictUpstream())
        for number, (response, closes, _) in enumerate(CASES.values()):
            cls.upstream.answers[f"/{number}"] = (response, closes)
        cls.server = cls.enterClassContext(cls.started(ROUTE % cls.upstream.port))

    @classmethod
    def started(cls, config):
        return Server(config)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.server.port), DEADLINE)

    def outcome(self, target):
        """Asks for a target; returns the status, and the body, or `BROKEN` if it has no end."""
        with self.connect() as connection:
            connection.settimeout(DEADLINE)
            connection.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target.encode())
            received = bytearray()
            try:
                while data := connection.recv(65536):
                    received += data
            except OSError:  # a reset, or TLS without its end
                pass
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        self.assertEqual(len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", head)), 1, received)
        status = int(head[9:12])
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        if re.search(rb"\r\ntransfer-encoding: chunked", head, re.IGNORECASE):
            self.assertIsNone(length, head)
            content = b""
            while found := re.match(rb"([0-9a-fA-F]+)\r\n", body):
                size = int(found[1], 16)
                if not size:
                    return status, content
                content, body = content + body[found.end() : found.end() + size], body[found.end() + size + 2 :]
            return status, BROKEN
        if length and int(length[1]) != len(body):
            self.assertLess(len(body), int(length[1]))
            return status, BROKEN
        return status, body

    def test_each_response_is_refused_passed_or_broken_off_and_answers_one_request(self):
        for number, (name, (_, _, allowed)) in enumerate(CASES.items()):
            with self.subTest(name):
                status, body = self.outcome(f"/{number}")
                if status == 200:
                    self.assertIn(body, allowed)
                else:
                    self.assertIn(status, allowed)
                    self.assertNotIn(b"EVIL", body)
                # The next requests get their own answers.
                for _ in range(2):
                    self.assertEqual(self.outcome("/next"), (200, b"ok\n"))
        self.assertEqual(self.upstream.violations, [])

    def test_the_length_of_head_is_no_body(self):
        for number, name in enumerate(CASES):
            if name not in ("a plain response", "chunks", "surplus bytes", "a response behind one with a length"):
                continue
            with self.subTest(name), self.connect() as connection:
                connection.settimeout(DEADLINE)
                head = b"HEAD /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
                connection.sendall(head + b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                received = bytearray()
                while data := connection.recv(65536):
                    received += data
                self.assertEqual(len(re.findall(rb"HTTP/1\.1 200 OK\r\n", received)), 2, received)
                self.assertTrue(received.endswith(b"\r\n\r\nok\n"), received)
                self.assertNotIn(b"hello", received)

    def test_the_server_is_well_after_all_of_it(self):
        self.assertEqual(self.server.request("/next")[0] if type(self) is OverHttp1 else 200, 200)
        self.assertLess(self.server.resident_bytes(), 200 << 20)


class OverTls(OverHttp1):
    """The same over TLS."""

    @classmethod
    def started(cls, config):
        cls.authority = Authority()
        return SecureServer(cls.authority, config.replace("[server]\nallowed_hosts = [\"*\"]\n", ""), server='allowed_hosts = ["*"]')

    def connect(self):
        return self.server.connect(self.authority.context("http/1.1"))


class OverHttp2(OverHttp1):
    """The same for a client of HTTP/2."""

    def client(self):
        return Client(self.server)

    def outcome(self, target):
        with self.client() as client:
            stream = client.ask(target)
            client.until(lambda: stream in client.ended or stream in client.resets, "an end of the stream")
            fields, body = client.answers[stream]
            if stream in client.resets:
                return int(fields.get(":status", 200)), BROKEN
            return int(fields[":status"]), bytes(body)


class OverHttp2AndTls(OverHttp2):
    @classmethod
    def started(cls, config):
        cls.authority = Authority()
        return SecureServer(cls.authority, config.replace("[server]\nallowed_hosts = [\"*\"]\n", ""), server='allowed_hosts = ["*"]')

    def connect(self):
        return self.server.connect(self.authority.context("http/1.1"))

    def client(self):
        return Client(self.server, over=SecureBytes(self.server.connect(self.authority.context("h2"))))
