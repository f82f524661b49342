"""Log: a log that cannot be written never delays, drops or changes an answer.

The log goes to a full device, to a reader that dies, to one that stalls, and onto a full disk. Each time requests are answered, sockets
live, SIGHUP reloads and SIGTERM closes every socket with 1001. The lines that were lost are counted, and the log tells how many once it can.
"""

import http.client
import json
import os
import re
import signal
import tempfile
import threading
import unittest
from pathlib import Path

from disturb.case import Chaos
from disturb.disk import Disk
from kit.deadline import DEADLINE, until
from kit.peer import Peer

CONFIG = """
[log]
format = "{format}"

[server.timeouts]
drain = "5s"

[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "{body}" }}

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

# More lines than a pipe of 64 KiB holds.
REQUESTS = 2000
# Requests with paths long enough to fill any reasonable queue soon.
LONG = "/" + "x" * 4000
LOST = re.compile(r"^.*\d+.*\blines?\b.*(?:lost|dropped).*$|^.*(?:lost|dropped).*\d+.*\blines?\b.*$", re.MULTILINE)


def config(body="old", style="text", log=""):
    """`log`: a further line of `[log]`, which a reload applies too."""
    return CONFIG.format(body=body, format=style).replace("[log]", f"[log]\n{log}")


class Log(Chaos):
    def requests(self, server, count=REQUESTS):
        """Sends them one after the other over one connection; each must be answered."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        try:
            for number in range(count):
                connection.request("GET", "/page/")
                with connection.getresponse() as response:
                    self.assertEqual(response.status, 200, f"request {number}")
                    response.read()
        finally:
            connection.close()
        self.record.during()

    def overflow(self, server):
        """Makes requests until lines are lost; returns how many were."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)

        def lost():
            for _ in range(100):
                connection.request("GET", LONG)
                with connection.getresponse() as response:
                    self.assertEqual(response.status, 404)
                    response.read()
            self.record.during()
            return self.lost(server)

        return until(lost, "lines to be lost", 60)

    def goes_on(self, server, count=REQUESTS, log=""):
        """Requests, a socket and a reload work, and memory stays within its bounds; returns the open socket."""
        peer = self.peer(server)
        self.requests(server, count)
        self.is_open(peer)
        self.reload(server, config("new", log=log), "/page/", b"new")
        self.is_open(peer)
        self.assert_memory_grew_by_at_most(24)
        return peer

    def lost(self, server):
        """Returns how many lines were lost, as `health` and the metric have it."""
        in_health = json.loads(server.request("/health/")[2]).get("log_lines_dropped", 0)
        self.assertGreaterEqual(server.metric("oneport_log_lines_dropped_total"), in_health)
        return in_health

    def pipe(self):
        """Returns the ends of a pipe, for reading and for writing, which the test closes."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(close, end)
        return ends

    def test_a_full_device(self):
        with open("/dev/full", "wb") as full:
            server = self.start(config(), stderr=full)
        peer = self.goes_on(server, 500)
        self.assertGreaterEqual(self.lost(server), 500)
        self.ends_in_order(server, peer)

    def test_a_full_device_on_both_outputs(self):
        with open("/dev/full", "wb") as full:
            server = self.start(config(), stderr=full, stdout=full)
        self.ends_in_order(server, self.goes_on(server, 100))

    def test_a_reader_that_dies(self):
        reading, writing = self.pipe()
        server = self.start(config(), stderr=writing)
        close(writing)
        close(reading)
        peer = self.goes_on(server, 500)
        self.assertGreaterEqual(self.lost(server), 500)
        self.ends_in_order(server, peer)

    def test_a_limit_on_the_size_of_files(self):
        """The kernel sends SIGXFSZ, which would end the process, where a full disk only refuses the write."""
        server = self.start(config(), before=("sh", "-c", 'ulimit -f 16; exec "$0" "$@"'))
        peer = self.goes_on(server, 500)
        self.assertGreater(self.lost(server), 0)
        self.ends_in_order(server, peer)

    def test_outputs_that_are_closed(self):
        server = self.start(config(), before=("sh", "-c", 'exec "$0" "$@" >&- 2>&-'))
        self.ends_in_order(server, self.goes_on(server, 100))

    def test_a_reader_that_stalls(self):
        _, writing = self.pipe()
        server = self.start(config(), stderr=writing)
        peer = self.goes_on(server)
        self.overflow(server)
        self.is_open(peer)
        self.assert_memory_grew_by_at_most(24)
        self.ends_in_order(server, peer)

    def test_a_reader_that_stalls_under_trace(self):
        """The most lines that can be asked for."""
        _, writing = self.pipe()
        server = self.start(config().replace("[log]", '[log]\nlevel = "trace"'), stderr=writing)
        self.ends_in_order(server, self.goes_on(server))

    def test_a_reader_that_comes_back_is_told_how_many_lines_it_missed(self):
        reading, writing = self.pipe()
        server = self.start(config(), stderr=writing)
        close(writing)
        self.overflow(server)
        said = bytearray()
        threading.Thread(target=drain, args=[reading, said], daemon=True).start()

        def told():
            self.requests(server, 1)  # a server that is asked nothing has nothing to log
            return LOST.search(bytes(said).decode())

        line = until(told, "a line about those that were lost")[0]
        self.assertIn(self.lost(server), [int(found) for found in re.findall(r"\d+", line)], line)
        self.assertEqual(unfinished(bytes(said)), [], "half a line")

    def test_a_log_is_moved_off_a_reader_that_stalls(self):
        _, writing = self.pipe()
        server = self.start(config(), stderr=writing)
        self.overflow(server)
        self.reload(server, config("new", log='file = "moved.log"'), "/page/", b"new")
        lost = self.lost(server)
        self.arrives(server, server.directory / "moved.log")
        self.assertEqual(self.lost(server), lost)
        self.ends_in_order(server, self.goes_on(server, 100, 'file = "moved.log"'))

    def test_a_log_is_moved_off_a_pipe_that_nothing_reads(self):
        """A pipe at the path of the file: SIGUSR1, once another file is there; and a reload to another path."""
        directory = Path(self.enterContext(tempfile.TemporaryDirectory()))
        place = directory / "access.log"

        def log(path):
            return f'access_file = "{path}"'

        os.mkfifo(place)
        reading = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(close, reading)
        server = self.start(config(log=log(place)))
        self.overflow(server)
        place.rename(directory / "old")
        server.signal(signal.SIGUSR1)
        self.arrives(server, place)
        # And back to the pipe, which is still full.
        self.reload(server, config("two", log=log(directory / "old")), "/page/", b"two")
        self.overflow(server)
        self.reload(server, config("three", log=log(directory / "new.log")), "/page/", b"three")
        self.arrives(server, directory / "new.log")
        self.assertIn(LONG[:1000], (directory / "new.log").read_text(encoding="utf-8"), "the lines that have waited")
        self.ends_in_order(server, self.goes_on(server, 100, log(directory / "new.log")))

    def arrives(self, server, place):
        """Waits until the lines of new requests are in a file, whole."""

        def has_come():
            self.requests(server, 1)
            return place.exists() and 'path="/page/"' in place.read_text(encoding="utf-8")

        until(has_come, lambda: f"lines in {place}\n{server.log()}")
        lines = place.read_text(encoding="utf-8").splitlines()
        self.assertEqual([line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT", line)], [])

    def test_a_disk_that_is_full(self):
        with Disk("256k") as disk:
            self.on_disk(disk)

    def on_disk(self, disk):
        place = disk.directory / "log"
        with open(place, "ab") as log:
            server = self.start(config(), stderr=log, limits=disk.limits)
        disk.fill(server.pid)
        peer = self.goes_on(server, 500)
        self.assertGreater(self.lost(server), 0)
        disk.free(server.pid)

        def told():
            self.requests(server, 1)
            return LOST.search(place.read_text(encoding="utf-8", errors="replace"))

        until(told, lambda: f"a line about those that were lost\n{place.read_text(errors='replace')}")
        self.ends_in_order(server, peer)

    def test_a_disk_that_is_full_under_the_access_file(self):
        """The other lines go on, and how many of the access log were lost is told once there is room."""
        with Disk("256k") as disk:
            place = disk.directory / "access.log"
            log = f'access_file = "{place}"'
            server = self.start(config(log=log), limits=disk.limits)
            disk.fill(server.pid)
            peer = self.goes_on(server, 500, log)
            self.assertGreater(self.lost(server), 0)
            disk.free(server.pid)
            before = place.stat().st_size

            def told():
                self.requests(server, 1)
                return LOST.search(server.log() + place.read_text(encoding="utf-8", errors="replace"))

            def grows():
                self.requests(server, 1)
                return place.stat().st_size > before

            until(told, lambda: f"a line about those that were lost\n{server.log()}")
            until(grows, "lines in the file again")
            self.ends_in_order(server, peer)


class Json(Chaos):
    def test_every_line_of_both_outputs_is_json(self):
        """The banner, warnings, a refused reload, Problems and the end."""
        server = self.start(config(style="json") + '[server]\nallowed_hosts = ["*"]\n')
        with Peer(server, "/ws/echo/") as peer:
            self.is_open(peer)
        server.request("/page/")
        server.write("[http]\nmiddlewares = 1\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload failed")
        server.signal(signal.SIGTERM)
        server.wait()
        self.are_json(server.log())

    def test_the_lines_of_a_start_that_fails_are_json(self):
        """The file is read before anything is known of the log but its format."""
        for more in ("[session]\nstore = 1\n", '[http]\nmiddleware = ["session"]\n[session]\nstore = "sqlite:missing/directory/x.db"\n'):
            with self.subTest(more):
                with self.assertRaisesRegex(AssertionError, "ended before it listened") as failure:
                    self.start(config(style="json") + more)
                self.are_json(str(failure.exception).partition("\n")[2])

    def are_json(self, said):
        lines = [line for line in said.splitlines() if line]
        self.assertGreater(len(lines), 0)
        self.assertEqual(unfinished(said.encode(), parse=json.loads), [])


def unfinished(said, parse=lambda line: re.match(r"\d{4}-\d\d-\d\dT|\S", line)[0]):
    """Returns the lines that do not parse."""
    wrong = []
    for line in said.decode().splitlines():
        try:
            parse(line)
        except (ValueError, TypeError):
            wrong.append(line)
    return wrong


def close(end):
    try:
        os.close(end)
    except OSError:
        pass  # closed before


def drain(reading, said):
    while data := os.read(reading, 1 << 16):
        said += data


if __name__ == "__main__":
    unittest.main()
