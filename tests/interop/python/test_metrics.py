"""Metrics: read by other people's parsers: prometheus_client's two, and promtool."""

import contextlib
import gzip
import http.client
import re
import shutil
import signal
import socket
import subprocess
import time
import unittest

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.postgres import free_port
from kit.restart import RestartServer
from kit.server import Server

CONFIG = """
[[http.route]]
path = "/page/"
name = "page"
view = "respond"
options = { body = "a page" }

[[http.route]]
path = '/quoted/"\\'
view = "respond"
options = { body = "a page" }

[[websocket.route]]
path = "/ws/"
name = "echo"
consumer = "echo"
missing_origin = "allow"
"""

FILES = """
[[http.route]]
path = "/files/{*path}"
name = "files"
view = "static"
options = { dir = "files" }
"""

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        files = {"files/large.txt": b"x" * 500_000}
        cls.server = cls.enterClassContext(Server(CONFIG + FILES, files=files))
        cls.text(cls.server)  # from now on, durations are measured
        for _ in range(3):
            cls.server.request("/page/")
        cls.server.request("/page/", method="POST")
        cls.server.request("/quoted/%22%5C")
        cls.server.request("/none/")
        cls.server.request("/files/large.txt")
        with connect(f"ws://127.0.0.1:{cls.server.port}/ws/") as client:
            for text in "one", "two":
                client.send(text)
                client.recv(timeout=DEADLINE)
        until(lambda: cls.server.metric("oneport_websockets_closed_total", route="echo") == 1, "the socket's end")

    @staticmethod
    def text(server, **headers):
        status, fields, body = server.request("/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()})
        assert status == 200, body
        if fields["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        return body.decode()

    def check(self, families, counters):
        """The parser has understood a counter, a gauge and a histogram, with their labels."""
        families = {family.name: family for family in families}
        requests = families[counters("oneport_requests")]
        self.assertEqual(requests.type, "counter")
        found = {(sample.labels["route"], sample.labels["method"], sample.labels["status"]): sample.value for sample in requests.samples}
        self.assertEqual(found["page", "GET", "2xx"], 3)
        self.assertEqual(found["page", "POST", "2xx"], 1)
        self.assertEqual(found["", "GET", "4xx"], 1)
        self.assertEqual(found['/quoted/"\\', "GET", "2xx"], 1)
        durations = families["oneport_request_duration_seconds"]
        self.assertEqual(durations.type, "histogram")
        page = [sample for sample in durations.samples if sample.labels["route"] == "page"]
        buckets = [sample.value for sample in page if sample.name.endswith("_bucket")]
        self.assertEqual(buckets, sorted(buckets))
        self.assertEqual(buckets[-1], 4)  # three times GET, once POST
        [total] = [sample.value for sample in page if sample.name.endswith("_sum")]
        self.assertTrue(0 < total < 3, total)
        self.assertEqual(families["oneport_build_info"].type, "gauge")
        self.assertTrue(families["oneport_build_info"].documentation.endswith("."))
        [resident] = families["process_resident_memory_bytes"].samples
        self.assertTrue(abs(resident.value - self.server.resident_bytes()) < 20e6, resident)
        return families

    def test_text_format_is_read_by_prometheus_client(self):
        families = text_string_to_metric_families(self.text(self.server))
        self.check(families, counters=lambda name: name)

    def test_open_metrics_are_read_by_prometheus_client(self):
        """Its parser refuses samples out of order, names without their unit, buckets that fall, and a text without its end."""
        text = self.text(self.server, Accept=OPEN_METRICS)
        families = self.check(openmetrics.text_string_to_metric_families(text), counters=lambda name: name)
        self.assertEqual(families["oneport_request_duration_seconds"].unit, "seconds")
        sent = families["oneport_messages_sent"]
        self.assertEqual([(sample.name, sample.value) for sample in sent.samples], [("oneport_messages_sent_total", 2)])
        with self.assertRaises(ValueError):
            list(openmetrics.text_string_to_metric_families(text[: text.rindex("# EOF")]))

    def test_compressed_metrics_are_the_same(self):
        packed = self.text(self.server, Accept=OPEN_METRICS, Accept_Encoding="gzip")
        names = [family.name for family in openmetrics.text_string_to_metric_families(packed)]
        self.assertIn("oneport_handshake_duration_seconds", names)

    def test_promtool_has_no_complaint(self):
        checked = subprocess.run(
            [shutil.which("promtool"), "check", "metrics"],
            input=self.text(self.server),
            capture_output=True,
            text=True,
            timeout=DEADLINE * 3,
        )
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))

    def test_body_is_counted_as_it_was_sent(self):
        sent = self.server.metric("oneport_response_body_bytes_total", route="files")
        self.assertEqual(sent, 500_000)
        self.assertEqual(self.server.metric("oneport_response_body_duration_seconds_count", route="files"), 1)

    def test_connections_are_counted_by_protocol(self):
        """The reading comes over a connection of its own."""
        count = lambda **labels: self.server.metric("oneport_connections", **labels)
        self.assertEqual(count(protocol="http1", security="plain"), 1)
        before = count(protocol="none")
        with socket.create_connection(("127.0.0.1", self.server.port)):
            until(lambda: count(protocol="none", security="plain") == before + 1, "a silent connection")
        until(lambda: count(protocol="none") == before, "its end")
        self.assertEqual(count(security="tls"), 0)

    def test_messages_are_counted_in_both_directions(self):
        for metric, count in [
            ("oneport_messages_received_total", 2),
            ("oneport_messages_sent_total", 2),
            ("oneport_handshake_duration_seconds_count", 1),
            ("oneport_websocket_duration_seconds_count", 1),
        ]:
            self.assertEqual(self.server.metric(metric, route="echo"), count, metric)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER_TRACE = "0af7651916cd43dd8448eb211c80319c"


class Exemplars(unittest.TestCase):
    def test_durations_name_the_trace_of_a_request(self):
        """Only one that is exported; the collector need not be there."""
        tracing = f'[tracing]\notlp = "http://127.0.0.1:{free_port()}"\ntraceparent_from = "all"\n'
        server = self.enterContext(Server(tracing + CONFIG))
        Metrics.text(server)  # from now on, durations are measured
        for trace, flags in [(TRACE, "01"), (OTHER_TRACE, "00")]:
            parent = f"00-{trace}-00f067aa0ba902b7-{flags}"
            self.assertEqual(server.request("/page/", headers={"traceparent": parent})[0], 200)
        families = openmetrics.text_string_to_metric_families(Metrics.text(server, Accept=OPEN_METRICS))
        [durations] = [family for family in families if family.name == "oneport_request_duration_seconds"]
        page = [sample for sample in durations.samples if sample.labels["route"] == "page"]
        [exemplar] = [sample.exemplar for sample in page if sample.exemplar]
        self.assertEqual(exemplar.labels, {"trace_id": TRACE})
        self.assertTrue(0 < exemplar.value < 3, exemplar)
        self.assertTrue(abs(float(exemplar.timestamp) - time.time()) < 60, exemplar)
        self.assertEqual([sample.value for sample in page if sample.name.endswith("_count")], [2])
        self.assertNotIn("trace_id", Metrics.text(server))


LISTENER = """
[metrics]
bind = ["unix:metrics.sock"]
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("metrics.example", timeout=DEADLINE)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self._path)


class Listener(unittest.TestCase):
    """The listeners of metrics.bind."""

    @staticmethod
    def ask(server, target, method="GET", name="metrics.sock"):
        """One request; returns status, header fields and body."""
        connection = UnixConnection(server.directory / name)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def test_it_serves_metrics_and_health_for_any_host_and_nothing_else(self):
        server = self.enterContext(Server(LISTENER + CONFIG))
        for target in "/metrics", "/metrics/":
            status, fields, text = self.ask(server, target)
            self.assertEqual(status, 200)
            self.assertEqual(fields["connection"], "close")
            names = [family.name for family in text_string_to_metric_families(text)]
            self.assertIn("process_open_fds", names)
        self.assertEqual(self.ask(server, "/health/")[::2], (200, '{"status":"ok"}\n'))
        self.assertEqual(self.ask(server, "/health/live/")[0], 200)
        status, fields, body = self.ask(server, "/health/", method="HEAD")
        self.assertEqual((status, body), (200, ""))
        self.assertEqual(self.ask(server, "/page/")[0], 404)
        self.assertEqual(self.ask(server, "/metricsx")[0], 404)
        status, fields, _ = self.ask(server, "/metrics", method="POST")
        self.assertEqual((status, fields["allow"]), (405, "GET, HEAD"))
        self.assertEqual(server.request("/health/live/")[0], 404)  # the routes know nothing of it

    def test_it_answers_while_the_other_listeners_are_full(self):
        config = LISTENER + "[server.limits]\nconnections = 2\n" + CONFIG
        server = self.enterContext(Server(config))
        with contextlib.ExitStack() as held:
            for _ in range(2):
                held.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            until(lambda: server.request("/page/")[0] == 503, "a full server")
            status, _, text = self.ask(server, "/metrics")
            self.assertEqual(status, 200)
            self.assertIn('oneport_connections_refused_total{reason="connections"}', text)

    def test_its_own_connections_are_limited(self):
        server = self.enterContext(Server(LISTENER + CONFIG))
        with contextlib.ExitStack() as held:
            for _ in range(16):
                connection = held.enter_context(socket.socket(socket.AF_UNIX))
                connection.connect(str(server.directory / "metrics.sock"))
                connection.send(b"GET /metrics HTTP/1.1\r\n")  # and never the rest
            until(lambda: self.ask(server, "/metrics")[0] == 503, "a full listener")
            self.assertEqual(server.request("/health/")[0], 200)
        until(lambda: self.ask(server, "/metrics")[0] == 200, "room again")

    def test_it_answers_until_the_drain_is_over(self):
        config = LISTENER + "[server.drain]\ndelay = '500ms'\n[server.timeouts]\ndrain = '5s'\n" + CONFIG
        server = self.enterContext(Server(config))
        with connect(f"ws://127.0.0.1:{server.port}/ws/") as held:
            held.send("x")
            held.recv(timeout=DEADLINE)
            server.signal(signal.SIGTERM)
            until(lambda: self.ask(server, "/health/")[0] == 503, "health to say that the server leaves")
            self.assertEqual(self.ask(server, "/health/live/")[0], 200)
            self.assertEqual(self.ask(server, "/metrics")[0], 200)

    def test_reload_opens_and_closes_it(self):
        server = self.enterContext(Server(CONFIG))
        path = server.directory / "metrics.sock"
        self.assertFalse(path.exists())
        server.write(LISTENER + CONFIG)
        server.signal(signal.SIGHUP)
        until(path.exists, "the listener")
        self.assertEqual(self.ask(server, "/metrics")[0], 200)
        server.write(LISTENER.replace("metrics.sock", "other.sock") + CONFIG)
        server.signal(signal.SIGHUP)
        until(lambda: not path.exists(), "its end")
        self.assertEqual(self.ask(server, "/metrics", name="other.sock")[0], 200)
        server.write('[metrics]\nbind = ["192.0.2.1:9100"]\n' + CONFIG)  # not of this machine
        server.signal(signal.SIGHUP)
        server.wait_for_log(r"metrics\.bind.*cannot listen at 192\.0\.2\.1:9100")
        self.assertEqual(self.ask(server, "/metrics", name="other.sock")[0], 200)

    def test_restart_hands_it_on(self):
        """It answers before, during and after, and the file of the socket stays."""
        server = self.enterContext(RestartServer(LISTENER + CONFIG))
        started = lambda: re.search(r"^process_start_time_seconds (\S+)$", self.ask(server, "/metrics")[2], re.MULTILINE)[1]
        before = started()
        server.begin_restart()
        old = server.replaced()
        until(lambda: float(started()) > float(before), "the metrics of the new process")
        server.ended(old)
        self.assertEqual(self.ask(server, "/health/")[0], 200)
        server.alone(old)
        server.restart()
        self.assertEqual(self.ask(server, "/health/")[0], 200)


if __name__ == "__main__":
    unittest.main()
