"""The examples of consumers in other languages, and the adapter for ASGI consumers, run as described in their README."""

import hmac
import http.client
import json
import signal
import socket
import sys
import time
import unittest
from pathlib import Path

from kit.backend import EXAMPLES, PACKAGE, SECRET, Backend, example
from kit.deadline import DEADLINE, until
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
        cls.server = cls.enterClassContext(Server(cls.configuration(), environment=cls.backend.environment))

    @classmethod
    def configuration(cls):
        return example(cls.config)

    def setUp(self):
        self.room = self.id().rpartition(".")[2].removeprefix("test_")[:60]

    def member(self, room=None):
        return self.enterContext(Peer(self.server, f"/ws/chat/{room or self.room}/"))

    def ask(self, body, signature, backend=None):
        """Asks the program without the server; returns the status and the body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", (backend or self.backend).port, timeout=DEADLINE)
        try:
            headers = {} if signature is None else {"Oneport-Signature": signature}
            connection.request("POST", "/", body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask_as_server(self, body, backend=None):
        now = str(int(time.time()))
        return self.ask(body, f"t={now},v1={signed_by(SECRET, now, body)}", backend)

    def assert_it_answers(self):
        body = b'{"v": 1, "events": [{"seq": 0, "type": "oneport.node_started", "node": "another", "name": "another"}]}'
        self.assertEqual(self.ask_as_server(body)[0], 200)


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

    def test_what_is_nested_too_deeply_is_no_message(self):
        anna, ben = self.member(), self.member()
        for said in ("[" * 60_000, '{"a":' * 12_000, "[" * 30_000 + "]" * 30_000):
            anna.send(said)
            self.assertEqual(anna.event()["type"], "chat.error")
        ben.say({"message": "still here"})
        self.assertEqual((anna.event()["message"], ben.event()["message"]), ("still here", "still here"))
        self.assertEqual(self.server.metric("oneport_backend_requests_total", outcome="connection"), 0)

    def test_a_failure_is_answered_with_500(self):
        for body in (b"junk", b"{}"):
            with self.subTest(body=body):
                self.assertEqual(self.ask_as_server(body)[0], 500)
        self.assert_it_answers()

    def test_a_request_that_is_cut_off_harms_nobody_else(self):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", self.backend.port), DEADLINE) as client:
                client.sendall(b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"v": 1')
                client.shutdown(socket.SHUT_WR)
                client.recv(65536)  # whether it answers is its own affair
        self.assert_it_answers()

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
        self.assertEqual(self.ask(body, f"t={now},v1={signed}")[0], 200)
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
                self.assertEqual(self.ask(body, wrong)[0], 403)
        other = signed_by("another", now, body)
        for several in (f"t={now},v1={other},v1={signed}", f"t={now},v1={signed},v1={other}"):  # while a secret is changed
            self.assertEqual(self.ask(body, several)[0], 200)
        self.assertEqual(self.ask(body.replace(b"evil", b"vile"), f"t={now},v1={signed}")[0], 403)


def signed_by(secret, at, body):
    return hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()


class Python(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return [sys.executable, "chat.py"]


class Node(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return ["node", "chat.mjs"]


class Php(Chat, BackendCase):
    @classmethod
    def command(cls, port):
        return ["php", "-d", "display_errors=1", "-S", f"127.0.0.1:{port}", "chat.php"]  # as PHP is without a php.ini


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
        return [sys.executable, "-m", "oneport_backend.asgi", cls.application]

    @classmethod
    def setUpClass(cls):
        address = f"127.0.0.1:{free_port()}"
        environment = {"PYTHONPATH": f"{PACKAGE}:{HERE}", "ONEPORT_API": f"http://{address}/api", **cls.environment}
        cls.backend = cls.enterClassContext(Backend(cls.command, EXAMPLES / "asgi", **environment))
        cls.server = cls.enterClassContext(Server(cls.configuration(), environment=cls.backend.environment, bind=address))

    def open(self, path, **options):
        return self.enterContext(Peer(self.server, f"/ws/{path}/", **options))

    def held(self):
        """Returns how many sockets and tasks the adapter has."""
        with Peer(self.server, "/ws/count/") as peer:
            return peer.event()

    def assert_denied(self, path, times):
        """Fails when a handshake is not denied, and when the adapter still holds something of it afterwards."""
        sockets, tasks = self.held()
        for _ in range(times):
            self.assertEqual(refusal(self.server, f"/ws/{path}/").status_code, 403)

        # Fewer than before are well: other connections may have been on their way out.
        until(
            lambda: all(now <= before for now, before in zip(self.held(), (sockets, tasks), strict=True)),
            lambda: f"at most {sockets} sockets and {tasks} tasks, found {self.held()}\n{self.backend.log()}",
        )


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


class Behind(AdapterCase):
    """Consumers of Channels behind its own sessions and users."""

    application = "kit.asgi_app:behind_middleware"

    def test_sessions_and_users_are_those_of_channels(self):
        said = self.open("visitor").event()
        self.assertEqual((said["user"], said["seen"]), ("AnonymousUser", None))
        self.assertEqual(said["oneport"], {"user": None, "session": None})
        cookie = f"sessionid={said['new_session']}"
        self.assertEqual(self.open("visitor", additional_headers={"Cookie": cookie}).event()["seen"], 3)

    def test_denied_handshakes_leave_nothing_behind(self):
        self.assert_denied("denied", 50)


class Bare(AdapterCase):
    """An application that is nothing but ASGI."""

    application = "kit.asgi_app:application"

    def test_text_and_bytes_come_back(self):
        peer = self.open("echo", subprotocols=["chat.v2", "chat.v1"])
        self.assertEqual(peer.socket.subprotocol, "chat.v2")
        self.assertEqual(peer.socket.response.headers["x-from"], "the application")
        for said in ("hällo", "", b"\x00\xff", b"", "x" * 60_000, b"\xff" * 60_000, "ж" * 30_000, "\x01" * 60_000):
            peer.send(said)
            self.assertEqual(peer.receive(), said)

    def test_the_end_is_told(self):
        with Peer(self.server, "/ws/echo/") as peer:
            peer.socket.close(4321)
        self.backend.wait_for_log("ended with 4321")

    def test_the_scope_is_asgis(self):
        peer = self.enterContext(Peer(self.server, "/ws/scope/?a=%20", subprotocols=["a"]))
        said = peer.receive()
        for part in ("'type': 'websocket'", "'query_string': b'a=%20'", f"'origin': b'{self.server.origin}'"):
            self.assertIn(part, said)
        for name in ("'user'", "'session'"):
            self.assertNotIn(name, said)

    def test_the_raw_path_is_the_one_that_was_sent_or_none(self):
        for raw_path in ("/%77s/scope/", None):
            with self.subTest(raw_path=raw_path):
                accept = self.ask_to_connect("raw_path", **({"raw_path": raw_path} if raw_path else {}))
                self.assertEqual(accept["headers"], [["x-raw-path", raw_path or "none"]])

    def ask_to_connect(self, path, backend=None, **fields):
        """Sends a `websocket.connect`; returns the application's decision. The connection is gone afterwards."""
        scope = {"type": "websocket", "path": f"/ws/{path}/", "raw_query": "", "headers": [], "subprotocols": [], **fields}
        scope |= {"user": None, "session": None}
        connection = {"id": "0123456789abcdef.1", "node": "0123456789abcdef", "name": "nobody", "state": None}
        connect, disconnect = (
            json.dumps({"v": 1, "connection": connection, "scope": scope, "events": [event]}).encode()
            for event in ({"seq": 1, "type": "websocket.connect"}, {"seq": 2, "type": "websocket.disconnect", "code": 1006})
        )
        status, said = self.ask_as_server(connect, backend)
        self.assertEqual((status, self.ask_as_server(disconnect, backend)[0]), (200, 200))
        return json.loads(said)["events"][0]

    def test_header_fields_are_the_octets_that_were_sent(self):
        for cookie in ("name=Мария", "name=Márta", "name=plain"):
            with self.subTest(cookie=cookie):
                said = self.open("cookie", additional_headers={"Cookie": cookie.encode().decode("latin-1")}).receive()
                self.assertEqual(said, repr(cookie.encode()))

    def test_a_refusal_is_403(self):
        self.assertEqual(refusal(self.server, "/ws/denied/").status_code, 403)
        response = refusal(self.server, "/ws/denied/why/")
        self.assertEqual(response.status_code, 403)
        self.assertIn(b"The room is full.", response.body)

    def test_a_refused_socket_is_forgotten_though_its_application_stays(self):
        sockets = self.held()[0]
        for _ in range(20):
            self.assertEqual(refusal(self.server, "/ws/denied/stays/").status_code, 403)
        until(lambda: self.held()[0] <= sockets, lambda: f"at most {sockets} sockets, found {self.held()[0]}")

    def test_a_subprotocol_that_was_not_offered_is_a_refusal(self):
        self.assert_denied("stubborn", 20)
        self.assertEqual(self.open("stubborn", subprotocols=["mine"]).socket.subprotocol, "mine")

    def test_an_application_that_speaks_before_it_accepts_is_denied(self):
        self.assert_denied("hasty", 20)

    def test_what_the_server_refuses_does_not_end_the_application(self):
        peer = self.open("echo/huge")
        peer.send("go")
        self.assertEqual(peer.receive(), "still here")
        self.backend.wait_for_log("413")

    def test_what_is_said_to_nobody_does_not_end_the_application(self):
        self.open("late").socket.close(4321)
        self.backend.wait_for_log("spoke to nobody")

    def test_a_server_that_is_away_does_not_end_the_application(self):
        environment = {"PYTHONPATH": f"{PACKAGE}:{HERE}", "ONEPORT_API": f"http://127.0.0.1:{free_port()}/api"}
        with Backend(self.command, EXAMPLES / "asgi", **environment) as backend:
            self.assertEqual(self.ask_to_connect("late", backend)["type"], "websocket.accept")
            backend.wait_for_log("spoke to nobody")

    def test_a_failure_is_403_at_first_and_then_1011(self):
        self.assertEqual(refusal(self.server, "/ws/broken/").status_code, 403)
        peer = self.open("broken/later")
        peer.send("go")
        self.assertEqual(peer.closed()[0], 1011)

    def test_the_application_closes_as_it_likes(self):
        peer = self.open("closed")
        peer.send("go")
        self.assertEqual(peer.closed(), (4001, "no & möre?"))
        self.backend.wait_for_log("ended with 4001")
        self.assertEqual(self.open("done").closed()[0], 1000)

    def test_a_close_that_cannot_be_sent_is_1011(self):
        for path in ("closed/code", "closed/reason"):
            with self.subTest(path=path):
                peer = self.open(path)
                peer.send("go")
                self.assertEqual(peer.closed()[0], 1011)

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


class Impatient(AdapterCase):
    """A server that does not wait long for an answer."""

    application = "kit.asgi_app:application"

    @classmethod
    def configuration(cls):
        return super().configuration().replace("secret =", 'timeout = "1s", secret =')

    def test_an_application_that_does_not_listen_holds_nobody_else_up(self):
        peer = self.open("echo/later")
        said = [str(number) for number in range(250)]
        for each in said:
            peer.send(each)
        self.assertEqual([peer.receive() for _ in said], said)
        self.assertEqual(self.server.metric("oneport_backend_requests_total", outcome="timeout"), 0)

