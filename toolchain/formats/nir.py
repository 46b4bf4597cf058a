"""A Graph to a .nir file (package nir) and back.

Each population is a node and each connection is one; what NIR cannot say stands in metadata. A file is read back
exactly where it still is what we would write for what its metadata say; else it is a file like any other (`read_graph`
gives None), whose nodes count.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError
from toolchain.files import atomic_write
from toolchain.formats.hdf5_tree import Tree
from toolchain.formats.nir_nodes import Made, made_nodes
from toolchain.ir import LIF, Connection, Connectivity, Convolution, FloatSynapses, Graph, Input, make_input

SCHEMA = 1
KEY = "snnc"
"""Of our entries among the metadata of the graph (text, JSON) and of its nodes (numbers)."""
DT_KEY = "nir.dt"
"""Of the step among the metadata of a Graph that came from NIR."""
EXTENT_MAX = 1 << 16
INPUT_MAX = 1 << 24


def write_graph(
    graph: Graph, path: str | os.PathLike[str], *, dt: float | None = None, lossy: bool = False
) -> tuple[Diagnostic, ...]:
    """Write a graph, whole or not at all. Returns what readers other than ours will not see, or see otherwise.

    dt: the step in the file's unit of time (default: that of the file that the graph came from, else 1: times are in
    steps).  lossy: write also what NIR can express only nearly.

    Raises:
        SnncError: the graph does not verify, is too large with every pair of neurons listed, or cannot be expressed
            without loss (all losses named).
    """
    graph.verify()
    step = float(graph.metadata.get(DT_KEY, 1.0)) if dt is None else dt
    if not (np.isfinite(step) and step > 0):
        raise SnncError("a time step is more than 0", where="--dt", got=step)
    made = made_nodes(graph, step)
    if made.losses and not lossy:
        raise SnncError(
            f"NIR cannot express {len(made.losses)} things",
            where="; ".join(f"{loss.where}: {loss.message}" for loss in made.losses[:8]),
            allowed="what the equations of NIR 1.0 say",
            remedy="pass --lossy: snnc reads the file back without loss, other readers compute what is nearest",
        )
    stream = io.BytesIO()
    nir.write(stream, _nir_graph(graph, made, step))
    with atomic_write(Path(path)) as file:
        file.write(stream.getbuffer())
    return (*made.losses, *made.notes)


def _nir_graph(graph: Graph, made: Made, dt: float) -> nir.NIRGraph:
    entry = graph.input
    content = {
        "schema": SCHEMA,
        "name": graph.name,
        "steps": graph.steps,
        "metadata": dict(graph.metadata),
        "input": {
            "node": made.names[entry.name],
            "name": entry.name,
            "coding": entry.coding,
            "sample_size": entry.sample_size,
            "scale": float(entry.scale),
            "offset": float(entry.offset),
            "parameters": entry.parameters(),
        },
        "populations": [
            {"node": made.names[p.name], "name": p.name, "size": p.size, "reset": p.reset, "refractory": p.refractory}
            for p in graph.populations
        ],
        "connections": [
            {
                "node": made.names[c.name],
                "name": c.name,
                "source": c.source,
                "target": c.target,
                "delay": c.delay,
                "weight_step": None if c.weight_step is None else float(c.weight_step),
                "weight_bits": c.weight_bits,
                # Left out where there is none, as earlier versions wrote it.
                **({} if c.weight_exponent is None else {"weight_exponent": c.weight_exponent}),
                "geometry": _geometry(c),
            }
            for c in graph.connections
        ],
    }
    for node, numbers in _numbers(graph, made).items():
        if numbers:
            made.nodes[node].metadata = {KEY: numbers}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return nir.NIRGraph(made.nodes, made.edges, {"dt": dt, KEY: text}, type_check=False)


def _geometry(c: Connection) -> dict[str, Any] | None:
    pattern = c.synapses.connectivity
    if not isinstance(pattern, Convolution):
        return None
    return {name: getattr(pattern, name) for name in ("source", "target", "size", "stride", "padding", "dilation")}


def _numbers(graph: Graph, made: Made) -> dict[str, dict[str, Any]]:
    """What stands beside the fields of each node: parameters as they are, kernels, and synapses of weight 0."""
    found: dict[str, dict[str, Any]] = {}
    entry = graph.input
    whole = np.array_equal(entry.channels, np.arange(entry.sample_size))
    found[made.names[entry.name]] = {} if whole else {"channels": entry.channels}
    for p in graph.populations:
        found[made.names[p.name]] = {
            **{name: _plain(getattr(p, name)) for name in ("threshold", "gain", "current_decay", "voltage_decay")},
            "bias": p.bias,
        }
    for c in graph.connections:
        pattern, weights = c.synapses.connectivity, c.synapses.weights
        arrays: dict[str, NDArray[Any]]
        if isinstance(pattern, Convolution):
            arrays = {"weights": weights, "indptr": pattern.kernel.indptr, "targets": pattern.kernel.targets}
        else:
            listed, _ = pattern.unroll()
            zero = weights == 0
            arrays = {"zeros": np.sort(listed.targets[zero].astype(np.int64) * listed.n_sources + listed.sources[zero])}
        found[made.names[c.name]] = {name: array for name, array in arrays.items() if len(array)}
    return found


def _plain(value: Any) -> Any:
    return value if np.ndim(value) else float(value)


# ------------------------------------------------------------------------------------------------------- reading


def read_graph(tree: Tree) -> Graph | None:
    """The graph that we wrote as this tree; None where we did not, or it was changed since."""
    metadata = tree.get("metadata")
    text = metadata.get(KEY) if isinstance(metadata, Mapping) else None
    if not isinstance(text, str):
        return None
    assert isinstance(metadata, Mapping)
    try:
        dt = float(metadata["dt"])
        graph = _rebuilt(json.loads(text), tree["nodes"])
        graph.verify()
        again = _nir_graph(graph, made_nodes(graph, dt), dt).to_dict()
    except (SnncError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        # Whatever text and numbers that do not belong together lead to.
        return None
    return graph if _same(again, tree) else None


def _rebuilt(content: dict[str, Any], nodes: Mapping[str, Any]) -> Graph:
    if content["schema"] != SCHEMA:
        raise ValueError("written by another version")
    return Graph(
        name=str(content["name"]),
        input=_input(content["input"], nodes),
        populations=tuple(_population(p, nodes) for p in content["populations"]),
        connections=tuple(_connection(c, nodes) for c in content["connections"]),
        steps=int(content["steps"]),
        metadata={str(key): str(value) for key, value in content["metadata"].items()},
    )


def _beside(nodes: Mapping[str, Any], node: str) -> Mapping[str, Any]:
    return nodes[node].get("metadata", {}).get(KEY, {})


def _input(given: dict[str, Any], nodes: Mapping[str, Any]) -> Input:
    channels = _beside(nodes, given["node"]).get("channels")
    size = int(given["sample_size"])
    if not 0 < size <= INPUT_MAX:
        raise ValueError("too large")
    scale, offset = float(given["scale"]), float(given["offset"])
    return make_input(given["coding"], given["name"], size, channels, scale=scale, offset=offset, **given["parameters"])


def _population(given: dict[str, Any], nodes: Mapping[str, Any]) -> LIF:
    numbers = _beside(nodes, given["node"])
    size = int(given["size"])
    if numbers["bias"].shape != (size,):
        raise ValueError("sizes differ")
    return LIF(given["name"], size, reset=given["reset"], refractory=int(given["refractory"]), **numbers)


def _connection(given: dict[str, Any], nodes: Mapping[str, Any]) -> Connection:
    beside = _beside(nodes, given["node"])
    synapses = (
        _listed(nodes[given["node"]]["weight"], beside.get("zeros"))
        if given["geometry"] is None
        else _kernel(given["geometry"], beside)
    )
    names = ("name", "source", "target", "weight_step", "weight_bits", "delay")
    exponent = given.get("weight_exponent")
    return Connection(synapses=synapses, weight_exponent=exponent, **{name: given[name] for name in names})


def _listed(weight: NDArray[np.float32], zeros: NDArray[np.int64] | None) -> FloatSynapses:
    mask = weight != 0
    if zeros is not None:
        mask.reshape(-1)[zeros] = True
    return FloatSynapses(Connectivity.from_mask(mask), np.ascontiguousarray(weight.T)[mask.T])


def _kernel(geometry: dict[str, Any], beside: Mapping[str, Any]) -> FloatSynapses:
    def tupled(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tupled(each) for each in value)
        if not isinstance(value, int) or not 0 <= value <= EXTENT_MAX:
            raise ValueError("out of range")
        return value

    shape = {name: tupled(value) for name, value in geometry.items()}
    taps = shape["source"][0] * shape["size"][0] * shape["size"][1]
    targets = beside.get("targets", np.zeros(0, np.int32))
    kernel = Connectivity(taps, shape["target"][0], beside["indptr"], targets)
    return FloatSynapses(Convolution(**shape, kernel=kernel), beside.get("weights", np.zeros(0, np.float32)))


def _same(a: Any, b: Any) -> bool:
    """Whether what nir writes for `a` is read as `b`."""
    if isinstance(a, dict):
        written = {key: value for key, value in a.items() if not (key == "metadata" and value == {})}
        return isinstance(b, dict) and written.keys() == b.keys() and all(_same(written[k], b[k]) for k in written)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(list(x) == y for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
