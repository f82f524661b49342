"""Server: the process under test with outputs, limits and surroundings of the test's choice."""

import resource
import signal
import socket
import subprocess

from kit.postgres import free_port
from kit.server import Server


class Disturbed(Server):
    """Listens at a port chosen beforehand, so that nothing depends on what it prints.

    `stdout`, `stderr`: files or descriptors in place of the usual ones. `limits`: resource limits as `{RLIMIT_NOFILE: (soft, hard)}`.
    `addresses`: where it listens besides, as they stand in the file. `before`: a command that runs the server, such as `unshare`; it must not fork.
    """

    def __init__(self, config, *more, stdout=None, stderr=None, limits=None, before=(), addresses=(), **options):
        self._chosen = free_port()
        if addresses:
            config = f'[server]\nbind = ["127.0.0.1:{self._chosen}", {", ".join(addresses)}]\n' + config
        self._outputs = {name: file for name, file in (("stdout", stdout), ("stderr", stderr)) if file is not None}
        self._limits = limits or {}
        self._before = before
        super().__init__(config, *more, start=self._begin, bind=None if addresses else f"127.0.0.1:{self._chosen}", **options)

    def kill(self):
        """Ends it without a word; it can be started again."""
        self._process.kill()
        self._process.wait()
        self._process = None

    def _begin(self, arguments, **options):
        return subprocess.Popen([*self._before, *arguments], preexec_fn=self._set_limits, **{**options, **self._outputs})

    def _set_limits(self):
        for limit, value in self._limits.items():
            resource.setrlimit(limit, value)
        if resource.RLIMIT_FSIZE in self._limits:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit fails, as on a full disk

    def _is_healthy(self):
        self._must_run()
        return super()._is_healthy()

    def _must_run(self):
        if not self.is_running:
            raise AssertionError(f"the server ended before it listened\n{self.log()}")

    def _listens(self):
        self._must_run()
        try:
            socket.create_connection(("127.0.0.1", self._chosen), 1).close()
        except OSError:
            return None
        return f"http://127.0.0.1:{self._chosen}"
