"""Workers in the place of an endpoint: a project of Django Channels as a team has it, served by its own `manage.py runworker`."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import msgpack
from websockets.exceptions import ConnectionClosed

from kit.deadline import Late, until
from kit.layer_case import connected, disconnected
from kit.layer_django import Django
from kit.peer import Peer
from kit.redis_server import Redis
from kit.server import Server
from kit.still import freeze, thaw

FORMAT = "channels_redis.core"
GROUPS_MAX = 20
_ROOMS = itertools.count(1)

MANAGE = """
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
execute_from_command_line(sys.argv)
"""

SETTINGS = """
import json
import os

SECRET_KEY = "django-insecure-0123456789"
INSTALLED_APPS = ["channels"]
ASGI_APPLICATION = "project.asgi.application"
CHANNEL_LAYERS = {"default": json.loads(os.environ["LAYER_SETTINGS"])}
USE_TZ = True
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
"""

ASGI = """
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
http = get_asgi_application()

from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from project.consumers import Chat

application = ProtocolTypeRouter({"http": http, "channel": ChannelNameRouter({"chat": Chat.as_asgi()})})
"""

# Each message gets a reply; the events of each connection are written to a file for the tests.
CONSUMERS = """
import base64
import json
import os

from channels.consumer import AsyncConsumer


def note(message):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(message) + chr(10))


class Chat(AsyncConsumer):
    async def reply(self, message, **event):
        await self.channel_layer.send(message["reply_channel"], event)

    async def websocket_connect(self, message):
        note(message)
        path = message["scope"]["path"]
        if "/closed" in path:
            await self.reply(message, type="websocket.close", code=4003, reason="closed")
        elif "/greeted" in path:
            await self.reply(message, type="websocket.accept")
            await self.reply(message, type="websocket.send", text="welcome " + message["scope"]["url_route"]["kwargs"]["room"])

    async def websocket_receive(self, message):
        note(message)
        if "bytes" in message and message["bytes"] is not None:
            await self.reply(message, type="websocket.send", bytes=message["bytes"])
            return
        said = message["text"]
        word, _, rest = said.partition(" ")
        if word == "join":
            await self.reply(message, type="group.add", group=rest)
            await self.reply(message, type="websocket.send", text="joined")
        elif word == "listen":
            await self.reply(message, type="group.add", group=rest, deliver="backend")
            await self.reply(message, type="websocket.send", text="listens")
        elif word == "leave":
            await self.reply(message, type="group.discard", group=rest)
            await self.reply(message, type="websocket.send", text="left")
        elif word == "tell":
            group, _, text = rest.partition(" ")
            await self.channel_layer.group_send(group, {"type": "chat.message", "message": text})
        elif word == "ask":
            group, _, text = rest.partition(" ")
            await self.reply(message, type="group.send", group=group, event={"type": "chat.message", "message": text})
        elif word == "close":
            await self.reply(message, type="websocket.close", code=int(rest), reason="as asked")
        elif word == "nonsense":
            await self.reply(message, type="websocket.nonsense")
        elif word == "fail":
            raise ValueError("as asked")
        elif word == "many":
            for number in range(int(rest)):
                await self.reply(message, type="websocket.send", text=str(number))
        elif word == "pid":
            await self.reply(message, type="websocket.send", text=str(os.getpid()))
        else:
            await self.reply(message, type="websocket.send", text=said)

    async def group_event(self, message):
        note(message)
        event = json.dumps(message["event"], sort_keys=True)
        await self.reply(message, type="websocket.send", text=message["group"] + " " + event)

    async def websocket_disconnect(self, message):
        note(message)
"""

NODE_STARTED = """
    async def oneport_node_started(self, message):
        note(message)
"""


class Workers:
    """`manage.py runworker chat`, any number of them."""

    def __init__(self, url, *, consumers=CONSUMERS + NODE_STARTED.rstrip(), **options):
        self._held = tempfile.TemporaryDirectory(prefix="oneport-workers-")
        self.directory = Path(self._held.name)
        (self.directory / "project").mkdir()
        for name, content in {
            "manage.py": MANAGE,
            "project/__init__.py": "",
            "project/settings.py": SETTINGS,
            "project/asgi.py": ASGI,
            "project/consumers.py": consumers,
        }.items():
            (self.directory / name).write_text(content.lstrip(), encoding="utf-8")
        self.notes = self.directory / "notes"
        self._settings = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [url], **options}}
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        self._held.cleanup()

    def start(self):
        """Starts one more, and waits until it reports that it runs."""
        path = self.directory / f"log{len(list(self.directory.glob('log*')))}"
        with open(path, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-B", "manage.py", "runworker", "chat", "-v", "2"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "LAYER_SETTINGS": json.dumps(self._settings), "NOTES": str(self.notes)},
            )
        self.processes.append(process)
        until(lambda: "Running worker for channels" in path.read_text() or process.poll() is not None, "a worker that runs")
        if process.poll() is not None:
            raise AssertionError(f"expected a worker, found exit code {process.returncode}\n{self.log()}")
        return process

    def kill(self):
        """Ends all of them in the middle of whatever they do."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def freeze(self):
        freeze(*(process.pid for process in self.processes))

    def thaw(self):
        thaw(*(process.pid for process in self.processes))

    def log(self):
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("log*")))

    def told(self, event_type, identity=None):
        """Returns what the workers were told, in order."""
        if not self.notes.exists():
            return []
        lines = [json.loads(line) for line in self.notes.read_text().splitlines(keepends=True) if line.endswith("\n")]
        lines = [one for one in lines if one["type"] == event_type]
        return lines if identity is None else [one for one in lines if one["connection"]["id"] == identity]


def channel_server(redis, *, name="here", node_started=None, **layer):
    option = "" if node_started is None else f", node_started = {json.dumps(node_started)}"
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in {"timeout": "1s", **layer}.items())
    return Server(f"""
[server]
name = "{name}"

[server.limits]
groups_per_socket = {GROUPS_MAX}

[channel_layer]
backend = "{redis.url()}"
format = "{FORMAT}"
{lines}

[websocket]
middleware = []
ping_interval = "0s"

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
name = "chat"
consumer = "backend"
options = {{ channel = "chat", headers = ["cookie", "x-own"]{option} }}

[[websocket.route]]
path = "/ws/other/"
consumer = "backend"
options = {{ channel = "chat", headers = []{option} }}

[[websocket.route]]
path = "/ws/feed/{{room:slug}}/"
consumer = "feed"
options = {{ groups = ["{{room}}"] }}
""")


class WorkerCase(unittest.TestCase):
    """A Redis, two servers and a worker; each test has a room of its own."""

    layer = {}
    workers_options = {}
    workers_at_first = 1

    @classmethod
    def setUpClass(cls):
        cls.redis = cls.enterClassContext(Redis())
        cls.a, cls.b = (cls.enterClassContext(channel_server(cls.redis, name=name, **cls.layer)) for name in "ab")
        for server in (cls.a, cls.b):
            connected(server)
        cls.workers = cls.enterClassContext(Workers(cls.redis.url(), **cls.workers_options))
        for _ in range(cls.workers_at_first):
            cls.workers.start()

    def setUp(self):
        self.room = f"r{next(_ROOMS)}"

    def open(self, server=None, room=None, **options):
        return self.enterContext(Peer(server or self.a, f"/ws/chat/{room or self.room}/", **options))

    def says(self, peer, said, answer):
        peer.send(said)
        self.assertEqual(peer.receive(), answer)

    def connect_of(self, room=None):
        """Returns what the workers were told of a room's only connection."""
        path = f"/ws/chat/{room or self.room}/"
        found = until(
            lambda: [one for one in self.workers.told("websocket.connect") if one["scope"]["path"] == path],
            lambda: f"a connect of {path}\n{self.workers.log()[-2000:]}",
        )
        self.assertEqual(len(found), 1)
        return found[0]

    def disconnect_of(self, connect):
        identity = connect["connection"]["id"]
        found = until(lambda: self.workers.told("websocket.disconnect", identity), lambda: f"a disconnect of {identity}")
        self.assertEqual(len(found), 1)
        return found[0]


class Served(WorkerCase):
    def test_a_group_over_the_limit_ends_the_connection(self):
        peer = self.open()
        connect = self.connect_of()
        for number in range(GROUPS_MAX):
            self.says(peer, f"join {self.room}_{number}", "joined")
        self.says(peer, f"join {self.room}_0", "joined")
        peer.send(f"join {self.room}_{GROUPS_MAX}")
        self.assertEqual(peer.closed(), (1008, f"expected at most {GROUPS_MAX} groups"))
        disconnect = self.disconnect_of(connect)
        self.assertEqual((disconnect["code"], disconnect["cause"]), (1008, "too_many_groups"))

    def test_connect_tells_the_scope(self):
        headers = {"x-own": "hällo".encode().decode("latin-1"), "x-other": "no", "cookie": "sessionid=abc"}
        with Peer(self.a, f"/ws/chat/{self.room}/?a=%20b", additional_headers=headers, subprotocols=["one", "two"]) as peer:
            found = self.connect_of()
            scope = found["scope"]
            self.assertEqual(scope["client"], list(peer.socket.local_address[:2]))
            self.says(peer, "still", "still")
        self.assertEqual(
            (scope["type"], scope["raw_query"], scope["scheme"], scope["http_version"]), ("websocket", "a=%20b", "ws", "1.1")
        )
        self.assertEqual(scope["url_route"], {"name": "chat", "kwargs": {"room": self.room}})
        self.assertEqual((scope["subprotocols"], scope["user"], scope["session"]), (["one", "two"], None, None))
        names = {name for name, _ in scope["headers"]}
        self.assertEqual(names, {"cookie", "x-own"})
        self.assertEqual(set(found["connection"]), {"id", "node", "name"})
        self.assertEqual(found["connection"]["name"], "a")
        self.assertTrue(found["connection"]["id"].startswith(found["connection"]["node"] + "."))
        self.assertEqual(set(found), {"type", "reply_channel", "connection", "scope"})

    def test_what_a_client_says_is_answered_by_the_reply_channel(self):
        for server in (self.a, self.b):
            peer = self.open(server)
            for said in ("hällo", "", "\x00", "x" * 60_000, b"\x00\xff", b"", b"x" * 40_000):
                with self.subTest(said=said[:10]):
                    self.says(peer, said, said)
        identity = self.workers.told("websocket.receive")[0]["connection"]["id"]
        found = self.workers.told("websocket.receive", identity)[0]
        self.assertEqual(set(found), {"type", "reply_channel", "connection", "text"})

    def test_a_worker_speaks_first(self):
        room = f"greeted-{self.room}"
        self.assertEqual(self.open(room=room).receive(), f"welcome {room}")

    def test_a_worker_closes(self):
        peer = self.open(room=f"closed-{self.room}")
        self.assertEqual(peer.closed(), (4003, "closed"))
        peer = self.open()
        peer.send("close 4001")
        self.assertEqual(peer.closed(), (4001, "as asked"))
        found = self.disconnect_of(self.connect_of())
        self.assertEqual((found["code"], found["reason"], found["cause"]), (4001, "as asked", "consumer_close"))

    def test_messages_and_answers_keep_their_order(self):
        peer = self.open()
        for number in range(60):
            self.says(peer, f"number {number}", f"number {number}")
        peer.send("many 60")
        self.assertEqual([peer.receive() for _ in range(60)], [str(number) for number in range(60)])

    def test_a_group_that_was_joined_hears_channels_own_group_send(self):
        here, there = self.open(self.a), self.open(self.b, room=f"{self.room}-b")
        for peer in (here, there):
            self.says(peer, f"join {self.room}", "joined")
        with Django(FORMAT, self.redis.url()) as django:
            event = {"type": "chat.message", "message": "hällo", "n": [1, None, {"a": 1.5}]}
            django.group_send(self.room, event)
            for peer in (here, there):
                self.assertEqual(peer.event(), event)
            here.send(f"tell {self.room} from a consumer")
            for peer in (here, there):
                self.assertEqual(peer.event(), {"type": "chat.message", "message": "from a consumer"})
            here.send(f"ask {self.room} from the server")
            for peer in (here, there):
                self.assertEqual(peer.event(), {"type": "chat.message", "message": "from the server"})
            self.says(here, f"leave {self.room}", "left")
            django.group_send(self.room, event)
            self.assertEqual(there.event(), event)
            self.says(here, "nothing before this", "nothing before this")

    def test_what_is_sent_to_the_group_reaches_channels_of_django_too(self):
        peer = self.open()
        self.says(peer, f"join {self.room}", "joined")
        with Django(FORMAT, self.redis.url()) as django:
            channel = django.channel(self.room)
            peer.send(f"ask {self.room} hello")
            event = {"type": "chat.message", "message": "hello"}
            self.assertEqual((peer.event(), channel.receive()), (event, event))

    def test_a_group_may_be_delivered_to_the_workers(self):
        peer = self.open()
        self.says(peer, f"listen {self.room}", "listens")
        with Django(FORMAT, self.redis.url()) as django:
            django.group_send(self.room, {"type": "chat.message", "message": "hi"})
        self.assertEqual(peer.receive(), f'{self.room} {{"message": "hi", "type": "chat.message"}}')
        found = self.workers.told("group.event", self.connect_of()["connection"]["id"])[0]
        self.assertEqual((found["group"], found["event"]), (self.room, {"type": "chat.message", "message": "hi"}))

    def test_anybody_at_the_layer_may_speak_to_a_reply_channel(self):
        peer = self.open()
        channel = self.connect_of()["reply_channel"]
        with Django(FORMAT, self.redis.url()) as django:
            django.send(channel, {"type": "websocket.send", "text": "from outside"})
            self.assertEqual(peer.receive(), "from outside")
            django.send(channel, {"type": "websocket.close", "code": 4002})
        self.assertEqual(peer.closed(), (4002, ""))

    def test_disconnect_is_told_once(self):
        for name, end, wanted in (
            ("closes", lambda peer: peer.socket.close(4000, "bye"), (4000, "bye", "client_close")),
            ("is gone", lambda peer: peer.socket.socket.shutdown(2), (1006, "", "client_gone")),
        ):
            with self.subTest(name):
                room = f"{self.room}-{name.replace(' ', '-')}"
                peer = self.open(room=room)
                self.says(peer, "hi", "hi")
                end(peer)
                found = self.disconnect_of(self.connect_of(room))
                self.assertEqual((found["code"], found["reason"], found["cause"]), wanted)
                self.assertEqual(set(found), {"type", "reply_channel", "connection", "code", "reason", "cause"})

    def test_a_reply_that_is_none_is_1011(self):
        peer, other = self.open(), self.open(room=f"{self.room}-other")
        peer.send("nonsense")
        found = peer.closed()
        self.assertEqual(found[0], 1011)
        self.assertEqual(self.disconnect_of(self.connect_of())["cause"], "backend_error")
        self.says(other, "well", "well")

    def test_many_at_once_are_served(self):
        peers = [self.open((self.a, self.b)[number % 2], room=f"{self.room}-{number}") for number in range(40)]
        for number, peer in enumerate(peers):
            peer.send(f"I am {number}")
        for number, peer in enumerate(peers):
            self.assertEqual(peer.receive(), f"I am {number}")

    def test_a_drain_tells_the_workers_of_each_connection(self):
        with channel_server(self.redis, name="c") as server:
            connected(server)
            peers = [self.open(server, room=f"{self.room}-{number}") for number in range(20)]
            for peer in peers:
                self.says(peer, "hi", "hi")
            server.signal(signal.SIGTERM)
            for peer in peers:
                self.assertEqual(peer.closed()[0], 1001)
            server.wait()
        for number in range(20):
            found = self.disconnect_of(self.connect_of(f"{self.room}-{number}"))
            self.assertEqual((found["code"], found["cause"]), (1001, "server_drain"))

    def test_it_leaves_nothing_behind_in_redis(self):
        with self.open() as peer:
            self.says(peer, f"join {self.room}", "joined")
        self.disconnect_of(self.connect_of())
        with self.redis.client() as client:

            def left():
                return [key for key in client.keys() if self.room.encode() in key]

            until(lambda: not left(), lambda: f"nothing of the room in Redis, found {left()}")


class Failing(WorkerCase):
    """Workers that die, are missing, or are too slow."""

    def tearDown(self):
        self.doCleanups()
        self.workers.kill()
        self.workers.start()

    def test_a_worker_that_was_killed_is_replaced_by_another(self):
        peer = self.open()
        peer.send("pid")
        first = peer.receive()
        self.workers.kill()
        peer.send("pid")
        peer.send("while nobody was there")
        new = self.open(room=f"{self.room}-new")
        new.send("pid")
        self.workers.start()
        second = peer.receive()
        self.assertNotEqual(first, second)
        self.assertEqual(peer.receive(), "while nobody was there")
        self.assertEqual(new.receive(), second)
        self.assertEqual(self.connect_of(f"{self.room}-new")["scope"]["path"], f"/ws/chat/{self.room}-new/")

    def test_a_disconnect_waits_for_a_worker(self):
        peer = self.open()
        connect = self.connect_of()
        self.workers.kill()
        peer.socket.close(4000, "bye")
        until(lambda: self.a.metric("oneport_websockets", route="chat") == 0, "no socket")
        self.assertEqual(self.workers.told("websocket.disconnect", connect["connection"]["id"]), [])
        self.workers.start()
        self.assertEqual(self.disconnect_of(connect)["code"], 4000)

    def test_two_workers_share_the_work(self):
        self.workers.start()
        peers = [self.open(room=f"{self.room}-{number}") for number in range(10)]
        pids = set()

        def both():
            for peer in peers:
                peer.send("pid")
            pids.update(peer.receive() for peer in peers)
            return len(pids) == 2

        until(both, "answers of both workers")
        self.assertEqual(pids, {str(process.pid) for process in self.workers.processes})

    def test_a_worker_that_fails_is_restarted_and_sockets_stay(self):
        peer = self.open()
        peer.send("fail")
        time.sleep(0.2)
        self.assertEqual(self.a.metric("oneport_websockets", route="chat"), 1)
        self.workers.kill()
        self.workers.start()
        self.says(peer, "still", "still")


class Started(unittest.TestCase):
    """What workers hear of a process that starts, and of the connections of one that was killed."""

    def setUp(self):
        self.redis = self.enterContext(Redis())

    def workers(self, **options):
        workers = self.enterContext(Workers(self.redis.url(), **options))
        workers.start()
        return workers

    def started(self, workers, number):
        """Returns what the workers were told of processes, once it is that much."""
        return until(
            lambda: found if len(found := workers.told("oneport.node_started")) == number else None,
            lambda: f"{number} oneport.node_started, found {workers.told('oneport.node_started')}\n{workers.log()[-2000:]}",
        )

    def test_each_process_is_told_of_once_for_each_channel(self):
        workers = self.workers()
        for number, name in enumerate("ab"):
            server = self.enterContext(channel_server(self.redis, name=name, node_started=True))
            found = self.started(workers, number + 1)[number]
            self.assertEqual(found, {"type": "oneport.node_started", "name": name, "node": found["node"]})
            with Peer(server, "/ws/chat/a/") as chat:
                chat.send("hi")
                self.assertEqual(chat.receive(), "hi")
            [connect] = [one for one in workers.told("websocket.connect") if one["connection"]["name"] == name]
            self.assertEqual(connect["connection"]["node"], found["node"])
        self.started(workers, 2)

    def test_connections_of_a_process_that_was_killed_are_swept(self):
        workers = self.workers()
        other = self.enterContext(channel_server(self.redis, name="other", node_started=True))
        server = self.enterContext(channel_server(self.redis, node_started=True))
        self.started(workers, 2)
        for one in (other, server):
            peer = self.enterContext(Peer(one, "/ws/chat/a/"))
            peer.send("hi")
            self.assertEqual(peer.receive(), "hi")
        server.signal(signal.SIGKILL)
        server.wait(-signal.SIGKILL)
        server.start()
        last = self.started(workers, 3)[-1]
        with Peer(server, "/ws/chat/a/") as peer:
            peer.send("hi")
            self.assertEqual(peer.receive(), "hi")
            connections = [one["connection"] for one in workers.told("websocket.connect")]
            gone = [one for one in connections if one["name"] == last["name"] and one["node"] != last["node"]]
            self.assertEqual([connections.index(one) for one in gone], [1])
            self.assertEqual(workers.told("websocket.disconnect"), [])

    def test_it_waits_for_redis_and_for_room(self):
        self.redis.kill()
        server = self.enterContext(channel_server(self.redis, node_started=True, capacity=2))
        until(lambda: server.metric("oneport_backend_disconnects_waiting") == 1, "one that waits")
        self.redis.start()
        with self.redis.client() as client:
            until(lambda: client.zcard("asgichat") == 1, "one in the channel")
        connected(server)
        peers = [self.enterContext(Peer(server, "/ws/chat/a/")) for _ in range(2)]
        with self.redis.client() as client:
            until(lambda: client.zcard("asgichat") == 2, "a full channel")
        self.assertEqual(peers[1].closed()[0], 1013)
        second = self.enterContext(channel_server(self.redis, name="second", node_started=True, capacity=2))
        until(lambda: second.metric("oneport_backend_disconnects_waiting") == 1, "one that waits for room")
        workers = self.workers()
        self.assertEqual([one["name"] for one in self.started(workers, 2)], ["here", "second"])
        for one in (server, second):
            until(lambda one=one: one.metric("oneport_backend_disconnects_waiting") == 0, "nothing that waits")
            self.assertEqual(one.metric("oneport_backend_disconnects_lost_total"), 0)

    def test_workers_are_not_told_unless_the_option_says_so(self):
        workers = self.workers()
        for option in (None, False):
            server = self.enterContext(channel_server(self.redis, name=f"{option}", node_started=option))
            connected(server)
            with Peer(server, "/ws/chat/a/") as peer:
                peer.send("hi")
                self.assertEqual(peer.receive(), "hi")
        self.assertEqual(workers.told("oneport.node_started"), [])

    def test_a_worker_without_a_handler_fails_and_serves_what_comes_later(self):
        workers = self.workers(consumers=CONSUMERS)
        server = self.enterContext(channel_server(self.redis, node_started=True))
        failed = "Exception inside application: No handler for message type oneport.node_started"
        until(lambda: failed in workers.log(), lambda: f"a failure, found {workers.log()}")
        with Peer(server, "/ws/chat/a/") as peer:
            peer.send("hi")
            self.assertEqual(peer.receive(), "hi")


class Full(WorkerCase):
    """The channel is full, or Redis is unavailable."""

    layer = {"capacity": 5}
    workers_options = {"capacity": 5}
    workers_at_first = 0

    def tearDown(self):
        self.doCleanups()
        self.workers.kill()
        if not self.redis.is_running:
            self.redis.start()
        if self.redis.is_running:
            self.redis.thaw()
        for server in (self.a, self.b):
            connected(server)
            until(lambda server=server: server.metric("oneport_websockets") == 0, "no sockets")
        time.sleep(0.2)  # what their ends say to the channel
        self.empty()
        with self.redis.client() as client:
            client.flushall()

    def empty(self):
        """Empties the channel until no disconnect waits for room in it."""

        def nothing_waits():
            waiting = [server.metric("oneport_backend_disconnects_waiting") for server in (self.a, self.b)]
            with self.redis.client() as client:
                client.delete("asgichat")
            return waiting == [0, 0]

        until(nothing_waits, "no disconnect that waits")

    def holds(self, number):
        """Waits until the channel has that many events."""
        with self.redis.client() as client:
            until(
                lambda: client.zcard("asgichat") == number,
                lambda: f"{number} events in the channel, found {client.zcard('asgichat')}",
            )

    def test_who_finds_the_channel_full_is_closed_with_1013(self):
        peer = self.open()
        before = self.a.metric("oneport_websockets_closed_total", route="chat", cause="backend_away")
        try:
            for number in range(20):
                peer.send(str(number))
        except ConnectionClosed:
            pass
        self.assertEqual(peer.closed()[0], 1013)
        until(
            lambda: self.a.metric("oneport_websockets_closed_total", route="chat", cause="backend_away") == before + 1,
            "one more that ended with backend_away",
        )

    def test_workers_are_told_of_the_end_when_there_is_room_again(self):
        peers = [self.open() for _ in range(5)]
        self.holds(5)
        lost = self.a.metric("oneport_backend_disconnects_lost_total")
        for peer in peers[:2]:
            peer.socket.close(4001, "bye")
        until(lambda: self.a.metric("oneport_backend_disconnects_waiting") == 2, "two disconnects that wait")
        with self.redis.client() as client:
            connects = [msgpack.unpackb(member[12:]) for member, _ in client.zpopmin("asgichat", 5)]
            self.holds(2)
            ends = [msgpack.unpackb(member[12:]) for member, _ in client.zpopmin("asgichat", 5)]
        self.assertEqual({event["type"] for event in connects}, {"websocket.connect"})
        self.assertEqual([(event["type"], event["code"], event["reason"]) for event in ends], [("websocket.disconnect", 4001, "bye")] * 2)
        self.assertLessEqual({event["connection"]["id"] for event in ends}, {event["connection"]["id"] for event in connects})
        until(lambda: self.a.metric("oneport_backend_disconnects_waiting") == 0, "no disconnect that waits")
        self.assertEqual(self.a.metric("oneport_backend_disconnects_lost_total"), lost)

    def test_who_comes_while_it_is_full_is_accepted_and_closed_with_1013(self):
        for _ in range(5):
            self.open()
        self.holds(5)
        late = self.open()
        self.assertEqual(late.closed()[0], 1013)
        self.assertEqual(self.a.metric("oneport_websockets", route="chat"), 5)

    def test_it_goes_on_when_workers_have_made_room(self):
        first = [self.open(room=f"{self.room}-{number}") for number in range(5)]
        self.holds(5)
        self.assertEqual(self.open().closed()[0], 1013)
        self.workers.start()
        self.holds(0)
        for peer in first:
            self.says(peer, "hi", "hi")
        until(lambda: self.works(), "a connection that is served")

    def works(self):
        try:
            with Peer(self.a, f"/ws/chat/{self.room}-again/") as peer:
                peer.send("hi")
                return peer.receive(2.0) == "hi"
        except (ConnectionClosed, Late):
            return False

    def test_redis_away_is_1013(self):
        for way in ("killed", "frozen"):
            with self.subTest(way):
                peer = self.open()
                self.holds(1)
                if way == "killed":
                    self.redis.kill()
                    disconnected(self.a)
                else:
                    self.redis.freeze()
                peer.send("hi")
                self.assertEqual(peer.closed()[0], 1013)
                late = self.open()
                self.assertEqual(late.closed()[0], 1013)
                if way == "killed":
                    self.redis.start()
                else:
                    self.redis.thaw()
                for server in (self.a, self.b):
                    connected(server)
                # The disconnects are delivered when Redis is back, and not left for the next case.
                until(lambda: self.a.metric("oneport_websockets") == 0, "no sockets")
                self.empty()
        self.workers.start()
        until(lambda: self.works(), "a connection that is served")

    def test_another_route_is_not_disturbed(self):
        feed = self.enterContext(Peer(self.a, f"/ws/feed/{self.room}/"))
        for _ in range(8):
            self.open()
        with Django(FORMAT, self.redis.url()) as django:

            def heard():
                django.group_send(self.room, {"type": "a"})
                try:
                    return feed.receive(0.5)
                except Late:
                    return None

            until(heard, "an event of the group")


if __name__ == "__main__":
    unittest.main()
