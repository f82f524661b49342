"""The rounds: every server in turn under the same load, each time in a fresh process, starting with another one in each round."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from comparison.builds import Unavailable

from .install import Place, certificate
from .loads import IDLE_CONNECTIONS, LOADS, OFFERED, Load, Table
from .servers import Launch, running

RUN_SECONDS_MAX = 180
# The part of the limit of open files that a process needs for itself.
FILES_BESIDES = 200

Figures = dict[str, Any]


@dataclass
class Results:
    """The figures of each test, server and round, and the rate of each test that has one."""

    figures: dict[tuple[str, str, int], Figures] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def of(self, load: Load, server: str) -> dict[int, Figures]:
        """The figures by round."""
        return {
            round_: figures
            for (test, name, round_), figures in self.figures.items()
            if (test, name) == (load.name, server) and "failed" not in figures
        }

    def failures(self, load: Load, server: str) -> list[str]:
        """The failures, each once."""
        found: dict[str, None] = {}
        for (test, name, _), figures in self.figures.items():
            if (test, name) == (load.name, server):
                if failed := figures.get("failed") or figures.get("first_failure"):
                    found[failed] = None
                for key in ("wrong", "lost"):
                    if figures.get(key):
                        found[f"{figures[key]} {key}"] = None
        return list(found)


@dataclass(frozen=True)
class Bench:
    place: Place
    launches: dict[str, Launch]
    # Whether the servers were selected by name.
    named: bool
    seconds: float
    files: int

    def run(self, loads: list[Load], rounds: int) -> Results:
        results = Results()
        with (self.place.root / "runs.jsonl").open("w") as output:
            for round_ in range(rounds):
                for load in loads:
                    if load.rounds_max is not None and round_ >= load.rounds_max:
                        continue
                    names = self.servers(load)
                    first = round_ % len(names) if names else 0
                    for name in names[first:] + names[:first]:
                        figures = self.measure(load, name, results)
                        results.figures[load.name, name, round_] = figures
                        line = {"test": load.name, "server": name, "round": round_, **figures}
                        output.write(json.dumps(line) + "\n")
                        show(line)
        return results

    def servers(self, load: Load) -> list[str]:
        able = [name for name, launch in self.launches.items() if launch.secure or not load.tls]
        return [name for name in able if self.named or load.servers is None or name in load.servers]

    def measure(self, load: Load, name: str, results: Results) -> Figures:
        options = ["--seconds", str(self.seconds)]
        if load.table is Table.MEMORY:
            options += ["--connections", str(min(IDLE_CONNECTIONS, self.files - FILES_BESIDES))]
        if load.capacity:
            if load.name not in results.rates:
                results.rates[load.name] = self.offered_rate(load)
            if not results.rates[load.name]:
                return {"failed": "no rate is known that all servers can do"}
            options += ["--rate", str(results.rates[load.name])]
        return self.load(load, name, options)

    def offered_rate(self, load: Load) -> float:
        """Messages a second: a fraction of what the slower of the servers does at full speed."""
        closed = next(other for other in LOADS if other.name == load.capacity)
        runs = [self.load(closed, name, ["--seconds", str(self.seconds)]) for name in self.servers(load)]
        slowest: float = min((run.get("rate", 0.0) for run in runs), default=0.0)
        return round(slowest / load.deliveries * OFFERED, 1)

    def load(self, load: Load, name: str, options: list[str]) -> Figures:
        """One run of the load generator."""
        generator = str(self.place.programs / "wsload")
        launch = self.launches[name]
        if load.tls and launch.secure:
            launch = launch.secure
            options = [*options, "--tls", str(certificate(self.place).chain)]
        try:
            with running(name, launch, self.place) as server:
                where = ["--port", str(server.port), "--path", load.path, "--pid", str(server.pid)]
                done = subprocess.run(
                    [generator, *load.arguments.split(), *where, *options],
                    capture_output=True,
                    text=True,
                    timeout=RUN_SECONDS_MAX,
                )
        except Unavailable as reason:
            return {"failed": str(reason)}
        except subprocess.TimeoutExpired:
            return {"failed": f"not done within {RUN_SECONDS_MAX} seconds"}
        if done.returncode != 0:
            return {"failed": (done.stderr.strip().splitlines() or ["no reason"])[0].removeprefix("Error: ")}
        figures: Figures = json.loads(done.stdout)
        return figures


def show(line: Figures) -> None:
    """Prints the progress on standard error."""
    shown = ("cpu_us", "rate", "p99_us", "talked_bytes", "failed", "first_failure")
    figures = (f"{key}={line[key]:,.1f}" if isinstance(line[key], float) else f"{key}={line[key]}"
               for key in shown if line.get(key) is not None)  # fmt: skip
    clock = time.strftime("%H:%M:%S")
    print(clock, f"round {line['round'] + 1}", line["test"], line["server"], *figures, file=sys.stderr, flush=True)
