"""CPU time of processes and their descendants, from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

TICK = 1e6 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """CPU time in microseconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def since(self, earlier: "Cpu") -> "Cpu":
        return Cpu(self.user - earlier.user, self.system - earlier.system)


def used(pid: int) -> Cpu:
    """The CPU time of a process and its living descendants since they started."""
    found: dict[int, tuple[int, Cpu]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat(int(entry))):
            found[int(entry)] = (int(fields[1]), Cpu(int(fields[11]) * TICK, int(fields[12]) * TICK))
    family, size = {pid}, 0
    while size != len(family):
        size = len(family)
        family |= {child for child, (parent, _) in found.items() if parent in family}
    own = [cpu for process, (_, cpu) in found.items() if process in family]
    return Cpu(sum(cpu.user for cpu in own), sum(cpu.system for cpu in own))


def stat(pid: int) -> list[str] | None:
    """The fields of proc(5)'s stat after the command, which may contain anything; the first is the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
