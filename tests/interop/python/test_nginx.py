"""A real nginx in front, set up as its documentation has it: what a client writes into forwarded fields counts for nothing."""

import http.client
import re
import unittest

from kit.deadline import DEADLINE
from kit.login_case import gateway
from kit.nginx import Nginx
from kit.visitor import Visitor, add_user

# nginx comes from 127.0.0.1, which is trusted; the clients come from another address of this machine.
CLIENT = "127.0.0.2"

# What a client may try: to be another address, https, another host.
FORGED = [
    {"Forwarded": "for=192.0.2.{n};proto=https;host=evil.example"},
    {"Forwarded": 'for="192.0.2.{n}'},
    {"X-Forwarded-For": "192.0.2.{n}"},
    {"X-Forwarded-For": "192.0.2.{n}, \xff"},
    {"X-Forwarded-For": "192.0.2.{n},,"},
    {"X-Real-IP": "192.0.2.{n}"},
    {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "443"},
]


class BehindNginx(unittest.TestCase):
    def start(self, proxies=("127.0.0.1",), **options):
        server = self.enterContext(gateway(proxies=proxies, **options))
        return server, self.enterContext(Nginx(server.port))

    def ask(self, nginx, path, headers):
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=DEADLINE, source_address=(CLIENT, 0))
        self.addCleanup(connection.close)
        return Visitor(nginx).request(path, headers=headers, connection=connection)

    def test_client_and_host_are_those_that_nginx_saw(self):
        server, nginx = self.start()
        for forged in FORGED:
            with self.subTest(forged=forged):
                known = len(re.findall(r'path="/who/"', server.log()))
                answer = self.ask(nginx, "/who/", {name: value.format(n=1) for name, value in forged.items()})
                self.assertEqual(answer.status, 200, answer)
                server.wait_for_log(rf'(?s)(path="/who/".*){{{known + 1}}}')
                line = [line for line in server.log().splitlines() if 'path="/who/"' in line][-1]
                self.assertIn(f"client={CLIENT}:0", line)
                # No cookie of a page is Secure: nginx saw http.
                page = self.ask(nginx, "/form/", {name: value.format(n=1) for name, value in forged.items()})
                self.assertFalse(page.cookies["csrftoken"]["secure"], page)

    def test_login_throttle_counts_the_address_that_nginx_saw(self):
        for forged in FORGED:
            with self.subTest(forged=forged):
                server, nginx = self.start(login='attempts_per_name = 1000, attempts_per_address = 3, attempts_window = "1h"')
                add_user(server, "anna")

                def status(number, nginx=nginx, forged=forged):
                    visitor = Visitor(nginx)
                    fields = {name: value.format(n=number) for name, value in forged.items()}
                    page = visitor.request("/login/", headers=fields)
                    sent = {"username": f"user{number}", "password": "x", "csrfmiddlewaretoken": page.value("csrfmiddlewaretoken")}
                    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=DEADLINE, source_address=(CLIENT, 0))
                    self.addCleanup(connection.close)
                    return visitor.post("/login/", sent, fields, connection).status

                self.assertEqual([status(number) for number in range(1, 5)], [401] * 3 + [429])

    def test_a_proxy_that_is_not_trusted_is_named_once_with_what_to_set(self):
        server, nginx = self.start(proxies=())
        for _ in range(3):
            self.assertEqual(self.ask(nginx, "/who/", {}).status, 200)
        server.wait_for_log("server.trusted_proxies")
        said = re.findall(r"X-Forwarded-\w+ from 127\.0\.0\.1 is ignored: .*add it to server\.trusted_proxies", server.log())
        self.assertEqual(len(said), 1, server.log())


if __name__ == "__main__":
    unittest.main()
