"""Server: the process under test. Each has a configuration of its own, a free port, and is ended by its process id."""

import http.client
import os
import re
import signal
import subprocess
import tempfile
import textwrap
from pathlib import Path

from .deadline import DEADLINE, Late, until
from .still import freeze, thaw

ROOT = Path(__file__).resolve().parents[4]

HEALTH = """
[[http.route]]
path = "/health/"
view = "health"
"""

METRICS = """
[[http.route]]
path = "/metrics"
view = "metrics"
"""

# In every configuration: what the tests themselves look at. One that has a route for /health/ keeps its own.
WATCHED = HEALTH + METRICS


def binary():
    """Returns the binary that ONEPORT_BIN names."""
    found = Path(os.environ.get("ONEPORT_BIN", ROOT / "target/debug/oneport")).resolve()
    if not found.is_file():
        raise AssertionError(f"expected ONEPORT_BIN to name a binary, found no file at {found}")
    return found


class Server:
    """A running server. Use it with `with`: it must end with 0 after SIGTERM."""

    def __init__(self, config, *more, files=None, environment=None, start=None, bind="127.0.0.1:0"):
        """`more`: further arguments. `files`: other files next to the configuration."""
        self._directory = tempfile.TemporaryDirectory(prefix="oneport-test-")
        self.directory = Path(self._directory.name)
        self.config = self.directory / "oneport.toml"
        self.write(config)
        for name, content in (files or {}).items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self._arguments = [*(("--bind", bind) if bind else ()), *more]
        self._environment = environment or {}
        self._start = start or subprocess.Popen
        self._process = None
        self.port = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and self._process is not None:
                self.stop()
        finally:
            self.close()

    def write(self, config, name="oneport.toml"):
        """Writes the configuration (or a file next to it), atomically as an editor does."""
        path = self.directory / name
        whole = textwrap.dedent(config)
        if name == "oneport.toml":
            whole += METRICS if re.search(r'(?m)^path\s*=\s*"/health/"', whole) else WATCHED
        draft = path.with_suffix(".draft")
        draft.write_text(whole, encoding="utf-8")
        draft.replace(path)

    def start(self):
        """Starts the process and waits until it is healthy."""
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            self._process = self._start(
                [binary(), "serve", "--config", self.config, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env={**os.environ, "NO_COLOR": "1", **self._environment},
            )
        said = until(self._listens, lambda: f"a server that listens\n{self.log()}")
        port = re.search(r"https?://127\.0\.0\.1:(\d+)", said)
        if port:
            self.port = int(port.group(1))
            until(self._is_healthy, lambda: f"a healthy server\n{self.log()}")

    def stop(self, wanted=0):
        """Asks the server to end, as an operator does; fails when it does not, or with another exit code."""
        self.signal(signal.SIGTERM)
        self.wait(wanted)

    def wait(self, wanted=0):
        """Waits for the end of the process."""
        try:
            code = self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Late(f"expected the server to end within {DEADLINE} s\n{self.log()}") from None
        self._process = None
        if code != wanted:
            raise AssertionError(f"expected exit code {wanted}, found {code}\n{self.log()}")

    def signal(self, number):
        os.kill(self.pid, number)

    def freeze(self):
        """Pauses it: the kernel accepts connections, and nothing is sent on them."""
        freeze(self.pid)

    def thaw(self):
        thaw(self.pid)

    def close(self):
        """Leaves nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._directory.cleanup()

    def reload(self, config):
        """Replaces the configuration, sends SIGHUP, and waits for its log line."""
        self.write(config)
        before = self.reloads()
        self.signal(signal.SIGHUP)
        return until(lambda: self.reloads() > before and self.log(), lambda: f"a reload\n{self.log()}")

    def reloads(self):
        return len(re.findall(r"\breloaded\b|reload failed", self.log()))

    @property
    def pid(self):
        return self._process.pid

    @property
    def is_running(self):
        return self._process is not None and self._process.poll() is None

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def origin(self):
        return f"http://{self.host}"

    def log(self):
        """Returns its output so far, of both streams."""
        return "".join(
            (self.directory / name).read_text(encoding="utf-8", errors="replace")
            for name in ("stdout", "stderr")
            if (self.directory / name).exists()
        )

    def wait_for_log(self, pattern):
        return until(lambda: re.search(pattern, self.log()), lambda: f"{pattern!r} in the log\n{self.log()}")

    def request(self, path, method="GET", headers=None, body=None):
        """Makes one HTTP request; returns status, header fields and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def metric(self, name, /, **labels):
        """Returns the sum of a metric over all label sets with these labels; 0 if there is none."""
        total = 0.0
        for line in self.request("/metrics")[2].decode().splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= have.items():
                    total += float(found[3])
        return total

    def resident_bytes(self):
        """Returns how much memory the process has (VmRSS)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024

    def _listens(self):
        if not self.is_running:
            raise AssertionError(f"the server ended before it listened\n{self.log()}")
        said = (self.directory / "stdout").read_text(encoding="utf-8")
        return said if "\n" in said and " listens at " in said else None

    def _is_healthy(self):
        try:
            return self.request("/health/")[0] == 200
        except OSError:
            return False
