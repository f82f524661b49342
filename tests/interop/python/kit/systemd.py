"""Systemd: a service manager of a test's own, `systemd --user`, in a mount namespace in which the system looks booted by systemd."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .deadline import DEADLINE, until

_MANAGER = "/lib/systemd/systemd"

# `systemd --user` only starts where /run/systemd/system exists.
_START = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$0" --user
"""


def is_possible():
    """Returns whether this machine can run one: as root, with systemd installed."""
    if os.geteuid() != 0 or not Path(_MANAGER).exists() or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=DEADLINE).returncode == 0


class Systemd:
    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="oneport-systemd-")
        self.directory = Path(self._directory.name)
        self._runtime = self.directory / "runtime"
        self._units = self._runtime / "systemd/user"
        self._units.mkdir(parents=True)
        self._runtime.chmod(0o700)
        self._environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(self._runtime), "HOME": str(self.directory)}
        self._process = None

    def __enter__(self):
        with open(self.directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", _START, _MANAGER],
                env={**self._environment, "SYSTEMD_LOG_TARGET": "console"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(lambda: self.ask("is-system-running").stdout.strip() in ("running", "degraded"), lambda: f"systemd\n{self.log()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Ends it; it ends its services before."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()

    def log(self):
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def ask(self, *command):
        # In its namespace: elsewhere systemctl finds a system that is not booted by systemd.
        inside = ["nsenter", f"--target={self._process.pid}", "--mount"]
        return subprocess.run(
            [*inside, "systemctl", "--user", "--no-pager", *command], env=self._environment, capture_output=True, text=True, timeout=3 * DEADLINE
        )

    def do(self, *command):
        """Runs systemctl, which must succeed."""
        done = self.ask(*command)
        if done.returncode != 0:
            raise AssertionError(f"systemctl {command}: {done.stderr}\n{self.log()}")

    def unit(self, name, text):
        (self._units / name).write_text(text, encoding="utf-8")
        self.do("daemon-reload")

    def show(self, unit, name):
        """Returns a property of a unit."""
        return self.ask("show", "--value", f"--property={name}", unit).stdout.strip()
