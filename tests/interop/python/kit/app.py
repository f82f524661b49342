"""App: a small HTTP server of the tests that authenticates requests, or misbehaves."""

import json
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .deadline import DEADLINE

# What the app may do instead of responding: hang, or close.
HANG, LEAVE = "hang", "leave"


@dataclass
class Part:
    """Some bytes, after which nothing more comes."""

    data: bytes


@dataclass
class Asked:
    """One question."""

    method: str
    target: str
    headers: object
    connection: tuple


class App:
    """`answer` is given each question and returns an answer: see `reply`; or raw bytes, a `Part`, `HANG`, `LEAVE`."""

    def __init__(self):
        self.answer = lambda asked: reply()
        self.asked = []
        self._server = None
        self._released = threading.Event()
        self.port = 0
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Listens, at the same port as before."""
        self._released = threading.Event()
        self._server = _Listener(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self):
        """Ends it and all connections to it."""
        if self._server is not None:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            self.drop()
            self._server = None

    def drop(self):
        """Ends all connections, as a server does with those that are idle."""
        with self._server.lock:
            held = list(self._server.held)
        for connection in held:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is over already

    def release(self):
        """Lets those go that hang."""
        self._released.set()
        self._released = threading.Event()

    def url(self, target="/auth"):
        return f"http://127.0.0.1:{self.port}{target}"

    def _act(self, handler):
        asked = Asked(handler.command, handler.path, handler.headers, handler.client_address)
        released = self._released
        self.asked.append(asked)
        answer = self.answer(asked)
        handler.close_connection = answer in (HANG, LEAVE) or isinstance(answer, (bytes, Part))
        if answer == HANG:
            released.wait(DEADLINE)
        elif isinstance(answer, Part):
            handler.wfile.write(answer.data)
            released.wait(DEADLINE)
        elif isinstance(answer, bytes):
            handler.wfile.write(answer)
        elif answer != LEAVE:
            status, fields, body = answer
            handler.send_response(status)
            if status >= 200 and status not in (204, 304):
                fields = [*fields, ("Content-Length", str(len(body)))]
            for name, value in fields:
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(body)


def reply(status=200, fields=(), body=b"", **named):
    """Makes an answer; `x_user_id="7"` is a field."""
    fields = [*fields, *((name.replace("_", "-"), value) for name, value in named.items())]
    return status, fields, body


def user(identity, name=None, staff=None):
    """Makes an answer that names a user."""
    given = {"x_user_id": identity, "x_user_name": name, "x_user_staff": staff}
    return reply(**{field: value for field, value in given.items() if value is not None})


def in_json(value, media_type="application/json"):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return reply(body=body, content_type=media_type)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments):
        self.held = set()
        self.lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        with self.lock:
            self.held.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        with self.lock:
            self.held.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass  # a client that left; what matters is asserted by the tests


def _handler(app):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = DEADLINE
        disable_nagle_algorithm = True

        def do_GET(self):
            app._act(self)

        do_POST = do_HEAD = do_PUT = do_GET

        def log_message(self, *_):
            pass

    return Handler
