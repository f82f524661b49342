"""Listeners: TCP, Unix sockets, inherited descriptors, and the error if one cannot be opened."""

import os
import socket
import subprocess
import sys
import unittest

from websockets.sync.client import unix_connect

from kit.deadline import DEADLINE, until
from kit.frames import TEXT, Bytes, RawSocket
from kit.server import Server, binary

CONFIG = """
[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
close_timeout = "200ms"
"""

UNIX = '[server]\nbind = ["unix:run/oneport.sock"]\n' + CONFIG

# As systemd does: the listeners are descriptors from 3 on, announced by two variables.
ACTIVATE = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",")]
for number, descriptor in enumerate(passed, 3):
    os.dup2(descriptor, number)
    os.close(descriptor)
os.environ.update(LISTEN_FDS=str(len(passed)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def activated(*listeners):
    """Returns what starts a program with these listeners as descriptors from 3 on."""

    def start(command, **options):
        numbers = [listener.fileno() for listener in listeners]
        wrapped = [sys.executable, "-c", ACTIVATE, ",".join(map(str, numbers)), *command]
        return subprocess.Popen(wrapped, pass_fds=numbers, **options)

    return start


def get(address, path="/health/"):
    with Bytes(address) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return client.head()[0]


class Listeners(unittest.TestCase):
    def test_a_unix_socket_serves_both_protocols_and_goes_with_the_server(self):
        with Server(UNIX, bind=None) as server:
            path = str(server.directory / "run/oneport.sock")
            self.assertEqual(get(path), 200)
            with unix_connect(path, "ws://localhost/ws/echo/", origin="http://localhost", proxy=None) as client:
                client.send("over a file")
                self.assertEqual(client.recv(timeout=DEADLINE), "over a file")
            server.stop()
            self.assertFalse(os.path.exists(path))

    def test_a_unix_socket_that_nobody_listens_at_is_replaced(self):
        server = Server(UNIX, bind=None)
        path = server.directory / "run/oneport.sock"
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with server:
            self.assertEqual(get(str(path)), 200)

    def test_a_unix_socket_in_use_and_a_file_that_is_no_socket_are_left_alone(self):
        with Server(UNIX, bind=None) as server:
            path = server.directory / "run/oneport.sock"
            self.fails_to_start(server.config, (), r"cannot listen at unix:.*oneport\.sock: another process listens on it")
            self.assertEqual(get(str(path)), 200)
            precious = server.directory / "precious"
            precious.write_text("do not lose this", encoding="utf-8")
            self.fails_to_start(server.config, ("--bind", f"unix:{precious}"), "cannot listen at unix:")
            self.assertEqual(precious.read_text(encoding="utf-8"), "do not lose this")

    def test_several_addresses_are_one_server(self):
        with Server(CONFIG, "--bind", "unix:also.sock") as server:
            path = str(server.directory / "also.sock")
            one = self.enterContext(RawSocket(server, "/ws/echo/"))
            two = self.enterContext(RawSocket(server, "/ws/echo/", address=path))
            for raw in (one, two):
                raw.say(TEXT, b"hi")
                self.assertEqual(raw.frame().payload, b"hi")
            self.assertEqual(server.metric("oneport_websockets"), 2)

    def test_an_inherited_listener_serves_who_connected_before_the_server_was_there(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            early = self.enterContext(Bytes(listener.getsockname()))
            early.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with Server(CONFIG, bind="fd:3", start=activated(listener)) as server:
                self.assertEqual(server.port, listener.getsockname()[1])
                self.assertEqual(early.head()[0], 200)
                raw = self.enterContext(RawSocket(server, "/ws/echo/"))
                raw.say(TEXT, b"inherited")
                self.assertEqual(raw.frame().payload, b"inherited")

    def test_several_inherited_listeners_serve_in_any_order(self):
        config = '[server]\nbind = ["fd:4", "fd:3"]\n' + CONFIG
        with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
            with Server(config, bind=None, start=activated(first, second)):
                for listener in (first, second):
                    self.assertEqual(get(listener.getsockname()), 200)

    def test_an_inherited_unix_listener_stays_when_the_server_goes(self):
        with socket.socket(socket.AF_UNIX) as listener:
            server = Server(CONFIG, bind="fd:3", start=activated(listener))
            path = str(server.directory / "inherited.sock")
            listener.bind(path)
            listener.listen()
            with server:
                self.assertEqual(get(path), 200)
                server.stop()
                self.assertTrue(os.path.exists(path))

    def test_a_port_in_use_is_said_and_is_exit_code_1(self):
        with Server(CONFIG) as server:
            self.fails_to_start(server.config, ("--bind", server.host), rf"cannot listen at {server.host}: .*in use")

    def test_a_descriptor_that_was_not_passed_is_said(self):
        with Server(CONFIG) as server:
            self.fails_to_start(server.config, ("--bind", "fd:3"), "descriptor 3")

    def fails_to_start(self, config, arguments, pattern):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
        done = subprocess.run(
            [binary(), "serve", "--config", config, *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env=environment,
            cwd=config.parent,
        )
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, pattern)


class Limits(unittest.TestCase):
    def test_a_connection_over_the_limit_of_its_address_gets_503_and_room_is_made_again(self):
        with Server("[server.limits]\nconnections_per_ip = 3\n" + CONFIG) as server:
            # The connection that found the server ready may still count.
            until(lambda: server.metric("oneport_connections") == 1, "no connection but that which asks")
            held = [self.enterContext(RawSocket(server, "/ws/echo/")) for _ in range(3)]
            with Bytes(("127.0.0.1", server.port)) as over:
                status, fields = over.head()
                self.assertEqual((status, fields["connection"]), (503, "close"))
            held.pop().socket.close()

            def has_room():
                with Bytes(("127.0.0.1", server.port)) as client:
                    try:
                        client.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                        return client.head()[0] == 200
                    except OSError:
                        return False

            until(has_room, "room for another connection")
            # The connection that found room may still count when the metrics are asked for.
            refused = lambda: server.metric("oneport_connections_refused_total", reason="connections_per_ip")
            until(lambda: refused() > 0, "the refused connection to be counted")


if __name__ == "__main__":
    unittest.main()
