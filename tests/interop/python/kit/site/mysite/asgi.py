"""The project's WebSockets under Daphne."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http = get_asgi_application()

# After Django is set up: its models are imported from here on.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402


class Greeter(AsyncJsonWebsocketConsumer):
    """Greets the user of the session, and sends back what it is told."""

    async def connect(self):
        await self.accept()
        await self.send_json({"hello": self.scope["user"].get_username(), "client": self.scope["client"]})

    async def receive_json(self, content):
        if "close" in content:
            await self.close(content["close"])
        else:
            await self.send_json(content)


class Members(AsyncJsonWebsocketConsumer):
    """Refuses visitors: to close before accepting is 403."""

    async def connect(self):
        if self.scope["user"].is_authenticated:
            await self.accept()
        else:
            await self.close()


application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AllowedHostsOriginValidator(
            AuthMiddlewareStack(URLRouter([path("ws/greet/", Greeter.as_asgi()), path("ws/members/", Members.as_asgi())]))
        ),
    }
)
