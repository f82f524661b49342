"""Tables in Markdown: medians over the rounds, and medians of the ratios within each round."""

from collections.abc import Iterable
from statistics import median

from .loads import Load
from .rounds import Figures, Results
from .servers import Server

# The servers that costs are compared with.
MEASURES = ["hyper", "nginx", "before", "oneport"]


def summary(loads: Iterable[Load], results: Results) -> None:
    """Oneport beside the goals."""
    rows: list[list[str]] = []
    for load in loads:
        own = results.of(load, "oneport")
        peer, goal = load.goal
        found = ratio(own, results.of(load, peer))
        if found is None:
            continue
        verdict = "reached" if found <= goal else "**not reached**"
        others = []
        if load.below and (other := ratio(own, results.of(load, load.below))):
            others.append(f"{number(other)} x {load.below}" + ("" if other < 1 else " (**not below**)"))
        if before := ratio(own, results.of(load, "before")):
            others.append(f"{number(before)} x before")
        cells = [load.about, f"{middle(own, 'cpu_us')}", f"{number(found)} x {peer}", f"{number(goal)} x", verdict, ", ".join(others)]
        rows.append([load.name, *cells])
    if rows:
        print_table(["test", "work", "oneport, CPU µs", "found", "goal", "", "also"], rows)


def tables(loads: Iterable[Load], servers: list[Server], results: Results) -> None:
    for load in loads:
        measured = [server.name for server in servers if results.of(load, server.name)]
        measures = [name for name in MEASURES if name in measured]
        print(f"\n### {load.name}: {load.about}\n")
        rows: list[list[str]] = []
        for name in measured:
            runs = results.of(load, name)
            ratios = [number(ratio(runs, results.of(load, measure))) for measure in measures]
            figures = [middle(runs, "rate", 0), middle(runs, "cores"), middle(runs, "p50_us", 0), middle(runs, "p99_us", 0)]
            rows.append([name, middle(runs, "cpu_us"), middle(runs, "user_us"), *ratios, *figures, spread(runs)])
        if rows:
            heads = [f"CPU µs a {load.unit}", "of it user", *(f"x {name}" for name in measures), f"{load.unit}s a second", "cores"]
            print_table(["server", *heads, "p50 µs", "p99 µs", "spread"], rows)
        if failures := results.failures(load):
            print("\nWhat went wrong:\n", *(f"- {failure}" for failure in failures), sep="\n")


def print_peers(servers: list[Server]) -> None:
    print_table(["server", "what it is"], [[server.name, server.about] for server in servers])


def print_table(head: list[str], rows: list[list[str]]) -> None:
    for cells in [head, ["---"] * len(head), *rows]:
        print(f"| {' | '.join(cells)} |")


def values(runs: dict[int, Figures], key: str) -> list[float]:
    return [run[key] for run in runs.values() if run.get(key) is not None]


def middle(runs: dict[int, Figures], key: str, digits: int = 2) -> str:
    found = values(runs, key)
    return number(median(found) if found else None, digits)


def ratio(runs: dict[int, Figures], measure: dict[int, Figures]) -> float | None:
    """The median of the ratios of the CPU times to those of the same round."""
    pairs = ((run["cpu_us"], measure[round_]["cpu_us"]) for round_, run in runs.items() if round_ in measure)
    found = [own / other for own, other in pairs if own and other]
    return median(found) if found else None


def spread(runs: dict[int, Figures]) -> str:
    """The distance between the rounds, as a fraction of their median."""
    found = values(runs, "cpu_us")
    return f"{(max(found) - min(found)) / median(found):.0%}" if len(found) > 1 and median(found) else "-"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
