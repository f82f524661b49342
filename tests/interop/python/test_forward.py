"""Forward: an app authenticates requests; its response is trusted, and waited for no longer than the timeout."""

import http.client
import json
import subprocess
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.app import HANG, LEAVE, App, Part, in_json, reply, user
from kit.deadline import DEADLINE, Late, until
from kit.http2 import Client
from kit.login_case import CHECK, MOMENT, gateway
from kit.peer import Peer, refusal
from kit.server import Server, binary
from kit.visitor import PAGES, Visitor, add_user

CONFIG = """
[server]
trusted_proxies = {proxies}

[session]
store = "memory"
check_interval = "500ms"

[templates]
dir = "pages"

[auth.forward]
url = "{url}"
cache = "{cache}"
timeout = "{timeout}"
{forward}

[http]
middleware = ["hosts", "auth"]

[[http.route]]
path = "/who/"
view = "template"
options = {{ template = "who.html" }}

[[http.route]]
path = "/who/{{*rest}}"
view = "template"
methods = ["GET", "POST", "DELETE"]
options = {{ template = "who.html" }}

[[http.route]]
path = "/members/"
view = "respond"
middleware = ["hosts", "auth", "login_required"]

[[http.route]]
path = "/staff/"
view = "respond"
middleware = ["hosts", "auth", "staff_required"]

[[http.route]]
path = "/public/"
view = "respond"
middleware = ["hosts"]

[websocket]
middleware = ["hosts", "origin", "auth"]

[[websocket.route]]
path = "/ws/chat/{{room:slug}}/"
consumer = "chat"
options = {{ group = "chat_{{room}}", presence = true }}

[[websocket.route]]
path = "/ws/members/"
consumer = "echo"
middleware = ["hosts", "origin", "auth", "login_required"]
"""

# How long the app may take, in seconds; and by how much a busy machine may be late.
TIMEOUT = 1.0
COOKIE = {"Cookie": "sessionid=abc"}


class Forward(unittest.TestCase):
    def setUp(self):
        self.app = self.enterContext(App())

    def start(self, *, cache="0s", timeout=f"{int(TIMEOUT * 1000)}ms", proxies=(), target="/auth", forward=""):
        config = CONFIG.format(
            url=self.app.url(target), cache=cache, timeout=timeout, proxies=json.dumps(list(proxies)), forward=forward
        )
        return self.enterContext(Server(config, files=PAGES))

    def page(self, server, headers=COOKIE, path="/who/", method="GET"):
        status, _, body = server.request(path, method, headers=headers)
        self.assertEqual(status, 200, body)
        return body.decode()

    def meets(self, server, headers=COOKIE):
        """Returns whom a new handshake knows: the name, or none."""
        with Peer(server, "/ws/chat/room/", additional_headers=headers) as peer:
            return peer.next("chat.join")["user"]

    def is_503(self, server, headers=COOKIE, within=TIMEOUT + MOMENT):
        """Checks that a page and a handshake get 503 in time, with Retry-After."""
        began = time.monotonic()
        status, fields, body = server.request("/who/", headers=headers)
        self.assertEqual((status, fields["Retry-After"]), (503, "1"), body)
        self.assertLess(time.monotonic() - began, within)
        began = time.monotonic()
        answer = refusal(server, "/ws/chat/room/", additional_headers=headers)
        self.assertEqual((answer.status_code, answer.headers["Retry-After"]), (503, "1"))
        self.assertLess(time.monotonic() - began, within)


class Answers(Forward):
    def check(self, answer, said):
        """Checks the user of a response: name, id and whether staff, or anonymous."""
        self.app.answer = lambda _: answer
        self.assertEqual(self.page(self.server), said)
        name = None if said == "nobody" else said.split()[0]
        self.assertEqual(self.meets(self.server), name)

    def test_a_user_in_the_fields(self):
        self.server = self.start()
        for answer, said in (
            (user("7", "anna", "1"), "anna 7 True"),
            (user("7", "anna", "true"), "anna 7 True"),
            (user("7", "anna", "0"), "anna 7 False"),
            (user("7", "anna", "false"), "anna 7 False"),
            (user("7", "anna", "True"), "anna 7 False"),
            (user("7", "anna", "yes"), "anna 7 False"),
            (user("7", "anna"), "anna 7 False"),
            (user("7"), "7 7 False"),
            (user("7", ""), "7 7 False"),
            (reply(201, x_user_id="7", x_user_name="anna"), "anna 7 False"),
            (reply(204, x_user_id="7", x_user_name="anna"), "anna 7 False"),
            (user("a" * 256, "anna"), f"anna {'a' * 256} False"),
        ):
            with self.subTest(answer=answer):
                self.check(answer, said)

    def test_a_user_in_json(self):
        self.server = self.start()
        for answer, said in (
            (in_json({"id": 7, "name": "anna", "is_staff": True}), "anna 7 True"),
            (in_json({"id": "7", "name": "anna", "is_staff": False}), "anna 7 False"),
            (in_json({"id": "7", "name": "anna", "is_staff": 1}), "anna 7 False"),
            (in_json({"id": "7", "name": "anna", "is_staff": "true"}), "anna 7 False"),
            (in_json({"id": "7"}), "7 7 False"),
            (in_json({"id": 7, "name": None}), "7 7 False"),
            (in_json({"id": 7, "name": ["x"]}), "7 7 False"),
            (in_json({"id": -1, "name": "é☕"}, "application/json; charset=utf-8"), "é☕ -1 False"),
            (in_json({"id": 7, "name": "anna"}, "Application/JSON"), "anna 7 False"),
            (in_json({"id": None}), "nobody"),
            (in_json({"id": ""}), "nobody"),
            (in_json({}), "nobody"),
            (in_json({"user": {"id": 7}}), "nobody"),
            (in_json({"id": 7}, "text/plain"), "nobody"),
            (in_json(b"<p>hello", "text/html"), "nobody"),
        ):
            with self.subTest(answer=answer):
                self.check(answer, said)

    def test_the_fields_come_before_the_json(self):
        self.server = self.start()
        status, fields, body = in_json({"id": 8, "name": "berta", "is_staff": True})
        self.check((status, [*fields, ("X-User-Id", "7")], body), "7 7 False")

    def test_nobody(self):
        self.server = self.start()
        for answer in (
            reply(200),
            reply(204),
            reply(401),
            reply(403),
            user(""),
            reply(401, x_user_id="7"),
            reply(403, x_user_id="7"),
        ):
            with self.subTest(answer=answer):
                self.check(answer, "nobody")

    def test_other_names_of_the_fields(self):
        self.server = self.start(
            forward='id_header = "remote-user"\nname_header = "remote-name"\nstaff_header = "remote-staff"'
        )
        self.check(reply(remote_user="7", remote_name="anna", remote_staff="1"), "anna 7 True")
        self.check(user("8", "berta", "1"), "nobody")

    def test_what_stands_between_pages_and_members(self):
        self.server = server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual([server.request(path, headers=COOKIE)[0] for path in ("/members/", "/staff/")], [200, 403])
        self.app.answer = lambda _: reply(401)
        self.assertEqual([server.request(path, headers=COOKIE)[0] for path in ("/members/", "/staff/")], [302, 302])
        self.assertEqual(refusal(server, "/ws/members/", additional_headers=COOKIE).status_code, 403)

    def test_a_name_is_shown_escaped(self):
        self.server = self.start()
        self.app.answer = lambda _: user("7", "<b>anna</b>")
        self.assertNotIn("<b>", self.page(self.server))


class Failures(Forward):
    def test_any_other_answer_is_503(self):
        server = self.start()
        for answer in (
            reply(301, location="/login"),
            reply(302, location="/login"),
            reply(303, location="http://127.0.0.1:1/"),
            reply(304),
            reply(400),
            reply(404),
            reply(407),
            reply(500),
            reply(502),
            reply(503, retry_after="3600"),
            reply(500, x_user_id="7"),
            reply(302, x_user_id="7"),
            reply(404, x_user_id="7"),
            in_json(b"{"),
            in_json(b""),
            in_json(b"[]"),
            in_json(b"\xff"),
            in_json({"id": True}),
            in_json({"id": 1.5}),
            in_json({"id": [7]}),
            in_json({"id": "a" * 257}),
            in_json({"id": "a\nb"}),
            in_json({"id": "7", "more": "x" * 70_000}),
            user("a" * 257),
            reply(200, [("X-User-Id", "7"), ("X-User-Id", "8")]),
            b"",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-User-Id: 7\r\n",
            b"HTTP/1.1 200 OK\r\nX-User-Id 7\r\n\r\n",
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"id": 7',
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000 + b"\r\nX-User-Id: 7\r\n\r\n",
            LEAVE,
        ):
            with self.subTest(answer=str(answer)[:60]):
                self.app.answer = lambda _, answer=answer: answer
                self.is_503(server)
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server), "anna 7 False")

    def test_an_app_that_says_nothing_is_503_at_the_timeout(self):
        server = self.start()
        self.app.answer = lambda _: HANG
        began = time.monotonic()
        self.assertEqual(server.request("/who/", headers=COOKIE)[0], 503)
        taken = time.monotonic() - began
        self.assertTrue(0.9 * TIMEOUT < taken < TIMEOUT + MOMENT, taken)
        self.is_503(server)
        self.app.release()
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server), "anna 7 False")

    def test_an_app_that_stops_in_the_middle_of_its_answer_is_503_at_the_timeout(self):
        server = self.start()

        whole = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"id": 7}'
        for count in (1, 30, len(whole) - 9, len(whole) - 1):
            with self.subTest(count=count):
                self.app.answer = lambda _, count=count: Part(whole[:count])
                self.is_503(server)
        self.app.release()
        self.app.answer = lambda _: whole
        self.assertEqual(self.page(server), "7 7 False")

    def test_an_app_that_is_away_is_503_until_it_is_back(self):
        server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server), "anna 7 False")
        self.app.stop()
        self.is_503(server)
        self.assertEqual(self.page(server, {}), "nobody")  # nobody has to be asked
        self.assertIsNone(self.meets(server, {}))
        self.assertEqual(server.request("/public/", headers=COOKIE)[0], 200)
        self.app.start()
        self.assertEqual(self.page(server), "anna 7 False")
        self.assertEqual(self.meets(server), "anna")

    def test_a_server_starts_while_the_app_is_away(self):
        self.app.stop()
        server = self.start()
        self.is_503(server)
        self.app.answer = lambda _: user("7", "anna")
        self.app.start()
        self.assertEqual(self.page(server), "anna 7 False")

    def test_connections_that_the_app_ended_meanwhile_are_no_failure(self):
        server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        for _ in range(10):
            self.assertEqual(self.page(server), "anna 7 False")
            self.app.drop()

    def test_connections_to_the_app_are_used_again(self):
        server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        for _ in range(20):
            self.page(server)
        self.assertLess(len({asked.connection for asked in self.app.asked}), 10)

    def test_a_failure_is_not_remembered(self):
        server = self.start(cache="1h")
        self.app.answer = lambda _: reply(500)
        self.is_503(server)
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server), "anna 7 False")

    def test_those_who_wait_for_the_app_hinder_nobody_else(self):
        server = self.start()
        self.app.answer = lambda _: HANG
        with ThreadPoolExecutor(100) as pool:
            waiting = [pool.submit(server.request, "/who/", headers={"Cookie": f"sessionid={n}"}) for n in range(100)]
            until(lambda: len(self.app.asked) >= 20, "the app to be asked")
            began = time.monotonic()
            self.assertEqual(server.request("/public/", headers=COOKIE)[0], 200)
            self.assertEqual(server.request("/who/")[0], 200)
            self.assertLess(time.monotonic() - began, TIMEOUT)
            statuses = [one.result(2 * DEADLINE)[0] for one in waiting]
        self.assertEqual(set(statuses), {503})
        self.app.release()
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server), "anna 7 False")

    def test_it_is_counted_and_the_log_says_it_once_in_a_while(self):
        server = self.start()
        self.app.answer = lambda _: reply(500)
        for _ in range(20):
            self.assertEqual(server.request("/who/", headers=COOKIE)[0], 503)
        self.assertEqual(server.metric("oneport_store_errors_total", store="forward"), 20)
        said = [line for line in server.log().splitlines() if "store" in line and "forward" in line and "ERROR" in line]
        self.assertEqual(len(said), 1, said)
        self.assertIn("500", said[0])
        self.app.answer = lambda _: user("7")
        self.page(server)
        until(lambda: [line for line in server.log().splitlines() if "forward" in line] != said, "a word on the end of it")

    def test_what_the_client_sees_says_nothing_of_the_app(self):
        server = self.start()
        self.app.answer = lambda _: reply(500, body=b"Traceback: secret")
        _, fields, body = server.request("/who/", headers=COOKIE)
        self.assertNotIn(b"secret", body)
        self.assertNotIn(str(self.app.port).encode(), body)


class Questions(Forward):
    def asked(self):
        return self.app.asked[-1]

    def test_it_is_a_get_with_who_and_what_for(self):
        server = self.start(target="/auth/check?site=1")
        body = "some=body"
        headers = {
            **COOKIE,
            "Authorization": "Token 4711",
            "X-Other": "x",
            "X-User-Id": "1",
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "Referer": "http://a/",
            "Connection": "keep-alive",
        }
        server.request("/who/deep/?a=%20b&c=//d", "POST", headers=headers, body=body)
        asked = self.asked()
        self.assertEqual((asked.method, asked.target), ("GET", "/auth/check?site=1"))
        self.assertEqual(asked.headers["Cookie"], "sessionid=abc")
        self.assertEqual(asked.headers["Authorization"], "Token 4711")
        self.assertEqual(asked.headers["X-Original-Method"], "POST")
        self.assertEqual(asked.headers["X-Original-URI"], "/who/deep/?a=%20b&c=//d")
        self.assertEqual(asked.headers["X-Forwarded-Host"].split(":")[0], "127.0.0.1")
        self.assertEqual(asked.headers["X-Forwarded-For"], "127.0.0.1")
        self.assertEqual(asked.headers["X-Forwarded-Proto"], "http")
        self.assertEqual(asked.headers["Host"], f"127.0.0.1:{self.app.port}")
        for name in ("X-Other", "X-User-Id", "Content-Type", "Referer", "Transfer-Encoding", "Origin"):
            self.assertNotIn(name, asked.headers)
        self.assertIn(asked.headers["Content-Length"], (None, "0"))

    def test_a_handshake_is_asked_for_as_what_it_is(self):
        server = self.start()
        self.meets(server)
        asked = self.asked()
        self.assertEqual((asked.method, asked.headers["X-Original-Method"]), ("GET", "GET"))
        self.assertEqual(asked.headers["X-Original-URI"], "/ws/chat/room/")
        self.assertEqual(asked.headers["Cookie"], "sessionid=abc")
        for name in ("Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
            self.assertNotIn(name, asked.headers)

    def test_what_a_client_says_of_itself_does_not_count(self):
        server = self.start()
        spoofed = {
            "X-Original-Method": "DELETE",
            "X-Original-URI": "/public/",
            "X-Forwarded-For": "192.0.2.1",
            "X-Forwarded-Host": "evil.test",
            "X-Forwarded-Proto": "https",
            "Forwarded": "for=192.0.2.1;host=evil.test",
        }
        self.page(server, {**COOKIE, **spoofed})
        asked = self.asked()
        self.assertEqual(asked.headers.get_all("X-Original-Method"), ["GET"])
        self.assertEqual(asked.headers.get_all("X-Original-URI"), ["/who/"])
        self.assertEqual(asked.headers.get_all("X-Forwarded-For"), ["127.0.0.1"])
        self.assertEqual(asked.headers.get_all("X-Forwarded-Proto"), ["http"])
        self.assertNotIn("evil", str(asked.headers))

    def test_nor_when_those_fields_are_passed_on(self):
        server = self.start(forward='request_headers = ["cookie", "x-original-uri", "x-forwarded-for"]')
        self.page(server, {**COOKIE, "X-Original-URI": "/public/", "X-Forwarded-For": "192.0.2.1"})
        self.assertEqual(self.asked().headers.get_all("X-Original-URI"), ["/who/"])
        self.assertEqual(self.asked().headers.get_all("X-Forwarded-For"), ["127.0.0.1"])

    def test_behind_a_trusted_proxy_it_is_the_proxys_client(self):
        server = self.start(proxies=["127.0.0.1"])
        forwarded = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"}
        self.page(server, {**COOKIE, **forwarded})
        self.assertEqual(self.asked().headers.get_all("X-Forwarded-For"), ["192.0.2.1"])
        self.assertEqual(self.asked().headers.get_all("X-Forwarded-Proto"), ["https"])
        self.assertEqual(self.asked().headers.get_all("X-Forwarded-Host"), ["localhost"])

    def test_a_client_cannot_name_itself(self):
        server = self.start()
        self.app.answer = lambda _: reply(200)
        named = {"X-User-Id": "1", "X-User-Name": "root", "X-User-Staff": "1"}
        self.assertEqual(self.page(server, {**COOKIE, **named}), "nobody")
        self.assertEqual(self.page(server, named), "nobody")

    def test_a_request_without_any_of_the_fields_is_not_asked_for(self):
        server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server, {"X-Other": "x"}), "nobody")
        self.assertIsNone(self.meets(server, {}))
        self.assertEqual(self.app.asked, [])
        self.assertEqual(self.page(server, {"Authorization": "Token x"}), "anna 7 False")

    def test_other_fields_can_be_passed_on(self):
        server = self.start(forward='request_headers = ["X-Api-Key"]')
        self.app.answer = lambda asked: user("7", "anna") if asked.headers["X-Api-Key"] == "k" else reply(401)
        self.assertEqual(self.page(server, {"X-Api-Key": "k", **COOKIE}), "anna 7 False")
        self.assertNotIn("Cookie", self.asked().headers)
        self.assertEqual(self.page(server, {"X-Api-Key": "l"}), "nobody")
        count = len(self.app.asked)
        self.assertEqual(self.page(server, COOKIE), "nobody")
        self.assertEqual(len(self.app.asked), count)

    def test_over_http_2_the_app_gets_all_cookies(self):
        server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        with Client(server) as client:
            head = [(":method", "GET"), (":scheme", "http"), (":path", "/who/"), (":authority", "localhost")]
            stream = client.begin([*head, ("cookie", "a=1"), ("cookie", "sessionid=abc")], end_stream=True)
            self.assertEqual(client.answer(stream)[2], b"anna 7 False")
        cookies = "; ".join(self.asked().headers.get_all("Cookie")).split("; ")
        self.assertEqual(sorted(cookies), ["a=1", "sessionid=abc"])


class Remembered(Forward):
    def test_an_answer_is_used_again_for_the_same_question(self):
        server = self.start(cache="1h")
        self.app.answer = lambda asked: user(asked.headers["Cookie"][-1], "anna")
        for _ in range(5):
            self.assertEqual(self.page(server, {"Cookie": "s=7"}), "anna 7 False")
            self.assertEqual(self.meets(server, {"Cookie": "s=7"}), "anna")
            self.assertEqual(self.page(server, {"Cookie": "s=7"}, "/who/else/", "DELETE"), "anna 7 False")
        self.assertEqual(len(self.app.asked), 3)
        self.assertEqual(self.page(server, {"Cookie": "s=8"}), "anna 8 False")
        self.assertEqual(self.page(server, {"Cookie": "s=7", "Authorization": "x"}), "anna 7 False")
        self.assertEqual(len(self.app.asked), 5)

    def test_an_answer_for_a_public_page_opens_no_other(self):
        # Fields that frameworks set by themselves: none of them widens the reuse to other URIs.
        for fields in (
            [],
            [("Vary", "Cookie")],
            [("Vary", "Accept-Encoding")],
            [("Vary", "Cookie"), ("Cache-Control", "private")],
            [("Cache-Control", "max-age=60")],
            [("Vary", "Accept-Encoding, Origin"), ("Cache-Control", "max-age=60")],
            [("Vary", "Cookie"), ("Cache-Control", "max-age=60")],
            [("Vary", "Cookie, X-Original-URI"), ("Cache-Control", "private, s-maxage=60")],
            # A list that names what the app is not told, or not who the client is.
            [("Oneport-Vary", "cookie, x-path")],
            [("Oneport-Vary", "cookie, *")],
            [("Oneport-Vary", "cookie"), ("Oneport-Vary", "coo kie")],
            [("Oneport-Vary", "x-original-method")],
            [("Oneport-Vary", "authorization")],
        ):
            with self.subTest(fields=fields):
                server = self.start(cache="1h")

                def answer(asked, fields=fields):
                    if "admin" in asked.headers["X-Original-URI"]:
                        return reply(403, fields)
                    return reply(200, [*fields, ("X-User-Id", "7")])

                self.app.answer = answer
                with Peer(server, "/ws/members/?public", additional_headers=COOKIE) as peer:
                    peer.send("in")
                    self.assertEqual(peer.receive(), "in")
                self.assertEqual(refusal(server, "/ws/members/?admin", additional_headers=COOKIE).status_code, 403)
                self.assertEqual(self.page(server, path="/who/"), "7 7 False")
                self.assertEqual(self.page(server, path="/who/admin/"), "nobody")

    def test_all_that_the_app_is_told_counts(self):
        server = self.start(cache="1h", proxies=["127.0.0.1"])
        base = {**COOKIE, "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "http"}
        questions = [
            ("GET", "/who/a/", base),
            ("POST", "/who/a/", base),
            ("GET", "/who/b/", base),
            ("GET", "/who/a/?b", base),
            ("GET", "/who/a/?c", base),
            ("GET", "/who/%61/", base),
            ("GET", "/who/a/", {**base, "X-Forwarded-Host": "127.0.0.1"}),
            ("GET", "/who/a/", {**base, "X-Forwarded-For": "192.0.2.2"}),
            ("GET", "/who/a/", {**base, "X-Forwarded-Proto": "https"}),
            ("GET", "/who/a/", {**base, "Authorization": ""}),
            ("GET", "/who/a/", {**base, "Authorization": "Token 1"}),
        ]
        for count, (method, path, headers) in enumerate(questions, 1):
            with self.subTest(question=count):
                for _ in range(2):
                    self.page(server, headers, path, method)
                self.assertEqual(len(self.app.asked), count)

    def test_how_often_a_field_is_there_and_in_which_order_counts(self):
        server = self.start(cache="1h")
        cases = (
            [("cookie", "a=1")],
            [("cookie", "a=1"), ("cookie", "a=1")],
            [("cookie", "a=1"), ("cookie", "b=2")],
            [("cookie", "b=2"), ("cookie", "a=1")],
            [("authorization", "x"), ("authorization", "x")],
        )
        for count, fields in enumerate(cases, 1):
            with self.subTest(fields=fields):
                for _ in range(2):
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
                    connection.putrequest("GET", "/who/")
                    for name, value in fields:
                        connection.putheader(name, value)
                    connection.endheaders()
                    self.assertEqual(connection.getresponse().status, 200)
                    connection.close()
                self.assertEqual(len(self.app.asked), count)

    def test_an_answer_by_cookie_alone_counts_for_every_uri(self):
        server = self.start(cache="1h")

        def answer(asked):
            return reply(200, [("Oneport-Vary", "Cookie"), ("X-User-Id", asked.headers["Cookie"][-1]), ("X-User-Name", "anna")])

        self.app.answer = answer
        for path, method in (("/who/", "GET"), ("/who/else/", "DELETE"), ("/who/?query", "GET")):
            self.assertEqual(self.page(server, {"Cookie": "s=7"}, path, method), "anna 7 False")
        self.assertEqual(self.meets(server, {"Cookie": "s=7"}), "anna")
        self.assertEqual(len(self.app.asked), 1)
        self.assertEqual(self.page(server, {"Cookie": "s=8"}), "anna 8 False")
        self.assertEqual(len(self.app.asked), 2)
        # A token that the response does not cover.
        self.page(server, {"Cookie": "s=9", "Authorization": "Token 1"})
        self.page(server, {"Cookie": "s=9", "Authorization": "Token 2"})
        self.assertEqual(len(self.app.asked), 4)

    def test_an_answer_to_a_cookie_does_not_serve_the_cookie_with_a_token(self):
        # The answer that is recalled, and not only the one that is stored, is held to the credentials of the question.
        server = self.start(cache="1h")

        def answer(asked):
            if asked.headers["Authorization"] == "Token wrong":
                return reply(403, oneport_vary="cookie")
            return reply(200, x_user_id="7", x_user_name="anna", oneport_vary="cookie")

        self.app.answer = answer
        with_token = {**COOKIE, "Authorization": "Token wrong"}
        self.assertEqual(self.page(server), "anna 7 False")
        self.assertEqual(self.page(server, with_token), "nobody")
        self.assertEqual(self.page(server, with_token, "/who/else/"), "nobody")
        self.assertEqual(refusal(server, "/ws/members/", additional_headers=with_token).status_code, 403)
        self.assertEqual(self.page(server, path="/who/else/"), "anna 7 False")
        self.assertEqual(len(self.app.asked), 4)

    def test_refusals_reach_as_far_as_they_say_too(self):
        for status in (401, 403):
            with self.subTest(status=status):
                server = self.start(cache="1h")
                asked = len(self.app.asked)
                self.app.answer = lambda _, status=status: reply(
                    status, oneport_vary="cookie, x-original-uri"
                )
                for path in ("/who/", "/who/", "/who/else/", "/who/else/"):
                    self.assertEqual(self.page(server, path=path), "nobody")
                self.page(server, path="/who/else/", method="POST")
                self.assertEqual(len(self.app.asked) - asked, 2)

    def test_answers_with_different_lists_are_each_held_to_their_own(self):
        server = self.start(cache="1h")

        def answer(asked):
            uri, cookie = asked.headers["X-Original-URI"], asked.headers["Cookie"]
            listed = "cookie" if cookie == "s=7" else "cookie, x-original-uri"
            return reply(200, x_user_id=f"{cookie[-1]}{len(uri)}", x_user_name="anna", oneport_vary=listed)

        self.app.answer = answer
        for cookie, path, said in (
            ("s=7", "/who/", "anna 75 False"),
            ("s=8", "/who/", "anna 85 False"),
            ("s=7", "/who/more/", "anna 75 False"),
            ("s=8", "/who/more/", "anna 810 False"),
            ("s=8", "/who/", "anna 85 False"),
            ("s=8", "/who/more/", "anna 810 False"),
        ):
            with self.subTest(cookie=cookie, path=path):
                self.assertEqual(self.page(server, {"Cookie": cookie}, path), said)
        self.assertEqual(len(self.app.asked), 3)

    def test_some_answers_are_never_used_again(self):
        for fields in (
            [("Vary", "*")],
            [("Vary", "cookie"), ("Vary", "*"), ("Oneport-Vary", "cookie")],
            [("Cache-Control", "no-store")],
            [("Cache-Control", "private, no-cache")],
            [("Cache-Control", "max-age=0, must-revalidate")],
            [("Cache-Control", "max-age=60, no-store"), ("Oneport-Vary", "cookie")],
            [("Cache-Control", "no-cache"), ("Oneport-Vary", "cookie")],
            [("Cache-Control", "max-age=0"), ("Oneport-Vary", "cookie")],
            [("Cache-Control", "max-age=60"), ("Age", "60")],
        ):
            with self.subTest(fields=fields):
                server = self.start(cache="1h")
                asked = len(self.app.asked)
                self.app.answer = lambda _, fields=fields: reply(200, [*fields, ("X-User-Id", "7")])
                for _ in range(3):
                    self.assertEqual(self.page(server), "7 7 False")
                self.assertEqual(len(self.app.asked) - asked, 3)

    def test_an_answer_may_be_fresh_for_less_than_the_file_says(self):
        server = self.start(cache="1h")
        self.app.answer = lambda _: reply(200, x_user_id="7", cache_control="max-age=1")
        self.assertEqual(self.page(server), "7 7 False")
        self.app.answer = lambda _: reply(401)
        began = time.monotonic()
        until(lambda: self.page(server) == "nobody", "the answer to be stale")
        self.assertLess(time.monotonic() - began, 1 + MOMENT)

    def test_fields_that_look_alike_when_joined_are_told_apart(self):
        server = self.start(cache="1h", forward='request_headers = ["cookie", "authorization", "x-key"]')
        alike = (
            {"Cookie": "ab"},
            {"Authorization": "ab"},
            {"Cookie": "a", "Authorization": "b"},
            {"Cookie": "ab", "Authorization": ""},
            {"Cookie": "a", "X-Key": "b"},
            {"X-Key": "ab"},
        )
        for headers in alike:
            self.page(server, headers)
        self.assertEqual(len(self.app.asked), len(alike))

    def test_that_nobody_is_known_is_remembered_too(self):
        server = self.start(cache="1h")
        self.app.answer = lambda _: reply(401)
        for _ in range(5):
            self.assertEqual(self.page(server), "nobody")
        self.assertEqual(len(self.app.asked), 1)

    def test_not_for_longer_than_the_file_says(self):
        server = self.start(cache="1s")
        self.app.answer = lambda _: user("7", "anna")
        self.assertEqual(self.page(server), "anna 7 False")
        self.app.answer = lambda _: reply(401)
        began = time.monotonic()
        until(lambda: self.page(server) == "nobody", "the logout in the app to be seen")
        self.assertLess(time.monotonic() - began, 1 + MOMENT)

    def test_with_0s_each_request_is_asked_for(self):
        server = self.start(cache="0s")
        for _ in range(5):
            self.page(server)
        self.assertEqual(len(self.app.asked), 5)

    def test_those_who_come_at_once_share_one_answer(self):
        server = self.start(cache="1h")
        asked_before = len(self.app.asked)

        def slowly(_):
            time.sleep(0.3)  # so that the others come meanwhile
            return user("7", "anna")

        self.app.answer = slowly
        with ThreadPoolExecutor(20) as pool:
            pages = list(pool.map(lambda _: self.page(server), range(20)))
        self.assertEqual(set(pages), {"anna 7 False"})
        self.assertEqual(len(self.app.asked) - asked_before, 1)

    def test_a_client_that_leaves_takes_the_answer_from_nobody(self):
        server = self.start(cache="1h")
        self.app.answer = lambda _: HANG
        with self.assertRaises(TimeoutError):
            _leave(server, 0.2)
        self.app.answer = lambda _: user("7", "anna")
        self.app.release()
        self.assertEqual(until(lambda: server.request("/who/", headers=COOKIE)[2] == b"anna 7 False", "an answer"), True)


def _leave(server, seconds):
    """Requests a page, and closes if there is no response in time."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=seconds)
    try:
        connection.request("GET", "/who/", headers=COOKIE)
        connection.getresponse()
    finally:
        connection.close()


class Live(Forward):
    def test_a_socket_stays_when_the_app_has_changed_its_mind(self):
        server = self.start()
        self.app.answer = lambda _: user("7", "anna")
        peer = self.enterContext(Peer(server, "/ws/members/", additional_headers=COOKIE))
        asked = len(self.app.asked)
        self.app.answer = lambda _: reply(401)
        with self.assertRaises(Late):
            peer.receive(3 * CHECK)
        peer.send("in")
        self.assertEqual(peer.receive(), "in")
        self.assertEqual(len(self.app.asked), asked)

    def test_a_session_of_our_own_comes_before_the_app(self):
        section = f'\n[auth.forward]\nurl = "{self.app.url()}"\ncache = "0s"'
        server = self.enterContext(gateway(session=section))
        add_user(server, "berta")
        self.app.answer = lambda _: user("7", "anna")
        visitor = Visitor(server)
        visitor.token()
        self.assertEqual(visitor.name(), "anna")  # it has a cookie, though not of a session
        visitor.log_in("berta")
        asked = len(self.app.asked)
        self.assertEqual(visitor.name(), "berta")
        self.assertEqual(len(self.app.asked), asked)

    def test_an_answer_says_that_it_depends_on_the_fields_that_are_passed_on(self):
        for forward, names in (("", ["cookie", "authorization"]), ('request_headers = ["X-Api-Key"]', ["x-api-key"])):
            vary = ",".join(Visitor(self.start(forward=forward)).request("/who/").headers.get_all("Vary", [])).lower()
            self.assertEqual([name.strip() for name in vary.split(",")], names)


class Configuration(unittest.TestCase):
    def test_what_cannot_be_asked_is_a_problem(self):
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        (directory / "pages").mkdir()
        (directory / "pages/who.html").write_text(PAGES["pages/who.html"])
        for url, more in (
            ("127.0.0.1:9000/auth", ""),
            ("/auth", ""),
            ("", ""),
            ("http://", ""),
            ("http://anna:s3cret@127.0.0.1/", ""),
            ("http://127.0.0.1:99999/", ""),
            ("ftp://127.0.0.1/", ""),
            ("http://127.0.0.1/", "request_headers = []"),
            ("http://127.0.0.1/", 'request_headers = ["host"]'),
            ("http://127.0.0.1/", 'request_headers = ["a b"]'),
            ("http://127.0.0.1/", 'id_header = ""'),
        ):
            with self.subTest(url=url, more=more):
                path = directory / "oneport.toml"
                path.write_text(CONFIG.format(url=url, cache="0s", timeout="1s", proxies=[], forward=more), encoding="utf-8")
                done = subprocess.run(
                    [binary(), "check", "--config", path], capture_output=True, text=True, timeout=DEADLINE, cwd=directory
                )
                self.assertEqual(done.returncode, 78, done)
                self.assertIn("auth.forward", done.stderr)
                self.assertNotIn("s3cret", done.stderr)


if __name__ == "__main__":
    unittest.main()
