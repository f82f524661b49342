"""Command line: which servers and tests, how often, and which binaries."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar


class Named(Protocol):
    """A server, or a test."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def parse(parser: argparse.ArgumentParser, servers: Sequence[N], loads: Sequence[Named], earlier: Callable[[Path], N]) -> argparse.Namespace:
    """Adds the options that all benches have, and parses. `servers` and `tests` of the result are lists.

    `earlier` makes the server of `--before`.
    """
    parser.add_argument("--only", metavar="A,B", help=f"servers: {', '.join(server.name for server in servers)}")
    parser.add_argument("--tests", metavar="X,Y", help=f"tests: {', '.join(load.name for load in loads)}")
    parser.add_argument("--oneport", metavar="BINARY", type=Path, help="a server that is built already")
    parser.add_argument("--before", metavar="BINARY", type=Path, help="an earlier build, measured beside the others as `before`")
    given = parser.parse_args()
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("expected at least one round, and more than no seconds")
    try:
        given.tests = named_loads(given.tests, loads)
        given.servers = named_servers(given.only, servers)
    except ValueError as error:
        parser.error(str(error))
    for binary in (given.oneport, given.before):
        if binary and not binary.is_file():
            parser.error(f"expected a program at {binary}, found none")
    if given.before:
        given.servers.append(earlier(given.before.resolve()))
    return given


def named_servers(names: str | None, servers: Sequence[N]) -> list[N]:
    """Returns those of a list of names, in their own order; without a list, all."""
    known = [server.name for server in servers]
    if names is None:
        return list(servers)
    if unknown := set(names.split(",")) - set(known):
        raise ValueError(f"expected some of {', '.join(known)}, found {', '.join(sorted(unknown))}")
    return [server for server in servers if server.name in names.split(",")]


def named_loads(names: str | None, loads: Sequence[N]) -> list[N]:
    """Returns the tests of a list such as `plain,file`, in which `file` selects all that begin with it; without a list, all."""
    if names is None:
        return list(loads)
    chosen: list[N] = []
    for name in names.split(","):
        found = [load for load in loads if load.name == name or load.name.startswith(f"{name}_")]
        if not found:
            raise ValueError(f"expected some of {', '.join(load.name for load in loads)}, found {name}")
        chosen += found
    return chosen
