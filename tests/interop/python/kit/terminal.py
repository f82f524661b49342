"""Terminal: a command with a terminal of its own, and typed input."""

import errno
import fcntl
import os
import pty
import select
import subprocess
import termios
import time

from .deadline import DEADLINE, Late, until


class Terminal:
    """Use it with `with`. `said` has the command's output and the terminal's echo."""

    def __init__(self, arguments, cwd=None):
        self.said = ""
        self._master, slave = pty.openpty()
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._master is not None:
            os.close(self._master)

    def hang_up(self):
        """Closes the terminal, as a window or a lost connection does; returns the command's exit code."""
        os.close(self._master)
        self._master = None
        return self._process.wait(DEADLINE)

    def wait_for(self, text):
        """Reads until the text appears after the last one waited for."""
        before = len(self.said)
        end = time.monotonic() + DEADLINE
        while text not in self.said[before:]:
            if not self._read(end - time.monotonic()):
                raise Late(f"expected {text!r}, found {self.said[before:]!r}")

    def is_hidden(self):
        """Returns whether the terminal does not echo input."""
        return not termios.tcgetattr(self._master)[3] & termios.ECHO

    def type_hidden(self, line):
        """Types a line once the terminal hides it."""
        until(self.is_hidden, lambda: f"a terminal that hides what is typed; it said {self.said!r}")
        os.write(self._master, line.encode() + b"\n")

    def ended(self):
        """Waits for the end of the command; returns its exit code."""
        end = time.monotonic() + DEADLINE
        while self._read(end - time.monotonic()):
            pass
        return self._process.wait(max(0.0, end - time.monotonic()))

    def _read(self, seconds):
        """Reads what comes; false at the end of the command, or when nothing came."""
        if not select.select([self._master], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that nobody holds the other end any more
                raise
            return False
        self.said += data.decode("utf-8", "replace")
        return bool(data)
