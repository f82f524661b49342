"""gunicorn: a WSGI application of the tests behind the view `proxy`, on a free port."""

import subprocess
import sys
import tempfile
from pathlib import Path

from .deadline import DEADLINE, until
from .postgres import free_port

APPLICATION = '''
import hashlib, json, time


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/environ":
        facts = {key: value for key, value in environ.items() if isinstance(value, str)}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(facts).encode()]
    if path == "/upload":
        count, digest = 0, hashlib.sha256()
        while part := environ["wsgi.input"].read(65536):
            count += len(part)
            digest.update(part)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{count} {digest.hexdigest()}".encode()]
    if path == "/download":
        count = int(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return (b"x" * 65536 for _ in range(count // 65536))
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events()
    if path == "/redirect":
        start_response("302 Found", [("Location", f"http://{environ['HTTP_HOST']}/environ")])
        return []
    if path == "/cookies":
        cookies = [("Set-Cookie", "sessionid=of-the-app; Path=/"), ("Set-Cookie", "theme=dark; Path=/")]
        start_response("200 OK", [("Content-Type", "text/plain"), *cookies])
        return [b"two cookies"]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"no such page"]


def events():
    for number in range(3):
        yield f"data: {number} {time.monotonic()}\\n\\n".encode()
        time.sleep(0.5)
'''


class Gunicorn:
    """A running gunicorn with two threads. Use it with `with`."""

    def __init__(self, bind=None):
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-gunicorn-"))
        (self.directory / "app.py").write_text(APPLICATION, encoding="utf-8")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._bind = bind or f"127.0.0.1:{self.port}"
        self._process = None
        self._starts = 0

    def __enter__(self):
        return self.start()

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--bind", self._bind, "--threads", "8", "--keep-alive", "5", "app"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._starts += 1
        log = self.directory / "log"
        until(lambda: log.read_text().count("Booting worker") == self._starts, "a gunicorn that listens")
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Ends the process; `start` starts another one on the same port."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
