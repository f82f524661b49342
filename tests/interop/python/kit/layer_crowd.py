"""Crowd: hundreds of sockets that are read at once, and publishers among them that send as fast as they can.

An event is a text frame of always the same length, so that a whole stream is compared without a look at each frame.
"""

import selectors
import time

from .deadline import DEADLINE, Late
from .frames import BINARY, PING, PONG, TEXT, RawSocket

_READ_BYTES = 1 << 18


def payload(letter, number):
    return b"%c%05d" % (ord(letter), number)


def shown(content, opcode=TEXT):
    """Returns a frame as a server sends it."""
    assert len(content) < 126, "expected a short content"
    return bytes([0x80 | opcode, len(content)]) + content


def said(content):
    """Returns a frame as a client sends it, with a mask that changes nothing."""
    assert len(content) < 126, "expected a short content"
    return bytes([0x80 | TEXT, 0x80 | len(content), 0, 0, 0, 0]) + content


class Sitter:
    """One member of a crowd: `stream` is all it was sent."""

    def __init__(self, server, path):
        self.raw = RawSocket(server, path)
        self.raw.say(PING, b"here")  # the pong says that it has joined
        frame = self.raw.frame()
        assert (frame.opcode, frame.payload) == (PONG, b"here"), f"expected the pong, found {frame}"
        self.raw.socket.setblocking(False)
        self.stream = bytearray()
        self.unsaid = memoryview(b"")

    def read(self):
        """Reads the available input; returns whether there was any."""
        try:
            data = self.raw.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            raise AssertionError(f"expected an open socket, found its end after {len(self.stream)} bytes")
        self.stream += data
        return True

    def write(self):
        try:
            self.unsaid = self.unsaid[self.raw.socket.send(self.unsaid) :]
        except BlockingIOError:
            pass


class Crowd:
    """Sitters, in the order in which they came."""

    def __init__(self):
        self.sitters = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sitter in self.sitters:
            sitter.raw.socket.close()
        self._selector.close()

    def join(self, server, path, number):
        """Opens that many sockets; returns them."""
        come = [Sitter(server, path) for _ in range(number)]
        for sitter in come:
            self._selector.register(sitter.raw.socket, selectors.EVENT_READ, sitter)
        self.sitters += come
        return come

    def say(self, sitter, frames):
        """Lets a member send these frames, while all are read."""
        sitter.unsaid = memoryview(bytes(sitter.unsaid) + frames)
        self._selector.modify(sitter.raw.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, sitter)

    def turn(self, seconds=0.05):
        """Reads and writes what is possible now; returns whether anything was read."""
        has_read = False
        for key, events in self._selector.select(seconds):
            sitter = key.data
            if events & selectors.EVENT_WRITE:
                sitter.write()
                if not sitter.unsaid:
                    self._selector.modify(sitter.raw.socket, selectors.EVENT_READ, sitter)
            if events & selectors.EVENT_READ:
                has_read |= sitter.read()
        return has_read

    def read_until(self, size, deadline, *, quiet=DEADLINE):
        """Reads until each member has `size` bytes; fails after `deadline` seconds, or `quiet` ones without input."""
        end = time.monotonic() + deadline
        last = time.monotonic()
        while any(len(sitter.stream) < size for sitter in self.sitters):
            now = time.monotonic()
            if self.turn():
                last = now
            if now > end or now - last > quiet:
                least = min(len(sitter.stream) for sitter in self.sitters)
                late = sum(len(sitter.stream) < size for sitter in self.sitters)
                passed = "in time" if now > end else f"({quiet} s without a byte)"
                raise Late(f"expected {size} bytes for each member {passed}, found {late} members with fewer, the least {least}")

    def streams(self):
        """Returns the streams that differ, each with how many members have it."""
        found = {}
        for sitter in self.sitters:
            stream = bytes(sitter.stream)
            found[stream] = found.get(stream, 0) + 1
        return found


def contents(stream, size, opcode=TEXT):
    """Returns the contents of a stream of frames, all of one size."""
    whole = size + 2
    head = bytes([0x80 | opcode, size])
    if len(stream) % whole:
        raise AssertionError(f"expected whole frames of {whole} bytes, found {len(stream)} bytes")
    found = []
    for at in range(0, len(stream), whole):
        if stream[at : at + 2] != head:
            raise AssertionError(f"expected a frame of {size} bytes at {at}, found {bytes(stream[at : at + 16])!r}")
        found.append(bytes(stream[at + 2 : at + whole]))
    return found


__all__ = ["BINARY", "TEXT", "Crowd", "Sitter", "contents", "payload", "said", "shown"]
