"""Command line: what each command says, and with which exit code it ends."""

import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from kit.deadline import DEADLINE
from kit.server import ROOT, binary

SHIPPED = ROOT / "config/oneport.toml"


def run(*arguments, cwd=None):
    return subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=DEADLINE, cwd=cwd)


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


if __name__ == "__main__":
    unittest.main()
