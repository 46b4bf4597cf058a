"""What a compiled network takes of its chip: facts as plain data, and the ways to show them.

`build_report` collects the facts once, as a JSON-able dict described by `report.schema.json`; text, CSV, HTML and
pictures are made from that dict alone. `toolchain.report.inspection` answers questions about one core or layer,
`toolchain.report.targets` shows target files.
"""

from toolchain.report.energy import energy
from toolchain.report.facts import build_report, dense_program, schema, to_json
from toolchain.report.inspection import inspect_core, inspect_layer, inspect_neuron, why
from toolchain.report.page import render_html
from toolchain.report.picture import mapping_picture
from toolchain.report.table import to_csv
from toolchain.report.targets import target_table, target_view
from toolchain.report.text import render_energy, render_text

__all__ = [
    "build_report",
    "dense_program",
    "energy",
    "inspect_core",
    "inspect_layer",
    "inspect_neuron",
    "mapping_picture",
    "render_energy",
    "render_html",
    "render_text",
    "schema",
    "target_table",
    "target_view",
    "to_csv",
    "to_json",
    "why",
]
