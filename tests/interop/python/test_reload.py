"""Reload: a new table out of the file; only those whose own route changed notice, and a broken file changes nothing."""

import unittest

from kit.deadline import until
from kit.frames import TEXT, RawSocket
from kit.peer import Peer, refusal
from kit.server import Server

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "{body}" }}

[[websocket.route]]
path = "/ws/stays/"
consumer = "echo"

[[websocket.route]]
path = "/ws/changes/"
consumer = "echo"
max_message = "{limit}"

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", history = 5 }}
"""

BROKEN = """[[http.route]]
path = "/page/"
view = "respnd"

[[websocket.route]]
path = "/ws/stays/"
consumer = "ecko"
"""

FIRST = CONFIG.format(body="old", limit="1 KiB")
SECOND = CONFIG.format(body="new", limit="2 KiB")


class Reload(unittest.TestCase):
    def start(self, config=FIRST, *more):
        return self.enterContext(Server(config, *more))

    def peer(self, server, path):
        return self.enterContext(Peer(server, path))

    def is_open(self, peer):
        peer.send("still here")
        self.assertEqual(peer.receive(), "still here")

    def test_a_socket_on_an_unchanged_route_stays_and_one_on_a_changed_route_gets_1012(self):
        server = self.start()
        stays, changes = self.peer(server, "/ws/stays/"), self.peer(server, "/ws/changes/")
        server.reload(SECOND)
        self.assertEqual(changes.closed(), (1012, "the route changed"))
        self.is_open(stays)
        self.assertEqual(server.request("/page/")[2], b"new")
        again = self.peer(server, "/ws/changes/")
        again.send("a" * 2048)
        self.assertEqual(again.receive(), "a" * 2048)
        self.assertEqual(server.metric("oneport_reloads_total", outcome="replaced"), 1)

    def test_the_same_file_again_is_noticed_by_nobody(self):
        server = self.start()
        peers = [self.peer(server, path) for path in ("/ws/stays/", "/ws/changes/")]
        self.assertIn("sockets_ended=0", server.reload(FIRST))
        for peer in peers:
            self.is_open(peer)

    def test_comments_and_other_routes_do_not_end_a_socket(self):
        server = self.start()
        peer = self.peer(server, "/ws/changes/")
        more = '\n[[http.route]]\npath = "/more/"\nview = "respond"\n'
        server.reload("# a comment that moves every line\n\n" + more + FIRST)
        self.is_open(peer)
        self.assertEqual(server.request("/more/")[0], 200)

    def test_a_socket_whose_route_is_removed_gets_1012_and_the_path_is_404(self):
        server = self.start()
        peer = self.peer(server, "/ws/changes/")
        server.reload(FIRST.replace("/ws/changes/", "/ws/elsewhere/"))
        self.assertEqual(peer.closed()[0], 1012)
        self.assertEqual(refusal(server, "/ws/changes/").status_code, 404)

    def test_a_changed_default_of_the_section_ends_the_sockets_it_holds_for(self):
        server = self.start()
        stays, changes = self.peer(server, "/ws/stays/"), self.peer(server, "/ws/changes/")
        server.reload('[websocket]\nmax_message = "32 KiB"\n' + FIRST)
        self.assertEqual(stays.closed()[0], 1012)
        self.is_open(changes)

    def test_a_socket_that_opens_while_the_file_is_read_is_on_the_new_route_or_gets_1012(self):
        for _ in range(5):
            server = self.start(FIRST)
            server.write(SECOND)
            server.signal(1)
            raws = []
            while server.reloads() == 0 or len(raws) < 100:
                raws.append(self.enterContext(RawSocket(server, "/ws/changes/")))
            for raw in raws:
                try:
                    raw.say(TEXT, b"a" * 2048)  # more than the old route takes
                except (BrokenPipeError, ConnectionResetError):
                    continue  # it is closed, with 1012 or it would have been said before
                frame = raw.frame()
                self.assertTrue(frame.opcode == TEXT or frame.code == 1012, frame)

    def test_what_a_room_said_is_still_known_after_a_reload(self):
        server = self.start()
        anna = self.peer(server, "/ws/chat/kept/")
        anna.say({"message": "before"})
        anna.next("chat.message")
        server.reload(SECOND)
        ben = self.peer(server, "/ws/chat/kept/")
        self.assertEqual(ben.next("chat.message")["message"], "before")
        ben.say({"message": "after"})
        self.assertEqual(anna.next("chat.message")["message"], "after")

    def test_a_broken_file_keeps_the_old_table_and_every_problem_is_logged(self):
        server = self.start()
        peer = self.peer(server, "/ws/changes/")
        log = server.reload(BROKEN)
        for problem in (
            r'oneport.toml:3:8: http.route\[0\].view: unknown view "respnd"',
            r'oneport.toml:7:12: websocket.route\[0\].consumer: unknown consumer "ecko" \(did you mean "echo"\?',
            "reload failed",
        ):
            self.assertRegex(log, problem)
        self.is_open(peer)
        self.assertEqual(server.request("/page/")[2], b"old")
        self.assertEqual(server.metric("oneport_reloads_total", outcome="refused"), 1)
        server.reload(SECOND)
        self.assertEqual(server.request("/page/")[2], b"new")

    def test_a_file_that_is_gone_or_no_toml_keeps_the_old_table(self):
        server = self.start()
        self.assertIn("reload failed", server.reload("[[[ no toml"))
        server.config.unlink()
        before = server.reloads()
        server.signal(1)
        until(lambda: server.reloads() > before, "a word on the missing file")
        self.assertEqual(server.request("/page/")[2], b"old")

    def test_many_reloads_in_a_row_leave_the_last_file_in_use(self):
        server = self.start()
        peer = self.peer(server, "/ws/stays/")
        for number in range(20):
            server.write(CONFIG.format(body=f"number {number}", limit="1 KiB"))
            server.signal(1)
        until(lambda: server.request("/page/")[2] == b"number 19", "the last file in use")
        self.is_open(peer)

    def test_an_included_file_is_read_again_too(self):
        server = self.enterContext(Server('include = ["more.toml"]\n', files={"more.toml": MORE.format("one")}))
        self.assertEqual(server.request("/more/")[2], b"one")
        server.write(MORE.format("two"), "more.toml")
        server.signal(1)
        until(lambda: server.request("/more/")[2] == b"two", "the new included file")

    def test_a_changed_key_that_takes_effect_at_the_next_start_is_named_in_the_log(self):
        server = self.start()
        self.assertIn("server.timeouts.request", server.reload('[server.timeouts]\nrequest = "7s"\n' + FIRST))

    def test_watch_reloads_when_the_file_is_saved(self):
        server = self.start(FIRST, "--watch")
        stays, changes = self.peer(server, "/ws/stays/"), self.peer(server, "/ws/changes/")
        server.write(SECOND)
        self.assertEqual(changes.closed()[0], 1012)
        self.is_open(stays)
        self.assertEqual(server.request("/page/")[2], b"new")
        server.write(BROKEN)
        server.wait_for_log("reload failed")
        self.assertEqual(server.request("/page/")[2], b"new")

    def test_watch_reloads_when_a_template_is_saved(self):
        server = self.enterContext(Server(TEMPLATED, "--watch", files={"pages/index.html": "old"}))
        self.assertEqual(server.request("/")[2].strip(), b"old")
        server.write("new", "pages/index.html")
        until(lambda: server.request("/")[2].strip() == b"new", "the new template")


MORE = """
[[http.route]]
path = "/more/"
view = "respond"
options = {{ body = "{}" }}
"""

TEMPLATED = """
[templates]
dir = "pages"

[[http.route]]
path = "/"
view = "template"
options = { template = "index.html" }
"""


if __name__ == "__main__":
    unittest.main()
