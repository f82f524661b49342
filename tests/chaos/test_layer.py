"""Layer: Redis is killed again and again, restarts twice in a second, or is away while a crowd drops and returns elsewhere.

No member of a group with a history misses an event, or is shown one twice.
"""

import json
import os
import random
import selectors
import struct
import time
import unittest
from urllib.parse import quote

from disturb.case import Chaos
from kit.away_case import AwayCase
from kit.frames import RawSocket
from kit.layer_case import API
from kit.layer_listener import LISTENERS, Listener, Speaker, difference, speaks

# `CROWD=3000 python run.py test_layer.Crowds` has more of them.
CROWD = int(os.environ.get("CROWD", 300))
# Within this time after an outage every member has all it gets, in seconds.
SETTLED = 10.0
SEED = int(os.environ.get("ONEPORT_SEED", 16))


class LayerChaos(AwayCase, Chaos):
    more = API + LISTENERS + '\n[server.limits]\nconnections_per_ip = 50_000\n'
    layer = {"timeout": "1s"}
    maxDiff = None

    def setUp(self):
        super().setUp()
        self.watch(self.a)

    def listen(self, server, kind="listen", since=None):
        query = "" if since is None else f"?since={since}"
        return self.enterContext(Listener(server, f"/ws/{kind}/{self.room}/{query}", recovers=kind != "live"))

    def speak(self, pause=0.004, **members):
        speakers = [Speaker(name, speaks(member), pause) for name, member in members.items()]
        for speaker in speakers:
            self.addCleanup(speaker.stop)
        return speakers

    def check_whole(self, listeners, said):
        everything = [message for messages in said for message in messages]
        end = time.monotonic() + SETTLED
        for listener in listeners.values():
            listener.collect_for(everything, max(0.0, end - time.monotonic()))
        wrong = {name: difference(listener.collect(0.1).heard, said) for name, listener in listeners.items()}
        self.assertEqual({name: found for name, found in wrong.items() if found}, {})


class Restarts(LayerChaos):
    """Redis forgets everything at each restart."""

    def members(self):
        speakers = {"a": self.listen(self.a, "long"), "b": self.listen(self.b, "long")}
        kinds = (("feed of a", self.a, "listen"), ("feed of b", self.b, "listen"), ("live at a", self.a, "live"), ("live at b", self.b, "live"))
        return speakers, {**speakers, **{name: self.listen(server, kind) for name, server, kind in kinds}}

    def check(self, restart):
        speaking, listeners = self.members()
        speakers = self.speak(**speaking)
        time.sleep(0.3)
        restart()
        self.back()
        time.sleep(0.3)
        said = [speaker.stop() for speaker in speakers]
        self.record.during()
        self.check_whole(listeners, said)
        self.check_whole({"late at a": self.listen(self.a), "late at b": self.listen(self.b)}, said)

    def test_redis_is_killed_in_a_loop(self):
        dice = random.Random(SEED)

        def restart():
            for _ in range(8):
                self.redis.kill()
                time.sleep(dice.uniform(0.0, 0.4))
                self.redis.start()
                time.sleep(dice.uniform(0.0, 0.4))

        self.check(restart)

    def test_redis_restarts_twice_within_a_second(self):
        def restart():
            begun = time.monotonic()
            for _ in range(2):
                self.redis.kill()
                self.redis.start()
            self.assertLess(time.monotonic() - begun, 1.0)

        self.check(restart)

    def test_redis_is_frozen_and_emptied_in_turns(self):
        def restart():
            for _ in range(2):
                self.redis.freeze()
                time.sleep(1.5)
                self.redis.thaw()
                time.sleep(0.2)
                self.redis.kill()
                self.redis.start()
                time.sleep(0.3)

        self.check(restart)


class RestartsWithData(Restarts):
    """Redis knows after each restart all that it had confirmed."""

    kept = True


class Crowds(LayerChaos):
    def test_a_crowd_drops_during_an_outage_and_returns_to_the_other_process(self):
        anna, ben = self.listen(self.a, "long"), self.listen(self.b, "long")
        speakers = self.speak(0.02, a=anna, b=ben)
        with Crowd(self.a, self.b, self.room) as crowd:
            crowd.open(CROWD)
            crowd.read(0.3)
            with self.away("stopped"):
                crowd.read(0.3)
                crowd.move(range(0, CROWD, 3))
                crowd.read(0.3)
                moved = range(1, CROWD, 3)
                crowd.drop(moved)
            crowd.move(moved)
            crowd.move(range(0, CROWD, 6))
            crowd.read(0.3)
            said = [speaker.stop() for speaker in speakers]
            everything = [message for messages in said for message in messages]
            crowd.read_until(everything, 3 * SETTLED)
            self.record.during()
            wrong = {}
            for client in crowd.clients:
                found = difference(client.heard, said)
                if found or client.told[1:].count(True) != len(client.told) - 1:
                    wrong.setdefault(f"{found}, recovered {client.told}", []).append(client.number)
            self.assertEqual({found: f"{len(numbers)} clients, such as {numbers[:5]}" for found, numbers in wrong.items()}, {})


class Positions(LayerChaos):
    """Whatever a client returns with, it is told that it cannot recover, or gets a refusal; and nobody else notices."""

    def test_odd_positions(self):
        anna = self.listen(self.a, "long")
        for number in range(5):
            anna.say({"message": f"a {number}"})
        anna.collect_until([f"a {number}" for number in range(5)])
        epoch, _, offset = anna.position.partition(".")
        marks = ["~1.1", "~ffffffffffffffff.18446744073709551615", "~0.0", "~1.1~2.2~3.3~4.4", "~1.1~2.2~3.3~4.4~5.5", "~1.1" * 1000]
        odd = [f"{epoch}.{offset}{mark}" for mark in marks]
        odd += [f"{epoch}.{each}" for each in ("-1", "+5", "5.5", "18446744073709551615", "18446744073709551616", "9" * 1000, "0x5", " 5", "5 ", "5\0", "٥", "")]
        odd += [f"{epoch}.{offset}{end}" for end in ("~", "~~", "~1", "~1.", "~.1", "~g.1", "~1.1~", "~1.1.1", "~-1.1", "~1.1~1.9", "~" * 5000, ".")]
        odd += ["", ".", "~", "~1.1", "0.0", "0", "null", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "f" * 17 + ".1", "%", "\n", "a" * 7000]
        for since in odd:
            with self.subTest(since=since[:60]):
                with self.returns(quote(since, safe="~.")) as again:
                    again.collect_for(["a 4"], 0.1 if again.recovered else 2.0)
                    heard = again.heard
                    if again.recovered:
                        known = {f"a {number}" for number in range(5)}
                        self.assertEqual(heard, [each for each in heard if each in known], "expected events of the history")
                    else:
                        self.assertEqual(heard, [f"a {number}" for number in range(5)])
        anna.say({"message": "end"})
        anna.collect_until(["end"])
        self.assert_memory_grew_by_at_most(32)

    def returns(self, since):
        return Listener(self.a, f"/ws/listen/{self.room}/?since={since}")


class Crowd:
    """Feeds on two processes, read without a look at each frame until it is needed. Use it with `with`."""

    def __init__(self, a, b, room):
        self.servers = a, b
        self.path = f"/ws/listen/{room}/"
        self.clients = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()
        self._selector.close()

    def open(self, number):
        for each in range(number):
            client = CrowdClient(each)
            self.clients.append(client)
            self._connect(client, each % 2)

    def drop(self, numbers):
        for number in numbers:
            client = self.clients[number]
            self._selector.unregister(client.raw.socket)
            client.close()
            client.parse()

    def move(self, numbers):
        """They drop, unless they have, and return to the other process."""
        for number in numbers:
            client = self.clients[number]
            if client.raw is not None:
                self.drop([number])
            self._connect(client, 1 - client.at)

    def _connect(self, client, at):
        client.at = at
        query = f"?since={client.position}" if client.position else ""
        client.raw = RawSocket(self.servers[at], self.path + query)
        client.raw.socket.setblocking(False)
        client.stream = client.raw._read
        self._selector.register(client.raw.socket, selectors.EVENT_READ, client)

    def read(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data.read()

    def read_until(self, messages, seconds):
        end = time.monotonic() + seconds
        wanted = set(messages)
        while time.monotonic() < end:
            self.read(0.3)
            for client in self.clients:
                client.parse()
            if all(wanted <= set(client.heard) for client in self.clients):
                break
        self.read(0.3)
        for client in self.clients:
            client.parse()


class CrowdClient:
    """`heard` is what it was shown over all its connections, `told` what each said of its recovery."""

    def __init__(self, number):
        self.number = number
        self.raw = None
        self.position = None
        self.heard = []
        self.told = []

    def read(self):
        try:
            data = self.raw.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise AssertionError(f"expected an open socket, found the end of client {self.number}")
        self.stream += data

    def parse(self):
        at = 0
        stream = self.stream
        while len(stream) >= at + 2:
            length, head = stream[at + 1], 2
            if length == 126:
                if len(stream) < at + 4:
                    break
                length, head = struct.unpack_from("!H", stream, at + 2)[0], 4
            if len(stream) < at + head + length:
                break
            event = json.loads(stream[at + head : at + head + length])
            at += head + length
            self.position = event.get("offset", self.position)
            if event["type"] == "oneport.joined":
                self.told.append(event["recovered"])
            elif event["type"] == "chat.message":
                self.heard.append(event["message"])
        del stream[:at]

    def close(self):
        if self.raw is not None:
            self.raw.socket.close()
            self.raw = None


if __name__ == "__main__":
    unittest.main()
