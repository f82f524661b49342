"""The rounds: every server in turn under the same load, starting with another one in each round."""

import http.client
import json
import re
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from comparison.builds import Unavailable
from comparison.processes import Running

from . import cpu, install
from .install import Place, file_bytes
from .loads import Generator, Group, Load
from .servers import Server, Upstreams, running, upstreams

RUN_SECONDS_MAX = 60
REQUEST_SECONDS_MAX = 10
WARM_UP_SECONDS = 1

Figures = dict[str, Any]


@dataclass
class Results:
    """The figures of each test, server and round, and why a server was left out of a group of tests."""

    figures: dict[tuple[str, str, int], Figures] = field(default_factory=dict)
    missing: dict[tuple[Group, str], str] = field(default_factory=dict)

    def of(self, load: Load, server: str) -> dict[int, Figures]:
        """The figures by round."""
        return {
            round_: figures
            for (test, name, round_), figures in self.figures.items()
            if (test, name) == (load.name, server) and "failed" not in figures
        }

    def failures(self, load: Load) -> list[str]:
        """The failures of a test, each once."""
        found = [f"{name}: {reason}" for (group, name), reason in self.missing.items() if group is load.group and name in load.servers]
        for (test, name, _), figures in self.figures.items():
            if test == load.name and "failed" in figures:
                found.append(f"{name}: {figures['failed']}")
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Bench:
    place: Place
    servers: list[Server]
    seconds: int

    def run(self, loads: list[Load], rounds: int) -> Results:
        results = Results()
        with (self.place.root / "runs.jsonl").open("w") as output:
            for group in Group:
                chosen = [load for load in loads if load.group is group]
                if chosen:
                    self.measure_group(group, chosen, rounds, results, lambda line: output.write(json.dumps(line) + "\n"))
        return results

    def measure_group(self, group: Group, loads: list[Load], rounds: int, results: Results, write: Any) -> None:
        """Starts the servers once, and measures all tests of a group in rounds."""
        wanted = {name for load in loads for name in load.servers}
        with ExitStack() as stack:
            behind = stack.enter_context(upstreams(self.place)) if group is Group.PROXY else Upstreams()
            started: dict[str, Running] = {}
            for server in self.servers:
                if server.name in wanted:
                    try:
                        started[server.name] = stack.enter_context(running(server, group, behind, self.place))
                    except Unavailable as reason:
                        results.missing[group, server.name] = str(reason)
            for load in loads:
                for name in [name for name in load.servers if name in started]:
                    self.load(load, started[name], WARM_UP_SECONDS)
            for round_ in range(rounds):
                for load in loads:
                    names = [name for name in load.servers if name in started]
                    first = round_ % len(names) if names else 0
                    for name in names[first:] + names[:first]:
                        figures = self.load(load, started[name], self.seconds)
                        results.figures[load.name, name, round_] = figures
                        line = {"test": load.name, "server": name, "round": round_, **figures}
                        write(line)
                        show(line)

    def load(self, load: Load, server: Running, seconds: int) -> Figures:
        """Checks a response, then makes load."""
        try:
            check(load, server, self.place)
            before, began = cpu.used(server.pid), time.monotonic()
            units, figures = GENERATORS[load.generator](load, server, seconds, self.place)
            used, took = cpu.used(server.pid).since(before), time.monotonic() - began
        except Wrong as reason:
            return {"failed": str(reason)}
        except subprocess.TimeoutExpired:
            return {"failed": f"not done within {RUN_SECONDS_MAX} seconds"}
        return {
            "cpu_us": used.total / units,
            "user_us": used.user / units,
            "rate": units / seconds,
            "cores": used.total / 1e6 / took,
            **figures,
        }


class Wrong(Exception):
    """A response that is not the expected one, or a load that did not complete."""


def check(load: Load, server: Running, place: Place) -> None:
    """Compares one response's status and body with the expected ones. The generator of WebSocket load compares each message."""
    if load.generator in (Generator.WSLOAD, Generator.H2LOAD):
        return
    connection: http.client.HTTPConnection
    if load.group is Group.TLS:
        context = ssl.create_default_context(cafile=str(place.certificate))
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=REQUEST_SECONDS_MAX, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=REQUEST_SECONDS_MAX)
    try:
        connection.request("GET", load.path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Wrong(f"no response: {error!r}") from None
    finally:
        connection.close()
    if response.status != 200 or body != file_bytes(load.body_bytes):
        found = f"{response.status} with {len(body):,} bytes that begin with {body[:40]!r}"
        raise Wrong(f"expected 200 with the {load.body_bytes:,} bytes of {load.path}, found {found}")


def wrk(load: Load, server: Running, seconds: int, _: Place) -> tuple[int, Figures]:
    scheme = "https" if load.group is Group.TLS else "http"
    url = f"{scheme}://127.0.0.1:{server.port}{load.path}"
    output = generated("wrk", *load.arguments, f"-d{seconds}s", "--latency", url)
    if found := re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", output):
        raise Wrong(found.group())
    requests, read = matched(r"(\d+) requests in [\d.]+\w+, ([\d.]+[KMGT]?B) read", output).groups()
    check_size(load, int(requests), quantity(read))
    latencies = {f"p{percent}_us": quantity(value) * 1e6 for percent, value in re.findall(r"^\s+(50|99)%\s+(\S+)", output, re.M)}
    return int(requests), latencies


def h2load(load: Load, server: Running, seconds: int, _: Place) -> tuple[int, Figures]:
    url = f"http://127.0.0.1:{server.port}{load.path}"
    output = generated("h2load", *load.arguments, f"-D{seconds}", "--warm-up-time", "0", url)
    requests = int(matched(r"requests: \d+ total, \d+ started, (\d+) done", output).group(1))
    right = int(matched(r"status codes: (\d+) 2xx", output).group(1))
    failed = matched(r"(\d+) failed, (\d+) errored, (\d+) timeout", output).groups()
    if right < requests or any(int(number) for number in failed):
        raise Wrong(f"{requests} responses, {right} of them 2xx; {', '.join(failed)} failed, errored, timed out")
    check_size(load, requests, int(matched(r"\((\d+)\) data", output).group(1)))
    return requests, {}


def handshakes(load: Load, server: Running, seconds: int, place: Place) -> tuple[int, Figures]:
    program = str(place.programs / "handshakes")
    output = generated(program, str(server.port), str(seconds), *load.arguments, str(place.certificate))
    return int(output), {}


def wsload(load: Load, server: Running, seconds: int, place: Place) -> tuple[int, Figures]:
    where = ["--port", str(server.port), "--path", load.path, "--pid", str(server.pid), "--seconds", str(seconds), "--warm-up", "0"]
    found = json.loads(generated(str(place.websocket / "release/wsload"), "echo", *load.arguments, *where))
    if failure := found.get("first_failure") or next((f"{found[key]} {key}" for key in ("wrong", "lost") if found.get(key)), None):
        raise Wrong(failure)
    # Its own window, which starts when all connections are open.
    kept = ("cpu_us", "user_us", "rate", "cores", "p50_us", "p99_us")
    return max(1, round(found["rate"] * seconds)), {key: found[key] for key in kept if found.get(key) is not None}


GENERATORS = {Generator.WRK: wrk, Generator.H2LOAD: h2load, Generator.HANDSHAKES: handshakes, Generator.WSLOAD: wsload}
PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}


def generated(program: str, *arguments: str) -> str:
    path = str(install.program(program, PACKAGES[program])) if program in PACKAGES else program
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=RUN_SECONDS_MAX, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise Wrong(f"the load ended with {lines[-1][:200]}")
    return done.stdout


def check_size(load: Load, units: int, read: float) -> None:
    # wrk prints three digits, and counts bytes of responses that are not complete yet.
    if units == 0 or read < units * load.body_bytes * 0.98:
        raise Wrong(f"{units} responses of {load.body_bytes} bytes expected, {read:,.0f} bytes read in all")


def matched(pattern: str, text: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise Wrong(f"the load printed nothing like {pattern!r}")
    return found


UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}


def quantity(text: str) -> float:
    """`1.5MB` in bytes, `2ms` in seconds."""
    number, unit = matched(r"([\d.]+)(\w+)", text).groups()
    return float(number) * UNITS[unit]


def show(line: Figures) -> None:
    """Prints the progress on standard error."""
    shown = ("cpu_us", "user_us", "rate", "cores", "failed")
    figures = (f"{key}={line[key]:,.2f}" if isinstance(line[key], float) else f"{key}={line[key]}" for key in shown if key in line)
    clock = time.strftime("%H:%M:%S")
    print(clock, f"round {line['round'] + 1}", line["test"], line["server"], *figures, file=sys.stderr, flush=True)
