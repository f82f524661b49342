"""The command line: what to measure, and for how long."""

import argparse
import signal
import sys
import time
from pathlib import Path

from . import install, loads, report, servers
from .install import Place, Unavailable, say
from .rounds import Bench


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/websocket/run",
        description="Measures Oneport beside other WebSocket servers and prints tables in Markdown. What it needs it builds and "
        "installs below target/websocket-bench.",
    )
    parser.add_argument("--only", metavar="A,B", help=f"servers: {', '.join(server.name for server in servers.SERVERS)}")
    parser.add_argument("--tests", metavar="X,Y", help=f"tests: {', '.join(load.name for load in loads.LOADS)}")
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="how often everything is measured (5)")
    parser.add_argument("--seconds", metavar="S", type=float, default=2, help="how long each time, after a second to warm up (2)")
    parser.add_argument("--oneport", metavar="BINARY", type=Path, help="a server that is built already")
    parser.add_argument("--before", metavar="BINARY", type=Path, help="an earlier build, measured beside the others as `before`")
    given = parser.parse_args()
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("expected at least one round, and more than no seconds")
    try:
        given.tests = loads.named(given.tests)
        given.servers = named_servers(given.only)
    except ValueError as error:
        parser.error(str(error))
    for binary in (given.oneport, given.before):
        if binary and not binary.is_file():
            parser.error(f"expected a program at {binary}, found none")
    if given.before:
        given.servers.append(servers.earlier(given.before.resolve()))
    return given


def named_servers(names: str | None) -> list[servers.Server]:
    known = {server.name: server for server in servers.SERVERS}
    if names is None:
        return list(servers.SERVERS)
    if unknown := set(names.split(",")) - set(known):
        raise ValueError(f"expected some of {', '.join(known)}, found {', '.join(sorted(unknown))}")
    return [server for server in servers.SERVERS if server.name in names.split(",")]


def main() -> None:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    files = servers.raise_file_limit()
    try:
        place = Place(install.target_directory(), given.oneport and given.oneport.resolve())
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
