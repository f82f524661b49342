"""The Python package for backends: it installs from the tree, its types are strict, its signatures are the server's."""

import contextlib
import http.client
import io
import json
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
from pathlib import Path

from kit.backend import EXAMPLES, PACKAGE, Backend, example
from kit.deadline import DEADLINE, until
from kit.peer import Peer
from kit.server import ROOT, Server

PROJECT = ROOT / "client/python"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

sys.path.insert(0, str(PACKAGE))

from oneport_backend import asgi, is_signed, server, sign, types  # noqa: E402 - from the tree


class Package(unittest.TestCase):
    """`pip install` from the tree."""

    def test_it_installs_and_runs_without_anything_else(self):
        with tempfile.TemporaryDirectory() as target:
            source = Path(target) / "source"
            # A copy: a build leaves files beside the source.
            subprocess.run(["cp", "-r", PROJECT, source], check=True, timeout=DEADLINE)
            command = [*PIP, "install", "--quiet", "--no-index", "--no-build-isolation", "--target", f"{target}/site", source]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            files = {path.name for path in Path(target, "site/oneport_backend").iterdir() if path.is_file()}
            self.assertEqual(files, {path.name for path in (PACKAGE / "oneport_backend").iterdir() if path.is_file()})
            self.assertIn("py.typed", files)
            (licenses,) = Path(target, "site").glob("oneport_backend-*.dist-info/licenses")
            for name in ("LICENSE-APACHE", "LICENSE-MIT"):
                self.assertEqual((licenses / name).read_bytes(), (ROOT / name).read_bytes())
            program = "import sys; sys.path.insert(0, sys.argv[1]); import oneport_backend, oneport_backend.asgi; print(oneport_backend.__file__)"
            # -I: neither the environment nor the directory adds a path. -S: nor the packages of the tests.
            said = subprocess.run([sys.executable, "-I", "-S", "-c", program, f"{target}/site"], capture_output=True, text=True, timeout=DEADLINE)
            self.assertEqual(said.stdout.strip(), f"{target}/site/oneport_backend/__init__.py", said.stderr)

    def test_its_version_is_the_servers(self):
        def version(path):
            return re.search(r'^version = "(.*)"$', path.read_text(encoding="utf-8"), re.M)[1]

        self.assertEqual(version(PROJECT / "pyproject.toml"), version(ROOT / "Cargo.toml"))

    def test_it_knows_each_event_of_a_request(self):
        text = (ROOT / "docs/BACKEND.md").read_text(encoding="utf-8").partition("## The response")[0]
        table = re.search(r"^\| event \|.*?\n\n", text, re.M | re.S)[0]
        documented = re.findall(r"^\| `([a-z_.]+)` \|", table, re.M)
        known = [each.__annotations__["type"].__args__[0] for each in types.Event.__args__]
        self.assertGreater(len(documented), 4)
        self.assertEqual(sorted(known), sorted(documented))

    def test_its_readme_leads_somewhere_from_elsewhere(self):
        links = re.findall(r"\]\((.*?)\)", (PROJECT / "README.md").read_text(encoding="utf-8"))
        self.assertTrue(links)
        for link in links:
            self.assertRegex(link, "^https://")

    def test_its_types_are_strict(self):
        with tempfile.TemporaryDirectory() as directory:
            uses = Path(directory) / "uses.py"
            uses.write_text(USES, encoding="utf-8")
            command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir", f"{directory}/cache"]
            done = subprocess.run(
                [*command, "src", EXAMPLES / "chat.py", uses], cwd=PROJECT, env={"MYPYPATH": str(PACKAGE)}, capture_output=True, text=True, timeout=120
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


# An error that is expected is a comment; mypy fails if one is not there.
USES = '''
from oneport_backend import Request, Response, is_signed, server, sign

def answer(request: Request) -> Response:
    for event in request["events"]:
        if event["type"] == "websocket.disconnect":
            return {"ack": event["seq"], "events": []}
        if event["type"] == "websocket.connect":
            event["text"]  # type: ignore[typeddict-item]
        if event["type"] == "group.refused":
            limit: str = f"{event['limit']} {event['max']} {event['groups'][0]}"
    return {"events": [{"type": "websocket.sent"}]}  # type: ignore[misc, list-item]

fits: bool = is_signed(sign(b"", "secret"), b"", ["new", b"old"])
with server(answer, secret="secret", port=0) as listening:
    port: int = listening.server_port
'''


class Readme(unittest.TestCase):
    """The first program of the README, behind a real server."""

    def test_its_program_runs(self):
        text = (PROJECT / "README.md").read_text(encoding="utf-8")
        program = re.search(r"^```python\n(.*?)^```", text, re.M | re.S)[1]
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:

            def command(port):
                file.write(program.replace('["BACKEND_SECRET"])', f'["BACKEND_SECRET"], port={port})'))
                file.flush()
                return [sys.executable, file.name]

            with Backend(command) as backend, Server(example("oneport.toml"), environment=backend.environment) as server:
                with Peer(server, "/ws/chat/readme/") as peer:
                    peer.send("hällo")
                    self.assertEqual(peer.receive(), "HÄLLO")


class Endpoint(unittest.TestCase):
    """`server`, asked without Oneport."""

    def serve(self, answer, secret="secret"):
        listening = self.enterContext(server(answer, secret=secret, port=0))
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.addCleanup(thread.join, DEADLINE)
        self.addCleanup(listening.shutdown)
        return listening.server_port

    def ask(self, port, body=b'{"v": 1}', **fields):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("POST", "/", body, {"Oneport-Signature": sign(body, "secret")} | fields)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def test_what_json_does_not_have_is_a_failure_of_the_program(self):
        for value in (b"x", {1, 2}, object(), float("nan")):
            port = self.serve(lambda _, value=value: {"events": [{"type": "websocket.send", "bytes": value}]})
            with self.subTest(value=value), contextlib.redirect_stderr(io.StringIO()) as log:
                self.assertEqual(self.ask(port), (500, "the program failed: its log says why"))
            self.assertIn("Traceback", log.getvalue())
        self.assertEqual(self.ask(self.serve(lambda _: None)), (200, {}))

    def test_secrets_are_read_once_and_an_empty_one_is_refused_at_the_start(self):
        port = self.serve(lambda _: {"ack": 1}, secret=(each for each in ("new", "secret")))
        for _ in range(3):
            self.assertEqual(self.ask(port), (200, {"ack": 1}))
        for secret in ("", b"", [], ["new", ""]):
            with self.subTest(secret=secret), self.assertRaises(ValueError):
                server(lambda _: None, secret=secret, port=0)

    def test_a_length_that_is_none_is_the_clients_fault(self):
        port = self.serve(lambda _: None)
        for length, status in (("x", 400), ("-1", 400), ("+1", 400), ("1_0", 400), ("16777217", 413), ("9" * 5000, 413)):
            with self.subTest(length=length[:20]):
                self.assertEqual(self.ask(port, **{"Content-Length": length})[0], status)

    def test_who_says_nothing_is_left(self):
        with unittest.mock.patch("oneport_backend.endpoint.SILENCE_MAX", 0.05):
            hasty = self.serve(lambda _: None)
        for said in (b"", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc"):
            with socket.create_connection(("127.0.0.1", hasty), DEADLINE) as client, contextlib.redirect_stderr(io.StringIO()):
                client.sendall(said)
                self.assertEqual(client.recv(100), b"")


class Adapter(unittest.TestCase):
    """The adapter for ASGI applications, without Oneport."""

    def adapt(self, application):
        """Returns the adapter, its calls of the API, and what the applications have heard."""
        heard, calls = queue.Queue(), []

        async def listening(scope, receive, send):
            async def told():
                event = await receive()
                heard.put(event["type"])
                return event

            await application(told, send)
            heard.put("the end")

        adapter = asgi.Adapter(listening, api="http://127.0.0.1:9/api", token="token")
        self.enterContext(unittest.mock.patch.object(adapter, "push", lambda id, event: calls.append(event)))
        return adapter, calls, lambda: heard.get(timeout=DEADLINE)

    def say(self, adapter, seq, type, **fields):
        scope = {"type": "websocket", "path": "/", "raw_query": "", "headers": [], "subprotocols": [], "user": None, "session": None}
        connection = {"id": "a.1", "node": "a", "name": "oneport", "state": None}
        return adapter({"v": 1, "connection": connection, "scope": scope, "events": [{"seq": seq, "type": type, **fields}]})

    def test_an_application_that_decides_too_late_is_denied_and_told(self):
        async def hesitate(receive, send):
            await receive()
            await receive()
            await send({"type": "websocket.accept"})

        adapter, calls, hear = self.adapt(hesitate)
        with unittest.mock.patch("oneport_backend.asgi.DECISION_SECONDS", 0.05):
            answer = self.say(adapter, 1, "websocket.connect")
        self.assertEqual(answer["events"], [{"type": "websocket.close", "reason": ""}])
        self.assertEqual([hear() for _ in range(3)], ["websocket.connect", "websocket.disconnect", "the end"])
        self.assertEqual((adapter.connections, calls), (0, []))

    def test_a_connection_that_is_over_is_not_closed_again(self):
        async def listen(receive, send):
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": "hi"})
            await receive()
            await send({"type": "websocket.send", "text": "to nobody"})

        adapter, calls, hear = self.adapt(listen)
        self.assertEqual(self.say(adapter, 1, "websocket.connect")["events"][0]["type"], "websocket.accept")
        self.say(adapter, 2, "websocket.receive", text="hi")
        self.assertEqual([hear(), hear()], ["websocket.connect", "websocket.receive"])
        until(lambda: calls, "what the application sends")
        self.say(adapter, 3, "websocket.disconnect", code=1000, reason="", cause="client")
        self.assertEqual([hear(), hear()], ["websocket.disconnect", "the end"])
        until(lambda: adapter.connections == 0, "no connection")
        self.assertEqual(calls, [{"type": "websocket.send", "text": "hi"}])


class Signature(unittest.TestCase):
    BODY = b'{"v": 1}'

    def test_what_is_signed_is_accepted(self):
        for secret in ("secret", b"secret", "höchst geheim", b"\xff\x00"):
            self.assertTrue(is_signed(sign(self.BODY, secret), self.BODY, secret))
        self.assertTrue(is_signed(sign(b"", "secret"), b"", "secret"))

    def test_one_of_several_secrets_is_enough(self):
        for signed, known in ((["new", "old"], "old"), ("old", ["new", "old"]), (["a", "b"], ["b", "c"])):
            self.assertTrue(is_signed(sign(self.BODY, signed), self.BODY, known))
        self.assertFalse(is_signed(sign(self.BODY, ["a", "b"]), self.BODY, ["c", "d"]))

    def test_another_body_or_secret_is_refused(self):
        signature = sign(self.BODY, "secret")
        self.assertFalse(is_signed(signature, self.BODY + b" ", "secret"))
        self.assertFalse(is_signed(signature, self.BODY, "Secret"))

    def test_a_time_that_is_minutes_off_is_refused(self):
        now = int(time.time())
        for off, fits in ((-310, False), (-290, True), (290, True), (310, False), (10**9, False)):
            self.assertEqual(is_signed(sign(self.BODY, "secret", at=now + off), self.BODY, "secret"), fits, off)
        self.assertFalse(is_signed(sign(self.BODY, "secret", at=now - 20), self.BODY, "secret", age_max=10))

    def test_what_is_no_signature_is_refused(self):
        now = str(int(time.time()))
        digest = sign(self.BODY, "secret").partition("v1=")[2]
        for signature in (
            None,
            "",
            "t=",
            "v1=",
            "t=,v1=",
            f"t={now}",
            f"t={now},v1=",
            f"v1={digest}",
            sign(self.BODY, "secret").removeprefix("t="),
            "t=" + sign(self.BODY, "secret"),
            f"t={now},v1={digest[:-1]}",
            f"t={now},v1={digest}0",
            f"t={now},v1={digest.upper()}",
            f"t={now},v1=\u00e9",
            f"t={now},v1=\udcff",
            f"t=-{now},v1={digest}",
            f"t={now}.5,v1={digest}",
            "t=²,v1=x",
            "t=٣,v1=x",
            f"t={'9' * 5000},v1={digest}",
            "x" * 100_000,
            ",v1=" * 10_000,
        ):
            with self.subTest(signature=(signature or "")[:40]):
                self.assertFalse(is_signed(signature, self.BODY, "secret"))

    def test_an_empty_secret_is_an_error_of_the_program(self):
        for secret in ("", b"", [], [""]):
            with self.subTest(secret=secret), self.assertRaises(ValueError):
                is_signed(sign(self.BODY, "secret"), self.BODY, secret)
            with self.subTest(secret=secret), self.assertRaises(ValueError):
                is_signed(None, self.BODY, secret)


if __name__ == "__main__":
    unittest.main()
