"""A Django project for Daphne: a chat consumer with its group, and a view that publishes. LAYER is its channel layer."""

import json
import os

import django
from django.conf import settings

settings.configure(
    DEBUG=False,
    SECRET_KEY="no cookie is ever signed here",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    CHANNEL_LAYERS={"default": json.loads(os.environ["LAYER"])},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402 - needs settings
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.crypto import constant_time_compare  # noqa: E402

AUTHORIZATION = f"Bearer {os.environ['PUBLISH_TOKEN']}"
ANSWER = b'{"ok":true}'


class Chat(AsyncWebsocketConsumer):
    """A member's message goes to the group, and the group's events go to each member."""

    async def connect(self) -> None:
        self.group = self.scope["url_route"]["kwargs"]["group"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.group, {"type": "chat.message", "text": text_data})

    async def chat_message(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


class ToOneport(AsyncWebsocketConsumer):
    """The client's message goes to Oneport's members, as a text frame."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        group = self.scope["url_route"]["kwargs"]["group"]
        await self.channel_layer.group_send(group, {"type": "websocket.send", "text": text_data})


async def publish(request: HttpRequest, group: str) -> HttpResponse:
    if not constant_time_compare(request.headers.get("authorization", ""), AUTHORIZATION):
        return HttpResponse(status=401)
    await get_channel_layer().group_send(group, json.loads(request.body))
    return HttpResponse(ANSWER, content_type="application/json", headers={"Content-Length": str(len(ANSWER))})


urlpatterns = [path("api/groups/<slug:group>", publish)]

sockets = [path("ws/<slug:group>/", Chat.as_asgi()), path("to-oneport/<slug:group>/", ToOneport.as_asgi())]

application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": URLRouter(sockets)})
