"""Django next to the server: its channel layers in an event loop of the tests, and a project with a consumer under Daphne."""

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from .deadline import DEADLINE, Late, until
from .postgres import free_port

_PYTHON = Path(__file__).resolve().parent.parent

LAYERS = {"channels_redis.core": RedisChannelLayer, "channels_redis.pubsub": RedisPubSubChannelLayer}


class Django:
    """A process of Django, as far as its channel layer is concerned. `options` are those of CHANNEL_LAYERS' CONFIG."""

    def __init__(self, layer_format, url, *, more_hosts=(), **options):
        self._layer = LAYERS[layer_format], {"hosts": [url, *more_hosts], **options}
        self._start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def restart(self):
        """Restarts it, without groups."""
        self.stop()
        self._start()

    def _start(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        kind, options = self._layer
        self.layer = kind(**options)

    @property
    def loop(self):
        return self._loop

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()  # which ends the layer's connections too

    def run(self, what, deadline=DEADLINE):
        """Waits for a coroutine."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(what, deadline), self._loop)
        try:
            return future.result(deadline + 1)
        except TimeoutError:
            raise Late(f"expected the channel layer of Django to be done within {deadline} s") from None

    def group_send(self, group, event):
        self.run(self.layer.group_send(group, event))

    def send(self, channel, event):
        self.run(self.layer.send(channel, event))

    def flood(self, group, events, at_once):
        """Sends many events in order, `at_once` of them at a time where the order does not matter."""

        async def all_of_them():
            waiting = iter(events)

            async def one_after_another():
                for event in waiting:
                    await self.layer.group_send(group, event)

            await asyncio.gather(*(one_after_another() for _ in range(at_once)))

        self.run(all_of_them(), 3 * DEADLINE)

    def channel(self, *groups):
        """Returns a new channel that is in these groups, and reads nothing yet."""
        return self.run(self._channel(groups))

    def named(self, name):
        """Returns a channel of that name, as workers read it, and sees that it is read from now on."""
        if isinstance(self.layer, RedisPubSubChannelLayer):
            self.run(self._subscribe(name))
        return Channel(self, name)

    async def _subscribe(self, name):
        await self.layer._subscribe_to_channel(name)

    async def _channel(self, groups):
        name = await self.layer.new_channel()
        for group in groups:
            await self.layer.group_add(group, name)
        return Channel(self, name)

    @staticmethod
    async def _end():
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Channel:
    """A channel of Django's: a consumer without a socket."""

    def __init__(self, django, name):
        self.django = django
        self.name = name

    def receive(self, deadline=DEADLINE):
        return self.django.run(self.django.layer.receive(self.name), deadline)

    def receive_all(self, number, deadline=DEADLINE):
        async def all_of_them():
            return [await self.django.layer.receive(self.name) for _ in range(number)]

        return self.django.run(all_of_them(), deadline)


class Worker:
    """Reads a channel by its name in a Django, as Channels' `runworker` does; use it with `with`.

    `answer` is given each message and returns the events for its reply channel. What was heard is in `heard`.
    """

    def __init__(self, django, channel, answer):
        self.django = django
        self.channel = channel
        self.answer = answer
        self.heard = []
        self._serving = None

    def __enter__(self):
        self._serving = asyncio.run_coroutine_threadsafe(self._serve(), self.django.loop)
        return self

    def __exit__(self, *_):
        self._serving.cancel()

    def hears(self, path, number):
        """Waits for `number` messages of the socket with that path; returns them."""
        return until(lambda: (found := self._of(path))[number - 1 :] and found, lambda: self._expected(path, number))

    def _of(self, path):
        heard = list(self.heard)
        ids = [message["connection"]["id"] for message in heard if message.get("scope", {}).get("path") == path]
        return [message for message in heard if message["connection"]["id"] in ids]

    async def _serve(self):
        while True:
            message = await self.django.layer.receive(self.channel)
            self.heard.append(message)
            for event in self.answer(message):
                await self.django.layer.send(message["reply_channel"], event)

    def _expected(self, path, number):
        ended = self._serving.exception() if self._serving.done() else None
        return f"{number} messages of {path}, found {str(self.heard)[-1000:]} {ended or ''}"


class OverCapacity(logging.Handler):
    """Counts the drops in the log of `channels_redis`; use it with `with`."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.count = 0
        self._logger = logging.getLogger("channels_redis.core")
        self._level = self._logger.level

    def __enter__(self):
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *_):
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record):
        found = re.match(r"(\d+) of \d+ channels over capacity", record.getMessage())
        if found:
            self.count += int(found[1])


class Daphne:
    """A project with one consumer (`layer_asgi.py`), served by Daphne."""

    def __init__(self, layer_format, url, **options):
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="oneport-daphne-"))
        self._settings = {
            "BACKEND": f"{layer_format}.{LAYERS[layer_format].__name__}",
            "CONFIG": {"hosts": [url], **options},
        }
        self._process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def origin(self):
        return f"http://{self.host}"

    def start(self):
        with open(self._directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-B", "-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port), "kit.layer_asgi:application"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_PYTHON,
                env={**os.environ, "LAYER_SETTINGS": json.dumps(self._settings)},
            )
        until(self._listens, lambda: f"Daphne to listen\n{self.log()}")

    def close(self):
        """Leaves nothing behind."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def log(self):
        return (self._directory / "log").read_text(encoding="utf-8", errors="replace")

    def _listens(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected Daphne to start, found exit code {self._process.returncode}\n{self.log()}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
        except OSError:
            return False
