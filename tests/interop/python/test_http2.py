"""HTTP/2 with prior knowledge, by the `h2` library."""

import json
import signal
import unittest

import h2.events
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame, PingFrame

from kit.deadline import until
from kit.http2 import Client
from kit.peer import Peer
from kit.server import Server

CONFIG = """
[[http.route]]
path = "/page/"
view = "respond"
options = { body = "a page", headers = { x-field = "value" } }

[[http.route]]
path = "/files/{*path}"
view = "static"
options = { dir = "files" }

[[http.route]]
path = "/events/"
view = "events"
options = { group = "chat_news" }

[[websocket.route]]
path = "/ws/chat/{room:slug}/"
consumer = "chat"
options = { group = "chat_{room}" }
"""


FILE = bytes(range(256)) * 8192


class Http2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(CONFIG, files={"files/large.bin": FILE}))

    def client(self):
        return self.enterContext(Client(self.server))

    def test_views_answer_as_over_http1(self):
        client = self.client()
        status, fields, body = client.answer(client.ask("/page/"))
        self.assertEqual((status, fields["x-field"], body), (200, "value", b"a page"))
        self.assertEqual(client.answer(client.ask("/nothing/"))[0], 404)
        self.assertEqual(client.answer(client.ask("/page"))[0], 308)
        self.assertEqual(client.answer(client.ask("/page/", authority="evil.example"))[0], 400)
        self.assertNotIn("connection", fields)

    def test_head_is_answered_without_a_body(self):
        for path, length in (("/page/", 6), ("/files/large.bin", len(FILE)), ("/nothing/", None)):
            with self.subTest(path=path):
                client = self.client()
                _, fields, body = client.answer(client.ask(path, "HEAD"))
                self.assertEqual(body, b"")
                if length is not None:
                    self.assertEqual(fields.get("content-length", str(length)), str(length))

    def test_a_hundred_streams_at_once_are_all_answered(self):
        client = self.client()
        streams = [client.ask("/page/") for _ in range(100)]
        self.assertEqual({client.answer(stream)[2] for stream in streams}, {b"a page"})

    def test_a_large_answer_comes_whole_through_flow_control(self):
        client = self.client()
        self.assertEqual(client.answer(client.ask("/files/large.bin"))[2], FILE)

    def test_a_websocket_path_is_426_over_an_ordinary_request(self):
        client = self.client()
        self.assertEqual(client.answer(client.ask("/ws/chat/lobby/"))[0], 426)

    def test_a_ping_is_acknowledged(self):
        client = self.client()
        client.h2.ping(b"12345678")
        client.flush()
        client.until(
            lambda: any(isinstance(event, h2.events.PingAckReceived) for event in client.events),
            "the acknowledgement of a ping",
        )

    def test_events_stream_over_http2_and_a_reset_ends_them(self):
        before = self.server.metric("oneport_tasks")
        client = self.client()
        stream = client.ask("/events/")
        client.until(lambda: b"retry" in client.answers[stream][1], "the head of the stream")
        with Peer(self.server, "/ws/chat/news/") as peer:
            peer.say({"message": "over http/2"})
            client.until(lambda: b"data: " in client.answers[stream][1], "an event")
        data = bytes(client.answers[stream][1]).split(b"data: ")[1].split(b"\n")[0]
        self.assertEqual(json.loads(data)["message"], "over http/2")
        client.h2.reset_stream(stream, ErrorCodes.CANCEL)
        client.flush()
        self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
        client.cut()
        until(lambda: self.server.metric("oneport_tasks") <= before, "no task left behind")

    def test_a_head_over_the_limit_is_refused_and_the_server_goes_on(self):
        client = self.client()
        stream = client.h2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/page/"), (":authority", "localhost")]
        client.h2.send_headers(stream, [*fields, *((f"x-{n}", "a" * 1000) for n in range(20))], end_stream=True)
        client.answers[stream] = ({}, bytearray())
        client.flush()
        done = (h2.events.StreamReset, h2.events.ConnectionTerminated, h2.events.ResponseReceived)
        client.until(lambda: any(isinstance(event, done) for event in client.events), "a refusal")
        fields = client.answers[stream][0]
        self.assertIn(fields.get(":status", "none"), ("431", "none"))
        self.assertEqual(self.server.request("/health/")[0], 200)

    def test_a_broken_frame_ends_that_connection_alone(self):
        client = self.client()
        client.answer(client.ask("/page/"))
        client.send(b"\x00\x00\x01\x05\x00\x00\x00\x00\x00\x00")
        try:
            client.until(
                lambda: any(isinstance(event, h2.events.ConnectionTerminated) for event in client.events), "GOAWAY"
            )
        except (EOFError, ConnectionResetError):
            pass
        self.assertEqual(self.server.request("/health/")[0], 200)


class Http2Drain(unittest.TestCase):
    def test_the_end_is_announced_with_goaway_and_streams_come_to_theirs(self):
        with Server(CONFIG, files={"files/large.bin": FILE}) as server:
            client = self.enterContext(Client(server))
            self.assertEqual(client.answer(client.ask("/page/"))[0], 200)
            stream = client.ask("/events/")
            client.until(lambda: b"retry" in client.answers[stream][1], "the head of the stream")
            server.signal(signal.SIGTERM)
            announced = False
            for frame in client.frames():
                if isinstance(frame, GoAwayFrame):
                    self.assertEqual(frame.error_code, ErrorCodes.NO_ERROR)
                    self.assertGreaterEqual(frame.last_stream_id, stream)
                    announced = True
                elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                    client.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
                elif frame.stream_id == stream and "END_STREAM" in frame.flags:
                    break
            self.assertTrue(announced, "expected GOAWAY before the end of the last stream")
            server.wait()


if __name__ == "__main__":
    unittest.main()
