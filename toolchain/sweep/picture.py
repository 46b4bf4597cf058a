"""Accuracy against cores, one panel for each chip: cores of different chips are not the same thing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import SnncError
from toolchain.files import atomic_write
from toolchain.sweep.table import Configuration

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
"""Okabe and Ito's palette, told apart also by those who do not see red or green."""
MARKERS = "osD^vPX*"


def need_matplotlib() -> None:
    """Refuse before the work what could not be drawn after it.

    Raises:
        SnncError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise SnncError(
            "a picture needs matplotlib", where="--picture", remedy="pip install 'snnc[plot]', or --picture none"
        ) from error


def draw(found: Sequence[Configuration], path: Path) -> None:
    """The picture as .png or .svg: a mark for each configuration, a dot for each seed, rings around the Pareto set."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    targets = list(dict.fromkeys(c.target for c in found))
    methods = list(dict.fromkeys(c.method for c in found))
    with rc_context({"svg.hashsalt": "snnc", "svg.fonttype": "none"}):
        figure = Figure(figsize=(1.2 + 4.6 * len(targets), 4.2), dpi=144, facecolor="white", layout="constrained")
        for number, target in enumerate(targets):
            axes = figure.add_subplot(1, len(targets), number + 1)
            here = [c for c in found if c.target == target]
            for k, method in enumerate(methods):
                own = [c for c in here if c.method == method]
                colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
                seeds = [(each["cores"], 100 * each["accuracy"]) for c in own if len(c.rows) > 1 for each in c.rows]
                if seeds:
                    at = [cores for cores, _ in seeds], [accuracy for _, accuracy in seeds]
                    axes.scatter(at[0], at[1], s=9, color=colour, alpha=0.5, linewidths=0, zorder=2)
                if own:
                    xs, ys = [c.cores for c in own], [100 * c.accuracy for c in own]
                    axes.scatter(xs, ys, s=42, color=colour, marker=marker, label=_plain(method), zorder=3)
            best = sorted((c for c in here if c.best), key=lambda c: (c.cores, c.accuracy))
            xs, ys = [c.cores for c in best], [100 * c.accuracy for c in best]
            axes.plot(xs, ys, drawstyle="steps-post", color="#444444", linewidth=0.9, zorder=1)
            axes.scatter(
                xs, ys, s=130, facecolors="none", edgecolors="#222222", linewidths=1.2, zorder=4, label="Pareto set"
            )
            for c in best:
                axes.annotate(
                    _plain(c.name),
                    (c.cores, 100 * c.accuracy),
                    xytext=(8, -12),
                    textcoords="offset points",
                    fontsize=7,
                    color="#222222",
                )
            axes.margins(x=0.18, y=0.14)
            axes.set_title(_plain(target), fontsize=10)
            axes.set_xlabel("cores")
            axes.set_ylabel("accuracy as deployed, %")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#e5e5e5", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.legend(fontsize=8, loc="lower right", framealpha=0.9)
        kind = path.suffix[1:]
        image = io.BytesIO()
        figure.savefig(image, format=kind, metadata={"Software": None} if kind == "png" else {"Date": None})
    with atomic_write(path) as stream:
        stream.write(image.getvalue())


def _plain(text: str) -> str:
    """A name may hold a dollar sign, which is no formula."""
    return text.replace("$", r"\$")
