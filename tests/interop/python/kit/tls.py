"""TLS: an authority of the tests with its certificates, and a server that speaks TLS with them."""

import datetime
import http.client
import ipaddress
import os
import socket
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .deadline import DEADLINE
from .frames import Bytes
from .server import Server

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def name(common_name, **more):
    parts = [(NameOID.COMMON_NAME, common_name), *((getattr(NameOID, key), value) for key, value in more.items())]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def key_of(kind):
    """Makes a key: "ec", "ec384", "rsa" or "ed25519"."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP384R1() if kind == "ec384" else ec.SECP256R1())


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class Authority:
    """A certificate authority."""

    def __init__(self, common_name="Authority of the tests"):
        self._name = name(common_name)
        self._key = key_of("ec")
        builder = self._builder(self._name, self._key.public_key(), -DAY, 3650 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def pem(self):
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, *names, kind="ec", begins=-DAY, ends=30 * DAY, client=False, subject=None):
        """Issues a certificate; returns it and its key, in PEM."""
        key = key_of(kind)
        builder = self._builder(subject or name(names[0] if names else "client"), key.public_key(), begins, ends)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(found) for found in names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem(key)

    def context(self, *protocols, client=None, version=None, verify=True):
        """A client that trusts this authority; `client`: the files of its own certificate and key."""
        context = ssl.create_default_context(cadata=self.pem)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if version:
            context.minimum_version = context.maximum_version = version
        if client:
            context.load_cert_chain(*client)
        return context

    def _builder(self, subject, public_key, begins, ends):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + begins)
            .not_valid_after(NOW + ends)
        )


def _general(text):
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class SecureServer(Server):
    """A server whose port speaks TLS, with one certificate for localhost. `settings`: more keys of `[server.tls]`."""

    def __init__(self, authority, config, *more, settings="", server="", files=None, pair=None, certificates=True, **options):
        self.authority = authority
        chain, key = pair or authority.issue("localhost", "127.0.0.1")
        pair = 'certificate = "tls/cert.pem"\nkey = "tls/key.pem"\n' if certificates else ""
        self.sections = f"[server]\n{server}\n[server.tls]\n{pair}{settings}\n"
        files = {"tls/cert.pem": chain, "tls/key.pem": key, **(files or {})}
        super().__init__(self.sections + config, *more, files=files, **options)
        for path in self.directory.glob("**/*key*.pem"):
            path.chmod(0o600)

    def put(self, path, content):
        """Replaces a file at once, as ACME clients do."""
        draft = self.directory / f"{path}.draft"
        draft.write_text(content, encoding="utf-8")
        draft.chmod(0o600)
        os.replace(draft, self.directory / path)

    def request(self, path, method="GET", headers=None, body=None, context=None):
        if f"http://127.0.0.1:{self.port}" in self.log():
            return super().request(path, method, headers, body)
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=DEADLINE, context=context or self.authority.context("http/1.1")
        )
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def plain(self, path, headers=None):
        """Makes a request without TLS."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=DEADLINE)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def connect(self, context=None, server_hostname="localhost", session=None, before=b"", source=None):
        """Opens a connection; `before` is sent first, without TLS."""
        opened = socket.create_connection(
            ("127.0.0.1", self.port), DEADLINE, source_address=(source, 0) if source else None
        )
        try:
            opened.sendall(before)
            context = context or self.authority.context("http/1.1")
            return context.wrap_socket(opened, server_hostname=server_hostname, session=session)
        except BaseException:
            opened.close()
            raise

    @property
    def origin(self):
        return f"https://localhost:{self.port}"


class SecureBytes(Bytes):
    """A TLS connection that writes and reads bytes."""

    def __init__(self, opened):
        self.socket = opened
        self._read = bytearray()
