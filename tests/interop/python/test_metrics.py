"""Metrics: read by other people's parsers: prometheus_client's two, and promtool."""

import gzip
import shutil
import subprocess
import unittest

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from kit.deadline import DEADLINE, until
from kit.server import Server

CONFIG = """
[[http.route]]
path = "/page/"
name = "page"
view = "respond"
options = { body = "a page" }

[[http.route]]
path = '/quoted/"\\\\'
view = "respond"
options = { body = "a page" }

[[http.route]]
path = "/files/{*path}"
name = "files"
view = "static"
options = { dir = "files" }

[[websocket.route]]
path = "/ws/"
name = "echo"
consumer = "echo"
missing_origin = "allow"
"""

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        files = {"files/large.txt": b"x" * 500_000}
        cls.server = cls.enterClassContext(Server(CONFIG, files=files))
        cls.text(cls.server)  # from now on, durations are measured
        for _ in range(3):
            cls.server.request("/page/")
        cls.server.request("/page/", method="POST")
        cls.server.request("/quoted/%22%5C")
        cls.server.request("/files/large.txt")
        with connect(f"ws://127.0.0.1:{cls.server.port}/ws/") as socket:
            for text in "one", "two":
                socket.send(text)
                socket.recv(timeout=DEADLINE)
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
        self.assertEqual(found["", "POST", "4xx"], 1)
        self.assertEqual(found['/quoted/"\\', "GET", "2xx"], 1)
        durations = families["oneport_request_duration_seconds"]
        self.assertEqual(durations.type, "histogram")
        page = [sample for sample in durations.samples if sample.labels["route"] == "page"]
        buckets = [sample.value for sample in page if sample.name.endswith("_bucket")]
        self.assertEqual(buckets, sorted(buckets))
        self.assertEqual(buckets[-1], 3)
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

    def test_messages_are_counted_in_both_directions(self):
        for metric, count in [
            ("oneport_messages_received_total", 2),
            ("oneport_messages_sent_total", 2),
            ("oneport_handshake_duration_seconds_count", 1),
            ("oneport_websocket_duration_seconds_count", 1),
        ]:
            self.assertEqual(self.server.metric(metric, route="echo"), count, metric)


if __name__ == "__main__":
    unittest.main()
