"""Tables in Markdown: medians over the rounds, and medians of the ratios within each round."""

from statistics import median

from .loads import Test, before
from .rounds import Results, Run


def print_test(test: Test, results: Results) -> None:
    print(f"\n## {test.name}: {test.about}")
    for width, about in test.widths.items():
        measured = {name: results.of(width, name) for name in test.lines}
        print(f"\n### {test.name}, {about}\n")
        _print_table(test, {name: runs for name, runs in measured.items() if runs})
    if results.failures:
        print("\nWhat went wrong:\n")
        for name, reason in results.failures.items():
            print(f"- **{name} FAILED**: {reason}")


def _print_table(test: Test, measured: dict[str, dict[int, Run]]) -> None:
    units = f"{test.unit[:-1]}ies" if test.unit.endswith("y") else f"{test.unit}s"
    one = f"an {test.unit}" if test.unit[0] in "aeiou" else f"a {test.unit}"
    bases = [name for name in test.bases if name in measured]
    references = _references(test, measured)
    earlier = {name: measured[before(name)] for name in measured if before(name) in measured}
    head = [
        "server",
        f"{units} a CPU second",
        "min to max",
        *(f"x {name}" for name in bases),
        f"CPU µs {one}",
        *(["cost x before"] if earlier else []),
        *([f"cost x {test.reference}"] if references else []),
        "CPU s",
        units,
        f"{units} a second of time",
        "Redis CPU s",
    ]
    _print_row(head)
    _print_row(["---", *["--:"] * (len(head) - 1)])
    for name, runs in measured.items():
        rates = [run.units / run.cpu for run in runs.values()]
        _print_row([
            name,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            *(_number(1 / _cost_ratio(runs, measured[base])) for base in bases),
            f"{median(run.cost for run in runs.values()):,.2f}",
            *([_cost_ratios(runs, earlier[name]) if name in earlier else ""] if earlier else []),
            *([f"{_cost_ratio(runs, references[name]):,.2f}"] if references else []),
            f"{median(run.cpu for run in runs.values()):.2f}",
            f"{median(run.units for run in runs.values()):,.0f}",
            f"{median(run.units / run.seconds for run in runs.values()):,.0f}",
            f"{median(run.redis_cpu for run in runs.values()):.2f}",
        ])  # fmt: skip


def _references(test: Test, measured: dict[str, dict[int, Run]]) -> dict[str, dict[int, Run]]:
    """The reference of each line: that of the same build."""
    if test.reference not in measured:
        return {}
    present = measured[test.reference]
    earlier = measured.get(before(test.reference), present)
    return {name: earlier if name == before(name.removesuffix(before(""))) else present for name in measured}


def _cost_ratio(runs: dict[int, Run], others: dict[int, Run]) -> float:
    """The median of the costs of the runs, as multiples of those of the same round."""
    return median(run.cost / others[round_].cost for round_, run in runs.items() if round_ in others)


def _cost_ratios(runs: dict[int, Run], others: dict[int, Run]) -> str:
    """The median of the ratios, and the lowest and highest of a round."""
    ratios = [run.cost / others[round_].cost for round_, run in runs.items() if round_ in others]
    return f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:,.2f}"


def _print_row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
