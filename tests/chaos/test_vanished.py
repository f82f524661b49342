"""Vanished: clients that are gone without a word are noticed, whatever they were doing, and what they held is freed.

A client's process stands still: its kernel takes every packet, and nobody answers. Or its network is cut: nothing is answered at all.
"""

import http.client
import unittest

from disturb.case import Chaos
from disturb.network import Network
from disturb.vitals import Vitals
from kit.deadline import DEADLINE, until
from kit.frames import Bytes, RawSocket
from kit.http2 import Client, StreamSocket
from kit.stream import Stream

CONFIG = """
[server.timeouts]
request = "10s"
keep_alive = "10s"

[[http.route]]
path = "/events/"
view = "events"
options = { group = "news", heartbeat = "1s" }

[[http.route]]
path = "/quiet/events/"
view = "events"
options = { group = "news", heartbeat = "1h" }

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"

[[websocket.route]]
path = "/ws/quiet/"
consumer = "echo"
ping_interval = "0s"
"""

# Keep-alive pings, and the kernel's, take some time to give up a client.
SECONDS_MAX = 90.0
LARGE = bytes(1 << 25)


class Vanished(Chaos):
    def begin(self):
        return self.start(CONFIG, files={"files/large.bin": LARGE})

    def are_noticed(self, server, vanished):
        """Waits until every one of them is forgotten; `vanished` are their names, for the message."""
        end = self.record.before.descriptors
        self.record.during()
        self.assertGreaterEqual(self.record.highest.descriptors, end + len(vanished), "not all were open")
        until(
            lambda: Vitals.of(server.pid).descriptors <= end,
            lambda: f"{len(vanished)} clients to be noticed ({', '.join(vanished)}), found {Vitals.of(server.pid).descriptors - end} left",
            SECONDS_MAX,
        )

    def clients(self, server, kind=""):
        """Returns one client of each kind that can wait for long, by name; or those of this kind."""

        def over_http2(path, **windows):
            client = self.enterContext(Client(server, **windows))
            client.head(client.ask(path))
            return client

        def socket_over_http2():
            client = self.enterContext(Client(server))
            StreamSocket(client, "/ws/quiet/")
            return client

        def download():
            client = self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=4096))
            client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.head()
            return client

        def idle():
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
            self.addCleanup(connection.close)
            connection.request("GET", "/health/")
            connection.getresponse().read()
            return connection

        made = {
            "an event stream": lambda: self.enterContext(Stream(server, "/events/")),
            "a quiet event stream": lambda: self.enterContext(Stream(server, "/quiet/events/")),
            "an event stream over HTTP/2": lambda: over_http2("/events/"),
            "a quiet event stream over HTTP/2": lambda: over_http2("/quiet/events/"),
            "a WebSocket": lambda: self.enterContext(RawSocket(server, "/ws/echo/")),
            "a WebSocket without pings": lambda: self.enterContext(RawSocket(server, "/ws/quiet/")),
            "a WebSocket over HTTP/2": socket_over_http2,
            "a download": download,
            "an idle connection": idle,
        }
        return {name: make() for name, make in made.items() if kind in name}

    def test_a_process_that_stands_still_is_noticed_over_http2(self):
        """It answers no ping, and its kernel takes all that is written to it. Over HTTP/1 nothing asks it for an answer."""
        server = self.begin()
        self.are_noticed(server, list(self.clients(server, "HTTP/2")))

    @unittest.skipUnless(Network.can_be_made(), "only root can cut a network")
    def test_a_network_that_is_cut_is_noticed_by_every_kind_of_connection(self):
        network = self.enterContext(Network())
        server = self.begin()
        vanished = self.clients(server)
        network.cut()
        self.are_noticed(server, list(vanished))


if __name__ == "__main__":
    unittest.main()
