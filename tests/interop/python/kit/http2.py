"""HTTP/2 with prior knowledge, by the `h2` library, and WebSockets on its streams (RFC 8441) by `wsproto`."""

import socket
import time
from collections import deque

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import Frame
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from .deadline import DEADLINE, Late
from .frames import Bytes


class Client:
    """One HTTP/2 connection."""

    def __init__(self, server, *, connection_window=0, stream_window=None, over=None):
        """`connection_window`: so much more than 65535 bytes. `stream_window`: what each stream may be sent at first. `over`: an
        open connection, such as one of TLS."""
        self._bytes = over or Bytes(("127.0.0.1", server.port))
        self._bytes.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        if stream_window is not None:
            code = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values={code: stream_window})
        self.h2.initiate_connection()
        if connection_window:
            self.h2.increment_flow_control_window(connection_window)
        self.answers = {}
        self.ended = set()
        self.resets = {}
        self.stuck = set()  # streams that are given no window any more
        self.events = []
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()

    def cut(self):
        """Ends the connection without a word."""
        self._bytes.socket.close()

    def ask(self, path, method="GET", authority="localhost", body=None):
        """Sends a request; returns its stream."""
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)]
        stream = self.begin(fields, end_stream=body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True)
            self.flush()
        return stream

    def ask_for_socket(self, path, changes=None):
        """Sends the handshake of a WebSocket (`None` leaves a field out); returns its stream."""
        fields = {
            ":method": "CONNECT",
            ":protocol": "websocket",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "origin": "http://localhost",
            "sec-websocket-version": "13",
            **(changes or {}),
        }
        return self.begin([(name, value) for name, value in fields.items() if value is not None], end_stream=False)

    def begin(self, fields, *, end_stream):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, fields, end_stream=end_stream)
        self.answers[stream] = ({}, bytearray())
        self.flush()
        return stream

    def write(self, stream, data=b"", *, end_stream=False):
        """Sends data as far as the server gives a window for it, and waits for that."""
        rest = memoryview(bytes(data))
        while rest:
            self.until(lambda: self.room(stream) > 0, f"a window for {len(rest)} bytes")
            count = min(len(rest), self.room(stream), self.h2.max_outbound_frame_size)
            self.h2.send_data(stream, rest[:count].tobytes())
            self.flush()
            rest = rest[count:]
        if end_stream:
            self.h2.end_stream(stream)
            self.flush()

    def write_what_fits(self, stream, data, patience=0.5):
        """Sends data until the server gives no window for that long; returns how much was sent."""
        sent = 0
        while sent < len(data):
            if self.room(stream) <= 0:
                self.listen(patience)
            count = min(self.room(stream), self.h2.max_outbound_frame_size, len(data) - sent)
            if count <= 0:
                break
            try:
                self.h2.send_data(stream, data[sent : sent + count])
            except h2.exceptions.StreamClosedError:  # the server had enough
                break
            self.flush()
            sent += count
        return sent

    def room(self, stream):
        return self.h2.local_flow_control_window(stream)

    def reset(self, stream, code):
        self.h2.reset_stream(stream, code)
        self.flush()

    def until(self, is_done, what):
        """Reads until something is so."""
        end = time.monotonic() + DEADLINE
        while not is_done():
            if time.monotonic() > end:
                raise Late(f"expected {what} within {DEADLINE} s")
            try:
                data = self._bytes.socket.recv(1 << 16)
            except TimeoutError:
                raise Late(f"expected {what} within {DEADLINE} s") from None
            if not data:
                raise EOFError(f"expected {what}, found the end")
            self._receive(data)

    def listen(self, seconds):
        """Reads what comes within a time."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self._bytes.socket.settimeout(left)
                data = self._bytes.socket.recv(1 << 16)
                if not data:
                    raise EOFError("expected an open connection, found the end")
                self._receive(data)
        except TimeoutError:
            pass
        finally:
            self._bytes.socket.settimeout(DEADLINE)

    def frames(self):
        """Reads frames past the library, which takes GOAWAY for the end of everything."""
        while True:
            frame, length = Frame.parse_frame_header(memoryview(self._bytes.exactly(9)))
            frame.parse_body(memoryview(self._bytes.exactly(length)))
            yield frame

    def send(self, data):
        self._bytes.send(data)

    def head(self, stream):
        """Waits for the head of an answer; returns status and fields."""
        self.until(lambda: ":status" in self.answers[stream][0] or stream in self.resets, f"a head on stream {stream}")
        fields = self.answers[stream][0]
        assert ":status" in fields, f"expected a head on stream {stream}, found RST_STREAM {self.resets[stream]}"
        return int(fields[":status"]), fields

    def answer(self, stream):
        """Waits for the whole answer; returns status, fields and body."""
        self.until(lambda: stream in self.ended, f"an answer on stream {stream}")
        fields, body = self.answers[stream]
        return int(fields[":status"]), fields, bytes(body)

    def flush(self):
        self._bytes.send(self.h2.data_to_send())

    def _receive(self, data):
        for event in self.h2.receive_data(data):
            self._take(event)
        self.flush()

    def _take(self, event):
        self.events.append(event)
        if isinstance(event, h2.events.ResponseReceived):
            self.answers[event.stream_id][0].update(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.answers[event.stream_id][1].extend(event.data)
            if event.stream_id not in self.stuck:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = event.error_code


class StreamSocket:
    """A WebSocket on a stream of an HTTP/2 connection."""

    def __init__(self, client, path, *, changes=None, extension=None):
        """`extension` is offered, and used when the server agrees to it."""
        self.client = client
        offer = {"sec-websocket-extensions": f"{extension.name}; {extension.offer()}"} if extension else {}
        self.stream = client.ask_for_socket(path, {**offer, **(changes or {})})
        status, self.fields = client.head(self.stream)
        assert status == 200, f"expected 200, found {status}: {client.answer(self.stream)[2]!r}"
        if extension and "sec-websocket-extensions" in self.fields:
            extension.finalize(self.fields["sec-websocket-extensions"])
        self.frames = Connection(ConnectionType.CLIENT, [extension] if extension else [])
        self._taken = 0
        self._events = deque()

    def send(self, event):
        self.client.write(self.stream, self.frames.send(event))

    def say(self, message, *, is_last=True):
        """Sends a message, or a fragment of it."""
        event = TextMessage if isinstance(message, str) else BytesMessage
        self.send(event(message, message_finished=is_last))

    def close(self, code=1000, reason=None):
        self.send(CloseConnection(code, reason))

    def finish(self):
        """Ends the client's half of the stream."""
        self.client.write(self.stream, end_stream=True)

    def event(self):
        """Returns the payload of the server's next frame, or part of one."""
        self.client.until(lambda: self._events or self._read(), f"a frame on stream {self.stream}")
        return self._events.popleft()

    def receive(self):
        """Returns the next whole message, text as `str` and binary as `bytes`."""
        parts = []
        while True:
            event = self.event()
            assert isinstance(event, (TextMessage, BytesMessage)), f"expected a message, found {event}"
            parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            if event.message_finished:
                return ("" if isinstance(event, TextMessage) else b"").join(parts)

    def closed(self):
        """Returns the code and the reason of the server's close frame, which must come next."""
        event = self.event()
        assert isinstance(event, CloseConnection), f"expected a close frame, found {event}"
        return int(event.code), event.reason

    def expect_end(self):
        """Waits for the end of the server's half, which must be no reset."""
        self.client.until(
            lambda: self.stream in self.client.ended or self.stream in self.client.resets, f"the end of {self.stream}"
        )
        assert self.stream not in self.client.resets, f"expected END_STREAM, found RST_STREAM {self.client.resets}"

    def _read(self):
        data = self.client.answers[self.stream][1]
        if len(data) > self._taken:
            self.frames.receive_data(bytes(data[self._taken :]))
            self._taken = len(data)
        self._events.extend(self.frames.events())
        return self._events
