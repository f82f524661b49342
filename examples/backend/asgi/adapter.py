"""Runs an ASGI WebSocket application behind `consumer = "backend"`: python adapter.py MODULE:APPLICATION"""

import asyncio, base64, hmac, http.server, importlib, json, os, sys, time, traceback, urllib.error, urllib.request  # noqa: E401

SECRET, PORT = os.environ["BACKEND_SECRET"].encode(), int(os.environ.get("BACKEND_PORT", "9000"))
API, TOKEN = os.environ.get("ONEPORT_API", "http://127.0.0.1:8000/api"), os.environ["PUBLISH_TOKEN"]
SOCKETS = {}  # by the connection's id


class Socket:
    def __init__(self, application, connection, scope):
        self.id, self.name, self.last_seq, self.is_new = connection["id"], connection["name"], 0, False
        self.inbox, self.decision, self.order = asyncio.Queue(100), asyncio.get_running_loop().create_future(), asyncio.Lock()
        self.began = time.monotonic()
        scope["headers"] = [[part.encode("latin-1") for part in pair] for pair in scope["headers"]]
        scope |= {"query_string": scope["raw_query"].encode(), "raw_path": scope["path"].encode(), "asgi": {"version": "3.0"}}
        self.task = asyncio.create_task(self.run(application, scope))

    async def run(self, application, scope):
        code = 1000
        try:
            await application(scope, self.inbox.get, self.send)
        except Exception:
            traceback.print_exc()
            code = 1011
        if SOCKETS.pop(self.id, None):
            await self.send({"type": "websocket.close", "code": code})

    async def send(self, event):
        event = {name: value for name, value in event.items() if value is not None}
        if "bytes" in event:
            event["bytes"] = base64.b64encode(event["bytes"]).decode()
        if "headers" in event:
            event["headers"] = [[part.decode("latin-1") for part in pair] for pair in event["headers"]]
        if not self.decision.done():
            self.is_new = event["type"] == "websocket.accept"
            return self.decision.set_result(event)
        async with self.order:
            while not await asyncio.to_thread(push, self.id, event) and self.is_new and time.monotonic() < self.began + 5:
                await asyncio.sleep(0.01)  # the server has not read the decision yet
            self.is_new = False

    async def tell(self, event):
        if event["seq"] > self.last_seq:  # else it is tried again
            self.last_seq = event["seq"]
            await self.inbox.put(event | ({"bytes": base64.b64decode(event["bytes"])} if "bytes" in event else {}))
        return await self.decision if event["type"] == "websocket.connect" else None


def push(connection, event):
    is_close, url = event["type"] == "websocket.close", f"{API}/connections/{connection}"
    url, body = (f"{url}?code={event.get('code', 1000)}", None) if is_close else (url, json.dumps(event).encode())
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {TOKEN}"}, method="DELETE" if is_close else "POST")
    try:
        urllib.request.urlopen(request, timeout=5).close()
        return True
    except urllib.error.HTTPError as error:
        if error.code != 404:  # no such connection
            raise
        return False


async def answer(application, events, connection=None, scope=None, **_):
    first = events[0]
    if connection is None:  # a process began: its forerunner's connections are gone
        for socket in [each for each in SOCKETS.values() if each.name == first["name"] and not each.id.startswith(first["node"])]:
            await socket.tell({"type": "websocket.disconnect", "code": 1006, "seq": float("inf")})
        return []
    if first["type"] == "websocket.connect" and connection["id"] not in SOCKETS:
        SOCKETS[connection["id"]] = Socket(application, connection, scope)
    if not (socket := SOCKETS.get(connection["id"])):
        return [{"type": "websocket.close", "code": 1012}]
    return [effect for event in events if (effect := await socket.tell(event))]


class Endpoint(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        at, _, given = self.headers.get("Oneport-Signature", "").removeprefix("t=").partition(",v1=")
        wanted = hmac.new(SECRET, at.encode() + b"." + body, "sha256").hexdigest()
        if not hmac.compare_digest(wanted.encode(), given.encode()) or abs(time.time() - int(at)) > 300:
            return self.send_error(403)
        answering = asyncio.run_coroutine_threadsafe(answer(self.application, **json.loads(body)), self.loop)
        said = json.dumps({"events": answering.result()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


async def main(module, name):
    Endpoint.application, Endpoint.loop = staticmethod(getattr(importlib.import_module(module), name)), asyncio.get_running_loop()
    await asyncio.to_thread(http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Endpoint).serve_forever)


asyncio.run(main(*sys.argv[1].split(":")))
