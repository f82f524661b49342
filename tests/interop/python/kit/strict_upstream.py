"""Strict upstream: an HTTP/1.1 server that records every byte, and takes no message that two servers could read in two ways."""

import re
import select
import socket
import threading

from .deadline import until

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


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"


class StrictUpstream:
    """Answers every request on a connection that stays open, unless it `closes` after each answer. Use it with `with`.

    `answers` has other answers, by target: the bytes, and whether the connection closes behind them. `raw` has the bytes of each message, `halves` those of messages that were cut off by
    the end of their connection."""

    def __init__(self, answer=OK, *, closes=False):
        self._answer, self._closes = answer, closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._readers = set()
        self.answers = {}
        self.clear()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def clear(self):
        with self._lock:
            self.messages, self.violations, self.raw, self.halves = [], [], [], []

    def settle(self):
        """Waits until all that was sent has been read, and each message is complete, or cut off by the end of its connection."""
        until(self._is_settled, "an end of each message")

    def take(self, target):
        """Removes the one message for a target; another client's may have come before or behind it."""
        with self._lock:
            (found,) = [message for message in self.messages if message.target == target]
            self.messages.remove(found)

    def _is_settled(self):
        with self._lock:
            is_waiting = all(reader.is_waiting and not reader.is_within for reader in self._readers)
            sources = [self._listener, *(reader.connection for reader in self._readers)]
            return is_waiting and not select.select(sources, [], [], 0)[0]

    def is_within_message(self):
        with self._lock:
            return any(reader.is_within for reader in self._readers)

    def _accept(self):
        while True:
            try:
                select.select([self._listener], [], [])
                with self._lock:
                    connection, _ = self._listener.accept()
                    reader = Reader(connection, self._lock)
                    self._readers.add(reader)
            except (OSError, ValueError):
                return
            threading.Thread(target=self._serve, args=(reader,), daemon=True).start()

    def _serve(self, reader):
        recorded = reader.recorded
        with reader.connection:
            try:
                while (message := reader.message()) is not None:
                    with self._lock:
                        self.messages.append(message)
                        self.raw.append(bytes(recorded))
                        recorded.clear()
                        reader.is_within = False
                    answer, closes = self.answers.get(message.target, (self._answer, self._closes))
                    reader.connection.sendall(answer)
                    if closes:
                        return
            except Violation as violation:
                with self._lock:
                    self.violations.append(f"{violation}: {bytes(recorded)!r}")
            except OSError:
                with self._lock:
                    if recorded:
                        self.halves.append(bytes(recorded))
            finally:
                with self._lock:
                    self._readers.remove(reader)


class Reader:
    """Reads the messages of a connection by the letter of RFC 9112."""

    def __init__(self, connection, lock):
        self.connection, self._lock = connection, lock
        self.recorded, self._read = bytearray(), bytearray()
        self.is_waiting = self.is_within = False

    def _more(self):
        self.is_waiting = True
        select.select([self.connection], [], [])
        with self._lock:  # who looks finds the data unread, or the reader at work
            self.is_waiting = False
            data = self.connection.recv(65536)
            self.is_within |= bool(data)
        self.recorded += data
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
        self.is_within |= bool(self._read)
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
