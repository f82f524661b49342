"""Abuse: crowds of strangers that connect, guess, invent names and are slow. Memory stays flat, and other clients are served.

The sizes are those of the suite. `ONEPORT_ABUSE=full ONEPORT_BIN=BINARY tests/chaos/test_abuse.py` runs the whole ones against a release build.
Each test prints what was answered, and memory before, during and after.
"""

import hashlib
import http.client
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

if __name__ == "__main__":  # alone; the runner of the tests has set this
    sys.path.append(str(Path(__file__).resolve().parents[1] / "interop/python"))

from disturb.case import Chaos
from disturb.swarm import Visit, swarm
from kit.deadline import until
from kit.frames import CLOSE, TEXT, encode
from kit.server import binary
from kit.visitor import PAGES, PASSWORD, add_user

FULL = os.environ.get("ONEPORT_ABUSE") == "full"

# MiB that memory may grow by: the bounded tables fill, allocators keep some of what was freed.
GROWS = 48

KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

SITE = """
[server]
secret_key = "a secret key of at least thirty-two bytes"
trusted_proxies = ["127.0.0.0/8"]

[server.limits]
connections = 20_000

[server.timeouts]
handshake = "5s"

[log]
level = "warn"

[channel_layer]
history_size = "8 MiB"

[auth]
users = "sqlite:site.db"

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/page/"
view = "respond"
middleware = []
options = { body = "a page" }

[[http.route]]
path = "/login/"
view = "login"
options = { attempts_window = "1d" }

[[http.route]]
path = "/api/{*call}"
view = "publish"
middleware = []
options = { tokens = [{ name = "shop", token = "a-token-of-at-least-32-characters", groups = ["*"] }] }

[[http.route]]
path = "/files/{*path}"
view = "static"
middleware = []
options = { dir = "files" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
middleware = []

[[websocket.route]]
path = "/ws/chat/{room:slug}/"
consumer = "chat"
middleware = []
options = { group = "chat_{room}", history = 50 }
"""

LIMITED = """
[server]
trusted_proxies = ["127.0.0.0/8"]

[log]
level = "warn"

[http]
middleware = []

[[http.route]]
path = "/limited/{tenant}/"
middleware = ["rate_limit"]
view = "respond"
options = { body = "a page" }
rate_limit = [{ rate = "60/h", burst = 2 }, { rate = "1000/h", by = "param:tenant" }, { rate = "1000/h", by = "header:x-key" }]

[[websocket.route]]
path = "/ws/limited/"
consumer = "echo"
middleware = ["rate_limit"]
rate_limit = [{ rate = "1/s", burst = 2 }, { rate = "20/s", bytes = "64 KiB/s", by = "connection", over = "close" }]
"""

FILES = PAGES | {"files/large": b"x" * (1 << 20)}


def sized(full, short):
    return full if FULL else short


def said(count):
    return ", ".join(f"{key if isinstance(key, str) else key.decode('ascii', 'replace')} {value}" for key, value in sorted(count.items(), key=str))


class Flat(Chaos):
    """Memory after a crowd is memory before it."""

    def crowd(self, server, visits, **options):
        """Runs a crowd after a smaller one has filled pools and tables, and compares memory after both."""
        visits = list(visits) if not hasattr(visits, "__next__") else visits
        began = time.monotonic()
        count = swarm(server.port, visits, observe=self.record.during, **options)
        print(f"{self.id()}: {said(count)}, {time.monotonic() - began:.1f} s", flush=True)
        self.assertNotIn("late", count, "a conversation that the server did not end")
        self.is_served(server)
        return count

    def is_flat(self, server, visits, number, **options):
        """A tenth of the crowd comes first; the rest must not add to memory."""
        self.crowd(server, visits(number // 10), **options)
        self.settle()
        self.record.before = self.record.during()
        count = self.crowd(server, visits(number), **options)
        self.settle()
        self.assert_memory_grew_by_at_most(GROWS)
        return count

    def settle(self):
        """Waits until memory does not fall any more: the allocator returns it over seconds."""
        readings = []

        def is_still():
            readings.append(self.record.during().resident)
            time.sleep(0.3)
            return len(readings) > 3 and readings[-1] > readings[-4] - (1 << 20)

        until(is_still, "memory that is still")


class Crowds(Flat):
    def begin(self, config=SITE):
        return self.start(config, files=FILES)

    def test_connections_that_come_and_go(self):
        request = b"GET /page/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        socket = f"GET /ws/echo/ HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\n".encode()
        kinds = (
            lambda: Visit(wants=0),
            lambda: Visit(b"GET ", wants=0),
            lambda: Visit(request, until_end=True),
            lambda: Visit(socket, encode(CLOSE, b"\x03\xe8"), last=0, until_end=True),
            lambda: Visit(b"\x16\x03\x01\x02\x00\x01\x00", wants=0),
        )
        count = self.is_flat(self.begin(), lambda number: (kinds[at % 5]() for at in range(number)), sized(500_000, 10_000))
        self.assertGreater(count[b"200"], 0, count)
        self.assertGreater(count[b"101"], 0, count)

    def test_handshakes_that_are_broken_off(self):
        whole = f"GET /ws/chat/room/ HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\n".encode()
        random.seed(1)
        visits = lambda number: (Visit(whole[: random.randrange(1, len(whole))] if at % 2 else whole, wants=0) for at in range(number))
        self.is_flat(self.begin(), visits, sized(100_000, 4_000))

    def test_random_rooms(self):
        def visit(at):
            name = f"{random.getrandbits(64):016x}"
            handshake = f"GET /ws/chat/{name}/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n{KEY}\r\n".encode()
            return Visit(handshake, encode(TEXT, b'{"text": "hello"}'), last=0, resets=False) if at % 2 else Visit(handshake)

        count = self.is_flat(self.begin(), lambda number: map(visit, range(number)), sized(100_000, 3_000))
        self.assertGreater(count[b"101"], 0, count)

    def test_random_idempotency_keys(self):
        def visit(_):
            return Visit(*(batch() for _ in range(5)), wants=20)

        def batch():
            body = b'{"type": "a.b"}'
            head = "POST /api/groups/news HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a-token-of-at-least-32-characters\r\n"
            requests = (
                f"{head}Content-Length: {len(body)}\r\nIdempotency-Key: {random.getrandbits(128):032x}\r\n\r\n".encode() + body for _ in range(20)
            )
            return b"".join(requests)

        number = sized(100_000, 10_000)
        count = self.is_flat(self.begin(), lambda number: map(visit, range(number // 100)), number, at_once=20)
        self.assertEqual(count[b"200"], number, count)

    def test_failed_logins_of_random_names(self):
        """Through a trusted proxy, from random addresses, and from a few whose own limit refuses them.

        The password of the only user costs a single round, and so does that of a name that no user has: it is the tables of names and addresses
        that the attempts have to fill, not the time for hashes. A counter lasts for hours, so that none of them is free again before the end.
        """
        server = self.begin()
        add_user(server, "anna")
        hashed = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"salt", 1)
        with sqlite3.connect(Path(server.directory, "site.db")) as database:
            changed = database.execute("UPDATE oneport_user SET password = ?", (f"pbkdf2_sha256$1$salt${b64encode(hashed).decode()}",))
            self.assertEqual(changed.rowcount, 1)
        database.close()
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/login/")
        answer = connection.getresponse()
        cookie = answer.getheader("set-cookie").split(";")[0]
        answer.read()
        connection.close()
        token = cookie.split("=", 1)[1]

        def visit(at):
            return Visit(*(batch(at) for _ in range(10)), wants=10)

        def batch(at):
            requests = []
            for number in range(10):
                body = f"username=u{random.getrandbits(64):x}&password=wrong&csrfmiddlewaretoken={quote(token)}".encode()
                # Half of them come from addresses of their own: their names are counted and their passwords hashed.
                address = "203.0.113.1" if at % 2 else f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(256)}"
                requests.append(
                    f"POST /login/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nX-Forwarded-For: {address}\r\n"
                    f"Cookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
            return b"".join(requests)

        number = sized(1_000_000, 2_000)
        count = self.is_flat(server, lambda number: map(visit, range(number // 100)), number, at_once=20)
        self.assertEqual(set(count), {b"401", b"429"}, count)
        self.assertGreater(count[b"401"], number * 4 // 10, count)
        self.assertGreater(count[b"429"], number * 4 // 10, count)
        if FULL:
            self.assertIn("counters of login attempts dropped", server.log())

    def test_random_paths_hosts_and_fields(self):
        def visit(at):
            word = lambda: f"{random.getrandbits(64):x}"
            head = (
                f"GET /{word()}/{word()} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                f"GET /page/ HTTP/1.1\r\nHost: {word()}.example\r\n\r\n",
                f"GET /page/?{word()}={word()} HTTP/1.1\r\nHost: localhost\r\nX-{word()}: {word()}\r\nCookie: sessionid={word()}{word()}\r\n\r\n",
                f"GET /login/ HTTP/1.1\r\nHost: localhost\r\nCookie: sessionid={word() * 2}\r\nAccept-Language: {word()}\r\n\r\n",
            )
            return Visit("".join(head[(at + more) % 4] for more in range(20)).encode(), wants=20)

        count = self.is_flat(self.begin(), lambda number: map(visit, range(number // 20)), sized(400_000, 8_000), at_once=50)
        self.assertGreater(count[b"404"], 0, count)

    def test_random_keys_of_rate_limits(self):
        """Each request has an address, a parameter and a field of its own; those that have not are refused."""

        def visit(at):
            word = lambda: f"{random.getrandbits(64):x}"
            address = lambda: f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(256)}"
            requests = (
                f"GET /limited/{word() if more % 4 else 'same'}/ HTTP/1.1\r\nHost: localhost\r\n"
                f"X-Forwarded-For: {address() if more % 4 else '203.0.113.1'}\r\nX-Key: {word()}\r\n\r\n"
                for more in range(20)
            )
            return Visit("".join(requests).encode(), wants=20)

        server = self.start(LIMITED)
        count = self.is_flat(server, lambda number: map(visit, range(number // 20)), sized(1_000_000, 8_000), at_once=50)
        self.assertGreater(count[b"200"], count[b"429"], count)
        self.assertGreater(count[b"429"], 0, count)
        # Three of four requests have an address and a parameter of their own, each a field.
        for by in ("address", "param", "header"):
            evicted = server.metric("oneport_rate_limit_evictions_total", by=by)
            print(f"{self.id()}: {evicted:.0f} counters by {by} evicted", flush=True)
            if FULL:
                self.assertGreater(evicted, 0, by)

    def test_messages_over_a_rate(self):
        handshake = f"GET /ws/limited/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.{{}}.{{}}.{{}}\r\n{KEY}\r\n"
        flood = b"".join(encode(TEXT, b"x" * 100) for _ in range(200))

        def visit(at):
            return Visit(handshake.format(at % 250, at // 250 % 250, at // 62_500).encode(), flood, last=0, until_end=True)

        server, number = self.start(LIMITED), sized(20_000, 1_000)
        count = self.is_flat(server, lambda number: map(visit, range(number)), number, at_once=50)
        self.assertEqual(count[b"101"], number, count)
        # A socket counts as closed after its client has closed too.
        closed = lambda: server.metric("oneport_websockets_closed_total", cause="rate_limited")
        until(lambda: closed() >= number + number // 10, lambda: f"{number + number // 10} sockets closed, found {closed()}")
        self.assertEqual(closed(), number + number // 10)

    def test_hellos_of_tls_that_stay_half(self):
        server = self.start('[server.tls]\nplaintext = "serve"\ncertificate = "tls/cert.pem"\nkey = "tls/key.pem"\n[server.timeouts]\nhandshake = "2s"\n', files=certificate())
        hello = bytes.fromhex("160301010201") + bytes(3)
        visits = lambda number: (Visit(hello[: 1 + at % len(hello)], wants=0) for at in range(number))
        self.is_flat(server, visits, sized(100_000, 4_000))
        # Those that stay are closed at the deadline.
        number = sized(5_000, 400)
        self.crowd(server, (Visit(hello, wants=0, until_end=True) for _ in range(number)), at_once=number)


def certificate():
    """Returns the files of a certificate."""
    with tempfile.TemporaryDirectory() as directory:
        made = subprocess.run([binary(), "dev-cert", "tls", "localhost"], cwd=directory, capture_output=True, text=True, timeout=30)
        assert made.returncode == 0, made
        return {f"tls/{file.name}": file.read_bytes() for file in Path(directory, "tls").iterdir()}


class Others(threading.Thread):
    """A client that is not part of a crowd: requests over one connection and over new ones, and how long each took."""

    def __init__(self, port):
        super().__init__()
        self._port = port
        self._ends = threading.Event()
        self.seconds = []
        self.failures = []

    def run(self):
        kept = None
        while not self._ends.wait(0.005):
            began = time.perf_counter()
            try:
                if kept is None or len(self.seconds) % 5 == 0:
                    if kept is not None:
                        kept.close()
                    kept = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10, source_address=("127.0.0.9", 0))
                kept.request("GET", "/page/")
                answer = kept.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                kept.close()
            self.seconds.append(time.perf_counter() - began)
        if kept is not None:
            kept.close()

    def stop(self):
        self._ends.set()
        self.join()
        return self.p99()

    def p99(self):
        return statistics.quantiles(self.seconds, n=100)[98] * 1000


# slowhttptest's modes, with what they ask for.
MODES = {
    "slow heads": ("-H", "-i", "1", "-x", "24", "/page/"),
    "slow bodies": ("-B", "-i", "1", "-s", "8192", "-x", "10", "/login/"),
    "ranges": ("-R", "-a", "10", "-b", "3000", "/files/large"),
    "slow readers": ("-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "32", "-k", "3", "/files/large"),
}


class Slow(Flat):
    """slowhttptest in its four modes: others are served as before, and memory comes back."""

    def test_slow_heads(self):
        self.is_withstood("slow heads")

    def test_slow_bodies(self):
        self.is_withstood("slow bodies")

    def test_ranges(self):
        self.is_withstood("ranges")

    def test_slow_readers(self):
        self.is_withstood("slow readers")

    def is_withstood(self, mode):
        server = self.start(SITE, files=FILES)
        connections, seconds = sized((1000, 30), (300, 3))
        before = self.others(server, sized(10, 2))
        *options, path = MODES[mode]
        command = ["slowhttptest", *options, "-c", str(connections), "-r", str(connections), "-l", str(seconds), "-p", "3", "-u", f"http://127.0.0.1:{server.port}{path}"]
        others = Others(server.port)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as attack:
            others.start()
            while attack.poll() is None:
                self.record.during()
                time.sleep(0.1)
            report = attack.stdout.read()
        during = others.stop()
        self.assertEqual(others.failures, [])
        self.settle()
        after = self.others(server, sized(10, 2))
        print(f"{mode}: p99 {before:.2f} ms before, {during:.2f} ms under {connections} connections, {after:.2f} ms after", flush=True)
        self.assertIn("Exit status", report.replace("\x1b", ""), report[-2000:])
        self.assert_memory_grew_by_at_most(16)
        if FULL:
            self.assertLess(during, 2 * max(before, after, 1.0), "others wait")

    def others(self, server, seconds):
        """Returns their p99 in milliseconds while nothing else happens."""
        others = Others(server.port)
        others.start()
        time.sleep(seconds)
        return others.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
