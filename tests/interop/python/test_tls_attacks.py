"""TLS from strangers: hellos in tiny pieces, odd names, half handshakes in numbers, records that mean nothing, and another protocol than the agreed one."""

import os
import socket
import ssl
import unittest
from pathlib import Path

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.tls import Authority, SecureBytes, SecureServer

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }
"""

HANDSHAKE, ALERT = 0x16, 0x15
TICKS = os.sysconf("SC_CLK_TCK")
HALF_OPEN = 300


class Strangers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        wildcard = cls.authority.issue("*.a.example")
        files = {"tls/wild.pem": wildcard[0], "tls/wild-key.pem": wildcard[1]}
        settings = 'certificates = [{ certificate = "tls/wild.pem", key = "tls/wild-key.pem" }]'
        cls.server = SecureServer(cls.authority, CONFIG, settings=settings, files=files)
        cls.enterClassContext(cls.server)

    def tearDown(self):
        self.assertEqual(self.server.request("/page/")[0], 200)
        self.assertNotIn("panicked", self.server.log())

    def open(self):
        return self.enterContext(Bytes(("127.0.0.1", self.server.port)))

    def cpu(self):
        """Returns the seconds of processor time that the server has used."""
        fields = Path(f"/proc/{self.server.pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def client(self, name="localhost", version=None):
        """Returns the client's end of TLS without a socket, and its first record."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = self.authority.context("http/1.1", version=version)
        tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
        with self.assertRaises(ssl.SSLWantReadError):
            tls.do_handshake()
        return tls, incoming, outgoing, outgoing.read()

    def finish(self, opened, tls, incoming, outgoing):
        """Completes a handshake, and asks for a page."""
        def step(action):
            while True:
                try:
                    return action()
                except ssl.SSLWantReadError:
                    opened.send(outgoing.read())
                    incoming.write(opened.socket.recv(1 << 16))

        step(tls.do_handshake)
        tls.write(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        opened.send(outgoing.read())
        read = b""
        while not read.endswith(b"a page"):
            read += step(lambda: tls.read(1 << 16))
        self.assertTrue(read.startswith(b"HTTP/1.1 200"))

    def test_a_hello_in_records_of_one_byte_is_a_hello(self):
        for together in (10_000, 7, 1):
            with self.subTest(together=together):
                tls, incoming, outgoing, hello = self.client()
                message = hello[5:]
                records = [b"\x16\x03\x01\x00\x01" + message[at : at + 1] for at in range(len(message))]
                opened, before = self.open(), self.cpu()
                for at in range(0, len(records), together):
                    opened.send(b"".join(records[at : at + together]))
                self.finish(opened, tls, incoming, outgoing)
                self.assertLess(self.cpu() - before, 1)

    def test_a_long_hello_in_tiny_records_costs_little_time_and_is_bounded(self):
        before = self.cpu()
        for _ in range(10):
            opened = self.open()
            opened.send(b"\x16\x03\x01\x00\x04\x01\x00\xff\xff")
            try:
                for _ in range(40):
                    opened.send(b"\x16\x03\x01\x00\x01\x00" * 500)
            except OSError:
                pass
            self.assertIn(opened.rest()[:1], (b"", bytes([ALERT])))
        self.assertLess(self.cpu() - before, 3)

    def test_odd_names_get_an_answer(self):
        for odd in (b"LOCALHOST", b"local..st", b".ocalhost", b"localhos.", b"local\0ost", b"127.0.0.1", b"-ocalhost", b"*.a.examp", b"\xff" * 9, b" " * 9):
            *_, hello = self.client()
            self.assertEqual(hello.count(b"localhost"), 1)
            opened = self.open()
            opened.send(hello.replace(b"localhost", odd))
            # The client would notice: only the first record of the answer is looked at.
            with self.subTest(odd):
                self.assertIn(opened.exactly(1)[0], (HANDSHAKE, ALERT))

    def test_half_handshakes_in_numbers_take_little_memory(self):
        before = self.server.resident_bytes()
        tls, incoming, outgoing, hello = self.client()
        half = [self.open() for _ in range(HALF_OPEN)]
        for opened in half:
            # As much as is kept before a handshake is complete, and no more.
            opened.send(b"\x16\x03\x01\x40\x00\x01\x00\xff\x00" + bytes(16380) + b"\x16\x03\x01\x40\x00" + bytes(9000))
        self.assertEqual(self.server.request("/page/")[0], 200)
        grown = self.server.resident_bytes() - before
        self.assertLess(grown / HALF_OPEN, 64 * 1024, f"{grown / HALF_OPEN:.0f} bytes each")
        for opened in half:
            opened.socket.close()
        until(lambda: self.server.metric("oneport_tls_handshakes_total", outcome="gone") >= HALF_OPEN, "all to be gone")

    def test_records_that_mean_nothing_end_the_connection(self):
        client = self.server.connect()
        with SecureBytes(client) as opened:
            opened.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(opened.head()[0], 200)
            plain = self.enterContext(socket.socket(fileno=client.detach()))
        plain.settimeout(DEADLINE)
        try:
            plain.sendall(b"\x14\x03\x03\x00\x01\x01" * 1000)  # change_cipher_spec, long after the handshake
            while plain.recv(1 << 16):
                pass
        except OSError as error:
            self.assertNotIsInstance(error, TimeoutError)

    def test_a_protocol_other_than_the_agreed_one_is_no_way_around(self):
        with SecureBytes(self.server.connect(self.authority.context("h2"))) as client:
            client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertNotIn(b"a page", client.rest())


if __name__ == "__main__":
    unittest.main()
