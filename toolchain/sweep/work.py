"""What a worker does: train, or compile and simulate. Every result is a file in the point's folder, written whole."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.files import only_one, write_text
from toolchain.sweep.plan import Point, Training, one_line

RUN, BUILD, FIGURES, ERROR = "run", "build", "figures.json", "error.txt"


class Stopped(Exception):
    """The sweep was stopped; the checkpoint of the epoch that just ended is written."""


@dataclass(frozen=True)
class Job:
    """One piece of work, as plain values that travel to a worker. kind: `train` or `deploy`."""

    kind: str
    folder: str
    label: str
    values: Mapping[str, Any]
    data: str | None


@dataclass(frozen=True)
class Outcome:
    """figures: of a point.  error: one line, with `details`, or None."""

    figures: Mapping[str, Any] | None = None
    error: str | None = None
    details: str = ""
    stopped: bool = False


def training_job(out: Path, training: Training, data: Path | None) -> Job:
    """The job that trains."""
    assert training.recipe is not None
    folder = out / training.label
    return Job("train", str(folder), training.label, training.recipe.to_dict(), _text(data))


def deployment_job(out: Path, point: Point, data: Path | None) -> Job:
    """The job that compiles and simulates what was trained."""
    values = {
        "key": point.key,
        "target": point.target.to_dict(),
        "options": asdict(point.options),
        "samples": point.samples,
    }
    folder = out / point.training.label / point.label
    return Job("deploy", str(folder), f"{point.training.label}/{point.label}", values, _text(data))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def trained(out: Path, training: Training) -> bool:
    """Whether this training is over."""
    return (out / training.label / RUN / "model.pt").is_file()


def begun(out: Path, training: Training) -> bool:
    """Whether there is a checkpoint to continue from."""
    return (out / training.label / RUN / "checkpoint.pt").is_file()


def finished(out: Path, point: Point) -> dict[str, Any] | None:
    """The figures of a point that was done before, as it is asked now; None where it is still to do."""
    try:
        figures = json.loads((out / point.training.label / point.label / FIGURES).read_bytes())
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) and figures.get("key") == point.key else None


def attempt(job: Job, stop: Callable[[], bool] | None = None) -> Outcome:
    """Do a job; whatever is refused or fails is told, not raised, so that other jobs go on. stop: asked each epoch."""
    folder = Path(job.folder)
    try:
        with only_one(folder):
            (folder / ERROR).unlink(missing_ok=True)
            if job.kind == "deploy":
                return Outcome(_deploy(job))
            _train(job, stop)
            return Outcome()
    except Stopped:
        return Outcome(stopped=True)
    except Exception as error:
        details = str(error) if isinstance(error, SnncError) else traceback.format_exc()
        return Outcome(error=one_line(error), details=details)


def _train(job: Job, stop: Callable[[], bool] | None) -> None:
    from toolchain.training.loop import train
    from toolchain.training.recipe import Recipe

    run = Path(job.folder) / RUN
    if (run / "model.pt").is_file():
        return
    resume = (run / "checkpoint.pt").is_file()
    if run.exists() and not resume:
        shutil.rmtree(run)  # stopped before its first epoch ended
    reporter = _UntilStopped(stop or (lambda: False))
    train(Recipe.from_dict(job.values), data_dir=job.data, out_dir=run, resume=resume, reporter=reporter)


class _UntilStopped:
    """A silent reporter that ends training after an epoch, when the checkpoint has just been written."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def update(self, status: Any, *, epoch_ended: bool) -> None:
        if epoch_ended and status.step < status.total and self._stop():
            raise Stopped

    def close(self) -> None:
        pass


def _deploy(job: Job) -> dict[str, Any]:
    import hw_targets
    from toolchain import build
    from toolchain.frontends import load
    from toolchain.pipeline import Options, compile_graph
    from toolchain.training.data import load as load_data

    folder = Path(job.folder)
    loaded = load(folder.parent / RUN)
    target = hw_targets.parse(job.values["target"], job.label)
    state = compile_graph(loaded.graph, target, Options.from_dict(job.values["options"]))
    facts = build.facts(state, loaded.diagnostics)
    data = load_data(loaded.graph.metadata["dataset"], job.data)
    wanted = job.values["samples"]
    if wanted is not None and wanted > len(data.test_x):
        raise SnncError("there are not so many test samples", where="samples", got=wanted, allowed=len(data.test_x))
    figures = {"key": job.values["key"], **_figures(state, facts, data.test_x[:wanted], data.test_y[:wanted])}
    *_, last = (folder.parent / RUN / "metrics.jsonl").read_text().splitlines()
    figures["training_seconds"] = json.loads(last)["seconds"]
    figures["build"] = build.write_build(
        state, facts, folder / BUILD, force=(folder / BUILD).exists(), emit_images=False
    )
    write_text(folder / FIGURES, json.dumps(figures, indent=1) + "\n")
    return figures


def _figures(state: Any, facts: Mapping[str, Any], x: NDArray[Any], y: NDArray[Any]) -> dict[str, Any]:
    """Accuracy before and after rounding and as deployed (the back end `fast`, equal to the reference), and costs."""
    from toolchain import simulation
    from toolchain.backends import physical

    trace = simulation.backend("fast")(state.program, x, record=())
    operations = simulation.synaptic_operations(state.program, trace)
    entry = state.program.input.name
    spikes = {name: float(counts.sum(dtype=np.int64)) / len(x) for name, counts in trace.counts.items()}
    totals, trained = facts["totals"], state.graph.metadata
    dense = totals["dense"]
    return {
        "connectivity": float(trained["trained.connectivity"]),
        "synapses": sum(c.synapses.connectivity.n_synapses for c in state.program.connections),
        "bits": state.weight_bits,
        "accuracy_float": _accuracy(state, state.graph, physical.run, x, y),
        "accuracy_quantised": _accuracy(state, state.quantised.dequantise(), physical.run, x, y),
        "accuracy": simulation.accuracy(trace, y),
        "samples": len(x),
        "synaptic_operations": sum(operations.values()),
        "spikes": sum(count for name, count in spikes.items() if name != entry),
        "input_spikes": spikes[entry],
        "cores": totals["cores"],
        "dense_cores": None if dense is None else dense["cores"],
        "chips": totals["chips"],
        "kib": totals["memory"]["kib"],
    }


def _accuracy(state: Any, graph: Any, run: Callable[..., Any], x: NDArray[Any], y: NDArray[Any]) -> float:
    """Of a simulation that keeps all its spikes: in parts, so that those of a large network fit in memory."""
    from toolchain.simulation import SPIKES_AT_ONCE

    neurons = graph.input.size + sum(p.size for p in graph.populations)
    size = max(1, SPIKES_AT_ONCE // (neurons * graph.steps))
    right = sum(
        int((run(graph, x[at : at + size]).decisions == y[at : at + size]).sum()) for at in range(0, len(x), size)
    )
    return right / len(x)
