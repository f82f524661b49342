"""Notify: the socket of a service manager, which takes the messages of sd_notify(3) and sees which process sent them."""

import socket
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .deadline import DEADLINE, until


@dataclass(frozen=True)
class Message:
    pid: int
    fields: tuple
    at: float

    def get(self, name):
        return dict(self.fields).get(name)


class ServiceManager:
    """`name` is what NOTIFY_SOCKET is set to."""

    def __init__(self, *, is_abstract=False, receive_buffer=None):
        self._directory = tempfile.TemporaryDirectory(prefix="oneport-notify-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        path = str(Path(self._directory.name) / "notify")
        self._socket.bind("\0" + path if is_abstract else path)
        self._socket.setblocking(False)
        self.name = "@" + path if is_abstract else path
        self.messages = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._directory.cleanup()

    def read(self):
        """Takes what has arrived; returns all messages so far."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("iii")))
            except BlockingIOError:
                return self.messages
            (_, _, credentials), *_ = ancillary
            pid, _, _ = struct.unpack("iii", credentials)
            fields = tuple(tuple(line.split("=", 1)) for line in data.decode().splitlines())
            self.messages.append(Message(pid, fields, time.monotonic()))

    def hear(self, after=0, **fields):
        """Waits for a message with these fields, beginning with message number `after`; returns its number."""

        def find():
            for number, message in enumerate(self.read()[after:], after):
                if all(message.get(name) == value if value else message.get(name) is not None for name, value in fields.items()):
                    return number + 1
            return None

        return until(find, lambda: f"{fields} after {after}, found {self.messages}", DEADLINE) - 1
