"""Reload of listeners, limits and what needs a restart: what changes, who notices, and what the log and the metrics say."""

import contextlib
import http.client
import os
import re
import socket
import stat
import unittest

from websockets.sync.client import unix_connect

from kit import http2
from kit.deadline import DEADLINE, until
from kit.frames import TEXT, Bytes, RawSocket
from kit.server import Server
from kit.tls import Authority, SecureBytes

ROUTES = """
[[http.route]]
path = "/page/"
view = "respond"
options = {{ body = "{body}" }}

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
close_timeout = "200ms"
"""


def config(bind, body="a page", more=""):
    return f"[server]\nbind = {bind}\n{more}\n" + ROUTES.format(body=body)


def get(address, path="/page/"):
    """Returns status and body."""
    with Bytes(address) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = client.head()
        return head[0]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE).close()
    except ConnectionRefusedError:
        return True
    return False


class ReloadListeners(unittest.TestCase):
    def start(self, text, *more, **options):
        return self.enterContext(Server(text, *more, bind=None, **options))

    def test_listeners_are_added_and_removed_and_connections_go_on(self):
        first, second = free_port(), free_port()
        server = self.start(config([f"127.0.0.1:{first}", f"127.0.0.1:{second}"]))
        socket_of_second = self.enterContext(RawSocket(server, "/ws/echo/", address=("127.0.0.1", second)))
        kept = http.client.HTTPConnection("127.0.0.1", second, timeout=DEADLINE)
        self.enterContext(contextlib.closing(kept))
        kept.request("GET", "/page/")
        self.assertEqual(kept.getresponse().read(), b"a page")
        third = free_port()
        said = server.reload(config([f"127.0.0.1:{first}", f"127.0.0.1:{third}"], body="new"))
        self.assertIn(f'listener="http://127.0.0.1:{third}"', said)
        self.assertRegex(said, rf"no longer listening.*127\.0\.0\.1:{second}")
        self.assertRegex(said, rf"reloaded.*applied=.*server\.bind \(.*{second}.*-> .*{third}.*\), http")
        self.assertTrue(is_refused(second))
        for port in (first, third):
            self.assertEqual(get(("127.0.0.1", port)), 200)
        kept.request("GET", "/page/")
        self.assertEqual(kept.getresponse().read(), b"new")
        socket_of_second.say(TEXT, b"still here")
        self.assertEqual(socket_of_second.frame().payload, b"still here")
        server.reload(config([f"127.0.0.1:{first}", f"127.0.0.1:{second}"]))
        self.assertEqual(get(("127.0.0.1", second)), 200)
        self.assertTrue(is_refused(third))

    def test_the_listener_of_metrics_is_added_and_removed_with_a_line_each(self):
        first, port = free_port(), free_port()
        server = self.start(config([f"127.0.0.1:{first}"]))
        said = server.reload(config([f"127.0.0.1:{first}"]) + f'\n[metrics]\nbind = ["127.0.0.1:{port}"]\n')
        self.assertRegex(said, rf"listening for metrics listener=.*{port}")
        self.assertEqual(get(("127.0.0.1", port), "/metrics"), 200)
        said = server.reload(config([f"127.0.0.1:{first}"]))
        self.assertRegex(said, rf"no longer listening for metrics listener=127\.0\.0\.1:{port}")
        self.assertTrue(is_refused(port))

    def test_an_address_in_use_refuses_the_whole_reload_with_its_place(self):
        first, second = free_port(), free_port()
        server = self.start(config([f"127.0.0.1:{first}"]))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            bind = [f"127.0.0.1:{second}", f"127.0.0.1:{port}"]
            said = server.reload(config(bind, body="new"))
            self.assertRegex(said, rf"oneport\.toml:2:\d+: server\.bind\[1\]: cannot listen at 127\.0\.0\.1:{port}: Address already in use")
            self.assertIn("reload failed", said)
            self.assertTrue(is_refused(second))
            self.assertEqual(server.request("/page/")[2], b"a page")
            self.assertEqual(server.metric("oneport_config_last_reload_successful"), 0)
        server.reload(config(bind, body="new"))
        for port in (second, port):
            self.assertEqual(get(("127.0.0.1", port)), 200)
        self.assertTrue(is_refused(first))
        server.port = second
        self.assertEqual(server.metric("oneport_config_last_reload_successful"), 1)

    def test_addresses_of_the_command_line_stay(self):
        server = self.enterContext(Server(config(["127.0.0.1:1"])))
        server.reload(config(["127.0.0.1:2"], body="new"))
        self.assertEqual(server.request("/page/")[2], b"new")

    def test_a_unix_socket_gets_other_permissions_and_another_path(self):
        server = self.start(config('[{ address = "unix:run/a.sock", mode = "0600" }]'))
        first, second = (str(server.directory / "run" / name) for name in ("a.sock", "b.sock"))
        before = os.stat(first)
        self.assertEqual(stat.S_IMODE(before.st_mode), 0o600)
        with unix_connect(first, "ws://localhost/ws/echo/", origin="http://localhost", proxy=None) as client:
            server.reload(config('[{ address = "unix:run/a.sock", mode = "0660" }]'))
            after = os.stat(first)
            self.assertEqual((after.st_ino, stat.S_IMODE(after.st_mode)), (before.st_ino, 0o660))
            self.assertEqual(get(first), 200)
            server.reload(config('[{ address = "unix:run/a.sock", mode = "0666", group = "no such group" }]'))
            self.assertIn("no such group", server.log())
            self.assertEqual(stat.S_IMODE(os.stat(first).st_mode), 0o660)
            other = config('[{ address = "unix:run/a.sock", mode = "0666" }]')
            server.reload(other + '\n[log]\nfile = "/proc/no.log"\n')
            self.assertIn("/proc/no.log", server.log())
            self.assertEqual(stat.S_IMODE(os.stat(first).st_mode), 0o660)
            server.reload(config(["unix:run/b.sock"]))
            self.assertEqual(get(second), 200)
            self.assertFalse(os.path.exists(first))
            client.send("over a file")
            self.assertEqual(client.recv(timeout=DEADLINE), "over a file")

    def test_tls_is_switched_by_entry_and_plain_connections_go_on(self):
        authority = Authority()
        chain, key = authority.issue("localhost")
        files = {"tls/cert.pem": chain, "tls/key.pem": key}
        port, plain = free_port(), free_port()
        server = self.start(config([f"127.0.0.1:{port}", f"127.0.0.1:{plain}"]), files=files)
        (server.directory / "tls/key.pem").chmod(0o600)
        before = self.enterContext(RawSocket(server, "/ws/echo/"))
        section = '[server.tls]\ncertificate = "tls/cert.pem"\nkey = "tls/key.pem"'
        bind = f'["127.0.0.1:{port}", {{ address = "127.0.0.1:{plain}", tls = false }}]'
        server.reload(config(bind, more=section))
        opened = socket.create_connection(("127.0.0.1", port), DEADLINE)
        secure = authority.context("http/1.1").wrap_socket(opened, server_hostname="localhost")
        with SecureBytes(secure) as client:
            client.send(b"GET /page/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(client.head()[0], 200)
        self.assertEqual(get(("127.0.0.1", port)), 308)
        self.assertEqual(get(("127.0.0.1", plain)), 200)
        before.say(TEXT, b"plain")
        self.assertEqual(before.frame().payload, b"plain")

    def test_websocket_over_http2_is_switched_for_new_connections(self):
        port = free_port()

        def bind(value):
            return f'[{{ address = "127.0.0.1:{port}", websocket_over_http2 = {value} }}]'

        server = self.start(config(bind("true")))
        old = self.enterContext(http2.Client(server))
        server.reload(config(bind("false")))
        new = self.enterContext(http2.Client(server))
        for client, allows in ((old, 1), (new, 0)):
            client.answer(client.ask("/page/"))
            self.assertEqual(client.h2.remote_settings.enable_connect_protocol, allows)

    def test_limits_apply_to_connections_that_are_open(self):
        server = self.enterContext(Server(ROUTES.format(body="a")))
        sockets = [self.enterContext(RawSocket(server, "/ws/echo/")) for _ in range(3)]
        server.reload("[server.limits]\nconnections_per_ip = 3\n" + ROUTES.format(body="a"))
        self.assertEqual(get(("127.0.0.1", server.port)), 503)
        sockets.pop().socket.close()
        until(lambda: get(("127.0.0.1", server.port)) == 200, "room for a connection")
        server.reload("[server.limits]\nconnections = 2\n" + ROUTES.format(body="a"))
        self.assertEqual(get(("127.0.0.1", server.port)), 503)
        server.reload(ROUTES.format(body="a"))
        self.assertEqual(get(("127.0.0.1", server.port)), 200)

    def test_head_limits_and_deadlines_apply_to_new_connections(self):
        server = self.enterContext(Server(ROUTES.format(body="a")))
        text = "[server.limits]\nheader_size = '8 KiB'\n[server.timeouts]\nkeep_alive = '0s'\nhandshake = '300ms'\n"
        server.reload(text + ROUTES.format(body="a"))
        status, fields, _ = server.request("/page/", headers={"X-Long": "a" * 9000})
        self.assertEqual(status, 431)
        self.assertEqual(server.request("/page/")[1]["connection"], "close")
        with Bytes(("127.0.0.1", server.port)) as slow:
            slow.send(b"GET /")
            self.assertEqual(slow.rest(), b"")

    def test_keys_that_need_a_restart_are_named_until_they_are_changed_back(self):
        server = self.enterContext(Server("[server]\nworkers = 1\n" + ROUTES.format(body="a")))
        first = server.metric("oneport_config_hash")
        began = server.metric("oneport_config_last_reload_success_timestamp_seconds")
        for body in ("a", "b"):
            said = server.reload("[server]\nworkers = 2\nname = 'another'\n" + ROUTES.format(body=body))
            said = said[said.rindex("changed keys that") :]
            self.assertRegex(said, r"take effect at the next start.*server\.workers \(1 -> 2\), server\.name \(default -> 'another'\)")
            self.assertEqual(server.metric("oneport_config_restart_needed"), 2)
        self.assertNotEqual(server.metric("oneport_config_hash"), first)
        self.assertGreater(server.metric("oneport_config_last_reload_success_timestamp_seconds"), began)
        count = len(re.findall("next start", server.log()))
        server.reload("[server]\nworkers = 1\n" + ROUTES.format(body="a"))
        self.assertEqual(server.metric("oneport_config_restart_needed"), 0)
        self.assertEqual(server.metric("oneport_config_hash"), first)
        self.assertEqual(len(re.findall("next start", server.log())), count)
