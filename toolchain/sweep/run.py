"""A sweep from its plan to its table: what is to do, done in the right order, and written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolchain.errors import Interrupted, SnncError
from toolchain.files import only_one, write_text
from toolchain.sweep import table, work
from toolchain.sweep.plan import Point, Sweep, Training
from toolchain.sweep.work import Job, Outcome

COPY = "sweep.toml"
"""The sweep file as it was last run; it also tells that a folder is a sweep's."""


class Teller(Protocol):
    """Told what happens."""

    def trained(self, training: Training) -> None: ...

    def finished(self, point: Point, row: table.Row, done: int, total: int) -> None: ...

    def waiting(self, running: int, waiting: int) -> None: ...


@dataclass
class State:
    """What is known of each point of a sweep in its folder."""

    sweep: Sweep
    out: Path
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, sweep: Sweep, out: Path) -> State:
        """As earlier runs left it.

        Raises:
            SnncError: the folder holds something else.
        """
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / COPY).is_file())):
            raise SnncError(
                f"{out} exists already and is no folder of a sweep",
                where="-o",
                got=str(out),
                remedy="choose another place with -o",
            )
        names = sorted(path.name for path in out.iterdir()) if out.exists() else []
        state = cls(sweep.in_folder(names), out)
        for point in state.sweep.points:
            if (error := point.training.error) is not None:
                state.errors[_id(point)] = error
            elif (figures := work.finished(out, point)) is not None:
                state.figures[_id(point)] = figures
        return state

    def known(self, point: Point) -> bool:
        return _id(point) in self.figures or _id(point) in self.errors

    def word(self, point: Point) -> str:
        """How far a point is."""
        if point.training.error is not None:
            return "refused"
        if _id(point) in self.figures:
            return "done"
        if work.trained(self.out, point.training):
            return "trained"
        return "half trained" if work.begun(self.out, point.training) else "to do"

    def row(self, point: Point) -> table.Row:
        return table.row(self.sweep, point, self.figures.get(_id(point)), self.errors.get(_id(point)))

    def rows(self) -> list[table.Row]:
        """Of all points about which something is known."""
        return [self.row(point) for point in self.sweep.points if self.known(point)]

    def others(self) -> list[str]:
        """Points in the folder that the sweep does not ask for: of an earlier sweep file or recipe."""
        asked = {_id(point) for point in self.sweep.points}
        there = (str(path.parent.relative_to(self.out)) for path in self.out.glob(f"*/*/{work.FIGURES}"))
        return sorted(set(there) - asked)


def _id(point: Point) -> str:
    return f"{point.training.label}/{point.label}"


def run(
    state: State,
    *,
    scheduler: str | None,
    workers: int,
    data: Path | None,
    teller: Teller,
    finish: Callable[[list[table.Row]], None],
) -> list[table.Row]:
    """Do all that is to do; the rows of all points. finish: called with the rows that there are, whatever happened.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
        ToolError: the cluster is not there, or is gone.
        SnncError: another sweep works in the folder.
    """
    with only_one(state.out):
        write_text(state.out / COPY, state.sweep.path.read_bytes().decode())
        try:
            todo = [point for point in state.sweep.points if not state.known(point)]
            if todo:
                _work(state, todo, scheduler, workers, data, teller)
        except KeyboardInterrupt:
            done = sum(map(state.known, state.sweep.points))
            raise Interrupted(
                f"stopped after {done} of {len(state.sweep.points)} points",
                where=str(state.out),
                remedy="the same command continues from here",
            ) from None
        finally:
            finish(state.rows())
    return state.rows()


def _work(
    state: State, todo: list[Point], scheduler: str | None, workers: int, data: Path | None, teller: Teller
) -> None:
    from toolchain.sweep import cluster

    out = state.out
    of_training: dict[str, list[Point]] = {}
    for point in todo:
        of_training.setdefault(point.training.label, []).append(point)
    trainings = {point.training.label: point.training for point in todo}
    deployments: dict[str, Point] = {}

    def deploy(label: str) -> list[Job]:
        jobs = []
        for point in of_training[label]:
            deployments[_id(point)] = point
            jobs.append(work.deployment_job(out, point, data))
        return jobs

    def over(point: Point, outcome: Outcome) -> None:
        if outcome.figures is not None:
            state.figures[_id(point)] = dict(outcome.figures)
        else:
            state.errors[_id(point)] = outcome.error or "stopped"
        teller.finished(point, state.row(point), sum(map(state.known, state.sweep.points)), len(state.sweep.points))

    def done(job: Job, outcome: Outcome) -> Iterable[Job]:
        if outcome.error is not None:
            with contextlib.suppress(SnncError, OSError):
                Path(job.folder).mkdir(parents=True, exist_ok=True)
                write_text(Path(job.folder) / work.ERROR, outcome.details + "\n")
        if job.kind == "deploy":
            over(deployments[job.label], outcome)
            return []
        if outcome.error is None and not outcome.stopped:
            teller.trained(trainings[job.label])
            return deploy(job.label)
        for point in of_training[job.label]:
            over(point, outcome)
        return []

    jobs: list[Job] = []
    for label, training in trainings.items():
        there = work.trained(out, training)
        jobs += deploy(label) if there else [work.training_job(out, training, data)]
    with cluster.terminable(), cluster.connected(scheduler, min(workers, len(todo))) as client:
        cluster.work_off(client, jobs, done, teller.waiting)
