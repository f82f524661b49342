"""WebSockets over TLS, by OpenSSL: slow members, broken records, ends without a word, and new keys in the middle."""

import os
import socket
import ssl
import struct
import subprocess
import unittest

import test_slow_client
from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.frames import BINARY, TEXT, RawSocket, encode
from kit.tls import Authority, SecureServer

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }

[[websocket.route]]
path = "/ws/echo/"
name = "echo"
consumer = "echo"
max_message = "16 MiB"

[[websocket.route]]
path = "/ws/room/"
name = "room"
consumer = "broadcast"
options = { group = "room" }
"""

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class SecureSlowClient(test_slow_client.SlowClient):
    """All that slow clients meet, over TLS."""

    def setUp(self):
        self.authority = Authority()
        self.server = self.enterContext(SecureServer(self.authority, test_slow_client.CONFIG))

    def open(self, path, **options):
        context = self.authority.context("http/1.1")
        return super().open(path, secure=lambda plain: context.wrap_socket(plain, server_hostname="localhost"), **options)


class Wire:
    """The client's end of TLS over a socket whose bytes the test moves itself."""

    def __init__(self, server, context):
        self.socket = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self._do(self.tls.do_handshake)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _do(self, action):
        while True:
            try:
                return action()
            except ssl.SSLWantReadError:
                self.socket.sendall(self.outgoing.read())
                data = self.socket.recv(1 << 16)
                if not data:
                    raise EOFError("the server has closed the connection") from None
                self.incoming.write(data)
            finally:
                if self.outgoing.pending:
                    self.socket.sendall(self.outgoing.read())

    def records(self, data):
        """Encrypts bytes, and returns them instead of sending them."""
        for at in range(0, len(data), 1 << 14):
            self.tls.write(data[at : at + (1 << 14)])
        return self.outgoing.read()

    def read(self, count):
        found = b""
        while len(found) < count:
            found += self._do(lambda: self.tls.read(count - len(found)))
        return found

    def upgrade(self, path):
        lines = (
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Origin: https://localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "\r\n",
        )
        self.socket.sendall(self.records("\r\n".join(lines).encode()))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        assert head.startswith(b"HTTP/1.1 101"), head

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class SecureSockets(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        cls.server = cls.enterClassContext(SecureServer(cls.authority, CONFIG))

    def wire(self, version=None):
        wire = self.enterContext(Wire(self.server, self.authority.context("http/1.1", version=version)))
        wire.upgrade("/ws/echo/")
        return wire

    def gone(self):
        return self.server.metric("oneport_websockets_closed_total", route="echo", cause="client_gone")

    def test_records_in_any_pieces_are_the_same_messages(self):
        payload = os.urandom(40_000)
        for version in VERSIONS:
            with self.subTest(version.name):
                wire = self.wire(version)
                records = wire.records(encode(BINARY, payload) + encode(TEXT, b"and one more"))
                for size in (1, 4, 5, 6, 100, 16_384, len(records)):
                    piece, records = records[:size], records[size:]
                    wire.socket.sendall(piece)
                self.assertEqual(wire.read(4 + 40_000)[4:], payload)
                self.assertEqual(wire.read(14)[2:], b"and one more")

    def test_large_messages_come_back_whole(self):
        options = {"ssl": self.authority.context("http/1.1"), "proxy": None, "open_timeout": DEADLINE}
        url = f"wss://localhost:{self.server.port}/ws/echo/"
        for compression in (None, "deflate"):
            with connect(url, origin="https://localhost", compression=compression, max_size=None, **options) as client:
                for size in (0, 1, 16_383, 16_384, 16_385, 70_000, 10 << 20):
                    message = os.urandom(size // 2) + bytes(size - size // 2)
                    client.send(message)
                    self.assertEqual(client.recv(timeout=DEADLINE), message)

    def test_a_broken_record_ends_the_socket_with_an_alert(self):
        for version in VERSIONS:
            with self.subTest(version.name):
                before = self.gone()
                wire = self.wire(version)
                good = wire.records(encode(TEXT, b"before"))
                bad = bytearray(wire.records(encode(TEXT, b"never")))
                bad[-1] ^= 1
                wire.socket.sendall(good + bad)
                with self.assertRaisesRegex(ssl.SSLError, "(?i)alert"):
                    self.assertEqual(wire.read(8)[2:], b"before")
                    wire.read(1)
                until(lambda: self.gone() == before + 1, "a socket whose client is gone")

    def test_a_client_that_leaves_without_a_close_frame_is_gone(self):
        def half_a_record(wire):
            wire.socket.sendall(wire.records(encode(TEXT, b"x" * 1000))[:500])
            wire.reset()

        def close_notify(wire):
            try:
                wire.tls.unwrap()
            except ssl.SSLWantReadError:
                wire.socket.sendall(wire.outgoing.read())

        def nothing(wire):
            wire.socket.shutdown(socket.SHUT_WR)

        for leave in (half_a_record, close_notify, nothing):
            with self.subTest(leave.__name__):
                before = self.gone()
                leave(self.wire())
                until(lambda: self.gone() == before + 1, "a socket whose client is gone")

    def test_members_hear_each_other(self):
        context = self.authority.context("http/1.1")

        def secure(plain):
            return context.wrap_socket(plain, server_hostname="localhost")

        members = [self.enterContext(RawSocket(self.server, "/ws/room/", secure=secure)) for _ in range(20)]
        for member in members:
            member.say(9)
            member.frame()
        for number, member in enumerate(members):
            member.say(TEXT, f"from {number}".encode())
        for member in members:
            heard = sorted(member.frame().payload for _ in members)
            self.assertEqual(heard, sorted(f"from {number}".encode() for number in range(20)))

    def test_keys_may_change_between_requests(self):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{self.server.port}", "-servername", "localhost", "-tls1_3"]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(client.stdin.close)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.wait, DEADLINE)
        self.addCleanup(client.kill)
        request = b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
        seen = b""
        for times, keys in enumerate((b"", b"k\n", b"K\n", b"K\n"), start=1):
            # The client takes a line as a command only if it comes by itself.
            if keys:
                client.stdin.write(keys)
                client.stdin.flush()
                while seen.count(b"KEYUPDATE") < times - 1:
                    seen += self.some(client)
            client.stdin.write(request)
            client.stdin.flush()
            while seen.count(b"a page") < times:
                seen += self.some(client)
        self.assertEqual(seen.count(b"HTTP/1.1 200"), 4)

    def some(self, client):
        found = os.read(client.stdout.fileno(), 1 << 16)
        self.assertTrue(found, "the client has ended")
        return found


if __name__ == "__main__":
    unittest.main()
