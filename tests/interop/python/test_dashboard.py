"""The dashboard over two processes at one Redis: sockets, groups, ends and figures of both, and a process that is silent."""

import json
import time
import unittest

import jwt
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.redis_server import Redis
from kit.server import Server

SECRET = "0123456789abcdef" * 4

CONFIG = """
[log]
access = false

[server]
name = "{name}"

[channel_layer]
backend = "{redis}"
timeout = "1s"
lease = "60s"

[session]
check_interval = "100ms"

[auth.bearer]
key = "{secret}"

[[http.route]]
path = "/dashboard/"
middleware = ["hosts", "auth", "staff_required"]
view = "dashboard"

[websocket]
middleware = ["hosts", "origin", "auth"]
missing_origin = "allow"

[[websocket.route]]
path = "/dashboard/"
name = "dashboard"
middleware = ["hosts", "origin", "auth", "staff_required"]
consumer = "dashboard"

[[websocket.route]]
path = "/ws/chat/{{room}}/"
name = "chat"
consumer = "chat"
options = {{ group = "chat_{{room}}" }}
"""


def token(name, *, is_staff=False, seconds=600):
    return jwt.encode({"sub": name, "name": name, "is_staff": is_staff, "exp": time.time() + seconds}, SECRET, "HS256")


def open_socket(server, path, name="ann", **claims):
    fields = {"authorization": f"Bearer {token(name, **claims)}"}
    return connect(f"ws://{server.host}{path}", additional_headers=fields, open_timeout=DEADLINE, max_size=None)


class Page:
    """A page of the dashboard."""

    def __init__(self, case, server, **claims):
        self._socket = case.enterContext(open_socket(server, "/dashboard/", is_staff=True, **claims))
        self._calls = 0

    def call(self, name, **fields):
        """Makes a call; returns the value of its reply."""
        reply = self.reply(name, **fields)
        if "error" in reply:
            raise AssertionError(f"expected a value of {name}, found {reply}")
        return reply["value"]

    def reply(self, name, **fields):
        call = self.send(name, **fields)
        while True:
            message = self.answered()
            if message["id"] == call:
                return message

    def send(self, name, **fields):
        """Makes a call; returns its number."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "call": name, **fields}))
        return self._calls

    def answered(self):
        """Returns the next reply to any call."""
        while True:
            message = self.next()
            if message["type"] == "reply":
                return message

    def next(self):
        return json.loads(self._socket.recv(timeout=DEADLINE))


class Processes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.redis = cls.enterClassContext(Redis())
        cls.one, cls.two = (
            cls.enterClassContext(Server(CONFIG.format(name=name, redis=cls.redis.url(), secret=SECRET))) for name in ("one", "two")
        )

    def setUp(self):
        self.page = Page(self, self.one)
        until(lambda: len(self.page.call("processes")["processes"]) == 2, "two processes")

    def test_processes_are_shown_side_by_side(self):
        found = self.page.call("processes")
        self.assertEqual([process["name"] for process in found["processes"]], ["one", "two"])
        self.assertEqual(found["unanswered"], 0)
        self.assertTrue(all(process["layer"] == {**process["layer"], "backend": "redis", "connected": True} for process in found["processes"]))

    def test_socket_of_another_process_is_shown_told_and_closed(self):
        with open_socket(self.two, "/ws/chat/far/", "bob") as client:
            listed = until(lambda: self.page.call("sockets", group="chat_far")["sockets"], "the socket")
            self.assertEqual([(socket["route"], socket["user"]["name"]) for socket in listed], [("chat", "bob")])
            socket = listed[0]["id"]
            shown = self.page.call("socket", socket=socket)
            self.assertEqual((shown["groups"], shown["report"]["messages"]), (["chat_far"], 0))
            self.assertIn(["authorization", None], shown["headers"])
            self.page.call("send", socket=socket, text='{"n": 1e2}')
            self.assertEqual(client.recv(timeout=DEADLINE), '{"n": 1e2}')
            self.page.call("close", socket=socket, code=4001, reason="moved")
            with self.assertRaises(ConnectionClosed) as closed:
                client.recv(timeout=DEADLINE)
            self.assertEqual((closed.exception.rcvd.code, closed.exception.rcvd.reason), (4001, "moved"))
        self.one.wait_for_log(rf"dashboard: close a socket .*{socket}")
        end = until(lambda: self.page.call("ends", filter={"route": "chat", "user": "bob"})["ends"], "the end")[0]
        self.assertEqual((end["process"], end["cause"], end["code"], end["reason"]), ("two", "disconnected", 4001, "moved"))

    def test_group_is_counted_over_all_processes(self):
        with open_socket(self.one, "/ws/chat/both/", "bob"), open_socket(self.two, "/ws/chat/both/", "bob"), open_socket(self.two, "/ws/chat/both/", "eve"):
            find = lambda: self.page.call("groups", contains="chat_both")["groups"]
            until(lambda: find() == [{"name": "chat_both", "members": 3, "processes": 2}], "a group of three in two processes")
            users = self.page.call("group", group="chat_both")["users"]
            self.assertEqual([(user["name"], user["connections"]) for user in users], [("bob", 2), ("eve", 1)])

    def test_silent_process_is_counted_and_the_others_are_shown(self):
        with open_socket(self.two, "/ws/chat/still/", "bob"):
            socket = until(lambda: self.page.call("sockets", group="chat_still")["sockets"], "the socket")[0]["id"]
            self.two.freeze()
            try:
                found = self.page.call("processes")
                self.assertEqual(([process["name"] for process in found["processes"]], found["unanswered"]), (["one"], 1))
                self.assertEqual(self.page.call("sockets")["unanswered"], 1)
                self.assertEqual(self.page.reply("socket", socket=socket)["error"], "its process does not reply")
            finally:
                self.two.thaw()
            until(lambda: len(self.page.call("processes")["processes"]) == 2, "two processes again")

    def test_action_does_not_wait_for_questions_about_a_silent_process(self):
        with open_socket(self.one, "/ws/chat/near/", "bob") as client:
            socket = until(lambda: self.page.call("sockets", group="chat_near")["sockets"], "the socket")[0]["id"]
            self.two.freeze()
            try:
                # Each waits a second for the other process.
                answers = {self.page.send("ends") for _ in range(8)}
                refused = self.page.send("ends")
                close = self.page.send("close", socket=socket, code=4001)
                snapshot = self.page.send("snapshot")
                order = [self.page.answered() for _ in range(len(answers) + 3)]
            finally:
                self.two.thaw()
            self.assertEqual([reply["id"] for reply in order[:3]], [refused, close, snapshot])
            self.assertEqual([reply.get("error") for reply in order[:3]], ["more than 8 questions wait for their answers", None, None])
            with self.assertRaises(ConnectionClosed) as closed:
                client.recv(timeout=DEADLINE)
            self.assertEqual(closed.exception.rcvd.code, 4001)
            self.assertTrue(all(reply["value"]["unanswered"] == 1 for reply in order if reply["id"] in answers), order)

    def test_page_ends_with_its_token(self):
        page = Page(self, self.one, seconds=1.5)
        with self.assertRaises(ConnectionClosed) as closed:
            while True:
                page.next()
        self.assertEqual(closed.exception.rcvd.code, 4401)

    def test_visitors_are_refused(self):
        with self.assertRaises(InvalidStatus) as refused:
            open_socket(self.one, "/dashboard/", "bob")
        self.assertEqual(refused.exception.response.status_code, 403)
        status = self.one.request("/dashboard/", headers={"authorization": f"Bearer {token('bob')}"})[0]
        self.assertEqual(status, 403)

    def test_reload_tells_problems_and_changes(self):
        config = CONFIG.format(name="one", redis=self.redis.url(), secret=SECRET)
        self.one.write(config + "\n[[http.route]]\npth = '/'\nview = 'respnd'\n")
        report = self.page.call("reload")
        self.assertEqual(report["outcome"], "refused")
        self.assertTrue(any("did you mean" in problem and "respond" in problem for problem in report["problems"]), report)
        self.one.write(config + "\n[[http.route]]\npath = '/new/'\nview = 'respond'\n")
        self.assertEqual(self.page.call("reload")["outcome"], "replaced")
        self.assertEqual(self.one.request("/new/")[0], 200)
        self.one.wait_for_log("dashboard: reload the configuration")


if __name__ == "__main__":
    unittest.main()
