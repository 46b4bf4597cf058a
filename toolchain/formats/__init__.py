"""A network to a file and back. The only place that imports onnx, nir and h5py."""

from __future__ import annotations

FORMATS: dict[str, dict[str, str]] = {
    "graph.onnx": {
        "read": "toolchain.formats.onnx:read_graph",
        "write": "toolchain.formats.onnx:write_graph",
    },
    "program.onnx": {
        "read": "toolchain.formats.onnx:read_program",
        "write": "toolchain.formats.onnx:write_program",
    },
}
"""File -> what reads and writes it, as "module:attribute"."""

WRITERS: dict[str, str] = {
    ".onnx": "toolchain.formats.onnx:write_graph",
    ".nir": "toolchain.formats.nir:write_graph",
    ".pt": "toolchain.frontends.model_writer:write_graph",
}
"""Suffix -> what writes a Graph to such a file, as "module:attribute"."""
