"""Frames: a socket that sends exactly the bytes of a test (RFC 6455 §5.2)."""

import os
import socket
import struct
from dataclasses import dataclass

from .deadline import DEADLINE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass
class Frame:
    """One frame as it was received."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def code(self):
        """The code of a close frame; 1005 when it has none."""
        assert self.opcode == CLOSE, f"expected a close frame, found {self}"
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else 1005

    @property
    def reason(self):
        return self.payload[2:].decode("utf-8")


def encode(opcode, payload=b"", *, fin=True, rsv=0, masked=True, length=None):
    """Encodes a frame, a wrong one too: `length` announces another length than the payload has."""
    announced = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    if announced < 126:
        head += bytes([mask_bit | announced])
    elif announced < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack("!H", announced)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", announced)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def mask(payload, key):
    repeated = key * (len(payload) // 4 + 1)
    whole = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return whole.to_bytes(len(payload), "big")


def close_payload(code, reason=b""):
    return struct.pack("!H", code) + reason


class Bytes:
    """A TCP (or Unix) connection that writes and reads bytes; every wait has a deadline."""

    def __init__(self, address, *, receive_buffer=None, source=None):
        """`source`: the address of loopback that it comes from."""
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        try:
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self._read = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        more = self.socket.recv(1 << 16)
        self._read += more
        return bool(more)

    def exactly(self, count):
        taken = self._peek(count)
        del self._read[:count]
        return taken

    def _peek(self, count):
        while len(self._read) < count:
            if not self._more():
                raise EOFError(f"expected {count} bytes, found {bytes(self._read[:200])!r} and the end")
        return bytes(self._read[:count])

    def head(self):
        """Reads an HTTP response's head; returns the status and the fields in lower case. A repeated one is joined with commas."""
        while b"\r\n\r\n" not in self._read:
            if not self._more():
                raise EOFError(f"expected the head of a response, found {self._read!r} and the end")
        head = self.exactly(self._read.index(b"\r\n\r\n") + 4)
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        fields = {}
        for name, value in (line.split(": ", 1) for line in lines):
            name = name.lower()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return int(first.split()[1]), fields

    def until(self, wanted):
        """Reads, and forgets, up to these bytes."""
        while (at := self._read.find(wanted)) < 0:
            del self._read[: max(0, len(self._read) - len(wanted))]
            if not self._more():
                raise EOFError(f"expected {wanted!r}, found the end")
        del self._read[: at + len(wanted)]

    def rest(self):
        """Reads to the end of the stream."""
        try:
            while self._more():
                pass
        except ConnectionResetError:
            pass
        return bytes(self._read)

    def is_at_end(self):
        """Reads; true at an orderly end of the stream, and nothing before it."""
        return not self._read and not self._more()


class RawSocket(Bytes):
    """A WebSocket after its handshake, or with `wait=False` before its answer. `secure` encrypts a TCP socket."""

    def __init__(self, server, path, *, address=None, receive_buffer=None, send_along=b"", wait=True, secure=None):
        super().__init__(address or ("127.0.0.1", server.port), receive_buffer=receive_buffer)
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            f"Origin: {'https' if secure else 'http'}://localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        try:
            if secure:
                self.socket = secure(self.socket)
            self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + send_along)
            if wait:
                status, _ = self.head()
                assert status == 101, f"expected 101, found {status}: {self.rest()!r}"
        except BaseException:
            self.socket.close()
            raise

    def say(self, opcode, payload=b"", **options):
        self.send(encode(opcode, payload, **options))

    def frame(self):
        """Reads one frame; a server's frames are not masked. After a timeout it can be asked again."""
        first, second = self._peek(2)
        assert not second & 0x80, "expected an unmasked frame from the server, found a masked one"
        length, head = second & 0x7F, 2
        if length == 126:
            length, head = struct.unpack("!H", self._peek(4)[2:])[0], 4
        elif length == 127:
            length, head = struct.unpack("!Q", self._peek(10)[2:])[0], 10
        self._peek(head + length)
        return Frame(first & 0x0F, self.exactly(head + length)[head:], bool(first & 0x80), first >> 4 & 7)
