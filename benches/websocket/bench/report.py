"""Tables in Markdown: medians over the rounds, and medians of the ratios within each round."""

from collections.abc import Callable, Iterable
from statistics import median

from .loads import OFFERED, Load, Table
from .rounds import Figures, Results
from .servers import BEFORE, ONEPORT, TUNGSTENITE, UWEBSOCKETS, Server

# The servers that costs are compared with.
MEASURES = [TUNGSTENITE, UWEBSOCKETS, BEFORE, ONEPORT]

LATENCIES = [("p50_us", 0), ("p99_us", 0), ("p999_us", 0)]

# The headings of a table's columns, and their values for a server.
Columns = tuple[list[str], Callable[[str], list[str]]]


def tables(loads: Iterable[Load], servers: list[str], results: Results) -> None:
    for load in loads:
        measured = [name for name in servers if results.of(load, name)]
        if load.table is Table.MEMORY:
            head, row = memory_columns(load, results)
        elif load.table is Table.LATENCY:
            head, row = latency_columns(load, results)
        else:
            head, row = cost_columns(load, results, [name for name in MEASURES if name in measured])
        print(f"\n### {load.name}: {load.about}\n")
        if rate := results.rates.get(load.name):
            print(f"{rate:,.0f} messages a second, {OFFERED:.0%} of what the slower server can do.\n")
        if measured:
            print_row(["server", *head])
            print(f"|{'---|' * (len(head) + 1)}")
        for name in measured:
            print_row([name, *row(name)])
        print_failures(load, servers, results)


def cost_columns(load: Load, results: Results, measures: list[str]) -> Columns:
    head = [
        f"CPU µs a {load.unit}",
        "of it user",
        *(f"x {name}" for name in measures),
        f"{plural(load.unit)} a second",
        "cores",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "spread",
    ]
    compressed = "--deflate" in load.arguments

    def row(name: str) -> list[str]:
        runs = results.of(load, name)
        ratios = [number(ratio(runs, results.of(load, measure), "cpu_us")) for measure in measures]
        figures = [middle(runs, key, digits) for key, digits in [("rate", 0), ("cores", 2), *LATENCIES]]
        size = [middle(runs, "bytes", 0)] if compressed else []
        return [middle(runs, "cpu_us"), middle(runs, "user_us"), *ratios, *figures, spread(runs, "cpu_us"), *size]

    return [*head, *(["bytes a message"] if compressed else [])], row


def latency_columns(load: Load, results: Results) -> Columns:
    head = ["p50 µs", "p99 µs", "p99.9 µs", f"CPU µs a {load.unit}", f"{plural(load.unit)} a second", "cores", "spread of p99"]
    fanout = load.deliveries > 1
    last = ["p50 µs to the last", "p99 µs to the last"] if fanout else []

    def row(name: str) -> list[str]:
        runs = results.of(load, name)
        figures = [*LATENCIES, ("cpu_us", 2), ("rate", 0), ("cores", 2)]
        ends = [middle(runs, key, 0) for key in ("last_p50_us", "last_p99_us")] if fanout else []
        return [*(middle(runs, key, digits) for key, digits in figures), spread(runs, "p99_us"), *ends]

    return [*head, *last], row


def memory_columns(load: Load, results: Results) -> Columns:
    head = [
        "connections",
        "B each, open",
        "B each, after a message",
        "slab B each, both ends",
        "handshakes a second",
        "CPU µs a second, idle",
        "spread",
    ]

    def row(name: str) -> list[str]:
        runs = results.of(load, name)
        keys = ["connections", "open_bytes", "talked_bytes", "slab_bytes", "opened_s", "idle_us"]
        return [*(middle(runs, key, 0) for key in keys), spread(runs, "talked_bytes")]

    return head, row


def print_failures(load: Load, servers: list[str], results: Results) -> None:
    lines = [f"- {name}: {failure}" for name in servers for failure in results.failures(load, name)]
    if lines:
        print("\nWhat went wrong:\n", *lines, sep="\n")


def print_peers(servers: list[Server], missing: dict[str, str]) -> None:
    print("| server | what it is |\n|---|---|")
    for server in servers:
        print_row([server.name, server.about])
    for name, reason in missing.items():
        print(f"\n**{name} is left out**: {reason}.")


def print_row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |")


def values(runs: dict[int, Figures], key: str) -> list[float]:
    return [run[key] for run in runs.values() if run.get(key) is not None]


def middle(runs: dict[int, Figures], key: str, digits: int = 2) -> str:
    found = values(runs, key)
    return number(median(found) if found else None, digits)


def ratio(runs: dict[int, Figures], measure: dict[int, Figures], key: str) -> float | None:
    """The median of the ratios of the runs to those of the same round."""
    pairs = ((run.get(key), measure[round_].get(key)) for round_, run in runs.items() if round_ in measure)
    found = [own / other for own, other in pairs if own and other]
    return median(found) if found else None


def spread(runs: dict[int, Figures], key: str) -> str:
    """The distance between the rounds, as a fraction of their median."""
    found = values(runs, key)
    if len(found) < 2 or not median(found):
        return "-"
    return f"{(max(found) - min(found)) / median(found):.0%}"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def plural(unit: str) -> str:
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
