"""Smuggling: malformed and ambiguous requests through the view `proxy`. Each is refused, or reaches the upstream as the one
request that it is; a strict upstream records every byte that it gets."""

import re
import socket
import unittest

from h2.errors import ErrorCodes

from kit.deadline import DEADLINE, until
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
body_size = "1 MiB"
options = { upstream = ["http://127.0.0.1:%d"] }
"""

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
# Follows each case: it is answered if the connection can still be used, and closes it.
END = b"GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

CHUNKED = b"Transfer-Encoding: chunked\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def post(fields=b"", body=b"", line=b"POST /case HTTP/1.1\r\n", host=b"Host: a\r\n"):
    return line + host + fields + b"\r\n" + body


def get(target, fields=b"", host=b"Host: a\r\n"):
    return post(fields, line=b"GET " + target + b" HTTP/1.1\r\n", host=host)


def length(value, body=b"hello"):
    return post(b"Content-Length: " + value + b"\r\n", body)


def coded(value, body=HELLO):
    return post(b"Transfer-Encoding: " + value + b"\r\n", body)


def chunks(body):
    return post(CHUNKED, body)


ONE = [("/case", b"hello")]
EMPTY = [("/case", b"")]
# It is the last request of its connection.
CLOSED = "closed"
# Over TLS the client has agreed on HTTP/1.1; the preface is another protocol.
NO_ANSWER = "no answer"

# What the client sends, and its end: the status of a refusal, or the requests that the upstream gets.
CASES = {
    # Two lengths. Nothing behind such a request is read: where it begins is uncertain (RFC 9112 §6.1).
    "both lengths": (post(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n" + SMUGGLED), CLOSED),
    "both lengths, the other way around": (post(CHUNKED + b"Content-Length: 40\r\n", b"0\r\n\r\n" + SMUGGLED), CLOSED),
    "both lengths in different cases": (post(b"content-LENGTH: 5\r\ntransfer-ENCODING: chunked\r\n", b"0\r\n\r\n" + SMUGGLED), CLOSED),
    "the same length twice": (post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), ONE),
    "two lengths": (post(b"Content-Length: 5\r\nContent-Length: 0\r\n", b"hello"), 400),
    "a list of lengths": (length(b"5, 5"), 400),
    "a list of different lengths": (length(b"5, 0"), 400),
    "a length with a plus": (length(b"+5"), 400),
    "a length with a minus": (length(b"-5"), 400),
    "a length in hexadecimal": (length(b"0x5"), 400),
    "a length with an exponent": (length(b"5e0"), 400),
    "a length with a letter": (length(b"5a"), 400),
    "a length with a point": (length(b"5.0"), 400),
    "a length with a space inside": (length(b"5 5"), 400),
    "a length in quotes": (length(b'"5"'), 400),
    "an empty length": (length(b""), 400),
    "a length of other digits": (length("５".encode()), 400),
    "a length with zeros in front": (length(b"0005"), ONE),
    "a length with space around": (length(b"  5\t "), ONE),
    "a length of 64 bits": (length(b"18446744073709551615"), (400, 413, 431)),
    "a length of 63 bits": (length(b"9223372036854775808"), 413),
    "a length of more digits": (length(b"100000000000000000000005"), 400),
    "a length over the limit": (length(b"1048577"), 413),
    "a length before a comma": (length(b"5,"), 400),
    "a length with a parameter": (length(b"5;q=1"), 400),
    "a length of zero and another request": (post(b"Content-Length: 0\r\n", SMUGGLED), [*EMPTY, ("/smuggled", b"")]),
    "no length and another request": (post(b"", SMUGGLED), [*EMPTY, ("/smuggled", b"")]),
    "a GET with another request behind it": (get(b"/case") + SMUGGLED, [*EMPTY, ("/smuggled", b"")]),
    # What follows is a request of the method lloGET.
    "a length below the body": (length(b"2"), [("/case", b"he")]),
    "a length with a vertical tab": (length(b"\x0b5"), 400),
    # Transfer-Encoding.
    "a coding that only looks like chunked": (coded(b"xchunked"), 400),
    "chunked twice": (coded(b"chunked, chunked"), 400),
    "chunked twice in two fields": (post(CHUNKED + CHUNKED, HELLO), 400),
    "chunked before another coding": (coded(b"chunked, identity"), 400),
    "another coding before chunked": (coded(b"gzip, chunked"), 501),
    "identity": (coded(b"identity"), 400),
    "identity after chunked in another field": (post(CHUNKED + b"Transfer-Encoding: identity\r\n", HELLO), 400),
    "identity before chunked in another field": (post(b"Transfer-Encoding: identity\r\n" + CHUNKED, HELLO), (400, 501)),
    "chunked in capitals": (coded(b"CHUNKED"), ONE),
    "chunked with space around": (coded(b"\t chunked \t"), ONE),
    "chunked with a vertical tab": (coded(b"\x0bchunked"), 400),
    "chunked in quotes": (coded(b'"chunked"'), 400),
    "chunked with a parameter": (coded(b"chunked;q=1"), 400),
    "chunked with a NUL": (coded(b"chunked\0"), 400),
    "chunked with a high byte": (coded(b"chunked\xa0"), 400),
    "an empty coding and a length": (post(b"Transfer-Encoding: \r\nContent-Length: 5\r\n", b"hello"), 400),
    "chunked behind a comma": (coded(b",chunked"), (400, ONE)),
    "chunked before a comma": (coded(b"chunked,"), (400, ONE)),
    "chunked between line feeds": (b"POST /case HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\n\r\n" + HELLO, (400, ONE)),
    "a coding behind a bare line feed and a length": (post(b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n" + SMUGGLED), (400, CLOSED)),
    "trailers as a coding": (coded(b"trailers"), (400, 501)),
    "deflate": (coded(b"deflate"), (400, 501)),
    "chunked over HTTP/1.0": (post(CHUNKED, HELLO, line=b"POST /case HTTP/1.0\r\n"), 400),
    "a space before the colon": (post(b"Transfer-Encoding : chunked\r\n", HELLO), 400),
    "a tab before the colon": (post(b"Content-Length\t: 5\r\n", b"hello"), 400),
    "a folded coding": (post(b"Transfer-Encoding:\r\n chunked\r\n", HELLO), 400),
    "a folded length": (post(b"Content-Length: 5\r\n 5\r\n", b"hello"), 400),
    "a field that begins with a space": (post(b" Transfer-Encoding: chunked\r\n", HELLO), 400),
    "a coding in another's fold": (post(b"X: y\r\n\tTransfer-Encoding: chunked\r\n", HELLO), 400),
    "a look-alike with an underscore": (post(b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", b"hello"), ONE),
    "a look-alike with a point": (post(b"Transfer.Encoding: chunked\r\nContent-Length: 5\r\n", b"hello"), ONE),
    "a look-alike of the length": (post(b"Content_Length: 0\r\nContent-Length: 5\r\n", b"hello"), ONE),
    # Line ends and control characters.
    "a bare CR before a field": (post(b"X: y\rTransfer-Encoding: chunked\r\n", HELLO), 400),
    "a bare CR in the request line": (post(line=b"GET /case HTTP/1.1\rX: y\r\n"), 400),
    "an end of the head with two CR": (b"GET /case HTTP/1.1\r\nHost: a\r\n\r\r\n" + SMUGGLED, 400),
    "a NUL in a value": (get(b"/case", b"X: a\0b\r\n"), 400),
    "a NUL in a name": (get(b"/case", b"X\0: a\r\n"), 400),
    "an escape in a value": (get(b"/case", b"X: a\x1bb\r\n"), 400),
    "a field without a name": (get(b"/case", b": a\r\n"), 400),
    "a field without a colon": (get(b"/case", b"nonsense\r\n"), 400),
    "a name with a space": (post(b"Content Length: 5\r\n", b""), 400),
    "a name with a high byte": (get(b"/case", b"X\xff: a\r\n"), 400),
    "a name in parentheses": (get(b"/case", b"(X): a\r\n"), 400),
    "a field without a value": (get(b"/case", b"X:\r\n"), EMPTY),
    "empty lines before the request": (b"\r\n\r\n" + get(b"/case"), EMPTY),
    "a space before the request": (b" " + get(b"/case"), 400),
    # Chunks.
    "a chunk with an extension": (chunks(b"5;a=b\r\nhello\r\n0\r\n\r\n"), ONE),
    "an extension with a line feed": (chunks(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
    "an extension with a carriage return": (chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "an endless extension": (chunks(b"5;" + b"a" * 40_000 + b"\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with 0x": (chunks(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with a plus": (chunks(b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with a minus": (chunks(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with a letter": (chunks(b"5g\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with an underscore": (chunks(b"0_5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size with a space in front": (chunks(b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk without a size": (chunks(b"\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size that overflows": (chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk over the limit": (chunks(b"100001\r\n" + b"x" * 0x100001 + b"\r\n0\r\n\r\n"), 413),
    "a chunk size that ends in a line feed": (chunks(b"5\nhello\r\n0\r\n\r\n"), 400),
    "a chunk that is too long": (chunks(b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "a chunk that ends in a line feed": (chunks(b"5\r\nhello\n0\r\n\r\n"), 400),
    "a chunk size with a space behind it": (chunks(b"5 \r\nhello\r\n0\r\n\r\n"), (400, ONE)),
    "a chunk size with a tab behind it": (chunks(b"5\t\r\nhello\r\n0\r\n\r\n"), (400, ONE)),
    "a chunk size with a NUL": (chunks(b"5\0\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size that ends in a carriage return": (chunks(b"5\rhello\r\n0\r\n\r\n"), 400),
    "a last chunk with an extension": (chunks(b"5\r\nhello\r\n0;a=b\r\n\r\n"), ONE),
    "an extension in quotes with another request": (chunks(b'5;a="\r\nhello\r\n0\r\n\r\n'), (400, ONE)),
    "a last chunk that ends in a line feed": (chunks(b"5\r\nhello\r\n0\n\n"), 400),
    "a chunk that is too short": (chunks(b"6\r\nhello\r\n0\r\n\r\n"), 400),
    "a chunk size of 16 digits": (chunks(b"0000000000000005\r\nhello\r\n0\r\n\r\n"), (400, ONE)),
    "endless trailers": (chunks(b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), (400, 431)),
    "a folded trailer": (chunks(b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"), (400, ONE)),
    "trailers of the proxy": (chunks(b"5\r\nhello\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nX_Request_Id: x\r\nX-Request-ID: x\r\n\r\n"), ONE),
    "a last chunk of several zeros": (chunks(b"5\r\nhello\r\n000\r\n\r\n"), ONE),
    "trailers that frame": (chunks(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n"), ONE),
    "a trailer without a colon": (chunks(b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n"), (400, ONE)),
    "a request behind the last chunk": (chunks(HELLO) + SMUGGLED, [*ONE, ("/smuggled", b"")]),
    # The host.
    "no host": (get(b"/case", host=b""), 400),
    "two hosts": (get(b"/case", b"Host: b\r\n"), 400),
    "the same host twice": (get(b"/case", b"Host: a\r\n"), 400),
    "an empty host": (get(b"/case", host=b"Host: \r\n"), 400),
    "a host with a path": (get(b"/case", host=b"Host: a/b\r\n"), 400),
    "a host with a user": (get(b"/case", host=b"Host: a@b\r\n"), 400),
    "a host with a space": (get(b"/case", host=b"Host: a b\r\n"), 400),
    "a list of hosts": (get(b"/case", host=b"Host: a, b\r\n"), 400),
    "a folded host": (get(b"/case", host=b"Host: a\r\n b\r\n"), 400),
    "a host with a NUL": (get(b"/case", host=b"Host: a\0b\r\n"), 400),
    "a host with a fragment": (get(b"/case", host=b"Host: a#b\r\n"), 400),
    "a host in an absolute target with a user": (get(b"http://x@b/case"), 400),
    "an absolute target without a host": (get(b"http:///case"), 400),
    "an absolute target of another scheme": (get(b"ftp://b/case"), (400, EMPTY)),
    "a host with a bad port": (get(b"/case", host=b"Host: a:b\r\n"), 400),
    "a host with a high byte": (get(b"/case", host=b"Host: a\xff\r\n"), 400),
    # The request line.
    "two spaces": (post(line=b"GET  /case HTTP/1.1\r\n"), 400),
    "a tab": (post(line=b"GET\t/case HTTP/1.1\r\n"), 400),
    "a fourth part": (post(line=b"GET /case HTTP/1.1 x\r\n"), 400),
    "a space in the target": (post(line=b"GET /case /x HTTP/1.1\r\n"), 400),
    "another version": (post(line=b"GET /case HTTP/1.2\r\n"), (400, 505)),
    "HTTP/2 in text": (post(line=b"GET /case HTTP/2.0\r\n"), (400, 505)),
    "a version in small letters": (post(line=b"GET /case http/1.1\r\n"), 400),
    "no version": (b"GET /case\r\n\r\n", 400),
    "a method with a colon": (post(line=b"GE:T /case HTTP/1.1\r\n"), 400),
    "a method in small letters": (post(line=b"get /case HTTP/1.1\r\n"), (400, 405, EMPTY)),
    "half the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", (400, 405, 505, NO_ANSWER)),
    "HTTP/1.0 without a host": (b"GET /case HTTP/1.0\r\n\r\n", 400),
    "HTTP/1.0 that keeps its connection": (b"GET /case HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", EMPTY),
    "a second line in the method": (b"G\r\nET /case HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (post(line=b"CONNECT a:80 HTTP/1.1\r\n"), 405),
    "TRACE": (post(line=b"TRACE /case HTTP/1.1\r\n"), 405),
    "a fragment": (get(b"/case#x"), 400),
    "an authority as the target": (get(b"a:80"), 400),
    "an asterisk": (get(b"*"), 400),
    "a target without a slash": (get(b"case"), 400),
    "an encoded NUL": (get(b"/case%00"), 400),
    "an encoded line end": (get(b"/case%0d%0aX:%20y"), 400),
    "a bad escape": (get(b"/case%zz"), 400),
    "an incomplete escape": (get(b"/case%2"), 400),
    "dot segments": (get(b"/x/../case"), 400),
    "encoded dot segments": (get(b"/x/%2e%2E/case"), 400),
    "dot segments behind an encoded slash": (get(b"/x%2f..%2fcase"), 400),
    "dot segments with a parameter": (get(b"/x/..;a=b/case"), 400),
    "dot segments behind a backslash": (get(b"/x\\..\\case"), 400),
    "dot segments behind an encoded backslash": (get(b"/x%5c..%5ccase"), 400),
    "a control character": (get(b"/ca\x01se"), 400),
    "an encoded slash": (get(b"/ca%2Fse"), [("/ca%2Fse", b"")]),
    "an encoded line end in the query": (get(b"/case?a=%0d%0aX:y"), [("/case?a=%0d%0aX:y", b"")]),
    "two slashes": (get(b"//case"), [("//case", b"")]),
    "an absolute target": (get(b"http://b/case", host=b"Host: a\r\n"), [("/case", b"")]),
    # Fields of the connection.
    "a length as a field of the connection": (post(b"Connection: Content-Length\r\nContent-Length: 5\r\n", b"hello"), ONE),
    "a coding as a field of the connection": (post(b"Connection: Transfer-Encoding\r\n" + CHUNKED, HELLO), ONE),
    "the host as a field of the connection": (get(b"/case", b"Connection: Host\r\n"), EMPTY),
    "an upgrade to h2c": (get(b"/case", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"), EMPTY),
    "an upgrade with a body": (post(b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 5\r\n", b"hello"), ONE),
    "half a handshake with a body": (post(b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", b"hello"), (400, 405)),
    "an expectation and another request": (post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello"), ONE),
    "an unknown expectation": (post(b"Expect: x\r\nContent-Length: 5\r\n", b"hello"), (417, ONE)),
    "a length without a body": (get(b"/case", b"Content-Length: 0\r\n"), EMPTY),
    "a body of GET": (post(b"Content-Length: 5\r\n", b"hello", line=b"GET /case HTTP/1.1\r\n"), ONE),
    "a request as a body": (length(str(len(SMUGGLED)).encode(), SMUGGLED), [("/case", SMUGGLED)]),
    "a request in a chunk": (chunks(b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), [("/case", SMUGGLED)]),
    "forwarded fields of the client": (get(b"/case", b"X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX.Forwarded.Proto: https\r\n"), EMPTY),
}


class OverHttp1(unittest.TestCase):
    """The cases over HTTP/1.1 without TLS."""

    @classmethod
    def setUpClass(cls):
        cls.upstream = cls.enterClassContext(StrictUpstream())
        cls.server = cls.enterClassContext(cls.started(ROUTE % cls.upstream.port))

    @classmethod
    def started(cls, config):
        return Server(config)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.server.port), DEADLINE)

    def exchange(self, data):
        """Sends bytes, and reads to the end of the connection."""
        with self.connect() as connection:
            connection.settimeout(DEADLINE)
            try:
                connection.sendall(data)
            except OSError:  # the server had enough
                pass
            received = bytearray()
            try:
                while data := connection.recv(65536):
                    received += data
            except ConnectionResetError:
                pass
            return bytes(received)

    def barrier(self):
        """Returns once all that came before has reached the upstream, or never will."""
        marker = b"GET /marker HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        self.assertTrue(self.exchange(marker).startswith(b"HTTP/1.1 200 "))
        self.upstream.settle()
        self.upstream.take("/marker")

    def test_each_case_is_refused_or_reaches_the_upstream_as_it_is(self):
        self.assertGreaterEqual(len(CASES), 80)
        for name, (data, expected) in CASES.items():
            with self.subTest(name):
                self.upstream.clear()
                received = self.exchange(data + END)
                self.barrier()
                statuses = [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", received, re.MULTILINE)]
                statuses = [status for status in statuses if status != 100]
                found = [(message.target, message.body) for message in self.upstream.messages]
                self.assertEqual(self.upstream.violations, [])
                allowed = expected if isinstance(expected, tuple) else (expected,)
                refusals = [status for status in allowed if isinstance(status, int)]
                # Only a refused request may have been cut off, and nothing follows it.
                self.assertLessEqual(len(self.upstream.halves), 1 if refusals else 0)
                for half in self.upstream.halves:
                    self.assertTrue(half.startswith((b"POST /case HTTP/1.1\r\n", b"GET /case HTTP/1.1\r\n")), half)
                    self.assertNotIn(b"/smuggled", half)
                    self.assertNotIn(b"/end", half)
                if expected is CLOSED or CLOSED in allowed and statuses == [200]:
                    self.assertEqual((found, statuses), (EMPTY, [200]))
                elif NO_ANSWER in allowed and not received:
                    self.assertEqual(found, [])
                elif refusals and found in ([], [("/end", b"")]) and statuses[:1]:
                    self.assertIn(statuses[0], refusals)
                    # A refused head ends the connection, or the request behind it is one of its own.
                    self.assertEqual(statuses[1:], [200] * len(found))
                else:
                    self.assertIn([*found[:-1]], [requests for requests in allowed if not isinstance(requests, int)], received)
                    self.assertEqual(found[-1:], [("/end", b"")])
                    self.assertEqual(statuses, [200] * len(found))

    def test_the_fields_that_arrive_are_those_of_one_request(self):
        self.upstream.clear()
        data, _ = CASES["forwarded fields of the client"]
        self.exchange(data + END)
        first = self.upstream.messages[0]
        names = [name for name, _ in first.fields]
        self.assertFalse([name for name in names if re.search("[_.]", name)], names)
        self.assertEqual(first.field("x-forwarded-for"), "127.0.0.1")
        self.upstream.clear()
        data, _ = CASES["an absolute target"]
        self.exchange(data + END)
        self.assertEqual(self.upstream.messages[0].field("host"), "b")
        self.upstream.clear()
        data, _ = CASES["trailers of the proxy"]
        self.exchange(data + END)
        self.assertEqual(self.upstream.messages[0].trailers, [])


class OverTls(OverHttp1):
    """The same over TLS."""

    @classmethod
    def started(cls, config):
        cls.authority = Authority()
        return SecureServer(cls.authority, config.replace("[server]\nallowed_hosts = [\"*\"]\n", ""), server='allowed_hosts = ["*"]')

    def connect(self):
        return self.server.connect(self.authority.context("http/1.1"))


METHOD, SCHEME, PATH, AUTHORITY = (":method", "POST"), (":scheme", "http"), (":path", "/case"), (":authority", "a")
REFUSED = "refused"

# Fields of a request, its body, and its end.
CASES_OF_HTTP2 = {
    "a plain request": ([METHOD, SCHEME, PATH, AUTHORITY], b"hello", ONE),
    "a line end in a value": ([METHOD, SCHEME, PATH, AUTHORITY, ("x", "a\r\ntransfer-encoding: chunked")], b"hello", REFUSED),
    "a line feed in a value": ([METHOD, SCHEME, PATH, AUTHORITY, ("x", "a\nx: b")], b"hello", REFUSED),
    "a carriage return in a value": ([METHOD, SCHEME, PATH, AUTHORITY, ("x", "a\rb")], b"hello", REFUSED),
    "a NUL in a value": ([METHOD, SCHEME, PATH, AUTHORITY, ("x", "a\0b")], b"hello", REFUSED),
    "a line end in a name": ([METHOD, SCHEME, PATH, AUTHORITY, ("x\r\ny", "a")], b"hello", REFUSED),
    "a colon in a name": ([METHOD, SCHEME, PATH, AUTHORITY, ("transfer-encoding: chunked\r\nx", "a")], b"hello", REFUSED),
    "a space in a name": ([METHOD, SCHEME, PATH, AUTHORITY, ("x y", "a")], b"hello", REFUSED),
    "a capital in a name": ([METHOD, SCHEME, PATH, AUTHORITY, ("Content-Length", "5")], b"hello", REFUSED),
    "an empty name": ([METHOD, SCHEME, PATH, AUTHORITY, ("", "a")], b"hello", REFUSED),
    "a line end in the path": ([METHOD, SCHEME, (":path", "/case HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled"), AUTHORITY], b"", REFUSED),
    "a space in the path": ([METHOD, SCHEME, (":path", "/case HTTP/1.1"), AUTHORITY], b"", REFUSED),
    "a tab in the path": ([METHOD, SCHEME, (":path", "/case\tx"), AUTHORITY], b"", REFUSED),
    "an empty path": ([METHOD, SCHEME, (":path", ""), AUTHORITY], b"", REFUSED),
    "a path without a slash": ([METHOD, SCHEME, (":path", "case"), AUTHORITY], b"", REFUSED),
    "an absolute path": ([METHOD, SCHEME, (":path", "http://b/case"), AUTHORITY], b"", REFUSED),
    "an asterisk": ([METHOD, SCHEME, (":path", "*"), AUTHORITY], b"", REFUSED),
    "dot segments": ([METHOD, SCHEME, (":path", "/x/%2e%2e/case"), AUTHORITY], b"", REFUSED),
    "two paths": ([METHOD, SCHEME, PATH, PATH, AUTHORITY], b"", REFUSED),
    "two methods": ([METHOD, METHOD, SCHEME, PATH, AUTHORITY], b"", REFUSED),
    "two authorities": ([METHOD, SCHEME, PATH, AUTHORITY, (":authority", "b")], b"", REFUSED),
    "no method": ([SCHEME, PATH, AUTHORITY], b"", REFUSED),
    "no path": ([METHOD, SCHEME, AUTHORITY], b"", REFUSED),
    "no scheme": ([METHOD, PATH, AUTHORITY], b"", REFUSED),
    "a pseudo field behind others": ([METHOD, SCHEME, AUTHORITY, ("x", "a"), PATH], b"", REFUSED),
    "an unknown pseudo field": ([METHOD, SCHEME, PATH, AUTHORITY, (":x", "a")], b"", REFUSED),
    "a pseudo field of a response": ([METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")], b"", REFUSED),
    "a method with a line end": ([(":method", "GET /smuggled HTTP/1.1\r\nX: "), SCHEME, PATH, AUTHORITY], b"", REFUSED),
    "a method with a space": ([(":method", "GET /smuggled"), SCHEME, PATH, AUTHORITY], b"", REFUSED),
    "a scheme with a line end": ([METHOD, (":scheme", "http\r\nx: y"), PATH, AUTHORITY], b"", REFUSED),
    "an authority with a line end": ([METHOD, SCHEME, PATH, (":authority", "a\r\nx: y")], b"", REFUSED),
    "an authority with a user": ([METHOD, SCHEME, PATH, (":authority", "b@a")], b"", REFUSED),
    "an authority with a path": ([METHOD, SCHEME, PATH, (":authority", "a/b")], b"", REFUSED),
    "an empty authority": ([METHOD, SCHEME, PATH, (":authority", "")], b"", REFUSED),
    "two hosts": ([METHOD, SCHEME, PATH, AUTHORITY, ("host", "a"), ("host", "b")], b"", REFUSED),
    "a transfer coding": ([METHOD, SCHEME, PATH, AUTHORITY, ("transfer-encoding", "chunked")], b"0\r\n\r\n" + SMUGGLED, REFUSED),
    "a field of the connection": ([METHOD, SCHEME, PATH, AUTHORITY, ("connection", "x")], b"", REFUSED),
    "an upgrade": ([METHOD, SCHEME, PATH, AUTHORITY, ("upgrade", "h2c")], b"", REFUSED),
    "a te of gzip": ([METHOD, SCHEME, PATH, AUTHORITY, ("te", "gzip")], b"", REFUSED),
    "a length above the body": ([METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "6")], b"hello", REFUSED),
    "a length below the body": ([METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "4")], b"hello", REFUSED),
    # The head alone is a whole request; the stream is reset for what follows.
    "a length of zero": ([METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "0")], SMUGGLED, (REFUSED, EMPTY)),
    "a length that is no number": ([METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "+5")], b"hello", REFUSED),
    "two lengths": ([METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "5"), ("content-length", "6")], b"hello", REFUSED),
    "a right length": ([METHOD, SCHEME, PATH, AUTHORITY, ("content-length", "5")], b"hello", ONE),
    "a look-alike": ([METHOD, SCHEME, PATH, AUTHORITY, ("transfer_encoding", "chunked"), ("x.forwarded.for", "6.6.6.6")], b"hello", ONE),
    "cookies in several fields": ([METHOD, SCHEME, PATH, AUTHORITY, ("cookie", "a=1"), ("cookie", "b=2")], b"hello", ONE),
    "a host besides the authority": ([METHOD, SCHEME, PATH, AUTHORITY, ("host", "b")], b"hello", ONE),
    "a request as a body": ([METHOD, SCHEME, PATH, AUTHORITY], SMUGGLED, [("/case", SMUGGLED)]),
    "te: trailers": ([METHOD, SCHEME, PATH, AUTHORITY, ("te", "trailers")], b"hello", ONE),
}


class OverHttp2(unittest.TestCase):
    """The cases over HTTP/2 without TLS."""

    @classmethod
    def setUpClass(cls):
        cls.upstream = cls.enterClassContext(StrictUpstream())
        cls.server = cls.enterClassContext(cls.started(ROUTE % cls.upstream.port))

    @classmethod
    def started(cls, config):
        return Server(config)

    def client(self):
        return Client(self.server)

    def barrier(self):
        """Returns once all that came before has reached the upstream, or never will."""
        with self.client() as client:
            self.assertEqual(client.answer(client.ask("/marker"))[0], 200)
        self.upstream.settle()
        self.upstream.take("/marker")

    def outcome(self, fields, body):
        """Sends a request as it is; returns its status, or `None` if the stream or the connection has ended without one."""
        with self.client() as client:
            client.h2.config.validate_outbound_headers = False
            client.h2.config.normalize_outbound_headers = False
            try:
                stream = client.begin(fields, end_stream=not body)
                if body:
                    client.h2.send_data(stream, body, end_stream=True)
                    client.flush()
                client.until(lambda: stream in client.ended or stream in client.resets, "an end of the stream")
            except (EOFError, OSError):
                return None
            status = client.answers[stream][0].get(":status")
            return int(status) if status and stream in client.ended else None

    def test_each_case_is_refused_or_reaches_the_upstream_as_it_is(self):
        for name, (fields, body, expected) in CASES_OF_HTTP2.items():
            with self.subTest(name):
                self.upstream.clear()
                status = self.outcome(fields, body)
                self.barrier()
                self.assertEqual(self.upstream.violations, [])
                found = [(message.target, message.body) for message in self.upstream.messages]
                if expected is REFUSED or isinstance(expected, tuple):
                    self.assertIn(found, ([], *expected[1:]) if isinstance(expected, tuple) else ([],))
                    self.assertLessEqual(len(self.upstream.halves), 1)
                    for half in self.upstream.halves:
                        self.assertTrue(half.startswith(b"POST /case HTTP/1.1\r\n"), half)
                    self.assertIn(status, (None, 400, 405, 413, 501))
                else:
                    self.assertEqual((status, found, self.upstream.halves), (200, expected, []))

    def test_a_request_that_is_reset_never_looks_complete(self):
        for code in (ErrorCodes.NO_ERROR, ErrorCodes.CANCEL, ErrorCodes.PROTOCOL_ERROR):
            for fields in ([], [("content-length", "10")]):
                with self.subTest(code=code, fields=fields):
                    self.upstream.clear()
                    with self.client() as client:
                        stream = client.begin([METHOD, SCHEME, PATH, AUTHORITY, *fields], end_stream=False)
                        client.h2.send_data(stream, b"hello")
                        client.flush()
                        until(self.upstream.is_within_message, "the begin of the request")
                        client.h2.reset_stream(stream, code)
                        client.flush()
                        self.barrier()
                    self.assertEqual((self.upstream.messages, self.upstream.violations), ([], []))
                    (half,) = self.upstream.halves
                    self.assertTrue(half.startswith(b"POST /case HTTP/1.1\r\n"), half)
                    self.assertNotIn(b"\r\n0\r\n", half)

    def test_the_fields_that_arrive_are_those_of_one_request(self):
        def message(name):
            self.upstream.clear()
            fields, body, _ = CASES_OF_HTTP2[name]
            self.assertEqual(self.outcome(fields, body), 200)
            return self.upstream.messages[0]

        self.assertEqual(message("cookies in several fields").field("cookie"), "a=1; b=2")
        self.assertEqual(message("a host besides the authority").field("host"), "a")
        self.assertEqual(message("te: trailers").field("te"), "trailers")


class OverHttp2AndTls(OverHttp2):
    """The same over TLS."""

    @classmethod
    def started(cls, config):
        cls.authority = Authority()
        return SecureServer(cls.authority, config.replace("[server]\nallowed_hosts = [\"*\"]\n", ""), server='allowed_hosts = ["*"]')

    def client(self):
        return Client(self.server, over=SecureBytes(self.server.connect(self.authority.context("h2"))))
