"""nginx, HAProxy and Caddy in front of the server, each by its sample in config/: TLS, the client's address, sockets, a stop."""

import http.client
import re
import signal
import threading
import unittest

from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.front import Front
from kit.server import ROOT, Server

# What the configuration in a sample's comment does not have.
MORE = """
[templates]
dir = "templates"

[[http.route]]
path = "/who/"
view = "template"
options = { template = "who.html" }

[[http.route]]
path = "/events/"
view = "events"
options = { group = "news" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

SAMPLES = {"nginx": "nginx/oneport.conf", "haproxy": "haproxy/haproxy.cfg", "caddy": "caddy/Caddyfile"}

PAGE = "{{ scope.scheme }} {{ scope.host }}"

# The address of the clients; that of the programs in front is trusted.
CLIENT = "127.0.0.2"

FORGED = {
    "X-Forwarded-For": "192.0.2.1",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=192.0.2.1",
    "X-Request-Id": "forged-by-client",
}


def start(program, delay="0s"):
    """Starts a server by the configuration in the comment at the top of the program's sample, for the site's name alone."""
    text = (ROOT / "config" / SAMPLES[program]).read_text(encoding="utf-8")
    head = re.match(r"(?:#.*\n)+", text).group()
    config = "".join(line[4:] + "\n" for line in head.splitlines() if line.startswith("#   ")) + MORE
    # The kit asks by the loopback address whether the server is up, unless the sample has a route for that.
    hosts = ["localhost"] if "/health/" in text.removeprefix(head) else ["localhost", "127.0.0.1"]
    config = re.sub(r"(?m)^bind .*", f"allowed_hosts = {hosts}", config, count=1)
    config = re.sub(r"(?m)^\[server\.drain\]\n(?:\w+ .*\n)*", "", config) + f'\n[server.drain]\ndelay = "{delay}"\n'
    return Server(config, files={"templates/who.html": PAGE})


def ask(front, path, headers=None):
    connection = http.client.HTTPSConnection("localhost", front.port, timeout=DEADLINE, context=front.tls)
    connection.sock = front.connect(CLIENT)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def dial(front, path="/ws/echo/"):
    # TLS is done by the given socket.
    return connect(
        f"ws://{front.host}{path}",
        sock=front.connect(CLIENT),
        origin=front.origin,
        proxy=None,
        open_timeout=DEADLINE,
        close_timeout=DEADLINE,
    )


class Behind:
    """What holds behind each of them."""

    def fronted(self):
        server = self.enterContext(start(self.program))
        return server, self.enterContext(Front(self.program, *[server.port] * self.servers))

    def test_client_scheme_and_host_are_those_of_the_request_in_front(self):
        server, front = self.fronted()
        for headers in None, FORGED:
            with self.subTest(headers=headers):
                self.assertEqual(ask(front, "/who/", headers), (200, "https localhost"))
        server.wait_for_log(r'(?s)(path="/who/".*){2}')
        clients = re.findall(r'client=(\S+):\d+ .*path="/who/"', server.log())
        self.assertEqual(clients, [CLIENT] * 2, server.log())
        self.assertNotIn("forged", server.log())

    def test_socket_of_the_page_s_origin_is_let_in_and_carries_messages_both_ways(self):
        server, front = self.fronted()
        with dial(front) as peer:
            for message in "hi", b"\0\1", "x" * 60_000:
                peer.send(message)
                self.assertEqual(peer.recv(DEADLINE), message)
        line = server.wait_for_log(r"websocket.* client=\S+ .*").group()
        self.assertIn(f"client={CLIENT}:", line)

    def test_server_is_healthy_for_the_program_that_asks(self):
        server, front = self.fronted()
        if self.asks_health:
            server.wait_for_log(r'(?s)(path="/health/" route="/health/" status=200.*){4}')
            self.assertNotRegex(server.log(), r'path="/health/" .*status=[^2]')
        self.assertEqual(ask(front, "/who/")[0], 200)

    def test_an_event_stream_passes_as_it_comes(self):
        _, front = self.fronted()
        stream = front.connect(CLIENT)
        self.addCleanup(stream.close)
        stream.settimeout(DEADLINE)
        stream.sendall(f"GET /events/ HTTP/1.1\r\nHost: {front.host}\r\n\r\n".encode())
        read = b""
        while b"retry: 3000" not in read:
            read += stream.recv(4096)

    def test_a_socket_hears_of_the_end_of_the_server(self):
        server, front = self.fronted()
        with dial(front) as peer:
            peer.send("hi")
            peer.recv(DEADLINE)
            server.signal(signal.SIGTERM)
            until(lambda: peer.protocol.close_code, "a close frame")
            self.assertEqual(peer.protocol.close_code, 1001)
            self.assertEqual(peer.protocol.close_reason, "the server is shutting down; retry_after=5")
        server.wait()


class BehindNginx(Behind, unittest.TestCase):
    program, servers, asks_health = "nginx", 1, False

    def test_plain_http_is_redirected(self):
        _, front = self.fronted()
        connection = http.client.HTTPConnection("127.0.0.1", front.http, timeout=DEADLINE)
        self.addCleanup(connection.close)
        connection.request("GET", "/who/", headers={"Host": "localhost"})
        self.assertEqual(connection.getresponse().status, 308)


class BehindCaddy(Behind, unittest.TestCase):
    program, servers, asks_health = "caddy", 1, True


class BehindHaproxy(Behind, unittest.TestCase):
    program, servers, asks_health = "haproxy", 2, True

    def test_plain_http_is_redirected(self):
        _, front = self.fronted()
        connection = http.client.HTTPConnection("127.0.0.1", front.http, timeout=DEADLINE)
        self.addCleanup(connection.close)
        connection.request("GET", "/who/", headers={"Host": "localhost"})
        self.assertEqual(connection.getresponse().status, 308)

    def test_a_stop_of_one_of_two_servers_fails_no_request_and_no_handshake(self):
        one, two = self.enterContext(start("haproxy", delay="5s")), self.enterContext(start("haproxy"))
        front = self.enterContext(Front("haproxy", one.port, two.port))
        failures, asked, is_over = [], [0, 0], threading.Event()

        def request():
            while not is_over.is_set():
                status, _ = ask(front, "/who/")
                asked[0] += 1
                if status != 200:
                    failures.append(status)

        def shake():
            while not is_over.is_set():
                try:
                    with dial(front) as peer:
                        peer.send("hi")
                        peer.recv(DEADLINE)
                        asked[1] += 1
                except Exception as error:  # whatever it is, it is a failure
                    failures.append(repr(error))

        threads = [threading.Thread(target=target) for target in (request, shake)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: min(asked) > 20, "requests and handshakes before the stop")
            one.signal(signal.SIGTERM)
            one.wait()
            before = list(asked)
            until(lambda: min(asked[0] - before[0], asked[1] - before[1]) > 20, "requests and handshakes after the stop")
        finally:
            is_over.set()
            for thread in threads:
                thread.join(DEADLINE)
        self.assertEqual(failures, [], front.log())
        self.assertRegex(front.log(), r"Server oneport/one is DOWN.*503")


if __name__ == "__main__":
    unittest.main()
