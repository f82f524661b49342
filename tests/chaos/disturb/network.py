"""Network: a loopback of the test's own that can be cut, so that the other side vanishes without a word."""

import ctypes
import os
import subprocess
import threading

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Network:
    """Use it with `with`: what this thread opens and starts meanwhile is inside. Only root can make one."""

    def __init__(self):
        self._outside = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)

    def __enter__(self):
        _call(_LIBC.unshare, _CLONE_NEWNET)
        self._loopback("up")
        return self

    def __exit__(self, *_):
        _call(_LIBC.setns, self._outside, 0)
        os.close(self._outside)

    def cut(self):
        """From now on every packet is lost silently."""
        self._loopback("down")

    @staticmethod
    def can_be_made():
        return os.geteuid() == 0

    def _loopback(self, state):
        subprocess.run(["ip", "link", "set", "lo", state], check=True)


def _call(function, *arguments):
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
