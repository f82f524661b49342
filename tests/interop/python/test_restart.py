"""Restart: SIGUSR2 replaces the process; one that cannot start leaves the old one serving."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
import unittest

import jwt
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame
from websockets.exceptions import InvalidStatus

from kit.deadline import until
from kit.frames import CLOSE, TEXT, Bytes, RawSocket, close_payload
from kit.http2 import Client
from kit.peer import Peer
from kit.postgres import free_port
from kit.restart import Adopted, RestartServer, SecureRestartServer, exists, settled
from kit.server import binary
from kit.tls import Authority
from test_backend_away import SECRET, Backend
from test_listeners import activated, get

CONFIG = """
[server]
{server}

[server.timeouts]
drain = "20s"
restart = "{restart}"

[[http.route]]
path = "/files/{{*path}}"
view = "static"
options = {{ dir = "files" }}

[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news" }}

[[http.route]]
path = "/version/"
view = "respond"
options = {{ body = "{body}" }}

[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

CONFIG_WITHOUT_SERVER = """
[[websocket.route]]
path = "/ws/echo/"
consumer = "echo"
"""

KEY = "0123456789abcdef" * 4

FILE = bytes(range(256)) * (1 << 15)  # 8 MiB: more than the kernel's buffers take


def config(server="", restart="20s", body="one"):
    return CONFIG.format(server=server, restart=restart, body=body)


class Case(unittest.TestCase):
    def start(self, *arguments, server="", restart="20s", **options):
        text = config(server, restart)
        return self.enterContext(RestartServer(text, *arguments, files={"files/large.bin": FILE}, **options))

    def idle(self, server):
        """Returns a connection that waits for its next request."""
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        self.ask(client)
        return client

    def ask(self, client):
        client.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, fields = client.head()
        self.assertEqual(status, 200)
        client.exactly(int(fields["content-length"]))
        return fields

    def still_serves(self, server, peer, pid):
        self.assertEqual(server.pid, pid)
        self.assertTrue(server.is_running)
        peer.send("still here")
        self.assertEqual(peer.receive(), "still here")
        self.assertEqual(server.request("/health/")[0], 200)
        self.assertEqual(server.children(), [])


class Success(Case):
    def test_the_new_process_serves_and_the_old_one_tells_its_sockets_1012(self):
        server = self.start()
        old, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        server.begin_restart()
        self.assertEqual(peer.closed()[0], 1012)
        process = server.replaced()
        self.assertNotEqual(server.pid, old)
        server.ended(process)
        self.assertRegex(server.log(), r"cause=.?restart\b")
        with Peer(server, "/ws/echo/") as again:
            again.send("new")
            self.assertEqual(again.receive(), "new")

    def test_the_new_process_reads_the_file_that_is_there_now(self):
        server = self.start()
        self.assertEqual(server.request("/version/")[2], b"one")
        server.write(config(body="two"))
        server.restart()
        self.assertEqual(server.request("/version/")[2], b"two")

    def test_a_request_finishes_in_the_old_process(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=4096))
        client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(server.request("/health/")[0], 200)
        self.assertEqual(client.exactly(len(FILE)), FILE)
        client.socket.close()
        server.ended(old)

    def test_an_idle_connection_sends_one_more_request_and_is_told_to_close(self):
        server = self.start()
        client = self.idle(server)
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(self.ask(client)["connection"], "close")
        self.assertTrue(client.is_at_end())
        server.ended(old)

    def test_a_connection_that_has_said_nothing_yet_is_answered(self):
        server = self.start()
        silent = self.enterContext(Bytes(("127.0.0.1", server.port)))
        half = self.enterContext(Bytes(("127.0.0.1", server.port)))
        half.send(b"GET /health/ HTTP/1.1\r\nHo")
        self.ask(self.idle(server))  # so that both are accepted
        server.begin_restart()
        server.replaced()
        self.ask(silent)
        half.send(b"st: localhost\r\n\r\n")
        self.assertEqual(half.head()[0], 200)

    def test_a_handshake_on_a_connection_of_the_old_process_opens_a_socket_that_is_told_1012(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        self.ask(client)
        server.begin_restart()
        server.replaced()
        client.send(
            b"GET /ws/echo/ HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        self.assertEqual(client.head()[0], 101)
        head = client.exactly(2)
        self.assertEqual((head[0], client.exactly(head[1])[:2]), (0x88, (1012).to_bytes(2)))

    def test_an_http2_connection_gets_goaway_and_its_streams_finish(self):
        server = self.start()
        client = self.enterContext(Client(server, stream_window=1000))
        stream = client.ask("/files/large.bin")
        client.stuck.add(stream)
        client.until(lambda: len(client.answers[stream][1]) >= 1000, "the first window")
        server.begin_restart()
        old = server.replaced()
        # The library takes GOAWAY for the end of everything, so what follows is read past it.
        client.h2.increment_flow_control_window(len(FILE))
        client.h2.increment_flow_control_window(len(FILE), stream)
        client.flush()
        received, goaway = len(client.answers[stream][1]), []
        for frame in client.frames():
            if isinstance(frame, DataFrame):
                received += len(frame.data)
                if "END_STREAM" in frame.flags:
                    break
            elif isinstance(frame, GoAwayFrame):
                goaway.append((frame.error_code, frame.last_stream_id))
            elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                client.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        self.assertEqual(received, len(FILE))
        self.assertEqual(goaway, [(0, 2**31 - 1), (0, stream)])
        client.cut()
        server.ended(old)

    def test_a_stream_of_events_ends_between_two_events(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        client.send(b"GET /events/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        server.begin_restart()
        self.assertTrue(client.rest().endswith(b"\r\n0\r\n\r\n"), "the last chunk says that nothing is missing")
        server.replaced()

    def test_ten_in_a_row_leak_no_descriptor_no_process_and_no_variable(self):
        server = self.start(environment={"LISTEN_FDS": "0", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x", "MARKER": "kept"})
        kinds = lambda: sorted(re.sub(r"\d+", "N", place) for place in server.descriptors().values())
        before = None
        pids = {server.pid}
        for _ in range(10):
            pids.add(server.restart())
            self.assertEqual(server.request("/health/")[0], 200)
            now = settled(kinds)
            before = before or now
            self.assertEqual(now, before)
            self.assertEqual(server.children(), [])
        self.assertEqual(len(pids), 11)
        self.assertEqual(os.readlink(f"/proc/{server.pid}/fd/0"), "/dev/null")
        environment = server.environment()
        self.assertEqual(environment["MARKER"], "kept")
        self.assertFalse({"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"} & environment.keys())

    def test_the_new_program_is_the_one_at_the_path_now(self):
        server = self.start()
        server.install(f'#!/bin/sh\nexport WHO=wrapper\nexec {binary()} "$@"\n')
        server.restart()
        self.assertEqual(server.environment()["WHO"], "wrapper")
        server.install(binary())
        server.restart()
        self.assertEqual(server.request("/health/")[0], 200)

    def test_a_wrapper_that_stays_is_no_obstacle(self):
        server = self.start()
        server.install(f'#!/bin/sh\n{binary()} "$@"\nexit $?\n')
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(server.request("/health/")[0], 200)
        server.ended(old)

    def test_a_changed_file_reloads_the_new_process_too(self):
        server = self.start("--watch")
        server.restart()
        before = server.reloads()
        server.write(config(body="watched"))
        until(lambda: server.reloads() > before, lambda: f"a reload\n{server.log()}")
        self.assertEqual(server.request("/version/")[2], b"watched")


class Tickets(Case):
    CONFIG = """
[http]
middleware = ["session", "auth"]

[[http.route]]
path = "/ticket/"
view = "ticket"

[[websocket.route]]
path = "/ws/mine/"
consumer = "echo"
middleware = ["auth", "login_required"]
"""

    def ticket(self, client, token):
        client.send(f"POST /ticket/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n".encode())
        status, fields = client.head()
        body = client.exactly(int(fields["content-length"]))
        self.assertEqual(status, 200, body)
        return json.loads(body)["ticket"]

    def test_a_ticket_of_the_old_process_admits_one_socket_of_the_new_one(self):
        bearer = f'[auth.bearer]\nkey = "{KEY}"\n'
        server = self.enterContext(RestartServer(config() + bearer + self.CONFIG, files={"files/a": "a"}))
        token = jwt.encode({"sub": "7", "name": "anna", "exp": int(time.time()) + 600}, KEY, "HS256")
        client = self.enterContext(Bytes(("127.0.0.1", server.port)))
        before = self.ticket(client, token)
        server.begin_restart()
        old = server.replaced()
        after = self.ticket(client, token)  # still of the old process
        for ticket in (before, after):
            peer = until(lambda: admitted(server, ticket), "a socket")
            peer.send("mine")
            self.assertEqual(peer.receive(), "mine")
            peer.__exit__()
            self.assertIsNone(admitted(server, ticket), "a ticket admits one socket")
        server.ended(old)


def admitted(server, ticket):
    """Returns a socket, or `None` if the ticket is not valid."""
    try:
        return Peer(server, "/ws/mine/", subprotocols=["ticket", ticket])
    except InvalidStatus:
        return None


class Backends(Case):
    def test_a_backend_hears_that_the_connections_of_the_old_process_are_gone_once_they_are(self):
        backend = self.enterContext(Backend())
        route = f"""
[[websocket.route]]
path = "/ws/{{room}}/"
consumer = "backend"
options = {{ url = "{backend.url}", secret = "{SECRET}" }}
"""
        server = self.enterContext(RestartServer(config('name = "here"') + route, files={"files/large.bin": FILE}))
        first = backend.hear("oneport.node_started").body["node"]["id"]
        client = self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=4096))
        client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        raw = self.enterContext(RawSocket(server, "/ws/one/"))
        backend.hear("websocket.connect", "one")
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(raw.frame().code, 1012)
        with Peer(server, "/ws/two/"):
            backend.hear("websocket.connect", "two")
            # The old process still has a client, and may have connections that the backend knows.
            self.assertEqual(len(backend.requests("oneport.node_started")), 1)
            raw.say(CLOSE, close_payload(1012))
            gone = backend.hear("websocket.disconnect", "one")
            self.assertEqual((gone.event["code"], gone.event["cause"]), (1012, "restart"))
            self.assertEqual(client.exactly(len(FILE)), FILE)
            client.socket.close()
            server.ended(old)
            second = backend.hear("oneport.node_started", number=2)
            self.assertNotEqual(second.body["node"]["id"], first)
            self.assertEqual(second.event["name"], "here")


class Failure(Case):
    def test_a_wrong_configuration_is_logged_by_the_old_process_which_serves_on(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        right = server.config.read_text(encoding="utf-8")
        server.write(config() + '[[websocket.route]]\npath = "/x/"\nconsumer = "ehco"\n')
        server.begin_restart()
        server.failed()
        self.assertRegex(server.log(), r"ERROR.*oneport\.toml:\d+:\d+.*ehco")
        self.assertRegex(server.log(), r"ERROR.*exit status: 78")
        self.still_serves(server, peer, pid)
        self.assertEqual(server.metric("oneport_restarts_failed_total"), 1)
        server.config.write_text(right, encoding="utf-8")
        server.restart()

    def test_a_program_that_is_missing_or_cannot_be_run_is_said(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        server.program.unlink()
        server.begin_restart()
        server.failed()
        self.assertRegex(server.log(), r"cannot start a new process: .*bin/oneport: No such file")
        server.install("#!/bin/sh\n")
        server.program.chmod(stat.S_IRUSR)
        if os.geteuid() == 0:
            self.assertFalse(os.access(server.program, os.X_OK))
        server.begin_restart()
        server.failed(times=2)
        self.assertRegex(server.log(), r"cannot start a new process: .*bin/oneport: Permission denied")
        server.install("no program")
        server.begin_restart()
        server.failed(times=3)
        self.still_serves(server, peer, pid)

    def test_a_program_that_crashes_or_exits_leaves_no_zombie(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        for times, (script, said) in enumerate([("kill -SEGV $$", r"signal: 11"), ("exit 0", r"exit status: 0")], 1):
            server.install(f"#!/bin/sh\n{script}\n")
            server.begin_restart()
            server.failed(times)
            self.assertRegex(server.log(), rf"the new process did not start \({said}")
            self.still_serves(server, peer, pid)

    def test_a_program_that_hangs_is_killed_at_the_deadline(self):
        server = self.start(restart="1s")
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        server.install("#!/bin/sh\nexec sleep 1000\n")
        server.begin_restart()
        child = until(server.children, "a new process")[0]
        server.failed()
        self.assertIn("timeouts.restart", server.log())
        until(lambda: not exists(child), "the end of the new process")
        until(lambda: server.children() == [], "no zombie")
        self.still_serves(server, peer, pid)

    def test_a_program_that_reports_nonsense_is_killed(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        server.install("#!/bin/sh\necho hello >&0\nexec sleep 1000\n")
        server.begin_restart()
        server.failed()
        self.assertIn("no valid report", server.log())
        until(lambda: server.children() == [], "the end of the new process")
        self.still_serves(server, peer, pid)

    def test_a_process_behind_a_wrapper_stops_when_the_restart_has_failed(self):
        # The wrapper goes on to the program once it has reported in words of another version; is killed before the program
        # begins to read; or has ended when the report arrives.
        nonsense = "echo '{\"ready\":{\"pid\":1}}' >&0\n"
        wrappers = {
            "stays": (nonsense, "", "wait"),
            "is killed": (nonsense, "sleep 1.5; ", "wait"),
            "has ended": ("", "", "exit 0"),
        }
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        place = server.directory / "child"
        for times, (name, (before, wait, after)) in enumerate(wrappers.items(), 1):
            with self.subTest(name):
                program = f'({wait}exec {binary()} "$@") <&3 3<&- & echo $! >{place}.draft; mv {place}.draft {place}'
                server.install(f"#!/bin/sh\n{before}exec 3<&0\n{program}\n{after}\n")
                server.begin_restart()
                child = Adopted(int(until(lambda: place.exists() and place.read_text(encoding="ascii"), "a new process")))
                self.addCleanup(child.kill)
                place.unlink()
                server.failed(times)
                until(lambda: not exists(child.pid), lambda: f"the end of the new process\n{server.log()}")
                self.still_serves(server, peer, pid)
        self.assertNotIn("the old process has died", server.log())

    def test_an_address_that_cannot_be_opened_is_said(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server.install(f'#!/bin/sh\nexec {binary()} "$@" --bind 127.0.0.1:{port}\n')
            server.begin_restart()
            server.failed()
        self.assertRegex(server.log(), rf"ERROR.*cannot listen at 127\.0\.0\.1:{port}")
        self.still_serves(server, peer, pid)

    def test_too_few_open_files_and_a_log_that_cannot_be_written_are_said(self):
        server = self.start()
        pid, peer = server.pid, self.enterContext(Peer(server, "/ws/echo/"))
        server.install(f'#!/bin/sh\nulimit -n 60\nexec {binary()} "$@"\n')
        server.begin_restart()
        server.failed()
        self.assertRegex(server.log(), r"ERROR.*the limit of open files is 60")
        server.install(binary())
        server.write(config() + '[log]\nfile = "files/large.bin/log"\n')
        server.begin_restart()
        server.failed(times=2)
        self.assertRegex(server.log(), r"ERROR.*oneport\.toml:\d+:\d+.*large\.bin")
        self.still_serves(server, peer, pid)

    def test_a_program_that_takes_long_is_waited_for(self):
        server = self.start()
        peer = self.enterContext(Peer(server, "/ws/echo/"))
        server.slow(2)
        server.begin_restart()
        until(server.children, "a new process")
        peer.send("meanwhile")
        self.assertEqual(peer.receive(), "meanwhile")
        self.assertEqual(server.request("/health/")[0], 200)
        server.ended(server.replaced())


class Signals(Case):
    def slow_restart(self, *arguments, **options):
        """Returns a server whose new process takes a moment to start, and that process."""
        server = self.start(*arguments, **options)
        server.slow(1.5)
        server.begin_restart()
        return server, until(server.children, "a new process")[0]

    def test_a_second_sigusr2_is_ignored(self):
        server, child = self.slow_restart()
        server.begin_restart()
        server.wait_for_log("this one is ignored")
        old = server.replaced()
        self.assertEqual(server.pid, child)
        server.ended(old)
        self.assertEqual(server.log().count("starting a new process"), 1)

    def test_sigusr2_to_a_process_that_drains_is_ignored(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(raw.frame().code, 1012)
        os.kill(old.pid, signal.SIGUSR2)
        server.wait_for_log("is ignored")
        raw.say(CLOSE, close_payload(1012))
        server.ended(old)

    def test_sigusr2_is_ignored_while_the_process_before_drains(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(raw.frame().code, 1012)
        server.begin_restart()
        server.wait_for_log("has replaced still drains; SIGUSR2 is ignored")
        self.assertEqual(server.children(), [])
        raw.say(CLOSE, close_payload(1012))
        server.ended(old)
        server.alone(old)
        server.restart()
        self.assertNotIn("ERROR", server.log())

    def test_a_process_that_stops_while_the_one_before_drains_is_no_error(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(raw.frame().code, 1012)
        server.stop()
        server.wait_for_log("the process that serves has stopped")
        raw.say(CLOSE, close_payload(1012))
        server.ended(old)
        self.assertNotIn("ERROR", server.log())

    def test_sighup_to_a_process_that_drains_reloads_the_one_that_serves(self):
        server = self.start()
        raw = self.enterContext(RawSocket(server, "/ws/echo/"))
        server.begin_restart()
        old = server.replaced()
        self.assertEqual(raw.frame().code, 1012)
        server.write(config(body="two"))
        os.kill(old.pid, signal.SIGHUP)
        until(lambda: server.reloads() == 1, lambda: f"a reload of the new process\n{server.log()}")
        self.assertEqual(server.request("/version/")[2], b"two")
        self.assertIn("SIGHUP is passed on", server.log())
        raw.say(CLOSE, close_payload(1012))
        server.ended(old)

    def test_sigterm_ends_the_new_process_at_once_although_the_old_one_serves_for_a_while(self):
        text = config() + '[server.drain]\ndelay = "5s"\n'
        server = self.enterContext(RestartServer(text, files={"files/a": "a"}))
        server.install("#!/bin/sh\nexec sleep 1000\n")
        server.begin_restart()
        child = until(server.children, "a new process")[0]
        server.signal(signal.SIGTERM)
        until(lambda: not exists(child), "the end of the new process")
        self.assertEqual(server.request("/health/")[0], 503)
        server.signal(signal.SIGHUP)
        server.wait_for_log("SIGHUP is ignored")
        server.wait()

    def test_sigterm_ends_both(self):
        server, child = self.slow_restart()
        server.signal(signal.SIGTERM)
        server.wait()
        until(lambda: not exists(child), "the end of the new process")

    def test_a_second_sigterm_ends_both_at_once(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=4096))
        client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        server.install("#!/bin/sh\nexec sleep 1000\n")
        server.begin_restart()
        child = until(server.children, "a new process")[0]
        server.signal(signal.SIGTERM)
        server.wait_for_log("a second signal exits at once")
        began = time.monotonic()
        server.stop()
        self.assertLess(time.monotonic() - began, 5)
        until(lambda: not exists(child), "the end of the new process")

    def test_a_second_sigterm_to_the_old_process_while_it_drains_ends_it_at_once(self):
        server = self.start()
        client = self.enterContext(Bytes(("127.0.0.1", server.port), receive_buffer=4096))
        client.send(b"GET /files/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(client.head()[0], 200)
        server.begin_restart()
        old = server.replaced()
        os.kill(old.pid, signal.SIGTERM)
        server.wait_for_log("drains already")
        os.kill(old.pid, signal.SIGTERM)
        began = time.monotonic()
        server.ended(old)
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(server.request("/health/")[0], 200)

    def test_sighup_reaches_the_new_process_too(self):
        server, _ = self.slow_restart()
        # The new process reads its file after the reload or before it; in the end it has read this one.
        server.reload(config(body="two"))
        self.assertEqual(server.request("/version/")[2], b"two")
        server.ended(server.replaced())
        until(lambda: server.reloads() == 2, lambda: f"a reload of the new process\n{server.log()}")
        self.assertEqual(server.request("/version/")[2], b"two")

    def test_the_new_process_serves_on_when_the_old_one_is_killed(self):
        server, child = self.slow_restart()
        server.signal(signal.SIGKILL)
        server.wait(-signal.SIGKILL)
        server._process = Adopted(child)
        until(server._is_healthy, lambda: f"a healthy server\n{server.log()}")
        server.wait_for_log("the old process has died")
        server.install(binary())
        server.restart()


class Addresses(Case):
    def test_ipv4_ipv6_unix_sockets_and_several_of_them(self):
        bind = 'bind = ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:run/a.sock", "unix:run/b.sock"]'
        server = self.start(server=bind, bind=None)
        places = [(found[1], int(found[2])) for found in re.finditer(r"http://(\S+):(\d+)", server.log().split("\n")[0])]
        self.assertGreaterEqual(len(places), 3, server.log())
        addresses = [(host.strip("[]"), port) for host, port in places]
        addresses += [str(server.directory / f"run/{name}.sock") for name in "ab"]
        inodes = [os.stat(address).st_ino for address in addresses[-2:]]
        for _ in range(3):
            server.restart()
            for address in addresses:
                self.assertEqual(get(address), 200, address)
        self.assertEqual([os.stat(address).st_ino for address in addresses[-2:]], inodes)
        server.stop()
        self.assertEqual([os.path.exists(address) for address in addresses[-2:]], [False, False])

    def test_the_listener_of_metrics(self):
        port = free_port()
        text = config() + f'[metrics]\nbind = ["127.0.0.1:{port}"]\n'
        server = self.enterContext(RestartServer(text, files={"files/a": "a"}))
        for _ in range(2):
            self.assertEqual(get(("127.0.0.1", port), "/metrics"), 200)
            server.restart()
        self.assertEqual(get(("127.0.0.1", port), "/metrics"), 200)

    def test_an_address_is_added_and_another_removed(self):
        server = self.start(server='bind = ["127.0.0.1:0", "unix:run/old.sock"]', bind=None)
        port = server.port
        with socket.create_server(("127.0.0.1", 0)) as free:
            added = free.getsockname()[1]
        server.write(config(server=f'bind = ["127.0.0.1:0", "127.0.0.1:{added}", "unix:run/new.sock"]'))
        server.restart()
        self.assertEqual(get(("127.0.0.1", port)), 200)
        self.assertEqual(get(("127.0.0.1", added)), 200)
        self.assertEqual(get(str(server.directory / "run/new.sock")), 200)
        self.assertFalse((server.directory / "run/old.sock").exists())

    def test_the_file_of_another_server_at_the_path_of_a_unix_socket_is_left_alone(self):
        server = self.start(server='bind = ["127.0.0.1:0", { address = "unix:run/a.sock", mode = "0600" }]', bind=None)
        path = server.directory / "run/a.sock"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            path.chmod(0o666)
            server.restart()
            server.restart()
            self.assertRegex(server.log(), r"WARN.*a\.sock is another program's")
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o666)
            server.stop()
            self.assertTrue(path.exists())

    @unittest.skipUnless(shutil.which("ss"), "needs ss")
    def test_a_backlog_that_has_changed(self):
        bind = 'bind = [{{ address = "127.0.0.1:0", backlog = {0} }}, {{ address = "unix:run/a.sock", backlog = {0} }}]'
        server = self.start(server=bind.format(77), bind=None)
        path = server.directory / "run/a.sock"

        def backlogs():
            listening = (["ss", "-Hltn", f"sport = :{server.port}"], ["ss", "-Hlx"])
            tcp, unix = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in listening)
            unix = next(line for line in unix.splitlines() if str(path) in line)
            return int(tcp.split()[2]), int(unix.split()[3])

        def waiting():
            """Returns connections that the server does not accept, because it stands still."""
            clients = [self.enterContext(Bytes(("127.0.0.1", server.port))) for _ in range(5)]
            for client in clients:
                client.send(b"GET /health/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return clients

        self.assertEqual(backlogs(), (77, 77))
        server.reload(config(server=bind.format(99)))
        self.assertEqual(backlogs(), (99, 99))
        # Those that wait in a queue that becomes shorter are served all the same.
        server.write(config(server=bind.format(1)))
        server.signal(signal.SIGSTOP)
        clients = waiting()
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGCONT)
        for client in clients:
            self.assertEqual(client.head()[0], 200)
        until(lambda: backlogs() == (1, 1), "the shorter queues")
        server.write(config(server=bind.format(55)))
        server.restart()
        self.assertEqual(backlogs(), (55, 55))

    def test_a_restart_that_fails_changes_no_option_of_a_listener(self):
        bind = 'bind = ["127.0.0.1:0", {{ address = "unix:run/a.sock", mode = "{}" }}, {}]'
        server = self.start(server=bind.format("0600", '"unix:run/b.sock"'), bind=None)
        path = server.directory / "run/a.sock"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server.write(config(server=bind.format("0666", f'"127.0.0.1:{taken.getsockname()[1]}"')))
            server.begin_restart()
            server.failed()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        server.restart()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o666)

    def test_a_unix_socket_whose_file_is_gone_is_opened_anew(self):
        server = self.start(server='bind = ["127.0.0.1:0", "unix:run/a.sock"]', bind=None)
        path = server.directory / "run/a.sock"
        path.unlink()
        server.restart()
        self.assertEqual(get(str(path)), 200)
        server.restart()
        self.assertEqual(get(str(path)), 200)

    def test_inherited_descriptors_of_systemd_stay_what_they_are(self):
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            server = RestartServer(config(server='bind = ["fd:4", "fd:3"]'), bind=None, start=activated(tcp, unix), files={"files/a": "a"})
            path = str(server.directory / "inherited.sock")
            unix.bind(path)
            unix.listen()
            with server:
                for _ in range(3):
                    server.restart()
                    self.assertEqual(get(tcp.getsockname()), 200)
                    self.assertEqual(get(path), 200)
                    self.assertFalse({"LISTEN_FDS", "LISTEN_PID"} & server.environment().keys())
                server.stop()
                self.assertTrue(os.path.exists(path))

    @unittest.skipUnless(shutil.which("systemd-socket-activate"), "needs systemd")
    def test_the_socket_that_systemd_itself_passes(self):
        port = free_port()

        def start(command, **options):
            wrapped = ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-E", "NO_COLOR", *map(str, command)]
            process = subprocess.Popen(wrapped, **options)

            def first():
                try:
                    with socket.create_connection(("127.0.0.1", port)):
                        return True
                except OSError:
                    return False

            until(first, "a socket of systemd-socket-activate")  # which starts the program at the first connection
            return process

        server = self.start(bind="fd:3", start=start)
        self.assertEqual(server.port, port)
        for _ in range(2):
            server.restart()
            self.assertEqual(server.request("/health/")[0], 200)

    def test_tls_listeners_and_a_certificate_that_has_changed(self):
        authority = Authority()
        server = self.enterContext(SecureRestartServer(authority, CONFIG_WITHOUT_SERVER))

        def serial():
            with server.connect() as client:
                return client.getpeercert()["serialNumber"]

        before = serial()
        chain, key = authority.issue("localhost", "127.0.0.1")
        server.restart()
        self.assertEqual(serial(), before)
        server.put("tls/key.pem", key)
        server.put("tls/cert.pem", chain)
        server.restart()
        self.assertNotEqual(serial(), before)
        self.assertEqual(server.request("/health/")[0], 200)
        self.assertEqual(server.plain("/health/")[0], 308)


if __name__ == "__main__":
    unittest.main()
