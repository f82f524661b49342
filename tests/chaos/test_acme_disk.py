"""ACME on a full disk: the certificate that is there is served, the CA is left alone, and all goes on when there is room again."""

import socket
import ssl
import unittest

from disturb.case import Chaos
from disturb.disk import Disk
from disturb.server import Disturbed
from kit.deadline import DEADLINE, until
from kit.pebble import Pebble

CONFIG = """
[server]
allowed_hosts = ["*"]

[server.tls]
plaintext = "serve"

[server.tls.acme]
domains   = ["a.test"]
directory = "{directory}"
ca        = "{ca}"
cache     = "{cache}"
"""

# The server tries again after a minute.
NEXT_TRY = 60 + DEADLINE

FULL = "No space left on device|File too large"


class FullDisk(Chaos):
    def begin(self, **options):
        self.disk = self.enterContext(Disk("64k"))
        server = Disturbed("", limits=self.disk.limits)
        self.pebble = self.enterContext(Pebble(server._chosen, **options))
        server.write(CONFIG.format(directory=self.pebble.url, ca=self.pebble.authority, cache=self.disk.directory / "acme"))
        return self.enterContext(server)

    def certificate(self, server):
        """Returns the certificate that is served, also one that has expired; `None` without one."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as plain:
                with context.wrap_socket(plain, server_hostname="a.test") as stream:
                    return stream.getpeercert(binary_form=True)
        except (ssl.SSLError, ConnectionError):
            return None

    def orders(self, server, outcome):
        return server.metric("oneport_acme_orders_total", outcome=outcome)

    def stored(self):
        found = list(self.disk.directory.glob("acme/*/a.test.pem"))
        return found[0].read_text(encoding="utf-8") if found else ""

    def test_a_renewal_waits_for_room_and_the_old_certificate_is_served(self):
        server = self.begin(validity=24)
        first = until(lambda: self.certificate(server), lambda: f"a certificate\n{server.log()}")
        self.disk.fill(server.pid)
        asked = self.pebble.log().count("POST")
        until(lambda: self.orders(server, "failed") >= 1, lambda: f"a renewal\n{server.log()}", deadline=24 + DEADLINE)
        line = next(line for line in server.log().splitlines() if "cannot obtain a certificate" in line)
        self.assertRegex(line, f"cannot write to .*acme.*({FULL})")
        self.assertIn("retry_seconds=60", line)
        self.assertEqual(self.certificate(server), first)
        self.assertEqual(self.pebble.log().count("POST"), asked, "the CA was asked in vain")
        self.assertEqual(server.request("/health/")[0], 200)
        self.disk.free(server.pid)
        until(lambda: self.certificate(server) not in (None, first), lambda: f"a new certificate\n{server.log()}", deadline=NEXT_TRY)

    def test_a_certificate_that_finds_no_room_is_served_and_stored_later(self):
        server = self.begin(slow=True)
        until(lambda: list(self.disk.directory.glob("acme/*/challenges/*")), lambda: f"a challenge\n{server.log()}")

        def ask():
            self.disk.fill(server.pid)  # the challenge that is removed leaves room
            return self.certificate(server)

        first = until(ask, lambda: f"a certificate\n{server.log()}", deadline=2 * DEADLINE)
        server.wait_for_log(f"cannot store the certificate.*({FULL})|({FULL}).*cannot store the certificate")
        until(lambda: self.orders(server, "not_stored") >= 1, "the failure to be counted")
        self.assertEqual(self.stored(), "")
        self.disk.free(server.pid)
        until(self.stored, "the certificate in the cache", deadline=NEXT_TRY)
        self.assertEqual(self.certificate(server), first)
        self.assertEqual(self.orders(server, "issued"), 1)


if __name__ == "__main__":
    unittest.main()
