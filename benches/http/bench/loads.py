"""The tests and their loads."""

from dataclasses import dataclass
from enum import Enum


class Group(Enum):
    """The tests that share a server process."""

    WEB = "web"
    # HTTP/2 without TLS: nginx serves no HTTP/1.1 on such a port.
    HTTP2 = "http2"
    PROXY = "proxy"
    TLS = "tls"


class Generator(Enum):
    """The program that makes the load."""

    WRK = "wrk"
    H2LOAD = "h2load"
    WSLOAD = "wsload"
    HANDSHAKES = "handshakes"


@dataclass(frozen=True)
class Load:
    """A load: its generator with the arguments, the path, and how long the body of a response is."""

    name: str
    about: str
    # The unit of the cost.
    unit: str
    group: Group
    generator: Generator
    arguments: tuple[str, ...]
    path: str
    body_bytes: int
    # The servers; further ones only if they are selected by name.
    servers: tuple[str, ...]
    # The server that the goal is measured against, and the goal: the highest ratio.
    goal: tuple[str, float]
    # A server whose cost is a goal too.
    below: str | None = None


WRK_64 = ("-t1", "-c64")
WRK_16 = ("-t1", "-c16")
H2 = ("-t1", "-c16", "-m10")

WEB = ("oneport", "before", "hyper", "axum", "nginx", "haproxy", "caddy")
MULTIPLEXED = ("oneport", "before", "hyper", "axum", "nginx")
FILES = ("oneport", "before", "nginx", "nginx_cache", "axum", "caddy")
PROXIES = ("oneport", "before", "nginx", "haproxy", "caddy", "hyper_proxy")
TUNNELS = ("oneport", "before", "nginx", "haproxy", "caddy")
TLS = ("oneport", "before", "nginx", "haproxy")
TLS_FILES = ("oneport", "before", "nginx")

KIB, MIB = 1 << 10, 1 << 20

LOADS = [
    Load("plain", "a fixed response of 100 B, 64 connections", "request", Group.WEB, Generator.WRK, WRK_64, "/plain", 100, WEB,
         ("hyper", 1.10), below="nginx"),
    Load("h2", "the same over HTTP/2, 16 connections, 10 streams each", "request", Group.HTTP2, Generator.H2LOAD, H2, "/plain", 100,
         MULTIPLEXED, ("hyper", 1.10)),
    Load("file_10k", "a file of 10 KiB, 64 connections", "request", Group.WEB, Generator.WRK, WRK_64, "/files/10k", 10 * KIB,
         FILES, ("nginx", 1.0)),
    Load("file_1m", "a file of 1 MiB, 16 connections", "request", Group.WEB, Generator.WRK, WRK_16, "/files/1m", MIB, FILES,
         ("nginx", 1.2)),
    Load("proxy_100", "a response of 100 B through a reverse proxy, 64 connections", "request", Group.PROXY, Generator.WRK, WRK_64,
         "/upstream/100", 100, PROXIES, ("nginx", 1.15)),
    Load("proxy_10k", "the same, 10 KiB", "request", Group.PROXY, Generator.WRK, WRK_64, "/upstream/10k", 10 * KIB, PROXIES,
         ("nginx", 1.15)),
    Load("proxy_1m", "the same, 1 MiB, 16 connections", "request", Group.PROXY, Generator.WRK, WRK_16, "/upstream/1m", MIB,
         PROXIES, ("nginx", 1.3)),
    Load("tunnel_64", "a tunnelled WebSocket, 100 connections, 64 B echoed, 1 in flight", "message", Group.PROXY, Generator.WSLOAD,
         ("--connections", "100", "--size", "64"), "/echo", 64, TUNNELS, ("nginx", 0.9)),
    Load("tunnel_16k", "the same, 32 connections, 16 KiB", "message", Group.PROXY, Generator.WSLOAD,
         ("--connections", "32", "--size", "16384"), "/echo", 16 * KIB, TUNNELS, ("nginx", 0.5)),
    Load("handshake", "a full TLS 1.3 handshake and one request, 16 connections at a time", "connection", Group.TLS,
         Generator.HANDSHAKES, ("16",), "/plain", 100, TLS, ("nginx", 1.1)),
    Load("tls_plain", "a fixed response of 100 B over TLS, 64 connections", "request", Group.TLS, Generator.WRK, WRK_64, "/plain",
         100, TLS, ("nginx", 1.1)),
    Load("tls_file_10k", "a file of 10 KiB over TLS, 64 connections", "request", Group.TLS, Generator.WRK, WRK_64, "/files/10k",
         10 * KIB, TLS_FILES, ("nginx", 1.1)),
    Load("tls_file_1m", "a file of 1 MiB over TLS, 16 connections", "request", Group.TLS, Generator.WRK, WRK_16, "/files/1m", MIB,
         TLS_FILES, ("nginx", 1.2)),
]  # fmt: skip
