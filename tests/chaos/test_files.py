"""Files: a mount that does not answer, files that change under load, and more files than fit in memory."""

import http.client
import os
import resource
import socket
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from disturb.case import Chaos
from disturb.silent_mount import SilentMount, StallingMount
from kit.deadline import DEADLINE, until
from kit.visitor import PAGES, Visitor, add_user

CONFIG = """
[server.limits]
file_cache = "4 MiB"

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }
request_timeout = "8s"

[[http.route]]
path = "/mirror/{*path}"
view = "static"
options = { dir = "files", cache_control = "max-age=60" }
request_timeout = "8s"

[[http.route]]
path = "/other/{*path}"
view = "static"
options = { dir = "other" }

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

USERS = """
[session]
store = "sqlite:site.db"

[auth]
users = "sqlite:site.db"

[templates]
dir = "pages"

[[http.route]]
path = "/login/"
view = "login"
middleware = ["hosts", "session", "auth"]
"""

# The threads that one directory and all directories may occupy, as the server computes them.
BLOCKING_THREADS = min(max(resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 16, 32), 400) // 2
THREADS_OF_A_DIRECTORY = BLOCKING_THREADS // 8
THREADS_OF_ALL = BLOCKING_THREADS // 2
# Beyond those: workers, the log, the first threads of the runtime.
THREADS_BESIDE = 16

LARGE = bytes(range(256)) * 4096 * 8  # 8 MiB


def hours_old(path):
    """Makes a file look unchanged for long enough to be kept."""
    then = time.time() - 3600
    os.utime(path, (then, then))


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


class Files(Chaos):
    def start_with(self, files, config=CONFIG):
        server = self.start(config, files={"other/b.txt": "other", **files})
        for name in files:
            hours_old(server.directory / name)
        return server

    def status(self, server, path):
        return server.request(path)[0]

    def test_a_mount_that_does_not_answer_delays_only_its_own_files(self):
        server = self.start_with({"files/a.txt": "first", "files/large.bin": LARGE})
        peer = self.peer(server)
        self.assertEqual(server.request("/files/a.txt")[2], b"first")
        mount = self.mount(SilentMount(server.directory / "files"))
        begun_with = threads(server.pid)
        with ThreadPoolExecutor(150) as pool:
            paths = [f"/{('files', 'mirror')[number % 2]}/{number}.txt" for number in range(150)]
            waiting = [pool.submit(self.status, server, path) for path in paths]
            until(lambda: threads(server.pid) >= THREADS_OF_A_DIRECTORY, "threads that wait for the mount")
            # Neither a view without files, nor one with files elsewhere, nor a socket waits.
            for _ in range(20):
                begun = time.monotonic()
                self.assertEqual(self.status(server, "/health/"), 200)
                self.assertEqual(server.request("/other/b.txt")[2], b"other")
                self.is_open(peer)
                self.assertLess(time.monotonic() - begun, 1)
            self.assertLessEqual(threads(server.pid), begun_with + THREADS_OF_A_DIRECTORY + THREADS_BESIDE)
            statuses = [request.result() for request in waiting]
        # The requests that have a thread end with their `request_timeout`, all others get none.
        self.assertEqual(sorted(set(statuses)), [503, 504])
        self.assertEqual(statuses.count(504), THREADS_OF_A_DIRECTORY)
        refused = server.metric("oneport_file_timeouts_total", waited_for="thread")
        self.assertEqual(refused, 150 - THREADS_OF_A_DIRECTORY)
        # What was kept is not served for ever: it may have changed.
        until(lambda: self.status(server, "/files/a.txt") == 503, "the check of a kept file")
        mount.end()
        until(lambda: self.status(server, "/files/a.txt") == 200, "files after the mount")
        self.assertEqual(server.request("/files/large.bin")[2], LARGE)

    def test_a_file_is_served_once_its_mount_is_gone_although_requests_still_wait(self):
        """Clients that come without a pause must not join the ones before them for ever."""
        server = self.start_with({"files/a.txt": "first"})
        mount = self.mount(SilentMount(server.directory / "files"))
        over = threading.Event()

        def ask():
            while not over.is_set():
                self.status(server, "/files/a.txt")

        with ThreadPoolExecutor(4) as pool:
            try:
                for _ in range(4):
                    pool.submit(ask)
                    time.sleep(0.5)
                time.sleep(1)  # a look-up of this age is joined no more
                mount.uncover()
                until(lambda: self.status(server, "/files/a.txt") == 200, "the file below", 4)
            finally:
                over.set()
        mount.end()

    def test_mounts_that_do_not_answer_leave_threads_for_everything_else(self):
        """Ten of them would have all threads, and no password could be hashed."""
        names = [f"mount{number}" for number in range(10)]
        routes = "".join(
            f'[[http.route]]\npath = "/{name}/{{*path}}"\nview = "static"\n'
            f'options = {{ dir = "{name}" }}\nrequest_timeout = "8s"\n'
            for name in names
        )
        files = {f"{name}/a.txt": name for name in ("files", *names)}
        server = self.start_with(files | PAGES, config=CONFIG + USERS + routes)
        add_user(server, "anna")
        for name in names:
            self.mount(SilentMount(server.directory / name))
        with ThreadPoolExecutor(300) as pool:
            waiting = [pool.submit(self.status, server, f"/{name}/{at}.txt") for name in names for at in range(30)]
            until(lambda: threads(server.pid) >= THREADS_OF_ALL, "threads that wait for the mounts")
            for _ in range(5):
                begun = time.monotonic()
                Visitor(server).log_in("anna")
                self.assertLess(time.monotonic() - begun, 3)
            self.assertLessEqual({request.result() for request in waiting}, {503, 504})
            # There is no thread for other files either.
            self.assertEqual(self.status(server, "/other/b.txt"), 503)
            self.assertEqual(server.metric("oneport_file_timeouts_total", waited_for="thread"), 301 - THREADS_OF_ALL)

    def test_a_body_whose_file_stops_to_answer_ends(self):
        server = self.start_with({"files/a.txt": "first"})
        mount = self.mount(StallingMount(server.directory / "files", len(LARGE), len(LARGE) // 2))
        begun_with = threads(server.pid)
        clients = []
        for _ in range(THREADS_OF_A_DIRECTORY + 5):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            self.addCleanup(connection.close)
            connection.request("GET", "/files/file")
            clients.append(connection.getresponse())
            self.assertEqual(clients[-1].status, 200)

        def read(response):
            try:
                return len(response.read())
            except http.client.IncompleteRead as error:
                return len(error.partial)

        with ThreadPoolExecutor(len(clients)) as pool:
            bodies = [pool.submit(read, response) for response in clients]
            self.assertTrue(mount.has_stalled.wait(DEADLINE), "the mount to be read")
            for _ in range(20):
                self.assertEqual(server.request("/other/b.txt")[2], b"other")
            for body in bodies:
                self.assertLess(body.result(), len(LARGE))
        # Closing the file waits for the mount, too.
        self.assertEqual(self.status(server, "/health/"), 200)
        self.assertLessEqual(threads(server.pid), begun_with + THREADS_OF_A_DIRECTORY + THREADS_BESIDE)
        self.assertGreaterEqual(server.metric("oneport_file_timeouts_total", waited_for="read"), 1)
        self.assertGreaterEqual(server.metric("oneport_file_timeouts_total", waited_for="thread"), 5)
        mount.end()
        until(lambda: self.open_files(server) == 0, "the files of the mount to be closed")
        self.assertEqual(server.request("/files/a.txt")[2], b"first")

    def mount(self, mount):
        self.enterContext(mount)
        if not mount.is_mounted:
            self.skipTest("only root can mount a file system")
        return mount

    def test_files_that_are_replaced_under_load_arrive_whole(self):
        """Each version repeats one byte, so a response of two versions is recognized."""
        sizes = {"small.bin": (100, 30_000), "large.bin": (100_000, 3_000_000)}
        server = self.start_with({f"files/{name}": b"a" * size for name, (size, _) in sizes.items()})
        over = threading.Event()

        def replace():
            turn = 0
            while not over.wait(0.002):
                for name, (low, high) in sizes.items():
                    turn += 1
                    path = server.directory / "files" / name
                    draft = path.with_suffix(".draft")
                    draft.write_bytes(bytes([97 + turn % 26]) * (low + (turn * 7919) % (high - low)))
                    hours_old(draft)
                    draft.replace(path)

        def read(name):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
            for _ in range(150):
                connection.request("GET", f"/files/{name}")
                response = connection.getresponse()
                body = response.read()
                self.assertEqual(response.status, 200)
                self.assertEqual(len(body), int(response.headers["content-length"]))
                self.assertEqual(body.count(body[:1]), len(body))
            connection.close()

        writer = threading.Thread(target=replace)
        writer.start()
        try:
            with ThreadPoolExecutor(6) as pool:
                for done in [pool.submit(read, name) for name in list(sizes) * 3]:
                    done.result()
            self.record.during()
        finally:
            over.set()
            writer.join()

    def test_more_files_than_fit_take_bounded_memory_and_leave_the_hot_ones(self):
        count = 10_000
        server = self.start_with({"files/hot.css": "hot" * 1000})
        folder = server.directory / "files"
        for number in range(count):
            path = folder / f"{number}.txt"
            path.write_bytes(b"%d\n" % number * 400)
            hours_old(path)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)

        def get(name):
            connection.request("GET", f"/files/{name}")
            response = connection.getresponse()
            return response.status, response.read()

        for _ in range(20):
            self.assertEqual(get("hot.css")[0], 200)
        before = server.metric("oneport_file_cache_misses_total")
        for number in range(count):
            self.assertEqual(get(f"{number}.txt"), (200, b"%d\n" % number * 400))
            if number % 50 == 0:
                self.assertEqual(get("hot.css")[0], 200)
        self.record.during()
        self.assertLessEqual(server.metric("oneport_file_cache_bytes"), 4 << 20)
        # Each file once, and not the hot one again.
        self.assertEqual(server.metric("oneport_file_cache_misses_total") - before, count)

    def test_readers_that_leave_and_readers_that_wait_keep_no_file_open(self):
        server = self.start_with({f"files/{number}.bin": LARGE for number in range(4)})
        clients = []
        for number in range(200):
            client = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
            client.sendall(b"GET /files/%d.bin HTTP/1.1\r\nHost: localhost\r\n\r\n" % (number % 4))
            clients.append(client)
        for client in clients:
            self.assertTrue(client.recv(1000).startswith(b"HTTP/1.1 200"))
        self.record.during()
        # All that read the same file share its descriptor.
        self.assertLessEqual(self.open_files(server), 4)
        for client in clients:
            client.close()
        self.assertEqual(server.request("/files/1.bin")[2], LARGE)

    def open_files(self, server):
        folder = str(server.directory / "files")
        links = []
        for entry in Path(f"/proc/{server.pid}/fd").iterdir():
            try:
                links.append(os.readlink(entry))
            except FileNotFoundError:
                pass
        return sum(link.startswith(folder) for link in links)


if __name__ == "__main__":
    unittest.main()
