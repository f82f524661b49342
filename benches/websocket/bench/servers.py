"""The servers that are compared: how each is installed, and how it is started."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from comparison.builds import Unavailable, build_oneport
from comparison.processes import Running, free_port, listening

from . import install
from .install import BENCH, Place


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
    return launch(place.oneport or build_oneport(place.target), place)


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


@contextmanager
def running(name: str, launch: Launch, place: Place) -> Iterator[Running]:
    """A fresh, listening process of the server, ended afterwards."""
    port = free_port()
    log = place.logs / f"{name}.log"

    def fill(text: str) -> str:
        return text.replace("{port}", str(port))

    command = [fill(part) for part in launch.command]
    environment = {key: fill(value) for key, value in launch.environment.items()}
    with listening(command, port, log, directory=launch.directory, environment=environment) as started:
        yield started
