"""Event streams of users: they end with the login that they rest on, as sockets do."""

import unittest

from kit.deadline import until
from kit.login_case import CHECK, Login, deactivate
from kit.stream import Stream
from kit.visitor import Visitor, add_user, user


class OfALogin(Login):
    def stream(self, visitor, path="/events/lobby/", last_event_id=None):
        stream = self.enterContext(Stream(visitor.server, path, last_event_id, headers=visitor.headers))
        self.assertEqual(stream.response.status, 200)
        stream.position, _ = stream.first()
        return stream

    def visitor(self, server, name="anna"):
        return Visitor(server).log_in(name)

    def test_logging_out_ends_the_stream_at_once_and_no_other(self):
        server = self.start()
        add_user(server, "berta")
        anna, again, berta = self.visitor(server), self.visitor(server), self.visitor(server, "berta")
        of_anna, of_members = self.stream(anna), self.stream(anna, "/events/of/members/")
        others = [self.stream(again), self.stream(berta)]
        self.assertEqual(server.metric("oneport_event_streams"), 4)
        anna.log_out()
        for stream in (of_anna, of_members):
            self.assertEqual(stream.ends(), ["oneport.session_ended"])
        peer, _ = self.chat(berta, "lobby")
        peer.say({"message": "still here"})
        for stream in others:
            self.assertTrue(any(stream.event()["data"].find("still here") > 0 for _ in range(3)))
        until(lambda: server.metric("oneport_event_streams") == 2, "two streams that are left")

    def test_who_comes_back_after_the_end_is_refused_where_a_login_is_required(self):
        server = self.start()
        anna = self.visitor(server)
        cookie = dict(anna.cookies)
        stream = self.stream(anna, "/events/of/members/")
        anna.log_out()
        self.assertEqual(stream.ends(), ["oneport.session_ended"])
        anna.cookies = cookie
        for accept, status in (("text/event-stream", 302), ("application/json", 401)):
            headers = {"Accept": accept, "Last-Event-ID": stream.position}
            self.assertEqual(anna.request("/events/of/members/", headers=headers).status, status)

    def test_a_login_that_ends_elsewhere_ends_the_stream_within_the_interval(self):
        def passwd(server):
            user(server, "passwd", "--password-stdin", "anna", typed="another horse battery staple\n")

        for end in (passwd, lambda server: user(server, "remove", "anna"), lambda server: deactivate(server, "anna")):
            with self.subTest(end=end):
                server = self.start(check_interval=f"{int(CHECK * 1000)}ms")
                stream = self.stream(self.visitor(server))
                end(server)
                self.assertEqual(stream.ends(), ["oneport.session_ended"])

    def test_an_anonymous_stream_goes_on(self):
        server = self.start(check_interval="50ms")
        stream = self.stream(Visitor(server))
        self.visitor(server).log_out()
        self.assertEqual([line[0] for line in (stream.block() for _ in range(3))], [": still here"] * 3)


if __name__ == "__main__":
    unittest.main()
