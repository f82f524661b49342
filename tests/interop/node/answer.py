"""A Python client for room.test.mjs: waits for a message from Node, answers it, leaves with 0."""

import json
import sys

from websockets.sync.client import connect

DEADLINE = 20

url, origin = sys.argv[1:]
with connect(url, origin=origin, proxy=None) as socket:
    while True:
        event = json.loads(socket.recv(timeout=DEADLINE))
        if event["type"] == "chat.message" and event["message"] == "from node":
            break
    socket.send(json.dumps({"message": "from python: grüße"}))
    while json.loads(socket.recv(timeout=DEADLINE)).get("message") != "from python: grüße":
        pass
