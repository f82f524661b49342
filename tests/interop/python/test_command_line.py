"""Command line: the output and the exit code of each command."""

import getpass
import json
import os
import socket
import subprocess
import tempfile
import textwrap
import unittest
from pathlib import Path

from kit.deadline import DEADLINE
from kit.server import ROOT, Server, binary

SHIPPED = ROOT / "config/oneport.toml"


def run(*arguments, cwd=None, user=None):
    """`user`: as whom, where the tests may change that; else as themselves."""
    if os.geteuid() != 0 and user not in (None, getpass.getuser()):
        raise unittest.SkipTest(f"only root can run a command as {user}")
    return subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=DEADLINE, cwd=cwd, user=user)


class CommandLine(unittest.TestCase):
    def file(self, text):
        directory = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="oneport-test-")))
        path = directory / "oneport.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def test_check_says_nothing_bad_of_the_shipped_file(self):
        done = run("check", "--config", SHIPPED)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"oneport.toml: \d+ HTTP and \d+ WebSocket routes, sound\n$")

    def test_check_calls_a_file_with_warnings_not_sound_and_still_ends_with_0(self):
        for hosts, verdict in (('"a.test"', "sound"), ('"*"', "1 warning"), ('"*", "*"', "1 warning")):
            with self.subTest(hosts=hosts):
                done = run("check", "--config", self.file(f"[server]\nallowed_hosts = [{hosts}]\n"))
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertTrue(done.stdout.endswith(f"oneport.toml: 0 HTTP and 0 WebSocket routes, {verdict}\n"), done.stdout)
        path = self.file('[http]\nheaders = { a = "b" }\n[websocket]\nmiddleware = ["session"]\n[[websocket.route]]\npath = "/a/"\nconsumer = "echo"\n')
        done = run("check", "--config", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 WebSocket routes, 1 warning\n", done.stdout)

    def test_check_prints_the_problems_of_both_stages_in_one_run(self):
        path = self.file(
            '[server.timeouts]\nrequest = 30\n[sessions]\n[[http.route]]\npath = "/{a:integer}/"\nview = "health"\n'
            '[[websocket.route]]\npath = "/a/"\nconsumer = "caht"\n'
        )
        for command in ("check", "routes", "serve"):
            with self.subTest(command=command):
                done = run(command, "--config", path)
                self.assertEqual(done.returncode, 78)
                lines = [line.removeprefix(f"{path}:").split(": ")[1] for line in done.stderr.splitlines()]
                self.assertEqual(lines, ["server.timeouts.request", "sessions", "http.route[0].path", "websocket.route[0].consumer"])

    def test_check_prints_every_problem_with_its_place_and_ends_with_78(self):
        path = self.file('[[websocket.route]]\npath = "/a/"\nconsumer = "caht"\n\n[[http.route]]\npath = "/b/"\nview = "x"\n')
        done = run("check", "--config", path)
        self.assertEqual(done.returncode, 78)
        self.assertIn(f'{path}:3:12: websocket.route[0].consumer: unknown consumer "caht"', done.stderr)
        self.assertIn('(did you mean "chat"?)', done.stderr)
        self.assertIn(f"{path}:7:8: http.route[0].view: ", done.stderr)

    def test_check_speaks_json_too(self):
        path = self.file('[[websocket.route]]\npath = "/a/"\nconsumer = "caht"\n')
        done = run("check", "--config", path, "--format", "json")
        self.assertEqual(done.returncode, 78)
        (problem,) = json.loads(done.stdout)
        self.assertEqual((problem["line"], problem["column"], problem["severity"]), (3, 12, "error"))
        self.assertEqual(problem["path"], "websocket.route[0].consumer")

    def test_serve_refuses_a_broken_or_missing_file_with_78(self):
        for path in (self.file("nonsense = 1\n"), Path("missing.toml")):
            with self.subTest(path=path.name):
                done = run("serve", "--config", path, "--bind", "127.0.0.1:0")
                self.assertEqual(done.returncode, 78, done.stderr)
                self.assertIn(path.name, done.stderr)

    def test_usage_is_64(self):
        for arguments in (("serve", "--nonsense"), ("nonsense",), ("serve", "--bind", "8000"), ("resolve",)):
            with self.subTest(arguments=arguments):
                self.assertEqual(run(*arguments).returncode, 64)

    def test_help_and_version_are_0(self):
        for arguments in (("--help",), ("--version",), ("serve", "--help"), ("completions", "bash")):
            with self.subTest(arguments=arguments):
                done = run(*arguments)
                self.assertEqual(done.returncode, 0)
                self.assertTrue(done.stdout)

    def test_routes_names_both_tables(self):
        tables = json.loads(run("routes", "--config", SHIPPED, "--format", "json").stdout)
        self.assertIn("/ws/chat/{room:slug}/", [route["path"] for route in tables["websocket"]])
        self.assertIn("/health/", [route["path"] for route in tables["http"]])
        self.assertIn("/ws/chat/{room:slug}/", run("routes", "--config", SHIPPED).stdout)

    def test_resolve_says_which_route_and_with_which_parameters(self):
        done = run("resolve", "--config", SHIPPED, "ws://localhost/ws/chat/lobby/")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("lobby", done.stdout)
        self.assertIn("chat", done.stdout)

    def test_a_new_project_passes_check_and_nothing_in_it_is_overwritten(self):
        with tempfile.TemporaryDirectory(prefix="oneport-test-") as directory:
            project = Path(directory) / "project"
            self.assertEqual(run("init", project).returncode, 0)
            done = run("check", cwd=project)
            self.assertEqual(done.returncode, 0, done.stderr)
            before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
            run("init", project)
            self.assertEqual({path: path.read_bytes() for path in before}, before)

    def test_check_says_nothing_of_a_new_project_when_the_file_is_there_and_cannot_be_read(self):
        path = self.file("")
        done = run("check", "--config", path.with_name("none.toml"))
        self.assertEqual(done.returncode, 78)
        self.assertIn("no such file or directory (`oneport init DIR` makes a new project)", done.stderr)
        done = run("check", "--config", path.parent)
        self.assertEqual(done.returncode, 78)
        self.assertIn(f"is a directory (write --config {path})", done.stderr)
        path.chmod(0)
        path.parent.chmod(0o755)
        done = run("check", "--config", path, user="nobody")
        self.assertEqual(done.returncode, 78)
        self.assertIn("permission denied (is it readable for user nobody?)", done.stderr)
        self.assertNotIn("init", done.stderr)

    def test_serve_says_where_and_as_whom_it_cannot_write(self):
        text = '[session]\nstore = "sqlite:site.db"\n[[http.route]]\npath = "/"\nmiddleware = ["session"]\nview = "health"\n'
        path = self.file(text)
        path.parent.chmod(0o755)
        done = run("serve", "--config", path, "--bind", "127.0.0.1:0", user="nobody")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(f"oneport: session.store: cannot write in {path.parent}/ as user nobody\n", done.stderr)
        self.assertEqual(sorted(found.name for found in path.parent.iterdir()), ["oneport.toml"])
        path.write_text(text.replace("site.db", "none/site.db"), encoding="utf-8")
        done = run("serve", "--config", path, "--bind", "127.0.0.1:0")
        self.assertEqual(done.returncode, 78, done.stderr)
        self.assertIn(f"session.store: expected a directory for the database, found none at {path.parent}/none (make", done.stderr)
        self.assertEqual(sorted(found.name for found in path.parent.iterdir()), ["oneport.toml"])

    def test_publish_says_what_to_look_at_when_nobody_takes_the_event(self):
        def publish(url, token="t" * 40):
            return run("publish", "--url", url, "--token", token, "group", '{"type": "a"}')

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for url, expected in (
            (f"http://127.0.0.1:{port}/api/", f"connection refused; is the server running at http://127.0.0.1:{port}/api/?"),
            ("http://no.such.host.invalid/api/", 'unknown host "no.such.host.invalid"'),
        ):
            with self.subTest(url=url):
                done = publish(url)
                self.assertEqual(done.returncode, 1)
                self.assertIn(expected, done.stderr)
        done = publish("https://u:s3cret@127.0.0.1/api/?token=s3cret")
        self.assertEqual(done.returncode, 64)
        self.assertIn("expected a URL such as http://127.0.0.1:8000/api/", done.stderr)
        self.assertNotIn("s3cret", done.stderr)
        config = """
            [[http.route]]
            path = "/api/{*call}"
            view = "publish"
            options = { tokens = [{ name = "app", token = "%s", groups = ["chat_*"] }] }
        """ % ("t" * 40)
        with Server(config) as server:
            base = f"http://localhost:{server.port}"
            for url, token, expected in (
                (f"{base}/api/", "x" * 40, "found 401 Unauthorized"),
                (f"{base}/api/", "x" * 40, "is the token one of the route's options.tokens?"),
                (f"{base}/api/", "t" * 40, 'do the token\'s groups hold "group"?'),
                (f"{base}/other/", "t" * 40, f"is {base}/other/ the path of a route with view = \"publish\""),
            ):
                with self.subTest(url=url, expected=expected):
                    done = publish(url, token)
                    self.assertEqual(done.returncode, 1)
                    self.assertIn(expected, done.stderr)
                    self.assertNotIn(token, done.stderr)

        with Server("[server]\nallowed_hosts = ['127.0.0.1']\n" + textwrap.dedent(config)) as server:
            done = publish(f"http://localhost:{server.port}/api/")
            self.assertIn("is the host of the URL one of server.allowed_hosts?", done.stderr)

    def test_user_says_what_to_look_at_when_its_table_is_away(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for users, expected in (
            (f"postgres://owner:s3cret@127.0.0.1:{port}/site", f"auth.users: connection refused; is PostgreSQL running at 127.0.0.1:{port}?"),
            ("postgres://owner:s3cret@no.such.host.invalid/site", 'auth.users: unknown host "no.such.host.invalid"'),
            ("sqlite:none/site.db", "none/site.db: there is no directory "),
        ):
            with self.subTest(users=users):
                done = run("user", "list", "--config", self.file(f'[auth]\nusers = "{users}"\n'))
                self.assertEqual(done.returncode, 1)
                self.assertIn(expected, done.stderr)
                self.assertNotIn("s3cret", done.stderr)

    def test_resolve_says_that_the_websocket_is_one_slash_away(self):
        done = run("resolve", "--config", SHIPPED, "ws://localhost/ws/chat/lobby")
        self.assertEqual(done.returncode, 1)
        self.assertIn("404: there is no such WebSocket; there is a WebSocket at /ws/chat/lobby/\n", done.stdout)

    def test_resolve_says_what_the_server_would_answer(self):
        for arguments, code, expected in (
            (("OPTIONS", "/health/"), 0, "204 No Content\n  allow: GET, HEAD, OPTIONS\n"),
            (("--ws", "POST", "/ws/echo/"), 1, "405: expected GET for a WebSocket, found POST\n  allow: GET\n"),
            (("HEAD", "/health/"), 0, "/health/ -> health"),
            (("PUT", "/health/"), 1, "405: expected GET, HEAD, OPTIONS, found PUT\n"),
            (("/ws/echo/",), 1, "426: expected a WebSocket handshake, found an ordinary request\n"),
        ):
            with self.subTest(arguments=arguments):
                done = run("resolve", "--config", SHIPPED, *arguments)
                self.assertEqual(done.returncode, code, done.stdout + done.stderr)
                self.assertTrue(done.stdout.startswith(expected), done.stdout)


if __name__ == "__main__":
    unittest.main()
