"""Pebble: an ACME server of the tests' own, with a DNS server that leads every name to this machine."""

import json
import os
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from pathlib import Path

from .deadline import DEADLINE, until
from .postgres import free_port
from .server import binary


class Pebble:
    """A running CA. It validates names at a port of 127.0.0.1, and forgets everything when it is stopped."""

    def __init__(self, port, *, tls_port=None, validity=None, reject=0, slow=False, keys=None, start=True):
        """`port`: of the server under test; `tls_port`: another one for tls-alpn-01. `validity`: of certificates, in seconds.
        `reject`: how many good nonces of a hundred are rejected. `slow`: it takes up to 5 s to check a challenge.
        `keys`: of external accounts, which it then requires."""
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-pebble-"))
        self.port = free_port()
        self._management = free_port()
        self._dns = free_port()
        self._dns_management = free_port()
        self._processes = []
        self._ca = None
        subprocess.run([binary(), "dev-cert", self.directory], check=True, capture_output=True, timeout=DEADLINE)
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self.directory / "cert.pem"),
            "privateKey": str(self.directory / "key.pem"),
            "httpPort": port,
            "tlsPort": tls_port or port,
            "externalAccountBindingRequired": bool(keys),
            "externalAccountMACKeys": keys or {},
        }
        if validity:
            config["certificateValidityPeriod"] = validity
        (self.directory / "config.json").write_text(json.dumps({"pebble": config}))
        self._environment = {
            "PEBBLE_WFE_NONCEREJECT": str(reject),
            "PEBBLE_AUTHZREUSE": "0",
            **({"PEBBLE_VA_SLEEPTIME": "5"} if slow else {"PEBBLE_VA_NOSLEEP": "1"}),
        }
        try:
            self._run(
                "dns",
                "pebble-challtestsrv",
                *("-dns01", f"127.0.0.1:{self._dns}", "-management", f"127.0.0.1:{self._dns_management}"),
                *("-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""),
            )
            if start:
                self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        """Starts the CA, with a new key and without any account, and waits until it answers."""
        self._ca = self._run("log", "pebble", "-config", self.directory / "config.json", "-dnsserver", f"127.0.0.1:{self._dns}")
        until(self._answers, lambda: f"pebble to answer\n{self.log()}")

    def stop(self):
        self._ca.kill()
        self._ca.wait()
        self._processes.remove(self._ca)
        self._ca = None

    def close(self):
        """Leaves nothing behind."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def url(self):
        return f"https://localhost:{self.port}/dir"

    @property
    def authority(self):
        """The file of the CA that signs the directory's own certificate."""
        return self.directory / "ca.pem"

    def trust(self):
        """Returns a TLS context that trusts the certificates that this CA issues now."""
        return ssl.create_default_context(cadata=self._get(f"https://localhost:{self._management}/roots/0"))

    def resolve(self, name, address):
        """Lets a name lead to an address; `None` to this machine again."""
        path = "add-a" if address else "clear-a"
        body = {"host": f"{name}.", **({"addresses": [address]} if address else {})}
        url = f"http://127.0.0.1:{self._dns_management}/{path}"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=DEADLINE).close()

    def log(self):
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _run(self, log, program, *arguments):
        found = shutil.which(program)
        if found is None:
            raise AssertionError(f"expected {program}, found none: install Debian's package pebble")
        with open(self.directory / log, "ab") as output:
            environment = {**os.environ, **self._environment}
            process = subprocess.Popen([found, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        self._processes.append(process)
        return process

    def _get(self, url):
        context = ssl.create_default_context(cafile=self.authority)
        with urllib.request.urlopen(url, timeout=DEADLINE, context=context) as response:
            return response.read().decode()

    def _answers(self):
        if self._ca.poll() is not None:
            raise AssertionError(f"expected pebble to start, found exit code {self._ca.returncode}\n{self.log()}")
        try:
            return self._get(self.url)
        except OSError:
            return None
