"""Chat: a room, its history, its presence; two clients of the `websockets` library."""

import unittest

from kit.peer import Peer
from kit.server import Server

CONFIG = """
[[websocket.route]]
path = "/ws/chat/{room:slug}/"
name = "chat"
consumer = "chat"
options = { group = "chat_{room}", history = 3, presence = true, max_characters = 20 }

[[websocket.route]]
path = "/ws/quiet/{room:slug}/"
consumer = "chat"
options = { group = "quiet_{room}", prefix = "> " }
"""


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG))

    def join(self, path):
        return self.enterContext(Peer(self.server, path))

    def test_two_clients_of_a_room_hear_each_other(self):
        anna, ben = self.join("/ws/chat/two/"), self.join("/ws/chat/two/")
        anna.say({"message": "hi ben"})
        for peer in (anna, ben):
            heard = peer.next("chat.message")
            self.assertEqual((heard["message"], heard["user"]), ("hi ben", None))
            self.assertRegex(heard["at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
        ben.say({"type": "message", "message": "grüße ☕ \U0001f980"})
        for peer in (anna, ben):
            self.assertEqual(peer.next("chat.message")["message"], "grüße ☕ \U0001f980")

    def test_messages_of_one_sender_stay_in_order(self):
        anna, ben = self.join("/ws/chat/order/"), self.join("/ws/chat/order/")
        for number in range(200):
            anna.say({"message": str(number)})
        self.assertEqual([ben.next("chat.message")["message"] for _ in range(200)], [str(n) for n in range(200)])

    def test_another_room_hears_nothing(self):
        here, there = self.join("/ws/chat/here/"), self.join("/ws/chat/there/")
        here.say({"message": "for here"})
        here.next("chat.message")
        there.say({"message": "for there"})
        self.assertEqual(there.next("chat.message")["message"], "for there")

    def test_who_joins_gets_the_newest_messages_of_the_history_and_no_presence_of_the_past(self):
        anna = self.join("/ws/chat/past/")
        for number in range(5):
            anna.say({"message": f"line {number}"})
        for _ in range(5):
            anna.next("chat.message")
        ben = self.join("/ws/chat/past/")
        got = [ben.event() for _ in range(4)]
        self.assertEqual([event.get("message") for event in got[:3]], ["line 2", "line 3", "line 4"])
        self.assertEqual((got[3]["type"], got[3]["members"]), ("chat.join", 2))

    def test_the_group_hears_who_comes_and_goes(self):
        anna = self.join("/ws/chat/presence/")
        anna.next("chat.join", members=1)
        with Peer(self.server, "/ws/chat/presence/"):
            anna.next("chat.join", members=2)
        anna.next("chat.leave", members=1)

    def test_a_client_that_vanishes_is_told_to_the_group_too(self):
        anna, ben = self.join("/ws/chat/vanish/"), self.join("/ws/chat/vanish/")
        anna.next("chat.join", members=2)
        ben.socket.socket.shutdown(2)
        anna.next("chat.leave", members=1)

    def test_who_is_answered_to_the_asker_alone(self):
        anna, ben = self.join("/ws/chat/who/"), self.join("/ws/chat/who/")
        ben.next("chat.join", members=2)
        anna.say({"type": "who"})
        who = anna.next("chat.who")
        self.assertEqual((who["members"], who["users"]), (2, [None, None]))
        anna.say({"message": "end"})
        self.assertEqual(ben.event()["type"], "chat.message")

    def test_what_cannot_be_read_is_answered_and_the_socket_stays_open(self):
        anna = self.join("/ws/chat/errors/")
        for said, code in (
            ("no json", "invalid_json"),
            ("", "invalid_json"),
            ("[]", "invalid_message"),
            ("{}", "invalid_message"),
            ('{"message": 1}', "invalid_message"),
            ('{"message": ""}', "invalid_message"),
            ('{"type": "dance"}', "invalid_message"),
            (b"\x00\xff", "invalid_message"),
            ('{"message": "a message that is too long"}', "too_long"),
        ):
            with self.subTest(said=said):
                anna.send(said)
                self.assertEqual(anna.next("chat.error")["code"], code)
        anna.say({"message": "still here"})
        self.assertEqual(anna.next("chat.message")["message"], "still here")

    def test_a_prefix_stands_before_each_message_and_without_presence_nobody_hears_of_a_join(self):
        anna = self.join("/ws/quiet/prefix/")
        self.join("/ws/quiet/prefix/")
        anna.say({"message": "hi"})
        event = anna.event()
        self.assertEqual((event["type"], event["message"]), ("chat.message", "> hi"))


if __name__ == "__main__":
    unittest.main()
