"""A report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from toolchain.report.drawing import draw_mapping, shade, to_svg
from toolchain.report.groups import ranges_text, slices_text
from toolchain.report.text import NEARLY_FULL, ends, few, messages, places, spread

CORES_SHOWN = 256
"""Cores that are listed one by one; where there are more, they are grouped, and per_core.csv has them all."""
GROUPS_SHOWN = 400


def render_html(report: dict[str, Any]) -> str:
    """The page. Every name and message of the report is escaped; many cores are listed in groups."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        n=_number,
        places=places,
        kib=_kib,
        ends=ends,
        ranges=ranges_text,
        slices=slices_text,
        few=few,
        spread=_spread,
        messages=messages,
    )
    environment.globals.update(shade=shade, nearly_full=NEARLY_FULL)
    template = environment.from_string((files("toolchain.report") / "page.html.j2").read_text("utf-8"))
    return template.render(
        r=report,
        listed=len(report["cores"]) <= CORES_SHOWN,
        groups=report["core_groups"][:GROUPS_SHOWN],
        # The drawing escapes its own texts.
        drawing=Markup(to_svg(draw_mapping(report))),
    )


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def _spread(values: dict[str, Any] | None) -> str:
    """One number where all cores are equal, else least..most (median)."""
    return "–" if values is None else spread(values).plain


def _kib(bits: int) -> str:
    return f"{bits / 8192:,.1f}"
