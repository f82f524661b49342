"""What the adapter runs: a bare ASGI application that does one thing for each path, and consumers behind Channels' middleware."""

import asyncio
import functools
import gc
import json
import sys


async def application(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await {
        "/ws/echo/": echo,
        "/ws/echo/huge/": say_too_much,
        "/ws/echo/later/": echo_later,
        "/ws/late/": speak_to_nobody,
        "/ws/scope/": show_scope,
        "/ws/raw_path/": show_raw_path,
        "/ws/cookie/": show_cookie,
        "/ws/count/": count,
        "/ws/denied/": deny,
        "/ws/denied/why/": deny_with_reason,
        "/ws/denied/stays/": deny_and_stay,
        "/ws/stubborn/": accept_with_subprotocol,
        "/ws/hasty/": speak_first,
        "/ws/broken/": fail,
        "/ws/broken/later/": fail_later,
        "/ws/closed/": close,
        "/ws/closed/code/": close_with_code,
        "/ws/closed/reason/": close_with_reason,
        "/ws/clock/": tell_the_time,
        "/ws/done/": return_at_once,
    }[scope["path"]](scope, receive, send)


async def echo(scope, receive, send):
    """Accepts with the first subprotocol and a header field; echoes its events, and reports how it ended."""
    subprotocol = next(iter(scope["subprotocols"]), None)
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": [(b"x-from", b"the application")]})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})
    print(f"ended with {event['code']}", flush=True)


async def echo_later(scope, receive, send):
    """Echoes its events, and does not receive at first."""
    await send({"type": "websocket.accept"})
    await asyncio.sleep(2.5)
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def say_too_much(scope, receive, send):
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.send", "text": "x" * 3_000_000})
    await send({"type": "websocket.send", "text": "still here"})
    await receive()


async def speak_to_nobody(scope, receive, send):
    await send({"type": "websocket.accept"})
    await receive()
    print("hears the end", flush=True)
    await send({"type": "websocket.send", "text": "is anybody there?"})
    await send({"type": "websocket.close"})
    print("spoke to nobody", flush=True)


async def show_scope(scope, receive, send):
    await send({"type": "websocket.accept"})
    fields = {**scope, "origin": dict(scope["headers"])[b"origin"], "headers": None, "extensions": None}
    await send({"type": "websocket.send", "text": repr(fields)})
    await receive()


async def show_raw_path(scope, receive, send):
    await send({"type": "websocket.accept", "headers": [(b"x-raw-path", scope.get("raw_path", b"none"))]})
    await receive()


async def show_cookie(scope, receive, send):
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": repr(dict(scope["headers"])[b"cookie"])})
    await receive()


async def count(scope, receive, send):
    """Reports the number of the adapter's sockets and tasks."""
    await send({"type": "websocket.accept"})
    (adapter,) = (each for each in gc.get_objects() if isinstance(each, sys.modules["__main__"].Adapter))
    counts = [adapter.connections, len(asyncio.all_tasks())]
    await send({"type": "websocket.send", "text": json.dumps(counts)})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def deny(scope, receive, send):
    await send({"type": "websocket.close"})


async def deny_with_reason(scope, receive, send):
    await send({"type": "websocket.close", "code": 1006, "reason": "The room is full."})


async def deny_and_stay(scope, receive, send):
    """Ignores the event that should end it."""
    await send({"type": "websocket.close"})
    while True:
        await asyncio.sleep(3600)


async def accept_with_subprotocol(scope, receive, send):
    """Does not ask what was offered."""
    await send({"type": "websocket.accept", "subprotocol": "mine"})
    await receive()


async def speak_first(scope, receive, send):
    await send({"type": "websocket.send", "text": "hi"})


async def fail(scope, receive, send):
    raise RuntimeError("on purpose")


async def fail_later(scope, receive, send):
    await send({"type": "websocket.accept"})
    await receive()
    raise RuntimeError("on purpose")


async def close(scope, receive, send):
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 4001, "reason": "no & möre?"})
    print(f"ended with {(await receive())['code']}", flush=True)


async def close_with_code(scope, receive, send):
    """With a code that may not be sent."""
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 1005})
    await receive()


async def close_with_reason(scope, receive, send):
    """With a reason that does not fit into a close frame."""
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 4001, "reason": "x" * 124})
    await receive()


async def tell_the_time(scope, receive, send):
    """Sends without being asked."""
    await send({"type": "websocket.accept"})
    await receive()
    for number in range(20):
        await send({"type": "websocket.send", "text": f"tick {number}"})
        await asyncio.sleep(0.1)
    await send({"type": "websocket.close", "code": 4002})


async def return_at_once(scope, receive, send):
    await send({"type": "websocket.accept"})


async def behind_middleware(scope, receive, send):
    await _behind_middleware()(scope, receive, send)


@functools.cache
def _behind_middleware():
    """Made when it is wanted: Django needs settings before its parts can be imported."""
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="django-insecure-0123456789",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    )
    django.setup()

    from channels.auth import AuthMiddlewareStack
    from channels.generic.websocket import AsyncJsonWebsocketConsumer
    from channels.routing import URLRouter
    from django.contrib.sessions.backends.signed_cookies import SessionStore
    from django.urls import path

    class Visitor(AsyncJsonWebsocketConsumer):
        """Reports the visitor, and hands out a session."""

        async def connect(self):
            await self.accept()
            new_session = SessionStore()
            new_session["seen"] = 3
            new_session.save()
            await self.send_json(
                {
                    "user": str(self.scope["user"]),
                    "seen": self.scope["session"].get("seen"),
                    "new_session": new_session.session_key,
                    "oneport": self.scope["extensions"]["oneport"],
                }
            )

    class Doorman(AsyncJsonWebsocketConsumer):
        """Ends on `websocket.disconnect`, as consumers of Channels do."""

        async def connect(self):
            await self.close()

    routes = [path("ws/visitor/", Visitor.as_asgi()), path("ws/denied/", Doorman.as_asgi()), path("ws/count/", count)]
    return AuthMiddlewareStack(URLRouter(routes))
