"""Builds and programs: what a bench needs before it starts a server."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Unavailable(Exception):
    """A program that is not available on this machine, and why."""


def target_directory() -> Path:
    metadata = call("cargo", "metadata", "--format-version", "1", "--no-deps")
    return Path(json.loads(metadata)["target_directory"])


def build_oneport(target: Path) -> Path:
    say("building oneport")
    build("--bin", "oneport", directory=REPOSITORY)
    return target / "release" / "oneport"


def build(*options: str, directory: Path) -> None:
    """Builds with cargo, which prints its progress on standard error."""
    command = ["cargo", "build", "--release", "--locked", *options]
    try:
        if subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL).returncode != 0:
            raise Unavailable("it could not be built; cargo says why, above")
    except FileNotFoundError:
        raise Unavailable("there is no cargo") from None


def call(*command: str, directory: Path = REPOSITORY) -> str:
    """Runs a program and returns its output. One that fails makes a server unavailable."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise Unavailable(f"there is no {command[0]}") from None
    if done.returncode != 0:
        name = " ".join([Path(command[0]).name, *command[1:2]])
        raise Unavailable(f"`{name}` failed: {last_error(done.stderr.strip() or done.stdout)}")
    return done.stdout


def last_error(text: str) -> str:
    """Returns the last line about an error, or else the last one."""
    lines = text.strip().splitlines() or ["it said nothing"]
    errors = [line for line in lines if "error" in line.lower()] or lines
    return errors[-1].strip()[:200]


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
