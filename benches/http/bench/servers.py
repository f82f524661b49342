"""The servers that are compared: how each is found, and how it is started."""

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from comparison.processes import Running, free_port, listening

from . import install
from .install import BENCH, TEXT, Place
from .loads import Group


@dataclass(frozen=True)
class Upstreams:
    """The ports of the servers behind the proxies; 0 for one that is not needed."""

    http: int = 0
    echo: int = 0


@dataclass(frozen=True)
class Site:
    """What a server's configuration is made from."""

    place: Place
    group: Group
    upstreams: Upstreams
    port: int
    # A directory of its own, for configuration and temporary files.
    run: Path


@dataclass(frozen=True)
class Launch:
    """A command line and its environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    name: str
    about: str
    launch: Callable[[Site], Launch]


def oneport(site: Site) -> Launch:
    return of_binary(site.place.oneport or site.place.target / "release" / "oneport", site)


def of_binary(binary: Path, site: Site) -> Launch:
    file = {Group.PROXY: "oneport-proxy.toml", Group.TLS: "oneport-tls.toml"}.get(site.group, "oneport.toml")
    environment = {
        "PORT": str(site.port),
        "FILES": str(site.place.files),
        "UPSTREAM": str(site.upstreams.http),
        "ECHO": str(site.upstreams.echo),
        "CERTIFICATE": str(site.place.certificate),
        "KEY": str(site.place.key),
    }
    return Launch([str(binary), "serve", "--config", str(BENCH / "conf" / file)], environment)


def hyper(site: Site) -> Launch:
    return Launch([str(site.place.programs / "hyper"), str(site.port)])


def hyper_proxy(site: Site) -> Launch:
    return Launch([str(site.place.programs / "hyper_proxy"), str(site.port), str(site.upstreams.http)])


def axum(site: Site) -> Launch:
    return Launch([str(site.place.programs / "axum"), str(site.port), str(site.place.files)])


def nginx(site: Site) -> Launch:
    return nginx_with("", site)


def nginx_cache(site: Site) -> Launch:
    return nginx_with("open_file_cache max=1000 inactive=60s;", site)


def nginx_with(cache: str, site: Site) -> Launch:
    is_tls = site.group is Group.TLS
    tls = f"ssl_certificate {site.place.certificate}; ssl_certificate_key {site.place.key}; ssl_protocols TLSv1.2 TLSv1.3;"
    user = pwd.getpwuid(os.getuid()).pw_name
    values = {
        # Otherwise its workers may not read the files.
        "user": f"user {user};" if os.getuid() == 0 else "",
        "listen": {Group.HTTP2: " http2", Group.TLS: " ssl"}.get(site.group, ""),
        "tls": tls if is_tls else "",
        "cache": cache,
    }
    configuration = filled("nginx.conf", site, values)
    command = [str(install.program("nginx")), "-p", str(site.run), "-e", str(site.run / "nginx-error.log"), "-c", str(configuration)]
    return Launch(command)


def haproxy(site: Site) -> Launch:
    bind = ""
    if site.group is Group.TLS:
        both = site.run / "both.pem"
        both.write_text(site.place.certificate.read_text() + site.place.key.read_text())
        bind = f" ssl crt {both}"
    configuration = filled("haproxy.cfg", site, {"bind": bind})
    return Launch([str(install.program("haproxy")), "-q", "-f", str(configuration)])


def caddy(site: Site) -> Launch:
    environment = {
        "PORT": str(site.port),
        "TEXT": TEXT,
        "FILES": str(site.place.files),
        "UPSTREAM": str(site.upstreams.http),
        "ECHO": str(site.upstreams.echo),
        "GOMAXPROCS": "2",
        "HOME": str(site.run),
    }
    command = [str(install.program("caddy")), "run", "--adapter", "caddyfile", "--config", str(BENCH / "conf" / "Caddyfile")]
    return Launch(command, environment)


def filled(name: str, site: Site, values: dict[str, str]) -> Path:
    """Writes a configuration with its `{...}` filled in."""
    text = (BENCH / "conf" / name).read_text()
    common = {
        "port": site.port,
        "run": site.run,
        "files": site.place.files,
        "text": TEXT,
        "upstream": site.upstreams.http or site.port,
        "echo": site.upstreams.echo or site.port,
    }
    for key, value in {**common, **values}.items():
        text = text.replace(f"{{{key}}}", str(value))
    written = site.run / name
    written.write_text(text)
    return written


SERVERS = [
    Server("oneport", "this repository, 2 worker threads, route table and default middleware", oneport),
    Server("hyper", "hyper with hyper-util's auto builder, 2 worker threads", hyper),
    Server("axum", "axum, and tower-http's ServeDir for files, 2 worker threads", axum),
    Server("nginx", "nginx, 2 worker processes, sendfile", nginx),
    Server("nginx_cache", "the same with open_file_cache", nginx_cache),
    Server("haproxy", "HAProxy, 2 threads", haproxy),
    Server("caddy", "Caddy, GOMAXPROCS=2", caddy),
    Server("hyper_proxy", "hyper and hyper-util's pooled client, 2 worker threads, as little as forwards a request", hyper_proxy),
]


def earlier(binary: Path) -> Server:
    """An earlier build of Oneport."""
    return Server("before", "an earlier build of Oneport, same configuration", lambda site: of_binary(binary, site))


@contextmanager
def upstreams(place: Place) -> Iterator[Upstreams]:
    """The servers behind the proxies: fixed responses, and echoes of WebSocket messages."""
    with ExitStack() as stack:
        ports: list[int] = []
        for name, program in [("upstream-http", place.programs / "hyper"), ("upstream-echo", place.websocket / "release/tungstenite")]:
            port = free_port()
            stack.enter_context(process(name, Launch([str(program), str(port)]), port, place))
            ports.append(port)
        yield Upstreams(*ports)


@contextmanager
def running(server: Server, group: Group, behind: Upstreams, place: Place) -> Iterator[Running]:
    """A listening process of the server, ended afterwards."""
    port = free_port()
    run = place.root / "run" / f"{server.name}-{group.value}"
    run.mkdir(parents=True, exist_ok=True)
    launch = server.launch(Site(place, group, behind, port, run))
    with process(f"{server.name}-{group.value}", launch, port, place) as started:
        yield started


def process(name: str, launch: Launch, port: int, place: Place) -> AbstractContextManager[Running]:
    return listening(launch.command, port, place.logs / f"{name}.log", directory=BENCH, environment=launch.environment)
