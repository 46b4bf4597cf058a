"""Pictures of a training run, from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolchain.errors import SnncError
from toolchain.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {
    "loss": "loss",
    "accuracy": "accuracy on the test set",
    "connectivity": "connectivity",
    "lr": "learning rate",
    "alpha": "alpha",
}
"""Keys of metrics.jsonl that have a picture of their own, where they were recorded."""
LOGARITHMIC = ("connectivity", "connectivity_per_layer", "alpha")


def plot(run: Path, out_dir: Path | None = None) -> list[Path]:
    """Write training.png, layers.png and, once there is a model, weights.png beside the run's files or into out_dir.

    Raises:
        SnncError: no training run, or a file could not be written.
        ModuleNotFoundError: matplotlib is missing.
    """
    records = _records(run)
    epochs = [record for record in records if "epoch" in record]
    # The last measurement is that of the finished network.
    for record in records:
        if "final" in record:
            epochs[-1] = {**epochs[-1], "accuracy": record["accuracy"]}
    figures = {"training.png": _training(epochs), "layers.png": _layers(epochs)}
    if (run / "model.pt").exists():
        figures["weights.png"] = _weights(run / "model.pt")
    folder = run if out_dir is None else out_dir
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        with atomic_write(folder / name) as stream:
            figure.savefig(stream, format="png", dpi=120)
    return [folder / name for name in figures]


def _records(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise SnncError(
            f"{run} is no training run, or its first epoch is not over",
            where=str(path),
            got=str(error),
            remedy="name the folder that snnc train -o wrote",
        ) from None
    if not any("epoch" in record for record in records):
        raise SnncError("no epoch has been recorded", where=str(path))
    return records


def _figure(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    # No pyplot: it would look for a display and keep every figure.
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _curve(axes: Axes, epochs: list[dict[str, Any]], key: str, values: list[Any], label: str | None = None) -> None:
    from matplotlib.ticker import LogFormatter, MaxNLocator

    logarithmic = key in LOGARITHMIC and any(values)
    # An alpha of 0 has no place on a logarithmic axis.
    drawn = [value if value or not logarithmic else None for value in values]
    known = [(record["epoch"], value) for record, value in zip(epochs, drawn, strict=True) if value is not None]
    axes.plot(*zip(*known, strict=True), marker="." if len(known) < 40 else None, label=label)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)


def _training(epochs: list[dict[str, Any]]) -> Figure:
    found = [key for key in CURVES if any(record.get(key) is not None for record in epochs)]
    figure, pictures = _figure(len(found), 3)
    frozen = next((record["epoch"] for record in epochs[1:] if record["frozen"] and not epochs[0]["frozen"]), None)
    for key, axes in zip(found, pictures, strict=True):
        _curve(axes, epochs, key, [record.get(key) for record in epochs])
        axes.set_title(CURVES[key])
        if frozen is not None:
            axes.axvline(frozen, color="grey", linestyle=":", label="set of synapses final")
            axes.legend(fontsize="small")
    return figure


def _layers(epochs: list[dict[str, Any]]) -> Figure:
    figure, (axes,) = _figure(1, 1)
    figure.set_size_inches(7, 4)
    for name in epochs[-1]["connectivity_per_layer"]:
        values = [record["connectivity_per_layer"][name] for record in epochs]
        _curve(axes, epochs, "connectivity_per_layer", values, name)
    axes.set_title("connectivity of each layer")
    axes.legend(fontsize="small")
    return figure


def _weights(path: Path) -> Figure:
    """Histograms of the weights that exist."""
    model = torch.load(path, weights_only=True)
    layers = [layer for layer in model["layers"] if layer.get("weight") is not None and layer["name"] != "vote.weight"]
    figure, pictures = _figure(len(layers), min(len(layers), 3))
    for layer, axes in zip(layers, pictures, strict=True):
        alive = layer["weight"][layer["mask"]]
        axes.hist(alive.flatten().tolist(), bins=min(max(len(alive) // 20, 10), 100))
        axes.set_title(f"{layer['name'].removesuffix('.weight')}: {len(alive):,} of {layer['mask'].numel():,} weights")
        axes.set_xlabel("weight")
        axes.grid(alpha=0.3)
    return figure
