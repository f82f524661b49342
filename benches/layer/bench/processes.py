"""The processes: Redis, Oneport and Daphne, each on a free port, each ended by its process id, and their CPU."""

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from comparison.processes import free_port, stop

BENCH = Path(__file__).resolve().parent.parent
REPOSITORY = BENCH.parent.parent

START_SECONDS_MAX = 30
CAPACITY = 10_000
TOKEN = secrets.token_hex(16)

_TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A test that could not be measured, and why."""


@dataclass(frozen=True)
class Contender:
    """A server with one of its layers."""

    server: str
    layer: str
    # An earlier build of Oneport.
    is_before: bool = False

    @property
    def name(self) -> str:
        return f"{self.server} {self.layer}{', before' if self.is_before else ''}"

    @property
    def is_oneport(self) -> bool:
        return self.server == "Oneport"

    @property
    def before(self) -> "Contender":
        return replace(self, is_before=True)


MEMORY = Contender("Oneport", "memory")
OWN = Contender("Oneport", "own")
PUBSUB = Contender("Oneport", "pubsub")
CORE = Contender("Oneport", "core")
CHANNELS_PUBSUB = Contender("Channels", "pubsub")
CHANNELS_CORE = Contender("Channels", "core")

ON_REDIS = [OWN, PUBSUB, CORE, CHANNELS_PUBSUB, CHANNELS_CORE]
ALL = [MEMORY, *ON_REDIS]

_FORMATS = {"memory": "oneport", "own": "oneport", "pubsub": "channels_redis.pubsub", "core": "channels_redis.core"}
_CLASSES = {"pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer", "core": "channels_redis.core.RedisChannelLayer"}


@dataclass(frozen=True)
class Programs:
    """The programs and directories."""

    oneport: Path
    # An earlier build.
    before: Path | None
    # The server of the test `churn`, and an earlier build of it.
    churn: Path
    churn_before: Path | None
    # A Python with Daphne and the rest of the peer.
    python: Path
    redis: str
    # The directory of the logs.
    directory: Path

    def server(self, contender: Contender) -> Path:
        return (self.before if contender.is_before else None) or self.oneport

    def rooms(self, contender: Contender) -> Path:
        return (self.churn_before if contender.is_before else None) or self.churn


@dataclass(frozen=True)
class Running:
    pid: int
    port: int


def cpu_seconds(processes: Iterable[Running]) -> float:
    """User and system time since their start."""
    return sum(_ticks(process.pid) for process in processes) / _TICK


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


@contextmanager
def redis_server(programs: Programs) -> Iterator[Running]:
    """An empty Redis without persistence."""
    port = free_port()
    command = [programs.redis, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with _running(programs, "redis", port, command, {}) as redis:
        yield redis


@contextmanager
def server(programs: Programs, contender: Contender, redis: Running, program: Path | None = None) -> Iterator[Running]:
    """A fresh process of a contender, listening and connected to Redis; `program` is the server of `churn`."""
    port = free_port()
    url = f"redis://127.0.0.1:{redis.port}/0"
    if contender.is_oneport:
        # A copy, because the server creates files next to its configuration.
        config = shutil.copy(BENCH / ("rooms.toml" if program else "oneport.toml"), programs.directory)
        command = [str(program or programs.server(contender)), "serve", "--config", str(config)]
        backend = "memory" if contender.layer == MEMORY.layer else url
        environment = {"PORT": str(port), "LAYER_BACKEND": backend, "LAYER_FORMAT": _FORMATS[contender.layer]}
    else:
        where = ["-b", "127.0.0.1", "-p", str(port)]
        quiet = ["-v", "0", "--access-log", os.devnull, "--ping-interval", "3600"]
        command = [str(programs.python), "-m", "daphne", *where, *quiet, "project:application"]
        options = {"hosts": [url], **({"capacity": CAPACITY} if contender.layer == "core" else {})}
        environment = {"LAYER": json.dumps({"BACKEND": _CLASSES[contender.layer], "CONFIG": options})}
    name = contender.name.replace(",", "").replace(" ", "-").lower()
    with _running(programs, name, port, command, {"PUBLISH_TOKEN": TOKEN, **environment}) as running:
        if contender.is_oneport and contender.layer != MEMORY.layer:
            _wait(lambda: _has_redis(running), f"{contender.name} did not reach Redis")
        yield running


@contextmanager
def _running(programs: Programs, name: str, port: int, command: list[str], environment: dict[str, str]) -> Iterator[Running]:
    log = programs.directory / f"{name}-{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=BENCH / "peer",
            env={**os.environ, "NO_COLOR": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(lambda: _listens(process, port, log), f"{name} did not listen")
        yield Running(process.pid, port)
    finally:
        stop(process)


def _wait(is_done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while not is_done():
        if time.monotonic() > end:
            raise Failed(f"{what} within {START_SECONDS_MAX} s")
        time.sleep(0.05)


def _listens(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    if process.poll() is not None:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Failed(f"{log.stem} ended at once: {lines[-1]}")
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _has_redis(running: Running) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return b"\noneport_layer_connected 1" in connection.getresponse().read()
    finally:
        connection.close()


def versions(programs: Programs) -> str:
    """The versions of the measured programs."""
    packages = ["channels", "channels_redis", "daphne", "Django", "Twisted", "autobahn", "redis"]
    script = f"from importlib.metadata import version as v; print(*(f'{{n}} {{v(n)}}' for n in {packages}), sep=', ')"
    oneport = _said(str(programs.oneport), "--version")
    if programs.before:
        oneport += f", beside an earlier build ({_said(str(programs.before), '--version')})"
    redis = _said(programs.redis, "--version").split("v=")[-1].split()[0]
    return f"{oneport}; Redis {redis}; {_said(str(programs.python), '-V')}, {_said(str(programs.python), '-c', script)}"


def _said(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    if done.returncode != 0:
        raise Failed(f"`{Path(command[0]).name}` failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return done.stdout.strip()


def find_redis() -> str | None:
    return shutil.which("redis-server")
