"""A site as docs/DJANGO.md sets it up: a Django project under gunicorn and Daphne, behind the server under test."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from .deadline import DEADLINE, Late, until
from .server import ROOT, Server, binary

PAGE = ROOT / "docs" / "DJANGO.md"
PROJECT = Path(__file__).resolve().parent / "site"
HOST = "example.com"
PASSWORD = "correct horse battery"


def block(name):
    """Returns the block of the page that is marked with a name."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- begin {re.escape(name)} -->\n```\w+\n(.*?)```\n<!-- end {re.escape(name)} -->", text, re.DOTALL)
    assert found, f"expected a block {name!r} in {PAGE}"
    return found[1]


class DjangoSite:
    """A running site. Its server has the page's own configuration; only the port is a free one."""

    def __enter__(self):
        self._processes = []
        # Short: the path of a socket has 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-site-"))
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def _start(self):
        shutil.copytree(PROJECT, self.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        settings = f'"""The settings of the project, with those of docs/DJANGO.md."""\n\nfrom .base import *  # noqa: F403\n\n{block("settings.py")}'
        (self.directory / "mysite" / "settings.py").write_text(settings, encoding="utf-8")
        self._environment = {**os.environ, "SITE_DIRECTORY": str(self.directory), "PYTHONPATH": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1"}
        certificates = subprocess.run([binary(), "dev-cert", "tls", HOST], cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE)
        assert certificates.returncode == 0, certificates
        sockets, migrate, collect, gunicorn, daphne, serve = block("commands").splitlines()
        assert serve.startswith("oneport "), serve
        self._run(sockets)
        self._run(migrate)
        self._run(f"{collect} --verbosity 0")
        self._run("python manage.py createsuperuser --noinput --username anna --email anna@example.com", DJANGO_SUPERUSER_PASSWORD=PASSWORD)
        self._spawn("gunicorn", gunicorn)
        self._spawn("daphne", daphne)
        for name in "gunicorn", "daphne":
            until(lambda name=name: self._accepts(name), lambda: f"{name}\n{self.log()}")
        self.server = SiteServer(self.directory, serve.split()[1:])
        self.server.start()

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.server.stop()
        finally:
            self._close()

    def log(self):
        """Returns what gunicorn, Daphne and the commands have written."""
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(self.directory.glob("*.log")))

    @property
    def port(self):
        return self.server.port

    def tls(self):
        """Returns the context of a client that trusts the site's own authority."""
        return ssl.create_default_context(cafile=self.directory / "tls" / "ca.pem")

    def connect(self):
        """Opens a TLS connection to the site."""
        return self.tls().wrap_socket(socket.create_connection(("127.0.0.1", self.port), DEADLINE), server_hostname=HOST)

    def connection(self):
        """Returns an HTTP connection over TLS, for the host of the site."""
        connection = http.client.HTTPSConnection(HOST, timeout=DEADLINE)
        connection.sock = self.connect()
        return connection

    def restart(self, name):
        """Kills gunicorn or Daphne, and starts it again."""
        line = next(line for line in block("commands").splitlines() if line.startswith(name))
        process = next(process for known, process in self._processes if known == name)
        process.kill()
        process.wait(DEADLINE)
        self._processes.remove((name, process))
        self._spawn(name, line)
        until(lambda: self._accepts(name), lambda: f"{name}\n{self.log()}")

    def kill(self, name):
        """Kills gunicorn or Daphne."""
        process = next(process for known, process in self._processes if known == name)
        process.kill()
        process.wait(DEADLINE)

    def _command(self, line):
        program, *arguments = line.split()
        known = {"python": [sys.executable], "gunicorn": [sys.executable, "-m", "gunicorn"], "daphne": [sys.executable, "-m", "daphne"]}
        return [*known.get(program, [program]), *arguments]

    def _run(self, line, **environment):
        with open(self.directory / "commands.log", "ab") as log:
            done = subprocess.run(
                self._command(line), cwd=self.directory, env={**self._environment, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=3 * DEADLINE
            )
        assert done.returncode == 0, f"{line}\n{self.log()}"

    def _spawn(self, name, line):
        with open(self.directory / f"{name}.log", "ab") as log:
            process = subprocess.Popen(self._command(line), cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append((name, process))

    def _accepts(self, name):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.directory / "run" / f"{name}.sock")) == 0

    def _close(self):
        if server := getattr(self, "server", None):
            server.close()
        for _, process in self._processes:
            process.send_signal(signal.SIGTERM)
        for name, process in self._processes:
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise Late(f"expected {name} to end within {DEADLINE} s") from None
        shutil.rmtree(self.directory, ignore_errors=True)


class SiteServer(Server):
    """A server whose configuration is that of the page, to the letter."""

    def __init__(self, directory, arguments):
        super().__init__("")
        self._directory.cleanup()
        self._arguments = arguments
        self.directory = directory
        self.config = directory / "oneport.toml"
        self.config.write_text(block("oneport.toml"), encoding="utf-8")

    def start(self):
        """Starts the process, and waits until it listens."""
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            self._process = subprocess.Popen(
                [binary(), *self._arguments, "--bind", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env={**os.environ, "NO_COLOR": "1"},
            )
        said = until(self._listens, lambda: f"a server that listens\n{self.log()}")
        self.port = int(re.search(r"://127\.0\.0\.1:(\d+)", said)[1])


def main():
    """Runs a site until its standard input ends, for tests in other languages; prints where it is."""
    with DjangoSite() as site:
        print(json.dumps({"port": site.port, "directory": str(site.directory), "host": HOST, "password": PASSWORD}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
