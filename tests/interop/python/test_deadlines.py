"""Deadlines: those of lasting sockets are kept while others come and go."""

import time
import unittest

from kit.frames import CLOSE, PING, PONG, RawSocket, close_payload
from kit.server import Server

CONFIG = """
[[websocket.route]]
path = "/ws/idle/"
name = "idle"
consumer = "echo"
idle_timeout = "400ms"
ping_interval = "0s"

[[websocket.route]]
path = "/ws/alive/"
name = "alive"
consumer = "echo"
ping_interval = "300ms"
pong_timeout = "1s"

[[websocket.route]]
path = "/ws/patient/"
consumer = "echo"
ping_interval = "300ms"
pong_timeout = "4s"
"""


class Deadlines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def raw(self, path):
        return self.enterContext(RawSocket(self.server, path))

    def leave(self, raw):
        raw.say(CLOSE, close_payload(1000))
        self.assertEqual(raw.frame().code, 1000)
        self.assertTrue(raw.is_at_end())

    def test_a_deadline_is_kept_though_one_of_the_same_instant_was_called_off(self):
        for turn in range(10):
            with self.subTest(turn=turn):
                stays = [self.raw("/ws/idle/")]
                leaves = [self.raw("/ws/idle/") for _ in range(5)]
                stays += [self.raw("/ws/idle/")] if turn % 2 else []
                for raw in leaves:
                    self.leave(raw)
                began = time.monotonic()
                for raw in stays:
                    self.assertEqual(raw.frame().code, 1000)
                    raw.say(CLOSE, close_payload(1000))
                self.assertLess(time.monotonic() - began, 2)

    def test_pings_go_on_while_others_come_and_go(self):
        stays = self.raw("/ws/alive/")
        for _ in range(8):
            for raw in [self.raw("/ws/alive/") for _ in range(10)]:
                self.leave(raw)
            self.assertEqual(stays.frame().opcode, PING)
            stays.say(PONG)
        self.assertEqual(self.server.metric("oneport_panics_total"), 0)

    def test_a_ping_comes_after_its_interval_though_a_pong_may_take_longer(self):
        raw = self.raw("/ws/patient/")
        began = time.monotonic()
        for _ in range(4):
            self.assertEqual(raw.frame().opcode, PING)
            raw.say(PONG)
        self.assertLess(time.monotonic() - began, 5)


if __name__ == "__main__":
    unittest.main()
