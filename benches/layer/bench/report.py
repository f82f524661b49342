"""Tables in Markdown: medians over the rounds, and medians of the ratios within each round."""

from statistics import median

from .loads import Test
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
    reference = measured.get(test.reference or "")
    head = [
        "server",
        f"{units} a CPU second",
        "min to max",
        *(f"x {name}" for name in bases),
        f"CPU µs {one}",
        *([f"cost x {test.reference}"] if reference else []),
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
            *([f"{_cost_ratio(runs, reference):,.2f}"] if reference else []),
            f"{median(run.cpu for run in runs.values()):.2f}",
            f"{median(run.units for run in runs.values()):,.0f}",
            f"{median(run.units / run.seconds for run in runs.values()):,.0f}",
            f"{median(run.redis_cpu for run in runs.values()):.2f}",
        ])  # fmt: skip


def _cost_ratio(runs: dict[int, Run], others: dict[int, Run]) -> float:
    """The median of the costs of the runs, as multiples of those of the same round."""
    return median(run.cost / others[round_].cost for round_, run in runs.items() if round_ in others)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:,.2f}"


def _print_row(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
