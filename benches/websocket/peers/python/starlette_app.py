"""Starlette, for Uvicorn: `/echo` and `/room`, a room being a set of sockets."""

import asyncio

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

members: set[WebSocket] = set()


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


async def room(socket: WebSocket) -> None:
    await socket.accept()
    members.add(socket)
    try:
        async for text in socket.iter_text():
            sending = (member.send_text(text) for member in members)
            await asyncio.gather(*sending, return_exceptions=True)
    finally:
        members.discard(socket)


app = Starlette(routes=[WebSocketRoute("/echo", echo), WebSocketRoute("/room", room)])
