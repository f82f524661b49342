"""Stream: a reader of Server-Sent Events (WHATWG HTML, section 9.2)."""

import http.client
import json
import time

from .deadline import DEADLINE, Late


class Stream:
    """A reader of Server-Sent Events."""

    def __init__(self, server, path, last_event_id=None, headers=None):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        headers = {"accept": "text/event-stream", **(headers or {})}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()
        self._is_after_cr = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def line(self):
        """Returns the next line, or `None` at the end; LF, CR, or both together end one (WHATWG HTML, section 9.2.5)."""
        line = bytearray()
        while byte := self.response.read(1):
            is_rest, self._is_after_cr = self._is_after_cr and byte == b"\n", byte == b"\r"
            if is_rest:
                continue
            if byte in b"\r\n":
                return line.decode("utf-8")
            line += byte
        return None

    def block(self):
        """Returns the next block's lines, or `None` at the end."""
        lines = []
        while line := self.line():
            lines.append(line)
        return None if line is None else lines

    def event(self):
        """Returns the next event as a dictionary of its fields; comments and `retry` are passed over."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            block = self.block()
            if block is None:
                raise EOFError("expected an event, found the end")
            fields = {}
            for line in block:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
            if "data" in fields:
                return fields
        raise Late(f"expected an event within {DEADLINE} s, found comments")

    def first(self):
        """Returns the position in the first block, which shows nothing, and the milliseconds of `retry`."""
        retry, position = self.block()
        assert retry.startswith("retry: ") and position.startswith("id: "), f"expected retry and id, found {retry!r}, {position!r}"
        return position.removeprefix("id: "), int(retry.removeprefix("retry: "))

    def ends(self):
        """Reads to the end; returns the names of the events on the way."""
        names = []
        while (block := self.block()) is not None:
            names += [line.removeprefix("event: ") for line in block if line.startswith("event: ")]
        return names

    def message(self):
        return json.loads(self.event()["data"])["message"]
