"""Slow clients: their queue is bounded, and the route's policy decides what happens to them."""

import json
import time
import unittest

from kit.deadline import DEADLINE, Late, until
from kit.frames import BINARY, CLOSE, TEXT, RawSocket, encode
from kit.server import Server

MIB = 1 << 20

TOKEN = "token-of-the-tests-0123456789abcdef"

CONFIG = """
[[http.route]]
path = "/api/{*call}"
view = "publish"
options = { tokens = [{ name = "test", token = "%s", groups = ["*"] }] }

[websocket]
send_queue = "1 MiB"
write_timeout = "120s"
ping_interval = "0s"

[[websocket.route]]
path = "/ws/speak/{room:slug}/"
name = "speak"
consumer = "broadcast"
options = { group = "room_{room}", include_sender = false }

[[websocket.route]]
path = "/ws/close/{room:slug}/"
name = "close"
consumer = "broadcast"
options = { group = "room_{room}" }
close_timeout = "30s"

[[websocket.route]]
path = "/ws/drop_newest/{room:slug}/"
name = "drop_newest"
consumer = "broadcast"
options = { group = "room_{room}" }
slow_client = "drop_newest"

[[websocket.route]]
path = "/ws/drop_oldest/{room:slug}/"
name = "drop_oldest"
consumer = "broadcast"
options = { group = "room_{room}" }
slow_client = "drop_oldest"

[[websocket.route]]
path = "/ws/conflate/{room:slug}/"
name = "conflate"
consumer = "broadcast"
options = { group = "room_{room}" }
slow_client = "conflate"

[[websocket.route]]
path = "/ws/late/{room:slug}/"
name = "late"
consumer = "broadcast"
options = { group = "room_{room}" }
slow_client = "drop_newest"
write_timeout = "500ms"

[[websocket.route]]
path = "/ws/cut/{room:slug}/"
name = "cut"
consumer = "broadcast"
options = { group = "room_{room}" }
close_timeout = "500ms"

[[websocket.route]]
path = "/ws/echo/"
name = "echo"
consumer = "echo"
""" % TOKEN

# Of one event; a few less than a message, and within what the server API takes.
EVENT_BYTES = 60_000

MESSAGE_BYTES = 64 * 1024
FLOOD_BYTES = 300 * MIB
# What the process may grow by while it serves the flood: the queues of a few sockets, and what the allocator keeps.
GROWTH_MAX = 48 * MIB


class SlowClient(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(Server(CONFIG))

    def open(self, path, **options):
        return self.enterContext(RawSocket(self.server, path, **options))

    def slow(self, path):
        """A member that does not read until it is asked to."""
        slow = self.open(path, receive_buffer=8192)
        slow.say(9, b"here")  # the pong says that it has joined
        self.assertEqual(slow.frame().payload, b"here")
        return slow

    def flood(self, room, total=FLOOD_BYTES, numbered=False):
        """Sends `total` bytes to a room; returns the maximum growth of the server in the meantime."""
        speaker = self.open(f"/ws/speak/{room}/")
        speaker.socket.settimeout(60)
        before = self.server.resident_bytes()
        grown = 0
        frame = encode(BINARY, bytes(MESSAGE_BYTES))
        for number in range(total // MESSAGE_BYTES):
            if numbered:
                frame = encode(BINARY, number.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4))
            speaker.send(frame)
            if number % 100 == 0:
                grown = max(grown, self.server.resident_bytes() - before)
        speaker.say(9, b"done")  # the pong says that all of it was delivered
        frame = speaker.frame()
        self.assertEqual(frame.payload, b"done")
        return max(grown, self.server.resident_bytes() - before)

    def dropped(self, route):
        """Returns what the policy of a route, which is its name too, has dropped."""
        return self.server.metric("oneport_messages_dropped_total", route=route, reason=route)

    def publish(self, room, **fields):
        """Sends an event of a fixed length to a room, through the server API; returns how many did not get it."""
        event = {"type": "news", **fields}
        event["filler"] = "x" * (EVENT_BYTES - len(json.dumps(event)))
        headers = {"authorization": f"Bearer {TOKEN}"}
        status, _, body = self.server.request(f"/api/groups/room_{room}", "POST", headers, json.dumps(event))
        self.assertEqual(status, 200, body)
        return json.loads(body)["dropped"]

    def stuck(self, room):
        """A member with `conflate` to whom nothing more can be written: what comes from now on waits in its queue."""
        slow = self.slow(f"/ws/conflate/{room}/")
        before = self.dropped("conflate")

        def is_stuck():
            for _ in range(10):
                self.publish(room, conflate_key="stuck")
            return self.dropped("conflate") >= before + 20  # twenty of them had to wait, and only the last still does

        until(is_stuck, "a member to whom nothing can be written")
        return slow

    def heard(self, slow, room):
        """Lets a member read all that waits; returns key and number of each event but those that made it stuck."""
        found = []
        slow.socket.settimeout(0.5)
        end = time.monotonic() + DEADLINE
        while not found or found[-1] != (None, "end"):
            if time.monotonic() > end:
                raise Late(f"expected the end, found {found}")
            try:
                event = json.loads(slow.frame().payload)
            except TimeoutError:
                self.publish(room, number="end")
                continue
            if event.get("conflate_key") != "stuck":
                found.append((event.get("conflate_key"), event["number"]))
        return found[:-1]

    def numbers(self, raw, last):
        """Reads messages up to one; returns their numbers."""
        found = []
        while not found or found[-1] != last:
            frame = raw.frame()
            self.assertEqual((frame.opcode, len(frame.payload)), (BINARY, MESSAGE_BYTES))
            found.append(int.from_bytes(frame.payload[:4], "big"))
        return found

    def test_300_mib_for_clients_that_do_not_read_stay_bounded(self):
        slow = [self.slow(f"/ws/{route}/flood/") for route in ("close", "drop_newest", "drop_oldest")]
        grown = self.flood("flood")
        self.assertLess(grown, GROWTH_MAX, f"grew by {grown / MIB:.1f} MiB")
        for route in ("close", "drop_newest", "drop_oldest"):
            self.assertGreater(self.dropped(route), 0, route)
        self.assertEqual(len(slow), 3)

    def test_a_slow_client_that_reads_at_last_finds_1013(self):
        slow = self.slow("/ws/close/told/")
        self.flood("told", 16 * MIB)
        while (frame := slow.frame()).opcode != CLOSE:
            self.assertEqual((frame.opcode, len(frame.payload)), (BINARY, MESSAGE_BYTES))
        self.assertEqual((frame.code, frame.reason), (1013, "the client reads too slowly"))

    def test_a_slow_client_that_never_reads_is_cut_after_the_close_timeout(self):
        slow = self.slow("/ws/cut/gone/")
        self.flood("gone", 16 * MIB)
        self.ended_with("cut", "slow_client")
        slow.rest()

    def test_drop_newest_keeps_the_oldest_and_the_socket(self):
        slow = self.slow("/ws/drop_newest/newest/")
        self.flood("newest", 32 * MIB, numbered=True)
        speaker = self.open("/ws/speak/newest/")
        # A client that reads again is served again.
        last = 0xFFFF_FFFF
        found = self.speak_until_heard(speaker, slow, last)
        kept = found[: found.index(last)]
        self.assertEqual(kept, list(range(len(kept))))
        self.assertLess(len(kept), 512)

    def test_drop_oldest_keeps_the_newest_and_the_socket(self):
        slow = self.slow("/ws/drop_oldest/oldest/")
        self.flood("oldest", 32 * MIB, numbered=True)
        found = self.numbers(slow, 511)
        self.assertEqual(found, sorted(set(found)))
        self.assertLess(len(found), 512)
        self.assertEqual(found[-8:], list(range(504, 512)))
        self.assertEqual(found[0], 0)

    def test_conflate_keeps_the_newest_of_each_key_in_the_place_of_the_first(self):
        slow = self.stuck("keys")
        for number in range(1, 4):
            for key in ("a", "b", "c")[: 4 - number]:
                self.assertEqual(self.publish("keys", conflate_key=key, number=number), 0)
        self.assertEqual(self.heard(slow, "keys"), [("a", 3), ("b", 2), ("c", 1)])

    def test_conflate_counts_each_event_whose_place_another_took(self):
        self.stuck("counted")
        before = self.dropped("conflate")
        for number in range(10):
            for key in ("a", "b"):
                self.publish("counted", conflate_key=key, number=number)
        self.assertEqual(self.dropped("conflate") - before, 18)
        self.assertEqual(self.server.metric("oneport_messages_dropped_total"), self.dropped("conflate"))

    def test_conflate_drops_the_newest_without_a_key_and_goes_on_taking_the_place_of_others(self):
        slow = self.stuck("full")
        self.publish("full", conflate_key="a", number=1)
        dropped = [self.publish("full", number=number) for number in range(30)]
        kept = dropped.index(1)
        self.assertGreater(kept, 5)
        self.assertEqual(dropped[kept:], [1] * (30 - kept))
        self.assertEqual(self.publish("full", conflate_key="b", number=1), 1)  # no room, and no place to take
        self.assertEqual(self.publish("full", conflate_key="a", number=2), 0)
        self.assertEqual(self.heard(slow, "full"), [("a", 2), *((None, number) for number in range(kept))])

    def test_conflate_lets_everything_through_to_a_client_that_reads(self):
        quick = self.slow("/ws/conflate/quick/")
        for number in range(50):
            self.publish("quick", conflate_key="a", number=number)
            self.assertEqual(json.loads(quick.frame().payload)["number"], number)
        self.assertEqual(self.dropped("conflate"), 0)

    def test_a_client_that_takes_nothing_for_the_write_timeout_is_cut(self):
        slow = self.slow("/ws/late/room/")
        self.flood("room", 16 * MIB)
        self.ended_with("late", "write_timeout")
        slow.rest()

    def test_a_client_that_sends_without_reading_has_to_wait_and_then_gets_all_its_answers(self):
        raw = self.slow("/ws/echo/")
        before = self.server.resident_bytes()
        frame, sent, rest = encode(BINARY, bytes(MESSAGE_BYTES)), 0, b""
        raw.socket.settimeout(1.5)
        try:
            while sent < 1024:
                rest = rest or frame
                rest = rest[raw.socket.send(rest) :]
                sent += not rest
        except TimeoutError:
            pass
        self.assertLess(sent, 1024, "the server took 64 MiB from a client that does not read")
        grown = self.server.resident_bytes() - before
        self.assertLess(grown, GROWTH_MAX, f"grew by {grown / MIB:.1f} MiB")
        raw.socket.settimeout(DEADLINE)
        for _ in range(sent):
            self.assertEqual(len(raw.frame().payload), MESSAGE_BYTES)
        if rest:
            raw.send(rest)
            raw.frame()
        raw.say(TEXT, b"still open")
        self.assertEqual(raw.frame().payload, b"still open")

    def test_a_slow_member_does_not_hold_up_the_others(self):
        self.slow("/ws/drop_newest/mixed/")
        quick = self.open("/ws/close/mixed/")
        speaker = self.open("/ws/speak/mixed/")
        for number in range(400):
            speaker.say(BINARY, number.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4))
            self.assertEqual(quick.frame().payload[:4], number.to_bytes(4, "big"))
        self.assertGreater(self.dropped("drop_newest"), 0)
        self.assertEqual(self.dropped("close"), 0)

    def speak_until_heard(self, speaker, slow, number):
        """Repeats a numbered message until the slow member has received it; returns all it received."""
        slow.socket.settimeout(0.2)
        found, end = [], time.monotonic() + DEADLINE
        while number not in found:
            if time.monotonic() > end:
                raise Late("expected the slow member to be served again")
            speaker.say(BINARY, number.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4))
            try:
                while number not in found:
                    found.append(int.from_bytes(slow.frame().payload[:4], "big"))
            except TimeoutError:
                pass
        return found

    def ended_with(self, route, cause):
        metric = "oneport_websockets_closed_total"
        until(lambda: self.server.metric(metric, route=route, cause=cause) == 1, f"a socket that ended by {cause}")


if __name__ == "__main__":
    unittest.main()
