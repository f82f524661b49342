"""Redis: a server of the tests' own on a free port, which keeps nothing on disk unless it is asked to."""

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import redis

from .deadline import DEADLINE, Late, until
from .postgres import free_port
from .still import freeze, thaw

_PASSWORD = "s3cret"


class Redis:
    """A running Redis server. One that is `kept` knows after a stop, or a kill, all that it had answered before."""

    def __init__(self, *, kept=False):
        self.kept = kept
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-redis-"))
        self.port = free_port()
        self._process = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Starts it, empty unless it is kept, and waits until it answers."""
        assert self._process is None, "expected a Redis that is stopped, found it running"
        found = shutil.which("redis-server")
        if found is None:
            raise AssertionError("expected redis-server, found none: install Debian's package redis-server")
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    found,
                    "--bind", "127.0.0.1",
                    "--port", str(self.port),
                    "--requirepass", _PASSWORD,
                    "--save", "",
                    "--appendonly", "yes" if self.kept else "no",
                    "--unixsocket", self.unix_socket,
                    "--dir", self.directory,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )  # fmt: skip
        until(self._answers, lambda: f"Redis to answer\n{self.log()}")
        with self.client() as client:
            client.acl_setuser(
                "reader",
                enabled=True,
                reset=True,
                passwords=[f"+{_PASSWORD}"],
                keys=["*"],
                categories=["+@read", "+@connection"],
            )

    def stop(self):
        """Ends it as an administrator does; what it held is gone unless it is kept."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Late(f"expected Redis to end within {DEADLINE} s\n{self.log()}") from None
        self._process = None

    def kill(self):
        """Ends it in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self):
        """Pauses it: the kernel accepts connections, and nothing is sent on them."""
        freeze(self._process.pid)

    def thaw(self):
        thaw(self._process.pid)

    @property
    def is_running(self):
        return self._process is not None

    def close(self):
        """Leaves nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database=0, *, scheme="redis", user=""):
        """Returns the URL of one of its databases. The user `reader` may not write."""
        return f"{scheme}://{user}:{_PASSWORD}@127.0.0.1:{self.port}/{database}"

    @property
    def unix_socket(self):
        return self.directory / "socket"

    def client(self, database=0):
        """Returns a client of the `redis` library."""
        return redis.Redis.from_url(self.url(database), socket_timeout=DEADLINE, socket_connect_timeout=DEADLINE)

    def content(self, database=0):
        """Returns all that a database holds, and until when, by key."""
        with self.client(database) as client:
            return {key: (client.dump(key), client.pexpiretime(key)) for key in client.keys()}

    def log(self):
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _answers(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected Redis to start, found exit code {self._process.returncode}\n{self.log()}")
        try:
            with self.client() as client:
                return client.ping()
        except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return None
