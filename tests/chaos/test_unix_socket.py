"""Unix socket: it has the configured mode and group from the start, and its path belongs to the newest process."""

import grp
import os
import signal
import socket
import stat
import subprocess
import threading
import unittest

from disturb.case import Chaos
from disturb.server import Disturbed
from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.server import binary

ROUTES = """
[server.timeouts]
drain = "10s"

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""
LARGE = bytes(1 << 25)  # more than the kernel's buffers take


def a_group():
    """Returns a group that a socket of ours can be given: another than our own where that is allowed."""
    own = grp.getgrgid(os.getgid())
    return next((one for one in grp.getgrall() if one.gr_gid != own.gr_gid), own) if os.geteuid() == 0 else own


class UnixSocket(Chaos):
    def made(self, address):
        """Returns a server, not started, at this address and at the TCP port that it is watched by."""
        server = Disturbed(ROUTES, files={"files/large.bin": LARGE}, addresses=[address])
        self.addCleanup(server.close)
        return server

    def start_unix(self, address):
        server = self.made(address)
        server.start()
        return server

    def serves(self, place):
        with Bytes(str(place)) as client:
            client.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(client.head()[0], 200)

    def test_mode_and_group(self):
        group = a_group()
        for mode in ("0660", "0600", "0666"):
            with self.subTest(mode):
                server = self.start_unix(f'{{ address = "unix:run/a.sock", mode = "{mode}", group = "{group.gr_name}" }}')
                self.watch(server)
                found = (server.directory / "run/a.sock").stat()
                self.assertEqual((oct(stat.S_IMODE(found.st_mode)), found.st_gid), (oct(int(mode, 8)), group.gr_gid))
                self.serves(server.directory / "run/a.sock")
                server.stop()

    def test_it_is_never_open_to_others_before_it_has_its_mode(self):
        """With a umask of zero."""
        seen = set()
        for _ in range(10):
            server = self.made('{ address = "unix:run/a.sock", mode = "0600" }')
            place = server.directory / "run/a.sock"
            done = threading.Event()
            watcher = threading.Thread(target=look, args=[place, seen, done])
            watcher.start()
            old = os.umask(0)
            try:
                server.start()
            finally:
                os.umask(old)
                done.set()
                watcher.join()
            self.watch(server)
            server.stop()
        self.assertEqual({oct(mode) for mode in seen}, {"0o600"})

    def test_a_group_that_is_unknown_ends_the_start_with_its_name(self):
        """`check` may run on another machine."""
        with self.assertRaisesRegex(AssertionError, "(?s)ended before it listened.*no-such-group-here"):
            self.start_unix('{ address = "unix:run/a.sock", group = "no-such-group-here" }')

    def test_a_wrong_mode_is_a_problem(self):
        for bind, named in (
            ('{ address = "unix:run/a.sock", mode = "0999" }', "mode"),
            ('{ address = "unix:run/a.sock", mode = "rw" }', "mode"),
            ('{ address = "unix:run/a.sock", mode = "01777" }', "mode"),
            ('{ address = "127.0.0.1:0", mode = "0660" }', "mode"),
        ):
            with self.subTest(bind):
                server = Disturbed(f"[server]\nbind = [{bind}]\n")
                self.addCleanup(server.close)
                command = [binary(), "check", "--config", server.config]
                done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, cwd=server.directory, check=False)
                self.assertEqual(done.returncode, 78, done.stderr)
                self.assertRegex(done.stdout + done.stderr, rf"oneport\.toml:\d+:\d+: server\.bind.*{named}")
                self.assertNotIn("unknown key", done.stdout + done.stderr)

    def test_an_old_process_does_not_remove_the_name_of_a_newer_one(self):
        """The operator removes the file and starts another server; then the old one ends."""
        old = self.start_unix('"unix:run/a.sock"')
        self.watch(old)
        place = old.directory / "run/a.sock"
        place.unlink()
        newer = self.start_unix(f'"unix:{place}"')
        self.serves(place)
        old.stop()
        self.assertTrue(place.exists(), "the old process removed the newer one's name")
        self.serves(place)
        newer.stop()
        self.assertFalse(place.exists(), "its own name is left behind")

    def test_a_process_that_drains_does_not_remove_the_name_of_the_next_one(self):
        old = self.start_unix('"unix:run/a.sock"')
        self.watch(old)
        place = old.directory / "run/a.sock"
        download = self.enterContext(Bytes(("127.0.0.1", old.port), receive_buffer=4096))
        download.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        download.head()
        old.signal(signal.SIGTERM)
        until(lambda: not listens(place), "the old process to listen no more")
        newer = self.start_unix(f'"unix:{place}"')
        self.serves(place)
        self.assertTrue(old.is_running)
        download.exactly(len(LARGE))
        old.wait()
        self.serves(place)
        newer.stop()

    def test_a_name_that_somebody_listens_at_is_not_taken(self):
        old = self.start_unix('"unix:run/a.sock"')
        self.watch(old)
        place = old.directory / "run/a.sock"
        with self.assertRaisesRegex(AssertionError, "ended before it listened"):
            self.start_unix(f'"unix:{place}"')
        self.serves(place)

    def test_a_directory_that_is_gone_at_the_end_holds_nothing_up(self):
        server = self.start_unix('"unix:run/a.sock"')
        self.watch(server)
        (server.directory / "run/a.sock").unlink()
        (server.directory / "run").rmdir()
        server.stop()


def look(place, seen, done):
    """Notes every mode that the file has, as fast as it can."""
    while not done.is_set():
        try:
            seen.add(stat.S_IMODE(os.stat(place).st_mode))
        except FileNotFoundError:
            pass


def listens(place):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(place))
        return True
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
