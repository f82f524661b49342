"""Swarm: very many short conversations with a server, some hundred at a time, from one thread.

A conversation connects from an address of its own, sends its bytes, waits for as many answers as it wants, and ends with FIN or with RST.
"""

import selectors
import socket
import struct
import time

# At the end a conversation resets its connection: no port stays in TIME_WAIT.
_RESET = struct.pack("ii", 1, 0)

# A conversation takes at most this many seconds.
_LIMIT = 30


class Visit:
    """One conversation. `sends`: one or several parts, each sent after the answers to the part before it."""

    def __init__(self, *sends, wants=1, last=None, marker=b"HTTP/1.1 ", resets=True, until_end=False):
        """`wants`: how often `marker` must occur in the answers to each part, `last`: in those to the last one. `until_end`: reads until the
        server closes.
        """
        self._sends = sends
        self._each = wants
        self._last = wants if last is None else last
        self._marker = marker
        self._until_end = until_end
        self.resets = resets
        self._at = 0
        self._rest = memoryview(sends[0]) if sends else memoryview(b"")
        self._tail = b""
        self._found = 0

    @property
    def _wants(self):
        return self._last if self._at + 1 >= len(self._sends) else self._each

    def write(self, stream):
        """Sends what the kernel takes; tells whether there is more."""
        if self._rest:
            self._rest = self._rest[stream.send(self._rest) :]
        return self.has_more

    @property
    def has_more(self):
        """Tells whether there is something to send."""
        return bool(self._rest)

    def is_over(self):
        """Tells whether it waits for nothing."""
        return not self._rest and not self._wants and not self._until_end and self._at + 1 >= len(self._sends)

    def read(self, found, count):
        """Takes bytes, and counts their statuses; tells whether it is over."""
        whole = self._tail + found
        at = whole.find(self._marker)
        while at >= 0:
            self._found += 1
            status = whole[at + len(self._marker) : at + len(self._marker) + 3]
            count[status] = count.get(status, 0) + 1
            at = whole.find(self._marker, at + 1)
        # A marker that is cut, with its status, is found with the next bytes.
        last = whole.rfind(self._marker[:1], max(0, len(whole) - len(self._marker) - 2))
        self._tail = whole[last:] if last >= 0 and self._marker not in whole[last:] else b""
        if self._found < self._wants or self._rest:
            return False
        self._at += 1
        self._found = 0
        if self._at < len(self._sends):
            self._rest = memoryview(self._sends[self._at])
            return False
        return not self._until_end


def sources(number):
    """Returns one of 60,000 addresses of this machine."""
    return f"127.{1 + number % 240}.{1 + number // 240 % 250}.1"


def swarm(port, visits, *, at_once=200, source=sources, observe=lambda: None):
    """Runs conversations from an iterator, and returns how often each status came, and the errors by their names."""
    count = {}
    visits = enumerate(visits)
    observed = time.monotonic()
    with selectors.DefaultSelector() as selector:
        open_ones = {}

        def begin():
            number, visit = next(visits, (None, None))
            if visit is None:
                return False
            stream = socket.socket()
            stream.setblocking(False)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                stream.bind((source(number), 0))
                stream.connect_ex(("127.0.0.1", port))
                selector.register(stream, selectors.EVENT_WRITE, visit)
            except OSError as error:
                name(error, stream)
                return True
            open_ones[stream] = time.monotonic()
            return True

        def name(error, stream):
            key = type(error).__name__
            count[key] = count.get(key, 0) + 1
            stream.close()

        def end(stream, visit):
            selector.unregister(stream)
            open_ones.pop(stream, None)
            if visit.resets:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            stream.close()

        has_more = True
        while has_more or open_ones:
            while has_more and len(open_ones) < at_once:
                has_more = begin()
            for key, events in selector.select(0.2):
                stream, visit = key.fileobj, key.data
                try:
                    if events & selectors.EVENT_WRITE:
                        wants_write = visit.write(stream)
                        if visit.is_over():
                            end(stream, visit)
                            continue
                        if not wants_write:
                            selector.modify(stream, selectors.EVENT_READ, visit)
                    if events & selectors.EVENT_READ:
                        found = stream.recv(1 << 16)
                        if not found or visit.read(found, count):
                            end(stream, visit)
                        elif visit.has_more:
                            selector.modify(stream, selectors.EVENT_READ | selectors.EVENT_WRITE, visit)
                except BlockingIOError:
                    continue
                except OSError as error:
                    key_name = type(error).__name__
                    count[key_name] = count.get(key_name, 0) + 1
                    end(stream, visit)
            now = time.monotonic()
            if now - observed > 0.25:
                observed = now
                observe()
                for stream, begun in list(open_ones.items()):
                    if now - begun > _LIMIT:
                        count["late"] = count.get("late", 0) + 1
                        end(stream, selector.get_key(stream).data)
    return count
