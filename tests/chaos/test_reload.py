"""Reload: hundreds of reloads keep memory and metrics within bounds, and a file that cannot be read holds nothing up.

Also what is watched by `--watch` where directories and symbolic links are swapped, as Kubernetes does with a ConfigMap.
"""

import http.client
import os
import re
import resource
import shutil
import signal
import threading
import time
import unittest
from contextlib import closing

from disturb.case import Chaos, tail
from disturb.server import Disturbed
from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.peer import Peer
from kit.server import WATCHED

CONFIG = """
[server.timeouts]
drain = "5s"

[[http.route]]
path = "/page/"
name = "{name}"
view = "respond"
options = {{ body = "{body}" }}

[[websocket.route]]
path = "/ws/{name}/"
name = "ws_{name}"
consumer = "echo"

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

ROUTE = """
[[http.route]]
path = "{path}"
name = "{name}"
view = "respond"
options = {{ body = "a page" }}
"""

RELOADS = 300
# How many routes more are renamed at the end, at each of some reloads; and how many series of routes that are gone may be kept.
MANY, TIMES = 500, 5
GONE_MAX = 1000


def config(body="old", name="page"):
    return CONFIG.format(body=body, name=name)


class Renamed(Chaos):
    def test_three_hundred_renamed_routes_leave_little_behind(self):
        server = self.start(config())
        for number in range(RELOADS):
            if number == 100:
                self.watch(server)  # allocators have what they need by then
            name = f"route_with_a_name_of_its_own_{number}"
            self.reload(server, config(str(number), name), "/page/", str(number).encode())
            with Peer(server, f"/ws/{name}/") as peer:
                self.is_open(peer)
        with self.subTest("memory"):
            self.assert_memory_grew_by_at_most(2)

    def test_series_of_routes_that_are_gone_are_bounded(self):
        """They go with time; their number is bounded before that."""
        server = self.start(config())
        for number in range(TIMES):
            routes = "".join(ROUTE.format(name=f"gone_{number}_{one}", path=f"/{one}/") for one in range(MANY))
            self.reload(server, config(str(number)) + routes, "/page/", str(number).encode())
            with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)) as connection:
                for one in range(MANY):
                    connection.request("GET", f"/{one}/")
                    self.assertEqual(connection.getresponse().read(), b"a page")
            self.record.during()
        series = set(re.findall(r'route="gone_(\d+)_(\d+)"', server.request("/metrics")[2].decode()))
        self.assertLessEqual({(str(TIMES - 1), str(one)) for one in range(MANY)}, series, "routes that are there")
        self.assertLessEqual(len(series) - MANY, GONE_MAX)


class Blocked(Chaos):
    def blocked(self, *more):
        """Replaces the file by a FIFO without a writer, and requests a reload."""
        server = self.start(config(), *more)
        peer = self.peer(server)
        server.config.unlink()
        os.mkfifo(server.config)
        self.addCleanup(let_go, server.config)
        server.signal(signal.SIGHUP)
        return server, peer

    def test_a_file_that_is_a_fifo_refuses_the_reload_or_does_not_hold_up_the_end(self):
        server, peer = self.blocked()
        for _ in range(20):
            self.is_open(peer)
            self.is_served(server, "/page/")
        self.ends_in_order(server, peer)

    def test_a_reload_that_is_stuck_is_given_up_for_the_next_one(self):
        server, peer = self.blocked()
        until(lambda: "still being read" in tail(server), "the log to tell of a reload that takes long", DEADLINE)
        server.config.unlink()
        server.config.write_text(config("anew"), encoding="utf-8")
        server.signal(signal.SIGHUP)
        until(lambda: server.request("/page/")[2] == b"anew", "the new page")
        self.ends_in_order(server, peer)

    def test_many_reloads_of_a_fifo(self):
        """Each would hold a thread."""
        server, peer = self.blocked()
        for _ in range(50):
            server.signal(signal.SIGHUP)
            self.is_open(peer)
        threads = len(os.listdir(f"/proc/{server.pid}/task"))
        self.assertLess(threads, 20)
        self.ends_in_order(server, peer)

    def test_the_next_reload_works_once_the_file_is_one_again(self):
        server, _ = self.blocked()
        server.write(config("new"))  # the FIFO is replaced by a file; who reads the FIFO reads on
        server.signal(signal.SIGHUP)
        until(lambda: server.request("/page/")[2] == b"new" or server.signal(signal.SIGHUP), "the table of the new file")

    def test_a_watched_file_that_becomes_a_fifo(self):
        server = self.start(config(), "--watch")
        peer = self.peer(server)
        server.config.unlink()
        os.mkfifo(server.config)
        self.addCleanup(let_go, server.config)
        began = time.monotonic()
        while time.monotonic() - began < 2:  # the watcher looks every half second
            self.is_open(peer)
        self.ends_in_order(server, peer)

    def test_an_included_fifo(self):
        server = self.start(config())
        peer = self.peer(server)
        os.mkfifo(server.directory / "more.toml")
        self.addCleanup(let_go, server.directory / "more.toml")
        server.write('include = ["more.toml"]\n' + config())
        server.signal(signal.SIGHUP)
        for _ in range(20):
            self.is_open(peer)
        self.ends_in_order(server, peer)

    def test_a_device_without_an_end(self):
        """Reading it whole would take all memory; the limit is for the machine's sake."""
        server = self.start(config(), limits={resource.RLIMIT_AS: (1 << 31, 1 << 31)})
        peer = self.peer(server)
        server.config.unlink()
        server.config.symlink_to("/dev/zero")
        server.signal(signal.SIGHUP)
        began = time.monotonic()
        while time.monotonic() - began < 2:
            self.is_open(peer)
            self.assert_memory_grew_by_at_most(64)
        self.ends_in_order(server, peer)


    def test_a_key_file_without_an_end(self):
        limits = {resource.RLIMIT_AS: (1 << 31, 1 << 31)}
        server = self.start(config() + '[auth.bearer]\nkey_file = "key"\n', files={"key": "k" * 64}, limits=limits)
        peer = self.peer(server)
        (server.directory / "key").unlink()
        (server.directory / "key").symlink_to("/dev/zero")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload failed")
        self.is_open(peer)
        self.assert_memory_grew_by_at_most(64)
        self.ends_in_order(server, peer)

    def test_a_template_that_is_a_fifo(self):
        """Two requests for it, one for each worker: they fail, and hold up neither other requests nor the end."""
        page = '[templates]\ndir = "pages"\n[[http.route]]\npath = "/template/"\nview = "template"\noptions = { template = "a.html" }\n'
        server = self.start(config() + page, files={"pages/a.html": "a page"})
        peer = self.peer(server)
        place = server.directory / "pages/a.html"
        place.unlink()
        os.mkfifo(place)
        self.addCleanup(let_go, place)
        server.signal(signal.SIGHUP)
        for _ in range(2):
            client = self.enterContext(Bytes(("127.0.0.1", server.port)))
            client.send(b"GET /template/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(20):
            self.is_open(peer)
            self.is_served(server, "/page/")
        self.ends_in_order(server, peer)


class Watched(Chaos):
    """The file is reached by symbolic links: oneport.toml -> ..data/oneport.toml, and ..data -> a directory with a date in its name."""

    def begin(self, swap):
        server = Disturbed(config(), "--watch")
        self.addCleanup(server.close)
        self.put(server, "old", 1)
        server.config.unlink()
        (server.directory / "..data").symlink_to("..1")
        server.config.symlink_to("..data/oneport.toml")
        with server:
            self.watch(server)
            self.is_page(server, b"old")
            for number, body in enumerate(("new", "newer"), 2):
                self.put(server, body, number)
                swap(server, number)
                self.is_page(server, body.encode())
            self.record.during()

    def put(self, server, body, number):
        """Writes a version of the file into a directory of its own."""
        place = server.directory / f"..{number}"
        place.mkdir()
        (place / "oneport.toml").write_text(config(body) + WATCHED, encoding="utf-8")
        # A version from the same tick with the same length: the file's time does not reveal the change.
        os.utime(place / "oneport.toml", (1_700_000_000, 1_700_000_000))

    def is_page(self, server, body):
        until(lambda: server.request("/page/")[2] == body, lambda: f"the page {body}\n{tail(server)}", DEADLINE / 2)

    def test_a_link_to_a_directory_that_is_swapped(self):
        """As the kubelet does: another directory, a link to it, and a rename over the old link."""

        def swap(server, number):
            link = server.directory / "..data_tmp"
            link.symlink_to(f"..{number}")
            link.replace(server.directory / "..data")
            shutil.rmtree(server.directory / f"..{number - 1}")

        self.begin(swap)

    def test_a_directory_that_is_swapped_under_its_name(self):
        def swap(server, number):
            data = server.directory / "..data"
            if data.is_symlink():
                data.unlink()
            else:
                data.rename(server.directory / f"..old{number}")
            (server.directory / f"..{number}").rename(data)

        self.begin(swap)

    def test_a_link_that_is_swapped_for_a_link(self):
        def swap(server, number):
            link = server.directory / "link"
            link.symlink_to(f"..{number}/oneport.toml")
            link.replace(server.config)

        self.begin(swap)


def let_go(fifo):
    """Unblocks the reader of the FIFO, so that no thread is left behind."""

    def write():
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            pass  # nobody reads

    threading.Thread(target=write, daemon=True).start()


if __name__ == "__main__":
    unittest.main()
