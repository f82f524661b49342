"""Histories under attack: rooms that anonymous clients fill, or only enter, cost bounded memory and take nothing from real ones."""

import os
import re
import threading
import unittest

from kit.deadline import until
from kit.frames import BINARY, PING, PONG, Bytes, encode
from kit.layer_case import connected
from kit.peer import Peer
from kit.redis_cluster import RedisCluster
from kit.redis_server import Redis
from kit.server import Server
from kit.stream import Stream

MIB = 1 << 20

CONFIG = """
[log]
access = false

[server]
allowed_hosts = ["*"]
trusted_proxies = ["127.0.0.1/32"]

[channel_layer]
{layer}

[http]
middleware = ["hosts"]

[[http.route]]
path = "/metrics/"
view = "metrics"

[[http.route]]
path = "/events/{{room:slug}}/"
view = "events"
options = {{ group = "events_{{room}}", history = 50 }}

[websocket]
middleware = []

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", history = 50, recover = true }}

[[websocket.route]]
path = "/ws/filled/{{room:slug}}/"
consumer = "broadcast"
options = {{ group = "filled_{{room}}", history = 50, include_sender = false }}
"""


class Visitor(Bytes):
    """A WebSocket of a client behind the trusted proxy, without a library's care."""

    def __init__(self, server, path, address):
        super().__init__(("127.0.0.1", server.port))
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Forwarded-For: {address}\r\n\r\n".encode()
        )
        self.status, self.fields = self.head()

    def say(self, frames):
        """Sends it, and waits until the server has handled it."""
        seal = os.urandom(8)
        self.send(frames + encode(PING, seal))
        self.until(bytes([0x80 | PONG, len(seal)]) + seal)


def at_once(count, act):
    """Runs `act` with each number, in four threads."""
    failures = []

    def run(first):
        try:
            for number in range(first, count, 4):
                act(number)
        except BaseException as failure:  # noqa: BLE001 - it is raised again below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=[first]) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def hear(peer, count):
    """Returns `count` chat messages."""
    return [peer.next("chat.message")["message"] for _ in range(count)]


class HistoriesCase(unittest.TestCase):
    ROOMS, MESSAGES, LENGTH = 1_000, 8, 60_000
    # What a process may use in addition to `history_size`: connections, buffers, retained pages.
    BESIDE = 96 * MIB
    layer = ""

    def serve(self, layer=""):
        return connected_if_asked(self.enterContext(Server(CONFIG.format(layer=f"{self.layer}\n{layer}"))))

    def fill(self, server, address):
        """Makes many rooms and fills them, as fast as it can; `address` is given each room's number."""
        frames = [encode(BINARY, os.urandom(self.LENGTH)) for _ in range(self.MESSAGES)]

        def fill_one(number):
            with Visitor(server, f"/ws/filled/r{number}/", address(number)) as visitor:
                self.assertEqual(visitor.status, 101)
                for frame in frames:
                    visitor.say(frame)

        at_once(self.ROOMS, fill_one)

    def talk(self, server, room, address="203.0.113.9", count=20):
        """Opens a real room and sends messages; returns its member and the position after half of them."""
        member = self.enterContext(Peer(server, f"/ws/chat/{room}/", additional_headers={"x-forwarded-for": address}))
        epoch = member.next("oneport.joined")["offset"].split(".")[0]
        for number in range(count):
            member.say({"message": str(number)})
        self.assertEqual(hear(member, count), [str(number) for number in range(count)])
        return member, epoch

    def is_whole(self, server, room, count=20):
        """A client that joins a room gets all of its history."""
        with Peer(server, f"/ws/chat/{room}/") as peer:
            self.assertEqual(hear(peer, count), [str(number) for number in range(count)])

    def goes_on(self, server, room, last):
        """A client that reconnects gets what it missed."""
        with Peer(server, f"/ws/chat/{room}/?since={last}") as peer:
            self.assertTrue(peer.next("oneport.joined")["recovered"])
            return peer

    def check_one_address(self):
        server = self.serve()
        member, _ = self.talk(server, "open")
        left, _ = self.talk(server, "left")
        left.socket.close()
        before = server.resident_bytes()
        self.fill(server, lambda number: "198.51.100.7")
        self.is_bounded(server, before, 128 * MIB)
        self.is_whole(server, "open")
        self.is_whole_or_gone(server, "left")
        member.say({"message": "still here"})
        self.assertEqual(hear(member, 1), ["still here"])
        return server

    def check_max_rooms(self):
        server = self.serve("max_rooms = 20")
        for number in range(20):
            with Visitor(server, f"/ws/filled/r{number}/", "198.51.100.7") as visitor:
                visitor.say(encode(BINARY, b"hi"))
                self.assertEqual(visitor.status, 101)
        self.talk(server, "open")
        for path in ("/ws/filled/more/", "/ws/chat/more/"):
            with Visitor(server, path, "198.51.100.7") as visitor:
                self.assertEqual((visitor.status, visitor.fields["retry-after"]), (429, "10"))
        with Stream(server, "/events/more/", headers={"x-forwarded-for": "198.51.100.7"}) as stream:
            self.assertEqual(stream.response.status, 429)
        for path in ("/ws/filled/r1/", "/ws/chat/open/"):  # they are there already
            with Visitor(server, path, "198.51.100.7") as visitor:
                self.assertEqual(visitor.status, 101)
        with Visitor(server, "/ws/filled/more/", "198.51.100.8") as visitor:
            self.assertEqual(visitor.status, 101)
        self.assertEqual(server.metric("oneport_rooms_refused_total"), 3)
        self.assertEqual(len(re.findall("as many groups with a history as they may", server.log())), 1)
        return server

    def check_many_addresses(self):
        server = self.serve()
        member, epoch = self.talk(server, "open")
        before = server.resident_bytes()
        self.fill(server, lambda number: f"198.{18 + number // 62_500}.{number // 250 % 250}.{number % 250}")
        self.is_bounded(server, before, 128 * MIB)
        self.assertEqual(server.metric("oneport_rooms_refused_total"), 0)
        self.is_whole(server, "open")
        with Peer(server, f"/ws/chat/open/?since={epoch}.10") as peer:
            self.assertTrue(peer.next("oneport.joined")["recovered"])
            self.assertEqual(hear(peer, 10), [str(number) for number in range(10, 20)])
        return server

    def check_empty_rooms(self, rooms=12_000):
        server = self.serve()
        left, _ = self.talk(server, "left")
        left.socket.close()
        with Visitor(server, "/ws/chat/first/", "198.51.100.7"):
            pass
        before, bytes_before = server.resident_bytes(), server.metric("oneport_history_bytes")

        def enter(number):
            with Visitor(server, f"/ws/chat/e{number}/", "198.51.100.7") as visitor:
                self.assertEqual(visitor.status, 101, number)

        at_once(rooms, enter)
        self.assertEqual(server.metric("oneport_history_evicted_total"), 0)
        self.assertLess((server.resident_bytes() - before) / MIB, 24)
        self.is_whole(server, "left")
        # Over Redis the copy of a history goes with the last member.
        until(lambda: server.metric("oneport_history_bytes") <= bytes_before, "the histories that were there before")
        return server

    def is_bounded(self, server, before, history_size):
        grown = server.resident_bytes() - before
        print(f"{self.id()}: grown by {grown / MIB:.0f} MiB, histories {server.metric('oneport_history_bytes') / MIB:.0f} MiB")
        self.assertLessEqual(server.metric("oneport_history_bytes"), history_size)
        self.assertLess(grown / MIB, (history_size + self.BESIDE) / MIB)


def connected_if_asked(server):
    return connected(server) if "redis" in server.config.read_text(encoding="utf-8") else server


class InMemory(HistoriesCase):
    def is_whole_or_gone(self, server, room):
        """One process knows whose rooms take the most: those of others stay."""
        self.is_whole(server, room)

    def test_rooms_that_one_address_fills_take_from_each_other_alone(self):
        server = self.check_one_address()
        self.assertGreater(server.metric("oneport_history_evicted_total"), 0)

    def test_rooms_that_many_addresses_fill_take_nothing_from_rooms_with_members(self):
        server = self.check_many_addresses()
        self.assertGreater(server.metric("oneport_history_evicted_total"), 0)

    def test_rooms_that_are_only_entered_leave_nothing_and_take_nothing(self):
        server = self.check_empty_rooms()
        self.assertEqual(server.metric("oneport_history_groups"), 1)

    def test_rooms_with_members_that_are_filled_lose_their_oldest_events(self):
        server = self.serve('history_size = "4 MiB"')
        self.talk(server, "open")
        frame = encode(BINARY, os.urandom(self.LENGTH))
        visitors = [self.enterContext(Visitor(server, f"/ws/filled/r{number}/", f"198.51.100.{number}")) for number in range(20)]
        for _ in range(10):
            for visitor in visitors:
                visitor.say(frame)
        self.assertLessEqual(server.metric("oneport_history_bytes"), 4 * MIB)
        self.assertEqual(server.metric("oneport_history_groups"), 21)
        self.is_whole(server, "open")

    def test_an_address_begins_so_many_rooms_and_its_clients_enter_all_that_are_there(self):
        self.check_max_rooms()

    def test_a_group_is_bounded_in_bytes(self):
        server = self.serve()
        frame = encode(BINARY, os.urandom(self.LENGTH))
        with Visitor(server, "/ws/filled/r/", "198.51.100.1") as visitor:
            for _ in range(40):
                visitor.say(frame)
            self.assertLess(server.metric("oneport_history_bytes"), MIB + 4096)
            self.assertGreater(server.metric("oneport_history_bytes"), MIB - 2 * self.LENGTH)


class InRedis(HistoriesCase):
    """The same with the histories in a Redis, which is bounded too."""

    def setUp(self):
        self.redis = self.enterContext(Redis())
        self.layer = f'backend = "{self.redis.url()}"'
        self.client = self.enterContext(self.redis.client())

    def used(self):
        return self.client.info("memory")["used_memory_dataset"]

    def keys(self, pattern="*"):
        return [key.decode() for key in self.client.scan_iter(pattern, count=1000)]

    def registered(self):
        """Returns the registry's total of all histories, if it is the sum of its entries."""
        # In one step, because the server keeps writing.
        with self.client.pipeline(transaction=True) as both:
            both.hgetall("oneport:{histories}:bytes")
            both.zrange("oneport:{histories}:uses", 0, -1)
            known, uses = both.execute()
        takes = {name: int(bytes) for name, bytes in known.items()}
        total = takes.pop(b" sum", 0)
        self.assertEqual(total, sum(takes.values()))
        self.assertEqual(set(takes), set(uses))
        return total

    def is_whole_or_gone(self, server, room):
        """Processes do not know of each other whose rooms take the most: what was used least recently goes, and nothing of it stays."""
        if self.keys(f"oneport:history:{{chat_{room}}}"):
            self.is_whole(server, room)

    def is_bounded_there(self, before, history_size):
        most = self.used() - before

        def is_bounded():
            return self.registered() <= history_size and self.used() - before <= 1.25 * history_size

        until(is_bounded, lambda: f"at most {history_size} bytes, found {self.registered()} and {self.used() - before}")
        grown = self.used() - before
        print(f"{self.id()}: Redis grown by {most / MIB:.0f}, then {grown / MIB:.0f} MiB, registered {self.registered() / MIB:.0f} MiB")
        self.assertLess(most / MIB, 2 * history_size / MIB)

    def test_rooms_that_one_address_fills_are_bounded_in_redis(self):
        before = self.used()
        server = self.check_one_address()
        self.is_bounded_there(before, 128 * MIB)
        self.assertGreater(server.metric("oneport_history_evicted_total"), 0)

    def test_rooms_that_many_addresses_fill_take_nothing_from_rooms_with_members(self):
        before = self.used()
        server = self.check_many_addresses()
        self.is_bounded_there(before, 128 * MIB)
        self.assertGreater(server.metric("oneport_history_evicted_total"), 0)

    def test_rooms_that_are_only_entered_leave_nothing_and_take_nothing(self):
        self.check_empty_rooms(3_000)
        until(
            lambda: not self.keys("*{chat_e*"),
            lambda: f"no keys of rooms without events, found {len(self.keys())}: {self.keys()[:5]}",
            2 * 10.0 + 5,
        )
        self.assertEqual(sorted(self.keys("*{chat_*")), ["oneport:history:{chat_left}", "oneport:stream:{chat_left}"])

    def test_a_group_without_events_keeps_its_history_as_long_as_it_has_members(self):
        server = self.serve('lease = "1s"')
        other = self.serve('lease = "1s"')
        with Peer(server, "/ws/chat/quiet/") as member:
            epoch = member.next("oneport.joined")["offset"]
            meta = "oneport:history:{chat_quiet}"
            seen = []
            until(lambda: seen.append(self.client.pttl(meta)) or sum(b > a for a, b in zip(seen, seen[1:], strict=False)) >= 4, "a key that is renewed")
            self.assertLessEqual(max(seen), 1334)
            self.assertGreater(min(seen), 0)
        with Peer(other, f"/ws/chat/quiet/?since={epoch}") as member:
            self.assertTrue(member.next("oneport.joined")["recovered"])
        until(lambda: not self.keys("*quiet*"), "nothing of a group that was left")

    def test_an_address_begins_so_many_rooms_and_its_clients_enter_all_that_are_there(self):
        self.check_max_rooms()

    def test_rooms_with_members_that_are_filled_lose_their_oldest_events(self):
        server = self.serve('history_size = "4 MiB"')
        frame = encode(BINARY, os.urandom(self.LENGTH))
        visitors = [self.enterContext(Visitor(server, f"/ws/filled/r{number}/", f"198.51.100.{number}")) for number in range(20)]
        for _ in range(10):
            for visitor in visitors:
                visitor.say(frame)
        until(lambda: self.registered() <= 4 * MIB, lambda: f"at most 4 MiB, found {self.registered()}")
        until(lambda: server.metric("oneport_history_bytes") <= 4 * MIB, "at most 4 MiB here")
        self.talk(server, "open")
        self.is_whole(server, "open")

    def test_a_group_is_bounded_in_bytes_and_by_its_count(self):
        server = self.serve()
        sizes = [60_000] * 40 + [100] * 30 + [30_000] * 100 + [900] * 200
        with Visitor(server, "/ws/filled/r/", "198.51.100.1") as visitor:
            for number, size in enumerate(sizes):
                visitor.say(encode(BINARY, os.urandom(size)))
        stream, meta = "oneport:stream:{filled_r}", "oneport:history:{filled_r}"

        def entries():
            return [sum(len(fields[name]) for name in (b"h", b"t")) + 64 for _, fields in self.client.xrange(stream)]

        until(lambda: int(self.client.hget(meta, "offset")) == len(sizes), "all events")
        self.assertEqual(len(entries()), 50)
        self.assertLessEqual(sum(entries()), int(self.client.hget(meta, "bytes")))
        self.assertLessEqual(int(self.client.hget(meta, "bytes")), 3 * sum(entries()) + 8192)
        with Visitor(server, "/ws/filled/r/", "198.51.100.1") as visitor:
            for _ in range(60):
                visitor.say(encode(BINARY, os.urandom(60_000)))
                self.assertLessEqual(sum(entries()), MIB)
        until(lambda: int(self.client.hget(meta, "offset")) == len(sizes) + 60, "all events")
        self.assertLessEqual(sum(entries()), MIB)
        self.assertGreater(sum(entries()), MIB // 2)


class InCluster(unittest.TestCase):
    def test_histories_of_all_masters_are_bounded_together(self):
        with RedisCluster() as cluster, Server(CONFIG.format(layer=f'backend = "{cluster.url()}"\nhistory_size = "2 MiB"')) as server:
            connected(server)
            frame = encode(BINARY, os.urandom(50_000))
            with Visitor(server, "/ws/filled/stays/", "198.51.100.1") as stays:
                stays.say(frame)
                for number in range(100):
                    with Visitor(server, f"/ws/filled/r{number}/", "198.51.100.1") as visitor:
                        visitor.say(frame)

                def rooms():
                    keys = (key for node in cluster.nodes[:3] for key in cluster.ask(node, "KEYS", "oneport:stream:*"))
                    return {re.search(r"{filled_(\w+)}", str(key))[1] for key in keys}

                until(lambda: len(rooms()) <= 42, lambda: f"rooms of 2 MiB, found {len(rooms())}")
                self.assertIn("stays", rooms())
                self.assertIn("r99", rooms())
                self.assertGreater(len(rooms()), 20)
