"""A chat behind `consumer = "backend"`. `pip install client/python` brings what it imports, and nothing else."""

import json
import os
from datetime import datetime, timezone

from oneport_backend import Effect, Request, Response, serve


def connect(room: str) -> list[Effect]:
    if room == "closed":
        headers = [["content-type", "text/plain"]]
        return [{"type": "websocket.http.response", "status": 403, "headers": headers, "body": "This room is closed.\n"}]
    return [{"type": "websocket.accept"}, {"type": "group.add", "group": f"chat_{room}"}]


def receive(room: str, state: dict[str, int], text: str | None) -> list[Effect]:
    try:
        message = json.loads(text or "")["message"]
        if not isinstance(message, str) or not message:
            raise TypeError(message)
    except (ValueError, TypeError, KeyError, RecursionError):  # the last for what is nested too deeply
        error = {"type": "chat.error", "code": "invalid_message", "message": 'expected {"message": "..."}'}
        return [{"type": "websocket.send", "text": json.dumps(error)}]
    state["said"] += 1
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    event = {"type": "chat.message", "message": message, "user": None, "at": now, "number": state["said"]}
    return [{"type": "group.send", "group": f"chat_{room}", "event": event}]


def answer(request: Request) -> Response:
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


def room_of(request: Request) -> str:
    return request["scope"]["url_route"]["kwargs"]["room"]


if __name__ == "__main__":
    serve(answer, secret=os.environ["BACKEND_SECRET"], port=int(os.environ.get("BACKEND_PORT", "9000")))
