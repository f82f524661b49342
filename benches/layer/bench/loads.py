"""The tests: which processes, members and calls each of them has."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from .calls import Calls
from .processes import ALL, CHANNELS_CORE, CHANNELS_PUBSUB, CORE, MEMORY, ON_REDIS, PUBSUB, Contender, Programs, Running, server
from .rooms import Room, Rooms, join

MEMBERS = 1_000
FEW = 100


class Load(Protocol):
    """A repeatable run."""

    def run(self, width: int, seconds: float) -> int:
        """Returns the number of events or calls."""


@dataclass(frozen=True)
class Subject:
    """One line of a table: its run, and the processes whose CPU counts."""

    name: str
    load: Load
    processes: list[Running]
    # Of each event or call, in those processes.
    units: int


Start = Callable[[Contender], Running]
# Starts the processes of one line and lets its members join.
Prepare = Callable[[ExitStack, Start], Subject]


@dataclass(frozen=True)
class Test:
    name: str
    about: str
    unit: str
    # The events in flight in each group, or the calling connections.
    widths: dict[int, str]
    lines: dict[str, Prepare]
    # Lines that the others are compared with.
    bases: list[str]
    # The line whose cost is the reference for the others.
    reference: str | None = None


@contextmanager
def prepared(prepare: Prepare, programs: Programs, redis: Running) -> Iterator[Subject]:
    with ExitStack() as stack:
        yield prepare(stack, lambda contender: stack.enter_context(server(programs, contender, redis)))


def _path(group: str) -> str:
    return f"/ws/{group}/"


def _group(name: str) -> str:
    """A group for this line alone, because all share one Redis."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _rooms(stack: ExitStack, rooms: list[Room]) -> Rooms:
    load = Rooms(rooms)
    stack.callback(load.close)
    return load


def local(contender: Contender) -> Prepare:
    """All members in one process, one of them sends."""

    def prepare(stack: ExitStack, start: Start) -> Subject:
        process = start(contender)
        members = join(process, _path(_group(contender.name)), MEMBERS)
        return Subject(contender.name, _rooms(stack, [Room(members[0], members)]), [process], MEMBERS)

    return prepare


def spread(contender: Contender) -> Prepare:
    """Half of the members in each of two processes, one of them sends."""

    def prepare(stack: ExitStack, start: Start) -> Subject:
        processes = [start(contender), start(contender)]
        path = _path(_group(contender.name))
        members = [member for process in processes for member in join(process, path, MEMBERS // 2)]
        return Subject(contender.name, _rooms(stack, [Room(members[0], members)]), processes, MEMBERS)

    return prepare


def arriving(contender: Contender) -> Prepare:
    """All members in one process, and one more in another process, which sends."""

    def prepare(stack: ExitStack, start: Start) -> Subject:
        receiving, sending = start(contender), start(contender)
        path = _path(_group(contender.name))
        members = join(receiving, path, MEMBERS)
        [sender] = join(sending, path, 1)
        return Subject(contender.name, _rooms(stack, [Room(sender, [*members, sender])]), [receiving], MEMBERS)

    return prepare


def from_django(contender: Contender, peer: Contender) -> Prepare:
    """All members in an Oneport process, and a consumer of Django's that sends."""

    def prepare(stack: ExitStack, start: Start) -> Subject:
        receiving, sending = start(contender), start(peer)
        name = f"{contender.name}{BY_DJANGO}"
        members = join(receiving, _path(_group(name)), MEMBERS)
        [sender] = join(sending, f"/to-oneport/{_group(name)}/", 1)
        return Subject(name, _rooms(stack, [Room(sender, members)]), [receiving], MEMBERS)

    return prepare


def few(contender: Contender) -> Prepare:
    """Many groups, each with one member in one process, and one in another process, which sends."""

    def prepare(stack: ExitStack, start: Start) -> Subject:
        receiving, sending = start(contender), start(contender)
        rooms = []
        for number in range(FEW):
            path = _path(f"{_group(contender.name)}-{number}")
            [member], [sender] = join(receiving, path, 1), join(sending, path, 1)
            rooms.append(Room(sender, [member, sender]))
        return Subject(contender.name, _rooms(stack, rooms), [receiving], 1)

    return prepare


def published(contender: Contender) -> Prepare:
    """Callers of one process; the group's only member is in another one, if there is one."""

    def prepare(stack: ExitStack, start: Start) -> Subject:
        process = start(contender)
        home = process if contender.layer == MEMORY.layer else start(contender)
        group = _group(contender.name)
        [member] = join(home, _path(group), 1)
        member.socket.setblocking(True)
        calls = Calls(process, group, "websocket.send" if contender.is_oneport else "chat.message", member)
        stack.callback(calls.close)
        return Subject(contender.name, calls, [process], 1)

    return prepare


_PEERS = [CHANNELS_PUBSUB.name, CHANNELS_CORE.name]
_ON_THE_WAY = {1: "one event on its way: the next is said when the last member has it", 8: "eight events on their way"}

BY_DJANGO = ", sent by Django"


def before(name: str) -> str:
    """The name of the line with the earlier build."""
    return f"{name}, before"


def tests(*, with_before: bool = False, with_peers: bool = True) -> list[Test]:
    """All tests: with or without lines of an earlier build of Oneport next to its own, and those of Channels."""

    def lines(contenders: list[Contender], kind: Callable[[Contender], Prepare], suffix: str = "") -> dict[str, Prepare]:
        found: dict[str, Prepare] = {}
        for contender in contenders:
            name = f"{contender.name}{suffix}"
            if contender.is_oneport or with_peers:
                found[name] = kind(contender)
            if contender.is_oneport and with_before:
                found[before(name)] = kind(contender.before)
        return found

    return [
        Test("local", "1,000 members in one process", "delivery", _ON_THE_WAY, lines(ALL, local), _PEERS),
        Test("spread", "500 members in each of two processes", "delivery", _ON_THE_WAY, lines(ON_REDIS, spread), _PEERS),
        Test(
            "arriving",
            "an event that arrives through Redis goes to 1,000 members",
            "delivery",
            _ON_THE_WAY,
            {
                **lines([MEMORY], local),
                **lines(ON_REDIS, arriving),
                **lines([PUBSUB], lambda contender: from_django(contender, CHANNELS_PUBSUB), BY_DJANGO),
                **lines([CORE], lambda contender: from_django(contender, CHANNELS_CORE), BY_DJANGO),
            },
            _PEERS,
            reference=MEMORY.name,
        ),
        Test(
            "few",
            "events that arrive through Redis for 100 groups of one member",
            "event",
            {1: "one event on its way in each group"},
            lines(ON_REDIS, few),
            _PEERS,
        ),
        Test("publish", "calls of the publish view", "call", {1: "one connection", 8: "eight connections"},
             lines(ALL, published), _PEERS),
    ]  # fmt: skip
