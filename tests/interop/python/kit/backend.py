"""Backend: a program behind `consumer = "backend"`, run as in its example."""

import os
import re
import socket
import subprocess
import tempfile
import time

from .deadline import DEADLINE, Late, until
from .postgres import free_port
from .server import ROOT

SECRET = "a secret of the examples"
TOKEN = "a-token-of-the-examples-0123456789"
EXAMPLES = ROOT / "examples/backend"
PACKAGE = ROOT / "client/python/src"


class Backend:
    """A running program that listens at `port`. Use it with `with`."""

    def __init__(self, command, directory=EXAMPLES, **environment):
        """`command` is given the port."""
        self.port = free_port()
        self._command = command(self.port)
        self._directory = directory
        self._environment = environment
        self._log = tempfile.NamedTemporaryFile(prefix="oneport-backend-")  # noqa: SIM115 - closed in __exit__
        self._process = None

    @property
    def environment(self):
        """What the program and the example's configuration take from the environment."""
        return {"BACKEND_PORT": str(self.port), "BACKEND_SECRET": SECRET, "PUBLISH_TOKEN": TOKEN}

    def __enter__(self):
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self._directory,
            env={**os.environ, "PYTHONPATH": str(PACKAGE), **self.environment, **self._environment},
        )
        until(self._listens, lambda: f"a backend that listens\n{self.log()}")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def log(self):
        with open(self._log.name, encoding="utf-8", errors="replace") as log:
            return log.read()

    def wait_for_log(self, pattern):
        return until(lambda: re.search(pattern, self.log()), lambda: f"{pattern!r} in the backend's log\n{self.log()}")

    def _listens(self):
        if self._process.poll() is not None:
            raise Late(f"the backend ended with {self._process.returncode}\n{self.log()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            time.sleep(0.02)
            return False


def example(path):
    """Returns an example's configuration, with the paths in it made absolute."""
    return (EXAMPLES / path).read_text(encoding="utf-8").replace('"../../', f'"{ROOT}/')
