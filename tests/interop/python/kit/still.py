"""Still: pauses processes with all their threads, and resumes them."""

import os
import signal
from pathlib import Path

from .deadline import until


def freeze(*pids):
    """Stops their clocks. A signal takes its time to reach the threads of a busy machine: it is waited for."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    until(lambda: all(_stands_still(pid) for pid in pids), "every thread to stand still")


def thaw(*pids):
    for pid in pids:
        _signal(pid, signal.SIGCONT)


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself


def _stands_still(pid):
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(_state(thread) in "TZ" for thread in threads)


def _state(thread):
    try:
        return (thread / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
