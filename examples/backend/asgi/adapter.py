"""Runs an ASGI WebSocket application behind `consumer = "backend"`: python adapter.py MODULE:APPLICATION"""

import asyncio, base64, hmac, http.server, json, logging, os, pkgutil, sys, threading, time  # noqa: E401
from urllib import parse, request

SECRET, API = os.environ["BACKEND_SECRET"].encode(), os.environ.get("ONEPORT_API", "http://127.0.0.1:8000/api")
PORT, HEADERS = int(os.environ.get("BACKEND_PORT", "9000")), {"Authorization": f"Bearer {os.environ['PUBLISH_TOKEN']}"}
APPLICATION, LOOP, SOCKETS = pkgutil.resolve_name(sys.argv[1]), asyncio.new_event_loop(), {}  # by the connection's id


class Socket:
    def __init__(self, connection, scope):
        self.id, self.name, self.last_seq, self.is_over = connection["id"], connection["name"], 0, False
        self.inbox, self.decision, self.order = asyncio.Queue(), asyncio.Future(), asyncio.Lock()
        self.scope, self.new_until, self.task = scope, LOOP.time() + 10, asyncio.create_task(self.run(scope))

    async def run(self, scope):
        scope |= {k.replace("raw_query", "query_string"): v.encode() for k, v in scope.items() if k.startswith("raw_")}
        scope |= {"headers": [(k.encode(), v.encode()) for k, v in scope["headers"]], "asgi": {"version": "3.0"}}
        scope["extensions"] = {"oneport": {k: scope.pop(k) for k in ("user", "session")}}  # Channels has its own there
        (failure,) = await asyncio.gather(APPLICATION(scope, self.inbox.get, self.send), return_exceptions=True)
        if failure:
            logging.error("the application failed", exc_info=failure)
        if SOCKETS.pop(self.id, None):
            await self.send({"type": "websocket.close", "code": 1011 if failure else 1000})

    async def send(self, event):
        event = {k: base64.b64encode(v).decode() if k == "bytes" else v for k, v in event.items() if v is not None}
        if self.decision.done():
            async with self.order:
                while await asyncio.to_thread(self.push, event) and not self.is_over and LOOP.time() < self.new_until:
                    await asyncio.sleep(0.01)  # the server has not read the decision yet
        elif event["type"] == "websocket.accept" and event.get("subprotocol") in (None, *self.scope["subprotocols"]):
            self.decision.set_result(event | {"headers": [[*map(bytes.decode, h)] for h in event.get("headers", [])]})
        else:  # a denial: nobody else tells the application that it is over
            SOCKETS.pop(self.id, None)
            self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.decision.set_result({"type": "websocket.close", "reason": event.get("reason", "")})

    def push(self, event):
        url, method, body = f"{API}/connections/{self.id}", "POST", json.dumps(event).encode()
        if event["type"] == "websocket.close":
            url, method, body = f"{url}?{parse.urlencode({'code': 1000} | event)}", "DELETE", None
        try:
            request.urlopen(request.Request(url, body, HEADERS, method=method), timeout=5).close()
        except OSError as refused:
            if getattr(refused, "code", None) == 404:
                return True  # there is no such connection
            logging.error("the server refused %s: %s", event["type"], refused)
            return event.get("code", 1011) != 1011 and self.push(event | {"code": 1011, "reason": ""})


class Endpoint(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        at, *given = self.headers.get("Oneport-Signature", "").removeprefix("t=").split(",v1=")
        wanted = hmac.new(SECRET, at.encode() + b"." + body, "sha256").hexdigest().encode()
        if not any(hmac.compare_digest(wanted, v1.encode()) for v1 in given) or abs(time.time() - int(at)) > 300:
            return self.send_error(403)
        said = json.dumps(asyncio.run_coroutine_threadsafe(self.answer(**json.loads(body)), LOOP).result()).encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))

    async def answer(self, events, connection={"id": None}, scope=None, **_):
        if (kind := events[0]["type"]) == "oneport.node_started":  # the connections of its forerunner are gone
            for gone in [s for s in SOCKETS.values() if s.name == events[0]["name"] and events[0]["node"] not in s.id]:
                gone.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
        if kind != "websocket.connect" and connection["id"] not in SOCKETS:
            return {"events": [{"type": "websocket.close", "code": 1012}]}
        socket = SOCKETS[connection["id"]] = SOCKETS.get(connection["id"]) or Socket(connection, scope)
        for each in events:
            if each["seq"] > socket.last_seq and (socket.inbox.qsize() < 100 or kind == "websocket.disconnect"):
                socket.last_seq, socket.is_over = each["seq"], kind == "websocket.disconnect"
                socket.inbox.put_nowait(each | {"bytes": base64.b64decode(each["bytes"])} if "bytes" in each else each)
        return {"ack": socket.last_seq, "events": [await socket.decision] if kind == "websocket.connect" else []}


threading.Thread(target=LOOP.run_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Endpoint).serve_forever()
