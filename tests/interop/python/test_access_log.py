"""The access log as other programs read it: GoAccess, `apachelogs` and `json`, and as logrotate rotates it. What a client sends
forges neither a line nor a field, and no file that fails stops the server.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import unittest

from apachelogs import COMBINED, COMMON, LogParser

from kit.deadline import DEADLINE, until
from kit.frames import RawSocket
from kit.server import Server, binary

# Debian keeps it out of the PATH of ordinary users.
LOGROTATE = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "logrotate"

CONFIG = """
[server]
allowed_hosts = ["*"]

[log]
{log}

[http]
middleware = []

[websocket]
middleware = []

[[http.route]]
path = "/quiet/"
view = "respond"
access_log = "off"

[[http.route]]
path = "/sampled/{{n}}"
view = "respond"
access_log = 0.25

[[http.route]]
path = "/sampled-proxy/{{n}}"
view = "proxy"
options = {{ upstream = ["http://127.0.0.1:1"] }}
access_log = 0.0

[[http.route]]
path = "/{{*rest}}"
view = "respond"
options = {{ body = "hello" }}

[[websocket.route]]
path = "/ws/"
consumer = "echo"
"""

# Each tries to end a value, a line, or to act on a terminal.
ATTACKS = (
    b'x" 200 5 "-" "forged',
    b"x] \"GET /forged HTTP/1.1\" 200 5",
    b"\x1b[31mred\x1b[2J",
    b"\xff\xfe\x80\xc2",
    "\u009b31m\u2028\u202e".encode(),
    b"back\\slash\\\"",
    b"tab\there",
    b"status=500 forged=1",
    b"{status} %s %{n}",
    b"x" * 6000,
)


def raw(server, data):
    """Sends bytes as they are, and returns the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as client:
        client.sendall(data)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def get(server, path=b"/", *fields):
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close", *fields]
    return raw(server, b"\r\n".join(lines) + b"\r\n\r\n")


class AccessLog(unittest.TestCase):
    def server(self, log):
        return Server(CONFIG.format(log=log), files={"logs/other": ""})

    def lines(self, server, count, name="access.log"):
        """The lines of a file once there are so many, without those of the health check."""
        path = server.directory / name

        def read():
            text = path.read_bytes().decode("ascii" if name == "access.log" else "utf-8") if path.exists() else ""
            found = [line for line in text.splitlines() if "/health/" not in line and "/metrics" not in line]
            return found if len(found) >= count else None

        return until(read, lambda: f"{count} lines in {name}\n{server.log()}")

    def until_last(self, server, name="access.log"):
        """The lines up to that of a last request. A head that is not HTTP has none."""
        get(server, b"/last", b"User-Agent: curl")
        return until(
            lambda: (found := self.lines(server, 1, name)) and "/last" in found[-1] and found,
            lambda: f"the last line in {name}\n{server.log()}",
        )

    def attack(self, server, values=ATTACKS):
        for number, value in enumerate(values):
            get(server, b"/a%d" % number, b"User-Agent: " + value, b"Referer: " + value)
            get(server, b"/b?q=" + value.replace(b" ", b"+").replace(b"\t", b""))

    def test_combined_lines_are_read_by_another_parser(self):
        with self.server('access_format = "combined"\naccess_file = "access.log"') as server:
            self.attack(server)
            entries = list(LogParser(COMBINED).parse_lines(self.until_last(server)))
            by_line = {entry.request_line: entry for entry in entries}
            seen = 0
            for number, value in enumerate(ATTACKS):
                entry = by_line.get(f"GET /a{number} HTTP/1.1")
                if entry is None:
                    continue  # the head was not HTTP
                seen += 1
                shown = value if len(value) <= 2048 else value[:2048] + b"..."
                self.assertEqual(entry.headers_in["User-Agent"].encode("latin-1"), shown)
                self.assertEqual(entry.headers_in["Referer"].encode("latin-1"), shown)
                self.assertEqual((entry.final_status, entry.bytes_sent, entry.remote_host), (200, 5, "127.0.0.1"))
            self.assertGreaterEqual(seen, 7)
            self.assertFalse([line for line in by_line if "forged" in line and not line.startswith("GET /b?q=")])
            # A socket has one line, at its end.
            with RawSocket(server, "/ws/"):
                pass
            last = LogParser(COMBINED).parse(self.lines(server, len(entries) + 1)[-1])
            self.assertEqual((last.final_status, last.request_line), (101, "GET /ws/ HTTP/1.1"))

    def test_common_lines_are_read_by_another_parser_and_credentials_are_hidden(self):
        with self.server('access_format = "common"\naccess_file = "access.log"') as server:
            get(server, b"/x?access_token=abcdef&a=1")
            entry = LogParser(COMMON).parse(self.lines(server, 1)[0])
            self.assertEqual(entry.request_line, "GET /x?access_token=(hidden)&a=1 HTTP/1.1")

    def test_goaccess_finds_no_invalid_line(self):
        with self.server('access_format = "combined"\naccess_file = "access.log"') as server:
            # It takes no line over 4,096 bytes.
            self.attack(server, ATTACKS[:-1])
            for _ in range(20):
                get(server, b"/page", b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0")
            count = len(self.until_last(server))
            report = server.directory / "report.json"
            subprocess.run(
                ["goaccess", server.directory / "access.log", "--log-format=COMBINED", "--no-global-config", "-o", report],
                check=True,
                capture_output=True,
                timeout=DEADLINE,
            )
            general = json.loads(report.read_text(encoding="utf-8"))["general"]
            self.assertEqual(general["failed_requests"], 0)
            self.assertGreaterEqual(general["valid_requests"], count)

    def test_credentials_in_header_fields_are_hidden(self):
        log = 'access_fields = ["header:authorization", "header:sec-websocket-protocol", "response_header:set-cookie", "path"]\naccess_file = "access.log"'
        with self.server(log) as server:
            get(server, b"/x", b"Authorization: Bearer SECRET", b"Sec-WebSocket-Protocol: chat, bearer, SECRET")
            line = self.lines(server, 1)[-1]
            self.assertIn('header.authorization="(hidden)" header.sec-websocket-protocol="chat, bearer, (hidden)"', line)
            self.assertNotIn("SECRET", line)
            for field in ("access_fields[0]", "access_fields[2]"):
                self.assertRegex(server.log(), re.escape(field) + r": warning: .* are credentials")

    def test_a_log_in_a_file_tells_of_the_start_and_the_end(self):
        with self.server('file = "the.log"') as server:
            pid = server.pid
            server.stop()
            lines = (server.directory / "the.log").read_text(encoding="utf-8").splitlines()
        self.assertRegex("\n".join(lines), rf"INFO .*listening version=\S+ pid={pid} listeners=\"http://127\.0\.0\.1:\d+\"")
        self.assertRegex(lines[-1], rf"INFO .*stopped pid={pid} sockets=0 cut_off=0")

    def test_chosen_fields_are_objects_of_json(self):
        log = 'access_format = "json"\naccess_fields = ["status", "header:user-agent", "response_header:content-type", "protocol", "client_ip"]\naccess_file = "access.json"'
        with self.server(log) as server:
            self.attack(server)
            # No line has its path: the last is known by its place.
            get(server, b"/x", b"User-Agent: the-last")
            lines = until(
                lambda: (found := self.lines(server, 1, "access.json")) and "the-last" in found[-1] and found,
                lambda: "the last line",
            )
            objects = [json.loads(line) for line in lines]
            last = objects[-1]
            self.assertEqual(last["header.user-agent"], "the-last")
            self.assertTrue(last["response_header.content-type"].startswith("text/plain"))
            self.assertEqual((last["status"], last["protocol"], last["client_ip"]), (200, "HTTP/1.1", "127.0.0.1"))
            for one in objects:
                self.assertNotIn("forged", one)
                self.assertLess(len(json.dumps(one)), 20_000)

    def test_a_route_is_off_or_sampled_and_failures_are_always_there(self):
        with self.server('access_format = "{status} {path}"\naccess_file = "access.log"') as server:
            for number in range(200):
                get(server, b"/quiet/")
                get(server, b"/sampled/%d" % number)
            for number in range(5):
                get(server, b"/sampled-proxy/%d" % number)
            get(server, b"/last")
            lines = until(
                lambda: (found := self.lines(server, 1)) and found[-1] == "200 /last" and found,
                lambda: "the last line",
            )
            sampled = [line for line in lines if "/sampled/" in line]
            self.assertTrue(15 <= len(sampled) <= 95, len(sampled))
            self.assertEqual(sum("/sampled-proxy/" in line for line in lines), 5)
            self.assertFalse(any("/quiet/" in line for line in lines))

    def test_logrotate_rotates_without_losing_a_line(self):
        log = 'file = "oneport.log"\naccess_format = "{path}"\naccess_file = "access.log"'
        with self.server(log) as server:
            rotate = server.directory / "rotate.conf"
            os.chmod(server.directory, 0o755)
            rotate.write_text(
                f"""{server.directory}/*.log {{
    rotate 4
    missingok
    nocreate
    sharedscripts
    postrotate
        kill -USR1 {server.pid}
    endscript
}}
""",
                encoding="utf-8",
            )
            os.chmod(rotate, 0o644)
            sent = 0
            for turn in range(3):
                for _ in range(50):
                    get(server, b"/%d" % sent)
                    sent += 1
                subprocess.run(
                    [LOGROTATE, "--force", "--state", server.directory / "state", rotate],
                    check=True,
                    capture_output=True,
                    timeout=DEADLINE,
                )
                opened = server.directory / "access.log"
                until(opened.exists, lambda: f"access.log after turn {turn}\n{server.log()}")
            get(server, b"/%d" % sent)
            names = ["access.log.3", "access.log.2", "access.log.1", "access.log"]

            def read():
                found = []
                for name in names:
                    path = server.directory / name
                    text = path.read_text(encoding="ascii") if path.exists() else ""
                    found += [line for line in text.splitlines() if re.fullmatch(r"/\d+", line)]
                return found if len(found) > sent else None

            found = until(read, lambda: "all lines in the rotated files")
            self.assertEqual(found, [f"/{number}" for number in range(sent + 1)])
            self.assertIn("opened the log file again", (server.directory / "oneport.log").read_text(encoding="utf-8"))
            mode = (server.directory / "access.log").stat().st_mode
            self.assertEqual(mode & 0o137, 0, oct(mode))

    def test_a_removed_file_and_a_removed_directory_stop_nothing(self):
        with self.server('access_format = "{path}"\naccess_file = "logs/access.log"') as server:
            pass_through = server.directory / "logs"
            get(server, b"/before")
            self.lines(server, 1, "logs/access.log")
            (pass_through / "access.log").unlink()
            # Noticed by the first line that is more than a second later.
            until(lambda: get(server, b"/again") and (pass_through / "access.log").exists(), lambda: "the file, opened again")
            shutil.move(pass_through, server.directory / "moved")
            server.signal(signal.SIGUSR1)
            server.wait_for_log("cannot open the log file again")
            self.assertIn(b"hello", get(server, b"/still"))
            moved = server.directory / "moved/access.log"
            until(lambda: "/still" in moved.read_text(encoding="ascii"), lambda: "lines in the file that is open")
            pass_through.mkdir()
            server.signal(signal.SIGUSR1)
            until((pass_through / "access.log").exists, lambda: "the file in its directory")

    def test_a_reload_changes_the_form_the_file_and_the_level(self):
        with self.server('access_format = "{path}"\naccess_file = "access.log"') as server:
            get(server, b"/one")
            self.lines(server, 1)
            server.reload(CONFIG.format(log='format = "json"\nlevel = "info,oneport=debug"\naccess_format = "combined"\naccess_file = "logs/other"'))
            get(server, b"/two", b"User-Agent: curl")
            line = self.lines(server, 1, "logs/other")[0]
            self.assertEqual(LogParser(COMBINED).parse(line).request_line, "GET /two HTTP/1.1")
            self.assertEqual(len(self.lines(server, 1)), 1)
            # One of its files cannot be opened: nothing changes.
            server.reload(CONFIG.format(log='file = "new.log"\naccess_file = "missing/access.log"'))
            get(server, b"/three")
            self.lines(server, 2, "logs/other")
            self.assertFalse((server.directory / "new.log").exists())
            server.write(CONFIG.format(log="access = false"))
            server.signal(signal.SIGHUP)
            server.wait_for_log(r"sockets_ended=\d+\n$")
            get(server, b"/four")
            self.assertEqual(len(self.lines(server, 2, "logs/other")), 2)

    def test_a_file_that_cannot_be_opened_is_an_error_at_its_place(self):
        for log, place, code in (
            ('file = "missing/oneport.log"', r"oneport\.toml:6:\d+", 78),
            ('access_file = "."', r"oneport\.toml:6:\d+", 78),
            ('access_file = "/proc/access.log"', r"oneport\.toml:6:\d+", 78),
        ):
            server = self.server(log)
            self.addCleanup(server.close)
            done = subprocess.run(
                [binary(), "serve", "--config", server.config],
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                env={**os.environ, "NO_COLOR": "1"},
            )
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertRegex(done.stderr, place)


if __name__ == "__main__":
    unittest.main()
