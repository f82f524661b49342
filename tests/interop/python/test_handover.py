"""Handover: a restart by SIGUSR2 that is disturbed at one of its steps, by a death, a deadline or a signal.

The old process is stopped (SIGSTOP) at the step, so that what happens meanwhile does happen there.
"""

import os
import signal
import sys
import time
import unittest
from pathlib import Path

from kit.deadline import until
from kit.frames import CLOSE, RawSocket, close_payload
from kit.notify import ServiceManager
from kit.peer import Peer
from kit.restart import Adopted, exists
from kit.server import binary
from test_restart import Case, config

# A new process that takes the listeners, and then does as it is told. It begins when there is a file.
PROGRAM = """#!{python}
import json, os, socket, time
old, received = socket.socket(fileno=os.dup(0)), b""
while received != b"\\n" and not received.endswith(b"\\n\\n"):
    received += socket.recv_fds(old, 65536, 64)[0]
listeners = [json.loads(line)[0] for line in received.splitlines() if line]
while not os.path.exists({begin!r}):
    time.sleep(0.01)
ready = {{"pid": os.getpid(), "listeners": listeners, "pid_file": {pid_file!r}}}
old.sendall(json.dumps({{"ready": ready}}).encode() + b"\\n")
{then}
os._exit(3)
"""

UNTIL_GO = """
while b'{"go":' not in received:
    received = old.recv(65536)
"""


class Handover(Case):
    def start(self, **options):
        self.manager = self.enterContext(ServiceManager())
        options.setdefault("environment", {})["NOTIFY_SOCKET"] = self.manager.name
        server = super().start(server='pid_file = "run/oneport.pid"', **options)
        self.pid_file = server.directory / "run/oneport.pid"
        self.manager.hear(READY="1", after=0)
        self.names(server.pid)
        return server

    def names(self, pid):
        """Waits until the pid file names a process."""
        until(lambda: self.pid_file.read_text(encoding="ascii") == f"{pid}\n", f"{pid} in the pid file")

    def new(self, server):
        """Begins a restart, and stops the old process before it hears of the new one; returns that."""
        server.begin_restart()
        child = until(server.children, "a new process")[0]
        server.signal(signal.SIGSTOP)
        until(lambda: stands_still(server.pid), "the stop of all threads")
        return child

    def ready(self, server):
        """The same, with a new process that accepts connections and waits for the old one."""
        server.slow(0.3)  # or all of it is over before the old one can be stopped
        child = self.new(server)
        self.assertEqual(server.request("/health/")[0], 200)
        return child

    def pretend(self, server, then=""):
        """Installs a program that only pretends to be a server."""
        begin = server.directory / "begin"
        server.install(PROGRAM.format(python=sys.executable, begin=str(begin), pid_file=str(self.pid_file), then=then))
        return begin

    def becomes(self, server, child):
        server._process = Adopted(child)
        until(server._is_healthy, lambda: f"a healthy server\n{server.log()}")
        self.names(child)


def stands_still(pid):
    """Returns whether all threads of a process are stopped: the signal reaches one after the other."""
    states = [(task / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()]
    return set(states) == {"T"}


class NewProcess(Handover):
    def test_one_that_dies_right_after_its_report_leaves_the_old_one_serving(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        begin = self.pretend(server)
        child = self.new(server)
        begin.touch()
        until(lambda: not exists(child), "the end of the new process")
        server.signal(signal.SIGCONT)
        server.failed()
        self.assertRegex(server.log(), r"the new process did not start \(exit status: 3\)")
        until(lambda: server.children() == [], "no zombie")
        self.still_serves(server, peer, pid)
        self.names(pid)
        self.assertEqual([message for message in self.manager.read() if message.get("MAINPID")], [])
        server.install(binary())
        server.restart()
        self.names(server.pid)

    def test_one_that_dies_when_it_is_the_main_process_is_said_and_the_old_one_drains(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        self.pretend(server, UNTIL_GO).touch()
        server.begin_restart()
        self.assertEqual(raw.frame().code, 1012)
        server.wait_for_log(r"ERROR.*the process that serves has ended \(exit status: 3\)")
        main = self.manager.messages[self.manager.hear(MAINPID=None)]
        self.assertEqual(main.pid, server.pid)
        raw.say(CLOSE, close_payload(1012))
        server.wait()
        self.assertFalse(self.pid_file.exists(), "it would name a process that has ended")

    def test_one_that_is_killed_while_the_old_one_drains(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.begin_restart()
        old = server.replaced()
        self.names(server.pid)
        self.assertEqual(raw.frame().code, 1012)
        server.signal(signal.SIGKILL)
        server.wait_for_log(r"ERROR.*the process that serves has ended \(signal: 9")
        os.kill(old.pid, signal.SIGHUP)
        server.wait_for_log("the process that serves has ended; SIGHUP is ignored")
        server._process = None
        raw.say(CLOSE, close_payload(1012))
        server.ended(old)

    def test_one_that_is_ready_when_the_deadline_passes_is_not_killed(self):
        server = self.start(restart="1s")
        began = time.monotonic()
        self.ready(server)
        time.sleep(max(0.0, 1.1 - (time.monotonic() - began)))
        server.signal(signal.SIGCONT)
        server.ended(server.replaced())
        self.names(server.pid)
        self.assertEqual(server.request("/health/")[0], 200)
        self.assertNotIn("timeouts.restart", server.log())


class OldProcess(Handover):
    def test_one_that_is_killed_before_it_says_go(self):
        server = self.start()
        child = self.ready(server)
        self.names(server.pid)
        server.signal(signal.SIGKILL)
        server.wait(-signal.SIGKILL)
        self.becomes(server, child)
        server.wait_for_log("the old process has died")
        server.restart()
        self.names(server.pid)

    def test_one_that_is_killed_while_it_drains(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(raw.frame().code, 1012)
        os.kill(old.pid, signal.SIGKILL)
        server.ended(old, -signal.SIGKILL)
        self.assertTrue(raw.is_at_end())
        server.alone(old)
        self.names(server.pid)
        server.restart()
        self.names(server.pid)


class Signals(Handover):
    def test_two_sigusr2_in_a_row_start_one_process(self):
        server = self.start()
        server.begin_restart()
        server.begin_restart()
        old = server.replaced()
        server.ended(old)
        server.alone(old)
        self.assertEqual(server.log().count("starting a new process"), 1)
        self.names(server.pid)
        self.assertEqual(server.children(), [])

    def test_sigterm_while_the_new_process_waits_ends_both_and_tells_the_sockets_of_both(self):
        for is_sent_to_both in (False, True):
            with self.subTest(is_sent_to_both=is_sent_to_both):
                server = self.start()
                old = self.enterContext(Peer(server, "/ws/echo/"))
                child = self.ready(server)
                new = self.enterContext(Peer(server, "/ws/echo/"))
                server.signal(signal.SIGTERM)
                if is_sent_to_both:  # by systemd
                    os.kill(child, signal.SIGTERM)
                server.signal(signal.SIGCONT)
                self.assertEqual([peer.closed()[0] for peer in (old, new)], [1001, 1001])
                server.wait()
                until(lambda: not exists(child), "the end of the new process")
                self.assertFalse(self.pid_file.exists())
                self.assertNotIn("ERROR", server.log())
                # The first signal may be the one that the service manager sends to both.
                self.assertEqual(server.log().count("stopping; a second signal exits at once"), 1)
                self.assertEqual(server.log().count("stopping; of two more signals the second exits at once"), 1)

    def test_sighup_while_the_new_process_waits_reloads_it(self):
        server = self.start()
        self.ready(server)
        server.write(config(body="two"))
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGCONT)
        old = server.replaced()
        until(lambda: server.request("/version/")[2] == b"two", lambda: f"the new file\n{server.log()}")
        server.ended(old)


if __name__ == "__main__":
    unittest.main()
