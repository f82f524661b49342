"""Restart: a server whose process is replaced by SIGUSR2, and the program that it is replaced by."""

import ctypes
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

from .deadline import DEADLINE, Late, until
from .server import Server, binary
from .tls import SecureServer

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of each process whose own parent ends, so that it learns their exit codes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Adopted:
    """A process whose parent has ended, with the part of subprocess.Popen that Server uses."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            try:
                found, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # still, or always, another process's child
                self.returncode = None if exists(self.pid) else 0
                return self.returncode
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=DEADLINE):
        try:
            until(lambda: self.poll() is not None, "the end of the process", timeout)
        except Late:
            raise subprocess.TimeoutExpired("adopted process", timeout) from None
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Restarts:
    """A server that is started from a link, which a test points to another program."""

    def __init__(self, *arguments, start=None, **options):
        adopt_orphans()
        begin = start or subprocess.Popen
        options["start"] = lambda command, **rest: begin([self.program, *command[1:]], **rest)
        super().__init__(*arguments, **options)
        self.program = self.directory / "bin/oneport"
        self.program.parent.mkdir()
        self.install(binary())
        self._left = []

    def close(self):
        # A new process outlives the old one, whose test has failed in between.
        if self.is_running:
            self._left += [Adopted(pid) for pid in self.children()]
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for process in self._left:
            process.kill()
            process.wait()
        self._left.clear()
        super().close()

    def install(self, program):
        """Puts a program at the path of the running one: a path, or the text of a script."""
        draft = self.program.with_name("draft")
        if isinstance(program, Path):
            draft.symlink_to(program)
        else:
            draft.write_text(program, encoding="utf-8")
            draft.chmod(stat.S_IRWXU)
        draft.replace(self.program)

    def slow(self, seconds):
        """Installs a program that starts late."""
        self.install(f'#!/bin/sh\nsleep {seconds}\nexec {binary()} "$@"\n')

    def begin_restart(self):
        self.signal(signal.SIGUSR2)

    def replaced(self):
        """Waits until another process serves, and makes it the server's; returns the old one, which drains."""
        old = self._process
        pids = until(
            lambda: re.findall(rf"another process serves.* old={old.pid} new=(\d+)", self.log()),
            lambda: f"another process that serves\n{self.log()}",
        )
        self._process = Adopted(int(pids[-1]))
        self._left.append(old)
        return old

    def restart(self):
        """Replaces the process, and waits for the end of the old one, and until the new one knows it."""
        self.begin_restart()
        old = self.replaced()
        self.ended(old)
        self.alone(old)
        return self.pid

    def alone(self, old):
        """Waits until the process knows that the old one has ended: it refuses to be replaced before."""
        found = rf"this one has replaced has ended.* old={old.pid}\b"
        until(lambda: re.search(found, self.log()), lambda: f"the end of the old process in the log\n{self.log()}")

    def ended(self, old, wanted=0):
        try:
            code = old.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Late(f"expected the old process to end\n{self.log()}") from None
        self._left.remove(old)
        if code != wanted:
            raise AssertionError(f"expected exit code {wanted} of the old process, found {code}\n{self.log()}")

    def failed(self, times=1):
        """Waits until the restart has failed."""
        until(lambda: self.log().count("restart failed; still serving") >= times, lambda: f"a failed restart\n{self.log()}")

    def children(self):
        """Returns the processes that this one has started, and not waited for."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            found += (task / "children").read_text(encoding="utf-8").split()
        return [int(pid) for pid in found]

    def descriptors(self):
        """Returns what its open descriptors lead to, by number."""
        found = {}
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found[int(entry.name)] = os.readlink(entry)
            except FileNotFoundError:
                pass
        return found

    def environment(self):
        lines = Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        return dict(line.decode().split("=", 1) for line in lines if line)


class RestartServer(Restarts, Server):
    """A server that can be restarted."""


class SecureRestartServer(Restarts, SecureServer):
    """A server with TLS that can be restarted."""


def exists(pid):
    """Returns whether a process runs; one that has ended and is not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def settled(ask, quiet=0.3):
    """Returns a value once it has not changed for a while."""
    end = time.monotonic() + DEADLINE
    last, since = ask(), time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > end:
            raise Late(f"expected a value that settles, found {last}")
        time.sleep(0.02)
        now = ask()
        if now != last:
            last, since = now, time.monotonic()
    return last
