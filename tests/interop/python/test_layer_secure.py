"""The channel layer by every kind of URL: over TLS with a CA of our own, with a password, as a user, by socket, by Sentinels."""

import ipaddress
import itertools
import tempfile
import unittest
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kit.deadline import DEADLINE, until
from kit.layer_case import connected, is_connected
from kit.peer import Peer
from kit.postgres import free_port
from kit.redis_node import Node
from kit.server import Server

FOREVER = 3 * DEADLINE
PASSWORD = "p:a/s@s #ö%1"
_ROOMS = itertools.count(1)

CONFIG = """
[log]
access = false

[channel_layer]
backend = "{backend}"
format = "{format}"
timeout = "1s"
lease = "2s"

[websocket]
middleware = []
ping_interval = "0s"

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/kept/{{room:slug}}/"
consumer = "chat"
options = {{ group = "kept_{{room}}", history = 5 }}
"""


class Authority:
    """A CA, and what it signs."""

    def __init__(self, directory, name):
        self.directory = directory
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self.certificate = (
            self.begun(subject, subject, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.path = self.write(f"{name}.pem", self.certificate.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def begun(subject, issuer, key, days=1):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=3))
            .not_valid_after(now + timedelta(days=days))
        )

    def sign(self, name, *, names=("localhost",), addresses=("127.0.0.1",), days=1):
        """Returns the paths of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        others = [*map(x509.DNSName, names), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        certificate = (
            self.begun(subject, self.certificate.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(others), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return (
            self.write(f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM)),
            self.write(f"{name}.key", private),
        )

    def write(self, name, content):
        path = self.directory / name
        path.write_bytes(content)
        return path


class SecureCase(unittest.TestCase):
    def setUp(self):
        self.room = f"r{next(_ROOMS)}"

    def server(self, backend, *, authority=None, layer_format="oneport"):
        environment = {} if authority is None else {"SSL_CERT_FILE": str(authority.path)}
        return self.enterContext(Server(CONFIG.format(backend=backend, format=layer_format), environment=environment))

    def pair(self, backend, **options):
        """Two servers that have Redis."""
        return [connected(self.server(backend, **options)) for _ in range(2)]

    def share(self, one, two, room=None):
        """Members of both receive each other's messages, and see each other's presence."""
        room = room or f"{self.room}-{next(_ROOMS)}"
        with Peer(one, f"/ws/chat/{room}/") as anna, Peer(two, f"/ws/chat/{room}/") as ben:
            anna.next("chat.join", members=2)
            ben.next("chat.join", members=2)
            for speaker, message in ((anna, "from anna"), (ben, "from ben")):
                speaker.say({"message": message})
                for member in (anna, ben):
                    member.next("chat.message", message=message)
        with Peer(one, f"/ws/kept/{room}/") as anna:
            anna.say({"message": "kept"})
            anna.next("chat.message", message="kept")
        with Peer(two, f"/ws/kept/{room}/") as ben:
            ben.next("chat.message", message="kept")

    def never_connects(self, server, pattern):
        """It serves alone, and the log has the reason, without a password."""
        server.wait_for_log(pattern)
        self.assertFalse(is_connected(server))
        with Peer(server, f"/ws/chat/{self.room}/") as member:
            member.say({"message": "alone"})
            member.next("chat.message", message="alone")
        self.assertFalse(is_connected(server))
        for secret in (PASSWORD, quote(PASSWORD, safe="")):
            self.assertNotIn(secret, server.log())


class Tls(SecureCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="oneport-ca-")))
        cls.authority = Authority(cls.directory, "authority")
        cls.other = Authority(cls.directory, "other")
        cls.good = (*cls.authority.sign("good"), cls.authority.path)
        cls.redis = cls.enterClassContext(Node(tls=cls.good))

    def url(self, node=None, host="127.0.0.1", user=""):
        return f"rediss://{user}{host}:{(node or self.redis).port}/0"

    def test_two_processes_share_groups_over_tls(self):
        for host in ("127.0.0.1", "localhost"):
            with self.subTest(host=host):
                one, two = self.pair(self.url(host=host), authority=self.authority)
                self.share(one, two)
                self.assertRegex(one.log(), rf"is connected to Redis.*rediss://{host}")

    def test_djangos_formats_go_over_tls_too(self):
        for layer_format in ("channels_redis.core", "channels_redis.pubsub"):
            with self.subTest(layer_format):
                one, two = self.pair(self.url(), authority=self.authority, layer_format=layer_format)
                room = f"{self.room}-{layer_format[-4:]}"
                with Peer(one, f"/ws/chat/{room}/") as anna, Peer(two, f"/ws/chat/{room}/") as ben:
                    anna.next("chat.join", members=2)
                    anna.say({"message": "hi"})
                    ben.next("chat.message", message="hi")

    def test_a_ca_among_others_in_the_file_is_found(self):
        both = self.directory / "both.pem"
        both.write_bytes(self.other.path.read_bytes() + b"\n# a comment\n" + self.authority.path.read_bytes())
        server = self.enterContext(
            Server(CONFIG.format(backend=self.url(), format="oneport"), environment={"SSL_CERT_FILE": str(both)})
        )
        connected(server)

    def test_a_certificate_of_another_ca_is_refused(self):
        self.never_connects(self.server(self.url(), authority=self.other), r"(ERROR|WARN).*Redis.*(?i:certificate|UnknownIssuer)")

    def test_the_machines_own_certificates_do_not_know_our_ca(self):
        self.never_connects(self.server(self.url()), r"(ERROR|WARN).*Redis.*(?i:certificate|UnknownIssuer)")

    def test_a_file_of_certificates_that_is_not_there_lets_nobody_in(self):
        environment = {"SSL_CERT_FILE": str(self.directory / "missing.pem")}
        server = self.enterContext(Server(CONFIG.format(backend=self.url(), format="oneport"), environment=environment))
        self.never_connects(server, r"(ERROR|WARN).*Redis.*certificate")

    def test_a_certificate_for_another_name_is_refused(self):
        tls = (*self.authority.sign("elsewhere", names=["redis.example.com"], addresses=["127.0.0.9"]), self.authority.path)
        with Node(tls=tls) as node:
            for host in ("127.0.0.1", "localhost"):
                with self.subTest(host=host):
                    self.never_connects(
                        self.server(self.url(node, host), authority=self.authority), r"(ERROR|WARN).*Redis.*(?i:certificate|name)"
                    )

    def test_a_certificate_that_has_expired_is_refused(self):
        tls = (*self.authority.sign("old", days=-1), self.authority.path)
        with Node(tls=tls) as node:
            self.never_connects(
                self.server(self.url(node), authority=self.authority), r"(ERROR|WARN).*Redis.*(?i:expired|certificate)"
            )

    def test_a_redis_that_speaks_no_tls_is_refused(self):
        with Node() as node:
            self.never_connects(self.server(self.url(node), authority=self.authority), r"(ERROR|WARN).*Redis")

    def test_a_plain_url_at_a_tls_port_is_refused(self):
        server = self.server(f"redis://127.0.0.1:{self.redis.port}/0")
        self.never_connects(server, r"(ERROR|WARN).*Redis")

    def test_it_comes_back_over_tls_and_with_another_certificate_of_the_same_ca(self):
        with Node(tls=self.good) as node:
            one, two = self.pair(self.url(node), authority=self.authority)
            self.share(one, two)
            node.kill()
            for server in (one, two):
                until(lambda server=server: not is_connected(server), "a server that knows that Redis is away")
            node.start((*self.authority.sign("renewed"), self.authority.path))
            for server in (one, two):
                connected(server)
            self.share(one, two)

    def test_a_redis_that_keeps_still_in_the_handshake_is_given_up(self):
        with Node(tls=self.good) as node:
            node.freeze()
            server = self.server(self.url(node), authority=self.authority)
            server.wait_for_log(r"(ERROR|WARN).*Redis")
            node.thaw()
            connected(server)

    def test_a_password_and_a_user_go_over_tls(self):
        with Node(tls=self.good) as node:
            with node.client() as client:
                client.execute_command("ACL", "SETUSER", "oneport", "on", f">{PASSWORD}", "~*", "&*", "+@all")
                client.execute_command("ACL", "SETUSER", "default", "off")
            one, two = self.pair(self.url(node, user=f"oneport:{quote(PASSWORD, safe='')}@"), authority=self.authority)
            self.share(one, two)
            for server in (one, two):
                self.assertNotIn(quote(PASSWORD, safe=""), server.log())
            wrong = self.server(self.url(node, user="oneport:wrong@"), authority=self.authority)
            self.never_connects(wrong, r"(ERROR|WARN).*Redis.*(?i:password|WRONGPASS|auth)")


class Password(SecureCase):
    @classmethod
    def setUpClass(cls):
        cls.redis = cls.enterClassContext(Node("--requirepass", PASSWORD, "--unixsocket", "socket"))
        with cls.redis.client(password=PASSWORD) as client:
            client.execute_command("ACL", "SETUSER", "oneport", "on", f">{PASSWORD}", "~oneport:*", "&oneport:*", "+@all")
            client.execute_command("ACL", "SETUSER", "narrow", "on", f">{PASSWORD}", "~other:*", "&other:*", "+@all")
            client.execute_command("ACL", "SETUSER", "gone", "off", f">{PASSWORD}", "~*", "&*", "+@all")

    def url(self, user, password=PASSWORD):
        password = "" if password is None else f":{quote(password, safe='')}"
        return f"redis://{user}{password}@127.0.0.1:{self.redis.port}/0"

    def test_a_password_alone_and_a_user_are_good(self):
        for user in ("", "default", "oneport"):
            with self.subTest(user=user):
                one, two = self.pair(self.url(user))
                self.share(one, two)
                for server in (one, two):
                    self.assertNotIn(PASSWORD, server.log())
                    self.assertNotIn(quote(PASSWORD, safe=""), server.log())

    def test_a_user_that_may_touch_our_names_alone_is_enough(self):
        before = self.denials("oneport")
        one, two = self.pair(self.url("oneport"))
        self.share(one, two)
        self.assertEqual(self.denials("oneport"), before)

    def denials(self, user):
        with self.redis.client(password=PASSWORD) as client:
            return sum(1 for entry in client.execute_command("ACL", "LOG") if user in str(entry))

    def test_a_wrong_password_or_user_is_refused_and_said(self):
        for user, password in (("", "wrong"), ("oneport", "wrong"), ("nobody", PASSWORD), ("gone", PASSWORD)):
            with self.subTest(user=user, password=password[:5]):
                self.never_connects(self.server(self.url(user, password)), r"(ERROR|WARN).*Redis.*(?i:password|WRONGPASS|auth)")

    def test_no_password_is_refused_and_said(self):
        server = self.server(f"redis://127.0.0.1:{self.redis.port}/0")
        self.never_connects(server, r"(ERROR|WARN).*Redis.*(?i:NOAUTH|auth)")

    def test_a_user_without_rights_to_our_names_is_said(self):
        server = self.server(self.url("narrow"))
        server.wait_for_log(r"(ERROR|WARN).*(?i:NOPERM|permission)")
        with Peer(server, f"/ws/chat/{self.room}/") as member:
            member.say({"message": "alone"})
            member.next("chat.message", message="alone")

    def test_the_password_may_come_from_the_environment(self):
        backend = f"redis://:${{REDIS_PASSWORD}}@127.0.0.1:{self.redis.port}/0"
        environment = {"REDIS_PASSWORD": quote(PASSWORD, safe="")}
        server = self.enterContext(Server(CONFIG.format(backend=backend, format="oneport"), environment=environment))
        connected(server)

    def test_a_unix_socket_is_good_too(self):
        path = self.redis.directory / "socket"
        one, two = self.pair(f"redis+unix://:{quote(PASSWORD, safe='')}@{path}?db=0")
        self.share(one, two)

    def test_another_database_is_good_too(self):
        one, two = self.pair(self.url("").removesuffix("0") + "3")
        self.share(one, two)

    def test_each_database_is_a_layer_of_its_own(self):
        one, two = (connected(self.server(self.url("").removesuffix("0") + database)) for database in "45")
        with Peer(one, f"/ws/chat/{self.room}/") as anna, Peer(two, f"/ws/chat/{self.room}/") as ben:
            for member, message in ((anna, "in 4"), (ben, "in 5")):
                self.assertEqual(member.event()["members"], 1)
                member.say({"message": message})
                self.assertEqual(member.event().get("message"), message)


class SentinelCase(SecureCase):
    """A master, a replica and three Sentinels of its own for each test."""

    password = None

    def setUp(self):
        super().setUp()
        arguments = ["--requirepass", "s3cret", "--masterauth", "s3cret"] if self.password else []
        self.master = self.enterContext(Node("--repl-diskless-sync-delay", "0", *arguments))
        replica_of = ["--replicaof", f"127.0.0.1 {self.master.port}", "--repl-diskless-sync-delay", "0"]
        self.replica = self.enterContext(Node(*replica_of, *arguments))
        with self.replica.client(password=self.password) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up", "a replica that follows")
        config = f"""
sentinel monitor mymaster 127.0.0.1 {self.master.port} 2
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 5000
sentinel parallel-syncs mymaster 1
sentinel known-replica mymaster 127.0.0.1 {self.replica.port}
"""
        if self.password:
            config += f"sentinel auth-pass mymaster {self.password}\n"
        # They know each other from the beginning: to find out takes them long.
        ports = {f"{number}" * 40: free_port() for number in range(3)}
        self.sentinels = []
        for own, port in ports.items():
            lines = [f"sentinel known-sentinel mymaster 127.0.0.1 {at} {other}" for other, at in ports.items() if other != own]
            self.sentinels.append(
                self.enterContext(Node(port=port, config="\n".join([f"sentinel myid {own}", config, *lines, ""])))
            )
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                until(lambda client=client: self.knows_all(client), "a Sentinel that knows the others", FOREVER)

    @staticmethod
    def knows_all(client):
        found = client.sentinel_master("mymaster")
        return found["num-other-sentinels"] == 2 and found["num-slaves"] == 1 and not found["is_sdown"]

    def url(self, sentinels=None, service="mymaster"):
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels or self.sentinels)
        user = f":{self.password}@" if self.password else ""
        return f"redis+sentinel://{user}{hosts}/{service}/0"

    def master_port(self):
        with self.sentinels[-1].client() as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])

    def clients_of(self, node):
        with node.client(password=self.password) as client:
            return (
                client.info("clients")["pubsub_clients"]
                if "pubsub_clients" in client.info("clients")
                else len(client.client_list(_type="pubsub"))
            )

    def fails_over(self):
        until(lambda: self.master_port() == self.replica.port, "the replica to be the master", FOREVER)

    def recovered(self, *servers):
        for server in servers:
            until(
                lambda server=server: is_connected(server),
                lambda server=server: f"a server that has Redis\n{server.log()}",
                FOREVER,
            )

        def shares():
            try:
                self.share(*servers)
                return True
            except Late:
                return None

        until(shares, "a layer that works at the new master", FOREVER)

    def is_followed_when_it_is_killed(self):
        one, two = self.pair(self.url())
        self.share(one, two)
        self.assertGreaterEqual(self.clients_of(self.master), 2)
        with Peer(one, f"/ws/chat/{self.room}/") as anna, Peer(two, f"/ws/chat/{self.room}/") as ben:
            anna.next("chat.join", members=2)
            self.master.kill()
            self.fails_over()
            self.recovered(one, two)
            self.assertGreaterEqual(self.clients_of(self.replica), 2)
            # A member that stayed is still in the group.
            anna.say({"message": "here"})
            ben.next("chat.message", message="here")


class Sentinels(SentinelCase):
    def test_the_master_is_found_and_followed_when_it_is_killed(self):
        self.is_followed_when_it_is_killed()

    def test_a_master_that_keeps_still_is_left(self):
        one, two = self.pair(self.url())
        self.master.freeze()
        try:
            self.fails_over()
            self.recovered(one, two)
        finally:
            self.master.thaw()
        self.share(one, two)

    def test_a_failover_that_was_asked_for_is_followed(self):
        one, two = self.pair(self.url())
        self.share(one, two)
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", "mymaster")
        self.fails_over()
        self.recovered(one, two)
        # The old master is a replica now, and refuses to be written to.
        with self.master.client(password=self.password) as client:
            until(lambda: client.info("replication")["role"] == "slave", "an old master that follows", FOREVER)
        self.recovered(one, two)
        self.assertGreaterEqual(self.clients_of(self.replica), 2)

    def test_sentinels_that_are_away_are_passed_over(self):
        for sentinel in self.sentinels[:2]:
            sentinel.kill()
        one, two = self.pair(self.url())
        self.share(one, two)

    def test_a_sentinel_that_keeps_still_is_passed_over(self):
        self.sentinels[0].freeze()
        self.addCleanup(self.sentinels[0].thaw)
        one, two = self.pair(self.url())
        self.share(one, two)

    def test_an_unknown_service_is_said(self):
        server = self.server(self.url(service="nobody"))
        self.never_connects(server, r"(ERROR|WARN).*Redis.*nobody")

    def test_no_sentinel_at_all_is_said_and_waited_for(self):
        for sentinel in self.sentinels:
            sentinel.kill()
        server = self.server(self.url())
        self.never_connects(server, r"(ERROR|WARN).*Redis")
        self.sentinels[1].start()
        until(lambda: is_connected(server), lambda: f"a server that has Redis\n{server.log()}", FOREVER)


class SentinelsAndPassword(SentinelCase):
    """The master has a password that the Sentinels do not ask for."""

    password = "s3cret"

    def test_the_master_is_found_and_followed_when_it_is_killed(self):
        self.is_followed_when_it_is_killed()


if __name__ == "__main__":
    unittest.main()
