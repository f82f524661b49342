"""nginx: a proxy of the tests' own in front of a server, on a free port, as an operator sets it up."""

import shutil
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
        config = CONFIG.format(directory=self.directory, port=self.port, upstream=upstream, fields=fields)
        (self.directory / "nginx.conf").write_text(config, encoding="utf-8")
        self._process = None

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

    def _listens(self):
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
