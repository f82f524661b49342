"""Certificates that change under a running server: by their files, by SIGHUP, half written, missing, of another key, and near their end."""

import os
import re
import socket
import ssl
import subprocess
import time
import unittest

from kit.deadline import until
from kit.server import binary
from kit.tls import DAY, Authority, SecureBytes, SecureServer

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }
"""


def serial(server, context=None, session=None):
    """Returns the serial number of the certificate that is served."""
    with server.connect(context, session=session) as client:
        return client.getpeercert()["serialNumber"]


class Certificates(unittest.TestCase):
    def setUp(self):
        self.authority = Authority()
        self.server = SecureServer(self.authority, CONFIG, settings='hsts = "1d"')
        self.enterContext(self.server)
        self.first = serial(self.server)

    def replaced(self, count):
        return self.server.metric("oneport_tls_certificate_reloads_total", outcome="replaced") == count

    def refused(self, count):
        return self.server.metric("oneport_tls_certificate_reloads_total", outcome="refused") == count

    def put(self, chain=None, key=None):
        if key is not None:
            self.server.put("tls/key.pem", key)
        if chain is not None:
            self.server.put("tls/cert.pem", chain)

    def test_new_files_are_served_without_a_restart_and_open_connections_stay(self):
        with SecureBytes(self.server.connect()) as before:
            self.put(*self.authority.issue("localhost", kind="rsa"))
            until(lambda: serial(self.server) != self.first, "the new certificate")
            before.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(before.head()[0], 200)
        self.assertTrue(self.replaced(1))
        self.assertIn("certificates replaced", self.server.log())

    def test_what_cannot_be_served_keeps_the_previous_pair(self):
        chain, key = self.authority.issue("localhost")
        refused = 0
        for what, (new_chain, new_key), why in (
            ("half a certificate", (chain[: len(chain) // 2], None), "found one that is cut off"),
            ("an empty file", ("", None), "expected a certificate in PEM"),
            ("another key", (None, key), "expected a certificate|found that of another"),
            ("no key", (None, chain), "expected a private key in PEM|expected a certificate"),
        ):
            with self.subTest(what):
                self.put(new_chain, new_key)
                refused += 1
                until(lambda: self.refused(refused), f"a refusal\n{self.server.log()}")
                self.assertRegex(self.server.log(), f"still serving the previous ones: .*({why})")
                self.assertEqual(serial(self.server), self.first)
        with self.subTest("a missing file"):
            os.remove(self.server.directory / "tls/cert.pem")
            refused += 1
            until(lambda: self.refused(refused), "a refusal")
            self.assertRegex(self.server.log(), "cannot read .*cert.pem: No such file")
            self.assertEqual(serial(self.server), self.first)
        with self.subTest("a pair that fits"):
            self.put(chain, key)
            until(lambda: serial(self.server) != self.first, "the new certificate")
            self.assertTrue(self.replaced(1))

    def test_a_file_that_grows_is_read_when_it_is_complete(self):
        chain, key = self.authority.issue("localhost")
        self.put(None, key)
        until(lambda: self.refused(1), "a refusal of the new key alone")
        path = self.server.directory / "tls/cert.pem"
        for end in range(0, len(chain) + 1, len(chain) // 5 + 1):
            path.write_text(chain[:end], encoding="utf-8")
            self.assertEqual(serial(self.server), self.first)
            time.sleep(0.3)
        path.write_text(chain, encoding="utf-8")
        until(lambda: serial(self.server) != self.first, "the new certificate")

    def test_a_reload_reads_them_too_and_a_broken_one_refuses_it(self):
        sections = self.server.sections
        chain, key = self.authority.issue("localhost")
        self.server.put("tls/new.pem", chain)
        self.server.put("tls/new.key", key)
        changed = sections.replace("tls/cert.pem", "tls/new.pem").replace("tls/key.pem", "tls/new.key")
        self.server.reload(changed + CONFIG.replace("a page", "another page"))
        self.assertNotEqual(serial(self.server), self.first)
        self.assertTrue(self.replaced(1))
        self.assertEqual(self.server.request("/page/")[2], b"another page")
        second = serial(self.server)
        said = self.server.reload(changed.replace("new.key", "key.pem") + CONFIG)
        self.assertRegex(said, r"server\.tls\.key: .*key\.pem: expected the private key of the certificate, found that of another")
        self.assertEqual((serial(self.server), self.server.request("/page/")[2]), (second, b"another page"))

    def test_tickets_survive_new_certificates_and_reloads_but_not_new_authorities_of_clients(self):
        context = self.authority.context("http/1.1", version=ssl.TLSVersion.TLSv1_3)

        def session(old=None):
            with SecureBytes(self.server.connect(context, session=old)) as client:
                client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                client.head()
                return client.socket.session, client.socket.session_reused

        first, _ = session()
        self.server.reload(self.server.sections + CONFIG)
        self.assertTrue(session(first)[1])
        self.server.put("tls/clients.pem", Authority("people").pem)
        self.server.reload(self.server.sections + 'client_ca = "tls/clients.pem"\n' + CONFIG)
        self.assertFalse(session(first)[1])
        second, _ = session()
        self.assertTrue(session(second)[1])
        self.server.put("tls/clients.pem", Authority("other people").pem)
        until(lambda: not session(second)[1], "the end of the session")

    def test_a_handshake_under_way_finishes(self):
        opened = socket.create_connection(("127.0.0.1", self.server.port), 20)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.authority.context("http/1.1").wrap_bio(incoming, outgoing, server_hostname="localhost")
        with opened:
            with self.assertRaises(ssl.SSLWantReadError):
                client.do_handshake()
            hello = outgoing.read()
            opened.sendall(hello[:50])
            self.put(*self.authority.issue("localhost"))
            until(lambda: serial(self.server) != self.first, "the new certificate")
            opened.sendall(hello[50:])
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    if found := outgoing.read():
                        opened.sendall(found)
                    incoming.write(opened.recv(1 << 16))
            self.assertTrue(client.getpeercert())

    def test_a_reload_removes_the_section_and_adds_it_again(self):
        with SecureBytes(self.server.connect()) as before:
            self.server.reload(CONFIG)
            status, fields, body = self.server.plain("/page/", {"Host": "localhost"})
            self.assertEqual((status, body), (200, b"a page"))
            self.assertNotIn("strict-transport-security", fields)
            with self.assertRaises((ssl.SSLError, OSError)):
                self.server.connect()
            before.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(before.head()[0], 200)
        self.put(*self.authority.issue("localhost"))
        said = self.server.reload(self.server.sections + CONFIG)
        self.assertNotIn("next start", said)
        second = serial(self.server)
        self.assertNotEqual(second, self.first)
        self.assertEqual(self.server.plain("/page/", {"Host": "localhost"})[0], 308)
        self.assertEqual(self.server.request("/page/")[1]["strict-transport-security"], "max-age=86400")
        self.put(*self.authority.issue("localhost"))
        until(lambda: serial(self.server) != second, "the new certificate")


class Expiry(unittest.TestCase):
    def test_the_metric_counts_down_and_the_log_warns(self):
        authority = Authority()
        pair = authority.issue("localhost", ends=DAY / 4)
        with SecureServer(authority, CONFIG, pair=pair) as server:
            metric = "oneport_tls_certificate_expiry_seconds"
            left = until(lambda: server.metric(metric, name="localhost"), "the metric")
            self.assertLess(abs(left - 86400 / 4), 120)
            server.wait_for_log("a certificate expires soon.*localhost")
            self.assertEqual(len(re.findall("expires soon", server.log())), 1)

    def test_of_two_certificates_of_a_name_the_first_to_end_counts(self):
        authority = Authority()
        rsa = authority.issue("localhost", kind="rsa", ends=DAY)
        files = {"tls/rsa.pem": rsa[0], "tls/rsa-key.pem": rsa[1]}
        settings = 'certificates = [{ certificate = "tls/rsa.pem", key = "tls/rsa-key.pem" }]'
        with SecureServer(authority, CONFIG, settings=settings, files=files, pair=authority.issue("localhost", ends=DAY / 4)) as server:
            metric = "oneport_tls_certificate_expiry_seconds"
            for _ in range(3):
                left = until(lambda: server.metric(metric, name="localhost"), "the metric")
                self.assertLess(abs(left - 86400 / 4), 120)
                time.sleep(1.1)  # the next look
            self.assertEqual(len(re.findall("expires soon", server.log())), 1)

    def check(self, authority, **changes):
        """Returns what `oneport check` says of a server's files."""
        server = SecureServer(authority, CONFIG, **changes)
        try:
            command = [binary(), "check", "--config", server.config]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            return done.returncode, done.stdout + done.stderr
        finally:
            server.close()

    def test_check_warns_of_the_lifetime_and_of_a_key_that_all_can_read(self):
        authority = Authority()
        code, said = self.check(authority, pair=authority.issue("localhost", begins=-3 * DAY, ends=-DAY))
        self.assertEqual(code, 0, said)
        self.assertRegex(said, r"server\.tls\.certificate: warning: the certificate of localhost expired at 20\d\d-")
        code, said = self.check(authority, pair=authority.issue("localhost", begins=DAY))
        self.assertRegex(said, r"the certificate of localhost is not valid before 20\d\d-")
        self.assertEqual(self.check(authority)[0], 0)
        pair = authority.issue("a")
        files = {"tls/a.pem": pair[0], "tls/a.secret": pair[1]}
        settings = 'certificates = [{ certificate = "tls/a.pem", key = "tls/a.secret" }]'
        code, said = self.check(authority, files=files, settings=settings)
        self.assertRegex(said, r"certificates\[0\]\.key: warning: expected a private key that others cannot read")

    def test_check_names_every_file_that_is_wrong_at_once(self):
        authority = Authority()
        pair = authority.issue("localhost")
        settings = 'client_ca = "tls/none.pem"\ncertificates = [{ certificate = "tls/key.pem", key = "tls/cert.pem" }]'
        code, said = self.check(authority, settings=settings, pair=(pair[0], authority.issue("localhost")[1]))
        self.assertNotEqual(code, 0)
        for expected in (
            r"server\.tls\.key: .*found that of another",
            r"server\.tls\.certificates\[0\]\.certificate: .*found a private key",
            r"server\.tls\.client_ca: cannot read .*none\.pem",
        ):
            self.assertRegex(said, expected)


if __name__ == "__main__":
    unittest.main()
