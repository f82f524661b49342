"""The examples of consumers in other languages, and the adapter for ASGI consumers, run as their README says."""

import hmac
import http.client
import json
import signal
import sys
import time
import unittest
from pathlib import Path

from kit.backend import EXAMPLES, SECRET, Backend, example
from kit.deadline import DEADLINE
from kit.peer import Peer, refusal
from kit.postgres import free_port
from kit.server import Server

HERE = Path(__file__).parent


class BackendCase(unittest.TestCase):
    """A server with an example's configuration, and the program behind it."""

    config = "oneport.toml"
    environment = {}

    @classmethod
    def command(cls, port):
        raise unittest.SkipTest("for the examples below")

    @classmethod
    def setUpClass(cls):
        cls.backend = cls.enterClassContext(Backend(cls.command, **cls.environment))
        cls.server = cls.enterClassContext(Server(example(cls.config), environment=cls.backend.environment))

    def setUp(self):
        self.room = self.id().rpartition(".")[2].removeprefix("test_")[:60]

    def member(self, room=None):
        return self.enterContext(Peer(self.server, f"/ws/chat/{room or self.room}/"))


class Chat:
    """What the examples have in common."""

    def test_who_is_in_a_room_hears_what_is_said_there(self):
        anna, ben, carl = self.member(), self.member(), self.member("elsewhere")
        for number in range(3):
            anna.say({"message": f'"hällo" \\ {number}'})
            for member in (anna, ben):
                event = member.event()
                self.assertEqual((event["type"], event["message"]), ("chat.message", f'"hällo" \\ {number}'))
                self.assertIsNone(event["user"])
                self.assertRegex(event["at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
        carl.say({"message": "alone"})
        self.assertEqual(carl.event()["message"], "alone")

    def test_each_connection_has_its_own_state(self):
        anna, ben = self.member(), self.member()
        for member, number in ((anna, 1), (anna, 2), (ben, 1), (anna, 3), (ben, 2)):
            member.say({"message": "hi"})
            for each in (anna, ben):
                self.assertEqual(each.event()["number"], number)

    def test_what_is_no_message_is_answered_with_an_error(self):
        anna = self.member()
        for said in ("junk", "[1]", "3", "null", '{"message": 3}', '{"message": ""}', "{}", b"\x00\xff"):
            with self.subTest(said=said):
                anna.send(said)
                self.assertEqual(anna.event(), {"type": "chat.error", "code": "invalid_message", "message": 'expected {"message": "..."}'})
        anna.say({"message": "still here"})
        self.assertEqual(anna.event()["number"], 1)

    def test_a_closed_room_is_denied(self):
        response = refusal(self.server, "/ws/chat/closed/")
        self.assertEqual((response.status_code, bytes(response.body)), (403, b"This room is closed.\n"))

    def test_who_begins_and_who_leaves_is_told(self):
        self.backend.wait_for_log(r"\S+ began as [0-9a-f]{16}")
        with Peer(self.server, f"/ws/chat/{self.room}/") as anna:
            anna.say({"message": "bye"})
            anna.event()
        self.backend.wait_for_log(f"left {self.room} after 1 messages: client_close")

    def test_nobody_else_is_answered(self):
        body = b'{"v": 1, "events": [{"seq": 0, "type": "oneport.node_started", "node": "evil", "name": "evil"}]}'
        now = str(int(time.time()))
        signed = signed_by(SECRET, now, body)
        self.assertEqual(self.ask(body, f"t={now},v1={signed}"), 200)
        for wrong in (
            None,
            "",
            "junk",
            "t=,v1=",
            f"t={now}",
            f"v1={signed}",
            f"t=x,v1={signed_by(SECRET, 'x', body)}",
            f"t={now},v1={signed_by('another', now, body)}",
            f"t={int(now) - 3600},v1={signed}",
            f"t={int(now) - 3600},v1={signed_by(SECRET, str(int(now) - 3600), body)}",
            f"t={now},v1={signed[:-1]}",
        ):
            with self.subTest(wrong=wrong):
                self.assertEqual(self.ask(body, wrong), 403)
        self.assertEqual(self.ask(body.replace(b"evil", b"vile"), f"t={now},v1={signed}"), 403)

    def ask(self, body, signature):
        connection = http.client.HTTPConnection("127.0.0.1", self.backend.port, timeout=DEADLINE)
        try:
            headers = {} if signature is None else {"Oneport-Signature": signature}
            connection.request("POST", "/", body, {"Content-Type": "application/json", **headers})
            return connection.getresponse().status
        finally:
            connection.close()


def signed_by(secret, at, body):
    return hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()


class Python(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return ["python3", "chat.py"]


class Node(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return ["node", "chat.mjs"]


class Php(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return ["php", "-S", f"127.0.0.1:{port}", "chat.php"]


class Shell(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", "EXEC:./chat.sh"]


class AdapterCase(BackendCase):
    config = "asgi/oneport.toml"
    application = ""

    @classmethod
    def command(cls, port):
        if not cls.application:
            raise unittest.SkipTest("for the applications below")
        return [sys.executable, "adapter.py", cls.application]

    @classmethod
    def setUpClass(cls):
        address = f"127.0.0.1:{free_port()}"
        environment = {"PYTHONPATH": str(HERE), "ONEPORT_API": f"http://{address}/api", **cls.environment}
        cls.backend = cls.enterClassContext(Backend(cls.command, EXAMPLES / "asgi", **environment))
        cls.server = cls.enterClassContext(Server(example(cls.config), environment=cls.backend.environment, bind=address))


class Channels(AdapterCase):
    """A real Channels consumer with a layer of its own, and Channels' own routing."""

    application = "kit.layer_asgi:application"
    environment = {"LAYER_SETTINGS": json.dumps({"BACKEND": "channels.layers.InMemoryChannelLayer"})}

    def joined(self):
        member = self.member()
        self.assertEqual(member.event()["type"], "accepted")
        return member

    def test_what_the_consumers_layer_brings_reaches_their_clients(self):
        anna, ben = self.joined(), self.joined()
        for number in range(20):
            (anna, ben)[number % 2].say({"type": "chat.message", "message": f"hällo {number}"})
            for member in (anna, ben):
                self.assertEqual(member.event(), {"type": "chat.message", "message": f"hällo {number}"})

    def test_a_burst_arrives_whole_and_in_order(self):
        anna, ben = self.joined(), self.joined()
        for number in range(100):
            anna.say({"type": "chat.message", "number": number})
        for member in (anna, ben):
            self.assertEqual([member.event()["number"] for _ in range(100)], list(range(100)))

    def test_a_client_that_leaves_is_out_of_the_consumers_groups(self):
        anna = self.joined()
        with Peer(self.server, f"/ws/chat/{self.room}/") as ben:
            ben.event()
        anna.say({"type": "chat.message", "message": "alone"})
        self.assertEqual(anna.event()["message"], "alone")
        self.assertNotIn("Traceback", self.backend.log())

    def test_a_consumer_that_fails_ends_its_own_connection(self):
        anna, ben = self.joined(), self.joined()
        anna.send("junk")
        self.assertEqual(anna.closed()[0], 1011)
        ben.say({"type": "chat.message", "message": "still here"})
        self.assertEqual(ben.event()["message"], "still here")
        self.backend.wait_for_log("JSONDecodeError|ValueError")


class Bare(AdapterCase):
    """An application that is nothing but ASGI."""

    application = "kit.asgi_app:application"

    def open(self, path, **options):
        return self.enterContext(Peer(self.server, f"/ws/{path}/", **options))

    def test_text_and_bytes_come_back(self):
        peer = self.open("echo", subprotocols=["chat.v2", "chat.v1"])
        self.assertEqual(peer.socket.subprotocol, "chat.v2")
        self.assertEqual(peer.socket.response.headers["x-from"], "the application")
        for said in ("hällo", "", b"\x00\xff", b"", "x" * 60_000):
            peer.send(said)
            self.assertEqual(peer.receive(), said)

    def test_the_end_is_told(self):
        with Peer(self.server, "/ws/echo/") as peer:
            peer.socket.close(4321)
        self.backend.wait_for_log("ended with 4321")

    def test_the_scope_is_asgis(self):
        said = self.open("scope", subprotocols=["a"]).receive()
        for part in ("'type': 'websocket'", "'raw_path': b'/ws/scope/'", "'query_string': b''", f"'origin': b'{self.server.origin}'"):
            self.assertIn(part, said)

    def test_a_refusal_is_403(self):
        self.assertEqual(refusal(self.server, "/ws/denied/").status_code, 403)

    def test_a_failure_is_403_at_first_and_then_1011(self):
        self.assertEqual(refusal(self.server, "/ws/broken/").status_code, 403)
        peer = self.open("broken/later")
        peer.send("go")
        self.assertEqual(peer.closed()[0], 1011)

    def test_the_application_closes_as_it_likes(self):
        peer = self.open("closed")
        peer.send("go")
        self.assertEqual(peer.closed()[0], 4001)
        self.backend.wait_for_log("ended with 4001")
        self.assertEqual(self.open("done").closed()[0], 1000)

    def test_the_application_speaks_when_nobody_asked(self):
        peer = self.open("clock")
        peer.send("go")
        self.assertEqual([peer.receive() for _ in range(20)], [f"tick {number}" for number in range(20)])
        self.assertEqual(peer.closed()[0], 4002)

    def test_connections_of_a_server_that_was_killed_are_ended(self):
        config = '[server]\nname = "killed"\n' + example(self.config)
        with Server(config, environment=self.backend.environment) as server:
            self.enterContext(Peer(server, "/ws/echo/"))
            server.signal(signal.SIGKILL)
            server.wait(-signal.SIGKILL)
            server.start()
            self.backend.wait_for_log("ended with 1006")

    def test_it_is_short(self):
        lines = (EXAMPLES / "asgi/adapter.py").read_text(encoding="utf-8").splitlines()
        self.assertLessEqual(sum(1 for line in lines if line.strip()), 80)

