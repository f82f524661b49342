"""Builds the servers and makes the files they serve, below the repository's `target` directory. Existing builds are reused."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from comparison.builds import REPOSITORY, Unavailable, build, call, say

BENCH = Path(__file__).resolve().parent.parent

# The body of `/plain`, as the Rust peers and oneport.toml have it.
TEXT = "0123456789" * 10
FILES = {"10k": 10 << 10, "1m": 1 << 20}


@dataclass(frozen=True)
class Place:
    """The directories."""

    target: Path
    # A server that was built elsewhere.
    oneport: Path | None

    @property
    def root(self) -> Path:
        return self.target / "http-bench"

    @property
    def programs(self) -> Path:
        return self.root / "release"

    @property
    def websocket(self) -> Path:
        """The programs of the WebSocket bench: its load generator, and the upstream of the tunnels."""
        return self.target / "websocket-bench"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def certificate(self) -> Path:
        return self.root / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.root / "key.pem"


def build_peers(place: Place) -> None:
    """The Rust peers, the load of TLS handshakes, the files and the certificate."""
    say("building the Rust peers")
    build("--target-dir", str(place.root), directory=BENCH)
    place.files.mkdir(parents=True, exist_ok=True)
    for name, size in FILES.items():
        if not (place.files / name).exists():
            (place.files / name).write_bytes(file_bytes(size))
    if not place.key.exists():
        call(str(place.programs / "certificate"), str(place.certificate), str(place.key))
        place.key.chmod(0o600)


def build_websocket_programs(place: Place) -> None:
    say("building the load generator and the upstream of the tunnels")
    packages = ["-p", "wsload", "-p", "peers"]
    build("--target-dir", str(place.websocket), *packages, directory=REPOSITORY / "benches/websocket")


def file_bytes(size: int) -> bytes:
    """What the Rust peers repeat as the body of that size."""
    return (TEXT.encode() * (size // len(TEXT) + 1))[:size]


def program(name: str, package: str | None = None) -> Path:
    """A program of the machine; Debian puts some where only root's path leads."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unavailable(f"there is no {name} (apt-get install {package or name})")
    return Path(found)
