"""Random schedules of the channel layer, run with processes, a Redis and clients: see `layer_oracle` for what must hold.

A schedule is a list of steps, made from a seed before it runs. A step names processes and clients by numbers, and is left out
where it makes no sense, so that any part of a schedule is one too.
"""

import json
import queue
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPException

from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidHandshake

from .deadline import DEADLINE, Late
from .layer_case import API, Member, is_connected, layer_server
from .layer_listener import LISTENERS, Caller
from .layer_oracle import Client, Message, Part, Story
from .redis_server import Redis
from .stream import Stream

LEASE = 1.0
# Within this time after the last fault all members have all that they get, in seconds.
SETTLED = 10.0

MORE = (
    API
    + LISTENERS
    + """
[[websocket.route]]
path = "/ws/shared/{room:slug}/"
name = "shared"
consumer = "chat"
options = { group = "shared_{room}", history = 20_000, recover = true, presence = true }
"""
)

# The routes: the prefix of the group's name, whether the group has a history, whether its clients ask for it, whether they are
# announced, whether they get the past when they join, and whether the history is long.
ROUTES = {
    "long": ("long", True, True, False),
    "listen": ("long", True, True, False),
    "live": ("long", True, False, False),
    "many": ("long", True, True, False, False),
    "shared": ("shared", True, True, True),
    "kept": ("kept", True, True, False, True, False),
    "chat": ("chat", False, False, False),
    "presence": ("presence", False, False, True),
}
ROOMS = "x", "y"

_STEPS = {
    "join": 14,
    "say": 34,
    "call": 8,
    "drop": 9,
    "resume": 16,
    "leave": 3,
    "wait": 8,
    "fault": 8,
}


def make(seed, length, processes, *, with_kill=True):
    """Returns the schedule of a seed."""
    dice = random.Random(seed)
    steps = [["join", dice.randrange(processes), route, "x"] for route in ROUTES for _ in range(dice.choice((1, 2)))]
    away, paused = False, None
    for _ in range(length):
        if away and dice.random() < 0.12:
            steps.append(["redis", "return"])
            away = False
        if paused is not None and dice.random() < 0.2:
            steps.append(["thaw", paused])
            paused = None
        what = dice.choices(list(_STEPS), list(_STEPS.values()))[0]
        if what == "join":
            steps.append(["join", dice.randrange(processes), dice.choice(list(ROUTES)), dice.choice(ROOMS)])
        elif what == "say":
            steps.append(["say", dice.randrange(100), dice.randrange(1, 5)])
        elif what == "call":
            steps.append(["call", dice.randrange(processes), dice.choice(("long", "shared", "kept", "chat", "presence")), dice.choice(ROOMS)])
        elif what == "drop":
            steps.append(["drop", dice.randrange(100), dice.choice(("close", "reset"))])
        elif what == "resume":
            steps.append(["resume", dice.randrange(100), dice.randrange(processes)])
        elif what == "leave":
            steps.append(["leave", dice.randrange(100)])
        elif what == "wait":
            steps.append(["wait", dice.choice((0.1, 0.3, 0.6, 1.2))])
        else:
            fault = dice.choice(("kill", "older", "stop", "freeze", "flush", "save", "pause", "pause", "end"))
            if fault == "pause" and paused is None:
                paused = dice.randrange(processes)
                steps += [["pause", paused], ["wait", dice.choice((0.1, 0.4, 0.6 * LEASE, 1.8 * LEASE))]]
            elif fault == "end" and with_kill:
                steps.append(["end", dice.randrange(processes)])
            elif fault in ("flush", "save") and not away:
                steps.append(["redis", fault])
            elif fault in ("kill", "older", "stop", "freeze") and not away:
                steps.append(["redis", fault])
                away = True
    return steps


class World:
    """The processes, their Redis and the clients of one schedule. Use it with `with`, then `run` it."""

    def __init__(self, layer_format, processes, *, kept):
        self.story = Story(layer_format)
        self._format = layer_format
        self._number = processes
        self._kept = kept
        self._held = ExitStack()
        self._sockets = {}
        self._said = {}
        self._pending = []
        self._is_redis_frozen = False

    def __enter__(self):
        with ExitStack() as held:
            self.redis = held.enter_context(Redis(kept=self._kept))
            self.servers = [held.enter_context(self._process(f"{'abc'[at]}0")) for at in range(self._number)]
            self._held = held.pop_all()
        self._wait_for_redis()
        return self

    def __exit__(self, *error):
        for member in self._sockets.values():
            member.socket.close_socket()
        if self._is_redis_frozen:
            self.redis.thaw()
        return self._held.__exit__(*error)

    def _process(self, name):
        keys = {"format": self._format, "lease": f"{int(LEASE * 1000)}ms", "capacity": 5000}
        return Process(name, layer_server(self.redis.url(), more=MORE, **keys))

    # --- Steps ----------------------------------------------------------------------------------------------------------

    def run(self, steps):
        """Runs a schedule; returns what was wrong."""
        for name, *given in steps:
            getattr(self, f"_{name}")(*given)
            time.sleep(0.01)
        self._settle()
        return self.story.faults()

    def _join(self, at, route, room):
        group, *kind = ROUTES[route]
        client = Client(f"{route}{len(self.story.clients)}", (group, room), *kind)
        client.path = f"/many/{room}/" if route == "many" else f"/ws/{route}/{room}/"
        client.compression = "deflate" if len(self.story.clients) % 3 == 2 else None
        client.is_speaker = route not in ("listen", "live", "many")
        if self._open(client, at):
            self.story.clients.append(client)

    def _resume(self, which, at):
        gone = [client for client in self.story.clients if not client.is_open and not client.has_left]
        if gone:
            self._open(gone[which % len(gone)], at)

    def _open(self, client, at):
        server = self._live(at)
        if server is None:
            return False
        since = client.position
        query = "" if since is None else f"?since={since}"
        part = Part(server.name, since, time.monotonic())
        try:
            if client.path.startswith("/many/"):
                member = StreamMember(server.server, client.path, since)
            else:
                member = Member(server.server, f"{client.path}{query}", compression=client.compression)
            if client.has_history:
                part.first = member.joined()
        except (OSError, EOFError, ConnectionClosed, InvalidHandshake, TimeoutError) as error:
            raise AssertionError(f"{client.name} could not join at {server.name}: {error!r}") from error
        part.opened = time.monotonic()
        client.parts.append(part)
        self._sockets[id(part)] = member
        return True

    def _say(self, which, number):
        there = [client for client in self.story.clients if client.is_speaker and client.is_open]
        if not there:
            return
        client = there[which % len(there)]
        part = client.parts[-1]
        for _ in range(number):
            text = self._text(f"{client.name}.{len(client.parts)}@{part.process}")
            message = Message(text, client.group, part.process, time.monotonic(), part)
            self.story.messages[text] = message
            try:
                self._sockets[id(part)].say({"message": text})
            except (OSError, ConnectionClosed):
                self._read(part)
                return

    def _call(self, at, kind, room):
        server = self._live(at)
        if server is None:
            return
        text = self._text(f"api@{server.name}.{kind}.{room}")
        message = Message(text, (kind, room), server.name, time.monotonic())
        members = [client for client in self.story.clients if client.group == message.group and client.is_open_at(server.name)]
        message.is_optional = not any(client.has_history or not client.is_kept for client in members)
        self.story.messages[text] = message

        def call():
            caller = Caller(server.server, f"{kind}_{room}")
            try:
                caller(text)
                message.is_acknowledged = True
            except (OSError, HTTPException, AssertionError):
                pass  # it may have been sent
            finally:
                caller.close()

        self._pending.append(server.calls.submit(call))

    def _text(self, speaker):
        number = self._said.get(speaker, 0)
        self._said[speaker] = number + 1
        return f"{speaker} {number}"

    def _drop(self, which, how):
        there = [client for client in self.story.clients if client.is_open]
        if there:
            self._close(there[which % len(there)], how)

    def _leave(self, which):
        there = [client for client in self.story.clients if client.is_open]
        if len(there) > 4:
            client = there[which % len(there)]
            self._close(client, "close")
            client.has_left = True

    def _close(self, client, how):
        part = client.parts[-1]
        self._read(part)
        if how == "close" and not self._is_paused(part.process):
            self._sockets[id(part)].__exit__()
            self._read(part)
        else:
            self._sockets[id(part)].socket.close_socket()
        self._ended(part)

    def _ended(self, part):
        """A connection ended as it should."""
        part.is_ended = True
        part.closed = part.closed or time.monotonic()
        self._sockets.pop(id(part)).socket.close_socket()

    def _wait(self, seconds):
        time.sleep(seconds)

    def _redis(self, what):
        self._fault()
        if what == "return":
            self._redis_returns()
            return
        if not self.redis.is_running or self._is_redis_frozen:
            return
        if what in ("flush", "save"):
            with self.redis.client() as client:
                client.flushdb() if what == "flush" else client.save()
            if what == "flush":
                self.story.flushes.append(time.monotonic())
        elif what == "freeze":
            self.redis.freeze()
            self._is_redis_frozen = True
        else:
            self.redis.stop() if what == "stop" else self.redis.kill()
            if what != "older":
                (self.redis.directory / "dump.rdb").unlink(missing_ok=True)

    def _redis_returns(self):
        if not self.redis.is_running:
            self.redis.start()
        self.redis.thaw()
        self._is_redis_frozen = False

    def _pause(self, at):
        self._fault()
        server = self.servers[at % self._number]
        if sum(other.is_paused for other in self.servers) + 1 < self._number:
            server.pause()

    def _thaw(self, at):
        self._fault()
        self.servers[at % self._number].thaw()

    def _end(self, at):
        """A process is killed, and another one takes its place."""
        self._fault()
        server = self.servers[at % self._number]
        server.kill()
        self.story.killed.add(server.name)
        for client in self.story.clients:
            if client.is_open_at(server.name):
                part = client.parts[-1]
                self._read(part, DEADLINE)
                self._ended(part)
        name = f"{server.name[0]}{int(server.name[1:]) + 1}"
        self.servers[at % self._number] = self._held.enter_context(self._process(name))

    def _fault(self):
        now = time.monotonic()
        # What was sent just before may be under way.
        self.story.first_fault = min(self.story.first_fault, now - 1.0)
        self.story.last_fault = now

    # --- The end --------------------------------------------------------------------------------------------------------

    def _settle(self):
        """Ends all faults, lets all clients return, and waits until they have been shown all that they must be shown."""
        self._redis_returns()
        for server in self.servers:
            server.thaw()
        self._wait_for_redis()
        for pending in self._pending:
            pending.result(30)
        for at, client in enumerate(self.story.clients):
            if not client.is_open and not client.has_left:
                self._open(client, at)
        # A process notices within its lease that Redis lost its memberships.
        time.sleep(max(0.0, self.story.last_fault + 1.5 * LEASE - time.monotonic()))
        # New clients see what the history has become.
        for at in range(self._number):
            for route in ("listen", "shared"):
                for room in ROOMS:
                    self._join(at, route, room)
        self.story.last_fault = time.monotonic()
        for at in range(self._number):
            for kind in ("long", "shared", "kept", "chat", "presence"):
                for room in ROOMS:
                    self._call(at, kind, room)
        for pending in self._pending:
            pending.result(30)
        end = time.monotonic() + SETTLED
        while time.monotonic() < end:
            self._read_all(0.1)
            if not self.story.missing() and not self._ask_who():
                break
        # What comes twice, or is told late, comes within this time.
        time.sleep(0.5)
        self._read_all()
        self._ask_who()

    def _ask_who(self):
        """Asks how many members there are; returns what is wrong."""
        there = [client for client in self.story.clients if client.is_announced and client.is_open]
        for client in there:
            client.parts[-1].who = None
            self._sockets[id(client.parts[-1])].say({"type": "who"})
        end = time.monotonic() + 2.0
        while any(client.parts[-1].who is None for client in there) and time.monotonic() < end:
            self._read_all(0.02)
        return self.story.miscounted()

    def _wait_for_redis(self):
        end = time.monotonic() + SETTLED
        while not all(is_connected(server.server) for server in self.servers):
            if time.monotonic() > end:
                raise Late(f"expected all processes to have Redis again within {SETTLED} s")
            time.sleep(0.05)

    def _read_all(self, seconds=0.0):
        time.sleep(seconds)
        for client in self.story.clients:
            if client.is_open:
                self._read(client.parts[-1])

    def _read(self, part, seconds=0.0):
        """Reads what has arrived; with `seconds`, to the end of the connection."""
        member = self._sockets[id(part)]
        while True:
            try:
                event = json.loads(member.socket.recv(timeout=seconds))
            except TimeoutError:
                return
            except ConnectionClosed as closed:
                part.closed = part.closed or time.monotonic()
                part.why = str(closed)
                return
            if event["type"] == "chat.who":
                part.who = event
            elif event["type"] == "oneport.gap":
                part.first["recovered"] = False
            else:
                part.seen.append(event)

    def _live(self, at):
        """Returns that process, or another one if it stands still."""
        turned = (self.servers[(at + turn) % self._number] for turn in range(self._number))
        return next((server for server in turned if not server.is_paused), None)

    def _is_paused(self, name):
        return any(server.name == name and server.is_paused for server in self.servers)


class StreamMember:
    """An event stream with the interface of a socket: its events have their ids as `offset`."""

    def __init__(self, server, path, since):
        self.stream = Stream(server, path, since)
        self.since = since
        self.socket = self
        self._connection = self.stream.response.fp.raw._sock
        self._events = queue.SimpleQueue()
        self._first = self.stream.first()[0]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while True:
                event = self.stream.event()
                is_gap = event.get("event") == "oneport.gap"
                self._events.put({"type": "oneport.gap"} if is_gap else {**json.loads(event["data"]), "offset": event.get("id")})
        except (OSError, EOFError, ValueError, AttributeError, HTTPException):
            self._events.put(None)

    def joined(self):
        return {"offset": self._first, "recovered": None if self.since is None else True}

    def recv(self, timeout):
        try:
            event = self._events.get(timeout=timeout) if timeout else self._events.get_nowait()
        except queue.Empty:
            raise TimeoutError from None
        if event is None:
            self._events.put(None)
            raise ConnectionClosedError(None, None)
        return json.dumps(event)

    def close_socket(self):
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self.stream.response.close()
        self.stream.__exit__()
        self._connection.close()

    def __exit__(self, *_):
        self.close_socket()


class Process:
    """One process: its name changes when another one takes its place. Use it with `with`."""

    def __init__(self, name, server):
        self.name = name
        self.server = server
        self.is_paused = False
        # One call of the server API after the other, so that their order is known.
        self.calls = ThreadPoolExecutor(1)

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *error):
        self.thaw()
        self.calls.shutdown()
        return self.server.__exit__(*error)

    def pause(self):
        self.server.freeze()
        self.is_paused = True

    def thaw(self):
        if self.is_paused:
            self.server.thaw()
            self.is_paused = False

    def kill(self):
        self.is_paused = False
        self.server.signal(signal.SIGKILL)
        self.server.wait(-signal.SIGKILL)
