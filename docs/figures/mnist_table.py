"""Sweeps of MNIST 784-800-10 as tables: writes mnist.md and results.md from the table.csv of each.

    snnc sweep models/sweep_mnist.toml         --data DIR -o sweeps/mnist
    snnc sweep models/sweep_mnist_leaders.toml --data DIR -o sweeps/leaders
    snnc sweep models/sweep_mnist_methods.toml --data DIR -o sweeps/methods
    .venv/bin/python docs/figures/mnist_table.py sweeps/mnist sweeps/leaders,sweeps/methods

A table for each argument. One line for each method and connectivity: the mean over its seeds, in parentheses the lowest
and the highest accuracy.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

HERE = Path(__file__).parent
PAGE = HERE.parent / "results.md"
HEAD = (
    "| method | connectivity % | seeds | accuracy as deployed % | float % | synaptic operations a sample "
    "| spikes a sample | cores | KiB | training s |\n"
    "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|\n"
)


def line(rows: list[dict[str, str]]) -> str:
    def average(name: str) -> float:
        return mean(float(row[name]) for row in rows)

    scores = [100 * float(row["accuracy"]) for row in rows]
    spread = f" ({min(scores):.2f} to {max(scores):.2f})" if len(rows) > 1 else ""
    return (
        f"| {rows[0]['method']} | {100 * average('connectivity'):.2f} | {len(rows)} | {mean(scores):.2f}{spread} "
        f"| {100 * average('accuracy_float'):.2f} | {average('synaptic_operations'):,.0f} | {average('spikes'):,.0f} "
        f"| {average('cores'):.3g} | {average('kib'):.1f} | {average('training_seconds'):.0f} |\n"
    )


def table(folders: str) -> str:
    """The points of sweeps, separated by commas; a point that failed stops here, with its error."""
    groups: dict[tuple[str, float], list[dict[str, str]]] = defaultdict(list)
    for folder in map(Path, folders.split(",")):
        with (folder / "table.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["error"]:
                    raise SystemExit(f"{folder}: {row['folder']}: {row['error']}")
                groups[row["method"], float(row["connectivity_asked"] or 1)].append(row)
    ordered = sorted(groups.items(), key=lambda item: (-item[0][1], -mean(float(r["accuracy"]) for r in item[1])))
    return HEAD + "".join(line(rows) for _, rows in ordered)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sweeps", nargs="+")
    tables = [table(folders) for folders in parser.parse_args().sweeps]
    (HERE / "mnist.md").write_text("\n".join(tables))
    page = PAGE.read_text()
    for number, lines in enumerate(tables, start=1):
        begin, end = f"<!-- mnist.md {number} begins -->\n", f"<!-- mnist.md {number} ends -->"
        before, _, rest = page.partition(begin)
        page = before + begin + lines + end + rest.partition(end)[2]
    PAGE.write_text(page)
    print("\n".join(tables))


if __name__ == "__main__":
    main()
