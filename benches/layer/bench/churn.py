"""Churn: clients that enter another room with each message, at a fixed rate, and a quiet room that should not notice."""

import multiprocessing
import random
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median

from .processes import CORE, MEMORY, OWN, PUBSUB, Contender, Failed, Programs, Running, cpu_seconds, redis_server, server
from .rooms import QUIET_SECONDS_MAX, Member, join, receive, said

NAME = "churn"
ABOUT = "200 clients enter and leave 10,000 random rooms a second"

CLIENTS = 200
RATE = 10_000
# The rooms that are drawn from: with so many, most are entered by one client only, and are new.
ROOMS = 1_000_000
# Several times as long as a run of the other tests, because memory grows for a while.
TIMES_AS_LONG = 5

# The quiet room.
LISTENERS = 5
EVENT_SECONDS = 0.01

# How long rooms without events stay after their last member, with the sweep after it, and then the allocator.
REST_SECONDS = 40
SAMPLE_SECONDS = 0.1

_TEXT = 0x81


@dataclass(frozen=True)
class Line:
    """One line of the table: a server, and what its clients do."""

    contender: Contender
    # The route of the clients.
    path: str
    about: str

    @property
    def name(self) -> str:
        return f"{self.contender.name}, {self.about}"

    @property
    def group(self) -> str:
        """A name for groups of this line alone, because all share one Redis."""
        return "".join(letter if letter.isalnum() else "-" for letter in f"{self.contender.name}-{self.path}".lower())


_KINDS = {
    "rooms": "rooms",
    "histories": "rooms with a history",
    "events": "rooms with an event",
    "presence": "rooms with presence",
}


def lines(*, with_before: bool) -> list[Line]:
    found = [Line(MEMORY, "/ws/echo/", "echo")]
    for contender in (MEMORY, OWN):
        found += [Line(contender, f"/ws/{path}/", about) for path, about in _KINDS.items()]
    found += [Line(contender, "/ws/rooms/", _KINDS["rooms"]) for contender in (PUBSUB, CORE)]
    if with_before:
        found = [line for now in found for line in (now, Line(now.contender.before, now.path, now.about))]
    return found


# --- The clients -----------------------------------------------------------------------------------------------------


class Client:
    """One of the clients: it has one message in flight."""

    __slots__ = ("_input", "member", "room", "sent_at")

    def __init__(self, member: Member):
        self.member = member
        self.room = b""
        self.sent_at = 0.0
        self._input = b""

    def enter(self, room: bytes, now: float) -> None:
        self.room, self.sent_at = room, now
        self.member.say(room)

    def has_entered(self) -> bool:
        """Reads the available input: events of rooms, and the reply."""
        self._input += receive(self.member.socket)
        entered = False
        while (text := self._next()) is not None:
            if text == self.room:
                entered = True
            elif not text.startswith(b"{"):
                raise Failed(f"expected an event or the reply to {self.room!r}, found {text!r}")
        return entered

    def _next(self) -> bytes | None:
        if len(self._input) < 2:
            return None
        if self._input[0] != _TEXT:
            raise Failed(f"expected a text frame, found {self._input[:80]!r}")
        length, start = self._input[1], 2
        if length == 126:
            length, start = int.from_bytes(self._input[2:4], "big"), 4
        if len(self._input) < start + length:
            return None
        text = self._input[start : start + length]
        self._input = self._input[start + length :]
        return text


@dataclass(frozen=True)
class Entered:
    """What the clients did in a run."""

    rooms: int
    seconds: float
    # From a message to its reply.
    latencies: list[float]


class Clients:
    def __init__(self, process: Running, line: Line):
        self._clients = [Client(member) for member in join(process, line.path, CLIENTS)]
        self._by_number = {client.member.socket.fileno(): client for client in self._clients}
        self._random = random.Random(line.name)
        self._prefix = line.group.encode()
        self._poll = select.epoll()
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        for client in self._clients:
            client.member.socket.close()

    def run(self, seconds: float) -> Entered:
        """Enters rooms at the rate for this time, or as many as the server lets in."""
        began = time.monotonic()
        idle = deque(self._clients)
        sent, latencies = 0, []
        while True:
            now = time.monotonic()
            is_over = now >= began + seconds
            if is_over and len(idle) == len(self._clients):
                return Entered(len(latencies), now - began, latencies)
            if now > began + seconds + QUIET_SECONDS_MAX:
                raise Failed(f"{len(self._clients) - len(idle)} clients did not enter their room")
            due = 0 if is_over else int((now - began) * RATE) - sent
            for _ in range(min(due, len(idle))):
                room = b"%s-%d" % (self._prefix, self._random.randrange(ROOMS))
                idle.popleft().enter(room, time.monotonic())
                sent += 1
            for number, _ in self._poll.poll(0.002):
                client = self._by_number[number]
                if client.has_entered():
                    latencies.append(time.monotonic() - client.sent_at)
                    idle.append(client)


def groups(process: Running) -> int:
    """The number of groups in the process."""
    [member] = join(process, "/ws/rooms/", 1)
    member.socket.setblocking(True)
    with member.socket as asking:
        asking.sendall(said(b""))
        head, length = asking.recv(2)
        reply = asking.recv(length)
    if head != _TEXT or not reply.isdigit():
        raise Failed(f"expected a number of groups, found {reply!r}")
    return int(reply)


# --- The quiet room --------------------------------------------------------------------------------------------------


class QuietRoom:
    """A room whose only sender sends at a fixed rate; a process of its own, so that the clients do not delay it."""

    def __init__(self, sending: Running, receiving: Running, path: str):
        context = multiprocessing.get_context("spawn")
        self._ask, ask = context.Pipe()
        self._process = context.Process(target=_hear, args=(ask, sending, receiving, path), daemon=True)
        self._process.start()
        self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.join()

    @contextmanager
    def heard(self) -> Iterator[list[float]]:
        """Measures while the block runs: the time from when an event was due until each member has it."""
        found: list[float] = []
        self._ask.send("begin")
        yield found
        self._ask.send("end")
        found += self._answer()

    def _answer(self) -> list[float]:
        if not self._ask.poll(QUIET_SECONDS_MAX):
            raise Failed("the members of the quiet room heard nothing")
        answer = self._ask.recv()
        if isinstance(answer, str):
            raise Failed(answer)
        return list(answer)


def _hear(asked: Connection, sending: Running, receiving: Running, path: str) -> None:
    """The process of a quiet room: answers `end` with the latencies since `begin`."""
    try:
        [sender] = join(sending, path, 1)
        listeners = join(receiving, path, LISTENERS)
        asked.send([])
        while True:
            asked.recv()
            asked.send(_latencies(asked, sender, listeners))
    except EOFError:
        return
    except (Failed, OSError) as failure:
        asked.send(f"the quiet room: {failure}")


def _latencies(asked: Connection, sender: Member, listeners: list[Member]) -> list[float]:
    latencies: list[float] = []
    text = b"x" * 100
    frame = len(text) + 2
    due: list[float] = []
    heard = dict.fromkeys(listeners, 0)
    by_socket = {listener.socket: listener for listener in listeners}
    began = time.monotonic()
    while True:
        is_over = asked.poll()
        if is_over and all(count == len(due) * frame for count in heard.values()):
            asked.recv()
            return latencies
        now = time.monotonic()
        if due and now > due[-1] + QUIET_SECONDS_MAX:
            raise Failed("an event did not reach all members")
        while not is_over and began + len(due) * EVENT_SECONDS <= now:
            due.append(began + len(due) * EVENT_SECONDS)
            sender.say(text)
        left = began + len(due) * EVENT_SECONDS - time.monotonic()
        # Not epoll, which waits for whole milliseconds.
        for source in select.select([*by_socket, sender.socket], [], [], max(0, left))[0]:
            data, now = receive(source), time.monotonic()
            if source is sender.socket:
                continue
            listener = by_socket[source]
            before, heard[listener] = heard[listener], heard[listener] + len(data)
            latencies += (now - due[which] for which in range(before // frame, heard[listener] // frame))


# --- The measurement -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """The result of one run."""

    cpu: float
    redis_cpu: float
    entered: Entered
    quiet: list[float]

    @property
    def cost(self) -> float:
        """CPU microseconds of the server for each room."""
        return self.cpu / self.entered.rooms * 1e6


@dataclass
class Subject:
    """The processes of a line, and what was measured of them."""

    line: Line
    process: Running
    clients: Clients
    quiet: QuietRoom
    before: float
    # The members of the quiet room without any client, then in each run.
    undisturbed: list[float] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)
    peak: float = 0
    after: float = 0
    rested: float = 0
    groups: int = 0


@dataclass(frozen=True)
class RedisMemory:
    mib: float
    keys: int
    channels: int


def run(programs: Programs, rounds: int, seconds: float, *, with_before: bool) -> bool:
    """Measures and prints; returns whether everything could be measured."""
    print(f"\n## {NAME}: {ABOUT}\n")
    failures: dict[str, str] = {}
    subjects: dict[str, Subject] = {}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(programs))
        senders: dict[Contender, Running] = {}
        for line in lines(with_before=with_before):
            try:
                subjects[line.name] = _prepared(stack, programs, redis, line, senders)
            except (Failed, OSError) as reason:
                failures[line.name] = str(reason)
        memory = [_redis_memory(redis)]
        for round_ in range(rounds):
            for name in _turned(list(subjects), round_):
                if name in failures:
                    continue
                subject = subjects[name]
                try:
                    subject.runs[round_] = _run(subject, redis, seconds * TIMES_AS_LONG)
                except (Failed, OSError) as reason:
                    failures[name] = str(reason)
                    print(name, f"FAILED: {reason}", file=sys.stderr, flush=True)
                    continue
                done = subject.runs[round_]
                print(
                    f"{time.strftime('%H:%M:%S')} round {round_ + 1}, {NAME}, {name}: {done.cost:,.1f} µs a room, "
                    f"{done.entered.rooms:,} in {done.entered.seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
        memory.append(_redis_memory(redis))
        for subject in subjects.values():
            subject.after = _mib(subject.process)
            subject.clients.close()
        time.sleep(REST_SECONDS)
        for name, subject in subjects.items():
            try:
                subject.rested, subject.groups = _mib(subject.process), groups(subject.process)
            except (Failed, OSError) as reason:
                failures[name] = str(reason)
        memory.append(_redis_memory(redis))
        _print_tables([subject for name, subject in subjects.items() if name not in failures], memory)
    if failures:
        print("\nWhat went wrong:\n")
        for name, reason in failures.items():
            print(f"- **{name} FAILED**: {reason}")
    return not failures


def _prepared(
    stack: ExitStack, programs: Programs, redis: Running, line: Line, senders: dict[Contender, Running]
) -> Subject:
    contender = line.contender

    def start() -> Running:
        return stack.enter_context(server(programs, contender, redis, program=programs.rooms(contender)))

    process = start()
    sending = process
    if contender.layer != MEMORY.layer:
        # One process for all lines of a layer: what it sends comes through Redis.
        if contender not in senders:
            senders[contender] = start()
        sending = senders[contender]
    quiet = QuietRoom(sending, process, f"/ws/quiet/{line.group}/")
    stack.callback(quiet.close)
    clients = Clients(process, line)
    stack.callback(clients.close)
    return Subject(line, process, clients, quiet, _mib(process))


def _run(subject: Subject, redis: Running, seconds: float) -> Run:
    with subject.quiet.heard() as undisturbed:
        time.sleep(min(1.0, seconds / 5))
    subject.undisturbed += undisturbed
    cpu, redis_cpu = cpu_seconds([subject.process]), cpu_seconds([redis])
    with subject.quiet.heard() as quiet:
        entered = subject.clients.run(seconds)
    done = Run(cpu_seconds([subject.process]) - cpu, cpu_seconds([redis]) - redis_cpu, entered, quiet)
    subject.peak = max(subject.peak, _mib(subject.process, "VmHWM"))
    return done


def _turned(names: list[str], by: int) -> list[str]:
    first = by % len(names) if names else 0
    turned = names[first:] + names[:first]
    return turned[::-1] if by % 2 else turned


def _mib(process: Running, which: str = "VmRSS") -> float:
    with open(f"/proc/{process.pid}/status") as status:
        found = re.search(rf"^{which}:\s+(\d+) kB$", status.read(), re.MULTILINE)
    if not found:
        raise Failed(f"expected {which} of the process, found none")
    return int(found[1]) / 1024


def _redis_memory(redis: Running) -> RedisMemory:
    with socket.create_connection(("127.0.0.1", redis.port), timeout=QUIET_SECONDS_MAX) as asking:
        asking.sendall(b"INFO memory\r\nDBSIZE\r\nINFO stats\r\n")
        reply = b""
        while b"used_memory:" not in reply or b"pubsub_channels:" not in reply or not reply.endswith(b"\r\n"):
            reply += receive(asking)
    found = re.search(rb"\r\nused_memory:(\d+)\r\n.*?\r\n:(\d+)\r\n.*\r\npubsub_channels:(\d+)\r\n", reply, re.DOTALL)
    if not found:
        raise Failed(f"expected the memory of Redis, found {reply[:200]!r}")
    used, keys, channels = map(int, found.groups())
    return RedisMemory(used / (1 << 20), keys, channels)


# --- The tables ------------------------------------------------------------------------------------------------------


def _print_tables(subjects: list[Subject], memory: list[RedisMemory]) -> None:
    by_line = {(subject.line.contender, subject.line.path): subject for subject in subjects}
    has_before = any(subject.line.contender.is_before for subject in subjects)
    _print_row([
        "server",
        "rooms a second",
        "CPU µs a room",
        *(["cost x before"] if has_before else []),
        "enters within, ms: p50",
        "p99",
        "the quiet room, ms: p50",
        "p99",
        "max",
        "undisturbed p50",
        "p99",
        "Redis CPU µs a room",
    ])  # fmt: skip
    print(f"|---|{'--:|' * (11 if has_before else 10)}")
    for subject in subjects:
        runs = subject.runs
        entered = sorted(latency for run in runs.values() for latency in run.entered.latencies)
        quiet = sorted(latency for run in runs.values() for latency in run.quiet)
        undisturbed = sorted(subject.undisturbed)
        earlier = by_line.get((subject.line.contender.before, subject.line.path))
        ratio = ""
        if earlier and not subject.line.contender.is_before:
            ratio = f"{median(run.cost / earlier.runs[round_].cost for round_, run in runs.items()):.3f}"
        _print_row([
            subject.line.name,
            f"{median(run.entered.rooms / run.entered.seconds for run in runs.values()):,.0f}",
            f"{median(run.cost for run in runs.values()):,.1f}",
            *([ratio] if has_before else []),
            *(_ms(entered, share) for share in (0.5, 0.99)),
            *(_ms(quiet, share) for share in (0.5, 0.99, 1)),
            *(_ms(undisturbed, share) for share in (0.5, 0.99)),
            f"{median(run.redis_cpu / run.entered.rooms * 1e6 for run in runs.values()):,.1f}",
        ])  # fmt: skip
    print(f"\nMemory in MiB: with idle clients, at most, after the last run, and {REST_SECONDS} s after the clients have left.\n")
    _print_row(["server", "idle", "peak", "after", "rested", "groups left"])
    print(f"|---|{'--:|' * 5}")
    for subject in subjects:
        figures = [subject.before, subject.peak, subject.after, subject.rested]
        _print_row([subject.line.name, *(f"{figure:,.1f}" for figure in figures), f"{subject.groups}"])
    print("\nRedis, of all lines together:\n")
    _print_row(["when", "MiB", "keys", "channels"])
    print(f"|---|{'--:|' * 3}")
    for when, found in zip(("before", "after", "rested"), memory, strict=True):
        _print_row([when, f"{found.mib:,.1f}", f"{found.keys:,}", f"{found.channels:,}"])


def _ms(ordered: list[float], share: float) -> str:
    at = min(int(len(ordered) * share), len(ordered) - 1)
    return f"{ordered[at] * 1000:,.2f}" if ordered else ""


def _print_row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
