"""Ends: a request whose client has left, an answer that comes before the request is whole, and files that are none, on the binary."""

import contextlib
import json
import os
import signal
import socket
import unittest
from concurrent.futures import ThreadPoolExecutor

from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.http2 import Client
from kit.peer import Peer
from kit.redis_server import Redis
from kit.server import Server

TOKEN = "token-of-at-least-32-characters-0"

CONFIG = """
[channel_layer]
{layer}

[server.limits]
connections_per_ip = {per_ip}

[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "app", token = "{token}", groups = ["*"] }}] }}

[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news" }}

[[http.route]]
path = "/files/{{*path}}"
view = "static"
options = {{ dir = "files" }}

[[websocket.route]]
path = "/ws/"
consumer = "feed"
options = {{ groups = ["news"] }}
missing_origin = "allow"
"""

MEMORY = 'backend = "memory"'


def server(layer=MEMORY, per_ip=1000):
    return Server(CONFIG.format(layer=layer, per_ip=per_ip, token=TOKEN), files={"files/a.txt": "a"})


def publication(number, **fields):
    body = json.dumps({"type": "news.item", "number": number}).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    head = (
        f"POST /api/groups/news HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def say_and_leave(server, request):
    """Sends a request and closes the connection at once."""
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
        client.sendall(request)


class Left(unittest.TestCase):
    """A publication reaches its group, whether or not its client waits for the answer."""

    def numbers(self, peer, count):
        return sorted(json.loads(peer.receive())["number"] for _ in range(count))

    def check(self, sender, *receivers, count, **fields):
        peers = [self.enterContext(Peer(one, "/ws/")) for one in receivers]
        members = lambda: json.loads(
            sender.request("/api/groups/news", headers={"authorization": f"Bearer {TOKEN}"})[2]
        )["members"]
        until(lambda: members() == len(peers), "all members")
        for number in range(count):
            keyed = {name: value.format(number) for name, value in fields.items()}
            say_and_leave(sender, publication(number, **keyed))
        for peer in peers:
            self.assertEqual(self.numbers(peer, count), list(range(count)))

    def test_every_publication_arrives_whose_client_leaves_at_once(self):
        one = self.enterContext(server())
        self.check(one, one, count=60)

    def test_every_publication_with_a_key_arrives_whose_client_leaves_at_once(self):
        one = self.enterContext(server())
        self.check(one, one, count=100, idempotency_key="key-{}")

    def test_both_processes_at_a_redis_see_every_publication(self):
        redis = self.enterContext(Redis())
        layer = f'backend = "{redis.url()}"'
        one, two = self.enterContext(server(layer)), self.enterContext(server(layer))
        self.check(one, one, two, count=60)

    def test_the_server_waits_for_what_was_begun_when_it_stops(self):
        one = self.enterContext(server())
        peer = self.enterContext(Peer(one, "/ws/"))
        one.freeze()
        for number in range(20):
            say_and_leave(one, publication(number))
        one.thaw()
        self.assertEqual(self.numbers(peer, 20), list(range(20)))

    def test_a_stream_whose_client_leaves_is_no_member_any_more(self):
        one = self.enterContext(server())
        members = lambda: json.loads(
            one.request("/api/groups/news", headers={"authorization": f"Bearer {TOKEN}"})[2]
        )["members"]
        clients = [stream(one) for _ in range(10)]
        until(lambda: members() == 10, "ten members")
        for client in clients:
            client.socket.close()
        until(lambda: members() == 0, "no member")


def stream(server):
    """Opens an event stream and reads its start, so that closing it is not a reset; none if it is refused."""
    client = Bytes(("127.0.0.1", server.port))
    client.send(b"GET /events/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    if client.head()[0] != 200:
        client.socket.close()
        return None
    client.until(b"\n\n\r\n")
    return client


class Refused(unittest.TestCase):
    """A connection over the limit reads its answer."""

    def full(self, connections):
        """Returns a server whose limit is reached by event streams."""
        one = self.enterContext(server(per_ip=connections))
        for _ in range(connections):
            # The connections that looked at its health may still count.
            self.enterContext(until(lambda: stream(one), "an event stream"))
        return one

    def test_503_reaches_every_client_that_has_sent_its_request_already(self):
        one = self.full(2)

        def ask(_):
            with Bytes(("127.0.0.1", one.port)) as client:
                client.send(b"POST /api/groups/news HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\n" + b"x" * 4096)
                status, fields = client.head()
                return status, fields["retry-after"], fields["connection"]

        with ThreadPoolExecutor(8) as pool:
            for answer in pool.map(ask, range(60)):
                self.assertEqual(answer, (503, "1", "close"))

    def test_one_that_never_closes_is_given_up(self):
        one = self.full(1)
        stays = self.enterContext(Bytes(("127.0.0.1", one.port)))
        self.assertEqual(stays.head()[0], 503)
        descriptors = lambda: len(os.listdir(f"/proc/{one.pid}/fd"))
        before = descriptors()
        until(lambda: descriptors() < before, "the refused connection to be closed")


class Slow(unittest.TestCase):
    """A client that takes its time: it gets what it was promised, and holds nothing for ever."""

    LARGE = bytes(range(256)) * (1 << 13)  # 2 MiB: more than the kernel's buffers take

    def start(self, timeouts):
        config = f"[server.timeouts]\n{timeouts}\n" + CONFIG.format(layer=MEMORY, per_ip=1000, token=TOKEN)
        return self.enterContext(Server(config, files={"files/large.bin": self.LARGE}))

    def test_streams_of_http2_without_window_hold_no_open_file_and_are_reset(self):
        one = self.start('request = "1s"')

        def open_files():
            count = 0
            for name in os.listdir(f"/proc/{one.pid}/fd"):
                with contextlib.suppress(OSError):  # closed meanwhile
                    count += "large.bin" in os.readlink(f"/proc/{one.pid}/fd/{name}")
            return count

        client = self.enterContext(Client(one, stream_window=0))
        for _ in range(100):
            client.ask("/files/large.bin")
        stalled = lambda: one.metric("oneport_streams_stalled_total")
        found = []
        until(lambda: found.append(open_files()) or stalled() == 100, "all streams to be reset")
        # A thread has the file open while it reads a step; a stream that waits has not.
        self.assertLess(max(found), 50)
        self.assertLessEqual(found[-1], 1)

    def test_one_that_never_closes_after_its_refusal_is_given_up_long_before_other_deadlines(self):
        one = self.start('handshake = "60s"\nkeep_alive = "60s"')
        stays = self.enterContext(Bytes(("127.0.0.1", one.port)))
        stays.send(b"nonsense\r\n\r\n")
        self.assertEqual(stays.head()[0], 400)
        connections = lambda: one.metric("oneport_connections")
        until(lambda: connections() == 1, "the refused connection to be gone, and only the one that asks to be there")

    def test_answers_that_are_sent_when_the_server_stops_arrive_whole(self):
        one = self.start('drain = "20s"')
        clients = [self.enterContext(Bytes(("127.0.0.1", one.port), receive_buffer=4096)) for _ in range(20)]
        for client in clients:
            client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(client.head()[0], 200)
        one.signal(signal.SIGTERM)
        for client in clients:
            self.assertEqual(client.exactly(len(self.LARGE)), self.LARGE)
            client.socket.close()
        one.wait()

    def test_an_upload_that_is_answered_after_the_server_stops_is_not_reset(self):
        one = self.start('drain = "20s"')
        upload = socket.create_connection(("127.0.0.1", one.port), DEADLINE)
        self.addCleanup(upload.close)
        one.freeze()
        upload.sendall(b"POST /files/large.bin HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 100_000)
        one.thaw()
        upload.sendall(b"x" * 1_000_000)
        one.signal(signal.SIGTERM)
        upload.sendall(b"x" * 2_000_000)
        self.assertIn(b" 405 ", upload.recv(64))


class NoFiles(unittest.TestCase):
    """Anything but a regular file is 404, and blocks nothing."""

    def test_560_requests_for_a_fifo_leave_files_reload_and_stop_alone(self):
        one = self.enterContext(server())
        os.mkfifo(one.directory / "files/fifo")

        def ask(_):
            return one.request("/files/fifo")[0]

        with ThreadPoolExecutor(32) as pool:
            self.assertEqual(set(pool.map(ask, range(560))), {404})
        self.assertEqual(one.request("/files/a.txt")[2], b"a")
        before = one.reloads()
        one.signal(signal.SIGHUP)
        until(lambda: one.reloads() > before, "a reload")
        one.stop()

    def test_a_missing_file_is_404_without_an_error_in_the_log(self):
        one = self.enterContext(server())
        for path in ("nope.js", "a.txt/below", "n" * 300, "a.txt/"):
            self.assertEqual(one.request(f"/files/{path}")[0], 404, path)
        self.assertNotIn("ERROR", one.log())


if __name__ == "__main__":
    unittest.main()
