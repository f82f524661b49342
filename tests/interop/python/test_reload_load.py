"""Reload under load: a hundred reloads during a fan-out to a thousand sockets and 200 requests per second. Nothing is lost, no socket
is closed, memory stays flat.

`ONEPORT_RELOADS` is another number of reloads: for a measurement of memory a thousand.
"""

import http.client
import os
import signal
import socket
import statistics
import threading
import time
import unittest

from kit.deadline import DEADLINE, until
from kit.frames import TEXT, Bytes, RawSocket
from kit.layer_crowd import Crowd, contents, payload, said, shown
from kit.restart import settled
from kit.server import Server

RELOADS = int(os.environ.get("ONEPORT_RELOADS", "100"))
MEMBERS = 1000

# Requests per second: half of them over connections that stay, half over one each.
RATE = 200
CLIENTS = 8

# How much more memory the server may have in the last twenty reloads than in the first twenty.
GROWTH_MAX = 4 << 20

ROUTES = """
[log]
access = false

[channel_layer]
capacity = {capacity}
history_size = "{history} MiB"

[session]
store = "memory"
cookie = "{cookie}"
max_age = "{hours}h"

[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "a page" }}

[[http.route]]
path = "/changes/"
view = "respond"
options = {{ body = "{number}" }}

[[websocket.route]]
path = "/ws/room/"
consumer = "broadcast"
options = {{ group = "room" }}
ping_interval = "0s"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
ping_interval = "0s"
"""

MORE = """
[[http.route]]
path = "/more/{number}/"
view = "respond"
options = {{ body = "more" }}

[[websocket.route]]
path = "/ws/more/{number}/"
consumer = "echo"
"""


def config(number, ports):
    """Returns a configuration that differs from the one before in everything but the routes of the test's clients."""
    bind = [f"127.0.0.1:{port}" for port in (ports if number % 4 < 2 else ports[:1])]
    text = f"[server]\nbind = {bind}\n[server.limits]\nconnections_per_ip = {5000 + number % 7}\nmin_rate = '{200 + number % 5} B'\n"
    text += f"[server.timeouts]\nkeep_alive = '{60 + number % 3}s'\n"
    text += ROUTES.format(
        number=number, capacity=100 + number % 5, history=100 + number % 3, cookie=f"session{number % 2}", hours=1 + number % 3
    )
    return text + "".join(MORE.format(number=each) for each in range(number % 5))


class Requests:
    """Clients that ask for a page at a steady rate, until the end."""

    def __init__(self, port):
        self.port = port
        self.failures = []
        self.count = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self, stays):
        connection = None
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
                connection.request("GET", "/page/")
                response = connection.getresponse()
                found = (response.status, response.read())
                is_closing = response.getheader("connection") == "close"
                with self._lock:
                    self.count += 1
                    if found != (200, b"a page"):
                        self.failures.append(found)
                if not stays or is_closing:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                connection = None
            due += CLIENTS / RATE
            self._ended.wait(max(0.0, due - time.monotonic()))
        if connection is not None:
            connection.close()


class ReloadUnderLoad(unittest.TestCase):
    def setUp(self):
        ports = []
        for _ in range(2):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                ports.append(listener.getsockname()[1])
        self.ports = ports
        self.server = self.enterContext(Server(config(0, ports), bind=None))

    def request(self, path):
        with Bytes(("127.0.0.1", self.ports[0])) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            client.head()
            return client.rest()

    def reload(self, number, crowd):
        self.server.write(config(number, self.ports))
        self.server.signal(signal.SIGHUP)
        wanted = str(number).encode()
        end = time.monotonic() + DEADLINE
        while self.request("/changes/") != wanted:
            crowd.turn(0.01)
            self.assertLess(time.monotonic(), end, f"expected reload {number}\n{self.server.log()[-2000:]}")

    def test_nothing_is_lost_and_memory_stays_flat(self):
        resident = []
        with Crowd() as crowd, Requests(self.ports[0]) as requests:
            speaker = crowd.join(self.server, "/ws/room/", MEMBERS)[0]
            elsewhere = self.enterContext(RawSocket(self.server, "/ws/echo/", address=("127.0.0.1", self.ports[1])))
            began, before = time.monotonic(), requests.count
            for number in range(1, RELOADS + 1):
                crowd.say(speaker, said(payload("a", number)))
                self.reload(number, crowd)
                resident.append(self.server.resident_bytes())
            asked, seconds = requests.count - before, time.monotonic() - began
            for _ in range(20):
                self.server.signal(signal.SIGHUP)
            crowd.say(speaker, said(payload("a", RELOADS + 1)))
            self.reload(RELOADS + 1, crowd)
            frames = [payload("a", number) for number in range(1, RELOADS + 2)]
            crowd.read_until(len(frames) * len(shown(frames[0])), 30.0)
            (stream,) = crowd.streams()
            self.assertEqual(contents(stream, len(frames[0])), frames)
            elsewhere.say(TEXT, b"still here")
            self.assertEqual(elsewhere.frame().payload, b"still here")
        self.assertEqual(requests.failures, [])
        self.assertGreater(asked, RATE * seconds * 0.5)
        first, last = (statistics.mean(part) for part in (resident[:20], resident[-20:]))
        print(
            f"{RELOADS} reloads in {seconds:.1f} s, {asked / seconds:.0f} requests per second, "
            f"resident {first / 2**20:.1f} MiB in the first twenty, {last / 2**20:.1f} MiB in the last"
        )
        self.assertLess(last - first, GROWTH_MAX)
        # The last reloads end after their table is in effect.
        wanted = RELOADS + 1
        until(lambda: self.server.log().count("sockets_ended=0") >= wanted, lambda: f"{wanted} reloads\n{self.server.log()[-2000:]}")
        settled(self.server.reloads)
        log = self.server.log()
        self.assertNotIn("panicked", log)
        self.assertNotIn("reload failed", log)
        self.assertNotRegex(log, r"sockets_ended=[1-9]")
