"""What a sweep shows in the terminal, and the files that it writes in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolchain.sweep import picture as pictures
from toolchain.sweep import table
from toolchain.sweep.plan import Point, Training
from toolchain.sweep.run import State


class Lines:
    """One line for each training and point that is over."""

    def __init__(self, out: Console, status: Callable[[str], None]) -> None:
        self._out, self._status = out, status

    def trained(self, training: Training) -> None:
        self._out.print(f"trained {training.label}", markup=False)

    def finished(self, point: Point, row: table.Row, done: int, total: int) -> None:
        if row["error"] is None:
            operations = f"{row['synaptic_operations']:,.0f} operations a sample"
            text = f"{100 * row['accuracy']:.2f} %, {cores(row['cores'])}, {operations}"
        else:
            text = f"[red]failed[/]: {escape(row['error'])}"
        self._out.print(f"\\[{done:{len(str(total))}}/{total}] {escape(row['folder'])}: {text}")

    def waiting(self, running: int, waiting: int) -> None:
        self._status(f"{running} running, {waiting} waiting")


def cores(number: float) -> str:
    """A number of cores in words."""
    return f"{number:g} core{'s' * (number != 1)}"


def before(state: State, out: Console, err: Console) -> None:
    """What is asked and what is there already."""
    for note in state.sweep.notes:
        err.print(note, markup=False)
    points = state.sweep.points
    words = [state.word(point) for point in points]
    counted = [f"{words.count(word)} {word}" for word in ("done", "refused") if word in words]
    out.print(
        ", ".join([f"{len(points)} points of {len(state.sweep.trainings)} trainings", *counted]),
        markup=False,
    )
    if others := state.others():
        err.print(
            f"{len(others)} points in {state.out} are not of this sweep file and its recipe as they are now: "
            "left as they are, and not in the table",
            markup=False,
        )


def plan(state: State, out: Console) -> None:
    """All points and how far each is."""
    asked = ("method", "connectivity_asked", "bits", "seed", *state.sweep.telling, "target")
    shown = _table({name: name.removesuffix("_asked") for name in asked} | {"state": "", "folder": "folder"})
    for point in state.sweep.points:
        row = state.row(point)
        shown.add_row(*(_cell(row[name]) for name in asked), state.word(point), escape(row["folder"]))
    out.print(shown)
    for point in state.sweep.points:
        if point.training.error is not None:
            out.print(f"refused: {point.training.label}: {point.training.error}", markup=False)


def write(state: State, rows: list[table.Row], parquet: bool, picture: str | None, out: Console) -> None:
    """table.csv, table.parquet and the picture; the table and the Pareto set in the terminal."""
    columns = table.columns(state.sweep)
    written = [state.out / "table.csv"]
    table.write_csv(written[0], list(columns), rows)
    if parquet:
        written.append(state.out / "table.parquet")
        table.write_parquet(written[-1], columns, rows)
    found = table.configurations(state.sweep, rows)
    if picture is not None and found:
        written.append(state.out / f"pareto.{picture}")
        pictures.draw(found, written[-1])
    _print_rows(state, rows, out)
    _print_best(found, out)
    out.print(f"wrote {', '.join(map(str, written))}", markup=False)


def _print_rows(state: State, rows: list[table.Row], out: Console) -> None:
    heads = {
        "method": "method",
        "connectivity_asked": "asked",
        "connectivity": "reached",
        "bits": "bits",
        "seed": "seed",
        **{key: key.rpartition(".")[2] for key in state.sweep.telling},
        "target": "target",
        "accuracy_float": "float",
        "accuracy_quantised": "rounded",
        "accuracy": "deployed",
        "synaptic_operations": "operations",
        "cores": "cores",
        "chips": "chips",
        "kib": "KiB",
        "spikes": "spikes",
        "training_seconds": "training s",
    }
    percents = {"connectivity_asked", "connectivity", "accuracy_float", "accuracy_quantised", "accuracy"}
    shown = _table(heads)
    for row in rows:
        if row["error"] is None:
            shown.add_row(*(_cell(row[name], name in percents) for name in heads))
    if shown.row_count:
        out.print(shown)
        out.print("connectivity and accuracy in %; operations and spikes a sample; KiB of synapse memory")


def _table(heads: dict[str, str]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name, head in heads.items():
        left = name in ("method", "target", "state", "folder")
        shown.add_column(escape(head), justify="left" if left else "right", overflow="fold")
    return shown


def _cell(value: Any, percent: bool = False) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{100 * value:.2f}" if percent else f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"
    return escape(str(value))


def _print_best(found: list[table.Configuration], out: Console) -> None:
    for target in dict.fromkeys(c.target for c in found):
        best = sorted((c for c in found if c.best and c.target == target), key=lambda c: c.cores)
        out.print(f"Pareto set on {escape(target)} (more accuracy only for more cores; seeds averaged):")
        for c in best:
            seeds = f", mean of {len(c.rows)} seeds" if len(c.rows) > 1 else ""
            out.print(f"  {100 * c.accuracy:.2f} %, {cores(c.cores)}: {c.name}{seeds}", markup=False)
