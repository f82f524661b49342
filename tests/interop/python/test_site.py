"""A real site on one port, as docs/DJANGO.md sets it up: Django under gunicorn and Daphne, static files, TLS. Also PHP and Node."""

import hashlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.django_site import HOST, PASSWORD, DjangoSite
from kit.frames import TEXT, RawSocket
from kit.peer import Peer
from kit.postgres import free_port
from kit.server import ROOT, Server, binary
from kit.websocket_upstream import Upstream

LARGE = 200 << 20
BLOCK = 64 * 1024
# How often the memory of the server is looked at meanwhile.
BLOCKS_PER_SAMPLE = 64
# How much the memory of the server may grow while a large body passes through it.
GROWTH_MAX = 24 << 20


class Browser:
    """A visitor over https that keeps cookies and fills in forms."""

    def __init__(self, site):
        self._site = site
        self.cookies = {}

    @property
    def cookie(self):
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def ask(self, path, method="GET", body=None, **headers):
        """Makes one request; returns the response with its body read, and keeps the cookies."""
        connection = self._site.connection()
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Cookie": self.cookie, **fields} if self.cookies else fields)
            response = connection.getresponse()
            response.text = response.read().decode("utf-8", "replace")
        finally:
            connection.close()
        for field in response.headers.get_all("Set-Cookie") or []:
            for name, morsel in SimpleCookie(field).items():
                assert morsel["secure"], f"expected a Secure cookie, found {field}"
                self.cookies[name] = morsel.value
        return response

    def submit(self, path, origin=f"https://{HOST}", **fields):
        """Fills in the form of a page as a browser does, with its token, and the page's own origin."""
        page = self.ask(path).text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
        body = urlencode({"csrfmiddlewaretoken": token, **fields})
        return self.ask(path, "POST", body, Content_Type="application/x-www-form-urlencoded", Origin=origin, Referer=f"{origin}{path}")

    def log_in(self):
        answer = self.submit("/admin/login/?next=/admin/", username="anna", password=PASSWORD, next="/admin/")
        assert (answer.status, answer.headers["Location"]) == (302, "/admin/"), (answer.status, answer.text)


class Blocks:
    """A body of so many bytes, which is never whole in memory, with its hash."""

    def __init__(self, size):
        self.size = size
        self._blocks = [bytes([at]) * BLOCK for at in range(251)]
        digest = hashlib.sha256()
        for block in self:
            digest.update(block)
        self.sha256 = digest.hexdigest()

    def __iter__(self):
        for at in range(0, self.size, BLOCK):
            yield self._blocks[at // BLOCK % 251][: min(BLOCK, self.size - at)]


class Django(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.site = cls.enterClassContext(DjangoSite())

    def browser(self, logged_in=False):
        browser = Browser(self.site)
        if logged_in:
            browser.log_in()
        return browser

    def test_an_administrator_logs_in_and_changes_a_user(self):
        browser = self.browser()
        self.assertEqual(browser.ask("/admin/").headers["Location"], "/admin/login/?next=/admin/")
        browser.log_in()
        index = browser.ask("/admin/")
        self.assertIn("Site administration", index.text)
        for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', index.text):
            with self.subTest(path):
                self.assertEqual(browser.ask(path).status, 200)
        added = browser.submit("/admin/auth/user/add/", username=f"bob{time.time_ns()}", password1=PASSWORD, password2=PASSWORD, usable_password="true")
        self.assertEqual(added.status, 302, added.text)
        self.assertRegex(added.headers["Location"], r"^/admin/auth/user/\d+/change/$")

    def test_a_form_of_another_origin_is_refused_by_django(self):
        answer = self.browser().submit("/admin/login/", origin="https://evil.example", username="anna", password=PASSWORD)
        self.assertEqual(answer.status, 403)
        self.assertIn("CSRF", answer.text)

    def test_django_knows_the_scheme_the_host_and_the_client_and_believes_no_other(self):
        browser = self.browser(logged_in=True)
        forged = {"X_Forwarded_Proto": "http", "X_Forwarded_Host": "evil.example", "X_Forwarded_For": "192.0.2.1", "Forwarded": "for=192.0.2.1;proto=http"}
        for headers in ({}, forged):
            seen = json.loads(browser.ask("/seen/", **headers).text)
            self.assertEqual(seen, {"secure": True, "host": HOST, "url": f"https://{HOST}/seen/", "for": "127.0.0.1", "user": "anna"})

    def test_another_host_is_refused(self):
        connection = self.site.connection()
        self.addCleanup(connection.close)
        connection.request("GET", "/page/", headers={"Host": "evil.example"})
        self.assertEqual(connection.getresponse().status, 400)

    def test_plain_http_is_sent_to_https(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        connection.request("GET", "/page/?a=1", headers={"Host": HOST})
        answer = connection.getresponse()
        self.assertEqual(answer.status, 308)
        self.assertRegex(answer.headers["Location"], rf"^https://{HOST}(:\d+)?/page/\?a=1$")

    def test_an_upload_of_200_mb_streams(self):
        browser = self.browser()
        browser.ask("/page/")
        body = Blocks(LARGE)
        fields = {"X_CSRFToken": browser.cookies["csrftoken"], "Origin": f"https://{HOST}", "Referer": f"https://{HOST}/page/"}
        before = most = self.site.server.resident_bytes()

        def sampled():
            nonlocal most
            for at, block in enumerate(body):
                if at % BLOCKS_PER_SAMPLE == 0:
                    most = max(most, self.site.server.resident_bytes())
                yield block

        connection = self.site.connection()
        self.addCleanup(connection.close)
        # With a length: Django under WSGI takes a body without one for an empty one.
        sent = {name.replace("_", "-"): value for name, value in {**fields, "Content_Length": str(body.size), "Cookie": browser.cookie}.items()}
        connection.request("POST", "/upload/", sampled(), sent)
        answer = json.loads(connection.getresponse().read())
        self.assertEqual(answer, {"size": body.size, "sha256": body.sha256})
        most = max(most, self.site.server.resident_bytes())
        self.assertLess(most - before, GROWTH_MAX)

    def test_a_download_of_200_mb_streams(self):
        connection = self.site.connection()
        self.addCleanup(connection.close)
        before = self.site.server.resident_bytes()
        connection.request("GET", f"/download/?bytes={LARGE}")
        answer = connection.getresponse()
        size, digest, most = 0, hashlib.sha256(), 0
        while block := answer.read(BLOCK):
            size += len(block)
            digest.update(block)
            if size % (BLOCK * BLOCKS_PER_SAMPLE) < BLOCK:
                most = max(most, self.site.server.resident_bytes())
        self.assertEqual((size, digest.hexdigest()), (LARGE, Blocks(LARGE).sha256))
        self.assertLess(most - before, GROWTH_MAX)

    def test_server_sent_events_come_one_by_one(self):
        connection = self.site.connection()
        self.addCleanup(connection.close)
        connection.request("GET", "/events/?count=4&pause=0.4", headers={"Accept": "text/event-stream", "Accept-Encoding": "br, gzip"})
        answer = connection.getresponse()
        self.assertEqual(answer.headers["Content-Type"], "text/event-stream")
        arrived = []
        while line := answer.readline():
            if line.startswith(b"data: "):
                arrived.append(time.time() - float(line[6:]))
        self.assertEqual(len(arrived), 4)
        self.assertLess(max(arrived), 0.3, "an event was held back")

    def socket(self, browser=None, origin=f"https://{HOST}", path="/ws/greet/", **options):
        headers = {"Cookie": browser.cookie} if browser else {}
        # The client reads in a thread of its own. Before 3.13 Python does not lock a TLS connection, and the tickets of
        # TLS 1.3 arrive while the handshake is written.
        context = self.site.tls()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return connect(
            f"wss://{HOST}{path}",
            sock=socket.create_connection(("127.0.0.1", self.site.port), DEADLINE),
            ssl=context,
            server_hostname=HOST,
            origin=origin,
            additional_headers=headers,
            open_timeout=DEADLINE,
            proxy=None,
            **options,
        )

    def test_a_channels_consumer_knows_the_sessions_user(self):
        for browser, name in ((self.browser(), ""), (self.browser(logged_in=True), "anna")):
            with self.socket(browser) as peer:
                hello = json.loads(peer.recv(DEADLINE))
                self.assertEqual((hello["hello"], hello["client"][0]), (name, "127.0.0.1"))
                for message in ({"n": 1}, {"text": "grüße" * 50_000}):
                    peer.send(json.dumps(message))
                    self.assertEqual(json.loads(peer.recv(DEADLINE)), message)

    def test_codes_of_a_channels_consumer_reach_the_client(self):
        with self.socket() as peer:
            peer.recv(DEADLINE)
            peer.send(json.dumps({"close": 4123}))
            with self.assertRaises(ConnectionClosed) as ended:
                peer.recv(DEADLINE)
            self.assertEqual(ended.exception.rcvd.code, 4123)

    def test_a_consumers_own_refusal_reaches_the_client(self):
        with self.assertRaises(InvalidStatus) as refused, self.socket(self.browser(), path="/ws/members/"):
            pass
        self.assertEqual(refused.exception.response.status_code, 403)
        until(lambda: "WSREJECT /ws/members/" in self.site.log(), lambda: f"a refusal of Daphne\n{self.site.log()}")
        with self.socket(self.browser(logged_in=True), path="/ws/members/") as peer:
            peer.ping().wait(DEADLINE)

    def test_a_page_of_another_origin_gets_no_socket(self):
        """Oneport refuses it before Daphne is asked."""
        with self.assertRaises(InvalidStatus) as refused, self.socket(origin="https://evil.example"):
            pass
        self.assertEqual((refused.exception.response.status_code, refused.exception.response.body), (403, b"403 origin not allowed\n"))

    def test_a_restart_of_daphne_is_1014_and_then_it_goes_on(self):
        with self.socket() as peer:
            peer.recv(DEADLINE)
            self.site.restart("daphne")
            with self.assertRaises(ConnectionClosed) as ended:
                peer.recv(DEADLINE)
            self.assertEqual(ended.exception.rcvd.code, 1014)
        with self.socket() as peer:
            self.assertEqual(json.loads(peer.recv(DEADLINE))["hello"], "")


def whole_site(port, routes=""):
    """Returns a configuration in which one upstream answers everything, except at more routes."""
    upstream = f'options = {{ upstream = ["http://127.0.0.1:{port}"] }}'
    return f"""
[server.limits]
body_size = "8 MiB"

[[http.route]]
path = "/{{*path}}"
view = "proxy"
{upstream}

[[websocket.route]]
path = "/{{*path}}"
consumer = "proxy"
{upstream}
{routes}"""


class BothTables(unittest.TestCase):
    OWN = """
[[websocket.route]]
path = "/ws/own/"
consumer = "echo"
"""

    def test_one_site_behind_both_tables_while_one_socket_is_ours(self):
        upstream = self.enterContext(Upstream())
        server = self.enterContext(Server(whole_site(upstream.port, self.OWN)))
        checked = subprocess.run([binary(), "check", "--config", server.config], capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""), checked)
        with ThreadPoolExecutor() as pool:
            page = pool.submit(server.request, "/page/")
            self.enterContext(upstream.next()).respond("200 OK", body=b"a page of the upstream")
            self.assertEqual(page.result(DEADLINE)[2], b"a page of the upstream")
        client = self.enterContext(RawSocket(server, "/ws/other/", wait=False))
        other = self.enterContext(upstream.next())
        self.assertEqual(other.line, "GET /ws/other/ HTTP/1.1")
        other.accept().say(TEXT, b"from the upstream")
        self.assertEqual(client.head()[0], 101)
        self.assertEqual(client.frame().payload, b"from the upstream")
        with Peer(server, "/ws/own/") as peer:
            peer.send("hi")
            self.assertEqual(peer.receive(), "hi")
        other.socket.close()


class Php(unittest.TestCase):
    SCRIPT = b"""<?php
        header('Content-Type: application/json');
        echo json_encode([
            'method' => $_SERVER['REQUEST_METHOD'], 'uri' => $_SERVER['REQUEST_URI'], 'host' => $_SERVER['HTTP_HOST'],
            'for' => $_SERVER['HTTP_X_FORWARDED_FOR'], 'proto' => $_SERVER['HTTP_X_FORWARDED_PROTO'],
            'post' => $_POST, 'files' => array_map(fn($f) => [$f['name'], $f['size'], $f['error']], $_FILES),
        ]);
    """

    def test_a_php_site_behind_the_proxy(self):
        php = shutil.which("php")
        self.assertTrue(php, "expected php, found none: install Debian's package php-cli")
        port = free_port()
        server = self.enterContext(Server(whole_site(port), files={"site/index.php": self.SCRIPT}))
        process = subprocess.Popen([php, "-S", f"127.0.0.1:{port}", "index.php"], cwd=server.directory / "site", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait, DEADLINE)
        self.addCleanup(process.kill)
        until(lambda: server.request("/")[0] == 200, "php")
        seen = json.loads(server.request("/a/b.php?c=d&e=%20", headers={"X-Forwarded-For": "192.0.2.1", "X_Forwarded_For": "192.0.2.2"})[2])
        self.assertEqual((seen["method"], seen["uri"], seen["for"], seen["proto"]), ("GET", "/a/b.php?c=d&e=%20", "127.0.0.1", "http"))
        self.assertEqual(seen["host"], server.host)
        seen = json.loads(server.request("/", "POST", {"Content-Type": "application/x-www-form-urlencoded"}, b"a=1&b=2")[2])
        self.assertEqual(seen["post"], {"a": "1", "b": "2"})
        parts = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n\r\n' + b"y" * 1_000_000 + b"\r\n--x--\r\n"
        seen = json.loads(server.request("/", "POST", {"Content-Type": "multipart/form-data; boundary=x"}, parts)[2])
        self.assertEqual(seen["files"], {"f": ["f.bin", 1_000_000, 0]})
        self.assertEqual(server.request("/missing.png")[0], 200)  # the script answers for every path


class Node(unittest.TestCase):
    SCRIPT = """
    import { createServer } from "node:http";
    import { WebSocketServer } from "ws";

    const server = createServer(async (request, response) => {
      if (request.url === "/events/") {
        response.writeHead(200, { "content-type": "text/event-stream" });
        let count = 0;
        const timer = setInterval(() => {
          response.write(`data: ${Date.now() / 1000}\\n\\n`);
          if (++count === 3) { clearInterval(timer); response.end(); }
        }, 300);
        return;
      }
      let size = 0;
      for await (const chunk of request) size += chunk.length;
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ url: request.url, size, for: request.headers["x-forwarded-for"] }));
    });
    const sockets = new WebSocketServer({ server, perMessageDeflate: true, handleProtocols: () => "v1" });
    sockets.on("connection", (socket) => socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })));
    server.listen(Number(process.argv[2]), "127.0.0.1");
    """

    def test_a_node_site_with_pages_events_and_sockets(self):
        node = shutil.which("node")
        self.assertTrue(node, "expected node, found none")
        port = free_port()
        server = self.enterContext(Server(whole_site(port)))
        script = ROOT / "tests" / "interop" / "node"  # where `ws` is installed
        process = subprocess.Popen(
            [node, "--input-type=module", "-", str(port)], cwd=script, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.addCleanup(process.wait, DEADLINE)
        self.addCleanup(process.kill)
        process.stdin.write(self.SCRIPT.encode())
        process.stdin.close()
        until(lambda: server.request("/")[0] == 200, "node")
        seen = json.loads(server.request("/a?b=c", "POST", body=b"x" * 3_000_000)[2])
        self.assertEqual(seen, {"url": "/a?b=c", "size": 3_000_000, "for": "127.0.0.1"})
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        connection.request("GET", "/events/")
        answer = connection.getresponse()
        lines = iter(answer.readline, b"")
        late = [time.time() - float(line[6:]) for line in lines if line.startswith(b"data: ")]
        self.assertEqual(len(late), 3)
        self.assertLess(max(late), 0.25)
        with connect(f"ws://{server.host}/", origin=server.origin, subprotocols=["v1"], compression="deflate", proxy=None) as peer:
            self.assertEqual(peer.subprotocol, "v1")
            self.assertIn("permessage-deflate", peer.response.headers["Sec-WebSocket-Extensions"])
            for message in ("hi" * 10_000, b"\0\1\2"):
                peer.send(message)
                self.assertEqual(peer.recv(DEADLINE), message)


if __name__ == "__main__":
    unittest.main()
