"""ACME: certificates from a real CA, Debian's pebble, through both challenges, renewals and faults."""

import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.pebble import Pebble
from kit.postgres import free_port
from kit.restart import RestartServer
from kit.server import Server, binary

FAILED = "cannot obtain a certificate"


def config(pebble, *, domains=("a.test",), cache="tls/acme", plaintext="serve", routes="", ca=True, **keys):
    """Returns a configuration; `keys` are further ones of [server.tls.acme]."""
    written = {"domains": list(domains), "directory": pebble.url, "cache": str(cache), **keys}
    if ca:
        written["ca"] = str(pebble.authority)
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in written.items() if not isinstance(value, dict))
    tables = "\n".join(
        f"{key} = {{ " + ", ".join(f"{name} = {json.dumps(inner)}" for name, inner in value.items()) + " }"
        for key, value in written.items()
        if isinstance(value, dict)
    )
    return f'[server]\nallowed_hosts = ["*"]\n[server.tls]\nplaintext = "{plaintext}"\n[server.tls.acme]\n{lines}\n{tables}\n{routes}\n'


def certificate(port, trust, name="a.test"):
    """Returns the certificate of a handshake, parsed if it is trusted; `None` if the handshake fails."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as plain, trust.wrap_socket(plain, server_hostname=name) as stream:
            return stream.getpeercert()
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, ConnectionError):
        return None


class Case(unittest.TestCase):
    def setUp(self):
        self.port = free_port()

    def pebble(self, port=None, **options):
        return self.enterContext(Pebble(port or self.port, **options))

    def server(self, text, port=None, **options):
        return self.enterContext(Server(text, bind=f"127.0.0.1:{port or self.port}", **options))

    def shared_cache(self):
        return Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))

    def wait_for_certificate(self, server, trust, name="a.test", other_than=None):
        """Waits until the server has a certificate for a name, and returns it."""

        def ask():
            try:
                found = certificate(server.port, trust, name)
            except ssl.SSLCertVerificationError:
                return None
            return found if found and found["serialNumber"] != other_than else None

        found = until(ask, lambda: f"a certificate for {name}\n{server.log()}")
        self.assertEqual(found["subjectAltName"], (("DNS", name),))
        return found


class Acme(Case):
    def test_each_challenge_obtains_a_certificate(self):
        for challenge in ("http-01", "tls-alpn-01", "auto"):
            with self.subTest(challenge=challenge):
                self.port = free_port()
                pebble = self.pebble()
                server = self.server(config(pebble, challenge=challenge, contact="mailto:ops@example.com"))
                self.wait_for_certificate(server, pebble.trust())
                self.assertEqual(server.metric("oneport_acme_orders_total", outcome="issued"), 1)
                self.assertEqual(server.metric("oneport_acme_orders_total", outcome="failed"), 0)
                challenges = list(server.directory.glob("tls/acme/*/challenges/*"))
                self.assertEqual(challenges, [], "the challenge is gone")
                for path in server.directory.glob("tls/acme/*/*"):
                    self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_http_01_passes_each_policy_for_plain_clients(self):
        for plaintext in ("redirect", "refuse"):
            with self.subTest(plaintext=plaintext):
                self.port = free_port()
                pebble = self.pebble()
                text = config(pebble, challenge="http-01", plaintext=plaintext)
                # Its health is not to be had in plain.
                server = Server(text, bind=f"127.0.0.1:{self.port}")
                server._is_healthy = lambda: True
                with server:
                    self.wait_for_certificate(server, pebble.trust())

    def test_names_of_a_list_have_a_certificate_each(self):
        pebble = self.pebble()
        names = ("a.test", "b.test", "c.b.test")
        server = self.server(config(pebble, domains=names))
        trust = pebble.trust()
        serials = {self.wait_for_certificate(server, trust, name)["serialNumber"] for name in names}
        self.assertEqual(len(serials), 3)

    def test_other_paths_below_the_challenges_are_the_routes(self):
        pebble = self.pebble()
        routes = '[[http.route]]\npath = "/.well-known/acme-challenge/{token}"\nview = "respond"\noptions = { body = "an app of its own" }'
        server = self.server(config(pebble, routes=routes))
        self.wait_for_certificate(server, pebble.trust())
        self.assertEqual(server.request("/.well-known/acme-challenge/tok")[::2], (200, b"an app of its own"))
        self.assertEqual(server.request("/.well-known/acme-challenge/")[0], 404)

    def test_certificate_is_renewed_in_time_and_connections_stay(self):
        pebble = self.pebble(validity=24)
        server = self.server(config(pebble))
        trust = pebble.trust()
        first = self.wait_for_certificate(server, trust)
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as plain, trust.wrap_socket(plain, server_hostname="a.test") as kept:
            ask = b"GET /health/ HTTP/1.1\r\nhost: a.test\r\n\r\n"
            kept.sendall(ask)
            self.assertTrue(kept.recv(1000).startswith(b"HTTP/1.1 200 "))
            second = self.wait_for_certificate(server, trust, other_than=first["serialNumber"])
            begin, end = (ssl.cert_time_to_seconds(first[key]) for key in ("notBefore", "notAfter"))
            renewed = ssl.cert_time_to_seconds(second["notBefore"])
            self.assertLess(begin + (end - begin) / 2, renewed)
            self.assertLess(renewed, end)
            kept.sendall(ask)
            self.assertTrue(kept.recv(1000).startswith(b"HTTP/1.1 200 "))

    def test_rejected_nonces_are_tried_again(self):
        pebble = self.pebble(reject=60)
        server = self.server(config(pebble))
        self.wait_for_certificate(server, pebble.trust())
        self.assertIn("Configured to reject 60% of good nonces", pebble.log())

    def test_order_that_failed_says_why_and_a_reload_tries_again(self):
        pebble = self.pebble()
        pebble.resolve("b.test", "127.0.0.9")
        text = config(pebble, domains=("b.test", "c.test"))
        server = self.server(text)
        server.wait_for_log(rf"{FAILED}.*b\.test|b\.test.*{FAILED}")
        line = next(line for line in server.log().splitlines() if FAILED in line)
        self.assertIn("the challenge failed: ", line)
        self.assertIn("127.0.0.9", line)
        self.assertIn("failures=1", line)
        trust = pebble.trust()
        self.wait_for_certificate(server, trust, "c.test")
        self.assertEqual(server.metric("oneport_acme_orders_total", outcome="failed"), 1)
        pebble.resolve("b.test", None)
        server.reload(text)
        self.wait_for_certificate(server, trust, "b.test")

    def test_other_challenge_is_tried_when_one_does_not_get_through(self):
        pebble = self.pebble(tls_port=free_port())
        text = config(pebble)
        server = self.server(text)
        server.wait_for_log(FAILED)
        server.reload(text)
        self.wait_for_certificate(server, pebble.trust())

    def test_server_starts_without_its_ca_and_refuses_handshakes_until_it_is_there(self):
        pebble = self.pebble(start=False)
        text = config(pebble)
        server = self.server(text)
        server.wait_for_log(FAILED)
        self.assertIn("Connection refused", server.log())
        self.assertEqual(server.request("/health/")[0], 200)
        self.assertIsNone(certificate(self.port, ssl.create_default_context()))
        pebble.start()
        server.reload(text)
        self.wait_for_certificate(server, pebble.trust())

    def test_cached_certificate_is_served_without_the_ca(self):
        pebble, cache = self.pebble(), self.shared_cache()
        text = config(pebble, cache=cache)
        trust = pebble.trust()
        with Server(text, bind=f"127.0.0.1:{self.port}") as server:
            first = self.wait_for_certificate(server, trust)
        pebble.stop()
        server = self.server(text)
        self.assertEqual(certificate(server.port, trust), first, "at the first handshake")
        self.assertNotIn(FAILED, server.log())

    def test_killed_server_orders_again_at_its_next_start(self):
        pebble, cache = self.pebble(slow=True), self.shared_cache()
        text = config(pebble, cache=cache)
        server = self.server(text)
        until(lambda: list(cache.glob("*/challenges/*")), lambda: f"a challenge\n{server.log()}")
        os.kill(server.pid, signal.SIGKILL)
        server.wait(-signal.SIGKILL)
        server.start()
        self.wait_for_certificate(server, pebble.trust())

    def test_of_two_servers_one_orders_and_the_other_answers_the_ca(self):
        for challenge in ("http-01", "tls-alpn-01"):
            with self.subTest(challenge=challenge):
                self.port = free_port()
                pebble, cache = self.pebble(start=False), self.shared_cache()
                # The CA reaches only the first server, which must not order: it has no directory yet.
                text = config(pebble, cache=cache, challenge=challenge)
                reached = self.server(text)
                reached.wait_for_log(FAILED)
                pebble.start()
                ordering = self.server(text, port=free_port())
                # The second one waits as the first does, until its operator asks for another try.
                ordering.reload(text)
                trust = pebble.trust()
                self.wait_for_certificate(ordering, trust)
                first = self.wait_for_certificate(reached, trust)
                self.assertEqual(certificate(ordering.port, trust), first)
                self.assertEqual(ordering.metric("oneport_acme_orders_total", outcome="issued"), 1)
                self.assertEqual(reached.metric("oneport_acme_orders_total", outcome="issued"), 0)
                # A renewal of one, here because its file was removed.
                next(cache.glob("*/a.test.pem")).unlink()
                second = self.wait_for_certificate(reached, trust, other_than=first["serialNumber"])
                until(lambda: certificate(ordering.port, trust) == second, "the same certificate in both")
                self.assertEqual(sum(one.metric("oneport_acme_orders_total", outcome="issued") for one in (ordering, reached)), 2)

    def test_account_that_the_ca_has_forgotten_is_replaced(self):
        pebble = self.pebble()
        server = self.server(config(pebble))
        self.wait_for_certificate(server, pebble.trust())
        pebble.stop()
        pebble.start()
        next(server.directory.glob("tls/acme/*/a.test.pem")).unlink()
        self.wait_for_certificate(server, pebble.trust())
        self.assertIn("the CA does not know the ACME account", server.log())

    def test_cache_that_cannot_be_written_keeps_the_ca_in_peace(self):
        pebble = self.pebble()
        server = self.server(config(pebble, cache="taken/acme"), files={"taken": "a file, not a directory"})
        server.wait_for_log(FAILED)
        self.assertIn("cannot write to ", server.log())
        self.assertNotIn("POST", pebble.log())
        self.assertEqual(server.request("/health/")[0], 200)

    def test_ca_with_an_untrusted_certificate_is_refused(self):
        pebble = self.pebble()
        server = self.server(config(pebble, ca=False))
        server.wait_for_log(FAILED)
        self.assertIn("UnknownIssuer", server.log())

    def test_file_of_the_authority_that_is_missing_is_named(self):
        pebble = self.pebble(start=False)
        text = config(pebble)
        server = self.server(text)
        server.wait_for_log(FAILED)
        pebble.start()
        authority = pebble.authority.rename(pebble.directory / "elsewhere.pem")
        said = server.reload(text)
        self.assertRegex(said, r"server\.tls\.acme\.ca: expected a PEM file with certificates?, found .*" + pebble.authority.name)
        self.assertIn("reload failed", said)
        check = subprocess.run([binary(), "check", "--config", server.config], capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertNotEqual(check.returncode, 0)
        self.assertIn("server.tls.acme.ca: ", check.stdout + check.stderr)
        authority.rename(pebble.authority)
        server.reload(text)
        self.wait_for_certificate(server, pebble.trust())

    def test_reload_changes_the_domains(self):
        pebble = self.pebble()
        server = self.server(config(pebble, domains=("a.test",)))
        trust = pebble.trust()
        first = self.wait_for_certificate(server, trust, "a.test")
        server.reload(config(pebble, domains=("a.test", "b.test")))
        self.wait_for_certificate(server, trust, "b.test")
        self.assertEqual(certificate(self.port, trust, "a.test"), first)
        server.reload(config(pebble, domains=("b.test",)))

        def is_gone():
            try:
                return certificate(self.port, trust, "a.test") is None
            except ssl.SSLCertVerificationError:
                return True  # it is that of b.test

        until(is_gone, "a.test to be gone")

    def test_external_account_is_bound(self):
        key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        pebble = self.pebble(keys={"kid-1": key})
        text = config(pebble)
        server = self.server(text)
        server.wait_for_log(FAILED)
        self.assertIn("cannot create an account", server.log())
        server.reload(config(pebble, external_account={"key_id": "kid-1", "hmac_key": key}))
        self.wait_for_certificate(server, pebble.trust())
        self.assertNotIn(key, server.log())


class Restart(Case):
    """SIGUSR2 while the CA validates a name: two processes, one cache, one order."""

    def begin(self, challenge):
        """Returns a restartable server whose order waits for the CA, which waits for the returned gate."""
        self.port = free_port()
        pebble = self.pebble()
        gate = self.enterContext(Gate(self.port))
        pebble.resolve("a.test", gate.address)
        routes = '[[http.route]]\npath = "/files/{*path}"\nview = "static"\noptions = { dir = "files" }'
        text = config(pebble, challenge=challenge, routes=routes)
        server = self.enterContext(RestartServer(text, bind=f"127.0.0.1:{self.port}", files={"files/large": bytes(8 << 20)}))
        until(gate.has_come, lambda: f"a validation by the CA\n{server.log()}\n{pebble.log()}")
        return pebble, gate, server

    def ends_in_order(self, server, cache):
        until(lambda: list(cache.glob("*/challenges/*")) == [], "no challenge left")
        self.assertNotIn(FAILED, server.log())
        self.assertEqual(len(list(cache.glob("*/a.test.pem"))), 1)
        server.restart()  # once more, now with a certificate

    def test_the_old_process_finishes_its_order_and_the_new_one_answers_the_ca(self):
        pebble, gate, server = self.begin("tls-alpn-01")
        # A download keeps the old process.
        client = self.enterContext(Bytes(("127.0.0.1", self.port), receive_buffer=4096))
        client.send(b"GET /files/large HTTP/1.1\r\nHost: a.test\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        server.begin_restart()
        old = server.replaced()
        gate.open()
        trust = pebble.trust()
        found = self.wait_for_certificate(server, trust)
        self.assertEqual(server.metric("oneport_acme_orders_total", outcome="issued"), 0, "it is the old one's")
        client.exactly(8 << 20)
        client.socket.close()
        server.ended(old)
        self.ends_in_order(server, server.directory / "tls/acme")
        self.assertEqual(certificate(self.port, trust), found)

    def test_the_new_process_orders_when_the_old_one_ends_before_its_order(self):
        pebble, gate, server = self.begin("http-01")
        server.begin_restart()
        old = server.replaced()
        server.ended(old)
        server.alone(old)
        gate.open()
        trust = pebble.trust()
        found = self.wait_for_certificate(server, trust)
        self.assertEqual(server.metric("oneport_acme_orders_total", outcome="issued"), 1)
        self.ends_in_order(server, server.directory / "tls/acme")
        self.assertEqual(certificate(self.port, trust), found)


class Gate:
    """An address at which connections wait until it is opened, and then go to the same port of 127.0.0.1."""

    address = "127.0.0.9"

    def __init__(self, port):
        self._port = port
        self._listener = socket.create_server((self.address, port))
        self._opened = threading.Event()
        self._come = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open()
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a client
        self._listener.close()

    def has_come(self):
        return self._come > 0

    def open(self):
        self._opened.set()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._come += 1
            threading.Thread(target=self._pass_on, args=[client], daemon=True).start()

    def _pass_on(self, client):
        with client:
            self._opened.wait(DEADLINE)
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=DEADLINE) as server:
                    back = threading.Thread(target=copy, args=[server, client], daemon=True)
                    back.start()
                    copy(client, server)
                    back.join(DEADLINE)
            except OSError:
                pass  # one of them has left


def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


if __name__ == "__main__":
    unittest.main()
