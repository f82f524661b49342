"""Load: clients that ask, and members of a group that come back, while a server is restarted. Whatever goes wrong is kept."""

import asyncio
import contextlib
import json
import os
import time

import hpack
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from .deadline import DEADLINE

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Load:
    """What all clients share. `address` is a TCP address; `tls` a context of a client."""

    def __init__(self, address, *, tls, tls_address=None):
        self.address = address
        self.tls_address = tls_address or address
        self.tls = tls
        self.failures = []
        self.answers = {}  # by kind of client
        self.is_over = False

    async def open(self, *, tls=False, protocols=()):
        if not tls:
            return await asyncio.open_connection(*self.address)
        context = self.tls("h2" if "h2" in protocols else "http/1.1")
        return await asyncio.open_connection(*self.tls_address, ssl=context, server_hostname="localhost")

    def fail(self, kind, error):
        self.failures.append(f"{kind}: {error!r}")

    def count(self, kind):
        self.answers[kind] = self.answers.get(kind, 0) + 1

    async def run(self, kind, client, rate):
        """Asks that many times a second, with a client of its own."""
        try:
            due = time.monotonic()
            while not self.is_over:
                due += 1 / rate
                try:
                    async with asyncio.timeout(DEADLINE):
                        await client.ask()
                    self.count(kind)
                except (OSError, EOFError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
                    self.fail(kind, error)
                    await client.close()
                await asyncio.sleep(max(0, due - time.monotonic()))
        finally:
            await client.close()


class Http1:
    """Keeps its connection until the server says `Connection: close`; with `is_new`, each request has one of its own."""

    def __init__(self, load, *, tls=False, is_new=False, path="/health/"):
        self.load, self.tls, self.is_new, self.path = load, tls, is_new, path
        self.streams = None

    async def ask(self, method="GET", body=b"", fields=""):
        if self.streams is None:
            self.streams = await self.load.open(tls=self.tls)
        reader, writer = self.streams
        close = "Connection: close\r\n" if self.is_new else ""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{method} {self.path} HTTP/1.1\r\nHost: localhost\r\n{close}{length}{fields}\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        size = int(head.split("content-length: ")[1].split("\r\n")[0])
        content = await reader.readexactly(size)
        if status != 200:
            raise ValueError(f"{status} {head} {content}")
        if "connection: close" in head:
            await self.close()
        return content

    async def close(self):
        if self.streams:
            _, writer = self.streams
            self.streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Http2:
    """Keeps its connection until the server says GOAWAY. Frame by frame: the library h2 takes GOAWAY for the end of everything."""

    def __init__(self, load, *, tls=False):
        self.load, self.tls = load, tls
        self.streams = None
        self.is_going_away = False
        self.next_id = 1
        self.encoder = self.decoder = None

    async def ask(self):
        if self.streams is None:
            self.streams = await self.load.open(tls=self.tls, protocols=("h2",))
            self.encoder, self.decoder, self.next_id, self.is_going_away = hpack.Encoder(), hpack.Decoder(), 1, False
            self.streams[1].write(_PREFACE + SettingsFrame(0).serialize())
        stream, self.next_id = self.next_id, self.next_id + 2
        fields = [(":method", "GET"), (":scheme", "https" if self.tls else "http"), (":path", "/health/"), (":authority", "localhost")]
        head = HeadersFrame(stream, self.encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        self.streams[1].write(head.serialize())
        while await self.frame(stream) != "end":
            pass
        if self.is_going_away:
            await self.close()

    async def frame(self, stream):
        reader, writer = self.streams
        frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
        frame.parse_body(memoryview(await reader.readexactly(length)))
        if isinstance(frame, GoAwayFrame):
            self.is_going_away = True
            if frame.error_code or frame.last_stream_id < stream:
                raise ValueError(f"{frame} while stream {stream} waits")
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(frame, RstStreamFrame):
            raise ValueError(f"{frame}")
        elif isinstance(frame, HeadersFrame):
            status = dict(self.decoder.decode(frame.data))[":status"]
            if status != "200":
                raise ValueError(f"status {status}")
        elif isinstance(frame, DataFrame) and frame.data:
            writer.write(WindowUpdateFrame(0, window_increment=len(frame.data)).serialize())
        return "end" if frame.stream_id == stream and "END_STREAM" in frame.flags else None

    close = Http1.close


class Publisher:
    """Publishes events with consecutive numbers; a number counts once it is answered."""

    def __init__(self, load, path, token):
        self.client = Http1(load, path=path)
        self.token = token
        self.published = 0

    async def ask(self):
        body = json.dumps({"type": "count", "number": self.published}).encode()
        await self.client.ask("POST", body, f"Authorization: Bearer {self.token}\r\nContent-Type: application/json\r\n")
        self.published += 1

    async def close(self):
        await self.client.close()


class Member:
    """A WebSocket that comes back with its position when it is told 1012."""

    def __init__(self, load, path):
        self.load, self.path = load, path
        self.numbers, self.since, self.told = [], "", []
        self.joined = asyncio.Event()
        self.writer = None

    async def run(self):
        try:
            while not self.load.is_over:
                await self.connection()
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as error:
            self.load.fail("member", error)
        finally:
            self.joined.set()
            if self.writer:
                self.writer.close()

    async def connection(self):
        reader, self.writer = await self.load.open()
        since = f"?since={self.since}" if self.since else ""
        self.writer.write(
            f"GET {self.path}{since} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ValueError(f"handshake: {head}")
        while True:
            opcode, payload = await self.message(reader)
            if opcode == 8:
                self.told.append((int.from_bytes(payload[:2]), time.monotonic()))
                self.writer.write(bytes([0x88, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
                if self.told[-1][0] != 1012:
                    raise ValueError(f"close {self.told[-1][0]}")
                await reader.read()
                self.writer.close()
                return
            event = json.loads(payload)
            self.since = event.get("offset", self.since)
            if event["type"] == "oneport.joined":
                if event["recovered"] is False:
                    raise ValueError(f"not recovered: {event}")
                self.joined.set()
            elif event["type"] == "count":
                self.numbers.append(event["number"])

    @staticmethod
    async def message(reader):
        first, length = await reader.readexactly(2)
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2))
        return first & 0x0F, await reader.readexactly(length)


def members_wanted():
    return int(os.environ.get("ONEPORT_MEMBERS", "1000"))
