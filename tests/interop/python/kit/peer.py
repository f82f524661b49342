"""Peer: a WebSocket client by the `websockets` library."""

import json
import time
from contextlib import ExitStack

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from .deadline import DEADLINE, Late


class Peer:
    """A socket with the server's own origin. `headers`, `origin=None` and the library's options can be given."""

    def __init__(self, server, path, *, origin="", **options):
        options = {"compression": None, "max_size": None, "max_queue": None, "ping_interval": None, "proxy": None, **options}
        self._held = ExitStack()
        self.socket = self._held.enter_context(
            connect(
                f"ws://{server.host}{path}",
                origin=server.origin if origin == "" else origin,
                open_timeout=DEADLINE,
                close_timeout=DEADLINE,
                **options,
            )
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._held.close()

    def send(self, message):
        self.socket.send(message)

    def say(self, event):
        self.socket.send(json.dumps(event))

    def receive(self, deadline=DEADLINE):
        """Returns the next message, text as `str` and binary as `bytes`."""
        try:
            return self.socket.recv(timeout=deadline)
        except TimeoutError:
            raise Late(f"expected a message within {deadline} s") from None

    def event(self):
        return json.loads(self.receive())

    def next(self, event_type, **fields):
        """Returns the next event of a type (with these fields), and forgets those before it."""
        end = time.monotonic() + DEADLINE
        passed = []
        while True:
            try:
                event = json.loads(self.receive(max(0.0, end - time.monotonic())))
            except Late:
                raise Late(f"expected {event_type} {fields} within {DEADLINE} s, found {passed}") from None
            if event["type"] == event_type and fields.items() <= event.items():
                return event
            passed.append(event)

    def closed(self):
        """Waits for the end; returns the code and the reason of the close frame that was received, or `None`."""
        end = time.monotonic() + DEADLINE
        try:
            while True:
                self.receive(max(0.0, end - time.monotonic()))
        except ConnectionClosed as ended:
            return ended.rcvd and (ended.rcvd.code, ended.rcvd.reason)


def refusal(server, path, **options):
    """Returns the HTTP response that refuses a handshake."""
    try:
        with Peer(server, path, **options):
            pass
    except InvalidStatus as refused:
        return refused.response
    raise AssertionError(f"expected a refusal of {path}, found an open socket")
