"""What the adapter runs beside Channels: a bare ASGI application that does one thing for each path."""

import asyncio


async def application(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await {
        "/ws/echo/": echo,
        "/ws/scope/": show_scope,
        "/ws/denied/": deny,
        "/ws/broken/": fail,
        "/ws/broken/later/": fail_later,
        "/ws/closed/": close,
        "/ws/clock/": tell_the_time,
        "/ws/done/": return_at_once,
    }[scope["path"]](scope, receive, send)


async def echo(scope, receive, send):
    """Accepts with the first subprotocol and a header field; says what it hears, and at the end how it ended."""
    subprotocol = next(iter(scope["subprotocols"]), None)
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": [(b"x-from", b"the application")]})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
    print(f"ended with {event['code']}", flush=True)


async def show_scope(scope, receive, send):
    await send({"type": "websocket.accept"})
    fields = {name: scope[name] for name in ("type", "path", "raw_path", "query_string", "http_version", "asgi", "subprotocols")}
    fields["origin"] = dict(scope["headers"])[b"origin"]
    await send({"type": "websocket.send", "text": repr(fields)})
    await receive()


async def deny(scope, receive, send):
    await send({"type": "websocket.close"})


async def fail(scope, receive, send):
    raise RuntimeError("on purpose")


async def fail_later(scope, receive, send):
    await send({"type": "websocket.accept"})
    await receive()
    raise RuntimeError("on purpose")


async def close(scope, receive, send):
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 4001})
    print(f"ended with {(await receive())['code']}", flush=True)


async def tell_the_time(scope, receive, send):
    """Speaks when nobody asked."""
    await send({"type": "websocket.accept"})
    await receive()
    for number in range(20):
        await send({"type": "websocket.send", "text": f"tick {number}"})
        await asyncio.sleep(0.1)
    await send({"type": "websocket.close", "code": 4002})


async def return_at_once(scope, receive, send):
    await send({"type": "websocket.accept"})
