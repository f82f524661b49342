"""Rooms: WebSocket members of groups. One sends, all are read, and every byte is compared."""

import base64
import os
import select
import socket
import time
from collections.abc import Iterable

from .processes import Failed, Running

MESSAGE_BYTES = 100
FRAME_BYTES = MESSAGE_BYTES + 2

# How long no input may arrive while events are in flight, and how long a whole run may take.
QUIET_SECONDS_MAX = 20
RUN_SECONDS_MAX = 120
# How long after a run no input may arrive.
AFTERWARDS_SECONDS = 0.1

_JOIN_AT_ONCE = 25
_READ_BYTES = 1 << 14
_FIN_TEXT, _FIN_PING, _FIN_PONG, _MASKED = 0x81, 0x89, 0x8A, 0x80

_HEAD = b'{"type":"chat.message","user":"anna","id":"%08d","message":"'
_FILL = b"what about lunch today, at twelve?"


def message(number: int) -> bytes:
    """A chat message of constant length."""
    head = _HEAD % number
    return head + _FILL[: MESSAGE_BYTES - len(head) - 2].ljust(MESSAGE_BYTES - len(head) - 2, b".") + b'"}'


def number_of(text: bytes) -> int:
    """Returns the number of a message; fails for anything else."""
    at = _HEAD.index(b"%")
    digits = text[at : at + 8]
    if not digits.isdigit() or message(int(digits)) != text:
        raise Failed(f"expected a message, found {text[:120]!r}")
    return int(digits)


def shown(text: bytes) -> bytes:
    """The frame as a server sends it."""
    return bytes([_FIN_TEXT, len(text)]) + text


def said(text: bytes, opcode: int = _FIN_TEXT) -> bytes:
    """The frame as a client sends it, with a mask that changes nothing."""
    return bytes([opcode, _MASKED | len(text), 0, 0, 0, 0]) + text


class Member:
    """A WebSocket that receives, and may send."""

    __slots__ = ("at", "socket")

    def __init__(self, server: Running, path: str):
        # How much of the room's stream it has received.
        self.at = 0
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=QUIET_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: http://127.0.0.1:{server.port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def accepted(self) -> None:
        head = self._read_until(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"expected 101, found {head.splitlines()[0]!r}")
        self.socket.sendall(said(b"here", _FIN_PING))

    def joined(self) -> None:
        """Reads the pong, which shows that the consumer is connected."""
        if self._read_until(b"here") != bytes([_FIN_PONG, 4]) + b"here":
            raise Failed("expected a pong, found something else")
        self.socket.setblocking(False)

    def say(self, text: bytes) -> None:
        frame = said(text)
        if self.socket.send(frame) != len(frame):
            raise Failed("a sender's socket is full")

    def _read_until(self, end: bytes) -> bytes:
        found = b""
        while not found.endswith(end):
            try:
                data = self.socket.recv(1)
            except TimeoutError:
                raise Failed(f"a socket did not join within {QUIET_SECONDS_MAX} s") from None
            if not data:
                raise Failed(f"a socket was closed while it joined, after {found[:200]!r}")
            found += data
        return found


def join(server: Running, path: str, number: int) -> list[Member]:
    """Opens `count` members, a few at once."""
    members: list[Member] = []
    while len(members) < number:
        come = [Member(server, path) for _ in range(min(_JOIN_AT_ONCE, number - len(members)))]
        for member in come:
            member.accepted()
        for member in come:
            member.joined()
        members += come
    return members


class Room:
    """Members that get the same stream: every message of the sender once, in order."""

    def __init__(self, sender: Member, listeners: list[Member]):
        self.sender = sender
        self.listeners = listeners
        self.number = 0
        self.clear()

    def clear(self) -> None:
        """Starts a run, before the first message."""
        self.stream = bytearray()
        # For each message the number of members that lack it, and the number of messages that all have.
        self.missing: list[int] = []
        self.done = 0
        for member in self.listeners:
            member.at = 0

    def say(self) -> None:
        text = message(self.number)
        self.number += 1
        self.stream += shown(text)
        self.missing.append(len(self.listeners))
        self.sender.say(text)

    def hear(self, member: Member, data: bytes) -> bool:
        """Compares the input; returns whether a message has reached all members."""
        end = member.at + len(data)
        if self.stream[member.at : end] != data:
            raise Failed(self._difference(member, data))
        first = member.at // FRAME_BYTES
        member.at = end
        done = self.done
        for place in range(first, end // FRAME_BYTES):
            self.missing[place] -= 1
            if not self.missing[place]:
                self.done += 1
        return self.done > done

    def _difference(self, member: Member, data: bytes) -> str:
        rest = bytes(self.stream[member.at :])
        if len(data) > len(rest) and data.startswith(rest):
            return "a member heard more than was said: a message came twice"
        return f"a member heard {data[:110]!r} where {rest[:110]!r} was due: a message was lost, repeated or out of order"


class Rooms:
    """All rooms of one run, read by one thread."""

    def __init__(self, rooms: list[Room]):
        self.rooms = rooms
        self._listeners = {member.socket.fileno(): (room, member) for room in rooms for member in room.listeners}
        self._poll = select.epoll()
        for number in self._listeners:
            self._poll.register(number, select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        for room in self.rooms:
            for member in [room.sender, *room.listeners]:
                member.socket.close()

    def run(self, window: int, seconds: float) -> int:
        """Keeps `window` messages of each room in flight for this time; returns how many were sent, all of which were received."""
        end = time.monotonic() + seconds
        last = end + RUN_SECONDS_MAX
        for room in self.rooms:
            room.clear()
            for _ in range(window):
                room.say()
        waiting = len(self.rooms)
        while waiting:
            now = time.monotonic()
            goes_on = now < end
            ready = self._poll.poll(QUIET_SECONDS_MAX)
            if not ready or now > last:
                raise Failed(self._late(now > last))
            for room in self._read(ready):
                while goes_on and len(room.missing) < room.done + window:
                    room.say()
                waiting -= room.done == len(room.missing)
        return sum(room.done for room in self.rooms)

    def _read(self, ready: Iterable[tuple[int, int]]) -> list[Room]:
        """Reads the input; returns the rooms in which a message has reached all members."""
        done: dict[Room, None] = {}
        for number, _ in ready:
            room, member = self._listeners[number]
            if room.hear(member, receive(member.socket)):
                done[room] = None
        return list(done)

    def check_quiet(self) -> None:
        """Fails if more arrives than was sent."""
        if self._poll.poll(AFTERWARDS_SECONDS):
            raise Failed("a member heard something after the last message: a message came twice")

    def _late(self, in_all: bool) -> str:
        missing = sum(sum(room.missing) for room in self.rooms)
        due = sum(len(room.missing) * len(room.listeners) for room in self.rooms)
        when = f"within {RUN_SECONDS_MAX} s" if in_all else f"({QUIET_SECONDS_MAX} s without a byte)"
        return f"{missing} of {due} deliveries did not come {when}"


def receive(source: socket.socket) -> bytes:
    """The available input of a readable socket."""
    try:
        data = source.recv(_READ_BYTES)
    except OSError as error:
        raise Failed(f"a socket failed: {error}") from None
    if not data:
        raise Failed("the server closed a socket")
    return data
