"""The PROXY protocol: from a trusted proxy in front of TLS and of plain HTTP, malformed headers, strangers, and HAProxy itself."""

import contextlib
import socket
import ssl
import struct
import subprocess
import unittest

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.server import Server
from kit.tls import Authority, SecureBytes, SecureServer

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

TRUSTING = 'trusted_proxies = ["127.0.0.1"]\n'

V2 = b"\r\n\r\n\0\r\nQUIT\n"

ASK = b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.99\r\n\r\n"


def v1(client):
    return f"PROXY TCP4 {client} 127.0.0.1 40000 443\r\n".encode()


def v2(client, command=0x21, rest=b""):
    addresses = socket.inet_aton(client) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 40000, 443) + rest
    return V2 + bytes([command, 0x11]) + struct.pack("!H", len(addresses)) + addresses


def client_of(server, path="/page/"):
    """Returns the client in the last line of the access log for a path."""
    lines = [line for line in server.log().splitlines() if "access: http" in line and f'path="{path}"' in line]
    return lines[-1].split("client=")[1].split()[0] if lines else None


class OverPlainHttp(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        limits = "[server.limits]\nconnections_per_ip = 2\n[server.timeouts]\nhandshake = \"2s\"\n"
        cls.server = Server(f"[server]\n{TRUSTING}{limits}{CONFIG}")
        cls.enterClassContext(cls.server)

    def ask(self, header, source=None):
        with Bytes(("127.0.0.1", self.server.port), source=source) as client:
            client.send(header + ASK)
            status, _ = client.head()
            client.exactly(6) if status == 200 else None
            return status

    def test_both_versions_name_the_client_and_no_field_of_it_is_believed(self):
        for header, expected in (
            (v1("198.51.100.7"), "198.51.100.7:40000"),
            (v2("198.51.100.8"), "198.51.100.8:40000"),
            (v2("198.51.100.9", rest=b"\x03\x00\x04abcd\x20\x00\x00"), "198.51.100.9:40000"),
            (b"PROXY TCP6 2001:db8::7 ::1 40000 443\r\n", "[2001:db8::7]:40000"),
        ):
            with self.subTest(header):
                self.assertEqual(self.ask(header), 200)
                until(lambda: client_of(self.server) == expected, f"{expected} in the log\n{self.server.log()[-500:]}")

    def test_without_a_client_the_fields_of_the_proxy_count(self):
        for header in (b"", b"PROXY UNKNOWN\r\n", v2("198.51.100.7", command=0x20)):
            with self.subTest(header):
                self.assertEqual(self.ask(v1("198.51.100.1")), 200)
                until(lambda: client_of(self.server) == "198.51.100.1:40000", "the line of another client")
                self.assertEqual(self.ask(header), 200)
                until(lambda: client_of(self.server).startswith("203.0.113.99"), f"the field's\n{self.server.log()[-500:]}")

    def test_the_header_may_come_in_pieces(self):
        # Each connection is of another client: the one before may still be counted.
        for number, cut in enumerate((1, 5, 12, 14, -1)):
            for header in (v1(f"198.51.100.{20 + number}"), v2(f"198.51.100.{30 + number}")):
                with self.subTest((header, cut)), Bytes(("127.0.0.1", self.server.port)) as client:
                    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.send(header[:cut])
                    client.send(header[cut:] + ASK)
                    self.assertEqual(client.head()[0], 200)

    def test_malformed_headers_close_the_connection(self):
        refused = lambda: self.server.metric("oneport_proxy_headers_total", outcome="refused")  # noqa: E731
        before = refused()
        wrong = (
            b"PROXY TCP4 1.2.3.4\r\n",
            b"PROXY TCP4 " + b"x" * 200,
            V2 + b"\x31\x11\x00\x00",
            V2 + b"\x21\x11\xff\xff" + bytes(100),
            v2("198.51.100.7")[:20],
        )
        for header in wrong:
            with self.subTest(header), Bytes(("127.0.0.1", self.server.port)) as client:
                client.send(header)
                with contextlib.suppress(OSError):  # closed already
                    client.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(client.rest(), b"")
        until(lambda: refused() == before + len(wrong), "every refusal counted")

    def test_a_method_of_that_name_is_a_request(self):
        for header in (b"", v1("198.51.100.7")):
            with self.subTest(header), Bytes(("127.0.0.1", self.server.port)) as client:
                client.send(header + b"PROXY /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertEqual(client.head()[0], 200)

    def test_a_stranger_cannot_send_one(self):
        for header in (v1("198.51.100.7"), v2("198.51.100.7")):
            with self.subTest(header), Bytes(("127.0.0.1", self.server.port), source="127.0.0.2") as client:
                client.send(header + ASK)
                self.assertRegex(client.rest()[:20], b"^HTTP/1.[01] 400|^$")

    def test_connections_count_for_the_client(self):
        with Bytes(("127.0.0.1", self.server.port)) as one, Bytes(("127.0.0.1", self.server.port)) as two:
            for open_one in (one, two):
                open_one.send(v1("198.51.100.77") + ASK)
                self.assertEqual(open_one.head()[0], 200)
            self.assertEqual(self.ask(v1("198.51.100.77")), 503)
            self.assertEqual(self.ask(v1("198.51.100.78")), 200)
        until(lambda: self.ask(v1("198.51.100.77")) == 200, "room again")


class OverTls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        cls.server = SecureServer(cls.authority, CONFIG, server=TRUSTING)
        cls.enterClassContext(cls.server)

    def test_the_header_comes_before_the_handshake(self):
        for header in (v1("198.51.100.7"), v2("198.51.100.8")):
            with self.subTest(header), SecureBytes(self.server.connect(before=header)) as client:
                client.send(ASK)
                self.assertEqual(client.head()[0], 200)
                expected = "198.51.100.7:40000" if header.startswith(b"PROXY") else "198.51.100.8:40000"
                until(lambda: client_of(self.server) == expected, "the client in the log")

    def test_a_client_that_does_not_encrypt_is_redirected(self):
        with Bytes(("127.0.0.1", self.server.port)) as client:
            client.send(v1("198.51.100.7") + ASK)
            self.assertEqual(client.head()[0], 308)

    def test_a_stranger_cannot_send_one(self):
        with self.assertRaises((ssl.SSLError, OSError)):
            self.server.connect(before=v1("198.51.100.7"), source="127.0.0.2")


class OverTheLimit(unittest.TestCase):
    def test_a_refused_client_gets_what_it_can_read(self):
        limits = "[server.limits]\nconnections = 1\n"
        with SecureServer(Authority(), CONFIG, server=TRUSTING + limits) as server:

            def connect():
                try:
                    return server.connect()
                except OSError:
                    return None  # the connection that asked for its health is still counted

            with SecureBytes(until(connect, "room for one connection")) as held:
                held.send(ASK)
                self.assertEqual(held.head()[0], 200)
                for header in (b"", v1("198.51.100.7"), v2("198.51.100.7")):
                    with self.subTest(header, by="TLS"), Bytes(("127.0.0.1", server.port)) as client:
                        client.send(header + b"\x16\x03\x01")
                        try:
                            self.assertEqual(client.rest(), b"")
                        except ConnectionResetError:
                            pass  # closed with bytes that are not read
                    with self.subTest(header, by="HTTP"), Bytes(("127.0.0.1", server.port)) as client:
                        client.send(header + ASK)
                        self.assertEqual(client.head()[0], 503)


class Haproxy(unittest.TestCase):
    def test_it_passes_tls_through_and_names_its_client(self):
        authority = Authority()
        with SecureServer(authority, CONFIG, server=TRUSTING) as server:
            for option, source in (("send-proxy", "127.0.0.3"), ("send-proxy-v2", "127.0.0.4")):
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
                config = server.directory / "haproxy.cfg"
                config.write_text(
                    "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n"
                    f"listen it\n bind 127.0.0.1:{port}\n server one 127.0.0.1:{server.port} {option}\n",
                    encoding="utf-8",
                )
                proxy = subprocess.Popen(["haproxy", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    opened = until(lambda: self.connect(port, source), "HAProxy")
                    context = authority.context("http/1.1")
                    with self.subTest(option), SecureBytes(context.wrap_socket(opened, server_hostname="localhost")) as client:
                        client.send(ASK)
                        self.assertEqual(client.head()[0], 200)
                        until(lambda: (client_of(server) or "").startswith(f"{source}:"), "HAProxy's client in the log")
                finally:
                    proxy.terminate()
                    proxy.wait(DEADLINE)

    def connect(self, port, source):
        try:
            return socket.create_connection(("127.0.0.1", port), DEADLINE, source_address=(source, 0))
        except OSError:
            return None


if __name__ == "__main__":
    unittest.main()
