"""CPU time of the server for one TLS handshake, beside nginx: ECDSA P-256 and RSA 2048, TLS 1.3 and 1.2, full and resumed.

python3 benches/tls/handshakes.py BINARY [SECONDS]

The client is `openssl s_time`; both servers have one worker, and the rounds alternate. Needs openssl and nginx. `s_time` does not
resume sessions of TLS 1.3.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from comparison.processes import free_port  # noqa: E402

ROUNDS = 3
KINDS = {"ecdsa": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "rsa": ("rsa:2048",)}
WAYS = (("1.3", False), ("1.2", False), ("1.2", True))


def cpu_seconds(process):
    """Returns the CPU time of a process and its children."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for child in children)


def make_certificate(directory, kind):
    newkey, *options = KINDS[kind]
    command = ["openssl", "req", "-x509", "-newkey", newkey, *options, "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)


def oneport(binary, directory, port):
    (directory / "oneport.toml").write_text(
        f'[server]\nbind = ["127.0.0.1:{port}"]\nworkers = 1\n'
        f'[server.tls]\ncertificate = "cert.pem"\nkey = "key.pem"\n[log]\naccess = false\n',
        encoding="utf-8",
    )
    return [binary, "serve", "--config", directory / "oneport.toml"]


def nginx(_, directory, port):
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/pid; worker_processes 1; error_log {directory}/error.log;\n"
        "events { worker_connections 4000; }\n"
        "http { access_log off; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;\n"
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem;\n"
        "location / { return 204; } } }\n",
        encoding="utf-8",
    )
    return ["nginx", "-p", directory, "-e", "stderr", "-c", directory / "nginx.conf"]


def handshakes(port, version, is_resumed, seconds):
    """Does handshakes for a while; returns their number."""
    way = "-reuse" if is_resumed else "-new"
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", way, "-time", seconds, f"-tls{version.replace('.', '_')}"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return int(re.findall(r"(\d+) connections in \d+ real seconds", said)[-1])


def measure(binary, seconds, kind):
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        make_certificate(directory, kind)
        servers = {}
        try:
            for name, command in (("oneport", oneport), ("nginx", nginx)):
                port = free_port()
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                servers[name] = (subprocess.Popen(command(binary, directory, port), **quiet), port)
            time.sleep(1)
            for version, is_resumed in WAYS:
                costs = {name: [] for name in servers}
                for _ in range(ROUNDS):
                    for name, (process, port) in servers.items():
                        before = cpu_seconds(process.pid)
                        count = handshakes(port, version, is_resumed, seconds)
                        costs[name].append((cpu_seconds(process.pid) - before) / count * 1e6)
                ours, theirs = min(costs["oneport"]), min(costs["nginx"])
                way = "resumed" if is_resumed else "full"
                print(f"{kind:6} TLS {version} {way:8} oneport {ours:4.0f} µs  nginx {theirs:4.0f} µs  {ours / theirs:.2f} x")
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()


if __name__ == "__main__":
    for kind in KINDS:
        measure(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "2", kind)
