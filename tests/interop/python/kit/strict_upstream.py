"""Strict upstream: an HTTP/1.1 server that records every byte, and takes no message that two servers could read in two ways."""

import re
import socket
import threading

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.1")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[\x20-\x7e\x80-\xff\t]*[\x21-\x7e\x80-\xff])?)[ \t]*")
CHUNK = re.compile(rb"[0-9a-fA-F]{1,15}")


class Violation(Exception):
    """The bytes are no message, or an ambiguous one."""


class Message:
    """A request as it was received."""

    def __init__(self, method, target, fields, body, trailers):
        self.method, self.target, self.fields, self.body, self.trailers = method, target, fields, body, trailers

    def __repr__(self):
        return f"{self.method} {self.target} {self.body!r}"

    def field(self, name):
        """The one value of a field; `None` if it is absent."""
        values = [value for key, value in self.fields if key == name]
        assert len(values) < 2, f"expected {name} once, found {values}"
        return values[0] if values else None


class StrictUpstream:
    """Answers every request on a connection that stays open, unless it `closes` after each answer. Use it with `with`."""

    def __init__(self, answer=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n", *, closes=False):
        self._answer, self._closes = answer, closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self.clear()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def clear(self):
        with self._lock:
            self.messages, self.violations, self.raw = [], [], []

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        recorded = bytearray()
        reader = Reader(connection, recorded)
        with connection:
            try:
                while (message := reader.message()) is not None:
                    with self._lock:
                        self.messages.append(message)
                        self.raw.append(bytes(recorded))
                        recorded.clear()
                    connection.sendall(self._answer)
                    if self._closes:
                        return
            except Violation as violation:
                with self._lock:
                    self.violations.append(f"{violation}: {bytes(recorded)!r}")
            except OSError:
                pass


class Reader:
    """Reads the messages of a connection by the letter of RFC 9112."""

    def __init__(self, connection, recorded):
        self._connection, self._recorded, self._read = connection, recorded, bytearray()

    def _more(self):
        data = self._connection.recv(65536)
        self._recorded += data
        self._read += data
        return bool(data)

    def _line(self):
        """A line, which ends in CR LF and has no other of them. `None` at the end of the connection."""
        while (end := self._read.find(b"\n")) < 0:
            if not self._more():
                return None
        line = bytes(self._read[: end + 1])
        del self._read[: end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            raise Violation(f"a line {line!r}")
        return line[:-2]

    def _exactly(self, count):
        while len(self._read) < count:
            if not self._more():
                raise OSError("cut off")
        data = bytes(self._read[:count])
        del self._read[:count]
        return data

    def _fields(self):
        fields = []
        while True:
            line = self._line()
            if line is None:
                raise OSError("cut off")
            if not line:
                return fields
            if not (found := FIELD.fullmatch(line)):
                raise Violation(f"a field {line!r}")
            fields.append((found[1].lower().decode(), found[2].decode("latin-1")))

    def message(self):
        line = self._line()
        if line is None:
            if self._read:
                raise Violation(f"half a line {bytes(self._read)!r}")
            return None
        if not (found := LINE.fullmatch(line)):
            raise Violation(f"a request line {line!r}")
        fields = self._fields()
        of = lambda name: [value for key, value in fields if key == name]  # noqa: E731
        if len(of("host")) != 1 or not of("host")[0]:
            raise Violation(f"the hosts {of('host')}")
        lengths, codings = of("content-length"), of("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise Violation(f"the framing {lengths} {codings}")
        for name, _ in fields:
            folded = re.sub("[^a-z0-9]", "-", name)
            if folded != name and folded in ("content-length", "transfer-encoding", "host") or folded.startswith("x-forwarded") and "_" in name:
                raise Violation(f"a look-alike {name!r}")
        body, trailers = b"", []
        if codings:
            if codings[0] != "chunked":
                raise Violation(f"the coding {codings[0]!r}")
            while True:
                size = self._line()
                if size is None:
                    raise OSError("cut off")
                if not CHUNK.fullmatch(size):
                    raise Violation(f"a chunk size {size!r}")
                if not int(size, 16):
                    break
                body += self._exactly(int(size, 16))
                if self._exactly(2) != b"\r\n":
                    raise Violation("no end of a chunk")
            trailers = self._fields()
            for name, _ in trailers:
                if name in ("content-length", "transfer-encoding", "host", "trailer", "connection"):
                    raise Violation(f"a trailer {name!r}")
        elif lengths:
            if not re.fullmatch("[0-9]{1,18}", lengths[0]):
                raise Violation(f"the length {lengths[0]!r}")
            body = self._exactly(int(lengths[0]))
        return Message(found[1].decode(), found[2].decode("latin-1"), fields, body, trailers)
