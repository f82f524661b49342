"""A chat behind `consumer = "backend"`, with Python's standard library alone."""

import hmac
import json
import os
import sys
import time
import traceback
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["BACKEND_SECRET"].encode()
PORT = int(os.environ.get("BACKEND_PORT", "9000"))


def is_signed(signature, body):
    """Returns whether the request comes from Oneport and is at most minutes old."""
    at, *given = signature.removeprefix("t=").split(",v1=")
    wanted = hmac.new(SECRET, at.encode() + b"." + body, "sha256").hexdigest()
    # One for each secret that Oneport has: several while a secret is being rotated.
    is_ours = [hmac.compare_digest(wanted.encode(), one.encode()) for one in given]
    return any(is_ours) and at.isdecimal() and abs(time.time() - int(at)) < 300


def connect(room):
    if room == "closed":
        headers = [["content-type", "text/plain"]]
        return [{"type": "websocket.http.response", "status": 403, "headers": headers, "body": "This room is closed.\n"}]
    return [{"type": "websocket.accept"}, {"type": "group.add", "group": f"chat_{room}"}]


def receive(room, state, text):
    try:
        message = json.loads(text)["message"]
        if not isinstance(message, str) or not message:
            raise TypeError(message)
    except (ValueError, TypeError, KeyError, RecursionError):  # the last for what is nested too deeply
        error = {"type": "chat.error", "code": "invalid_message", "message": 'expected {"message": "..."}'}
        return [{"type": "websocket.send", "text": json.dumps(error)}]
    state["said"] += 1
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    event = {"type": "chat.message", "message": message, "user": None, "at": now, "number": state["said"]}
    return [{"type": "group.send", "group": f"chat_{room}", "event": event}]


def answer(request):
    """Returns the actions for the events of one request."""
    state = request.get("connection", {}).get("state") or {"said": 0}
    effects = []
    for event in request["events"]:
        match event["type"]:
            case "websocket.connect":
                effects += connect(room_of(request))
            case "websocket.receive":
                effects += receive(room_of(request), state, event.get("text"))
            case "websocket.disconnect":
                print(f"left {room_of(request)} after {state['said']} messages: {event['cause']}", flush=True)
            case "oneport.node_started":
                print(f"{event['name']} began as {event['node']}", flush=True)
    return {"state": state, "events": effects}


def room_of(request):
    return request["scope"]["url_route"]["kwargs"]["room"]


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # Oneport keeps its connections
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer leave together

    def do_POST(self):
        try:
            status, value = self.reply()
        except Exception:
            # Without a response Oneport would treat the program as unavailable and retry; 500 ends one connection.
            traceback.print_exc()
            status, value = 500, "the program failed: its log says why"
            self.close_connection = True  # what is left of the request would be read as the next
        self.say(status, value)

    def reply(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if not is_signed(self.headers.get("Oneport-Signature", ""), body):
            return 403, "expected a request that is signed with BACKEND_SECRET"
        return 200, answer(json.loads(body))

    def say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        """Oneport has an access log."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", PORT), Endpoint) as server:
        print(f"listens at 127.0.0.1:{PORT}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(0)
