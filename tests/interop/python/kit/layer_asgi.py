"""What Daphne serves: one consumer of Django Channels, as a project has them. LAYER_SETTINGS names its channel layer."""

import json
import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="django-insecure-0123456789",
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={"default": json.loads(os.environ["LAYER_SETTINGS"])},
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402 - needs settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """Joins `chat_ROOM`; a client's message goes to the group unchanged, and the group's events go to the client."""

    async def connect(self):
        self.group = f"chat_{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "accepted", "channel": self.channel_name})

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive_json(self, content, **kwargs):
        await self.channel_layer.group_send(self.group, content)

    async def chat_message(self, event):
        await self.send_json(event)


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/chat/<slug:room>/", ChatConsumer.as_asgi())])})
