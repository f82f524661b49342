"""Runs an ASGI WebSocket application behind `consumer = "backend"`: python -m oneport_backend.asgi MODULE:APPLICATION

The environment names the rest: BACKEND_SECRET, PUBLISH_TOKEN, and if they differ from the defaults BACKEND_PORT (9000) and
ONEPORT_API (http://127.0.0.1:8000/api).

A request's events are passed to the application and responded to at once; only the handshake waits for the application. What
the application sends goes through the server API, in order.
"""

import asyncio
import base64
import json
import logging
import os
import pkgutil
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from typing import Any, cast
from urllib import parse, request

from .endpoint import serve
from .types import Effect, Request, Response

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# How many events may wait for an application.
INBOX_MAX = 100
# How many seconds after the handshake the server may not know the connection yet.
NEW_SECONDS = 10
CALL_SECONDS = 5
# How long an application may take to decide. The server has given up long before, unless its `timeout` is longer.
DECISION_SECONDS = 60


class Adapter:
    """An application, and its instance for each connection."""

    def __init__(self, application: Application, *, api: str, token: str) -> None:
        """`api` is the URL of the view `publish`, `token` one of its tokens that may use connections."""
        self.application = application
        self._api = api
        self._headers = {"Authorization": f"Bearer {token}"}
        self._sockets: dict[str, _Socket] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, said: Request) -> Response:
        """Answers a request, from any thread but the event loop's."""
        answered: Future[Response] = asyncio.run_coroutine_threadsafe(self._answer(said), self._loop)
        # The loop itself may be held up by an application that does not await.
        return answered.result(DECISION_SECONDS + CALL_SECONDS)

    @property
    def connections(self) -> int:
        """How many connections the application has."""
        return len(self._sockets)

    async def _answer(self, said: Request) -> Response:
        events = cast("list[dict[str, Any]]", said["events"])
        kind = events[0]["type"]
        if kind == "oneport.node_started":
            self._forget(events[0]["name"], events[0]["node"])
        connection = said.get("connection")
        id = connection["id"] if connection is not None else ""
        if kind == "websocket.connect" and connection is not None and id not in self._sockets:
            self._sockets[id] = _Socket(self, id, connection["name"], dict(said["scope"]))
        socket = self._sockets.get(id)
        if socket is None:
            return {"events": [{"type": "websocket.close", "code": 1012}]}
        for event in events:
            socket.take(event)
        return {"ack": socket.last_seq, "events": [await socket.decided()] if kind == "websocket.connect" else []}

    def _forget(self, name: str, node: str) -> None:
        """A server has started: the connections of its forerunner are gone."""
        for socket in list(self._sockets.values()):
            if socket.name == name and node not in socket.id:
                socket.end()

    def drop(self, id: str) -> bool:
        """Returns whether the connection was known until now."""
        return self._sockets.pop(id, None) is not None

    def push(self, id: str, event: Message) -> bool:
        """Carries out what an application sends; returns whether the server does not know the connection."""
        url, method, body = f"{self._api}/connections/{id}", "POST", json.dumps(dict(event)).encode()
        if event["type"] == "websocket.close":
            url, method, body = f"{url}?{parse.urlencode({'code': 1000} | dict(event))}", "DELETE", b""
        try:
            call = request.Request(url, body or None, self._headers, method=method)
            request.urlopen(call, timeout=CALL_SECONDS).close()
        except OSError as refused:
            if getattr(refused, "code", None) == 404:
                return True
            logging.error("the server refused %s: %s", event["type"], refused)
            # A close whose code or reason cannot be sent is one all the same.
            if event.get("code", 1011) != 1011:
                return self.push(id, {**event, "code": 1011, "reason": ""})
        return False


class _Socket:
    """One connection, and its instance of the application."""

    def __init__(self, adapter: Adapter, id: str, name: str, scope: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self.id, self.name = id, name
        self.last_seq = 0
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.decision: asyncio.Future[Effect] = loop.create_future()
        self._adapter = adapter
        self._is_over = False
        self._order = asyncio.Lock()
        self._new_until = loop.time() + NEW_SECONDS
        self._subprotocols: list[str] = scope["subprotocols"]
        self._task = asyncio.create_task(self._run(_asgi(scope)))

    def take(self, event: dict[str, Any]) -> None:
        """Passes an event on, unless it came before, or too many wait: then it is sent again."""
        is_over = event["type"] == "websocket.disconnect"
        if event["seq"] <= self.last_seq or (self.inbox.qsize() >= INBOX_MAX and not is_over):
            return
        self.last_seq, self._is_over = event["seq"], is_over
        self.inbox.put_nowait({**event, "bytes": base64.b64decode(event["bytes"])} if "bytes" in event else event)

    async def decided(self) -> Effect:
        """Returns how the application answers the handshake: with a denial if it takes too long."""
        await asyncio.wait([self.decision], timeout=DECISION_SECONDS)
        if not self.decision.done():
            self._deny("")
        return self.decision.result()

    def end(self) -> None:
        """Tells the application that it is over, which no one else does."""
        self._is_over = True
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})

    def _deny(self, reason: str) -> None:
        self._adapter.drop(self.id)
        self.end()
        self.decision.set_result({"type": "websocket.close", "reason": reason})

    async def _run(self, scope: Message) -> None:
        failure = None
        try:
            await self._adapter.application(scope, self.inbox.get, self._send)
        except Exception as error:
            failure = error
            logging.error("the application failed", exc_info=failure)
        if self._adapter.drop(self.id):
            await self._send({"type": "websocket.close", "code": 1011 if failure else 1000})

    async def _send(self, message: Message) -> None:
        event = {
            key: base64.b64encode(value).decode() if key == "bytes" else value for key, value in message.items() if value is not None
        }
        if self.decision.done():
            if not self._is_over:  # what is sent to a closed socket is lost
                await self._push(event)
        elif event["type"] == "websocket.accept" and event.get("subprotocol") in (None, *self._subprotocols):
            fields = cast("list[tuple[bytes, bytes]]", event.get("headers", []))
            headers = [[name.decode(), value.decode()] for name, value in fields]
            self.decision.set_result(cast(Effect, {**event, "headers": headers}))
        else:
            self._deny(event.get("reason", ""))

    async def _push(self, event: Message) -> None:
        loop = asyncio.get_running_loop()
        async with self._order:
            while await asyncio.to_thread(self._adapter.push, self.id, event) and not self._is_over and loop.time() < self._new_until:
                await asyncio.sleep(0.01)  # the server has not read the decision yet


def _asgi(scope: dict[str, Any]) -> Message:
    """Returns the scope as ASGI has it. Oneport's own user and session leave their places to those of the application."""
    found = dict(scope)
    for key, value in scope.items():
        if key.startswith("raw_"):
            found[key.replace("raw_query", "query_string")] = value.encode()
    found["headers"] = [(name.encode(), value.encode()) for name, value in scope["headers"]]
    found["asgi"] = {"version": "3.0"}
    found["extensions"] = {**scope.get("extensions", {}), "oneport": {key: found.pop(key) for key in ("user", "session")}}
    return found


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    application = cast(Application, pkgutil.resolve_name(sys.argv[1]))
    api = os.environ.get("ONEPORT_API", "http://127.0.0.1:8000/api")
    adapter = Adapter(application, api=api, token=os.environ["PUBLISH_TOKEN"])
    serve(adapter, secret=os.environ["BACKEND_SECRET"], port=int(os.environ.get("BACKEND_PORT", "9000")))


if __name__ == "__main__":
    main()
