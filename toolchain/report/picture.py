"""The mapping as a picture file, for a README or a slide."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from toolchain.errors import SnncError
from toolchain.files import atomic_write, write_text
from toolchain.report.drawing import Drawing, Rect, draw_mapping, to_svg

SUFFIXES = (".svg", ".png", ".pdf")
DOTS_PER_PIXEL = 2
INCH = 96.0


def mapping_picture(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the mapping of a report to an .svg file, or (with matplotlib) to .png or .pdf.

    Raises:
        SnncError: another suffix, matplotlib is missing, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise SnncError(
            "unknown kind of picture", where=str(path), got=suffix or "no suffix", allowed=", ".join(SUFFIXES)
        )
    drawing = draw_mapping(report)
    if suffix == ".svg":
        write_text(path, to_svg(drawing))
        return
    image = _raster(drawing, suffix[1:])
    with atomic_write(path) as stream:
        stream.write(image)


def _raster(drawing: Drawing, kind: str) -> bytes:
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise SnncError(
            f"a .{kind} picture needs matplotlib",
            remedy="pip install 'snnc[plot]', or ask for an .svg, which needs nothing",
        ) from error
    margin = 12.0
    width, height = drawing.width + 2 * margin, drawing.height + 2 * margin
    figure = Figure(figsize=(width / INCH, height / INCH), dpi=INCH * DOTS_PER_PIXEL, facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-margin, drawing.width + margin)
    axes.set_ylim(drawing.height + margin, -margin)
    ends = {"start": "left", "middle": "center", "end": "right"}
    for shape in drawing.shapes:
        if isinstance(shape, Rect):
            edge = shape.edge or "none"
            axes.add_patch(
                Rectangle(
                    (shape.x, shape.y), shape.width, shape.height, facecolor=shape.fill, edgecolor=edge, linewidth=0.7
                )
            )
        else:
            axes.text(
                shape.x,
                shape.y,
                # A name may hold a dollar sign, which is no formula.
                shape.text.replace("$", r"\$"),
                fontsize=shape.size * 72 / INCH,
                color=shape.colour,
                ha=ends[shape.anchor],
                va="baseline",
                fontweight="bold" if shape.bold else "normal",
            )
    out = io.BytesIO()
    dates = {"Software": None} if kind == "png" else {"CreationDate": None}
    figure.savefig(out, format=kind, metadata=dates)
    return out.getvalue()
