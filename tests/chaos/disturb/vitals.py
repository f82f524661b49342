"""Vitals: resident memory, open descriptors and CPU seconds of a process, before, during and after a disturbance."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Vitals:
    """One reading."""

    resident: int
    descriptors: int
    cpu: float

    @classmethod
    def of(cls, pid):
        """Reads them from /proc; `None` when the process has ended."""
        place = Path(f"/proc/{pid}")
        try:
            fields = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if fields[0] in "ZX":
                return None
            resident = next(line for line in (place / "status").read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS:"))
            descriptors = len(os.listdir(place / "fd"))
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            return None
        return cls(int(resident.split()[1]) * 1024, descriptors, (int(fields[11]) + int(fields[12])) / _TICKS)


class Record:
    """The readings of one test. `during` keeps the highest of several."""

    def __init__(self, pid):
        self.pid = pid
        self.before = Vitals.of(pid)
        self.highest = None
        self.after = None

    def during(self):
        """Takes a reading, and returns it."""
        found = Vitals.of(self.pid)
        if found and self.highest:
            self.highest = Vitals(
                max(found.resident, self.highest.resident), max(found.descriptors, self.highest.descriptors), found.cpu
            )
        else:
            self.highest = found or self.highest
        return found

    def finish(self):
        """Takes the last reading, unless the process has ended."""
        self.after = Vitals.of(self.pid) or self.after
        return self.after

    def line(self, name):
        """Returns the table's line: three columns of memory, of descriptors and of CPU seconds."""
        readings = (self.before, self.highest, self.after)
        resident = "".join(f"{one.resident / 2**20:8.1f}" if one else "       -" for one in readings)
        descriptors = "".join(f"{one.descriptors:6d}" if one else "     -" for one in readings)
        cpu = "".join(f"{one.cpu:8.2f}" if one else "       -" for one in readings)
        return f"vitals | MiB{resident} | descriptors{descriptors} | CPU s{cpu} | {name}"
