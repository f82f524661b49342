"""An HTTP endpoint for `consumer = "backend"`, with the standard library alone."""

import json
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .signature import Secrets, is_signed, keys_of
from .types import Request, Response

Answer = Callable[[Request], Response | None]

# A request has at most `batch_bytes` of events, and `max_state`.
BODY_MAX = 16 * 1024 * 1024
# How many seconds a connection may be silent. Oneport keeps one that is idle for less.
SILENCE_MAX = 120


def serve(answer: Answer, *, secret: Secrets, port: int = 9000, host: str = "127.0.0.1") -> None:
    """Serves until it is interrupted.

    `answer` gets each request whose signature is right, in a thread of its connection. What it returns is the response;
    None has no effect. If it fails, or returns something else than JSON, the response is 500, which ends that one connection.
    """
    with server(answer, secret=secret, port=port, host=host) as listening:
        print(f"listens at {host}:{listening.server_port}", flush=True)
        try:
            listening.serve_forever()
        except KeyboardInterrupt:
            pass


def server(answer: Answer, *, secret: Secrets, port: int = 9000, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """Returns the server that `serve` runs; it listens already. A port of 0 is a free one."""
    keys = keys_of(secret)

    class Endpoint(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # Oneport keeps its connections
        disable_nagle_algorithm = True
        wbufsize = -1  # head and body of a response leave together
        timeout = SILENCE_MAX

        def do_POST(self) -> None:
            status, said = self.reply()
            if status != 200:
                self.close_connection = True  # what is left of the request would be read as the next
            self.say(status, said.encode())

        def reply(self) -> tuple[int, str]:
            length = self.headers.get("Content-Length", "0")
            if not (length.isascii() and length.isdigit()):
                return 400, json.dumps("expected a number of bytes in Content-Length")
            if len(length) > 12 or int(length) > BODY_MAX:
                return 413, json.dumps(f"expected at most {BODY_MAX} bytes")
            body = self.rfile.read(int(length))
            if not is_signed(self.headers.get("Oneport-Signature"), body, keys):
                return 403, json.dumps("expected a request that is signed with the secret")
            try:
                return 200, json.dumps(answer(json.loads(body)) or {}, allow_nan=False)
            except Exception:
                # Without a response Oneport would treat the program as unavailable and retry; 500 ends one connection.
                traceback.print_exc()
                return 500, json.dumps("the program failed: its log says why")

        def say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Oneport has an access log."""

    return ThreadingHTTPServer((host, port), Endpoint)
