"""Front: nginx, HAProxy or Caddy in front of servers, with TLS, set up by the sample in config/ that users copy."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path

from .deadline import DEADLINE, Late, until
from .postgres import free_port
from .server import ROOT
from .tls import Authority

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{sample}
}}
"""

CADDY = """
{{
	admin off
	default_bind 127.0.0.1
	auto_https disable_redirects
	http_port {http}
	https_port {https}
	storage file_system {directory}/caddy
}}
{sample}
"""


class Front:
    """A running program in front of `ports`. What the sample has for a public server is replaced, and nothing else."""

    def __init__(self, program, *ports):
        self.directory = Path(tempfile.mkdtemp(prefix=f"oneport-{program}-"))
        self.http, self.port = free_port(), free_port()
        self.host = f"localhost:{self.port}"
        self.origin = f"https://{self.host}"
        authority = Authority()
        certificate, key = authority.issue("localhost")
        self.tls = ssl.create_default_context(cadata=authority.pem)
        # `websockets` reads in a thread of its own. Before 3.13 Python does not lock a TLS connection, and the tickets of
        # TLS 1.3 arrive while the handshake is written.
        self.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        (self.directory / "cert.pem").write_text(certificate + key, encoding="utf-8")
        (self.directory / "key.pem").write_text(key, encoding="utf-8")
        self._program = program
        self._command = getattr(self, f"_{program}")(*ports)
        self._process = None

    def __enter__(self):
        # Debian keeps some of them out of the PATH of ordinary users.
        found = shutil.which(self._command[0], path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if found is None:
            raise AssertionError(f"expected {self._program}, found none: install Debian's package")
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [found, *self._command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "HOME": str(self.directory)}
            )
        until(self._listens, lambda: f"{self._program} that listens\n{self.log()}")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Late(f"expected {self._program} to end within {DEADLINE} s") from None
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def connect(self, address="127.0.0.1"):
        """Opens a connection with TLS from an address of this machine."""
        plain = socket.create_connection(("127.0.0.1", self.port), DEADLINE, source_address=(address, 0))
        return self.tls.wrap_socket(plain, server_hostname="localhost")

    def _listens(self):
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _sample(self, name, *replacements):
        """Returns a sample of config/; each text that is replaced must be there."""
        text = (ROOT / "config" / name).read_text(encoding="utf-8")
        for old, new in replacements:
            if old not in text:
                raise AssertionError(f"expected {old!r} in config/{name}, found none")
            text = text.replace(old, new)
        return text

    def _nginx(self, port):
        sample = self._sample(
            "nginx/oneport.conf",
            ("listen [::]:80;", ""),
            ("listen [::]:443 ssl http2;", ""),
            ("listen 80;", f"listen 127.0.0.1:{self.http};"),
            ("listen 443 ssl http2;", f"listen 127.0.0.1:{self.port} ssl http2;"),
            ("server_name chat.example.com;", "server_name localhost;"),
            ("/etc/nginx/tls/chat.example.com.pem", f"{self.directory}/cert.pem"),
            ("/etc/nginx/tls/chat.example.com.key", f"{self.directory}/key.pem"),
            ("server 127.0.0.1:8000;", f"server 127.0.0.1:{port};"),
        )
        file = self.directory / "nginx.conf"
        file.write_text(NGINX.format(directory=self.directory, sample=sample), encoding="utf-8")
        return ["nginx", "-p", self.directory, "-c", file]

    def _haproxy(self, one, two):
        sample = self._sample(
            "haproxy/haproxy.cfg",
            ("maxconn 100000", "maxconn 1000"),
            ("bind :80\n", f"bind 127.0.0.1:{self.http}\n"),
            ("bind :443 ssl crt /etc/haproxy/tls/", f"bind 127.0.0.1:{self.port} ssl crt {self.directory}/cert.pem"),
            ("server one 127.0.0.1:8001", f"server one 127.0.0.1:{one}"),
            ("server two 127.0.0.1:8002", f"server two 127.0.0.1:{two}"),
        )
        file = self.directory / "haproxy.cfg"
        file.write_text(sample, encoding="utf-8")
        return ["haproxy", "-db", "-f", file]

    def _caddy(self, port):
        sample = self._sample(
            "caddy/Caddyfile",
            ("chat.example.com {", f"https://localhost {{\n\ttls {self.directory}/cert.pem {self.directory}/key.pem"),
            ("reverse_proxy 127.0.0.1:8000", f"reverse_proxy 127.0.0.1:{port}"),
        )
        file = self.directory / "Caddyfile"
        text = CADDY.format(http=self.http, https=self.port, directory=self.directory, sample=sample)
        file.write_text(text, encoding="utf-8")
        return ["caddy", "run", "--config", file, "--adapter", "caddyfile"]
