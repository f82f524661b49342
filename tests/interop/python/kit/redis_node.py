"""Node: a redis-server with arguments of its own; a Sentinel or a part of a cluster is one too."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import redis

from .deadline import DEADLINE, until
from .postgres import free_port
from .still import freeze, thaw


class Node:
    """A redis-server with arguments of its own, which keeps nothing on disk; a Sentinel is one too."""

    def __init__(self, *arguments, tls=None, port=None, config=None, password=None):
        """`tls`: certificate, key and CA; then nothing else is spoken at its port. `config`: a file's content, for a Sentinel."""
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-redis-"))
        self.port = port or free_port()
        self.tls = tls
        if config is not None:
            path = self.directory / "sentinel.conf"
            path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n{config}")
            self._command = [path, "--sentinel"]
        else:
            self._command = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.directory, *arguments]
            if tls:
                certificate, key, authority = tls
                self._command += [
                    "--port", "0", "--tls-port", str(self.port), "--tls-cert-file", certificate, "--tls-key-file", key,
                    "--tls-ca-cert-file", authority, "--tls-auth-clients", "no",
                ]  # fmt: skip
            else:
                self._command += ["--port", str(self.port)]
        self._process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, tls=None):
        if tls:
            at = self._command.index("--tls-cert-file")
            self._command[at + 1], self._command[at + 3], self._command[at + 5] = tls
            self.tls = tls
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["redis-server", *self._command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        until(self._answers, lambda: f"Redis to answer\n{self.log()}")

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process = None

    def freeze(self):
        freeze(self._process.pid)

    def thaw(self):
        thaw(self._process.pid)

    def close(self):
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, **options):
        if self.tls:
            options = {
                "ssl": True,
                "ssl_ca_certs": str(self.tls[2]),
                "ssl_check_hostname": False,
                "ssl_cert_reqs": "none",
                **options,
            }
        options = {"password": self.password, "decode_responses": True, **options}
        return redis.Redis("127.0.0.1", self.port, socket_timeout=DEADLINE, **options)

    def log(self):
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _answers(self):
        if self._process.poll() is not None:
            raise AssertionError(f"expected Redis to start, found exit code {self._process.returncode}\n{self.log()}")
        try:
            with self.client() as client:
                return client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return None
