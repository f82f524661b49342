"""Flood: a process of its own that sends the same WebSocket message over and over, and reads what comes.

python -m disturb.flood PORT SOCKETS SECONDS SIZE
"""

import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from kit.frames import BINARY, RawSocket, encode

# The bytes of one write: whole messages.
_BATCH = 1 << 18


def start(server, sockets, seconds, size):
    """Starts one; it ends by itself."""
    command = [sys.executable, "-m", "disturb.flood", str(server.port), str(sockets), str(seconds), str(size)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1])


def _flood(port, count, seconds, size):
    message = encode(BINARY, b"x" * size)
    batch = memoryview(message * max(1, _BATCH // len(message)))
    waiting = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            raw = RawSocket(SimpleNamespace(port=port), "/ws/echo/")
            raw.socket.setblocking(False)
            selector.register(raw.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, raw)
            waiting[raw] = batch
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, events in selector.select(0.1):
                try:
                    if events & selectors.EVENT_READ and not key.fileobj.recv(1 << 18):
                        selector.unregister(key.fileobj)
                    elif events & selectors.EVENT_WRITE:
                        rest = waiting[key.data]
                        waiting[key.data] = rest[key.fileobj.send(rest) :] or batch
                except BlockingIOError:
                    pass
                except OSError:
                    selector.unregister(key.fileobj)


if __name__ == "__main__":
    _flood(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
