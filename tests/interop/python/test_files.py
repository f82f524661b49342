"""Files and compressed responses, as curl and its decoders see them."""

import gzip
import os
import subprocess
import sys
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.deadline import DEADLINE, until
from kit.postgres import free_port
from kit.server import Server, binary

TEXT = "".join(f"line {number} of a text that repeats itself\n" for number in range(5000))
BINARY = bytes(range(256)) * 8000

CONFIG = """
[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files", listing = true, cache_rules = [{ files = "*.[hash].css", cache_control = "public, max-age=31536000, immutable" }] }

[[http.route]]
path = "/packed/{*path}"
view = "static"
middleware = ["compress"]
options = { dir = "files" }
"""


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        files = {
            "files/a.txt": TEXT,
            "files/b.txt": TEXT,
            "files/b.txt.gz": gzip.compress(TEXT.encode()),
            "files/c.bin": BINARY,
            "files/site.0123456789ab.css": "body {}",
        }
        cls.server = cls.enterClassContext(Server(CONFIG, files=files))

    def curl(self, path, *options):
        """Returns status, header fields (the last response's), and the decoded body."""
        with tempfile.TemporaryDirectory() as directory:
            head, body = Path(directory, "head"), Path(directory, "body")
            command = ["curl", "--silent", "--show-error", "--max-time", "20", "--dump-header", head, "--output", body]
            subprocess.run([*command, *options, self.server.origin + path], check=True)
            lines = head.read_bytes().decode().split("\r\n\r\n")[-2].splitlines()
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            return int(lines[0].split()[1]), fields, body.read_bytes() if body.exists() else b""

    def test_each_coding_is_decoded_by_curl(self):
        for coding in ("br", "zstd", "gzip"):
            for version in ("--http1.1", "--http2-prior-knowledge"):
                with self.subTest(coding=coding, version=version):
                    accept = ("--compressed", "--header", f"Accept-Encoding: {coding}")
                    status, fields, body = self.curl("/packed/a.txt", version, *accept)
                    self.assertEqual((status, fields["content-encoding"]), (200, coding))
                    self.assertTrue(fields["etag"].startswith('w/"'))
                    self.assertEqual(body.decode(), TEXT)

    def test_a_precompressed_file_is_served_instead(self):
        status, fields, body = self.curl("/files/b.txt", "--compressed")
        self.assertEqual((status, fields["content-encoding"], body.decode()), (200, "gzip", TEXT))
        status, fields, body = self.curl("/files/b.txt")
        self.assertEqual((fields.get("content-encoding"), body.decode()), (None, TEXT))

    def test_a_download_is_resumed(self):
        with tempfile.TemporaryDirectory() as directory:
            part = Path(directory, "part")
            part.write_bytes(BINARY[:1_000_001])
            url = self.server.origin + "/files/c.bin"
            for version in ("--http1.1", "--http2-prior-knowledge"):
                subprocess.run(["curl", "--silent", version, "--continue-at", "-", "--output", part, url], check=True)
                self.assertEqual(part.read_bytes(), BINARY)
                part.write_bytes(BINARY[:12_345])

    def test_an_etag_saves_the_second_download(self):
        with tempfile.TemporaryDirectory() as directory:
            tag = Path(directory, "tag")
            for path in ("/files/c.bin", "/packed/a.txt"):
                self.curl(path, "--compressed", "--etag-save", tag)
                status, _, body = self.curl(path, "--compressed", "--etag-compare", tag)
                self.assertEqual((status, body), (304, b""))

    def test_rules_and_listings(self):
        fields = self.curl("/files/site.0123456789ab.css")[1]
        self.assertEqual(fields["cache-control"], "public, max-age=31536000, immutable")
        status, fields, body = self.curl("/files/")
        self.assertEqual((status, fields["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertIn(b'href="./site.0123456789ab.css"', body)
        self.assertEqual(self.curl("/packed/")[0], 404)


class Leased:
    """A file on which another process holds a lease, as Samba does: who opens it waits."""

    HOLDER = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], "r+b")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
sys.stdin.read()
"""

    def __init__(self, path):
        self._path = path

    def __enter__(self):
        command = [sys.executable, "-c", self.HOLDER, self._path]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout.readline() == b"leased\n"
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait(DEADLINE)


class KeptFiles(unittest.TestCase):
    def start(self, **files):
        files = {f"files/{name}.txt": content for name, content in files.items()}
        return self.enterContext(Server(CONFIG, files={"files/other.txt": "other", **files}))

    def misses(self, server):
        return server.metric("oneport_file_cache_misses_total")

    def test_requests_for_a_file_that_is_not_kept_share_one_look_at_it(self):
        """The file has just been written, so each request looks at it again, but not one after the other."""
        server = self.start(leased="leased")
        path = server.directory / "files" / "leased.txt"
        with Leased(path) as lease, ThreadPoolExecutor(30) as pool:
            os.utime(path, (time.time() + 3600,) * 2)
            requests = [pool.submit(server.request, "/files/leased.txt") for _ in range(30)]
            until(lambda: server.metric("oneport_file_cache_hits_total") == 29, "requests that wait for the first")
            self.assertEqual(server.request("/files/other.txt")[2], b"other")
            self.assertFalse(any(request.done() for request in requests))
            lease.end()
            self.assertEqual({request.result()[2] for request in requests}, {b"leased"})
        self.assertEqual(self.misses(server), 2)

    def test_files_of_a_route_that_is_gone_take_no_memory(self):
        server = self.start(kept="kept")
        path = server.directory / "files" / "kept.txt"
        os.utime(path, (time.time() - 3600,) * 2)

        def kept_bytes():
            return server.metric("oneport_file_cache_bytes")

        self.assertEqual(server.request("/files/kept.txt")[2], b"kept")
        self.assertGreater(kept_bytes(), 0)
        # The same route after a reload finds them.
        before = self.misses(server)
        server.reload(CONFIG + "# another file\n")
        self.assertEqual(server.request("/files/kept.txt")[2], b"kept")
        self.assertEqual(self.misses(server), before)
        server.reload("")
        until(lambda: kept_bytes() == 0, "the files to be dropped")


class FilesUnderTls(unittest.TestCase):
    """The kernel does not send these: their bytes are encrypted."""

    def test_files_of_each_size_arrive_as_they_are(self):
        sizes = (0, 1, 65_536, 65_537, 131_072, 2_000_001)
        content = bytes(number * 31 % 251 for number in range(max(sizes)))
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([binary(), "dev-cert", directory], check=True, stdout=subprocess.DEVNULL)
            tls = {name: Path(directory, name).read_bytes() for name in ("cert.pem", "key.pem", "ca.pem")}
        files = {**tls, **{f"files/{size}": content[:size] for size in sizes}}
        config = '[server.tls]\ncertificate = "cert.pem"\nkey = "key.pem"\nplaintext = "serve"\n' + CONFIG
        port = free_port()
        with Server(config, files=files, bind=f"127.0.0.1:{port}") as server:
            for version in ("--http1.1", "--http2"):
                for size in sizes:
                    for part in (None, f"{size // 3}-{size // 2}"):
                        with self.subTest(version=version, size=size, part=part):
                            if part and size < 2:
                                continue
                            ranged = ("--range", part) if part else ()
                            url = f"https://localhost:{port}/files/{size}"
                            command = ["curl", "--silent", "--show-error", "--cacert", server.directory / "ca.pem", version, *ranged, url]
                            found = subprocess.run(command, check=True, capture_output=True).stdout
                            self.assertEqual(found, content[size // 3 : size // 2 + 1] if part else content[:size])


if __name__ == "__main__":
    unittest.main()
