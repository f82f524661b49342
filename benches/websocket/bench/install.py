"""Builds and installs the servers, below the repository's `target` directory. Existing builds are reused."""

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from comparison.builds import Unavailable, build, call, say

BENCH = Path(__file__).resolve().parent.parent

# Debian's and Ubuntu's names for the loop that uWebSockets is built on here.
LIBUV_PACKAGES = ("libuv1", "libuv1t64")


@dataclass(frozen=True)
class Place:
    """The directories."""

    target: Path
    # A server that was built elsewhere.
    oneport: Path | None

    @property
    def root(self) -> Path:
        return self.target / "websocket-bench"

    @property
    def programs(self) -> Path:
        return self.root / "release"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@dataclass(frozen=True)
class Certificate:
    chain: Path
    key: Path


def certificate(place: Place) -> Certificate:
    """A certificate for localhost that signs itself, on the curve P-256, as most sites have one."""
    found = Certificate(place.root / "certificate.pem", place.root / "key.pem")
    if not (found.chain.exists() and found.key.exists()):
        place.root.mkdir(parents=True, exist_ok=True)
        call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", str(found.key), "-out", str(found.chain))  # fmt: skip
    return found


def build_programs(place: Place) -> None:
    """The load generator and the Rust peers."""
    say("building the load generator and the Rust peers")
    build("--target-dir", str(place.root), directory=BENCH)


def python_packages(place: Place, requirements: str) -> Path:
    """Installs the packages; returns the directory of the programs that came with them."""
    environment = place.root / "venv"
    binaries = environment / "bin"
    wanted = BENCH / "peers/python" / requirements
    installed = environment / requirements
    if installed.exists() and installed.read_bytes() == wanted.read_bytes():
        return binaries
    if not (binaries / "pip").exists():
        shutil.rmtree(environment, ignore_errors=True)
        call(sys.executable, "-m", "venv", str(environment))
    say(f"installing the Python packages of {requirements}")
    call(str(binaries / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", str(wanted))
    shutil.copy(wanted, installed)
    return binaries


def node_modules(place: Place) -> Path:
    """Installs the packages; returns the directory they are in."""
    source = BENCH / "peers/node"
    directory = place.root / "node"
    lock = "package-lock.json"
    marker = directory / "node_modules" / lock
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program}")
    if marker.exists() and marker.read_bytes() == (source / lock).read_bytes():
        return marker.parent
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", lock):
        shutil.copy(source / name, directory / name)
    say("installing the Node packages")
    # The scripts would build what the packages contain.
    call("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", directory=directory)
    shutil.copy(source / lock, marker)
    return marker.parent


def build_uwebsockets(place: Place) -> Path:
    """The C program around the library that socketify ships."""
    if shutil.which("cc") is None:
        raise Unavailable("there is no C compiler (cc)")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable("socketify ships uWebSockets for x86-64 Linux only")
    python_packages(place, "socketify.txt")
    libraries = list((place.root / "venv/lib").glob("python*/site-packages/socketify/libsocketify_linux_amd64.so"))
    if not libraries:
        raise Unavailable("socketify came without its library")
    program = place.root / "uwebsockets"
    # The old kind of run path applies to the library too, which finds libuv by it.
    paths = f"-Wl,-rpath,{libraries[0].parent},-rpath,{find_libuv(place).parent},--disable-new-dtags,--allow-shlib-undefined"
    source = str(BENCH / "peers/c/uwebsockets.c")
    call("cc", "-O2", "-Wall", "-Wextra", "-o", str(program), source, str(libraries[0]), paths)
    return program


def find_libuv(place: Place) -> Path:
    """The machine's libuv, or else the one of Debian's package, unpacked but not installed: that needs no root."""
    unpacked = place.root / "libuv"
    for directory in (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), unpacked / "usr/lib/x86_64-linux-gnu"):
        if (library := directory / "libuv.so.1").exists():
            return library
    unpacked.mkdir(parents=True, exist_ok=True)
    for package in LIBUV_PACKAGES:
        try:
            call("apt-get", "download", "--quiet", package, directory=unpacked)
        except Unavailable:
            continue
        for archive in unpacked.glob(f"{package}_*.deb"):
            call("dpkg-deb", "--extract", str(archive), str(unpacked))
        return next(unpacked.glob("usr/lib/*/libuv.so.1"))
    raise Unavailable(f"there is no libuv (apt-get install {LIBUV_PACKAGES[0]})")
