"""The tests and their loads."""

from dataclasses import dataclass
from enum import Enum

from .servers import ONEPORT, UWEBSOCKETS


class Table(Enum):
    """The columns of a test."""

    COST = "cost"
    LATENCY = "latency"
    MEMORY = "memory"


@dataclass(frozen=True)
class Load:
    """A load: the load generator's arguments, and the path."""

    name: str
    about: str
    # The unit of the cost.
    unit: str
    arguments: str
    path: str
    table: Table = Table.COST
    # Only these servers, unless others are selected by name.
    servers: tuple[str, ...] | None = None
    # The maximum of rounds: the test takes long and varies little.
    rounds_max: int | None = None
    # For an offered load: the closed load whose rate is what a server can do, and the deliveries of each message.
    capacity: str | None = None
    deliveries: int = 1
    # Over TLS, by the servers that can.
    tls: bool = False


MEMBERS = 1_000
IDLE_CONNECTIONS = 10_000
# The offered load, as a fraction of what the slower server can do.
OFFERED = 0.5

ECHO, ROOM = "/echo", "/room"
FANOUT = f"fanout --connections {MEMBERS}"
BOTH = (ONEPORT, UWEBSOCKETS)

LOADS = [
    Load("echo_1", "echo, 100 connections, 64 B, 1 in flight", "message", "echo --connections 100 --size 64", ECHO),
    Load("echo_16", "echo, 100 connections, 64 B, 16 in flight", "message",
         "echo --connections 100 --size 64 --in-flight 16", ECHO),
    Load("echo_16k", "echo, 32 connections, 16 KiB, 1 in flight", "message", "echo --connections 32 --size 16384", ECHO),
    Load("pipe_64", "echo, 20 connections, bursts of 64 messages of 32 B", "message",
         "echo --connections 20 --size 32 --in-flight 64 --burst", ECHO),
    Load("fan_w1", "fan-out, 1,000 members, 100 B, one sender that waits for the last member", "delivery",
         f"{FANOUT} --size 100", ROOM),
    Load("fan_w8", "fan-out, 1,000 members, 100 B, eight senders, eight messages on their way", "delivery",
         f"{FANOUT} --size 100 --senders 8 --window 8", ROOM),
    Load("churn", "handshake, one message, close; 32 connections at a time", "connection",
         "churn --connections 32 --size 32", ECHO),
    Load("idle", "open connections after one message each, in a fresh process", "connection", "idle --size 64", ECHO,
         table=Table.MEMORY, rounds_max=2),
    Load("latency_echo", "echo, 100 connections, 64 B, at the same rate for all", "message",
         "echo --connections 100 --size 64", ECHO, table=Table.LATENCY, servers=BOTH, capacity="echo_1"),
    Load("latency_fan", "fan-out, 1,000 members, 100 B, at the same rate for all", "delivery",
         f"{FANOUT} --size 100", ROOM, table=Table.LATENCY, servers=BOTH, capacity="fan_w1", deliveries=MEMBERS),
    Load("deflate_echo", "echo with permessage-deflate, 100 connections, 1 KiB of JSON, 1 in flight", "message",
         "echo --connections 100 --size 1024 --deflate", ECHO),
    Load("deflate_fan", "fan-out with permessage-deflate, 1,000 members, 1 KiB of JSON, one sender that waits",
         "delivery", f"{FANOUT} --size 1024 --deflate", ROOM),
    Load("tls_echo_1", "echo over TLS, 100 connections, 64 B, 1 in flight", "message",
         "echo --connections 100 --size 64", ECHO, tls=True),
    Load("tls_echo_16", "echo over TLS, 100 connections, 64 B, 16 in flight", "message",
         "echo --connections 100 --size 64 --in-flight 16", ECHO, tls=True),
    Load("tls_echo_16k", "echo over TLS, 32 connections, 16 KiB, 1 in flight", "message",
         "echo --connections 32 --size 16384", ECHO, tls=True),
    Load("tls_fan_w1", "fan-out over TLS, 1,000 members, 100 B, one sender that waits for the last member", "delivery",
         f"{FANOUT} --size 100", ROOM, tls=True),
    Load("tls_fan_w8", "fan-out over TLS, 1,000 members, 100 B, eight senders, eight messages on their way", "delivery",
         f"{FANOUT} --size 100 --senders 8 --window 8", ROOM, tls=True),
    Load("tls_handshake", "full handshakes of TLS without a request; 32 connections at a time", "connection",
         "handshake --connections 32", ECHO, tls=True),
    Load("tls_idle", "open connections over TLS after one message each, in a fresh process", "connection", "idle --size 64", ECHO,
         table=Table.MEMORY, rounds_max=2, tls=True),
]  # fmt: skip
