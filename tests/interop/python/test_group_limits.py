"""Limits of groups: a backend that names more groups than its socket may join, and clients of one address that are in too many."""

import json
import re
import socket

from kit.deadline import until
from kit.server import Server
from test_backend_away import AwayCase, ok, text

PER_SOCKET, PER_IP = 5, 8
LIMITS = f"""
[server.limits]
groups_per_socket = {PER_SOCKET}
groups_per_ip = {PER_IP}
"""


def add(*groups):
    return [{"type": "group.add", "group": group} for group in groups]


def told(request):
    """Carries out what the client says, and tells it what was refused."""
    actions = []
    for event in request.body["events"]:
        if event["type"] == "websocket.receive":
            actions += json.loads(event["text"])
        elif event["type"] == "group.refused":
            actions.append(text(json.dumps({name: event[name] for name in ("groups", "limit", "max")})))
    return ok(*actions)


class GroupLimits(AwayCase):
    options = {"max_effects": 20_000, "max_response": "2 MiB"}
    more = LIMITS

    def setUp(self):
        super().setUp()
        self.backend.answer = told

    def names(self, count, first=0):
        return [f"{self.room}_{number}" for number in range(first, first + count)]

    def ask(self, peer, *actions):
        """Lets the backend carry out actions; returns the groups that were refused, by limit.

        The backend is told of them after the response that named them, perhaps after "done" has reached the client, but before the
        response to the message after that.
        """
        refused = {}
        peer.say([*actions, text("done")])
        for word in ("done", "and", "now"):
            if word != "done":
                peer.say([text(word)])
            while (said := peer.receive()) != word:
                event = json.loads(said)
                refused[event["limit"]] = event["groups"]
                self.assertEqual(event["max"], {"groups_per_socket": PER_SOCKET, "groups_per_ip": PER_IP}[event["limit"]])
        return refused

    def has_place(self, peer, group):
        def joins():
            return self.ask(peer, *add(group)) == {}

        until(joins, f"a place for {group}")
        self.ask(peer, {"type": "group.discard", "group": group})

    def test_a_backend_that_names_ten_thousand_groups_joins_the_first_and_is_told_of_the_others(self):
        peer, names = self.open(), self.names(10_000)
        self.backend.answer = lambda request: ok(*add(*names)) if request.kind == "websocket.receive" else told(request)
        before = self.server.metric("oneport_groups_refused_total", limit="groups_per_socket")
        peer.send("join them all")
        event = json.loads(peer.receive())
        self.assertEqual(event, {"groups": names[PER_SOCKET:], "limit": "groups_per_socket", "max": PER_SOCKET})
        after = self.server.metric("oneport_groups_refused_total", limit="groups_per_socket")
        self.assertEqual(after - before, len(names) - PER_SOCKET)
        self.assertEqual(self.server.metric("oneport_limit", limit="groups_per_socket"), PER_SOCKET)
        self.assertEqual(self.server.metric("oneport_limit", limit="groups_per_ip"), PER_IP)
        lines = re.findall(r"^.*WARN.*groups_per_socket reached.*$", self.server.log(), re.MULTILINE)
        self.assertEqual(len(lines), 1, "one line per interval")
        # The socket is as good as before.
        self.backend.answer = told
        events = [{"type": "group.send", "group": name, "event": {"type": "said", "to": name}} for name in (names[9_999], names[0])]
        self.assertEqual(self.ask(peer, {"type": "group.discard", "group": names[1]}, *add(names[0], names[5])), {})
        peer.say(events)
        self.assertEqual(peer.event(), {"type": "said", "to": names[0]})

    def test_a_handshake_that_names_too_many_groups_opens_with_the_first(self):
        names = self.names(PER_SOCKET + 2)

        def answer(request):
            return ok(*add(*names)) if request.kind == "websocket.connect" else told(request)

        self.backend.answer = answer
        peer = self.open()
        event = json.loads(peer.receive())
        self.assertEqual((event["groups"], event["limit"]), (names[PER_SOCKET:], "groups_per_socket"))

    def test_clients_of_an_address_share_its_groups_until_their_sockets_end(self):
        first, second, other = self.open(), self.open(), self.open(source_address=("127.0.0.2", 0))
        self.assertEqual(self.ask(first, *add(*self.names(PER_SOCKET))), {})
        found = self.ask(second, *add(*self.names(PER_SOCKET)))
        self.assertEqual(found, {"groups_per_ip": self.names(PER_SOCKET)[PER_IP - PER_SOCKET :]})
        self.assertEqual(self.ask(other, *add(*self.names(PER_SOCKET))), {}, "another address has its own")
        first.socket.socket.shutdown(socket.SHUT_RDWR)  # without a close frame
        self.has_place(second, self.names(1, first=20)[0])

    def test_a_reload_changes_the_limits_of_open_sockets_and_ends_none(self):
        server = self.enterContext(Server(self.config(self.backend)))
        peer = self.open(server=server)
        names = self.names(PER_SOCKET + 1)
        self.assertEqual(self.ask(peer, *add(*names)), {"groups_per_socket": names[PER_SOCKET:]})
        config = self.config(self.backend)
        log = server.reload(config.replace(f"groups_per_socket = {PER_SOCKET}", "groups_per_socket = 6"))
        self.assertIn("server.limits.groups_per_socket (5 -> 6)", log)
        self.assertEqual(self.ask(peer, *add(*names)), {})
        self.assertEqual(server.metric("oneport_limit", limit="groups_per_socket"), 6)
        server.reload(config.replace(f"groups_per_socket = {PER_SOCKET}", "groups_per_socket = 1"))
        peer.say(add(names[0]))  # it is in there already
        peer.say([{"type": "group.send", "group": names[5], "event": {"type": "still"}}])
        self.assertEqual(peer.event(), {"type": "still"})
