"""The Python package for backends: it installs from the tree, its types are strict, its signatures are the server's."""

import re
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from kit.backend import EXAMPLES, PACKAGE, Backend, example
from kit.deadline import DEADLINE
from kit.peer import Peer
from kit.server import ROOT, Server

PROJECT = ROOT / "client/python"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

sys.path.insert(0, str(PACKAGE))

from oneport_backend import is_signed, sign  # noqa: E402 - from the tree


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
            program = "import sys; sys.path.insert(0, sys.argv[1]); import oneport_backend, oneport_backend.asgi; print(oneport_backend.__file__)"
            # -I: neither the environment nor the directory adds a path. -S: nor the packages of the tests.
            said = subprocess.run([sys.executable, "-I", "-S", "-c", program, f"{target}/site"], capture_output=True, text=True, timeout=DEADLINE)
            self.assertEqual(said.stdout.strip(), f"{target}/site/oneport_backend/__init__.py", said.stderr)

    def test_its_version_is_the_servers(self):
        def version(path):
            return re.search(r'^version = "(.*)"$', path.read_text(encoding="utf-8"), re.M)[1]

        self.assertEqual(version(PROJECT / "pyproject.toml"), version(ROOT / "Cargo.toml"))

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


if __name__ == "__main__":
    unittest.main()
