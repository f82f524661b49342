"""Tickets: they open one WebSocket, once and for a short time, for their user only."""

import base64
import json
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import jwt

from kit.app import App
from kit.app import user as names
from kit.deadline import DEADLINE, until
from kit.frames import Bytes
from kit.http2 import Client, StreamSocket
from kit.login_case import CHECK, MOMENT, UNLIMITED
from kit.peer import Peer, refusal
from kit.server import Server
from kit.visitor import PAGES, PASSWORD, Visitor, add_user, user

CONFIG = """
[log]
level = "debug"

[session]
store = "sqlite:site.db"
cache = "0s"
check_interval = "{check_interval}"

[auth]
users = "sqlite:site.db"
ticket_max_age = "{age}"

[auth.bearer]
key = "{key}"
leeway = "0s"

{forward}

[templates]
dir = "pages"

[http]
middleware = ["hosts", "session", "auth"]

[[http.route]]
path = "/ticket/"
view = "ticket"

[[http.route]]
path = "/login/"
view = "login"
options = {{ {unlimited} }}

[[http.route]]
path = "/logout/"
view = "logout"

[[http.route]]
path = "/form/"
view = "template"
options = {{ template = "form.html" }}

[[http.route]]
path = "/who/"
view = "template"
token_in_query = true
options = {{ template = "who.html" }}

[websocket]
middleware = ["hosts", "origin", "session", "auth"]

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
subprotocols = ["v1.chat"]
options = {{ group = "chat_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/query/"
consumer = "chat"
token_in_query = true
options = {{ group = "query", presence = true }}

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "login_required"]

[[websocket.route]]
path = "/ws/staff/"
consumer = "echo"
middleware = ["hosts", "origin", "session", "auth", "staff_required"]
"""

SECRET = "0123456789abcdef" * 4


def bearer(name="tom", seconds=600, **more):
    """Returns the header field of a program that has a token."""
    claims = {"sub": name, "name": name, "exp": int(time.time()) + seconds, **more}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


class Tickets(unittest.TestCase):
    def start(self, *, age="30s", check_interval="1h", forward=""):
        config = CONFIG.format(age=age, check_interval=check_interval, forward=forward, key=SECRET, unlimited=UNLIMITED)
        server = self.enterContext(Server(config, files=PAGES))
        add_user(server, "anna")
        return server

    def issue(self, server, headers=None):
        """Returns a ticket of who has a token."""
        answer = Visitor(server).request("/ticket/", "POST", headers or bearer())
        self.assertEqual(answer.status, 200, answer)
        return answer.json()["ticket"]

    def ask(self, visitor):
        """Asks for a ticket as a page's script does."""
        headers = {"Origin": visitor.server.origin, "X-CSRFToken": visitor.token("/form/")}
        return visitor.request("/ticket/", "POST", headers)

    def issue_to(self, visitor):
        answer = self.ask(visitor)
        self.assertEqual(answer.status, 200, answer)
        return answer.json()["ticket"]

    def meets(self, server, ticket, path="/ws/chat/room/"):
        """Uses a ticket; returns whom the handshake knows."""
        with Peer(server, path, subprotocols=["ticket", ticket]) as peer:
            return peer.next("chat.join")["user"]

    def is_refused(self, server, ticket, **options):
        answer = refusal(server, "/ws/chat/room/", subprotocols=["ticket", ticket], **options)
        self.assertEqual(answer.status_code, 401)


class Issued(Tickets):
    def test_to_a_program_with_a_token(self):
        server = self.start()
        answer = Visitor(server).request("/ticket/", "POST", bearer())
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(answer.json()["expires_in"], 30)
        self.assertIn("no-store", answer.headers["Cache-Control"])
        self.assertTrue(answer.headers["Content-Type"].startswith("application/json"))
        self.assertEqual(self.meets(server, answer.json()["ticket"]), "tom")

    def test_to_a_page_of_somebody_who_is_logged_in(self):
        server = self.start()
        visitor = Visitor(server).log_in("anna")
        self.assertEqual(self.meets(server, self.issue_to(visitor)), "anna")

    def test_to_somebody_whom_the_app_knows(self):
        app = self.enterContext(App())
        app.answer = lambda _: names("7", "otto")
        server = self.start(forward=f'[auth.forward]\nurl = "{app.url()}"\ncache = "0s"')
        visitor = Visitor(server, {"theirs": "abc"})
        self.assertEqual(visitor.request("/ticket/", "POST").status, 403)
        ticket = self.issue_to(visitor)
        asked = len(app.asked)
        self.assertEqual(self.meets(server, ticket), "otto")
        self.assertEqual(len(app.asked), asked)  # the ticket says it

    def test_never_to_nobody(self):
        server = self.start()
        visitor = Visitor(server)
        self.assertEqual(visitor.request("/ticket/", "POST").status, 401)
        self.assertEqual(self.ask(visitor).status, 401)
        self.assertEqual(visitor.request("/ticket/", "POST", {"Authorization": "Bearer x"}).status, 401)

    def test_only_by_post(self):
        server = self.start()
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
            with self.subTest(method=method):
                answer = Visitor(server).request("/ticket/", method, bearer())
                self.assertEqual(answer.status, 405)
                self.assertIn("POST", answer.headers["Allow"])
                self.assertNotIn(b'ticket"', answer.body)
        self.assertEqual(Visitor(server).request("/ticket/", "OPTIONS", bearer()).status, 204)

    def test_to_a_cookie_only_with_the_token_of_our_own_page(self):
        server = self.start()
        visitor = Visitor(server).log_in("anna")
        token = visitor.token("/form/")
        own = server.origin
        stranger = Visitor(server).token("/form/")
        for headers, status in (
            ({"Origin": own}, 403),
            ({}, 403),
            ({"Origin": own, "X-CSRFToken": ""}, 403),
            ({"Origin": own, "X-CSRFToken": "x"}, 403),
            ({"Origin": own, "X-CSRFToken": stranger}, 403),
            ({"Origin": "http://evil.test", "X-CSRFToken": token}, 403),
            ({"Origin": "null", "X-CSRFToken": token}, 403),
            ({"Origin": own, "X-CSRFToken": token}, 200),
            ({"Origin": own, "X-CSRFToken": visitor.cookies["csrftoken"]}, 200),
            ({"X-CSRFToken": token}, 200),
        ):
            with self.subTest(headers=headers):
                self.assertEqual(visitor.request("/ticket/", "POST", headers).status, status)
        # A token is not sent by a browser by itself.
        self.assertEqual(visitor.request("/ticket/", "POST", bearer()).status, 200)

    def test_each_is_another_and_cannot_be_guessed(self):
        server = self.start()
        tickets = {self.issue(server) for _ in range(50)}
        self.assertEqual(len(tickets), 50)
        for ticket in tickets:
            self.assertRegex(ticket, r"^[A-Za-z0-9_-]{22,}$")  # 128 bits, and a token of a subprotocol

    def test_of_one_user_the_16_newest_wait(self):
        server = self.start()
        other = self.issue(server, bearer("other"))
        tickets = [self.issue(server) for _ in range(20)]
        for ticket in tickets[:4]:
            self.is_refused(server, ticket)
        for ticket in tickets[4:]:
            self.assertEqual(self.meets(server, ticket), "tom")
        self.assertEqual(self.meets(server, other), "other")


class Used(Tickets):
    def test_once(self):
        server = self.start()
        ticket = self.issue(server)
        self.assertEqual(self.meets(server, ticket), "tom")
        for _ in range(3):
            self.is_refused(server, ticket)

    def test_by_one_of_many_that_come_at_once(self):
        server = self.start()
        for _ in range(5):
            ticket = self.issue(server)
            begin = threading.Barrier(20)
            handshake = _handshake(ticket)

            def attempt(_, handshake=handshake, begin=begin):
                with Bytes(("127.0.0.1", server.port)) as raw:
                    raw.send(handshake[:-2])
                    begin.wait(DEADLINE)
                    raw.send(handshake[-2:])  # all heads end at the same moment
                    return raw.head()[0]

            with ThreadPoolExecutor(20) as pool:
                statuses = list(pool.map(attempt, range(20)))
            self.assertEqual(sorted(statuses), [101] + [401] * 19)

    def test_not_when_it_has_expired(self):
        server = self.start(age="1s")
        early, late = self.issue(server), self.issue(server)
        began = time.monotonic()
        self.assertEqual(self.meets(server, early), "tom")
        until(lambda: time.monotonic() - began > 1.1, "the ticket to expire")
        self.is_refused(server, late)

    def test_with_the_routes_own_subprotocol(self):
        server = self.start()
        for offer, chosen in (
            (["ticket", "T"], "ticket"),
            (["v1.chat", "ticket", "T"], "v1.chat"),
            (["ticket", "T", "v1.chat"], "v1.chat"),
            (["unknown", "ticket", "T"], "ticket"),
        ):
            with self.subTest(offer=offer):
                ticket = self.issue(server)
                with Peer(server, "/ws/chat/room/", subprotocols=[ticket if word == "T" else word for word in offer]) as peer:
                    self.assertEqual(peer.socket.subprotocol, chosen)
                    self.assertEqual(peer.next("chat.join")["user"], "tom")

    def test_in_the_query_only_where_the_route_says_so(self):
        server = self.start()
        ticket = self.issue(server)
        with Peer(server, f"/ws/chat/room/?ticket={ticket}") as peer:
            self.assertIsNone(peer.next("chat.join")["user"])
        with Peer(server, f"/ws/query/?a=b&ticket={ticket}") as peer:
            self.assertEqual(peer.next("chat.join")["user"], "tom")
        for value in (ticket, "", "x", "%00", "%ff"):
            with self.subTest(value=value):
                self.assertEqual(refusal(server, f"/ws/query/?ticket={value}").status_code, 401)

    def test_for_no_page(self):
        server = self.start()
        ticket = self.issue(server)
        answer = Visitor(server).request(f"/who/?ticket={ticket}", headers={"Authorization": f"Ticket {ticket}"})
        self.assertEqual((answer.status, answer.text), (200, "nobody"))
        self.assertEqual(Visitor(server).request("/who/", headers={"Authorization": f"Bearer {ticket}"}).status, 401)
        self.assertEqual(self.meets(server, ticket), "tom")  # that used it up not

    def test_for_what_its_owner_may(self):
        server = self.start()
        staff = bearer("chief", is_staff=True)
        for path, headers in (("/ws/members/", bearer()), ("/ws/staff/", staff)):
            with Peer(server, path, subprotocols=["ticket", self.issue(server, headers)]) as peer:
                peer.send("in")
                self.assertEqual(peer.receive(), "in")
        answer = refusal(server, "/ws/staff/", subprotocols=["ticket", self.issue(server)])
        self.assertEqual(answer.status_code, 403)

    def test_by_a_page_of_our_own_and_another_origins_uses_it_up_not(self):
        server = self.start()
        ticket = self.issue(server)
        answer = refusal(server, "/ws/chat/room/", origin="http://evil.test", subprotocols=["ticket", ticket])
        self.assertEqual(answer.status_code, 403)
        self.assertEqual(self.meets(server, ticket), "tom")

    def test_over_http_2(self):
        server = self.start()
        ticket = self.issue(server)
        with Client(server) as client:
            peer = StreamSocket(client, "/ws/chat/room/", changes={"sec-websocket-protocol": f"ticket, {ticket}"})
            self.assertEqual(peer.fields["sec-websocket-protocol"], "ticket")
            self.assertEqual(json.loads(peer.receive())["user"], "tom")
        self.is_refused(server, ticket)

    def test_in_the_process_that_issued_it(self):
        first, second = self.start(), self.start()
        ticket = self.issue(first)
        self.is_refused(second, ticket)
        self.assertEqual(self.meets(first, ticket), "tom")

    def test_not_after_a_restart(self):
        server = self.start()
        ticket = self.issue(server)
        server.stop()
        server.start()
        self.is_refused(server, ticket)


class Wrong(Tickets):
    def test_what_is_no_ticket_is_401_whatever_else_the_request_has(self):
        server = self.start()
        visitor = Visitor(server).log_in("anna")
        good = self.issue(server)
        for ticket in ("x", good[:-1], good + "A", good.swapcase(), "ticket2", "a" * 8000, "v1.chat", "'--"):
            with self.subTest(ticket=ticket[:20]):
                self.is_refused(server, ticket)
                self.is_refused(server, ticket, additional_headers=visitor.headers)
        self.assertEqual(self.meets(server, good), "tom")

    def test_the_word_alone_brings_nothing(self):
        server = self.start()
        for offer in (["ticket"], ["v1.chat", "ticket"]):
            with Peer(server, "/ws/chat/room/", subprotocols=offer) as peer:
                self.assertIsNone(peer.next("chat.join")["user"])

    def test_a_token_comes_before_a_ticket(self):
        server = self.start()
        ticket = self.issue(server)
        with Peer(server, "/ws/chat/room/", additional_headers=bearer("other"), subprotocols=["ticket", ticket]) as peer:
            self.assertEqual(peer.next("chat.join")["user"], "other")
        self.is_refused(server, ticket, additional_headers={"Authorization": "Bearer x"})

    def test_neither_tickets_nor_what_they_were_made_for_are_in_the_log(self):
        server = self.start()
        visitor = Visitor(server).log_in("anna")
        used, unused = self.issue(server), self.issue_to(visitor)
        self.meets(server, used)
        self.is_refused(server, used)
        with Peer(server, f"/ws/query/?ticket={unused}"):
            pass
        refusal(server, f"/ws/query/?ticket={unused}")
        server.wait_for_log(r"/ws/query/.*status=401")
        log = server.log()
        for secret in (used, unused, visitor.cookies["sessionid"], visitor.cookies["csrftoken"], PASSWORD):
            self.assertNotIn(secret, log)


class Over(Tickets):
    """With the login that a ticket was issued for."""

    def test_a_logout_takes_the_ticket_along(self):
        server = self.start()
        visitor = Visitor(server).log_in("anna")
        ticket = self.issue_to(visitor)
        visitor.log_out()
        self.is_refused(server, ticket)

    def test_a_new_password_takes_the_ticket_along(self):
        server = self.start()
        ticket = self.issue_to(Visitor(server).log_in("anna"))
        user(server, "passwd", "--password-stdin", "anna", typed="another password\n")
        self.is_refused(server, ticket)

    def test_a_removed_user_has_no_ticket(self):
        server = self.start()
        ticket = self.issue_to(Visitor(server).log_in("anna"))
        user(server, "remove", "anna")
        self.is_refused(server, ticket)

    def test_a_ticket_does_not_outlive_its_token(self):
        server = self.start()
        ticket = self.issue(server, bearer(seconds=2))
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 2.1, "the token to expire")
        self.is_refused(server, ticket)

    def test_a_logout_closes_the_socket_that_a_ticket_opened(self):
        server = self.start()
        visitor, again = Visitor(server).log_in("anna"), Visitor(server).log_in("anna")
        ends, stays = (
            self.enterContext(Peer(server, "/ws/members/", subprotocols=["ticket", self.issue_to(who)]))
            for who in (visitor, again)
        )
        began = time.monotonic()
        visitor.log_out()
        self.assertEqual(ends.closed(), (4401, "the login has ended"))
        self.assertLess(time.monotonic() - began, MOMENT)
        stays.send("still here")
        self.assertEqual(stays.receive(), "still here")

    def test_the_socket_that_a_ticket_opened_ends_with_the_token(self):
        server = self.start(check_interval="500ms")
        expires = int(time.time()) + 3
        peer = self.enterContext(Peer(server, "/ws/members/", subprotocols=["ticket", self.issue(server, bearer(exp=expires))]))
        self.assertEqual(peer.closed()[0], 4401)
        late = time.time() - expires
        self.assertTrue(0 <= late < CHECK + MOMENT, late)


def _handshake(ticket):
    key = base64.b64encode(b"0123456789abcdef").decode()
    lines = [
        "GET /ws/members/ HTTP/1.1",
        "Host: localhost",
        "Origin: http://localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: ticket, {ticket}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


if __name__ == "__main__":
    unittest.main()
