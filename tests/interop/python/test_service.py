"""Service: what a service manager hears of the server, and its pid file."""

import os
import re
import signal
import subprocess
import time
import unittest

from kit.deadline import DEADLINE, until
from kit.notify import ServiceManager
from kit.peer import Peer
from kit.restart import RestartServer
from kit.server import Server, binary

CONFIG = """
[server]
{server}

[server.timeouts]
drain = "7s"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
close_timeout = "200ms"
"""


def config(server=""):
    return CONFIG.format(server=server)


class Notify(unittest.TestCase):
    def manage(self, **options):
        return self.enterContext(ServiceManager(**options))

    def start(self, manager, **environment):
        environment = {"NOTIFY_SOCKET": manager.name, **environment}
        return self.enterContext(RestartServer(config(), environment=environment))

    def test_ready_comes_once_the_server_accepts_connections(self):
        for is_abstract in (False, True):
            with self.subTest(is_abstract=is_abstract), ServiceManager(is_abstract=is_abstract) as manager:
                with RestartServer(config(), environment={"NOTIFY_SOCKET": manager.name}) as server:
                    ready = manager.messages[manager.hear(READY="1")]
                    self.assertEqual(ready.pid, server.pid)
                    self.assertEqual(server.request("/health/")[0], 200)

    def test_a_reload_is_announced_and_ends_with_ready_whatever_its_outcome(self):
        manager = self.manage()
        server = self.start(manager)
        after = manager.hear(READY="1") + 1
        for text in (config(), "no configuration"):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            server.reload(text)
            reloading = manager.hear(after, RELOADING="1")
            at = int(manager.messages[reloading].get("MONOTONIC_USEC"))
            self.assertTrue(before <= at <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
            after = manager.hear(reloading, READY="1") + 1
        server.write(config())

    def test_the_end_is_announced_with_the_time_that_it_may_take(self):
        manager = self.manage()
        server = self.start(manager)
        server.stop()
        stopping = manager.messages[manager.hear(STOPPING="1")]
        self.assertEqual(stopping.get("EXTEND_TIMEOUT_USEC"), "12000000")

    def test_a_restart_names_the_new_process_which_says_ready(self):
        manager = self.manage()
        server = self.start(manager, WATCHDOG_USEC="1000000")
        for _ in range(3):
            before, start = server.pid, len(manager.read())
            server.restart()
            main = manager.hear(start, MAINPID=str(server.pid))
            self.assertEqual(manager.messages[main].pid, before)
            ready = manager.hear(main, READY="1")
            self.assertEqual(manager.messages[ready].pid, server.pid)
            manager.hear(ready, WATCHDOG="1")
            senders = {message.pid for message in manager.read()[main + 1 :]}
            self.assertEqual(senders, {server.pid}, "the old process is silent")
            self.assertEqual({message.pid for message in manager.messages[start:main]}, {before}, "the new one was")

    def test_a_restart_that_fails_changes_nothing(self):
        manager = self.manage()
        server = self.start(manager)
        server.install("#!/bin/sh\nexit 1\n")
        server.begin_restart()
        server.failed()
        server.stop()
        self.assertIsNone(next((message for message in manager.read() if message.get("MAINPID")), None))
        manager.hear(STOPPING="1")

    def test_signs_of_life_come_twice_within_the_deadline(self):
        manager = self.manage()
        self.start(manager, WATCHDOG_USEC="2000000")
        found = [manager.hear(WATCHDOG="1")]
        while len(found) < 4:
            found.append(manager.hear(found[-1] + 1, WATCHDOG="1"))
        times = [manager.messages[number].at for number in found]
        pauses = [later - earlier for earlier, later in zip(times, times[1:])]
        self.assertTrue(all(0.5 < pause < 1.7 for pause in pauses), pauses)

    def test_a_restart_leaves_no_gap_between_the_signs_of_life(self):
        """The old process gives one just before it hands over, the new one as soon as it serves: each has a whole deadline before it."""
        manager = self.manage()
        server = self.start(manager, WATCHDOG_USEC="20000000")  # so none is due for 10 s
        first = manager.hear(WATCHDOG="1")
        old = server.pid
        server.restart()
        last = manager.hear(first + 1, WATCHDOG="1")
        main = manager.hear(first + 1, MAINPID=str(server.pid))
        self.assertEqual((manager.messages[last].pid, last < main), (old, True))
        again = manager.hear(main, WATCHDOG="1")
        self.assertEqual(manager.messages[again].pid, server.pid)
        self.assertLess(manager.messages[again].at - manager.messages[main].at, 5)

    def test_a_watchdog_of_another_process_gets_none(self):
        manager = self.manage()
        server = self.start(manager, WATCHDOG_USEC="100000", WATCHDOG_PID="1")
        manager.hear(READY="1")
        until(lambda: any((message.get("STATUS") or "").startswith("Serving: ") for message in manager.read()), "a status")
        self.assertFalse([message for message in manager.messages if message.get("WATCHDOG")])
        self.assertTrue(server.is_running)

    def test_the_status_has_the_open_sockets(self):
        manager = self.manage()
        server = self.start(manager)
        with Peer(server, "/ws/echo/"):
            until(
                lambda: any(re.match(r"Serving: 1 WebSockets, \d+ requests per second", message.get("STATUS") or "") for message in manager.read()),
                lambda: f"a status, found {manager.messages}",
            )

    def test_a_service_manager_that_reads_nothing_delays_nothing(self):
        manager = self.manage(receive_buffer=1)
        server = self.start(manager, WATCHDOG_USEC="20000")
        server.wait_for_log("the service manager takes no message")
        self.assertEqual(server.request("/health/")[0], 200)
        server.stop()

    def test_a_service_manager_that_is_not_there_is_said(self):
        for name in ("/nowhere/notify", "@oneport-nowhere", "relative", "vsock:2:1"):
            with self.subTest(name=name), Server(config(), environment={"NOTIFY_SOCKET": name}) as server:
                self.assertIn(f"cannot reach the service manager at NOTIFY_SOCKET={name}: ", server.log())


class PidFile(unittest.TestCase):
    def start(self, **options):
        return self.enterContext(RestartServer(config('pid_file = "run/oneport.pid"'), **options))

    def path(self, server):
        return server.directory / "run/oneport.pid"

    def names(self, server, path=None):
        """Waits until the file names the server's process, which it does once the server serves."""
        path = path or self.path(server)
        until(lambda: path.exists() and path.read_text(encoding="utf-8") == f"{server.pid}\n", f"{server.pid} in {path}")

    def test_it_has_the_process_that_serves_and_goes_with_it(self):
        server = self.start()
        path = self.path(server)
        for _ in range(3):
            self.names(server)
            server.restart()
        self.names(server)
        server.stop()
        self.assertEqual(list(path.parent.iterdir()), [])

    def test_it_is_replaced_at_the_handover_and_never_missing(self):
        server = self.start()
        self.names(server)
        path, pid = self.path(server), server.pid
        server.slow(1)
        server.begin_restart()
        until(server.children, "a new process")
        seen = set()

        def is_replaced():
            seen.add(path.read_text(encoding="utf-8"))
            return len(seen) == 2

        until(is_replaced, "another process in the file")
        old = server.replaced()
        self.assertEqual(seen, {f"{pid}\n", f"{server.pid}\n"})
        server.ended(old)
        self.assertEqual(path.read_text(encoding="utf-8"), f"{server.pid}\n")

    def test_a_restart_that_moves_it_removes_the_one_before(self):
        server = self.start()
        self.names(server)
        server.write(config('pid_file = "run/other.pid"'))
        server.restart()
        other = server.directory / "run/other.pid"
        self.names(server, other)
        self.assertEqual(list(other.parent.iterdir()), [other])

    def test_a_restart_that_fails_leaves_it(self):
        server = self.start()
        text = server.config.read_text(encoding="utf-8")
        server.write(config('pid_file = "run/oneport.pid"\nbind = ["127.0.0.1:1", "unix:oneport.toml"]'))
        server.install(f'#!/bin/sh\nexec {binary()} serve --config "$3"\n')
        server.begin_restart()
        server.failed()
        self.names(server)
        self.assertEqual([entry.name for entry in self.path(server).parent.iterdir()], ["oneport.pid"])
        server.config.write_text(text, encoding="utf-8")

    def test_the_file_of_a_process_that_died_is_replaced_without_a_word(self):
        server = self.start()
        self.names(server)
        server.signal(signal.SIGKILL)
        server.wait(-signal.SIGKILL)
        self.assertTrue(self.path(server).exists())
        server.start()
        self.names(server)
        self.assertNotIn("runs this program too", server.log())

    def test_the_file_of_a_server_that_runs_is_replaced_with_a_warning(self):
        first = self.start()
        self.names(first)
        second = RestartServer(config(f'pid_file = "{self.path(first)}"'))
        with second:
            self.names(second, self.path(first))
            self.assertRegex(second.log(), rf"WARN.*oneport\.pid named process {first.pid}, which runs this program too")
            first.stop()
            self.assertTrue(self.path(first).exists(), "it names the other process")
            second.stop()
        self.assertFalse(self.path(first).exists())

    def test_a_file_that_cannot_be_written_keeps_the_server_from_starting_and_is_said_with_its_place(self):
        with Server(config()) as server:
            for place in ("oneport.toml/oneport.pid", "/proc/oneport.pid", "."):
                path = server.directory / "other.toml"
                path.write_text(f'[server]\nbind = ["127.0.0.1:0"]\npid_file = "{place}"\n', encoding="utf-8")
                done = subprocess.run(
                    [binary(), "serve", "--config", path], capture_output=True, text=True, timeout=DEADLINE, env={**os.environ, "NO_COLOR": "1"}
                )
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertRegex(done.stderr, r"other\.toml:3:12: server\.pid_file: cannot write ")


if __name__ == "__main__":
    unittest.main()
