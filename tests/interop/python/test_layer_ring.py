"""Several Redis servers among which the groups are shared out, as `hosts` of `channels_redis`: ours and Django's are at the same one."""

from itertools import count

from channels_redis.utils import _consistent_hash
from kit.layer_case import API, LOST, LayerCase, api, connected, disconnected, layer_server
from kit.layer_django import Django
from kit.redis_server import Redis

WORKERS = """
[[websocket.route]]
path = "/ws/worked/{room:slug}/"
name = "worked"
consumer = "backend"
options = { channel = "workers" }
"""


SERVERS = 3


class RingCase(LayerCase):
    layer_format = "oneport"
    hashed = "{group}"

    @classmethod
    def setUpClass(cls):
        cls.redises = [cls.enterClassContext(Redis()) for _ in range(SERVERS)]
        cls.a, cls.b = (cls.enterClassContext(cls.gateway()) for _ in range(2))
        for server in cls.servers():
            connected(server)

    @classmethod
    def gateway(cls, **keys):
        urls = [redis.url() for redis in cls.redises]
        return layer_server(urls, more=API + WORKERS, format=cls.layer_format, capacity=10_000, **keys)

    def rooms(self, kind, number=12):
        """Returns rooms at each of the servers in turn: names that differ at their end alone may all be at one or two."""
        rooms = []
        for at in count():
            room = f"{self.room}-{at}"
            if _consistent_hash(self.hashed.format(group=f"{kind}_{room}"), SERVERS) == len(rooms) % SERVERS:
                rooms.append(room)
            if len(rooms) == number:
                return rooms

    def used(self):
        """Returns how many of the servers hold something, or are listened to."""
        used = 0
        for redis in self.redises:
            with redis.client() as client:
                used += bool(client.keys("*group*") or client.keys("*stream*") or client.pubsub_channels("*group*"))
        return used


class Own(RingCase):
    def test_rooms_of_all_servers_are_heard_on_both_processes_and_counted(self):
        for room in self.rooms("both"):
            anna, ben = self.join(self.a, "both", "anna", room=room), self.join(self.b, "both", "ben", room=room)
            anna.next("chat.join", user="ben", members=2)
            anna.say({"message": f"from anna in {room}"})
            ben.next("chat.message", message=f"from anna in {room}")
            counts = api(self.b, "POST", f"groups/both_{room}", {"type": "chat.message", "message": "counted"})
            self.assertEqual(counts, {"matched": 2, "queued": 2, "dropped": 0, "unanswered": 0})
            self.assertEqual(self.join(self.b, "both", room=room).messages(2), [f"from anna in {room}", "counted"])
        self.assertEqual(self.used(), SERVERS)

    def test_while_one_is_away_all_are_and_nothing_of_a_history_is_lost(self):
        rooms = self.rooms("long", 6)
        pairs = [(self.join(self.a, "long", room=room), self.join(self.b, "long", room=room)) for room in rooms]
        self.redises[1].kill()
        for server in self.servers():
            server.wait_for_log(LOST)
            disconnected(server)
        for anna, _ in pairs:
            for number in range(5):
                anna.say({"message": str(number)})
            self.assertEqual(anna.messages(5), [str(number) for number in range(5)])
        self.redises[1].start()
        for server in self.servers():
            connected(server)
        for _, ben in pairs:
            self.assertEqual(ben.messages(5), [str(number) for number in range(5)])


class Shared:
    """Claims about both of Django's formats."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.django = cls.enterClassContext(Django(cls.layer_format, cls.redises[0].url(), more_hosts=[r.url() for r in cls.redises[1:]], capacity=10_000))

    def test_groups_of_all_servers_are_shared_with_django(self):
        for room in self.rooms("chat"):
            group = f"chat_{room}"
            anna, ben = self.join(self.a, "chat", room=room), self.join(self.b, "chat", room=room)
            channel = self.django.channel(group)
            for number in range(3):
                self.django.group_send(group, {"type": "chat.message", "message": f"from django {number}"})
            for member in (anna, ben):
                member.hears(*(f"from django {number}" for number in range(3)))
            channel.receive_all(3)
            anna.say({"message": "from anna"})
            for member in (anna, ben):
                member.hears("from anna")
            self.assertEqual(channel.receive()["message"], "from anna")
        self.assertEqual(self.used(), SERVERS)

    def test_what_django_sends_to_one_of_our_channels_arrives_whatever_its_name(self):
        workers = self.django.named("workers")
        sockets = [self.join(self.a, "worked", room=room) for room in self.rooms("worked", 21)]
        replies = [event["reply_channel"] for event in workers.receive_all(21)]
        self.assertEqual(len(set(replies)), 21)
        for number, reply in enumerate(replies):
            self.django.send(reply, {"type": "websocket.send", "text": f"reply {number}"})
        self.assertEqual({socket.receive() for socket in sockets}, {f"reply {number}" for number in range(21)})


class Core(Shared, RingCase):
    layer_format = "channels_redis.core"


class Pubsub(Shared, RingCase):
    layer_format = "channels_redis.pubsub"
    hashed = "asgi__group__{group}"
