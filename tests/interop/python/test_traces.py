"""Traces as a collector of OpenTelemetry gets them: decoded by PyPI's `opentelemetry-proto`, with their parents, links, attributes
and resource; through a proxy, a subrequest, a socket and a second process; and collectors that fail.
"""

import contextlib
import http.client
import http.server
import json
import re
import socket
import threading
import time
import unittest
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from kit.deadline import DEADLINE, until
from kit.peer import Peer
from kit.redis_server import Redis
from kit.server import Server

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
PARENT_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")
TOKEN = "token-of-the-collector"

CONFIG = """
[server]
name = "{name}"
allowed_hosts = ["*"]
trusted_proxies = [{trusted}]

[log]
access_format = "json"

[tracing]
otlp = "{otlp}"
headers = {{ authorization = "Bearer ${{OTLP_TOKEN}}" }}
service_name = "shop"
timeout = "1s"
{tracing}

[channel_layer]
{layer}

[auth.forward]
url = "{upstream}/auth"
cache = "0s"

[http]
middleware = []

[websocket]
middleware = ["hosts"]

[[http.route]]
path = "/proxied/{{*rest}}"
name = "proxied"
view = "proxy"
options = {{ upstream = ["{upstream}"] }}

[[http.route]]
path = "/who/"
view = "respond"
middleware = ["auth"]

[[http.route]]
path = "/plain/{{n:int}}/"
view = "respond"

[[http.route]]
path = "/api/{{*call}}"
view = "publish"
options = {{ tokens = [{{ name = "all", token = "0123456789abcdef0123456789abcdef", groups = ["*"] }}] }}

[[websocket.route]]
path = "/ws/{{room:slug}}/"
name = "room"
consumer = "feed"
options = {{ groups = ["room_{{room}}"] }}

[[websocket.route]]
path = "/backend/"
consumer = "backend"
options = {{ url = "{upstream}/backend", secret = "a secret of this test", node_started = false }}
"""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.owner.handle(self)

    do_POST = do_GET

    def body(self):
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Owner:
    """A server in a thread. Use it with `with`."""

    def __enter__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.owner = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Upstream(Owner):
    """Answers with the header fields that it got, and keeps them."""

    def __init__(self):
        self.seen = []

    def handle(self, request):
        body = request.body()
        path = urlsplit(request.path).path
        self.seen.append((path, dict(request.headers)))
        if path == "/auth":
            return request.answer(200, x_user_id="7", x_user_name="bob")
        if path == "/backend":
            return request.answer(200, b"{}", content_type="application/json")
        return request.answer(200, json.dumps(dict(request.headers)).encode(), content_type="application/json")

    def parents(self, path):
        return [fields.get("Traceparent") or fields.get("traceparent") for seen, fields in self.seen if seen == path]


class Collector(Owner):
    """Takes batches. `answers` are used up first: a status, or a function of the request."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.batches = []
        self.attempts = 0
        self.fields = {}

    def handle(self, request):
        body = request.body()
        self.attempts += 1
        self.fields = dict(request.headers)
        if self.answers:
            answer = self.answers.pop(0)
            if callable(answer):
                return answer(request)
            if answer != 200:
                return request.answer(answer, retry_after="1")
        batch = ExportTraceServiceRequest()
        batch.ParseFromString(body)
        self.batches.append(batch)
        return request.answer(200, ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")

    def spans(self):
        found = []
        for batch in self.batches:
            for resource in batch.resource_spans:
                attributes = facts(resource.resource.attributes)
                found += [(attributes, span) for scope in resource.scope_spans for span in scope.spans]
        return found

    def named(self, name):
        """The only span of that name, once it is there."""
        found = until(lambda: [span for _, span in self.spans() if span.name == name], lambda: f"a span {name!r} among {self.names()}")
        assert len(found) == 1, f"expected one span {name!r}, found {len(found)}"
        return found[0]

    def names(self):
        return sorted(span.name for _, span in self.spans())


def facts(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Traces(unittest.TestCase):
    def setUp(self):
        self.upstream = self.enterContext(Upstream())

    def server(self, otlp, *, trusted='"127.0.0.1"', layer="", name="one", tracing=""):
        config = CONFIG.format(otlp=otlp, trusted=trusted, layer=layer, name=name, tracing=tracing, upstream=self.upstream.url)
        return Server(config, environment={"OTLP_TOKEN": TOKEN})

    def test_request_continues_its_senders_trace_up_to_the_upstream(self):
        with Collector() as collector, self.server(collector.url) as server:
            status, body = get(server, "/proxied/a?secret=1", traceparent=TRACEPARENT, tracestate="vendor=1", user_agent="test")
            self.assertEqual(status, 200)
            seen = {name.lower(): value for name, value in json.loads(body).items()}
            line = json.loads(server.wait_for_log(r'\{[^\n]*"path":"/proxied/a"[^\n]*\}')[0])
            server.stop()
            port = server.port
            request, call = collector.named("GET /proxied/{*rest}"), collector.named("GET")
            self.assertEqual((request.trace_id.hex(), request.parent_span_id.hex()), (TRACE, PARENT))
            self.assertEqual((call.trace_id.hex(), call.parent_span_id), (TRACE, request.span_id))
            self.assertEqual(seen["traceparent"], f"00-{TRACE}-{call.span_id.hex()}-01")
            self.assertEqual((seen["tracestate"], request.trace_state), ("vendor=1", "vendor=1"))
            self.assertEqual(line["trace_id"], TRACE)
            self.assertEqual((request.kind, call.kind), (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT))
            self.assertLessEqual(request.start_time_unix_nano, call.start_time_unix_nano)
            self.assertLessEqual(call.start_time_unix_nano, call.end_time_unix_nano)
            found = facts(request.attributes)
            for name, value in {
                "http.request.method": "GET",
                "url.path": "/proxied/a",
                "url.scheme": "http",
                "http.route": "/proxied/{*rest}",
                "http.response.status_code": 200,
                "network.protocol.version": "1.1",
                "client.address": "127.0.0.1",
                "server.address": "127.0.0.1",
                "server.port": port,
                "oneport.request.id": line["id"],
            }.items():
                self.assertEqual(found.get(name), value, name)
            self.assertEqual(facts(call.attributes)["url.full"].split("?")[0], facts(call.attributes)["url.full"])
            self.assertRegex(facts(call.attributes)["url.full"], r"^http://127\.0\.0\.1:\d+/\S*a$")
            self.assertNotIn("secret", str(found))
            found = facts(call.attributes)
            self.assertEqual((found["http.response.status_code"], found["server.port"]), (200, urlsplit(self.upstream.url).port))
            resource = collector.spans()[0][0]
            self.assertEqual((resource["service.name"], resource["service.instance.id"]), ("shop", "one"))
            self.assertRegex(resource["service.version"], r"\d+\.\d+\.\d+")
            fields = {name.lower(): value for name, value in collector.fields.items()}
            self.assertEqual((fields["authorization"], fields["content-type"]), (f"Bearer {TOKEN}", "application/x-protobuf"))

    def test_malformed_and_untrusted_parents_begin_a_new_trace(self):
        with Collector() as collector:
            with self.server(collector.url) as server:
                for parent in ("00-xyz", TRACEPARENT.upper(), TRACEPARENT.replace("00-", "ff-", 1), f"00-{'0' * 32}-{PARENT}-01"):
                    seen = json.loads(get(server, "/proxied/a", traceparent=parent, tracestate="a=1")[1])
                    seen = {name.lower(): value for name, value in seen.items()}
                    found = PARENT_FORM.fullmatch(seen["traceparent"])
                    self.assertTrue(found, seen)
                    self.assertNotEqual(found[1], TRACE)
                    self.assertNotIn("tracestate", seen)
            with self.server(collector.url, trusted="") as server:
                seen = json.loads(get(server, "/proxied/a", traceparent=TRACEPARENT)[1])
                self.assertNotIn(TRACE, str(seen))
            with self.server(collector.url, trusted="", tracing='traceparent_from = "all"') as server:
                seen = json.loads(get(server, "/proxied/a", traceparent=TRACEPARENT)[1])
                self.assertIn(TRACE, str(seen))

    def test_unsampled_trace_passes_on_and_is_not_sent(self):
        with Collector() as collector:
            with self.server(collector.url) as server:
                seen = json.loads(get(server, "/proxied/a", traceparent=TRACEPARENT[:-1] + "0")[1])
                self.assertIn(f"00-{TRACE}-", str(seen))
                self.assertRegex(str(seen), rf"00-{TRACE}-[0-9a-f]{{16}}-00")
            self.assertFalse([span for _, span in collector.spans() if span.trace_id.hex() == TRACE])
        with Collector() as collector:
            with self.server(collector.url, tracing="sample = 0.0") as server:
                get(server, "/plain/1/")
                get(server, "/plain/2/", traceparent=TRACEPARENT)
            self.assertEqual({span.trace_id.hex() for _, span in collector.spans()}, {TRACE})

    def test_without_tracing_the_fields_pass_as_they_came(self):
        with self.server("") as server:
            seen = json.loads(get(server, "/proxied/a", traceparent=TRACEPARENT)[1])
            self.assertIn(TRACEPARENT, str(seen))
            seen = json.loads(get(server, "/proxied/a")[1])
            self.assertNotIn("traceparent", str(seen).lower())
            self.assertNotIn("trace_id", server.log())

    def test_subrequests_and_backends_continue_the_trace(self):
        with Collector() as collector, self.server(collector.url) as server:
            self.assertEqual(get(server, "/who/", traceparent=TRACEPARENT, cookie="a=1")[0], 200)
            with Peer(server, "/backend/", additional_headers={"traceparent": TRACEPARENT}) as peer:
                peer.send("hello")
                until(lambda: len(self.upstream.parents("/backend")) >= 2, "the events at the backend")
            server.stop()
            self.assertRegex(self.upstream.parents("/auth")[0], rf"00-{TRACE}-[0-9a-f]{{16}}-01")
            connect, received = self.upstream.parents("/backend")[:2]
            self.assertRegex(connect, rf"00-{TRACE}-[0-9a-f]{{16}}-01")
            # What an open socket sends is a trace of its own, linked to the socket.
            found = PARENT_FORM.fullmatch(received)
            self.assertNotEqual(found[1], TRACE)
            socket_span = collector.named("websocket /backend/")
            posts = [span for _, span in collector.spans() if span.trace_id.hex() == found[1]]
            self.assertEqual([link.span_id for link in posts[0].links], [socket_span.span_id])

    def test_socket_is_a_trace_linked_to_its_handshake(self):
        with Collector() as collector, self.server(collector.url) as server:
            with Peer(server, "/ws/a/", additional_headers={"traceparent": TRACEPARENT}):
                pass
            line = json.loads(server.wait_for_log(r'\{[^\n]*"message":"websocket"[^\n]*\}')[0])
            server.stop()
            handshake, opened = collector.named("GET /ws/{room:slug}/"), collector.named("websocket room")
            self.assertEqual((handshake.trace_id.hex(), handshake.parent_span_id.hex()), (TRACE, PARENT))
            self.assertEqual(facts(handshake.attributes)["http.response.status_code"], 101)
            self.assertNotEqual(opened.trace_id, handshake.trace_id)
            self.assertEqual([(link.trace_id, link.span_id) for link in opened.links], [(handshake.trace_id, handshake.span_id)])
            found = facts(opened.attributes)
            self.assertEqual((found["oneport.websocket.cause"], found["oneport.websocket.close_code"]), ("client_close", 1000))
            self.assertEqual(line["trace_id"], opened.trace_id.hex())

    def test_event_carries_its_trace_to_another_process(self):
        with Redis() as redis, Collector() as collector, contextlib.ExitStack() as held:
            layer = f'backend = "{redis.url()}"\nprefix = "traces"'
            one = held.enter_context(self.server(collector.url, layer=layer, name="one"))
            two = held.enter_context(self.server(collector.url, layer=layer, name="two"))
            peer = held.enter_context(Peer(two, "/ws/a/"))
            connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=DEADLINE)
            fields = {"authorization": "Bearer 0123456789abcdef0123456789abcdef", "traceparent": TRACEPARENT}
            event = json.dumps({"type": "chat.message", "message": "hi"})
            connection.request("POST", "/api/groups/room_a", body=event, headers=fields)
            answer = connection.getresponse()
            self.assertEqual(answer.status, 200, answer.read())
            answer.read()
            connection.close()
            self.assertIn("hi", peer.receive())
            sent, delivered = collector.named("group_send"), collector.named("group_deliver")
            self.assertEqual((sent.trace_id.hex(), delivered.trace_id.hex()), (TRACE, TRACE))
            self.assertEqual(delivered.parent_span_id, sent.span_id)
            by = {span.name: resource["service.instance.id"] for resource, span in collector.spans()}
            self.assertEqual((by["group_send"], by["group_deliver"]), ("one", "two"))
            self.assertEqual((sent.kind, delivered.kind), (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER))

    def test_failed_request_is_an_error(self):
        self.upstream.server.shutdown()
        self.upstream.server.server_close()
        with Collector() as collector:
            with self.server(collector.url) as server:
                self.assertEqual(get(server, "/proxied/a")[0], 502)
            request, call = collector.named("GET /proxied/{*rest}"), collector.named("GET")
            self.assertEqual((request.status.code, call.status.code), (2, 2))
            self.assertEqual((facts(request.attributes)["error.type"], facts(call.attributes)["error.type"]), ("502", "connect"))

    def test_busy_collector_gets_the_batch_again(self):
        with Collector(503, 429) as collector, self.server(collector.url) as server:
            get(server, "/plain/1/")
            collector.named("GET /plain/{n:int}/")
            self.assertGreaterEqual(collector.attempts, 3)
            # The collector has the batch before the server has its answer.
            until(lambda: server.metric("oneport_spans_total", outcome="exported") >= 1, "an exported batch")
            self.assertEqual(server.metric("oneport_spans_total", outcome="failed"), 0)
            self.assertIn("spans could not be sent", server.log())

    def test_collectors_that_fail_do_not_touch_requests(self):
        def hang(request):
            time.sleep(3)

        def garbage(request):
            request.wfile.write(b"\x00\xffnot http\r\n\r\n")
            request.close_connection = True

        def half(request):
            request.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            request.close_connection = True

        for answers in ((400,) * 50, (hang,) * 50, (garbage,) * 50, (half,) * 50):
            with self.subTest(answers[0]), Collector(*answers) as collector:
                with self.server(collector.url) as server:
                    began = time.monotonic()
                    for number in range(50):
                        self.assertEqual(get(server, f"/plain/{number}/")[0], 200)
                    self.assertLess(time.monotonic() - began, 5)
                    server.stop()
                    self.assertGreaterEqual(collector.attempts, 1)
                    self.assertEqual(len(re.findall("spans could not be sent", server.log())), 1)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            with self.server(f"http://127.0.0.1:{nobody.getsockname()[1]}") as server:
                self.assertEqual(get(server, "/plain/1/")[0], 200)

    def test_refused_batch_is_counted(self):
        with Collector(*(400,) * 50) as collector, self.server(collector.url) as server:
            get(server, "/plain/1/")
            until(lambda: server.metric("oneport_spans_total", outcome="failed") >= 1, "failed spans")
            self.assertGreaterEqual(collector.attempts, 1)


if __name__ == "__main__":
    unittest.main()
