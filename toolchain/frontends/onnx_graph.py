"""graph.onnx as a trained model."""

from __future__ import annotations

import os

from toolchain.formats.onnx import read_graph
from toolchain.frontends import Loaded


def load(path: str | os.PathLike[str], *, trust: bool = False) -> Loaded:
    """Read a graph that snnc wrote. `trust` changes nothing: such a file holds no code."""
    return Loaded(read_graph(path))
