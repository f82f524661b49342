"""The servers that are compared: how each is installed, and how it is started."""

import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import install
from .install import BENCH, Place, Unavailable

START_SECONDS_MAX = 20
STOP_SECONDS_MAX = 10


@dataclass(frozen=True)
class Launch:
    """A command line, with `{port}` for the port, and its environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    directory: Path = BENCH
    # The same server with TLS, if it can.
    secure: "Launch | None" = None


# What oneport's configuration needs for TLS.
SECURE = """
[server.tls]
certificate = "${CERTIFICATE}"
key         = "${KEY}"
"""


@dataclass(frozen=True)
class Server:
    name: str
    about: str
    prepare: Callable[[Place], Launch]


def oneport(place: Place) -> Launch:
    return launch(place.oneport or install.build_oneport(place), place)


def launch(binary: Path, place: Place) -> Launch:
    plain = BENCH / "oneport.toml"
    secure = place.root / "oneport-tls.toml"
    secure.write_text(plain.read_text() + SECURE)
    certificate = install.certificate(place)
    files = {"CERTIFICATE": str(certificate.chain), "KEY": str(certificate.key)}
    command = [str(binary), "serve", "--config"]
    return Launch([*command, str(plain)], {"PORT": "{port}"}, secure=Launch([*command, str(secure)], {"PORT": "{port}", **files}))


def with_files(place: Place, command: list[str], environment: dict[str, str] | None = None) -> Launch:
    """A server that takes the files of a certificate and its key after the port."""
    certificate = install.certificate(place)
    secure = Launch([*command, str(certificate.chain), str(certificate.key)], environment or {})
    return Launch(command, environment or {}, secure=secure)


def tungstenite(place: Place) -> Launch:
    return with_files(place, [str(place.programs / "tungstenite"), "{port}"])


def axum(place: Place) -> Launch:
    return Launch([str(place.programs / "axum"), "{port}"])


def uwebsockets(place: Place) -> Launch:
    return with_files(place, [str(install.build_uwebsockets(place)), "{port}"])


def node(place: Place) -> Launch:
    modules = install.node_modules(place)
    return with_files(place, ["node", str(BENCH / "peers/node/server.js"), "{port}"], {"NODE_PATH": str(modules)})


def uvicorn(place: Place) -> Launch:
    binaries = install.python_packages(place, "uvicorn.txt")
    options = ["--host", "127.0.0.1", "--port", "{port}", "--backlog", "4096", "--log-level", "warning", "--no-access-log"]
    return Launch([str(binaries / "uvicorn"), *options, "starlette_app:app"], directory=BENCH / "peers/python")


def daphne(place: Place) -> Launch:
    binaries = install.python_packages(place, "daphne.txt")
    options = ["-b", "127.0.0.1", "-p", "{port}", "-v", "0", "--access-log", os.devnull]
    return Launch([str(binaries / "daphne"), *options, "channels_app:application"], directory=BENCH / "peers/python")


ONEPORT, BEFORE, TUNGSTENITE, UWEBSOCKETS = "oneport", "before", "tungstenite", "uwebsockets"

SERVERS = [
    Server(ONEPORT, "this repository, 2 worker threads, route table and default middleware", oneport),
    Server(UWEBSOCKETS, "uWebSockets as PyPI's socketify ships it, driven from C, 1 thread", uwebsockets),
    Server(TUNGSTENITE, "hyper and tokio-tungstenite, 2 worker threads", tungstenite),
    Server("axum", "axum, which is on tokio-tungstenite too, 2 worker threads", axum),
    Server("node", "Node's ws with bufferutil, 1 thread", node),
    Server("uvicorn", "Uvicorn with uvloop and Starlette, 1 process", uvicorn),
    Server("daphne", "Daphne and Django Channels with its in-memory layer, 1 process", daphne),
]


def earlier(binary: Path) -> Server:
    """An earlier build of Oneport."""
    return Server(BEFORE, "an earlier build of Oneport, same configuration", lambda place: launch(binary, place))


def prepare(servers: list[Server], place: Place) -> tuple[dict[str, Launch], dict[str, str]]:
    """How to start each server, and why the others are not available."""
    launches: dict[str, Launch] = {}
    missing: dict[str, str] = {}
    for server in servers:
        try:
            launch = server.prepare(place)
            with running(server.name, launch, place):
                launches[server.name] = launch
        except Unavailable as reason:
            missing[server.name] = str(reason)
    return launches, missing


@dataclass(frozen=True)
class Running:
    pid: int
    port: int


@contextmanager
def running(name: str, launch: Launch, place: Place) -> Iterator[Running]:
    """A fresh, listening process of the server, ended afterwards."""
    port = free_port()
    log = place.logs / f"{name}.log"

    def fill(text: str) -> str:
        return text.replace("{port}", str(port))

    with log.open("w") as output:
        process = subprocess.Popen(
            [fill(part) for part in launch.command],
            cwd=launch.directory,
            env={**os.environ, **{key: fill(value) for key, value in launch.environment.items()}},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_it_listens(process, port, log)
        yield Running(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise Unavailable(f"it ended at once: {lines[-1]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise Unavailable(f"it did not listen within {START_SECONDS_MAX} seconds")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def raise_file_limit() -> int:
    """Raises the limit of open files of this process and its children as far as possible; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
