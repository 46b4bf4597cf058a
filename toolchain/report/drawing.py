"""The mapping as a drawing: every chip, how feature maps are cut, and a card for each core where there are few.

A drawing is a list of rectangles and texts in pixels, so that SVG (written here) and PNG (matplotlib) show the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape, quoteattr

Facts = dict[str, Any]

INK, DIM, EDGE, PAPER = "#1b2733", "#5b6b7a", "#9aa8b5", "#ffffff"
EMPTY = "#f3f5f7"
LIGHT, DARK = (222, 235, 247), (8, 69, 148)
OVER = "#b2182b"
"""Colours: a single hue from light to dark by share, so that it reads without telling hues apart."""

WIDTH = 960
CARDS_MOST = 24
CHIPS_MOST = 8
CELL, PER_ROW = 20, 32
CARD_WIDTH, CARD_GAP = 228, 16
SLICES_SHOWN = 3
MAP_SIDE, MAP_STEP, MAPS_MOST = 150, 192, 20
PLACES_MOST = 400
"""Boxes of one map: beyond, they would be too small to see."""
METERS = (
    ("memory", "synapse memory"),
    ("compartments", "compartments"),
    ("in-axons", "input axons"),
    ("out-axons", "output axons"),
)


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    fill: str
    edge: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str
    size: float = 12
    colour: str = INK
    anchor: str = "start"
    bold: bool = False


@dataclass(frozen=True)
class Drawing:
    width: float
    height: float
    title: str
    description: str
    shapes: tuple[Rect | Label, ...]


def draw_mapping(report: Facts) -> Drawing:
    """The cores of a report, coloured by the share of their synaptic memory that is in use."""
    totals = report["totals"]
    title = (
        f"{report['name']} on {report['target']['name']}: {totals['cores']:,} "
        f"core{'' if totals['cores'] == 1 else 's'}, {totals['memory']['kib']:,.1f} KiB of synaptic memory"
    )
    shapes: list[Rect | Label] = [Label(0, 16, title, 16, bold=True), Label(0, 36, _subtitle(report), 12, DIM)]
    y = _legend(shapes, 52)
    y = _chips(report, shapes, y + 14)
    y = _maps(report, shapes, y)
    if len(report["cores"]) <= CARDS_MOST:
        y = _cards(report, shapes, y + 10)
    return Drawing(WIDTH, y, title, describe(report), tuple(shapes))


def describe(report: Facts) -> str:
    """The drawing in words, for those who do not see it: the fullest cores first."""
    cores = sorted(report["cores"], key=lambda core: (-(_memory_percent(core) or 0.0), core["core"]))
    told = "; ".join(
        f"core {core['core']} holds {_slices(core)}, {_memory_percent(core) or 0:g} % of its synaptic memory"
        for core in cores[:SLICES_SHOWN]
    )
    more = f"; and {len(cores) - SLICES_SHOWN:,} more cores" if len(cores) > SLICES_SHOWN else ""
    return f"Cores by used synaptic memory: {told}{more}."


def to_svg(drawing: Drawing) -> str:
    """The drawing as SVG that needs nothing else; the text stays text."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.width:g} {drawing.height:g}" '
        f'width="{drawing.width:g}" height="{drawing.height:g}" role="img" '
        'aria-labelledby="mapping-title mapping-description" font-family="system-ui, sans-serif">',
        f'<title id="mapping-title">{escape(drawing.title)}</title>',
        f'<desc id="mapping-description">{escape(drawing.description)}</desc>',
        f'<rect width="{drawing.width:g}" height="{drawing.height:g}" fill="{PAPER}"/>',
        *(_svg(shape) for shape in drawing.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _svg(shape: Rect | Label) -> str:
    if isinstance(shape, Rect):
        edge = f' stroke="{shape.edge}"' if shape.edge else ""
        inside = f"<title>{escape(shape.title)}</title>" if shape.title else ""
        return (
            f'<rect x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}" '
            f'fill="{shape.fill}"{edge}>{inside}</rect>'
        )
    weight = ' font-weight="600"' if shape.bold else ""
    return (
        f'<text x="{shape.x:g}" y="{shape.y:g}" font-size="{shape.size:g}" fill={quoteattr(shape.colour)} '
        f'text-anchor="{shape.anchor}"{weight}>{escape(shape.text)}</text>'
    )


def shade(percent: float | None) -> str:
    """Colour of a share: light to dark; beyond the limit a red of its own."""
    if percent is None:
        return EMPTY
    if percent > 100:
        return OVER
    mixed = (round(a + (b - a) * percent / 100) for a, b in zip(LIGHT, DARK, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _subtitle(report: Facts) -> str:
    model = report["cost_model"]
    build = f"; build {report['build_hash']}" if report["build_hash"] else ""
    return f"{report['statement']}; cost model {model['name']} ({model['label']}){build}"


def _legend(shapes: list[Rect | Label], y: float) -> float:
    x = 0.0
    shapes.append(Label(x, y + 11, "synaptic memory in use:", 11, DIM))
    x += 150
    for percent in (0, 25, 50, 75, 100):
        shapes.append(Rect(x, y, 14, 14, shade(percent), EDGE))
        shapes.append(Label(x + 18, y + 11, f"{percent} %", 11, DIM))
        x += 62
    shapes.append(Rect(x, y, 14, 14, PAPER, EDGE))
    shapes.append(Label(x + 18, y + 11, "core not used", 11, DIM))
    return y + 14


def _chips(report: Facts, shapes: list[Rect | Label], y: float) -> float:
    per_chip, n_chips = report["target"]["cores_per_chip"], report["totals"]["chips"]
    by_chip: dict[int, list[Facts]] = {}
    for core in report["cores"]:
        by_chip.setdefault(core["chip"], []).append(core)
    for chip in range(min(n_chips, CHIPS_MOST)):
        cores = by_chip.get(chip, [])
        y += 14
        shapes.append(Label(0, y, f"chip {chip}: {len(cores):,} of {per_chip:,} cores", 12, bold=True))
        y += 6
        for k in range(per_chip):
            x, top = (k % PER_ROW) * CELL * 1.5, y + (k // PER_ROW) * CELL
            if k >= len(cores):
                shapes.append(Rect(x, top, CELL * 1.5 - 3, CELL - 3, PAPER, "#d9dfe5", "core not used"))
                continue
            core = cores[k]
            share = _memory_percent(core)
            words = f"core {core['core']}: {_slices(core)}; memory {share or 0:g} %"
            shapes.append(Rect(x, top, CELL * 1.5 - 3, CELL - 3, shade(share), EDGE, words))
            colour = PAPER if share is not None and share > 45 else INK
            shapes.append(Label(x + CELL * 0.75 - 1.5, top + 12.5, str(core["core"]), 10, colour, "middle"))
        y += -(-per_chip // PER_ROW) * CELL + 6
    if n_chips > CHIPS_MOST:
        y += 14
        shapes.append(Label(0, y, f"and {n_chips - CHIPS_MOST:,} more chips", 12, DIM))
    return y


def _maps(report: Facts, shapes: list[Rect | Label], y: float) -> float:
    """Every map that is cut: its rows and columns, and the core of each box (or how many, one for each group of
    channels)."""
    cut: dict[str, list[tuple[Facts, Facts]]] = {}
    for core in report["cores"]:
        for s in core["slices"]:
            if len(s["ranges"]) == 3:
                cut.setdefault(s["population"], []).append((core, s))
    order = [layer for layer in report["layers"] if len(cut.get(layer["name"], ())) > 1][:MAPS_MOST]
    if not order:
        return y
    across = int((WIDTH + MAP_STEP - MAP_SIDE) // MAP_STEP)
    y += 20
    shapes.append(Label(0, y, "maps that are cut, and their cores", 12, bold=True))
    for start in range(0, len(order), across):
        row = order[start : start + across]
        for k, layer in enumerate(row):
            _map(layer, cut[layer["name"]], shapes, k * MAP_STEP + 0.5, y + 8.5)
        y += 8 + max(_map_scale(layer) * layer["shape"][1] for layer in row) + 32
    return y


def _map_scale(layer: Facts) -> float:
    """Pixels of a row or a column."""
    return MAP_SIDE / max(layer["shape"][1:])


def _map(layer: Facts, slices: list[tuple[Facts, Facts]], shapes: list[Rect | Label], x: float, y: float) -> None:
    scale = _map_scale(layer)
    channels, height, width = layer["shape"]
    places: dict[tuple[int, ...], list[tuple[Facts, Facts]]] = {}
    for core, s in slices:
        places.setdefault(tuple(n for axis in s["ranges"][1:] for n in axis), []).append((core, s))
    shapes.append(Label(x, y + 11, _short(f"{layer['name']}  {channels} x {height} x {width}", 28), 11, DIM))
    y += 16
    if len(places) > PLACES_MOST:
        shapes.append(Rect(x, y, width * scale, height * scale, shade(50), EDGE))
        shapes.append(
            Label(x + width * scale / 2, y + height * scale / 2, f"{len(slices):,} slices", 11, PAPER, "middle")
        )
        return
    for (top, bottom, left, right), held in places.items():
        fullest = max((_memory_percent(core) or 0.0 for core, _ in held), default=0.0)
        words = "; ".join(f"{s['population']}{s['region']}: core {core['core']}" for core, s in held[:SLICES_SHOWN])
        rest = len(held) - SLICES_SHOWN
        box = (x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale)
        shapes.append(Rect(*box, shade(min(fullest, 100)), EDGE, words + (f"; and {rest:,} more" if rest > 0 else "")))
        text = str(held[0][0]["core"]) if len(held) == 1 else f"{len(held)} cores"
        if box[2] >= 7 * len(text) and box[3] >= 12:
            colour = PAPER if fullest > 45 else INK
            shapes.append(Label(box[0] + box[2] / 2, box[1] + box[3] / 2 + 4, text, 10, colour, "middle"))


def _cards(report: Facts, shapes: list[Rect | Label], y: float) -> float:
    across = int((WIDTH + CARD_GAP) // (CARD_WIDTH + CARD_GAP))
    cores = report["cores"]
    for start in range(0, len(cores), across):
        row = cores[start : start + across]
        lines = max(min(len(core["slices"]), SLICES_SHOWN + 1) for core in row)
        height = 30 + 15 * lines + 17 * len(METERS) + 6
        for k, core in enumerate(row):
            _card(core, shapes, k * (CARD_WIDTH + CARD_GAP) + 0.5, y + 0.5, height, lines)
        y += height + CARD_GAP
    return y


def _card(core: Facts, shapes: list[Rect | Label], x: float, y: float, height: float, lines: int) -> None:
    shapes.append(Rect(x, y, CARD_WIDTH - 1, height, PAPER, EDGE))
    shapes.append(Label(x + 8, y + 18, f"core {core['core']}", 13, bold=True))
    amount = f"{core['memory']['kib']:.1f} KiB"
    if core["memory_limit_kib"] is not None:
        amount = f"{core['memory']['kib']:.1f} / {core['memory_limit_kib']:.1f} KiB"
    shapes.append(Label(x + CARD_WIDTH - 9, y + 18, amount, 12, DIM, "end"))
    shown = core["slices"] if len(core["slices"]) <= lines else core["slices"][: lines - 1]
    for k, s in enumerate(shown):
        text = _short(f"{s['population']}{s['region']}", 32)
        shapes.append(Label(x + 8, y + 35 + 15 * k, text, 12))
    if len(shown) < len(core["slices"]):
        text = f"and {len(core['slices']) - len(shown):,} more slices"
        shapes.append(Label(x + 8, y + 35 + 15 * len(shown), text, 12, DIM))
    top = y + 30 + 15 * lines
    for name, rule in METERS:
        resource = core["resources"].get(rule)
        if resource is None:
            continue
        share = resource["percent"] or 0.0
        full = CARD_WIDTH - 160
        shapes.append(Label(x + 8, top + 9, name, 11, DIM))
        shapes.append(Rect(x + 98, top, full, 10, EMPTY))
        if share:
            shapes.append(Rect(x + 98, top, full * min(share, 100) / 100, 10, OVER if share > 100 else shade(75)))
        shapes.append(Label(x + CARD_WIDTH - 9, top + 9, f"{share:.1f} %", 11, INK, "end"))
        top += 17


def _memory_percent(core: Facts) -> float | None:
    resource = core["resources"].get("synapse memory")
    return resource["percent"] if resource else None


def _slices(core: Facts) -> str:
    names = [f"{s['population']}{s['region']}" for s in core["slices"]]
    rest = len(names) - SLICES_SHOWN
    return ", ".join(names[:SLICES_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
