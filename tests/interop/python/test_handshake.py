"""Handshake: which requests get a 101, the responses to the others, and the deadline before it."""

import socket
import time
import unittest

from kit.deadline import until
from kit.frames import Bytes
from kit.peer import Peer, refusal
from kit.server import Server

CONFIG = """
[server]
allowed_hosts = ["127.0.0.1", "localhost", ".example.com"]

[server.limits]
header_size = "8 KiB"

[server.timeouts]
handshake = "600ms"
keep_alive = "1s"

[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page" }

[[websocket.route]]
path = "/ws/echo/"
name = "echo"
consumer = "echo"

[[websocket.route]]
path = "/ws/partner/"
consumer = "echo"
allowed_origins = ["https://partner.example:8443"]

[[websocket.route]]
path = "/ws/programs/"
consumer = "echo"
missing_origin = "allow"
"""

SOUND = {
    "Host": "localhost",
    "Origin": "http://localhost",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Handshake(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def bytes(self):
        return self.enterContext(Bytes(("127.0.0.1", self.server.port)))

    def ask(self, path="/ws/echo/", method="GET", version="1.1", raw=(), **changes):
        """Makes a handshake with changes (`None` leaves a field out); returns status and fields."""
        fields = {**SOUND, **{name.replace("_", "-"): value for name, value in changes.items()}}
        lines = [f"{method} {path} HTTP/{version}", *raw]
        lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
        with Bytes(("127.0.0.1", self.server.port)) as client:
            client.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
            return client.head()

    def test_the_key_of_the_rfc_gets_the_answer_of_the_rfc(self):
        status, fields = self.ask()
        self.assertEqual(status, 101)
        self.assertEqual(fields["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        self.assertEqual((fields["upgrade"].lower(), fields["connection"].lower()), ("websocket", "upgrade"))
        self.assertNotIn("sec-websocket-extensions", fields)
        self.assertNotIn("content-length", fields)

    def test_tokens_are_read_in_lists_and_in_any_case(self):
        self.assertEqual(self.ask(Connection="keep-alive, uPGRADE", Upgrade="WebSocket")[0], 101)

    def test_another_origin_is_refused_with_403(self):
        for origin in ("https://evil.example", "null", "http://localhost.evil.example", "http://notlocalhost", "localhost"):
            with self.subTest(origin=origin):
                self.assertEqual(refusal(self.server, "/ws/echo/", origin=origin).status_code, 403)

    def test_no_origin_is_refused_with_403_unless_the_route_allows_it(self):
        self.assertEqual(refusal(self.server, "/ws/echo/", origin=None).status_code, 403)
        with Peer(self.server, "/ws/programs/", origin=None) as peer:
            peer.send("a program")
            self.assertEqual(peer.receive(), "a program")
        self.assertEqual(refusal(self.server, "/ws/programs/", origin="https://evil.example").status_code, 403)

    def test_several_origins_are_refused_with_400(self):
        self.assertEqual(self.ask(raw=["Origin: http://localhost"])[0], 400)

    def test_allowed_origins_are_compared_with_scheme_and_port(self):
        for origin, status in (
            ("https://partner.example:8443", 101),
            ("https://PARTNER.example:8443", 101),
            ("https://partner.example", 403),
            ("http://partner.example:8443", 403),
            ("https://sub.partner.example:8443", 403),
            ("http://localhost", 403),
        ):
            with self.subTest(origin=origin):
                self.assertEqual(self.ask("/ws/partner/", Origin=origin)[0], status)

    def test_a_subdomain_that_is_allowed_as_host_is_allowed_as_origin(self):
        self.assertEqual(self.ask(Host="chat.example.com", Origin="https://www.example.com")[0], 101)

    def test_a_host_the_server_is_not_meant_for_is_400(self):
        self.assertEqual(self.ask(Host="evil.example")[0], 400)
        self.assertEqual(self.ask(Host=None)[0], 400)

    def test_an_unknown_path_is_404_before_any_upgrade(self):
        response = refusal(self.server, "/ws/nothing/")
        self.assertEqual(response.status_code, 404)
        self.assertEqual(refusal(self.server, "/page/").status_code, 404)

    def test_a_websocket_path_is_matched_with_its_slash(self):
        self.assertEqual(refusal(self.server, "/ws/echo").status_code, 404)

    def test_a_plain_get_on_a_websocket_path_is_426(self):
        status, fields, body = self.server.request("/ws/echo/")
        self.assertEqual((status, fields["upgrade"].lower()), (426, "websocket"))
        self.assertTrue(body)

    def test_a_handshake_that_breaks_the_rfc_is_told_how(self):
        for changes, status in (
            ({"Sec_WebSocket_Version": "12"}, 426),
            ({"Sec_WebSocket_Version": None}, 400),
            ({"Sec_WebSocket_Key": None}, 400),
            ({"Sec_WebSocket_Key": "c2hvcnQ="}, 400),
            ({"Sec_WebSocket_Key": "not base64 at all!!"}, 400),
            ({"raw": ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]}, 400),
            ({"Sec_WebSocket_Protocol": "a b"}, 400),
            ({"Sec_WebSocket_Protocol": "a, a"}, 400),
            ({"Content_Length": "5"}, 400),
            ({"method": "POST", "Content_Length": "0"}, 405),
            ({"version": "1.0"}, 400),
        ):
            with self.subTest(changes=changes):
                found, fields = self.ask(**changes)
                self.assertEqual(found, status)
                if "Sec_WebSocket_Version" in changes:
                    self.assertEqual(fields["sec-websocket-version"], "13")

    def test_a_wish_for_another_protocol_is_an_ordinary_request(self):
        self.assertEqual(self.ask("/page/", Upgrade="h2c")[0], 200)
        self.assertEqual(self.ask("/page/", Connection="keep-alive")[0], 200)

    def test_after_a_refusal_the_connection_serves_the_next_request(self):
        client = self.bytes()
        fields = "".join(f"{name}: {value}\r\n" for name, value in {**SOUND, "Origin": "https://evil.example"}.items())
        client.send(f"GET /ws/echo/ HTTP/1.1\r\n{fields}\r\n".encode())
        status, head = client.head()
        self.assertEqual(status, 403)
        client.exactly(int(head["content-length"]))
        client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)

    def test_garbage_is_400_and_the_end(self):
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
            b"\x00" * 64 + b"\r\n\r\n",
            b"hello\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: unknown\r\n\r\n",
        ):
            with self.subTest(garbage=garbage[:60]):
                client = self.bytes()
                client.send(garbage)
                self.assertEqual(client.head()[0], 400)
                self.assertEqual(client.rest(), b"")
        self.assertEqual(self.server.request("/health/")[0], 200)

    def test_a_broken_http2_preface_is_the_end(self):
        client = self.bytes()
        client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + bytes(64))
        client.rest()
        self.assertEqual(self.server.request("/health/")[0], 200)

    def test_a_head_over_the_limit_is_431_and_the_end(self):
        for head in (
            b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n",
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 101 + b"\r\n",
        ):
            with self.subTest(head=head[:60]):
                client = self.bytes()
                client.send(head)
                self.assertEqual(client.head()[0], 431)
                self.assertEqual(client.rest(), b"")

    def test_a_client_that_says_nothing_is_let_go_at_the_handshake_deadline(self):
        self.ends_in_time(b"", 0.5, 5.0)

    def test_half_a_request_is_let_go_at_the_handshake_deadline(self):
        self.ends_in_time(b"GET /page/ HTTP/1.1\r\nHost: loc", 0.5, 5.0)

    def test_half_an_http2_preface_is_let_go_at_the_handshake_deadline(self):
        self.ends_in_time(b"PRI * HTTP/2.0\r\n", 0.5, 5.0)

    def test_a_head_that_trickles_is_let_go_at_the_handshake_deadline_all_the_same(self):
        self.trickles(b"GET /page/ HTTP/1.1\r\n")

    def test_a_handshake_that_trickles_is_let_go_too_also_behind_a_request(self):
        handshake = b"GET /ws/echo/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.trickles(handshake)
        with self.subTest("a second request"):
            self.trickles(handshake, before=b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def trickles(self, head, before=b""):
        client = self.bytes()
        if before:
            client.send(before)
            status, fields = client.head()
            self.assertEqual((status, client.exactly(int(fields["content-length"]))), (200, b"a page"))
        client.send(head)
        began = time.monotonic()

        def is_ended():
            try:
                client.send(b"X: y\r\n")
                client.socket.settimeout(0.05)
                return client.socket.recv(1) == b"" or None
            except TimeoutError:
                return None
            except (BrokenPipeError, ConnectionResetError):
                return True

        until(is_ended, "the end of a head that trickles", 10)
        self.assertGreater(time.monotonic() - began, 0.5)

    def test_half_a_second_request_does_not_hold_back_the_first_answer_and_is_let_go_too(self):
        client = self.bytes()
        client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /page/ HT")
        status, head = client.head()
        self.assertEqual((status, client.exactly(int(head["content-length"]))), (200, b"a page"))
        self.assertEqual(client.rest(), b"")

    def test_a_connection_without_a_request_is_let_go_after_keep_alive(self):
        client = self.bytes()
        client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, head = client.head()
        client.exactly(int(head["content-length"]))
        began = time.monotonic()
        self.assertEqual(client.rest(), b"")
        self.assertGreater(time.monotonic() - began, 0.8)

    def test_a_websocket_outlives_the_handshake_deadline(self):
        with Peer(self.server, "/ws/echo/") as peer:
            self.assertEqual(self.bytes().rest(), b"")  # as long as the deadline takes
            peer.send("still here")
            self.assertEqual(peer.receive(), "still here")

    def test_a_client_that_leaves_in_the_middle_of_its_handshake_leaves_nothing_behind(self):
        before = self.server.metric("oneport_tasks")
        fields = "".join(f"{name}: {value}\r\n" for name, value in SOUND.items())
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as client:
                client.sendall(f"GET /ws/echo/ HTTP/1.1\r\n{fields}\r\n".encode())
        until(
            lambda: self.server.metric("oneport_tasks") <= before and self.server.metric("oneport_websockets") == 0,
            lambda: f"at most {before} tasks and no socket, found {self.server.request('/metrics')[2].decode()}",
        )

    def ends_in_time(self, said, earliest, latest):
        client = self.bytes()
        began = time.monotonic()
        if said:
            client.send(said)
        answer = client.rest()
        self.assertEqual(answer, b"")
        self.assertTrue(earliest <= time.monotonic() - began <= latest, f"{time.monotonic() - began} s")


if __name__ == "__main__":
    unittest.main()
