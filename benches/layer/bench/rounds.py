"""The rounds: every line of a test in turn, starting with another one in each round, with all processes running."""

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from .loads import Subject, Test, prepared
from .processes import Failed, Programs, Running, cpu_seconds, redis_server
from .rooms import Rooms

# The time for joins to reach all processes.
SETTLE_SECONDS = 1.0
WARM_UP_SECONDS = 0.3


@dataclass(frozen=True)
class Run:
    """The result of one run."""

    cpu: float
    redis_cpu: float
    units: int
    seconds: float

    @property
    def cost(self) -> float:
        """CPU microseconds of the server for each unit."""
        return self.cpu / self.units * 1e6


@dataclass
class Results:
    # By width, name and round.
    runs: dict[tuple[int, str, int], Run] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def of(self, width: int, name: str) -> dict[int, Run]:
        """By round."""
        return {round_: run for (width_, name_, round_), run in self.runs.items() if (width_, name_) == (width, name)}

    def fail(self, name: str, reason: Failed | OSError) -> None:
        """Records a failure: a line that failed once has no figures."""
        self.failures[name] = str(reason)
        self.runs = {key: run for key, run in self.runs.items() if key[1] != name}
        _say(name, f"FAILED: {reason}")


def measure(test: Test, programs: Programs, rounds: int, seconds: float) -> Results:
    results = Results()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(programs))
        subjects: dict[str, Subject] = {}
        for name, prepare in test.lines.items():
            try:
                subjects[name] = stack.enter_context(prepared(prepare, programs, redis))
            except (Failed, OSError) as reason:
                results.fail(name, reason)
        time.sleep(SETTLE_SECONDS)
        for round_ in range(rounds):
            for width in test.widths:
                for name in _turned(list(subjects), round_):
                    if name in results.failures:
                        continue
                    try:
                        run = _run(subjects[name], redis, width, seconds)
                    except (Failed, OSError) as reason:
                        results.fail(name, reason)
                        continue
                    results.runs[width, name, round_] = run
                    cost = f"{run.cost:,.2f} µs a {test.unit}, {run.units:,} in {run.seconds:.1f} s"
                    _say(f"round {round_ + 1}, {test.name}, {width} at once, {name}: {cost}")
    return results


def _run(subject: Subject, redis: Running, width: int, seconds: float) -> Run:
    subject.load.run(1, WARM_UP_SECONDS)
    cpu, redis_cpu, began = cpu_seconds(subject.processes), cpu_seconds([redis]), time.monotonic()
    events = subject.load.run(width, seconds)
    run = Run(
        cpu=cpu_seconds(subject.processes) - cpu,
        redis_cpu=cpu_seconds([redis]) - redis_cpu,
        units=events * subject.units,
        seconds=time.monotonic() - began,
    )
    if isinstance(subject.load, Rooms):
        subject.load.check_quiet()
    if not run.cpu:
        raise Failed("it took less CPU than the kernel can tell: measure for longer")
    return run


def _turned(names: list[str], by: int) -> list[str]:
    """Another one is first in each round, and every other round goes backwards, so that none always follows the same one."""
    first = by % len(names) if names else 0
    turned = names[first:] + names[:first]
    return turned[::-1] if by % 2 else turned


def _say(*what: str) -> None:
    print(time.strftime("%H:%M:%S"), *what, file=sys.stderr, flush=True)
