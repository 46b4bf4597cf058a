"""A report as a table of cores, one row each, for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from typing import Any

Facts = dict[str, Any]

AMOUNTS = ("compartments", "input_axons", "output_axons", "crossing_axons", "synapses", "synapse_words")
BITS = ("payload_bits", "index_bits", "header_bits", "padding_bits")


def to_csv(report: Facts) -> str:
    """One row a core (RFC 4180: commas, quotes where needed, CRLF). Every rule has columns used, limit, percent."""
    out = io.StringIO(newline="")
    write = csv.writer(out)
    rules = list(report["rules"])
    write.writerow(
        [
            "core",
            "chip",
            "slices",
            *AMOUNTS,
            *BITS,
            "synapse_kib",
            "synapse_kib_free",
            *(f"{_name(rule)}_{what}" for rule in rules for what in ("used", "limit", "percent")),
            "bound_by",
        ]
    )
    for core in report["cores"]:
        resources = [core["resources"].get(rule, {}) for rule in rules]
        write.writerow(
            [
                core["core"],
                core["chip"],
                " ".join(f"{s['population']}{s['region']}" for s in core["slices"]),
                *(core["usage"][what] for what in AMOUNTS),
                *(core["memory"][what] for what in BITS),
                core["memory"]["kib"],
                core["memory_free_kib"],
                *(resource.get(what) for resource in resources for what in ("used", "limit", "percent")),
                core["bound_by"],
            ]
        )
    return out.getvalue()


def _name(rule: str) -> str:
    return "rule_" + rule.replace(" ", "_")
