"""The view `proxy` in front of a real nginx over TLS, by HTTP/2 and by HTTP/1.1: bodies, many requests at once, a reload in the middle."""

import http.client
import os
import re
import threading
import unittest

from kit.deadline import DEADLINE
from kit.nginx import NginxUpstream
from kit.server import Server
from kit.tls import Authority

MIB = 1 << 20

CONFIG = """
[[http.route]]
path = "/{{*path}}"
view = "proxy"
body_size = "100 MiB"
options = {{ upstream = ["https://localhost:{port}"], tls = {{ ca = "ca.pem" }} }}
"""


class _BeforeNginx:
    """The tests of both protocols."""

    @classmethod
    def setUpClass(cls):
        authority = Authority()
        cls.big = os.urandom(MIB) * 20
        files = {"small": b"small", "big": cls.big}
        cls.nginx = cls.enterClassContext(NginxUpstream(*authority.issue("localhost"), files))
        config = CONFIG.format(port=cls.upstream_port(cls.nginx))
        cls.server = cls.enterClassContext(Server(config, files={"ca.pem": authority.pem}))

    def connection(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
        self.addCleanup(connection.close)
        return connection

    def failures(self):
        """Returns what went wrong with the upstream, as it was counted."""
        counted = r'oneport_upstream_requests_total\{.*outcome="(\w+)".*\} (\d+)'
        _, _, metrics = self.server.request("/metrics")
        return {outcome for outcome, _ in re.findall(counted, metrics.decode())} - {"ok", "stale"}

    def test_the_protocol_is_the_one_that_nginx_offers(self):
        status, _, body = self.server.request("/protocol")
        self.assertEqual((status, body.decode()), (200, self.protocol))

    def test_a_large_file_is_whole(self):
        status, headers, body = self.server.request("/big")
        self.assertEqual((status, headers["Content-Length"], body == self.big), (200, str(len(self.big)), True))
        status, _, body = self.server.request("/big", headers={"Range": "bytes=100-199"})
        self.assertEqual((status, body), (206, self.big[100:200]))
        status, headers, body = self.server.request("/big", "HEAD")
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(self.big)), b""))

    def test_10_mib_are_sent(self):
        sent = self.big[: 10 * MIB]
        status, _, body = self.server.request("/length", "POST", body=sent)
        self.assertEqual((status, body.decode()), (200, str(len(sent))))
        status, _, _ = self.server.request("/kept/file", "PUT", body=sent)
        self.assertIn(status, (201, 204))
        _, _, body = self.server.request("/kept/file")
        self.assertTrue(body == sent)

        def chunks():
            for at in range(0, len(sent), 100_000):
                yield sent[at : at + 100_000]

        connection = self.connection()
        connection.request("PUT", "/kept/chunked", body=chunks(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        self.assertIn(connection.getresponse().status, (201, 204))
        _, _, body = self.server.request("/kept/chunked")
        self.assertTrue(body == sent)

    def test_responses_that_are_not_read_stall_no_others(self):
        # As many as nginx allows on a connection, and more.
        for _ in range(12):
            connection = self.connection()
            connection.request("GET", "/big")
            self.assertEqual(connection.getresponse().status, 200)
        for _ in range(20):
            status, _, body = self.server.request("/small")
            self.assertEqual((status, body), (200, b"small"))

    def test_many_requests_at_once_through_reloads(self):
        done, failures = threading.Event(), []

        def requests(number):
            connection = self.connection()
            rounds = 0
            while rounds < 20 or not done.is_set():
                rounds += 1
                target, expected = ("/small", b"small") if (number + rounds) % 10 else ("/big", self.big)
                connection.request("GET", target)
                answer = connection.getresponse()
                body = answer.read()
                if (answer.status, body == expected) != (200, True):
                    raise AssertionError(f"{target}: {answer.status}, {len(body)} bytes")

        def work(number):
            try:
                requests(number)
            except Exception as error:
                failures.append(f"{number}: {error!r}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            self.nginx.reload()
        done.set()
        for thread in threads:
            thread.join(DEADLINE)
        self.assertEqual(failures, [])
        self.assertFalse(any(thread.is_alive() for thread in threads))
        self.assertEqual(self.failures(), set())


class Http2(_BeforeNginx, unittest.TestCase):
    protocol = "HTTP/2.0"

    @staticmethod
    def upstream_port(nginx):
        return nginx.port


class Http1(_BeforeNginx, unittest.TestCase):
    protocol = "HTTP/1.1"

    @staticmethod
    def upstream_port(nginx):
        return nginx.http1_port


if __name__ == "__main__":
    unittest.main()
