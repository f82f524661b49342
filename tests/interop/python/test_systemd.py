"""systemd: a real one starts the server by its socket, follows it through restarts, watches it and stops it."""

import http.client
import os
import tempfile
import threading
import time
import unittest
from pathlib import Path

from kit.deadline import DEADLINE, until
from kit.peer import Peer
from kit.postgres import free_port
from kit.restart import exists
from kit.server import binary
from kit.systemd import Systemd, is_possible

CONFIG = """
[server]
bind = ["fd:3"]
pid_file = "oneport.pid"

[server.timeouts]
drain = "5s"

[[http.route]]
path = "/health/"
view = "health"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
close_timeout = "200ms"
"""

SOCKET = """
[Socket]
ListenStream=127.0.0.1:{port}
"""

SERVICE = """
[Service]
Type=notify
ExecStart={program} serve --config {directory}/oneport.toml
ExecReload=kill -HUP $MAINPID
WatchdogSec=2s
Restart=on-failure
Environment=NO_COLOR=1
StandardOutput=append:{directory}/log
StandardError=append:{directory}/log
"""


class Asking:
    """Asks all the time, each request on a connection of its own, and keeps what went wrong."""

    def __init__(self, port):
        self.port, self.failures, self.answered = port, [], 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()

    def _run(self):
        while not self._is_over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
            try:
                connection.request("GET", "/health/")
                status = connection.getresponse().status
                if status != 200:
                    self.failures.append(status)
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
            finally:
                connection.close()
            time.sleep(0.005)


@unittest.skipUnless(is_possible(), "needs root and systemd")
class Service(unittest.TestCase):
    def setUp(self):
        self.systemd = self.enterContext(Systemd())
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        self.port = free_port()
        self.host, self.origin = f"127.0.0.1:{self.port}", f"http://127.0.0.1:{self.port}"
        self.write(CONFIG)
        self.program = self.directory / "oneport"
        self.program.symlink_to(binary())
        self.systemd.unit("oneport.socket", SOCKET.format(port=self.port))
        self.systemd.unit("oneport.service", SERVICE.format(program=self.program, directory=self.directory))
        self.systemd.do("start", "oneport.socket")
        self.addCleanup(self.systemd.ask, "stop", "oneport.socket", "oneport.service")

    def write(self, text):
        (self.directory / "oneport.toml").write_text(text, encoding="utf-8")

    def log(self):
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def show(self, name):
        return self.systemd.show("oneport.service", name)

    def main_pid(self):
        return int(self.show("MainPID"))

    def restarted(self, before):
        until(lambda: self.main_pid() not in (0, before), lambda: f"another main process\n{self.log()}\n{self.systemd.log()}")
        until(lambda: not exists(before), lambda: f"the end of the old process\n{self.log()}")
        ended = f"this one has replaced has ended old={before}"
        until(lambda: ended in self.log(), lambda: f"the end of the old process in the log\n{self.log()}")
        return self.main_pid()

    def test_restarts_reloads_and_the_watchdog_leave_the_service_active(self):
        with Asking(self.port) as asking:  # its first connection starts the service
            until(lambda: asking.answered > 10, lambda: f"answers, found {asking.failures}\n{self.systemd.log()}")
            self.assertEqual(self.show("ActiveState"), "active")
            pid = self.main_pid()
            for _ in range(3):
                peer = self.enterContext(Peer(self, "/ws/echo/"))
                self.systemd.do("kill", "--kill-whom=main", "--signal=SIGUSR2", "oneport.service")
                self.assertEqual(peer.closed()[0], 1012)
                pid = self.restarted(pid)
                self.assertEqual(self.show("ActiveState"), "active")
                self.assertEqual((self.directory / "oneport.pid").read_text(encoding="utf-8"), f"{pid}\n")
            # A new process that does not start changes nothing.
            self.write("no configuration")
            self.systemd.do("kill", "--kill-whom=main", "--signal=SIGUSR2", "oneport.service")
            until(lambda: "restart failed; still serving" in self.log(), "a restart that fails")
            self.write(CONFIG)
            self.systemd.do("reload", "oneport.service")
            until(lambda: self.show("StatusText").startswith("Serving"), lambda: f"a status, found {self.show('StatusText')!r}")
            time.sleep(5)  # twice the deadline of the watchdog
            self.assertEqual((self.main_pid(), self.show("NRestarts")), (pid, "0"))
        self.assertEqual(asking.failures, [])
        self.systemd.do("stop", "oneport.socket", "oneport.service")
        self.assertFalse(exists(pid))
        # With cgroup v1 systemd does not wait for the drain of a process that it has not started itself, and kills it.
        if Path("/sys/fs/cgroup/cgroup.controllers").exists():
            ended = [self.show(name) for name in ("ActiveState", "Result", "ExecMainCode", "ExecMainStatus")]
            self.assertEqual(ended, ["inactive", "success", "1", "0"], self.log())  # 1: exited
            self.assertFalse((self.directory / "oneport.pid").exists())

    def test_a_stop_ends_both_processes_of_a_restart(self):
        with Asking(self.port) as asking:
            until(lambda: asking.answered > 0, "an answer")
        pid = self.main_pid()
        peer = self.enterContext(Peer(self, "/ws/echo/"))
        self.program.unlink()
        self.program.write_text(f'#!/bin/sh\nsleep 1\nexec {binary()} "$@"\n', encoding="utf-8")
        self.program.chmod(0o700)
        self.systemd.do("kill", "--kill-whom=main", "--signal=SIGUSR2", "oneport.service")
        until(lambda: "starting a new process" in self.log(), "a new process")
        self.systemd.do("stop", "oneport.socket", "oneport.service")
        self.assertEqual(peer.closed()[0], 1001)
        self.assertEqual((self.show("ActiveState"), self.show("Result")), ("inactive", "success"))
        self.assertFalse(exists(pid))
        processes = [Path(f"/proc/{entry}/cmdline") for entry in os.listdir("/proc") if entry.isdigit()]
        ours = [path for path in processes if path.exists() and str(self.directory).encode() in path.read_bytes()]
        self.assertEqual(ours, [])


if __name__ == "__main__":
    unittest.main()
