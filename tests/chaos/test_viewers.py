"""Viewers: pages of the dashboard that ask and do not read cost the server nothing lasting, and others are served."""

import json
import unittest

from disturb.case import Chaos
from kit.deadline import until
from kit.frames import TEXT, Bytes, encode
from kit.visitor import LOGIN, PAGES, Visitor, add_user

CONFIG = (
    """
[log]
level = "warn"

"""
    + LOGIN
    + """
[[http.route]]
path = "/dashboard/"
middleware = ["hosts", "session", "auth", "staff_required"]
view = "dashboard"

[[websocket.route]]
path = "/dashboard/"
middleware = ["hosts", "origin", "session", "auth", "staff_required"]
consumer = "dashboard"
send_queue = "256 KiB"
write_timeout = "3s"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""
)

VIEWERS = 60


class Viewers(Chaos):
    def view(self, server, cookie, **options):
        """Opens the socket of a page."""
        page = Bytes(("127.0.0.1", server.port), **options)
        self.addCleanup(page.socket.close)
        page.send(
            b"GET /dashboard/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + f"Cookie: {cookie}\r\n\r\n".encode()
        )
        status, _ = page.head()
        self.assertEqual(status, 101)
        return page

    def test_viewers_that_do_not_read(self):
        server = self.start(CONFIG, files=PAGES)
        add_user(server, "anna", "--staff")
        visitor = Visitor(server)
        visitor.log_in("anna")
        cookie = visitor.headers["Cookie"]
        peers = [self.peer(server) for _ in range(20)]
        self.watch(server)
        questions = b"".join(encode(TEXT, json.dumps({"id": number, "call": "snapshot"}).encode()) for number in range(500))
        viewers = [self.view(server, cookie, receive_buffer=4096) for _ in range(VIEWERS)]
        for viewer in viewers:
            viewer.socket.setblocking(False)
            try:
                viewer.socket.send(questions)
            except OSError:
                pass
        for peer in peers:
            self.is_open(peer)
        # They are closed, because their queue is full or because a write made no progress.
        until(lambda: server.metric("oneport_websocket_connections") <= len(peers), "the viewers to be gone", 30)
        for peer in peers:
            self.is_open(peer)
        self.is_served(server)
        self.assert_memory_grew_by_at_most(64)


if __name__ == "__main__":
    unittest.main()
