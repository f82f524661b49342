"""The command line: what to measure, and for how long."""

import argparse
import signal
import sys
import time

from comparison.builds import Unavailable, say, target_directory
from comparison.command_line import parse
from comparison.processes import raise_file_limit

from . import install, loads, report, servers
from .install import Place
from .rounds import Bench


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/websocket/run",
        description="Measures Oneport beside other WebSocket servers and prints tables in Markdown. What it needs it builds and "
        "installs below target/websocket-bench.",
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", metavar="S", type=float, default=2, help="how long each time, after a second to warm up (2)")
    return parse(parser, servers.SERVERS, loads.LOADS, servers.earlier)


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    files = raise_file_limit()
    try:
        place = Place(target_directory(), given.oneport and given.oneport.resolve())
        place.logs.mkdir(parents=True, exist_ok=True)
        install.build_programs(place)
    except Unavailable as failure:
        sys.exit(f"benches/websocket/run: {failure}")
    launches, missing = servers.prepare(given.servers, place)
    for name, reason in missing.items():
        say(f"{name} is left out: {reason}")
    if not launches:
        sys.exit("benches/websocket/run: no server can be started")

    bench = Bench(place, launches, given.only is not None, given.seconds, files)
    began = time.monotonic()
    results = bench.run(given.tests, given.rounds)
    minutes = (time.monotonic() - began) / 60
    print(f"Rounds: {given.rounds}, of {given.seconds:g} s each; {minutes:.0f} minutes in all; {time.strftime('%B %Y')}.\n")
    report.print_peers([server for server in given.servers if server.name in launches], missing)
    report.tables(given.tests, list(launches), results)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
