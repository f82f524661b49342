"""TLS on the listener, by OpenSSL: versions, protocols, names, resumption, clients that do not encrypt, and slow or broken handshakes."""

import datetime
import signal
import socket
import ssl
import subprocess
import time
import unittest
import warnings

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.http2 import Client, StreamSocket
from kit.server import binary
from kit.tls import DAY, NOW, Authority, SecureBytes, SecureServer

CONFIG = """
[templates]
dir = "templates"

[[http.route]]
path = "/scope/"
view = "template"
middleware = ["session", "csrf"]
options = { template = "scope.txt" }

[[http.route]]
path = "/own-hsts/"
view = "respond"
options = { body = "mine", headers = { strict-transport-security = "max-age=1" } }

[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }

[session]
store = "memory"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
middleware = ["origin"]
allowed_origins = ["https://localhost"]
"""

TEMPLATE = {"templates/scope.txt": "{{ scope.scheme }} {{ csrf_token()[:0] }}"}

TLS13, TLS12 = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2


def old(version):
    """A client that speaks only an old version, which OpenSSL itself allows at its lowest level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    return context


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        files = dict(TEMPLATE)
        for place, names in enumerate((["a.example", "www.a.example"], ["*.a.example"])):
            files[f"tls/cert{place}.pem"], files[f"tls/key{place}.pem"] = cls.authority.issue(*names)
        files["tls/cert-rsa.pem"], files["tls/key-rsa.pem"] = cls.authority.issue("both.example", kind="rsa")
        files["tls/cert-ec.pem"], files["tls/key-ec.pem"] = cls.authority.issue("both.example", kind="ec384")
        more = ", ".join(
            f'{{ certificate = "tls/cert{place}.pem", key = "tls/key{place}.pem" }}' for place in ("0", "1", "-ec", "-rsa")
        )
        settings = f'certificates = [{more}]\nhsts = "365d"'
        cls.server = SecureServer(cls.authority, CONFIG, settings=settings, files=files)
        cls.enterClassContext(cls.server)

    def names(self, server_hostname, context=None):
        """Returns the names of the certificate that a client gets."""
        context = context or self.authority.context()
        context.check_hostname = False
        with self.server.connect(context, server_hostname) as client:
            return [found for _, found in client.getpeercert()["subjectAltName"]]

    def test_both_versions_serve_http_and_older_ones_are_refused(self):
        for version, name in ((TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")):
            context = self.authority.context(version=version)
            with self.subTest(name), SecureBytes(self.server.connect(context)) as client:
                self.assertEqual(client.socket.version(), name)
                client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertEqual(client.head()[0], 200)
                self.assertEqual(client.exactly(6), b"a page")
        before = self.server.metric("oneport_tls_handshakes_total", outcome="failed")
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with self.subTest(version.name), self.assertRaisesRegex(ssl.SSLError, "(?i)protocol.version|handshake.failure"):
                self.server.connect(old(version))
        self.assertEqual(self.server.metric("oneport_tls_handshakes_total", outcome="failed"), before + 2)

    def test_suites_without_forward_secrecy_or_authentication_are_refused(self):
        context = self.authority.context(version=TLS12)
        for suites in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"):
            context.set_ciphers(f"{suites}:@SECLEVEL=0")
            with self.subTest(suites), self.assertRaisesRegex(ssl.SSLError, "(?i)handshake.failure"):
                self.server.connect(context)

    def test_the_protocol_is_negotiated(self):
        for offered, expected in (
            (["h2", "http/1.1"], "h2"),
            (["http/1.1", "h2"], "h2"),
            (["http/1.1"], "http/1.1"),
            (["unknown", "http/1.1"], "http/1.1"),
            ([], None),
        ):
            with self.subTest(offered), self.server.connect(self.authority.context(*offered)) as client:
                self.assertEqual(client.selected_alpn_protocol(), expected)
        for offered in ("spdy/3", "h2c", "acme-tls/1"):
            with self.subTest(offered), self.assertRaises(ssl.SSLError):
                self.server.connect(self.authority.context(offered))

    def test_http2_and_its_websockets_over_tls(self):
        with Client(self.server, over=SecureBytes(self.server.connect(self.authority.context("h2")))) as client:
            fields = [(":method", "GET"), (":scheme", "https"), (":path", "/scope/"), (":authority", "localhost")]
            status, fields, body = client.answer(client.begin(fields, end_stream=True))
            self.assertEqual((status, body.strip()), (200, b"https"))
            self.assertEqual(fields["strict-transport-security"], "max-age=31536000")
            wanted = {":scheme": "https", "origin": "https://localhost"}
            with self.subTest("echo"):
                echo = StreamSocket(client, "/ws/echo/", changes=wanted)
                echo.say("over a stream")
                self.assertEqual(echo.receive(), "over a stream")
                self.assertEqual(echo.fields["strict-transport-security"], "max-age=31536000")
                echo.close()
                self.assertEqual(echo.closed()[0], 1000)
            with self.subTest("a page of plain http"):
                stream = client.ask_for_socket("/ws/echo/", {**wanted, "origin": "http://localhost"})
                self.assertEqual(client.head(stream)[0], 403)

    def test_websockets_over_tls(self):
        url = f"wss://localhost:{self.server.port}/ws/echo/"
        options = {"ssl": self.authority.context("http/1.1"), "proxy": None, "open_timeout": DEADLINE}
        with connect(url, origin="https://localhost", **options) as client:
            self.assertEqual(client.response.headers["strict-transport-security"], "max-age=31536000")
            for message in ("text", b"\x00\xff" * 30_000):
                client.send(message)
                self.assertEqual(client.recv(timeout=DEADLINE), message)
        with self.assertRaises(InvalidStatus) as refused:
            connect(url, origin="http://localhost", **options)
        self.assertEqual(refused.exception.response.status_code, 403)

    def test_the_scheme_is_https_and_cookies_are_secure(self):
        status, fields, body = self.server.request("/scope/")
        self.assertEqual((status, body.strip()), (200, b"https"))
        self.assertIn("; Secure", fields["set-cookie"])
        self.assertEqual(fields["strict-transport-security"], "max-age=31536000")
        self.assertEqual(self.server.request("/own-hsts/")[1]["strict-transport-security"], "max-age=1")
        self.assertEqual(self.server.request("/no-such-page/")[1]["strict-transport-security"], "max-age=31536000")

    def test_the_name_selects_the_certificate(self):
        default = ["localhost", "127.0.0.1"]
        for wanted, expected in (
            ("localhost", default),
            ("a.example", ["a.example", "www.a.example"]),
            ("WWW.A.example", ["a.example", "www.a.example"]),
            ("chat.a.example", ["*.a.example"]),
            ("x.chat.a.example", default),
            ("unknown.example", default),
            (None, default),
        ):
            with self.subTest(wanted):
                self.assertEqual(self.names(wanted), expected)

    def test_the_signatures_of_the_client_select_the_kind_of_certificate(self):
        for suite in ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"):
            context = self.authority.context(version=TLS12)
            context.set_ciphers(suite)
            context.check_hostname = False
            with self.subTest(suite), self.server.connect(context, "both.example") as client:
                self.assertEqual(client.cipher()[0], suite)

    def test_the_protocol_that_was_agreed_on_is_the_only_one(self):
        for agreed, sent in (
            ("http/1.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])),
            ("h2", b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ):
            with self.subTest(agreed), SecureBytes(self.server.connect(self.authority.context(agreed))) as client:
                self.assertEqual(client.socket.selected_alpn_protocol(), agreed)
                client.send(sent)
                said = client.rest()
                self.assertNotIn(b"HTTP/1", said)
                self.assertNotEqual(said[3:4], b"\x04")  # SETTINGS

    def test_a_session_is_resumed(self):
        for version in (TLS12, TLS13):
            context = self.authority.context("http/1.1", version=version)
            with SecureBytes(self.server.connect(context)) as client:
                self.assertFalse(client.socket.session_reused)
                client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.head()  # behind the tickets
                session = client.socket.session
            before = self.server.metric("oneport_tls_handshakes_total", outcome="resumed")
            with self.subTest(version.name), SecureBytes(self.server.connect(context, session=session)) as client:
                self.assertTrue(client.socket.session_reused)
                client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertEqual(client.head()[0], 200)
            self.assertEqual(self.server.metric("oneport_tls_handshakes_total", outcome="resumed"), before + 1)

    def test_early_data_and_renegotiation_are_not_offered(self):
        command = ["openssl", "s_client", "-connect", self.server.host, "-servername", "localhost"]
        asked = subprocess.run(
            [*command, "-tls1_2"], input=b"R\n", capture_output=True, timeout=DEADLINE, check=False
        )
        said = asked.stdout + asked.stderr
        self.assertIn(b"RENEGOTIATING", said)
        self.assertNotIn(b"renegotiation done", said)
        self.assertRegex(said, b"no.renegotiation|NO_RENEGOTIATION|closed|error")
        asked = subprocess.run([*command, "-tls1_3"], input=b"Q\n", capture_output=True, timeout=DEADLINE, check=False)
        self.assertIn(b"Early data was not sent", asked.stdout)

    def test_curl_follows_the_redirect_and_negotiates_http2(self):
        authority = self.server.directory / "authority.pem"
        authority.write_text(self.authority.pem, encoding="utf-8")
        asked = subprocess.run(
            ["curl", "--silent", "--show-error", "--location", "--noproxy", "*", "--cacert", authority]
            + ["--write-out", "\n%{http_version} %{num_redirects} %{url_effective}", f"http://localhost:{self.server.port}/page/"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        self.assertEqual(asked.stdout.split(), ["a", "page", "2", "1", f"https://localhost:{self.server.port}/page/"])

    def test_a_large_request_and_response_pass(self):
        big = {"x-big": "x" * 12_000}
        self.assertEqual(self.server.request("/page/", headers=big)[0], 200)
        self.assertEqual(self.server.request("/page/", headers={"x-big": "x" * 20_000})[0], 431)

    def test_garbage_is_refused_with_an_alert_or_closed(self):
        for garbage in (
            b"\x16\x03\x01\x00\x05hello",
            b"\x16\x03\x01\xff\xff" + bytes(2000),
            b"\x16" + b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x00\x00",
        ):
            with self.subTest(garbage[:10]), Bytes(("127.0.0.1", self.server.port)) as client:
                client.send(garbage)
                client.socket.shutdown(socket.SHUT_WR)
                answer = client.rest()
                self.assertIn(answer[:1], (b"", b"\x15"))
        self.assertEqual(self.server.request("/page/")[0], 200)

    def test_an_endless_client_hello_is_refused(self):
        # A handshake message of 16 MiB, in records of 16 KiB.
        with Bytes(("127.0.0.1", self.server.port)) as client:
            first = b"\x01\xff\xff\xff" + bytes(16380)
            client.send(b"\x16\x03\x01\x40\x00" + first)
            sent = 0
            try:
                while sent < 4 << 20:
                    client.send(b"\x16\x03\x03\x40\x00" + bytes(16384))
                    sent += 16384
            except OSError:
                pass
            self.assertLess(sent, 4 << 20)

    def test_truncation_is_seen_and_the_end_is_announced(self):
        with SecureBytes(self.server.connect()) as client:
            client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            client.head()
            self.assertEqual(client.exactly(6), b"a page")
            self.assertEqual(client.socket.recv(1), b"")  # close_notify: an end without it is an error of Python's
        with SecureBytes(self.server.connect()) as client:
            client.send(b"POST /page/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
            client.socket.close()
        self.assertEqual(self.server.request("/page/")[0], 200)


class Plaintext(unittest.TestCase):
    def test_requests_and_handshakes_are_redirected(self):
        hosts = 'allowed_hosts = ["localhost", "127.0.0.1", "example.com"]'
        with SecureServer(Authority(), CONFIG, server=hosts, files=TEMPLATE) as server:
            port = server.port
            for host, path, expected in (
                (f"localhost:{port}", "/a/?b=c%20d", f"https://localhost:{port}/a/?b=c%20d"),
                ("example.com", "/", "https://example.com/"),
                ("example.com:80", "//x", "https://example.com//x"),
            ):
                status, fields, _ = server.plain(path, {"Host": host})
                self.assertEqual((status, fields["location"]), (308, expected))
                self.assertNotIn("strict-transport-security", fields)
            handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            handshake["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
            status, fields, _ = server.plain("/ws/echo/", handshake)
            self.assertEqual((status, fields["location"]), (308, f"wss://localhost:{port}/ws/echo/"))
            with Client(server) as client:
                status, fields, _ = client.answer(client.ask("/page/", authority=f"localhost:{port}"))
                self.assertEqual((status, fields["location"]), (308, f"https://localhost:{port}/page/"))
            with Bytes(("127.0.0.1", port)) as client:
                client.send(b"GET /page/ HTTP/1.0\r\n\r\n")
                self.assertEqual(client.head()[0], 400)
            for host in ("evil.example", "www.example.com", "example.com.evil.example", "127.0.0.2"):
                with self.subTest(host):
                    status, fields, body = server.plain("/page/", {"Host": host})
                    self.assertEqual((status, fields["location"]), (400, None))
                    self.assertIn(b"host not allowed", body)
            self.assertEqual(server.metric("oneport_requests_total", route="", status="3xx"), 5)

    def test_oneport_resolve_knows_it(self):
        server = SecureServer(Authority(), CONFIG, files=TEMPLATE)
        self.addCleanup(server.close)
        for url, expected in (
            ("http://localhost/page/", "308 Permanent Redirect\n  location: https://localhost/page/\n"),
            ("https://localhost/page/", "/page/ -> respond (no name)"),
            ("/page/", "/page/ -> respond (no name)"),
        ):
            command = [binary(), "resolve", "--config", server.config, url]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
            with self.subTest(url):
                self.assertIn(expected, done.stdout)

    def test_they_are_refused_and_the_connection_is_closed(self):
        with SecureServer(Authority(), CONFIG, settings='plaintext = "refuse"', files=TEMPLATE) as server:
            with Bytes(("127.0.0.1", server.port)) as client:
                client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                status, fields = client.head()
                self.assertEqual((status, fields["connection"]), (400, "close"))
                self.assertIn(b"expected TLS, found plain HTTP", client.rest())

    def test_they_are_served_on_the_same_port_and_without_hsts(self):
        settings = 'plaintext = "serve"\nhsts = "1d"'
        with SecureServer(Authority(), CONFIG, settings=settings, files=TEMPLATE) as server:
            status, fields, body = server.plain("/scope/")
            self.assertEqual((status, body.strip()), (200, b"http"))
            self.assertNotIn("strict-transport-security", fields)
            self.assertNotIn("; Secure", fields["set-cookie"])
            self.assertEqual(server.request("/scope/")[2].strip(), b"https")
            with connect(f"ws://localhost:{server.port}/ws/echo/", origin="https://localhost", proxy=None) as client:
                client.send("plain")
                self.assertEqual(client.recv(timeout=DEADLINE), "plain")

    def test_a_trusted_proxy_is_served(self):
        with SecureServer(Authority(), CONFIG, server='trusted_proxies = ["127.0.0.1"]', files=TEMPLATE) as server:
            status, _, body = server.plain("/scope/", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"})
            self.assertEqual((status, body.strip()), (200, b"https"))

    def test_a_listener_without_tls_stays_plain(self):
        bind = 'bind = [{ address = "127.0.0.1:0", tls = false }]'
        with SecureServer(Authority(), CONFIG, server=bind, files=TEMPLATE, bind=None) as server:
            self.assertIn(f"http://127.0.0.1:{server.port}", server.log())



class Deadlines(unittest.TestCase):
    SERVER = "[server.timeouts]\nhandshake = \"500ms\"\ndrain = \"5s\""

    def test_a_handshake_that_takes_too_long_is_ended(self):
        authority = Authority()
        with SecureServer(authority, CONFIG, server=self.SERVER, files=TEMPLATE) as server:
            for beginning in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"):
                with self.subTest(beginning), Bytes(("127.0.0.1", server.port)) as client:
                    client.send(beginning)
                    began = time.monotonic()
                    client.rest()
                    self.assertGreater(time.monotonic() - began, 0.3)
                    self.assertLess(time.monotonic() - began, 3)
            self.assertEqual(server.metric("oneport_tls_handshakes_total", outcome="timed_out"), 3)
            with self.subTest("the first head"), SecureBytes(server.connect()) as client:
                client.send(b"GET /page/ HT")
                self.assertEqual(client.rest()[-100:], b"GET"[:0])

    def test_a_client_that_leaves_is_counted_and_costs_nothing(self):
        with SecureServer(Authority(), CONFIG, files=TEMPLATE) as server:
            with Bytes(("127.0.0.1", server.port)) as client:
                client.send(b"\x16\x03\x01")
            until(lambda: server.metric("oneport_tls_handshakes_total", outcome="gone") == 1, "a client that is gone")

    def test_a_drain_ends_handshakes_and_lets_requests_finish(self):
        authority = Authority()
        with SecureServer(authority, CONFIG, files=TEMPLATE) as server:
            with Bytes(("127.0.0.1", server.port)) as slow, SecureBytes(server.connect()) as client:
                slow.send(b"\x16\x03\x01")
                client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertEqual(client.head()[0], 200)
                client.exactly(6)
                server.signal(signal.SIGTERM)
                self.assertTrue(slow.is_at_end())
                self.assertTrue(client.is_at_end())
                server.wait()

    def test_connections_over_the_limit_are_closed(self):
        authority = Authority()
        limits = "[server.limits]\nconnections_per_ip = 3"
        with SecureServer(authority, CONFIG, server=limits, files=TEMPLATE) as server:
            with server.connect(), server.connect(), server.connect():
                with self.assertRaises((ssl.SSLError, OSError)):
                    server.connect()
                with Bytes(("127.0.0.1", server.port)) as plain:
                    plain.send(b"GET / HTTP/1.1\r\n")
                    self.assertEqual(plain.head()[0], 503)
            until(lambda: server._is_healthy(), "room again")


class ClientCertificates(unittest.TestCase):
    TEMPLATE = {
        "templates/scope.txt": "{{ scope.client_cert.subject }}|{{ scope.client_cert.issuer }}"
        "|{{ scope.client_cert.serial }}|{{ scope.client_cert.fingerprint }}{{ csrf_token()[:0] }}"
    }

    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        cls.people = Authority("Authority of people")
        files = {"tls/clients.pem": cls.people.pem, **cls.TEMPLATE}
        cls.server = SecureServer(cls.authority, CONFIG, settings='client_ca = "tls/clients.pem"', files=files)
        cls.enterClassContext(cls.server)

    def context(self, issued, version=None):
        """A client with this certificate."""
        for path, content in zip(("client.pem", "client.key"), issued):
            (self.server.directory / path).write_text(content, encoding="utf-8")
        files = (self.server.directory / "client.pem", self.server.directory / "client.key")
        return self.authority.context("http/1.1", client=files, version=version)

    def scope(self, context=None, headers=None):
        status, _, body = self.server.request("/scope/", context=context, headers=headers)
        self.assertEqual(status, 200)
        return body.decode().strip().split("|")

    def test_a_client_without_one_has_none_and_cannot_claim_one(self):
        self.assertEqual(self.scope(), ["", "", "", ""])
        claims = {"X-SSL-Client-S-DN": "CN=root", "Client-Cert": ":AAAA:", "X-Client-Cert-Subject": "CN=root"}
        self.assertEqual(self.scope(headers=claims), ["", "", "", ""])

    def test_the_subject_is_in_the_scope(self):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        from kit.tls import name

        issued = self.people.issue(client=True, subject=name("älice, \"+1\"\n", ORGANIZATION_NAME="Example", EMAIL_ADDRESS="a@b"))
        certificate = x509.load_pem_x509_certificate(issued[0].encode())
        for version in (TLS12, TLS13):
            with self.subTest(version.name):
                subject, issuer, serial, fingerprint = self.scope(self.context(issued, version))
                self.assertEqual(subject, 'emailAddress=a@b,O=Example,CN=älice\\, \\"\\+1\\"\\0a')
                self.assertEqual(issuer, "CN=Authority of people")
                self.assertEqual(int(serial, 16), certificate.serial_number)
                self.assertEqual(fingerprint, certificate.fingerprint(hashes.SHA256()).hex())

    def test_another_authoritys_and_an_expired_one_end_the_handshake(self):
        for wrong in (
            Authority("A stranger").issue(client=True),
            self.people.issue(client=True, ends=-DAY / 2),
            self.people.issue("localhost"),  # of a server
        ):
            # Over TLS 1.3 a client learns of it with its first read.
            with self.subTest(wrong[0][60:80]), self.assertRaises(OSError):
                self.scope(self.context(wrong))

    def test_resumption_keeps_it(self):
        context = self.context(self.people.issue(client=True))
        session = None
        for is_second in (False, True):
            with SecureBytes(self.server.connect(context, session=session)) as client:
                client.send(b"GET /scope/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                self.assertIn(b"CN=client|", client.rest())
                self.assertEqual(client.socket.session_reused, is_second)
                session = client.socket.session

    def test_a_session_ends_with_the_certificate_of_its_client(self):
        def ask(context, session):
            with SecureBytes(self.server.connect(context, session=session)) as client:
                client.send(b"GET /scope/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                self.assertIn(b"CN=client|", client.rest())
                return client.socket.session, client.socket.session_reused

        lifetime = datetime.timedelta(seconds=4)
        for version in (TLS12, TLS13):
            with self.subTest(version.name):
                end = datetime.datetime.now(datetime.timezone.utc) + lifetime
                context = self.context(self.people.issue(client=True, ends=end - NOW), version)
                session, _ = ask(context, None)
                session, is_resumed = ask(context, session)
                self.assertTrue(is_resumed)
                time.sleep(max(0, end.timestamp() + 1.1 - time.time()))  # the last second is part of it
                with self.assertRaises(OSError):  # as without a session
                    ask(context, session)
                self.context(self.people.issue(client=True))
                context.load_cert_chain(self.server.directory / "client.pem", self.server.directory / "client.key")
                self.assertFalse(ask(context, session)[1])


if __name__ == "__main__":
    unittest.main()
