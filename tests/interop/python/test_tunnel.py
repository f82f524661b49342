"""The `proxy` consumer: a WebSocket is a tunnel to an upstream server, from the handshake to both close codes."""

import gzip
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt

from kit.deadline import DEADLINE, until
from kit.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Bytes, RawSocket, close_payload, encode
from kit.http2 import Client, StreamSocket
from kit.peer import Peer, refusal
from kit.server import Server
from kit.tls import Authority, SecureBytes, SecureServer
from kit.websocket_upstream import Echo, Upstream

CONFIG = """
[server.timeouts]
drain = "10s"

[websocket]
close_timeout = "2s"

[[websocket.route]]
path = "/ws/{{*path}}"
name = "tunnel"
consumer = "proxy"
options = {{ upstream = ["{url}"] {options} }}
{settings}

[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "app", token = "a-token-of-at-least-32-characters", groups = ["*"], connections = true }}] }}
"""


class Case(unittest.TestCase):
    def start(self, url=None, options="", settings=""):
        """Starts a server before an upstream, by default one whose connections `self.upstream` hands out."""
        if url is None:
            self.upstream = self.enterContext(Upstream())
            url = self.upstream.url
        self.config = CONFIG.format(url=url, options=f", {options}" if options else "", settings=settings)
        return self.enterContext(Server(self.config))

    def open(self, server, path="/ws/a", **options):
        """Opens a tunnel; returns both of its ends."""
        client = self.enterContext(RawSocket(server, path, wait=False, **options))
        upstream = self.enterContext(self.upstream.next())
        upstream.accept()
        self.assertEqual(client.head()[0], 101)
        return client, upstream

    def ended(self, server, cause, count=1):
        """Waits for the end of tunnels by a cause; returns the line of the last one in the access log."""
        until(lambda: server.metric("oneport_websockets_closed_total", cause=cause) == count, lambda: f"{count} x {cause}\n{server.log()}")
        until(lambda: server.metric("oneport_websockets", route="tunnel") == 0, "no open tunnel")

        def lines():
            return [line for line in server.log().splitlines() if f'cause="{cause}"' in line]

        # The log is written after the metric has changed.
        until(lambda: len(lines()) == count, lambda: f"{count} lines of {cause}\n{server.log()}")
        return lines()[-1]


class Handshake(Case):
    def test_upstream_gets_the_clients_offers_and_who_it_is(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        client.send(
            b"GET /ws/a%20b/?q=1&q=2 HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: keep-alive, Upgrade, X-Own\r\n"
            b"X-Own: 1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: v2, v1\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other\r\n"
            b"Cookie: sessionid=s\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\n\r\n"
        )
        upstream = self.enterContext(self.upstream.next())
        self.assertEqual(upstream.line, "GET /ws/a%20b/?q=1&q=2 HTTP/1.1")
        wanted = {
            "host": "localhost",
            "origin": "http://localhost",
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-protocol": "v2, v1",
            "sec-websocket-extensions": "permessage-deflate; client_max_window_bits, x-other",
            "cookie": "sessionid=s",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-proto": "http",
            "x-forwarded-host": "localhost",
            "x-forwarded-port": "80",
            "content-length": None,
            "transfer-encoding": None,
            "x-own": None,
            "x_forwarded_proto": None,
        }
        self.assertEqual({name: upstream.field(name) for name in wanted}, wanted)
        self.assertRegex(upstream.field("x-request-id"), r"^[0-9a-f]{16}$")
        upstream.accept("Sec-WebSocket-Protocol: v1", 'Sec-WebSocket-Extensions: x-other; a="b, c"', "Set-Cookie: a=1", "Set-Cookie: b=2")
        status, fields = client.head()
        self.assertEqual(status, 101)
        self.assertEqual(fields["sec-websocket-protocol"], "v1")
        self.assertEqual(fields["sec-websocket-extensions"], 'x-other; a="b, c"')
        self.assertEqual(fields["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        self.assertEqual(fields["set-cookie"], "a=1, b=2")
        client.socket.close()
        self.ended(server, "client_gone")

    def test_what_the_upstream_does_not_choose_is_not_chosen(self):
        server = self.start(settings='subprotocols = ["v1"]')
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        client.send(
            b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        self.enterContext(self.upstream.next()).accept()
        _, fields = client.head()
        self.assertNotIn("sec-websocket-protocol", fields)
        self.assertNotIn("sec-websocket-extensions", fields)

    def test_fields_of_the_upstreams_connection_do_not_pass_with_its_101(self):
        server = self.start()
        client = self.enterContext(RawSocket(server, "/ws/a", wait=False))
        self.enterContext(self.upstream.next()).accept(
            "Connection: X-Own", "X-Own: 1", "Keep-Alive: timeout=5", "X-Accel-Redirect: /files/a", "X-Sendfile: /etc/passwd", "X-Other: 2"
        )
        status, fields = client.head()
        self.assertEqual((status, fields["connection"], fields["x-other"]), (101, "Upgrade", "2"))
        for name in ("x-own", "keep-alive", "x-accel-redirect", "x-sendfile"):
            self.assertNotIn(name, fields)

    def test_a_token_among_the_subprotocols_never_reaches_the_upstream(self):
        """As consumers of our own see it, the upstream sees the word before it. If it chooses none, the client gets that word."""
        secret = "0123456789abcdef" * 4
        token = jwt.encode({"sub": "7", "name": "anna", "exp": int(time.time()) + 600}, secret, "HS256")
        self.upstream = self.enterContext(Upstream())
        config = CONFIG.format(url=self.upstream.url, options="", settings='middleware = ["hosts", "auth"]')
        server = self.enterContext(Server(f'[auth.bearer]\nkey = "{secret}"\n{config}'))
        for offer, forwarded, chosen, answer in [
            (f"bearer, {token}", "bearer", None, "bearer"),
            (f"v1, bearer, {token}", "v1, bearer", "v1", "v1"),
            (f"bearer, {token}, v1", "bearer, v1", None, "bearer"),
            ("v1, v2", "v1, v2", None, None),
        ]:
            with self.subTest(offer.replace(token, "TOKEN")):
                client = self.enterContext(Bytes(("127.0.0.1", server.port)))
                client.send(
                    b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    b"Sec-WebSocket-Protocol: " + offer.encode() + b"\r\n\r\n"
                )
                upstream = self.enterContext(self.upstream.next())
                self.assertEqual(upstream.field("sec-websocket-protocol"), forwarded)
                self.assertNotIn(token, str(upstream.fields))
                upstream.accept(*([f"Sec-WebSocket-Protocol: {chosen}"] if chosen else []))
                status, fields = client.head()
                self.assertEqual((status, fields.get("sec-websocket-protocol")), (101, answer))
                client.socket.close()
                upstream.socket.close()

    def test_refusal_passes_as_it_is(self):
        server = self.start()
        packed = gzip.compress(b"not you" * 100)
        cases = [
            ("401 Unauthorized", ["WWW-Authenticate: Bearer", "Content-Type: application/json"], b'{"error": 1}'),
            ("403 Forbidden", ["Content-Type: text/html", "Content-Encoding: gzip", "X-Own: 1"], packed),
            ("404 Not Found", [], b""),
            ("302 Found", ["Location: /login/"], b""),
            ("503 Service Unavailable", ["Retry-After: 7", "Content-Type: text/plain"], b"later"),
            ("426 Upgrade Required", ["Sec-WebSocket-Version: 13"], b""),
        ]
        for status, fields, body in cases:
            with self.subTest(status=status):
                client = self.enterContext(RawSocket(server, "/ws/a", wait=False))
                self.enterContext(self.upstream.next()).respond(status, *fields, body=body)
                found, got = client.head()
                self.assertEqual(found, int(status.split()[0]))
                for field in fields:
                    name, value = field.split(": ")
                    if not name.startswith("Sec-"):
                        self.assertEqual(got[name.lower()], value)
                self.assertEqual(client.exactly(int(got.get("content-length", 0))), body)

    def test_connection_is_usable_after_a_refusal(self):
        server = self.start()
        client = self.enterContext(RawSocket(server, "/ws/a", wait=False))
        self.enterContext(self.upstream.next()).respond("403 Forbidden", body=b"no")
        self.assertEqual(client.head()[0], 403)
        client.exactly(2)
        client.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)

    def test_bad_answers_are_502_with_the_cause_in_the_log(self):
        server = self.start(options='response_timeout = "500ms"')

        def ok(upstream, **changes):
            lines = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": upstream.accept_value(), **changes}
            upstream.send(b"HTTP/1.1 101 x\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items() if v is not None).encode() + b"\r\n")

        cases = [
            ("200", lambda up: up.respond("200 OK", body=b"hi"), 502, "expected 101 or a refusal"),
            ("204", lambda up: up.send(b"HTTP/1.1 204 x\r\n\r\n"), 502, "expected 101 or a refusal"),
            ("another key", lambda up: ok(up, **{"Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK-xOo="}), 502, "Sec-WebSocket-Accept"),
            ("no key", lambda up: ok(up, **{"Sec-WebSocket-Accept": None}), 502, "Sec-WebSocket-Accept"),
            ("another protocol", lambda up: ok(up, Upgrade="h2c"), 502, "Upgrade: websocket"),
            ("a subprotocol of its own", lambda up: ok(up, **{"Sec-WebSocket-Protocol": "v9"}), 502, "subprotocol"),
            ("half a head", lambda up: (up.send(b"HTTP/1.1 101 Swi"), up.socket.close()), 502, ""),
            ("no HTTP", lambda up: up.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), 502, ""),
            ("a reset", lambda up: up.cut(), 502, ""),
            ("silence", lambda up: None, 504, ""),
            ("a long refusal", lambda up: up.respond("403 x", body=b"x" * (300 << 10)), 502, ""),
            ("a short refusal", lambda up: (up.send(b"HTTP/1.1 403 x\r\nContent-Length: 9\r\n\r\nabc"), up.socket.close()), 502, ""),
        ]
        for name, answer, status, said in cases:
            with self.subTest(name):
                client = self.enterContext(RawSocket(server, "/ws/a", wait=False))
                upstream = self.enterContext(self.upstream.next())
                try:
                    answer(upstream)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the server has seen enough
                self.assertEqual(client.head()[0], status)
                until(lambda said=said: said in server.log(), lambda said=said: f"{said!r} in\n{server.log()}")

    def test_upstream_that_is_away_is_502(self):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            server = self.start(f"http://127.0.0.1:{closed.getsockname()[1]}")
            self.assertEqual(refusal(server, "/ws/a").status_code, 502)

    def test_client_that_leaves_before_the_answer_frees_the_upstream(self):
        server = self.start()
        client = self.enterContext(RawSocket(server, "/ws/a", wait=False))
        upstream = self.enterContext(self.upstream.next())
        client.socket.close()
        self.assertEqual(upstream.rest(), b"")

    def test_bytes_right_behind_both_heads_pass(self):
        server = self.start()
        first = encode(TEXT, b"early")
        client = self.enterContext(RawSocket(server, "/ws/a", wait=False, send_along=first))
        upstream = self.enterContext(self.upstream.next())
        upstream.accept(send_along=encode(TEXT, b"welcome", masked=False))
        self.assertEqual(client.head()[0], 101)
        self.assertEqual(client.frame().payload, b"welcome")
        self.assertEqual(upstream.exactly(len(first)), first)

    def test_http2_in_is_http1_out(self):
        server = self.start()
        with Client(server) as client:
            stream = client.ask_for_socket("/ws/b?x=1", {"sec-websocket-protocol": "v1", "cookie": "a=1"})
            upstream = self.enterContext(self.upstream.next())
            self.assertEqual(upstream.line, "GET /ws/b?x=1 HTTP/1.1")
            self.assertEqual(upstream.field("host"), "localhost")
            self.assertEqual(upstream.field("sec-websocket-protocol"), "v1")
            upstream.accept("Sec-WebSocket-Protocol: v1")
            status, fields = client.head(stream)
            self.assertEqual((status, fields["sec-websocket-protocol"]), (200, "v1"))
            client.write(stream, encode(TEXT, b"ping"))
            self.assertEqual(upstream.frame().payload, b"ping")
            upstream.say(TEXT, b"pong")
            upstream.say(CLOSE, close_payload(4001, b"bye"))
            wanted = encode(TEXT, b"pong", masked=False) + encode(CLOSE, close_payload(4001, b"bye"), masked=False)
            client.until(lambda: len(client.answers[stream][1]) >= len(wanted), "both frames")
            self.assertEqual(bytes(client.answers[stream][1]), wanted)
            client.write(stream, encode(CLOSE, close_payload(4001)), end_stream=True)
            self.assertEqual(upstream.frame().code, 4001)
            upstream.socket.close()
        self.assertIn("upstream_code=4001", self.ended(server, "upstream_close"))


class Messages(Case):
    def test_messages_of_every_kind_come_back_through_the_upstreams_compression(self):
        echo = self.enterContext(Echo(compression="deflate", subprotocols=["v1"]))
        server = self.start(echo.url)
        with Peer(server, "/ws/a", compression="deflate", subprotocols=["v1"]) as peer:
            self.assertEqual(peer.socket.subprotocol, "v1")
            self.assertIn("permessage-deflate", peer.socket.response.headers["Sec-WebSocket-Extensions"])
            for message in ["", "hi", "grüße ☕" * 1000, b"", os.urandom(125), os.urandom(126), os.urandom(5 << 20), "x" * (3 << 20)]:
                peer.send(message)
                self.assertEqual(peer.receive(), message)
            peer.send(["one ", "two ", "three"])
            self.assertEqual(peer.receive(), "one two three")
            self.assertTrue(peer.socket.ping().wait(DEADLINE), "no pong of the upstream")

    def test_frames_pass_bit_by_bit(self):
        """Reserved bits and unknown opcodes belong to extensions that only the two peers know."""
        server = self.start()
        client, upstream = self.open(server)
        for frame in [encode(BINARY, b"abc", rsv=7), encode(3, b"x"), encode(PING, b"p"), encode(PONG), encode(TEXT, b"\xff"), encode(TEXT, b"", fin=False)]:
            for byte in frame:
                client.send(bytes([byte]))
            self.assertEqual(upstream.exactly(len(frame)), frame)
            upstream.send(frame)
            self.assertEqual(client.exactly(len(frame)), frame)

    def test_neither_the_size_of_a_message_nor_of_a_fragment_is_limited(self):
        server = self.start(settings='max_message = "1 KiB"\nmax_fragments = 2')
        client, upstream = self.open(server)
        whole = b"".join(encode(BINARY if n == 0 else CONTINUATION, bytes([n]) * (1 << 20), fin=n == 7) for n in range(8))
        with ThreadPoolExecutor() as pool:
            sent = pool.submit(client.send, whole)
            self.assertEqual(upstream.exactly(len(whole)), whole)
            sent.result(DEADLINE)

    def test_a_slow_reader_slows_the_other_side_and_nothing_else(self):
        server = self.start(settings='write_timeout = "60s"')
        client, upstream = self.open(server, receive_buffer=4096)
        other, other_upstream = self.open(server)
        before = server.resident_bytes()
        upstream.socket.setblocking(False)
        sent, last, block = 0, time.monotonic(), encode(BINARY, bytes(1 << 16), masked=False)
        rest = memoryview(block)
        while time.monotonic() - last < 0.5:
            try:
                count = upstream.socket.send(rest)
                rest = rest[count:] or memoryview(block)
                sent, last = sent + count, time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        self.assertLess(sent, 64 << 20, "the upstream was not slowed")
        self.assertLess(server.resident_bytes() - before, 8 << 20)
        other.say(TEXT, b"hi")
        self.assertEqual(other_upstream.frame().payload, b"hi")
        upstream.socket.settimeout(DEADLINE)
        with ThreadPoolExecutor() as pool:
            finish = pool.submit(upstream.send, rest)
            total = sent + len(rest)
            self.assertEqual(len(client.exactly(total)), total)
            finish.result(DEADLINE)

    def test_500_tunnels_at_once(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        with UpstreamProcess() as upstream:
            server = self.start(upstream.url)
            clients = [self.enterContext(RawSocket(server, f"/ws/{n}")) for n in range(500)]
            for n, client in enumerate(clients):
                client.say(TEXT, f"hi {n}".encode())
            for n, client in enumerate(clients):
                self.assertEqual(client.frame().payload, f"hi {n}".encode())
            self.assertEqual(server.metric("oneport_websockets", route="tunnel"), 500)
            upstream.kill()
            for client in clients:
                self.assertEqual(client.frame().code, 1014)
                client.socket.close()
            self.ended(server, "upstream_gone", 500)


class UpstreamProcess:
    """An echo server in a process of its own, which can be killed."""

    SCRIPT = """
import asyncio
from websockets.asyncio.server import serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main():
    async with serve(echo, "127.0.0.1", 0, ping_interval=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""

    def __enter__(self):
        self._process = subprocess.Popen([sys.executable, "-c", self.SCRIPT], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_):
        self.kill()
        self._process.stdout.close()

    def kill(self):
        self._process.kill()
        self._process.wait(DEADLINE)


class Ends(Case):
    CODES = [(1000, "bye"), (1001, ""), (1003, "x"), (1007, "x"), (1008, "no"), (1009, "x"), (1011, "é" * 60), (1012, ""), (3000, "x"), (4000, ""), (4999, "z" * 123)]

    def test_code_and_reason_of_the_client_reach_the_upstream(self):
        server = self.start()
        for number, (code, reason) in enumerate(self.CODES):
            with self.subTest(code=code):
                client, upstream = self.open(server)
                client.say(CLOSE, close_payload(code, reason.encode()))
                frame = upstream.frame()
                self.assertEqual((frame.code, frame.reason), (code, reason))
                upstream.say(CLOSE, close_payload(code))
                upstream.socket.close()
                self.assertEqual(client.frame().code, code)
                self.assertTrue(client.is_at_end())
                line = self.ended(server, "client_close", number + 1)
                self.assertIn(f" code={code} client_code={code} upstream_code={code} ", line)

    def test_code_and_reason_of_the_upstream_reach_the_client(self):
        server = self.start()
        for number, (code, reason) in enumerate(self.CODES):
            with self.subTest(code=code):
                client, upstream = self.open(server)
                upstream.say(CLOSE, close_payload(code, reason.encode()))
                frame = client.frame()
                self.assertEqual((frame.code, frame.reason), (code, reason))
                client.say(CLOSE, close_payload(code))
                self.assertEqual(upstream.frame().code, code)
                self.assertTrue(client.is_at_end(), "the client waits for our end first")
                upstream.socket.close()
                line = self.ended(server, "upstream_close", number + 1)
                self.assertIn(f" code={code} client_code={code} upstream_code={code} ", line)

    def test_close_frame_without_a_code_stays_without_one(self):
        server = self.start()
        client, upstream = self.open(server)
        client.say(CLOSE)
        self.assertEqual(upstream.frame().code, 1005)
        upstream.say(CLOSE)
        self.assertEqual(client.frame().code, 1005)
        upstream.socket.close()
        self.assertIn("code=1005 client_code=1005 upstream_code=1005", self.ended(server, "client_close"))

    def test_libraries_close_with_every_code(self):
        echo = self.enterContext(Echo())
        server = self.start(echo.url)
        for code, reason in self.CODES:
            with Peer(server, "/ws/a") as peer:
                peer.socket.close(code, reason)
            self.assertEqual(echo.ended.get(timeout=DEADLINE), (code, reason))
            with Peer(server, "/ws/a") as peer:
                peer.send(f"close {code} {reason}")
                self.assertEqual(peer.closed(), (code, reason))
            echo.ended.get(timeout=DEADLINE)

    def test_client_that_is_gone_is_gone_for_the_upstream_too(self):
        server = self.start()
        client, upstream = self.open(server)
        client.send(encode(TEXT, b"half a message")[:9])
        client.socket.close()
        self.assertEqual(len(upstream.rest()), 9)
        upstream.socket.close()
        self.ended(server, "client_gone")
        client, upstream = self.open(server)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()
        self.assertEqual(upstream.rest(), b"")
        upstream.socket.close()
        self.ended(server, "client_gone", 2)

    def test_client_that_only_stops_sending_gets_the_rest(self):
        server = self.start()
        client, upstream = self.open(server)
        client.socket.shutdown(socket.SHUT_WR)
        self.assertTrue(upstream.is_at_end())
        upstream.say(TEXT, b"the rest")
        upstream.socket.close()
        self.assertEqual(client.frame().payload, b"the rest")
        self.assertTrue(client.is_at_end())

    def test_upstream_that_is_gone_between_two_frames_is_1014(self):
        server = self.start()
        for number, end in enumerate([lambda up: up.socket.close(), lambda up: up.cut()]):
            client, upstream = self.open(server)
            upstream.say(TEXT, b"begun", fin=False)
            self.assertEqual(client.frame().payload, b"begun")
            end(upstream)
            frame = client.frame()
            self.assertEqual((frame.code, frame.reason), (1014, "the connection to the application was lost"))
            client.say(CLOSE, close_payload(1014))
            self.assertTrue(client.is_at_end())
            self.assertIn(" code=1014 client_code=1014 cause=", self.ended(server, "upstream_gone", number + 1))

    def test_upstream_that_is_gone_within_a_frame_leaves_no_close_frame(self):
        server = self.start()
        client, upstream = self.open(server)
        upstream.send(encode(TEXT, b"half a message", masked=False)[:9])
        upstream.cut()
        self.assertEqual(client.rest(), encode(TEXT, b"half a message", masked=False)[:9])
        self.ended(server, "upstream_gone")

    def test_close_frame_just_before_a_reset_passes(self):
        """Its unread input resets the upstream's connection right behind the close frame."""
        server = self.start()
        for number in range(20):
            client, upstream = self.open(server)
            client.say(BINARY, bytes(100_000))
            upstream.say(CLOSE, close_payload(4002, b"enough"))
            upstream.socket.close()
            frame = client.frame()
            self.assertEqual((frame.code, frame.reason), (4002, "enough"), number)
            client.socket.close()
        self.ended(server, "upstream_close", 20)

    def test_nothing_passes_behind_a_close_frame(self):
        server = self.start()
        client, upstream = self.open(server)
        close = encode(CLOSE, close_payload(1000))
        client.send(close + encode(TEXT, b"later"))
        self.assertEqual(upstream.exactly(len(close)), close)
        upstream.send(encode(CLOSE, close_payload(1000), masked=False) + b"later")
        upstream.socket.close()
        self.assertEqual(client.frame().code, 1000)
        self.assertTrue(client.is_at_end())

    def test_upstream_that_does_not_reply_to_a_close_frame_has_close_timeout(self):
        server = self.start()
        client, _upstream = self.open(server)
        began = time.monotonic()
        client.say(CLOSE, close_payload(1000))
        self.assertTrue(client.is_at_end())
        self.assertGreater(time.monotonic() - began, 1.5)
        self.assertIn("client_code=1000", self.ended(server, "client_close"))

    def test_the_api_lists_a_tunnel_and_ends_it(self):
        server = self.start()
        client, upstream = self.open(server)

        def call(method, path, body=b"{}"):
            headers = {"Authorization": "Bearer a-token-of-at-least-32-characters", "Content-Type": "application/json"}
            status, _, answer = server.request(f"/api/{path}", method, headers, body)
            return status, answer.decode()

        status, listed = call("GET", "connections?route=tunnel", None)
        self.assertEqual(status, 200, listed)
        self.assertIn('"path":"/ws/a"', listed.replace(" ", ""))
        number = re.search(r'"id":\s*"([^"]+)"', listed)[1]
        status, sent = call("POST", f"connections/{number}", b'{"type": "x"}')
        self.assertEqual((status, sent.strip()), (200, '{"matched":1,"queued":0,"dropped":1}'))
        status, ended = call("DELETE", f"connections/{number}?code=4009&reason=go", None)
        self.assertEqual(status, 200, ended)
        for frame in client.frame(), upstream.frame():
            self.assertEqual((frame.opcode, frame.code, frame.reason), (CLOSE, 4009, "go"))
        client.socket.close()
        upstream.socket.close()
        self.ended(server, "disconnected")


class Deadlines(Case):
    def test_silent_client_is_pinged_and_its_pong_keeps_it(self):
        server = self.start(settings='ping_interval = "300ms"\npong_timeout = "2s"')
        client, upstream = self.open(server)
        for _ in range(2):
            self.assertEqual(client.frame().opcode, PING)
            client.say(PONG)
            self.assertEqual(upstream.frame().opcode, PONG)
        upstream.say(TEXT, b"hi")
        self.assertIn(client.frame().opcode, (TEXT, PING))

    def test_client_that_replies_nothing_is_ended_and_the_upstream_with_it(self):
        server = self.start(settings='ping_interval = "300ms"\npong_timeout = "300ms"')
        client, upstream = self.open(server)
        self.assertEqual(client.frame().opcode, PING)
        self.assertEqual(upstream.rest(), b"")
        upstream.socket.close()
        self.assertIn("code=1006", self.ended(server, "ping_timeout"))

    def test_no_ping_goes_out_within_a_frame(self):
        server = self.start(settings='ping_interval = "200ms"\npong_timeout = "300ms"')
        client, upstream = self.open(server)
        frame = encode(TEXT, b"half a message", masked=False)
        upstream.send(frame[:9])
        time.sleep(1)
        upstream.send(frame[9:])
        self.assertEqual(client.exactly(len(frame)), frame)
        self.assertEqual(client.frame().opcode, PING)

    def test_deadlines_go_on_while_no_ping_fits(self):
        server = self.start(settings='ping_interval = "200ms"\npong_timeout = "1m"\nidle_timeout = "600ms"')
        client, upstream = self.open(server)
        frame = encode(TEXT, b"half a message", masked=False)
        upstream.send(frame[:9])
        self.assertEqual(client.exactly(9), frame[:9])
        self.assertEqual(upstream.frame().code, 1000)
        self.ended(server, "idle_timeout")

    def test_idle_and_old_tunnels_are_closed_on_both_sides(self):
        for cause, settings in [("idle_timeout", 'idle_timeout = "300ms"'), ("lifetime", 'max_lifetime = "500ms"'), ("first_message_timeout", 'first_message_timeout = "300ms"')]:
            with self.subTest(cause):
                server = self.start(settings=settings)
                client, upstream = self.open(server)
                code = 1008 if cause == "first_message_timeout" else 1000
                self.assertEqual(client.frame().code, code)
                self.assertEqual(upstream.frame().code, code)
                client.say(CLOSE, close_payload(code))
                self.assertTrue(client.is_at_end())
                upstream.socket.close()
                self.ended(server, cause)

    def test_client_that_does_not_read_is_ended(self):
        server = self.start(settings='write_timeout = "500ms"')
        client, upstream = self.open(server, receive_buffer=4096)
        block = encode(BINARY, bytes(1 << 16), masked=False)
        with self.assertRaises(OSError):
            for _ in range(2000):
                upstream.send(block)
        self.ended(server, "write_timeout")

    def test_upstream_that_does_not_read_is_ended_with_1014(self):
        self.upstream = self.enterContext(Upstream(receive_buffer=4096))
        server = self.start(self.upstream.url, options='idle_timeout = "500ms"')
        client, _ = self.open(server)

        def flood():
            try:
                for _ in range(2000):
                    client.say(BINARY, bytes(1 << 16))
            except OSError:
                pass

        thread = threading.Thread(target=flood)
        thread.start()
        self.addCleanup(thread.join, DEADLINE)
        frame = client.frame()
        self.assertEqual((frame.code, frame.reason), (1014, "the application does not read"))
        client.socket.close()
        self.ended(server, "upstream_stalled")


class SecureUpstream(Case):
    """The bytes to the upstream are encrypted by us, those from it decrypted."""

    @classmethod
    def setUpClass(cls):
        cls.authority = Authority()
        certificate, key = cls.authority.issue("127.0.0.1")
        directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        (directory / "cert.pem").write_text(certificate)
        (directory / "key.pem").write_text(key)
        (directory / "ca.pem").write_text(cls.authority.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        context.set_alpn_protocols(["http/1.1"])
        cls.echo = cls.enterClassContext(Echo(ssl=context))
        cls.options = f'tls = {{ ca = "{directory / "ca.pem"}" }}'

    def test_messages_and_codes_pass_to_an_upstream_over_tls(self):
        server = self.start(self.echo.url, options=self.options)
        with Peer(server, "/ws/a", compression="deflate", max_size=None) as peer:
            for message in ("", "hi", b"\0" * 70_000, "grüße " * 500_000, os.urandom(2 << 20)):
                peer.send(message)
                self.assertEqual(peer.receive(), message)
            peer.send("close 4321 over tls")
            self.assertEqual(peer.closed(), (4321, "over tls"))
        self.assertIn("upstream_code=4321", self.ended(server, "upstream_close"))

    def test_a_stream_of_http2_passes_to_an_upstream_over_tls(self):
        server = self.start(self.echo.url, options=self.options)
        with Client(server) as client:
            peer = StreamSocket(client, "/ws/a")
            for message in ("hi", b"\0" * 30_000):
                peer.say(message)
                self.assertEqual(peer.receive(), message)
            peer.say("close 4321 over both")
            self.assertEqual(peer.closed(), (4321, "over both"))
        self.assertIn("upstream_code=4321", self.ended(server, "upstream_close"))

    def test_tls_on_both_sides_over_http2(self):
        config = CONFIG.format(url=self.echo.url, options=f", {self.options}", settings="")
        server = self.enterContext(SecureServer(self.authority, config))
        with Client(server, over=SecureBytes(server.connect(self.authority.context("h2")))) as client:
            peer = StreamSocket(client, "/ws/a", changes={":scheme": "https", "origin": "https://localhost"})
            for message in ("hi", b"\0" * 30_000):
                peer.say(message)
                self.assertEqual(peer.receive(), message)

    def test_an_upstream_with_another_certificate_is_502(self):
        server = self.start(self.echo.url)
        self.assertEqual(refusal(server, "/ws/a").status_code, 502)
        self.assertIn("certificate", server.log())


class DrainAndReload(Case):
    def test_a_drain_closes_both_sides_with_1001(self):
        server = self.start()
        client, upstream = self.open(server)
        server.signal(signal.SIGTERM)
        for frame in client.frame(), upstream.frame():
            self.assertEqual((frame.opcode, frame.code), (CLOSE, 1001))
            self.assertEqual(frame.payload[2:], b"the server is shutting down; retry_after=5")
        client.say(CLOSE, close_payload(1001))
        self.assertTrue(client.is_at_end())
        upstream.socket.close()
        server.wait()
        self.assertIn('cause="server_drain"', server.log())

    def test_close_frame_of_a_drain_waits_for_the_end_of_each_frame(self):
        server = self.start()
        client, upstream = self.open(server)
        down, up = encode(TEXT, b"from the upstream", masked=False), encode(TEXT, b"from the client")
        upstream.send(down[:5])
        client.send(up[:9])
        self.assertEqual(upstream.exactly(9), up[:9])
        self.assertEqual(client.exactly(5), down[:5])
        # All sockets are told at once: when one that is between two frames has its close frame, the other has been told.
        idle, idle_upstream = self.open(server)
        server.signal(signal.SIGTERM)
        self.assertEqual((idle.frame().code, idle_upstream.frame().code), (1001, 1001))
        idle.socket.close()
        idle_upstream.socket.close()
        upstream.send(down[5:] + encode(TEXT, b"later", masked=False))
        client.send(up[9:] + encode(TEXT, b"later"))
        self.assertEqual(client.exactly(len(down) - 5), down[5:])
        self.assertEqual(upstream.exactly(len(up) - 9), up[9:])
        self.assertEqual(client.frame().code, 1001)
        self.assertEqual(upstream.frame().code, 1001)
        upstream.socket.close()
        client.socket.close()
        server.wait()

    def test_frame_that_does_not_end_does_not_hold_a_drain_up(self):
        server = self.start()
        client, upstream = self.open(server)
        upstream.send(encode(TEXT, b"from the upstream", masked=False)[:5])
        client.exactly(5)
        server.signal(signal.SIGTERM)
        self.assertEqual(client.rest(), b"")
        server.wait()

    def test_a_reload_closes_with_1012_only_if_the_route_changed(self):
        server = self.start()
        client, upstream = self.open(server)
        server.reload(self.config + "\n[[http.route]]\npath = '/x/'\nview = 'respond'\n")
        client.say(TEXT, b"still here")
        self.assertEqual(upstream.frame().payload, b"still here")
        server.reload(self.config.replace("/ws/", "/sock/"))
        for frame in client.frame(), upstream.frame():
            self.assertEqual((frame.opcode, frame.code), (CLOSE, 1012))
        client.socket.close()
        upstream.socket.close()
        self.ended(server, "reload")


if __name__ == "__main__":
    unittest.main()
