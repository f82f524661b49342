"""The command line: what to measure, and for how long."""

import argparse
import signal
import sys
import time

from comparison.builds import Unavailable, build_oneport, target_directory
from comparison.command_line import parse
from comparison.processes import raise_file_limit

from . import install, loads, report, servers
from .install import Place
from .loads import Generator
from .rounds import Bench, Results


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/http/run",
        description="Measures Oneport's HTTP beside other servers and prints tables in Markdown. Builds what it needs below target/http-bench.",
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=7, help="how often everything is measured (7)")
    parser.add_argument("--seconds", metavar="S", type=int, default=1, help="how long each time, in whole seconds (1)")
    return parse(parser, servers.SERVERS, loads.LOADS, servers.earlier)


def prepared(given: argparse.Namespace) -> Place:
    place = Place(target_directory(), given.oneport and given.oneport.resolve())
    place.logs.mkdir(parents=True, exist_ok=True)
    install.build_peers(place)
    if any(load.generator is Generator.WSLOAD for load in given.tests):
        install.build_websocket_programs(place)
    if given.oneport is None and any(server.name == "oneport" for server in given.servers):
        build_oneport(place.target)
    return place


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    raise_file_limit()
    try:
        place = prepared(given)
        began = time.monotonic()
        results = Bench(place, given.servers, given.seconds).run(given.tests, given.rounds)
    except Unavailable as failure:
        sys.exit(f"benches/http/run: {failure}")
    minutes = (time.monotonic() - began) / 60
    print(f"Rounds: {given.rounds}, of {given.seconds} s each; {minutes:.0f} minutes in all; {time.strftime('%B %Y')}.\n")
    report.print_peers(given.servers)
    print()
    report.summary(given.tests, results)
    report.tables(given.tests, given.servers, results)
    if wrong := failed(results):
        sys.exit(f"benches/http/run: failed: {', '.join(wrong)}")


def failed(results: Results) -> list[str]:
    """The servers that answered wrongly, or lost a load, with the test."""
    found = [f"{name} in {test}" for (test, name, _), figures in results.figures.items() if "failed" in figures]
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
