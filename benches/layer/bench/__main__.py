"""The command line: what to measure, and for how long."""

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from . import churn, loads, report, rounds
from .processes import REPOSITORY, Failed, Programs, find_redis, versions

# The sockets of the largest test, all open at once, in this process.
FILES = 12_000
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.7

NAMES = [*(test.name for test in loads.tests()), churn.NAME]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/layer/run",
        description="Measures Oneport's channel layers beside Django Channels' and prints tables in Markdown.",
    )
    parser.add_argument(
        "--oneport",
        metavar="BINARY",
        type=Path,
        default=REPOSITORY / "target/release/oneport",
        help="a release build (target/release/oneport)",
    )
    parser.add_argument("--before", metavar="BINARY", type=Path, help="an earlier build, measured in the same rounds")
    parser.add_argument(
        "--churn",
        metavar="BINARY",
        type=Path,
        default=REPOSITORY / "target/release/examples/rooms",
        help="the server of the test churn (target/release/examples/rooms)",
    )
    parser.add_argument("--churn-before", metavar="BINARY", type=Path, help="an earlier build of it")
    parser.add_argument("--no-peers", action="store_true", help="Oneport alone, without Channels' lines")
    parser.add_argument(
        "--python",
        metavar="PYTHON",
        type=Path,
        default=REPOSITORY / "target/venv/bin/python",
        help="a Python with the packages of peer/requirements.txt (target/venv/bin/python)",
    )
    parser.add_argument("--tests", metavar="X,Y", help=f"tests: {', '.join(NAMES)}")
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", metavar="S", type=float, default=2, help="how long each time (2)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} round of {QUICK_SECONDS} s: whether it works")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.seconds = QUICK_ROUNDS, QUICK_SECONDS
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("expected at least one round, and more than no seconds")
    given.tests = given.tests.split(",") if given.tests else NAMES
    if unknown := set(given.tests) - set(NAMES):
        parser.error(f"expected some of {', '.join(NAMES)}, found {', '.join(sorted(unknown))}")
    return given


def programs(given: argparse.Namespace, directory: Path) -> Programs:
    redis = find_redis()
    if redis is None:
        raise Failed("expected redis-server, found none: install Debian's package redis-server")
    needed = [given.oneport, given.before, given.python]
    if churn.NAME in given.tests:
        needed += [given.churn, given.churn_before]
    for program in needed:
        if program and not program.is_file():
            raise Failed(f"expected a program at {program}, found none")
    # Absolute, not resolved: a virtual environment's Python is a link.
    oneport, before, rooms, rooms_before, python = (
        program and program.absolute() for program in (given.oneport, given.before, given.churn, given.churn_before, given.python)
    )
    return Programs(oneport, before, rooms, rooms_before, python, redis, directory)


def allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        raise Failed(f"expected a limit of {FILES:,} open files or more, found {hard:,}: raise it by `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="layer-bench-") as directory:
            allow_files()
            found = programs(given, Path(directory))
            print("# Channel layers\n")
            machine = f"{os.cpu_count()} cores, {platform.machine()}, {time.strftime('%-d %B %Y')}"
            print(f"{versions(found)}; {machine}; {given.rounds} rounds of {given.seconds:g} s.")
            print("CPU is user and system time of the server processes.")
            failed = False
            for test in loads.tests(with_before=bool(given.before), with_peers=not given.no_peers):
                if test.name not in given.tests:
                    continue
                results = rounds.measure(test, found, given.rounds, given.seconds)
                report.print_test(test, results)
                failed |= bool(results.failures)
            if churn.NAME in given.tests:
                failed |= not churn.run(found, given.rounds, given.seconds, with_before=bool(given.churn_before))
    except Failed as failure:
        sys.exit(f"benches/layer/run: {failure}")
    print(f"\n{(time.monotonic() - began) / 60:.0f} minutes in all.")
    if failed:
        sys.exit("benches/layer/run: something could not be measured, see above")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
