"""The channel layers of `channels_redis`: Django's and the server's members are in the same groups, in both formats.

Django's side is the real one: its layer objects in an event loop, and a project with a consumer under Daphne.
"""

import json
import os
import signal
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgpack
from channels.exceptions import ChannelFull
from channels_redis.serializers import BaseMessageSerializer

from kit.deadline import DEADLINE, until
from kit.layer_case import API, MOMENT, TOKEN, LayerCase, Member, connected, dropped, reconnected
from kit.layer_crowd import Crowd, contents, payload, shown
from kit.layer_django import Daphne, Django, OverCapacity, Worker
from kit.peer import Peer

# Of Django's and ours, where more than the default is on its way at once.
PLENTY = 10_000


def worked(path, channel):
    """Returns a route whose sockets are served by those who read a channel."""
    return f"""
[[websocket.route]]
path = "{path}"
consumer = "backend"
options = {{ channel = "{channel}" }}
"""


class DjangoCase(LayerCase):
    """Two servers and a Django, with `layer_format` and other settings that both get."""

    layer_format = None
    prefix = "asgi"
    serializer = "msgpack"
    # Further keys of `[channel_layer]`, and of CONFIG.
    ours, theirs = {}, {}
    more = worked("/ws/work/{room:slug}/", "work") + API

    @classmethod
    def setUpClass(cls):
        told = {} if cls.serializer == "msgpack" else {"serializer": cls.serializer}
        if cls.prefix != "asgi":
            told["prefix"] = cls.prefix
        cls.layer = {"format": cls.layer_format, **told, **cls.ours}
        super().setUpClass()
        cls.django = cls.enterClassContext(cls.another_django())

    @classmethod
    def another_django(cls, **options):
        return Django(cls.layer_format, cls.redis.url(), **cls.config(**options))

    @classmethod
    def config(cls, **options):
        config = {"prefix": cls.prefix, "serializer_format": cls.serializer}
        # More than a test sends, but where it is about the bound.
        return {**config, "capacity": PLENTY, **cls.theirs, **options}

    @property
    def is_core(self):
        return self.layer_format == "channels_redis.core"

    def there(self, group, number):
        """Waits until a group has `number` members: processes, but in the core format each channel of Django by itself."""
        with self.redis.client() as client:

            def found():
                if self.is_core:
                    return client.zcard(f"{self.prefix}:group:{group}")
                return client.pubsub_numsub(f"{self.prefix}__group__{group}")[0][1]

            until(lambda: found() == number, lambda: f"{number} in the group {group}, found {found()}", 5.0)

    def channel(self, group, others):
        """Returns a channel of Django's in a group, where `others` are already."""
        channel = self.django.channel(group)
        self.there(group, others + 1)
        return channel

    def inboxes(self, group):
        """Returns the channels of a group (core)."""
        with self.redis.client() as client:
            return [name.decode() for name in client.zrange(f"{self.prefix}:group:{group}", 0, -1)]

    def write(self, group, written):
        """Writes into Redis as anybody can: bytes for a group, or what a function makes for each of its channels (core)."""
        with self.redis.client() as client:
            if not self.is_core:
                client.publish(f"{self.prefix}__group__{group}", written(None) if callable(written) else written)
                return
            for channel in self.inboxes(group):
                content = written(channel) if callable(written) else written
                self.put(client, channel, os.urandom(12) + content)

    def put(self, client, channel, member):
        client.zadd(f"{self.prefix}{channel.partition('!')[0]}!", {member: time.time()})


# --- What holds in both formats -----------------------------------------------------------------------------------------------


class Both:
    """Claims about both formats, each serializer, any prefix, and with encryption."""

    def test_what_django_sends_reaches_the_sockets_of_both_servers_once(self):
        group = f"chat_{self.room}"
        members = [self.join(server, kind) for server in self.servers() for kind in ("chat", "chat", "feed")]
        self.there(group, 2)
        for number in range(20):
            self.django.group_send(group, {"type": "chat.message", "message": f"{number} grüße ☕"})
        for member in members:
            member.hears(*(f"{number} grüße ☕" for number in range(20)))

    def test_what_a_socket_says_reaches_django_and_the_other_server_once(self):
        group = f"chat_{self.room}"
        anna, carl, ben = self.join(self.a, "chat", "anna"), self.join(self.a, "chat"), self.join(self.b, "chat")
        self.there(group, 2)
        channels = [self.channel(group, 2)]
        if self.is_core:
            channels.append(self.channel(group, 3))
        for number in range(20):
            anna.say({"message": f"{number} grüße ☕"})
        for member in (anna, carl, ben):
            events = [member.event() for _ in range(20)]
            self.assertEqual([event["message"] for event in events], [f"{number} grüße ☕" for number in range(20)])
        for channel in channels:
            self.assertEqual(channel.receive_all(20), events)
        self.assertEqual(events[0].keys(), {"type", "message", "user", "at"})
        ben.say({"message": "end"})
        for member in (anna, carl, ben):
            member.hears("end")
        for channel in channels:
            self.assertEqual(channel.receive()["message"], "end")

    def test_values_of_all_kinds_arrive_as_they_are(self):
        group = f"chat_{self.room}"
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        self.there(group, 2)
        channel = self.channel(group, 2)
        event = {
            "type": "anything.at_all",
            "text": "☕ \U0001f980 \0 \" \\ \u2028",
            "numbers": [0, 1, -1, 127, 128, -33, 65536, 2**32, 2**53 + 1, 2**63, 2**64 - 1, -(2**63)],
            "floats": [0.5, -1.5e300, 1.0, 5e-324],
            "nothing": None,
            "both": [True, False],
            "deep": {"list": [{"a": [[], {}]}, "x"], "": ""},
            "long": "x" * 100_000,
            "many": list(range(5000)),
            "websocket.send": "no",
        }
        self.django.group_send(group, event)
        for member in (anna, ben):
            found = member.event()
            self.assertEqual(found, event)
            self.assertEqual(list(found), list(event), "expected the order of the fields to stay")
        self.assertEqual(channel.receive(), event)

    def test_what_only_python_has_arrives_as_its_json_has_it(self):
        group = f"chat_{self.room}"
        members = (self.join(self.a, "chat"), self.join(self.b, "chat"))
        self.there(group, 2)
        deep = "x"
        for level in range(500):
            deep = [deep] if level % 2 else {"x": deep}
        events = [
            {"type": "a.b", "keys": {1: 1, -(2**63): 2, 2**64 - 1: 3, True: 4, None: 5, "é": 6}, 7: [{False: ()}]},
            {"type": "a.b", "deep": deep},
        ]
        if self.serializer == "json":
            events.append({"type": "a.b", "half a surrogate": "\ud800", "\udc00": 1, "long": 2**70})
        for event in events:
            self.django.group_send(group, event)
            for member in members:
                self.assertEqual(member.event(), json.loads(json.dumps(event)))

    def test_an_event_is_carried_to_both_servers_or_refused(self):
        group = f"chat_{self.room}"
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        channel = self.channel(group, 2)
        before = [server.metric("oneport_events_dropped_total") for server in self.servers()]
        is_json = self.serializer == "json"
        for value, is_carried in (
            ("[1e2,0.10,-0,-0.0,1e-400]", True),
            ("18446744073709551615", True),
            ("18446744073709551616", is_json),
            ("-9223372036854775808", True),
            ("-9223372036854775809", is_json),
            ("9" * 5000, False),
            ("1e400", is_json),
            ('"\\ud83d\\ude00\\u0000\\/"', True),
            ('"\\ud800"', is_json),
            ('{"\\udc00":1}', is_json),
            ("[" * 510 + "]" * 510, True),
            ("[" * 511 + "]" * 511, False),
            ('{"a":' * 10_000 + "1" + "}" * 10_000, False),
            ('{"a":1,"a":2}', True),
            ('1 ,\r\n"__asgi_channel__":"x"', False),
            ('{"__asgi_channel__":"x"}', True),
        ):
            event = f'{{"type":"any.thing","x": {value}}}'
            headers = {"authorization": f"Bearer {TOKEN}"}
            with self.subTest(value=value[:40]):
                for server in self.servers():
                    status, _, answer = server.request(f"/api/groups/{group}", "POST", headers, event.encode())
                    answer = json.loads(answer)
                    if is_carried:
                        self.assertEqual((status, answer["queued"], answer["dropped"]), (200, 1, 0))
                        own, other = (anna, ben) if server is self.a else (ben, anna)
                        self.assertEqual(own.receive(), event)
                        found = other.receive()
                        if is_json:
                            self.assertEqual(found, event)
                        self.assertEqual(json.loads(found), json.loads(event))
                        self.assertEqual(channel.receive(), json.loads(event))
                    else:
                        self.assertEqual((status, answer["error"]["code"]), (400, "invalid_event"))
        self.assertEqual([server.metric("oneport_events_dropped_total") for server in self.servers()], before)

    def test_raw_frames_are_shown_raw(self):
        group = f"room_{self.room}"
        members = [self.join(server, "all") for server in self.servers()]
        self.there(group, 2)
        data = b"\x00\xff\xc1 raw"
        raw = data if self.serializer == "msgpack" else "AP/BIHJhdw=="
        for event, wanted in (
            ({"type": "websocket.send", "text": "text ☕"}, "text ☕"),
            ({"type": "websocket.send", "text": ""}, ""),
            ({"type": "websocket.send", "bytes": raw}, data),
            ({"type": "websocket.send", "bytes": "AP/BIHJhdw=="}, data),
            # A consumer may omit the other one or set it to None. (ASGI, "Send - send event")
            ({"type": "websocket.send", "text": "and no bytes", "bytes": None}, "and no bytes"),
            ({"type": "websocket.send", "bytes": raw, "text": None}, data),
        ):
            with self.subTest(event=event):
                self.django.group_send(group, event)
                self.django.group_send(group, {"type": "websocket.send", "text": "next"})
                for member in members:
                    self.assertEqual(member.receive(), wanted)
                    self.assertEqual(member.receive(), "next")

    def test_frames_of_a_socket_are_events_that_django_can_show_raw(self):
        group = f"room_{self.room}"
        anna = self.join(self.a, "all")
        channel = self.channel(group, 1)
        data = b"\x00\xff\xc1 raw"
        for message, wanted in (
            ("text ☕", {"type": "websocket.send", "text": "text ☕"}),
            (data, {"type": "websocket.send", "bytes": data if self.serializer == "msgpack" else "AP/BIHJhdw=="}),
            ("", {"type": "websocket.send", "text": ""}),
        ):
            anna.send(message)
            self.assertEqual(channel.receive(), wanted)
            self.assertEqual(anna.receive(), message)

    def test_the_sender_is_left_out_in_its_own_process_only_if_it_asked_so(self):
        group = f"room_{self.room}"
        anna, carl, ben = (self.join(server, "others") for server in (self.a, self.a, self.b))
        channel = self.channel(group, 2)
        anna.send("from anna")
        self.assertEqual((carl.receive(), ben.receive()), ("from anna", "from anna"))
        self.assertEqual(channel.receive()["text"], "from anna")
        self.django.group_send(group, {"type": "websocket.send", "text": "from django"})
        for member in (anna, carl, ben):
            self.assertEqual(member.receive(), "from django")

    def test_equal_messages_of_both_sides_are_each_heard_once(self):
        group = f"room_{self.room}"
        anna, ben = self.join(self.a, "all"), self.join(self.b, "all")
        self.there(group, 2)
        for _ in range(10):
            anna.send("the same")
            self.django.group_send(group, {"type": "websocket.send", "text": "the same"})
            ben.send("the same")
        members = (anna, ben)
        for member in members:
            self.assertEqual([member.receive() for _ in range(30)], ["the same"] * 30)
        # Whatever came twice came before the end.
        self.settle(group, members, 2)

    def settle(self, group, members, processes):
        """Each side reports its end; nothing else is received."""
        ends = ["end of django"]
        self.django.group_send(group, {"type": "websocket.send", "text": ends[0]})
        for number, member in enumerate(members):
            ends.append(f"end {number}")
            member.send(ends[-1])
        for member in members:
            self.assertEqual(sorted(member.receive() for _ in ends), sorted(ends))
        self.there(group, processes)

    def test_the_order_of_one_sender_stays(self):
        group = f"chat_{self.room}"
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        channel = self.channel(group, 2)
        numbers = [str(number) for number in range(300)]
        for number in numbers:
            anna.say({"message": number})
        self.assertEqual([event["message"] for event in channel.receive_all(300)], numbers)
        self.assertEqual((anna.messages(300), ben.messages(300)), (numbers, numbers))
        self.django.flood(group, [{"type": "chat.message", "message": number} for number in numbers], 1)
        self.assertEqual((anna.messages(300), ben.messages(300)), (numbers, numbers))

    def test_an_event_stream_hears_django(self):
        stream = self.stream(self.a, "shown")
        self.there(f"room_{self.room}", 1)
        event = {"type": "any.thing", "number": 1}
        self.django.group_send(f"room_{self.room}", event)
        self.assertEqual(json.loads(stream.event()["data"]), event)
        written = '{"type" : "any.thing",\r\n\r\n"number"\n:\r1}'  # line breaks end lines of a stream
        headers = {"authorization": f"Bearer {TOKEN}"}
        self.assertEqual(self.a.request(f"/api/groups/room_{self.room}", "POST", headers, written)[0], 200)
        self.assertEqual(json.loads(stream.event()["data"]), event)

    def test_who_is_there_is_told_of_both_servers(self):
        anna = self.join(self.a, "presence", "anna")
        anna.next("chat.join", user="anna")  # a socket is open before its consumer has joined
        ben = self.join(self.b, "presence", "ben")
        anna.next("chat.join", user="ben", members=2)
        for member in (anna, ben):
            member.say({"type": "who"})
            who = member.next("chat.who")
            self.assertEqual((sorted(who["users"]), who["members"]), (["anna", "ben"], 2))
        ben.__exit__()
        anna.next("chat.leave", user="ben", members=1)

    def test_the_history_is_of_each_process_for_itself(self):
        group = f"kept_{self.room}"
        anna = self.join(self.a, "kept")
        anna.joined()
        self.there(group, 1)
        self.django.group_send(group, {"type": "chat.message", "message": "one"})
        since = anna.event()["offset"]
        self.django.group_send(group, {"type": "chat.message", "message": "two"})
        anna.hears("two")
        again = self.join(self.a, "kept", since=since)
        self.assertIs(again.joined()["recovered"], True)
        again.hears("two")
        elsewhere = self.join(self.b, "kept", since=since)
        self.assertIs(elsewhere.joined()["recovered"], False)
        self.there(group, 2)
        self.django.group_send(group, {"type": "chat.message", "message": "three"})
        for member in (anna, again, elsewhere):
            member.hears("three")

    def test_who_comes_back_after_an_outage_is_told_that_something_may_be_missing(self):
        anna = self.join(self.a, "kept")
        anna.joined()
        anna.say({"message": "before"})
        since = anna.event()["offset"]
        again = self.join(self.a, "kept", since=since)
        self.assertIs(again.joined()["recovered"], True)
        with reconnected(*self.servers()), self.redis.client() as client:
            client.client_kill_filter(_type="pubsub", skipme=True)  # with one of them a server ends the others
        after = self.join(self.a, "kept", since=since)
        self.assertIs(after.joined()["recovered"], False)
        self.assertEqual(after.event()["message"], "before")
        anna.say({"message": "after"})
        since = after.event()["offset"]
        self.assertIs(self.join(self.a, "kept", since=since).joined()["recovered"], True)

    def worker(self, answer):
        """Returns a worker for the sockets of `/ws/work/`."""
        django = self.enterContext(self.another_django())
        worker = self.enterContext(Worker(django, "work", answer))
        if not self.is_core:  # what is published before it listens is lost
            with self.redis.client() as client:
                until(lambda: client.pubsub_numsub("work")[0][1] == 1, "a worker that listens")
        return worker

    def test_a_worker_of_django_is_told_of_each_socket_by_the_name_of_its_channel(self):
        worker = self.worker(lambda message: [])
        for number, server in enumerate(self.servers()):
            room = f"{self.room}-{number}"
            with self.join(server, "work", room=room) as socket:
                socket.send("grüße ☕")
            heard = worker.hears(f"/ws/work/{room}/", 3)
            types = [message["type"].removeprefix("websocket.") for message in heard]
            self.assertEqual(types, ["connect", "receive", "disconnect"])
            self.assertEqual(heard[1]["text"], "grüße ☕")
            self.assertEqual((heard[2]["code"], heard[2]["cause"]), (1000, "client_close"))
            for name in ("connection", "reply_channel"):
                self.assertEqual([message[name] for message in heard], [heard[0][name]] * 3)

    def test_what_a_worker_of_django_sends_to_the_reply_channel_reaches_that_socket_alone(self):
        self.worker(lambda message: [{"type": "websocket.send", "text": f"{message['text']}!"}] if "text" in message else [])
        sockets = {str(number): self.join(server, "work") for number, server in enumerate([*self.servers()] * 3)}
        for turn in range(5):
            for name, socket in sockets.items():
                socket.send(f"{name} {turn}")
        for name, socket in sockets.items():
            self.assertEqual([socket.receive() for _ in range(5)], [f"{name} {turn}!" for turn in range(5)])

    def test_a_worker_of_django_closes_a_socket(self):
        self.worker(lambda message: [{"type": "websocket.close", "code": 4001, "reason": "bye"}] if "scope" in message else [])
        for server in self.servers():
            self.assertEqual(self.join(server, "work").closed(), (4001, "bye"))

    def test_a_worker_whose_event_cannot_be_carried_loses_its_socket(self):
        deep = 1
        for _ in range(600):  # Django writes it, and would not read all that we could send
            deep = [deep]

        def answer(message):
            event = {"type": "any.thing", "x": deep if message.get("text") == "deep" else [1]}
            return [{"type": "group.send", "group": f"chat_{self.room}", "event": event}] if "text" in message else []

        self.worker(answer)
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        self.there(f"chat_{self.room}", 2)
        socket = self.join(self.a, "work")
        for text in ("good", "deep"):
            socket.send(text)
        self.assertEqual(socket.closed()[0], 1011)
        self.a.wait_for_log("invalid reply from a worker: .*511 levels")
        anna.say({"message": "on"})
        for member in (anna, ben):
            self.assertEqual(member.event(), {"type": "any.thing", "x": [1]})
            self.assertEqual(member.event()["message"], "on")

    def test_a_group_without_members_is_left(self):
        group = f"chat_{self.room}"
        with Member(self.a, f"/ws/chat/{self.room}/"), Member(self.b, f"/ws/chat/{self.room}/"):
            self.there(group, 2)
        self.there(group, 0)

    def test_a_socket_that_joins_hears_at_once(self):
        group = f"chat_{self.room}"
        for number in range(150):
            with Member(self.a, f"/ws/chat/{self.room}/") as anna:
                self.django.group_send(group, {"type": "chat.message", "message": str(number)})
                self.assertEqual(anna.event()["message"], str(number))

    def test_a_consumer_under_daphne_and_sockets_of_both_servers_hear_each_other(self):
        group = f"chat_{self.room}"
        with Daphne(self.layer_format, self.redis.url(), **self.config()) as daphne:
            anna, ben = self.join(self.a, "chat", "anna"), self.join(self.b, "chat", "ben")
            carl = self.enterContext(Peer(daphne, f"/ws/chat/{self.room}/"))
            self.assertEqual(carl.event()["type"], "accepted")
            self.there(group, 3)
            members = (anna, ben, carl)
            for number, speaker in enumerate((anna, ben)):
                speaker.say({"message": f"hi {number}"})
                events = [member.event() for member in members]
                self.assertEqual(events, [events[0]] * 3)
                self.assertEqual((events[0]["message"], events[0]["user"]), (f"hi {number}", ("anna", "ben")[number]))
            event = {"type": "chat.message", "message": "from a consumer", "more": [1, None, "☕"]}
            carl.say(event)
            self.assertEqual([member.event() for member in members], [event] * 3)
            carl.__exit__()
            self.there(group, 2)
            anna.say({"message": "without carl"})
            ben.hears("without carl")

    def test_what_is_no_event_is_dropped_and_counted_and_the_layer_goes_on(self):
        group = f"chat_{self.room}"
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        self.there(group, 2)
        for name, written in self.malformed().items():
            with self.subTest(name):
                self.check_dropped(group, (anna, ben), written, "malformed")
        for server in self.servers():
            server.wait_for_log('event from Redis dropped: [a-zA-Z].* reason="?malformed')

    def check_dropped(self, group, members, written, reason):
        before = [dropped(server, reason) for server in self.servers()]
        others = [server.metric("oneport_events_dropped_total") for server in self.servers()]
        self.write(group, written)
        self.django.group_send(group, {"type": "chat.message", "message": "on"})
        heard = [member.messages_until("on") for member in members]
        self.assertEqual(heard, [["on"]] * len(members), "expected nothing of what is no event to be heard")
        for server, then, all_then in zip(self.servers(), before, others, strict=True):
            self.assertEqual(dropped(server, reason) - then, 1, f"expected one event dropped as {reason}")
            self.assertEqual(server.metric("oneport_events_dropped_total") - all_then, 1, "expected one event dropped")

    def malformed(self):
        """Returns invalid messages by their fault: bytes, or a function that makes them for one channel (core)."""
        bad = {}

        def event(name, **fields):
            """An event that is wrong in what it holds alone."""
            bad[name] = lambda channel: self.pack(fields, channel)

        event("no type", text="x")
        event("nothing in it")
        for number, event_type in enumerate((None, 1, True, ["a.b"], {}, "_private", ".hidden", b"a.b" if self.serializer == "msgpack" else 1.5)):
            event(f"type {number}: {event_type!r}", type=event_type)
        event("a frame of nothing", type="websocket.send")
        event("a frame of a number", type="websocket.send", text=5)
        event("a frame of bad base64", type="websocket.send", bytes="*")
        event("a frame of both", type="websocket.send", text="x", bytes="AA==")
        event("not a number", type="a.b", x=float("nan"))
        event("infinity", type="a.b", x=float("-inf"))
        if self.is_core:
            for wrong in (None, 5, True, [5], [None], {"a": 1}, [["a"]]):
                bad[f"for {wrong!r}"] = lambda _, wrong=wrong: self.pack({"type": "chat.message", "__asgi_channel__": wrong}, None)
            bad["for nobody"] = lambda _: self.pack({"type": "chat.message"}, None)
            bad["for no channels"] = lambda _: self.pack({"type": "chat.message", "__asgi_channel__": []}, None)
        bad |= self.malformed_msgpack() if self.serializer == "msgpack" else self.malformed_json()
        return bad

    def pack(self, fields, channel):
        """Writes an event as Django does."""
        if channel is not None:
            fields = {**fields, "__asgi_channel__": [channel]}
        return self.seal(msgpack.packb(fields) if self.serializer == "msgpack" else json.dumps(fields).encode())

    def seal(self, content):
        """Encrypts, where that is agreed."""
        return content

    def malformed_msgpack(self):
        good = {"type": "chat.message", "message": "no"}
        spoil = {
            "nothing": lambda whole: b"",
            "a byte that means nothing": lambda whole: b"\xc1",
            "cut off": lambda whole: whole[:-3],
            "the first byte alone": lambda whole: whole[:1],
            "followed by more": lambda whole: whole + b"\xc0",
            "JSON": lambda whole: json.dumps(good).encode(),
            "a map of 4 billion": lambda whole: b"\xdf\xff\xff\xff\xff",
            "a list of 4 billion": lambda whole: b"\xdd\xff\xff\xff\xff",
            "a text of 4 gigabytes": lambda whole: b"\x81\xa4type\xdb\xff\xff\xff\xff",
            "bytes of 4 gigabytes": lambda whole: b"\x81\xa4type\xc6\xff\xff\xff\xff",
            "an extension of 4 gigabytes": lambda whole: b"\x81\xa4type\xc9\xff\xff\xff\xff\x05",
            "bad UTF-8": lambda whole: whole.replace(b"no", b"\xff\xfe"),
        }
        for name, value in {"a list": [1, 2], "a text": "chat.message", "a number": 5, "nil": None, "true": True, "bytes": b"x"}.items():
            spoil[name] = lambda whole, value=value: msgpack.packb(value)
        fields = {
            "a key of bytes": {b"x": 2},
            "a key of bytes deep inside": {"x": [{"y": {b"x": 2}}]},
            "a float as a key": {1.5: 2},
            "an extension": {"x": msgpack.ExtType(5, b"xyz")},
            "an extension deep inside": {"x": [{"y": msgpack.ExtType(1, b"")}]},
            "a time": {"x": datetime(2026, 1, 1, tzinfo=UTC)},
        }
        bad = {}

        def add(name, more, change):
            def written(channel):
                whole = {**good, **more}
                if channel is not None:
                    whole["__asgi_channel__"] = [channel]
                return self.seal(change(msgpack.packb(whole, datetime=True)))

            bad[name] = written

        for name, change in spoil.items():
            add(name, {}, change)
        for name, more in fields.items():
            add(name, more, lambda whole: whole)
        for name, opening, end in (("lists", b"\x91", b"\xc0"), ("maps", b"\x81\xa1x", b"\xc0"), ("both", b"\x91\x81\xa1x", b"\xc0")):
            for depth in (2_000, 100_000):
                add(f"{depth} {name} in each other", {"message": "?"}, lambda whole, deep=opening * depth + end: whole.replace(b"\xa1?", deep))
        return bad

    def malformed_json(self):
        good = {"type": "chat.message", "message": "no"}
        spoil = {
            "nothing": lambda whole: b"",
            "no JSON": lambda whole: b"chat.message",
            "cut off": lambda whole: whole[:-3],
            "followed by more": lambda whole: whole + b"x",
            "bad UTF-8": lambda whole: whole.replace(b'"no"', b'"\xff\xfe"'),
            "half a surrogate in its type": lambda whole: whole.replace(b'"chat.message"', b'"\\ud800"'),
            "a list": lambda whole: b"[1, 2]",
            "a text": lambda whole: b'"chat.message"',
            "a number": lambda whole: b"5",
            "null": lambda whole: b"null",
            "msgpack": lambda whole: msgpack.packb(good),
            "200000 lists in each other": lambda whole: whole.replace(b'"no"', b"[" * 200_000 + b"]" * 200_000),
            "20000 maps in each other": lambda whole: whole.replace(b'"no"', b'{"x":' * 20_000 + b"1" + b"}" * 20_000),
        }
        bad = {}
        for name, change in spoil.items():

            def written(channel, change=change):
                more = {} if channel is None else {"__asgi_channel__": [channel]}
                return self.seal(change(json.dumps({**good, **more}).encode()))

            bad[name] = written
        return bad

    def test_an_event_over_a_mebibyte_is_dropped_and_counted(self):
        group = f"chat_{self.room}"
        members = (self.join(self.a, "chat"), self.join(self.b, "chat"))
        self.there(group, 2)
        self.django.group_send(group, {"type": "chat.message", "message": "x" * (600 << 10)})
        for member in members:
            member.hears("x" * (600 << 10))
        for mebibytes in (2, 8):
            with self.subTest(mebibytes=mebibytes):
                big = {"type": "chat.message", "message": "x" * (mebibytes << 20)}
                self.check_dropped(group, members, lambda channel, big=big: self.pack(big, channel), "oversized")

    def test_names_that_no_group_has_are_heard_by_nobody(self):
        anna = self.join(self.a, "chat")
        group = f"chat_{self.room}"
        self.there(group, 1)
        before = self.a.metric("oneport_layer_received_total")
        with self.redis.client() as client:
            for name in ("", "bad name", "ünï", "a" * 200, f"{group}x", group[:-1], f"{group}\0", f"x{group}"):
                client.publish(f"{self.prefix}__group__{name}", self.pack({"type": "chat.message", "message": "no"}, None))
            for name in (self.prefix, f"{self.prefix}__group__", f"__group__{group}", group):
                client.publish(name, self.pack({"type": "chat.message", "message": "no"}, None))
        self.django.group_send(group, {"type": "chat.message", "message": "on"})
        anna.hears("on")
        self.assertEqual(self.a.metric("oneport_layer_received_total") - before, 1)

    def test_after_an_outage_django_is_heard_again(self):
        for way in ("killed", "frozen"):
            with self.subTest(way):
                self.doCleanups()
                self.setUp()
                group = f"chat_{self.room}"
                self.addCleanup(self.django.restart)  # what Django lost with Redis it does not take up again
                anna, carl, ben = (self.join(server, "chat") for server in (self.a, self.a, self.b))
                self.there(group, 2)
                {"killed": self.redis.kill, "frozen": self.redis.freeze}[way]()
                try:
                    for server in self.servers():
                        until(lambda server=server: server.metric("oneport_layer_connected") == 0, "a server that knows of the loss")
                    anna.say({"message": "alone"})
                    self.assertEqual(carl.messages(1, MOMENT), ["alone"])
                finally:
                    {"killed": self.redis.start, "frozen": self.redis.thaw}[way]()
                for server in self.servers():
                    connected(server)
                self.there(group, 2)
                with self.another_django() as django:
                    django.group_send(group, {"type": "chat.message", "message": "back"})
                    anna.hears("alone", "back")
                    carl.hears("back")
                    ben.hears("back")
                    channel = django.channel(group)
                    self.there(group, 3)
                    ben.say({"message": "answer"})
                    anna.hears("answer")
                    self.assertEqual(channel.receive()["message"], "answer")


class Specific:
    """A channel that a Django made for itself, where its name may stand in a configuration."""

    def test_it_is_told_of_sockets_and_answers_them(self):
        channel = self.django.channel()
        with self.gateway(more=worked("/ws/own/{room:slug}/", channel.name)) as third:
            connected(third)
            socket = self.join(third, "own")
            connect = channel.receive()
            self.assertEqual((connect["type"], connect["scope"]["path"]), ("websocket.connect", f"/ws/own/{self.room}/"))
            self.django.send(connect["reply_channel"], {"type": "websocket.send", "text": "from django"})
            self.assertEqual(socket.receive(), "from django")


# --- The pubsub format --------------------------------------------------------------------------------------------------------


class Pubsub(Specific, Both, DjangoCase):
    layer_format = "channels_redis.pubsub"


class PubsubPrefix(Both, DjangoCase):
    """A prefix is any text; the rest of the name is still found."""

    layer_format = "channels_redis.pubsub"
    prefix = "my app:"


class PubsubJson(Both, DjangoCase):
    layer_format = "channels_redis.pubsub"
    serializer = "json"
    prefix = "my-site"


# --- The core format ----------------------------------------------------------------------------------------------------------


class CoreClaims:
    def test_a_message_without_its_random_beginning_is_malformed(self):
        group = f"chat_{self.room}"
        anna = self.join(self.a, "chat")
        self.there(group, 1)
        (channel,) = self.inboxes(group)
        before = dropped(self.a, "malformed")
        with self.redis.client() as client:
            for member in (b"", b"x", b"x" * 11, b"x" * 12):
                self.put(client, channel, member)
        self.django.group_send(group, {"type": "chat.message", "message": "on"})
        anna.hears("on")
        self.assertEqual(dropped(self.a, "malformed") - before, 4)

    def test_messages_for_channels_that_are_not_there_harm_nobody(self):
        group = f"chat_{self.room}"
        anna = self.join(self.a, "chat")
        self.there(group, 1)
        (channel,) = self.inboxes(group)
        client_name, _, local = channel.partition("!")
        event = {"type": "chat.message", "message": "once"}
        strangers = [f"{client_name}!{'0' * 32}", f"specific.{'0' * 32}!{local}", "thumbnails", "", "!", f"{channel}!x", "bad name", "x" * 5000]
        with self.redis.client() as client:
            for stranger in strangers:
                self.put(client, channel, os.urandom(12) + self.pack({**event, "message": "no", "__asgi_channel__": stranger}, None))
            # Among many that are not, ours is found.
            self.put(client, channel, os.urandom(12) + self.pack({**event, "__asgi_channel__": [*strangers, channel]}, None))
            # As `send` writes it.
            self.put(client, channel, os.urandom(12) + self.pack({**event, "message": "sent", "__asgi_channel__": channel}, None))
        anna.hears("once", "sent")

    def test_a_message_for_a_channel_that_nobody_reads_is_counted(self):
        anna = self.join(self.a, "chat")
        self.there(f"chat_{self.room}", 1)
        (channel,) = self.inboxes(f"chat_{self.room}")
        before = dropped(self.a, "no_reader"), self.a.metric("oneport_events_dropped_total")
        for _ in range(3):
            self.django.send(f"{channel.partition('!')[0]}!{'0' * 32}", {"type": "chat.message", "message": "no"})
        self.django.send(channel, {"type": "chat.message", "message": "on"})
        anna.hears("on")
        self.assertEqual(dropped(self.a, "no_reader") - before[0], 3)
        self.assertEqual(self.a.metric("oneport_events_dropped_total") - before[1], 3)

    def test_a_reply_to_a_socket_that_is_gone_is_counted(self):
        worker = self.worker(lambda message: [])
        before = dropped(self.a, "no_reader")
        with self.join(self.a, "work"):
            pass
        reply_channel = worker.hears(f"/ws/work/{self.room}/", 2)[0]["reply_channel"]

        def is_counted():
            self.django.send(reply_channel, {"type": "websocket.send", "text": "too late"})
            return dropped(self.a, "no_reader") > before

        until(is_counted, "a reply that nobody reads")

    def test_what_django_sends_to_the_channel_of_a_group_reaches_its_members(self):
        anna = self.join(self.a, "chat")
        self.there(f"chat_{self.room}", 1)
        (channel,) = self.inboxes(f"chat_{self.room}")
        self.django.send(channel, {"type": "chat.message", "message": "by name"})
        anna.hears("by name")

    def test_a_server_that_is_killed_leaves_djangos_groups_within_its_lease(self):
        group = f"chat_{self.room}"
        anna = self.join(self.a, "chat")
        self.there(group, 1)
        with self.gateway() as third:
            connected(third)
            member = self.join(third, "chat")
            self.there(group, 2)
            third.signal(signal.SIGKILL)
            third.wait(-signal.SIGKILL)
            member.__exit__()
        channel = self.channel(group, 2)
        for _ in range(5):  # into an inbox that nobody reads
            self.django.group_send(group, {"type": "chat.message", "message": "on"})
        self.assertEqual(anna.messages(5), ["on"] * 5)
        self.assertEqual(len(channel.receive_all(5)), 5)
        self.there(group, 2)
        with self.redis.client() as client:
            inboxes = {f"{self.prefix}{name.partition('!')[0]}!".encode() for name in self.inboxes(group)}
            left = [key for key in client.keys(f"{self.prefix}specific.*") if key not in inboxes and client.type(key) == b"zset"]
            # Nothing is written into its inbox any more. It expires by itself: a process that only stood still drains it.
            self.assertTrue(all(client.ttl(key) > 0 for key in left), left)

    def test_who_is_in_a_group_for_longer_than_its_expiry_is_no_member(self):
        group = f"chat_{self.room}"
        anna = self.join(self.a, "chat")
        self.there(group, 1)
        with self.redis.client() as client:
            client.zadd(f"{self.prefix}:group:{group}", {f"specific.{'0' * 32}!{'1' * 32}": time.time() - 86_500})
            anna.say({"message": "hi"})
            anna.hears("hi")
            self.there(group, 1)
            self.assertFalse(client.exists(f"{self.prefix}specific.{'0' * 32}!"))

    def test_a_redis_that_is_flushed_hears_again_who_is_in_which_group(self):
        group = f"chat_{self.room}"
        anna, ben = self.join(self.a, "chat"), self.join(self.b, "chat")
        self.there(group, 2)
        with self.redis.client() as client:
            client.flushall()
        self.there(group, 2)
        self.django.group_send(group, {"type": "chat.message", "message": "heard"})
        for member in (anna, ben):
            member.hears("heard")

    def test_a_wait_for_messages_that_ends_without_any_ends_nothing(self):
        anna = self.join(self.a, "chat")
        self.there(f"chat_{self.room}", 1)
        lost = self.a.metric("oneport_layer_reconnects_total")
        time.sleep(11.0)  # twice as long as one wait for the inbox
        self.django.group_send(f"chat_{self.room}", {"type": "chat.message", "message": "after a while"})
        anna.hears("after a while")
        self.assertEqual(self.a.metric("oneport_layer_reconnects_total"), lost)

    def test_many_sockets_are_few_in_redis(self):
        members = [self.join(self.a, "chat") for _ in range(20)]
        self.there(f"chat_{self.room}", 1)
        self.django.group_send(f"chat_{self.room}", {"type": "chat.message", "message": "to all"})
        for member in members:
            member.hears("to all")

    def test_a_server_that_ends_leaves_nothing_in_redis(self):
        with self.redis.client() as client:
            before = set(client.keys())
            with self.gateway() as third:
                connected(third)
                group = f"chat_{self.room}"
                with Member(third, f"/ws/chat/{self.room}/"), Member(third, f"/ws/chat/{self.room}/"):
                    self.there(group, 1)
                    inbox = self.inboxes(group)[0].partition("!")[0]
                    third.stop()
            until(lambda: not client.exists(f"{self.prefix}:group:{group}"), "a group without members")
            self.assertEqual({key for key in set(client.keys()) - before if inbox.encode() in key}, set())


class Core(CoreClaims, Specific, Both, DjangoCase):
    layer_format = "channels_redis.core"
    ours = {"capacity": PLENTY}


class CoreJson(CoreClaims, Both, DjangoCase):
    layer_format = "channels_redis.core"
    serializer = "json"
    prefix = "my-site"
    ours = {"capacity": PLENTY}


class Capacity(DjangoCase):
    """The bounds of the core format, as they are by default or smaller."""

    layer_format = "channels_redis.core"
    theirs = {"capacity": 100}

    def test_5000_events_from_django_reach_500_sockets_though_100_may_wait(self):
        group, number = f"chat_{self.room}", 5_000
        size = len(shown(payload("d", 0)))
        events = [{"type": "websocket.send", "text": payload("d", each).decode()} for each in range(number)]
        with Crowd() as crowd, OverCapacity() as over, ThreadPoolExecutor(1) as executor:
            crowd.join(self.a, f"/ws/feed/{self.room}/", 500)
            self.there(group, 1)
            before = self.a.metric("oneport_events_dropped_total")
            sending = executor.submit(self.django.flood, group, events, 20)
            while not sending.done():
                crowd.turn()
            sending.result()
            self.django.group_send(group, {"type": "websocket.send", "text": payload("z", 0).decode()})
            arrived = number - over.count
            self.assertGreater(arrived, number * 9 // 10, f"expected the inbox to be emptied all the time, found {over.count} events over capacity")
            crowd.read_until(size * (arrived + 1), 30.0)
            for stream, members in crowd.streams().items():
                found = contents(stream, 6)
                self.assertEqual(len(found), arrived + 1, f"of {members} members, {over.count} events over capacity")
                self.assertEqual(len(set(found)), arrived + 1, "expected each event once")
                self.assertLessEqual(set(found), {payload("d", each) for each in range(number)} | {payload("z", 0)})
                self.assertEqual(found[-1], payload("z", 0))
            self.assertEqual(len(crowd.streams()), 1, "expected one order for all members of a process")
            self.assertEqual(self.a.metric("oneport_events_dropped_total"), before)

    def test_the_order_of_one_sender_stays_in_a_flood(self):
        group, number = f"chat_{self.room}", 1_000
        anna = self.join(self.a, "chat")
        self.there(group, 1)
        with OverCapacity() as over:
            self.django.flood(group, [{"type": "chat.message", "message": f"{each:05}"} for each in range(number)], 1)
        found = anna.messages(number - over.count)
        self.assertEqual(found, sorted(found))
        self.assertEqual(len(set(found)), len(found))

    def test_what_finds_no_room_in_the_inbox_of_django_is_counted(self):
        group = f"chat_{self.room}"
        with self.gateway(capacity=10) as third, self.another_django() as django:
            connected(third)
            anna, carl = self.join(third, "chat"), self.join(third, "chat")
            channel = django.channel(group)  # nobody reads it yet
            self.there(group, 2)
            numbers = [str(number) for number in range(30)]
            for number in numbers:
                anna.say({"message": number})
            self.assertEqual((anna.messages(30), carl.messages(30)), (numbers, numbers))
            until(lambda: dropped(third, "channel_full") == 20, lambda: f"20 events dropped, found {dropped(third, 'channel_full')}", 5.0)
            self.assertEqual([channel.receive()["message"] for _ in range(10)], numbers[:10])
            anna.say({"message": "room again"})
            self.assertEqual(channel.receive()["message"], "room again")
            carl.hears("room again")

    def test_the_inbox_of_a_server_that_stands_still_is_full_and_empties_itself_after(self):
        group = f"chat_{self.room}"
        with self.gateway() as third, OverCapacity() as over:
            connected(third)
            anna = self.join(third, "chat")
            self.there(group, 1)
            third.freeze()
            try:
                self.django.flood(group, [{"type": "chat.message", "message": str(each)} for each in range(150)], 1)
            finally:
                third.thaw()
            # The inbox is bounded; a few messages may be on their way to the paused server.
            self.assertIn(over.count, range(40, 51))
            found = anna.messages(150 - over.count)
            self.assertEqual(found, [str(each) for each in range(150 - over.count)])
            self.django.group_send(group, {"type": "chat.message", "message": "on"})
            anna.hears("on")
            (inbox,) = self.inboxes(group)
            self.django.send(inbox, {"type": "chat.message", "message": "no ChannelFull"})
            anna.hears("no ChannelFull")

    def test_a_channel_that_is_full_says_so_to_django_as_ever(self):
        """What we count, Django's own layer would have refused too."""
        with self.another_django(capacity=3) as django:
            channel = django.channel()
            for _ in range(3):
                django.send(channel.name, {"type": "a.b"})
            with self.assertRaises(ChannelFull):
                django.send(channel.name, {"type": "a.b"})


# --- Encryption ---------------------------------------------------------------------------------------------------------------

NEW, OLD, UNKNOWN = "the-new-key-of-the-site", "the-old-key ☕", "a-key-of-somebody-else"


class EncryptedClaims:
    ours = {"symmetric_encryption_keys": [NEW, OLD], "capacity": PLENTY}
    theirs = {"symmetric_encryption_keys": [NEW, OLD]}

    def seal(self, content, key=NEW, at=None):
        crypter = BaseMessageSerializer.make_fernet(self.django_serializer(), key)
        return crypter.encrypt(content) if at is None else crypter.encrypt_at_time(content, at)

    def django_serializer(self):
        return self.django.layer._serializer

    def heard(self, django, message):
        """Both servers receive that."""
        django.group_send(f"chat_{self.room}", {"type": "chat.message", "message": message})

    def test_a_django_that_still_encrypts_with_the_second_key_is_heard(self):
        members = [self.join(server, "chat") for server in self.servers()]
        self.there(f"chat_{self.room}", 2)
        with self.another_django(symmetric_encryption_keys=[OLD, NEW]) as django:
            self.heard(django, "with the old one")
            for member in members:
                member.hears("with the old one")
            channel = django.channel(f"chat_{self.room}")
            self.there(f"chat_{self.room}", 3)
            members[0].say({"message": "with the new one"})
            self.assertEqual(channel.receive()["message"], "with the new one")

    def test_what_is_encrypted_with_another_key_or_not_at_all_is_dropped_and_counted(self):
        group = f"chat_{self.room}"
        members = [self.join(server, "chat") for server in self.servers()]
        self.there(group, 2)
        event = {"type": "chat.message", "message": "no"}

        def plain(channel):
            fields = event if channel is None else {**event, "__asgi_channel__": [channel]}
            return msgpack.packb(fields)

        def spoiled(change):
            return lambda channel: change(bytearray(self.seal(plain(channel))))

        def changed(at):
            def change(token):
                token[at] = ord("A") if token[at] != ord("A") else ord("B")
                return bytes(token)

            return change

        now = int(time.time())
        for name, written in {
            "another key": lambda channel: self.seal(plain(channel), UNKNOWN),
            "no key": plain,
            "nothing": b"",
            "no token": b"x" * 100,
            "a token cut off": spoiled(lambda token: bytes(token[:-4])),
            "a token with more": spoiled(lambda token: bytes(token) + b"AAAA"),
            "another version": spoiled(changed(0)),
            "another time": spoiled(changed(8)),
            "another content": spoiled(changed(60)),
            "another signature": spoiled(changed(-10)),
            "not base64": spoiled(lambda token: b"*" + bytes(token[1:])),
        }.items():
            with self.subTest(name):
                self.check_dropped(group, members, written, "undecryptable")
        for name, at in {"an hour old": now - 3600, "of the next hour": now + 3600}.items():
            with self.subTest(name):
                written = lambda channel, at=at: self.seal(plain(channel), at=at)  # noqa: E731
                if self.is_core:
                    self.check_dropped(group, members, written, "undecryptable")
                else:  # the pubsub layer asks for no age
                    self.write(group, written)
                    for member in members:
                        member.hears("no")

    def test_nothing_that_is_said_can_be_read_in_redis(self):
        group = f"chat_{self.room}"
        anna = self.join(self.a, "chat")
        channel = self.django.channel(group)  # nobody reads it yet
        self.there(group, 2)
        with self.redis.client() as client:
            hearing = client.pubsub()
            hearing.subscribe(f"{self.prefix}__group__{group}")
            until(lambda: (hearing.get_message(timeout=1.0) or {}).get("type") == "subscribe", "a subscription")
            anna.say({"message": "a secret word"})
            if self.is_core:
                key = f"{self.prefix}{channel.name.partition('!')[0]}!"
                until(lambda: client.zcard(key), "a message in Django's inbox")
                ((found, _),) = client.zrange(key, 0, -1, withscores=True)
                found = found[12:]
            else:
                found = until(lambda: hearing.get_message(timeout=1.0), "a message")["data"]
            hearing.close()
        self.assertNotIn(b"secret", found)
        self.assertIn(b"a secret word", self.django_serializer().crypter.decrypt(found))


class EncryptedPubsub(EncryptedClaims, Both, DjangoCase):
    layer_format = "channels_redis.pubsub"


class EncryptedCore(EncryptedClaims, Both, DjangoCase):
    layer_format = "channels_redis.core"


if __name__ == "__main__":
    unittest.main()
