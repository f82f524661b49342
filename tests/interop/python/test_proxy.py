"""The view `proxy` in front of gunicorn and nginx: bodies of any size with flat memory, event streams, redirects."""

import hashlib
import http.client
import json
import time
import unittest
import zlib

from kit.deadline import DEADLINE
from kit.gunicorn import Gunicorn
from kit.http2 import Client
from kit.nginx import Nginx
from kit.server import Server
from kit.strict_upstream import StrictUpstream

MIB = 1 << 20

ROUTE = """
[[http.route]]
path = "/{*path}"
view = "proxy"
middleware = []
body_size = "1 GiB"
options = { upstream = ["%s"] }
"""


class BeforeGunicorn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gunicorn = cls.enterClassContext(Gunicorn())
        cls.server = cls.enterClassContext(Server(ROUTE % cls.gunicorn.url))

    def connection(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        return connection

    def grows_by(self, work):
        """Returns by how much the server's memory grows at most while `work` yields."""
        before = self.server.resident_bytes()
        return max(self.server.resident_bytes() for _ in work) - before

    def test_the_application_sees_the_client(self):
        status, _, body = self.server.request("/environ?a=b%20c", headers={"X-Forwarded-For": "6.6.6.6", "Accept": "x"})
        self.assertEqual(status, 200)
        environ = json.loads(body)
        self.assertEqual(environ["QUERY_STRING"], "a=b%20c")
        self.assertEqual(environ["HTTP_HOST"], self.server.host)
        self.assertEqual(environ["HTTP_X_FORWARDED_FOR"], "127.0.0.1")
        self.assertEqual(environ["HTTP_X_FORWARDED_PROTO"], "http")
        self.assertEqual(environ["HTTP_ACCEPT"], "x")

    def test_a_connection_is_kept_for_many_requests(self):
        connection = self.connection()
        for number in range(50):
            connection.request("GET", f"/environ?{number}")
            answer = connection.getresponse()
            self.assertEqual((answer.status, json.loads(answer.read())["QUERY_STRING"]), (200, str(number)))

    def test_an_upload_of_200_mib_is_streamed_with_flat_memory(self):
        for chunked in (False, True):
            with self.subTest(chunked=chunked):
                part, count = bytes(range(256)) * 1024, 800
                digest = hashlib.sha256()
                connection = self.connection()
                connection.putrequest("POST", "/upload")
                if chunked:
                    connection.putheader("Transfer-Encoding", "chunked")
                else:
                    connection.putheader("Content-Length", str(len(part) * count))
                connection.endheaders()

                def upload():
                    for number in range(count):
                        digest.update(part)
                        connection.send(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                        if number % 40 == 0:
                            yield

                grown = self.grows_by(upload())
                if chunked:
                    connection.send(b"0\r\n\r\n")
                answer = connection.getresponse()
                self.assertEqual(answer.read().decode(), f"{200 * MIB} {digest.hexdigest()}")
                self.assertLess(grown, 24 * MIB)

    def test_a_download_of_200_mib_is_streamed_with_flat_memory(self):
        connection = self.connection()
        connection.request("GET", f"/download?{200 * MIB}")
        answer = connection.getresponse()
        read = 0

        def download():
            nonlocal read
            while part := answer.read(4 * MIB):
                read += len(part)
                yield

        self.assertLess(self.grows_by(download()), 24 * MIB)
        self.assertEqual(read, 200 * MIB)

    def test_events_arrive_when_they_are_sent(self):
        connection = self.connection()
        connection.request("GET", "/events")
        answer = connection.getresponse()
        delays = []
        while line := answer.readline():
            if line.startswith(b"data:"):
                delays.append(time.monotonic() - float(line.split()[2]))
        self.assertEqual(len(delays), 3)
        self.assertLess(max(delays), 0.4)

    def test_events_arrive_when_they_are_sent_over_http2(self):
        with Client(self.server) as client:
            stream = client.ask("/events")
            delays = []
            while stream not in client.ended:
                seen = client.answers[stream][1].count(b"\n\n")
                client.until(lambda: client.answers[stream][1].count(b"\n\n") > seen or stream in client.ended, "an event")
                events = client.answers[stream][1].split(b"\n\n")[seen:-1]
                delays += [time.monotonic() - float(event.split()[2]) for event in events]
            self.assertEqual(len(delays), 3)
            self.assertLess(max(delays), 0.4)

    def test_a_redirect_of_the_application_leads_to_the_server(self):
        status, headers, _ = self.server.request("/redirect")
        self.assertEqual((status, headers["Location"]), (302, f"http://{self.server.host}/environ"))
        # An application that knows only its own address, as most do behind `host = "upstream"`.
        options = f'upstream = ["{self.gunicorn.url}"], host = "upstream"'
        for redirects, expected in (("true", "/environ"), ("false", f"{self.gunicorn.url}/environ")):
            with self.subTest(redirects=redirects):
                route = ROUTE.replace('upstream = ["%s"]', f"{options}, redirects = {redirects}")
                with Server(route) as server:
                    status, headers, _ = server.request("/redirect")
                    self.assertEqual((status, headers["Location"]), (302, expected))

    def test_gunicorn_that_goes_away_is_502_and_comes_back(self):
        with Gunicorn() as gunicorn, Server(ROUTE % gunicorn.url) as server:
            self.assertEqual(server.request("/environ")[0], 200)
            gunicorn.stop()
            status, _, body = server.request("/environ")
            self.assertIn(status, (502, 503))
            self.assertNotIn(b"127.0.0.1", body)
            self.assertIn(gunicorn.url, server.log())
            gunicorn.start()
            # The connection of before is dead; the request is sent on a new one.
            status, _, body = server.request("/environ?back")
            self.assertEqual((status, json.loads(body)["QUERY_STRING"]), (200, "back"))

    def test_events_arrive_when_they_are_sent_through_compress_too(self):
        config = ROUTE.replace("middleware = []", 'middleware = ["compress"]\ncompress = { types = ["text/event-stream"] }')
        with Server(config % self.gunicorn.url) as server:
            for coding, wbits in (("gzip", zlib.MAX_WBITS | 16), ("identity", None)):
                with self.subTest(coding=coding):
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
                    self.addCleanup(connection.close)
                    connection.request("GET", "/events", headers={"Accept-Encoding": coding})
                    answer = connection.getresponse()
                    self.assertEqual(answer.headers["Content-Encoding"], "gzip" if wbits else None)
                    self.assertEqual(answer.headers["Vary"], "accept-encoding")
                    decoder = zlib.decompressobj(wbits) if wbits else None
                    text, delays = b"", []
                    while part := answer.read1(65536):
                        text += decoder.decompress(part) if decoder else part
                        while len(delays) < text.count(b"\n\n"):
                            event = text.split(b"\n\n")[len(delays)]
                            delays.append(time.monotonic() - float(event.split()[2]))
                    self.assertEqual(len(delays), 3)
                    self.assertLess(max(delays), 0.4)

    def test_head_has_the_fields_of_get_through_compress(self):
        config = ROUTE.replace("middleware = []", 'middleware = ["compress"]')
        with Server(config % self.gunicorn.url) as server:
            fields = {}
            for method in ("GET", "HEAD"):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
                self.addCleanup(connection.close)
                connection.request(method, "/environ?" + "x" * 2000, headers={"Accept-Encoding": "gzip"})
                answer = connection.getresponse()
                answer.read()
                names = ("Content-Encoding", "Vary", "Content-Type", "Content-Length")
                fields[method] = [answer.headers[name] for name in names]
            self.assertEqual(fields["GET"], ["gzip", "accept-encoding", "application/json", None])
            self.assertEqual(fields["HEAD"], fields["GET"])


class BeforeABrokenUpstream(unittest.TestCase):
    """An upstream that closes its connection within the body of its response."""

    HEADS = (b"Content-Length: 10\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    def server(self, head):
        answer = b"HTTP/1.1 200 OK\r\n" + head
        upstream = self.enterContext(StrictUpstream(answer, closes=True))
        return self.enterContext(Server(ROUTE % f"http://127.0.0.1:{upstream.port}"))

    def test_a_client_of_http1_sees_that_the_body_is_incomplete(self):
        for head in self.HEADS:
            with self.subTest(head=head):
                server = self.server(head)
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
                self.addCleanup(connection.close)
                connection.request("GET", "/")
                answer = connection.getresponse()
                with self.assertRaises(http.client.IncompleteRead) as raised:
                    answer.read()
                self.assertEqual(raised.exception.partial, b"hello")
                self.assertEqual(server.metric("oneport_proxy_aborts_total", cause="upstream"), 1)
                self.assertIn("broke off", server.log())

    def test_a_client_of_http2_sees_that_the_stream_is_reset(self):
        for head in self.HEADS:
            with self.subTest(head=head), Client(self.server(head)) as client:
                stream = client.ask("/")
                client.until(lambda: stream in client.ended or stream in client.resets, "an end of the stream")
                self.assertNotIn(stream, client.ended)
                # A reset may overtake the bytes before it.
                self.assertIn(bytes(client.answers.get(stream, (None, b""))[1]), (b"", b"hello"))
                # The other streams of the connection go on.
                self.assertEqual(client.answer(client.ask("/health/"))[0], 200)


class BeforeNginx(unittest.TestCase):
    """nginx in front of the application, and the view in front of nginx."""

    @classmethod
    def setUpClass(cls):
        cls.gunicorn = cls.enterClassContext(Gunicorn())
        cls.nginx = cls.enterClassContext(Nginx(cls.gunicorn.port))
        cls.server = cls.enterClassContext(Server(ROUTE % cls.nginx.origin))

    def test_the_chain_of_proxies_names_the_client_first(self):
        environ = json.loads(self.server.request("/environ")[2])
        self.assertEqual(environ["HTTP_X_FORWARDED_FOR"], "127.0.0.1, 127.0.0.1")
        self.assertEqual(environ["HTTP_X_FORWARDED_HOST"], self.server.host)


    def test_what_nginx_refuses_is_passed_on(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        connection.putrequest("POST", "/upload")
        connection.putheader("Content-Length", str(8 * MIB))
        connection.endheaders()
        try:
            connection.send(b"x" * MIB)
        except OSError:
            pass
        # nginx takes 1 MiB by default, and answers before it has read the body.
        self.assertEqual(connection.getresponse().status, 413)
