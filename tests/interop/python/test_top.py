"""`oneport top`: the figures of a server in a terminal, and as text."""

import fcntl
import json
import os
import signal
import struct
import subprocess
import termios
import unittest

from kit.deadline import DEADLINE, until
from kit.frames import RawSocket
from kit.server import Server, binary
from kit.terminal import Terminal

TOKEN = "an-admin-token-of-32-characters!"

CONFIG = f"""
[server]
name = "one"

[log]
access = false

[[http.route]]
path = "/api/{{*call}}"
name = "api"
view = "publish"
options = {{ tokens = [
  {{ name = "admin", token = "{TOKEN}", groups = ["*"], connections = true }},
  {{ name = "shop", token = "a-token-for-groups-alone-not-more", groups = ["*"] }},
] }}

[[websocket.route]]
path = "/ws/echo/"
name = "echo"
missing_origin = "allow"
consumer = "echo"
"""

# The alternate screen is entered and left, and the cursor shown again.
ENTERED, LEFT, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


def command(server, *more, token=TOKEN):
    return [binary(), "top", "--url", f"{server.origin}/api/", "--token", token, "--interval", "200ms", *more]


def run(arguments, **more):
    environment = {**os.environ, **more}
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, env=environment)


class Screen(Terminal):
    """A terminal of a size."""

    def resize(self, columns, lines):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys):
        os.write(self._master, keys.encode())

    def press_and_draw(self, keys):
        """Types keys, and has everything drawn again: otherwise only what has changed is."""
        self.press(keys)
        self._width = 241 - self._width
        self.resize(self._width, 30)

    _width = 120

    def is_raw(self):
        return not termios.tcgetattr(self._master)[3] & termios.ICANON

    def signal(self, number):
        os.kill(self._process.pid, number)


class Top(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(Server(CONFIG))

    def start(self, columns=120, lines=30, **environment):
        arguments = ["env", "TERM=xterm-256color", *(f"{name}={value}" for name, value in environment.items()), *command(self.server)]
        screen = self.enterContext(Screen(arguments))
        screen.resize(columns, lines)
        return screen

    def assert_left(self, screen):
        self.assertEqual(screen.ended(), 0)
        self.assertIn(LEFT, screen.said)
        self.assertGreater(screen.said.rindex(CURSOR), screen.said.index(ENTERED))
        self.assertFalse(screen.is_raw())

    def test_screen_shows_the_figures_and_quits(self):
        screen = self.start()
        screen.wait_for(ENTERED)
        screen.wait_for("one")
        screen.wait_for("echo")
        self.assertIn("quit", screen.said)
        screen.press_and_draw("3")
        screen.wait_for("layer")
        screen.press_and_draw("2")
        screen.wait_for("nothing")
        screen.press("q")
        self.assert_left(screen)

    def test_open_socket_is_counted(self):
        screen = self.start()
        screen.wait_for("echo")
        with RawSocket(self.server, "/ws/echo/"):
            # The number alone is drawn again.
            until(lambda: self.stats()["websocket"]["echo"]["open"] == 1, "an open socket")
            screen.resize(121, 30)
            screen.wait_for("echo")
        screen.press("q")
        self.assert_left(screen)

    def stats(self):
        return json.loads(self.server.request("/api/stats", headers={"Authorization": f"Bearer {TOKEN}"})[2])

    def test_new_size_is_drawn(self):
        screen = self.start(columns=140, lines=40)
        screen.wait_for("PATH")
        for columns, lines in [(40, 10), (5, 3), (1, 1), (200, 60)]:
            screen.resize(columns, lines)
        screen.wait_for("PATH")
        screen.press("q")
        self.assert_left(screen)

    def test_every_signal_leaves_the_terminal_as_it_was(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                screen = self.start()
                screen.wait_for("echo")
                screen.signal(number)
                self.assert_left(screen)

    def test_terminal_that_goes_away_ends_it(self):
        screen = self.start()
        screen.wait_for("echo")
        self.assertEqual(screen.hang_up(), 0)

    def test_control_c_quits(self):
        screen = self.start()
        screen.wait_for("echo")
        screen.press("\x03")
        self.assert_left(screen)

    def test_no_colour_is_written_where_none_is_wanted(self):
        screen = self.start(NO_COLOR="1")
        screen.wait_for("echo")
        screen.press_and_draw("3")
        screen.wait_for("layer")
        screen.press("q")
        self.assert_left(screen)
        self.assertNotRegex(screen.said, r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|9[0-7])(?:;[0-9]+)*m")

    def test_server_that_is_away_is_waited_for(self):
        screen = self.start()
        screen.wait_for("echo")
        self.server.stop()
        screen.wait_for("away for")
        screen.wait_for("trying again")
        self.assertFalse(self.server.is_running)
        screen.press("q")
        self.assert_left(screen)


class Plain(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(Server(CONFIG))

    def test_text_is_printed_where_there_is_no_terminal(self):
        for more in [[], ["--once"]]:
            shown = run(command(self.server, *more))
            self.assertEqual(shown.returncode, 0, shown.stderr)
            for word in ("one", "sockets", "Routes", "echo", "Health", "channel layer"):
                self.assertIn(word, shown.stdout)
            self.assertNotIn("\x1b", shown.stdout)

    def test_token_without_connections_is_told_so(self):
        shown = run(command(self.server, token="a-token-for-groups-alone-not-more"))
        self.assertEqual(shown.returncode, 1)
        self.assertIn("has the token connections = true?", shown.stderr)

    def test_server_that_does_not_answer_is_an_error(self):
        arguments = command(self.server)
        self.server.stop()
        shown = run(arguments)
        self.assertEqual((shown.returncode, shown.stdout), (1, ""))
        self.assertIn("oneport top: ", shown.stderr)

    def test_arguments_are_checked(self):
        for more in [["--interval", "0s"], ["--interval", "soon"], ["--interval", "2h"]]:
            shown = run([binary(), "top", "--url", self.server.origin, "--token", TOKEN, *more])
            self.assertEqual(shown.returncode, 64, more)
            self.assertIn("100ms to 1h", shown.stderr)

    def test_url_and_token_come_from_the_environment_and_the_file(self):
        arguments = [binary(), "top", "--once", "--interval", "100ms"]
        shown = run(arguments, ONEPORT_PUBLISH_URL=f"{self.server.origin}/api/", ONEPORT_PUBLISH_TOKEN=TOKEN)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        shown = run([*arguments, "--config", self.server.config], ONEPORT_PUBLISH_URL=f"{self.server.origin}/api/")
        self.assertEqual(shown.returncode, 0, shown.stderr)


if __name__ == "__main__":
    unittest.main()
