"""nginx: a proxy of the tests' own in front of a server, on a free port, as an operator sets it up; or a server over TLS."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from .deadline import DEADLINE, Late, until
from .postgres import free_port

CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ""; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
{fields}
        }}
    }}
}}
"""

# The lines that nginx's own documentation has for it.
FIELDS = """
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
"""


class Nginx:
    """A running nginx in front of a port of this machine."""

    def __init__(self, upstream, *, fields=FIELDS):
        self.directory = Path(tempfile.mkdtemp(prefix="oneport-nginx-"))
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.origin = f"http://{self.host}"
        self._process = None
        self._write(CONFIG.format(directory=self.directory, port=self.port, upstream=upstream, fields=fields))

    def __enter__(self):
        # Debian keeps it out of the PATH of ordinary users.
        found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise AssertionError("expected nginx, found none: install Debian's package nginx-light")
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [found, "-p", self.directory, "-c", self.directory / "nginx.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._listens, lambda: f"an nginx that listens\n{(self.directory / 'log').read_text()}")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Late(f"expected nginx to end within {DEADLINE} s") from None
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _write(self, config):
        (self.directory / "nginx.conf").write_text(config, encoding="utf-8")

    def _listens(self):
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


# What is small here is large in production: requests meet the limits of streams and of a connection's requests.
UPSTREAM = """
daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 100m;
    keepalive_requests 40;
    http2_max_concurrent_streams 8;
    ssl_certificate {directory}/cert.pem;
    ssl_certificate_key {directory}/key.pem;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        listen 127.0.0.1:{http1_port} ssl;
        root {directory}/files;
        location /protocol {{ return 200 "$server_protocol"; }}
        location /length {{ proxy_pass http://127.0.0.1:{plain_port}; }}
        location /kept/ {{ dav_methods PUT; }}
    }}
    server {{
        listen 127.0.0.1:{plain_port};
        location / {{ return 200 "$content_length"; }}
    }}
}}
"""


class NginxUpstream(Nginx):
    """A running nginx that serves files over TLS: by HTTP/2 on one port, by HTTP/1.1 on the other."""

    def __init__(self, certificate, key, files):
        super().__init__(0)
        self.http1_port, plain_port = free_port(), free_port()
        (self.directory / "cert.pem").write_text(certificate)
        (self.directory / "key.pem").write_text(key)
        (self.directory / "files" / "kept").mkdir(parents=True)
        for name, content in files.items():
            (self.directory / "files" / name).write_bytes(content)
        self._write(
            UPSTREAM.format(
                directory=self.directory,
                user="user root;" if os.geteuid() == 0 else "",
                port=self.port,
                http1_port=self.http1_port,
                plain_port=plain_port,
            )
        )

    def reload(self):
        """Replaces the workers: the old ones finish their requests, and go away."""
        before = self._workers()
        self._process.send_signal(signal.SIGHUP)
        until(lambda: self._workers() - before, "a new worker")

    def _workers(self):
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return set(children.split())
