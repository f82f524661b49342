"""The tests of the protocol again, through a tunnel: what the upstream does with frames reaches the client as it is."""

import unittest

import test_compression
import test_echo
import test_sans_io
import test_violations
from kit.server import Server

FRONT = """
[websocket]
ping_interval = "0s"
middleware = []

[[websocket.route]]
path = "/{{*path}}"
consumer = "proxy"
options = {{ upstream = ["http://127.0.0.1:{port}"] }}
"""


class Tunnelled(Server):
    """A server that is reached through another: its port is that of the tunnel."""

    def start(self):
        super().start()
        self._front = Server(FRONT.format(port=self.port))
        self._front.start()
        self._own_port, self.port = self.port, self._front.port

    def stop(self, wanted=0):
        super().stop(wanted)
        self._front.stop()

    def request(self, path, method="GET", headers=None, body=None):
        front, self.port = self.port, getattr(self, "_own_port", self.port)
        try:
            return super().request(path, method, headers, body)
        finally:
            self.port = front

    def close(self):
        super().close()
        if front := getattr(self, "_front", None):
            front.close()


def tunnelled(module, case):
    """Returns the tests of a class, with their server behind a tunnel."""

    class Through(getattr(module, case)):
        @classmethod
        def setUpClass(cls):
            direct, module.Server = module.Server, Tunnelled
            try:
                super().setUpClass()
            finally:
                module.Server = direct

    Through.__name__ = Through.__qualname__ = f"{case}ThroughATunnel"
    return Through


Echo = tunnelled(test_echo, "Echo")
Violations = tunnelled(test_violations, "Violations")
Compression = tunnelled(test_compression, "Compression")
CompressedFrames = tunnelled(test_compression, "CompressedFrames")
SansIo = tunnelled(test_sans_io, "SansIo")


if __name__ == "__main__":
    unittest.main()
