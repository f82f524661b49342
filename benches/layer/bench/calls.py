"""Publish calls: kept-alive HTTP connections, each with one call at a time, and a member that gets what was published."""

import json
import select
import socket
import time

from .processes import TOKEN, Failed, Running
from .rooms import FRAME_BYTES, QUIET_SECONDS_MAX, RUN_SECONDS_MAX, Member, message, number_of, receive, shown


class Connection:
    """One connection to the view."""

    def __init__(self, server: Running):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=QUIET_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = b""

    def call(self, request: bytes) -> None:
        self._answer = b""
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Reads the available input; returns whether the response is complete."""
        self._answer += receive(self.socket)
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Failed(f"expected 200, found {self._answer[:300]!r}")
        return len(body) == _length(head)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise Failed("an answer came without Content-Length")


class Calls:
    """Callers of one server, and a member of the group."""

    def __init__(self, server: Running, group: str, event_type: str, member: Member):
        self._server = server
        self._member = member
        self._event_type = event_type
        self._head = (
            f"POST /api/groups/{group} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._number = 0

    def close(self) -> None:
        self._member.socket.close()

    def run(self, connections: int, seconds: float) -> int:
        """Calls for this time; returns the number of calls, all of which the member has received."""
        callers = [Connection(self._server) for _ in range(connections)]
        try:
            return self._run(callers, seconds)
        finally:
            for caller in callers:
                caller.socket.close()

    def _run(self, callers: list[Connection], seconds: float) -> int:
        first = self._number
        end = time.monotonic() + seconds
        last = end + RUN_SECONDS_MAX
        heard = bytearray()
        by_number = {caller.socket.fileno(): caller for caller in callers}
        member = self._member.socket.fileno()
        with select.epoll() as poll:
            for number in [member, *by_number]:
                poll.register(number, select.EPOLLIN)
            for caller in callers:
                caller.call(self._request())
            waiting = len(callers)
            while waiting or len(heard) < (self._number - first) * FRAME_BYTES:
                ready = poll.poll(QUIET_SECONDS_MAX)
                if not ready or time.monotonic() > last:
                    raise Failed(f"{waiting} answers and {self._missing(first, heard)} events did not come in time")
                for number, _ in ready:
                    if number == member:
                        heard += receive(self._member.socket)
                    elif by_number[number].is_answered():
                        if time.monotonic() < end:
                            by_number[number].call(self._request())
                        else:
                            waiting -= 1
        self._check(first, bytes(heard), in_order=len(callers) == 1)
        return self._number - first

    def _request(self) -> bytes:
        text = message(self._number).decode()
        self._number += 1
        body = json.dumps({"type": self._event_type, "text": text})
        return f"{self._head}{len(body)}\r\n\r\n{body}".encode()

    def _missing(self, first: int, heard: bytearray) -> int:
        return self._number - first - len(heard) // FRAME_BYTES

    def _check(self, first: int, heard: bytes, *, in_order: bool) -> None:
        texts = [heard[at + 2 : at + FRAME_BYTES] for at in range(0, len(heard), FRAME_BYTES)]
        found = [number_of(text) for text in texts]
        if b"".join(map(shown, texts)) != heard or (found if in_order else sorted(found)) != list(range(first, self._number)):
            raise Failed("the member heard something else than every event once")
