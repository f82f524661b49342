"""`oneport dev-cert`: other people's TLS accepts the certificate, and refuses it without the CA."""

import shutil
import ssl
import subprocess
import tempfile
import unittest
from pathlib import Path

from kit.deadline import DEADLINE
from kit.server import binary


def dev_cert(directory, *names):
    return subprocess.run([binary(), "dev-cert", directory, *names], capture_output=True, text=True, timeout=DEADLINE)


class DevCert(unittest.TestCase):
    def setUp(self):
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        done = dev_cert(self.directory, "chat.test", "*.app.test")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.printed = done.stdout

    def handshake(self, name, trust):
        """Returns the peer's names, as a client sees them in a handshake with a server that uses the files."""
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(self.directory / "cert.pem", self.directory / "key.pem")
        context = ssl.create_default_context(cafile=self.directory / "ca.pem" if trust else None)
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(back, there, server_hostname=name)
        server = serving.wrap_bio(there, back, server_side=True)
        for _ in range(10):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    pass
            if server.version():
                return [name for _, name in client.getpeercert()["subjectAltName"]]
        self.fail("the handshake does not end")

    def test_python_accepts_every_name_of_the_certificate_with_the_ca(self):
        expected = ["localhost", "127.0.0.1", "0:0:0:0:0:0:0:1", "chat.test", "*.app.test"]
        for name in ("localhost", "127.0.0.1", "::1", "chat.test", "one.app.test"):
            with self.subTest(name=name):
                self.assertEqual(self.handshake(name, trust=True), expected)

    def test_python_refuses_another_name_and_an_untrusted_ca(self):
        for name, trust in (("other.test", True), ("a.b.app.test", True), ("localhost", False)):
            with self.subTest(name=name, trust=trust), self.assertRaises(ssl.SSLCertVerificationError):
                self.handshake(name, trust)

    @unittest.skipUnless(shutil.which("openssl"), "without openssl")
    def test_openssl_verifies_the_chain_strictly(self):
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "cert.pem"]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE)
        self.assertEqual((done.returncode, done.stdout), (0, "cert.pem: OK\n"), done.stderr)

    def test_a_second_run_keeps_the_files(self):
        before = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        done = dev_cert(self.directory)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.startswith("the certificate is still good: for localhost, "), done.stdout)
        self.assertEqual({path.name: path.read_bytes() for path in self.directory.iterdir()}, before)

    def test_the_output_names_the_files_for_server_tls(self):
        self.assertIn(f'[server.tls]\ncertificate = "{self.directory}/cert.pem"\nkey         = "{self.directory}/key.pem"\n', self.printed)

    def test_a_word_that_is_no_name_ends_with_64_and_makes_nothing(self):
        other = self.directory / "other"
        for word in ("https://a.test", "a.test:443", "", "a b"):
            with self.subTest(word=word):
                done = dev_cert(other, word)
                self.assertEqual((done.returncode, done.stdout), (64, ""))
                self.assertIn(f'oneport dev-cert: expected a host name or an address, such as chat.test, *.chat.test or 192.168.1.2, found "{word}"', done.stderr)
        self.assertFalse(other.exists())

    def test_a_directory_that_cannot_be_made_ends_with_1(self):
        (self.directory / "file").write_text("")
        done = dev_cert(self.directory / "file")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("oneport dev-cert: cannot create ", done.stderr)


if __name__ == "__main__":
    unittest.main()
