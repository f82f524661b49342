"""Upstream: a WebSocket server behind the server under test, which does exactly what a test says."""

import base64
import hashlib
import queue
import socket
import threading
from contextlib import ExitStack

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from .deadline import DEADLINE
from .frames import Bytes, Frame, encode, mask


class Accepted(Bytes):
    """The upstream's end of one connection."""

    def __init__(self, accepted):
        self.socket = accepted
        self.socket.settimeout(DEADLINE)
        self._read = bytearray()
        self.line, self.fields = self._request()

    def _request(self):
        while b"\r\n\r\n" not in self._read:
            if not self._more():
                raise EOFError(f"expected the head of a request, found {bytes(self._read)!r} and the end")
        head = self.exactly(self._read.index(b"\r\n\r\n") + 4)
        line, *lines = head.decode("latin-1").rstrip().split("\r\n")
        fields = {}
        for name, value in (field.split(": ", 1) for field in lines):
            fields.setdefault(name.lower(), []).append(value)
        return line, fields

    def field(self, name):
        """Returns the value of a field that came once, or `None`."""
        values = self.fields.get(name, [])
        assert len(values) < 2, f"expected {name} once at most, found {values}"
        return values[0] if values else None

    def accept_value(self):
        key = self.field("sec-websocket-key").encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        return base64.b64encode(hashlib.sha1(key).digest()).decode()

    def accept(self, *fields, send_along=b""):
        """Accepts the handshake, with more fields."""
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {self.accept_value()}",
            *fields,
        ]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + send_along)
        return self

    def respond(self, status, *fields, body=b""):
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def say(self, opcode, payload=b"", **options):
        self.send(encode(opcode, payload, masked=False, **options))

    def frame(self):
        """Reads one frame; a client's frames are masked."""
        first, second = self._peek(2)
        assert second & 0x80, "expected a masked frame from a client, found one that is not"
        length, head = second & 0x7F, 2
        if length == 126:
            length, head = int.from_bytes(self._peek(4)[2:], "big"), 4
        elif length == 127:
            length, head = int.from_bytes(self._peek(10)[2:], "big"), 10
        whole = self.exactly(head + 4 + length)
        key, payload = whole[head : head + 4], whole[head + 4 :]
        return Frame(first & 0x0F, mask(payload, key), bool(first & 0x80), first >> 4 & 7)

    def cut(self):
        """Ends the connection at once, without a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Upstream:
    """A listener that hands out its connections, with the heads of their requests read."""

    def __init__(self, *, receive_buffer=None):
        self._held = ExitStack()
        self._listener = self._held.enter_context(socket.socket())
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1024)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepted = queue.Queue()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self._held.close()
        while not self._accepted.empty():
            self._accepted.get().socket.close()

    def _run(self):
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=(accepted,), daemon=True).start()

    def _take(self, accepted):
        try:
            self._accepted.put(Accepted(accepted))
        except (EOFError, OSError):
            accepted.close()

    def next(self):
        """Waits for the next connection."""
        return self._accepted.get(timeout=DEADLINE)


class Echo:
    """An echo server by the `websockets` library, in threads; with `ssl`, over TLS."""

    def __init__(self, **options):
        self._server = serve(self._echo, "127.0.0.1", 0, max_size=None, **options)
        self.port = self._server.socket.getsockname()[1]
        self.url = f"{'https' if options.get('ssl') else 'http'}://127.0.0.1:{self.port}"
        self.ended = queue.Queue()

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join(DEADLINE)

    def _echo(self, connection):
        try:
            while True:
                message = connection.recv()
                if isinstance(message, str) and message.startswith("close "):
                    _, code, reason = message.split(" ", 2)
                    connection.close(int(code), reason)
                connection.send(message)
        except ConnectionClosed as ended:
            self.ended.put(ended.rcvd and (ended.rcvd.code, ended.rcvd.reason))
