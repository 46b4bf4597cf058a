"""Populations and connections as nodes of NIR."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from toolchain.errors import Diagnostic, SnncError
from toolchain.ir import LIF, Connection, Convolution, Graph
from toolchain.ir.verify import shapes

Shape = tuple[int, ...]
Floats = NDArray[np.float64]

NO_LEAK = 2.0**-40
"""The leak of a step that stands for none, where NIR has no neuron without."""
BYTES_LIMIT = 1 << 31
"""Most bytes that the weights of a file take."""


@dataclass
class Made:
    """Nodes and edges. names: of input, populations and connections in the file.  losses: what NIR says otherwise.
    notes: what only our metadata say."""

    graph: Graph
    dt: float
    shapes: dict[str, Shape]
    names: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    losses: list[Diagnostic] = field(default_factory=list)
    notes: list[Diagnostic] = field(default_factory=list)

    @cached_property
    def closing(self) -> set[str]:
        """Connections that lead back in a loop; one that leads back to what never hears of it is in none."""
        order = {name: i for i, name in enumerate([self.graph.input.name, *(p.name for p in self.graph.populations)])}
        ends = np.array([(order[c.source], order[c.target]) for c in self.graph.connections]).reshape(-1, 2).T
        edges = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(order), len(order)))
        loops = connected_components(edges, connection="strong")[1]
        back = (ends[0] >= ends[1]) & (loops[ends[0]] == loops[ends[1]])
        return {c.name for c, closes in zip(self.graph.connections, back, strict=True) if closes}

    def free(self, name: str) -> str:
        """A name for a node, as near to this one as HDF5 lets it be. "metadata" means something else to nir."""
        plain = (
            name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00") if "/" in name or "\0" in name else name
        )
        while plain in self.taken or plain in (".", "metadata"):
            plain += "_"
        return plain

    @property
    def taken(self) -> set[str]:
        return {*self.names.values(), *self.nodes}

    def add(self, name: str, node: Any, *reads: str) -> str:
        self.nodes[name] = node
        self.edges += [(source, name) for source in reads]
        return name


def made_nodes(graph: Graph, dt: float) -> Made:
    """What a graph is in NIR.

    Raises:
        SnncError: its weights, with every pair of neurons listed, are too many.
    """
    made = Made(graph, dt, _shapes(graph))
    for name in (graph.input.name, *(p.name for p in graph.populations), *(c.name for c in graph.connections)):
        made.names[name] = made.free(name)
    _check_size(made)
    made.add(made.names[graph.input.name], nir.Input({"input": np.array(made.shapes[graph.input.name])}))
    for p in graph.populations:
        carrier = _population(made, p)
        for c in (c for c in graph.connections if c.target == p.name):
            _connection(made, c, p.bias if c is carrier else None)
    last = graph.populations[-1].name
    made.add(made.free("output"), nir.Output({"output": np.array(made.shapes[last])}), made.names[last])
    return made


def _shapes(graph: Graph) -> dict[str, Shape]:
    """The axes of input and populations in NIR, which can flatten a map but not make one of a list.

    So a population is a map only where convolutions of maps lead into it.
    """
    found: dict[str, Shape] = dict(shapes(graph))
    sizes = {graph.input.name: graph.input.size, **{p.name: p.size for p in graph.populations}}
    changed = True
    while changed:
        changed = False
        for c in graph.connections:
            kernel = isinstance(c.synapses.connectivity, Convolution) and len(found[c.source]) == 3
            if len(found[c.target]) == 3 and not kernel:
                found[c.target], changed = (sizes[c.target],), True
    return found


def _is_kernel(made: Made, c: Connection) -> bool:
    return isinstance(c.synapses.connectivity, Convolution) and len(made.shapes[c.source]) == 3


def _check_size(made: Made) -> None:
    size = 0
    for c in made.graph.connections:
        pattern = c.synapses.connectivity
        if isinstance(pattern, Convolution) and _is_kernel(made, c):
            taps = [_taps(pattern, axis)[0] for axis in range(2)]
            size += 4 * pattern.target[0] * (pattern.source[0] // pattern.groups) * taps[0] * taps[1]
        else:
            size += 4 * pattern.n_sources * pattern.n_targets
        if size > BYTES_LIMIT:
            raise SnncError(
                "NIR has no sparse weights, and every pair of neurons listed is too much",
                where=c.name,
                got=f"{pattern.n_synapses} synapses of {pattern.n_sources} x {pattern.n_targets} pairs",
                allowed=f"{BYTES_LIMIT} bytes of weights in all",
                remedy="keep the network as graph.onnx, which stores what exists",
            )


# ---------------------------------------------------------------------------------------------- connections


def _connection(made: Made, c: Connection, bias: NDArray[np.float32] | None) -> None:
    """source -> [Delay] -> [Flatten] -> weights -> [Flatten] -> target."""
    at, shape = made.names[c.source], made.shapes[c.source]
    if c.delay > (1 if c.name in made.closing else 0):  # a loop without a Delay takes a step anyway
        at = made.add(made.free(f"{c.name}.delay"), nir.Delay(np.full(shape, c.delay * made.dt)), at)
    pattern, weights = c.synapses.connectivity, c.synapses.weights
    name = made.names[c.name]
    if isinstance(pattern, Convolution) and _is_kernel(made, c):
        made.add(name, _conv2d(pattern, weights, bias), at)
        if len(made.shapes[c.target]) == 1:
            name = _flat(made, c.name, pattern.target, name)
    else:
        if len(shape) == 3:
            at = _flat(made, c.name, shape, at)
        listed, weight = pattern.unroll()
        dense = listed.dense(weights[weight])
        made.add(name, nir.Linear(dense) if bias is None else nir.Affine(dense, bias), at)
    made.edges.append((name, made.names[c.target]))


def _flat(made: Made, name: str, shape: Shape, source: str) -> str:
    return made.add(made.free(f"{name}.flatten"), nir.Flatten({"input": np.array(shape)}, 0, -1), source)


def _conv2d(pattern: Convolution, weights: NDArray[np.float32], bias: NDArray[np.float32] | None) -> nir.Conv2d:
    """NIR pads both sides equally; where we do not, the kernel has zeros on the other side."""
    (height, rows, top, dy), (width, columns, left, dx) = (_taps(pattern, axis) for axis in range(2))
    inner, outer = pattern.source[0] // pattern.groups, pattern.target[0] // pattern.groups
    kernel = np.zeros((pattern.target[0], inner, height, width), np.float32)
    c, i, j, o = pattern.entries
    kernel[o, c - o // outer * inner, rows[i], columns[j]] = weights
    channels = np.zeros(pattern.target[0], np.float32) if bias is None else bias.reshape(pattern.target[0], -1)[:, 0]
    return nir.Conv2d(
        input_shape=np.array(pattern.source[1:]),
        weight=kernel,
        stride=np.array(pattern.stride),
        padding=np.array([top, left]),
        dilation=np.array([dy, dx]),
        groups=pattern.groups,
        bias=channels,
    )


def _taps(pattern: Convolution, axis: int) -> tuple[int, NDArray[np.int64], int, int]:
    """Along an axis: size of the kernel with equal padding, where the taps stand in it, the padding, the dilation."""
    before, after = pattern.padding[axis]
    padding, dilation, size = max(before, after), pattern.dilation[axis], pattern.size[axis]
    lead, rest = padding - before, padding - after
    step = gcd(dilation, lead, rest)
    span = lead + (size - 1) * dilation + rest
    return span // step + 1, (lead + np.arange(size) * dilation) // step, padding, step


# ---------------------------------------------------------------------------------------------- populations


def _population(made: Made, p: LIF) -> Connection | None:
    """Add the neurons; the connection that is to carry their biases, where one can."""
    shape = made.shapes[p.name]

    def full(value: Any) -> Floats:
        return np.broadcast_to(np.asarray(value, np.float64).reshape(-1), (p.size,)).reshape(shape).copy()

    du, dv, gain = full(p.current_decay), full(p.voltage_decay), full(p.gain)
    filtered = bool((du != 1).any())
    carrier = None if filtered or not p.bias.any() else _carrier(made, p)
    drive = gain * full(p.bias) if carrier is None else np.zeros(shape)
    name, dt = made.names[p.name], made.dt
    fire = {"v_threshold": full(p.threshold), "v_reset": np.zeros(shape)} if p.spiking else {}
    if not (filtered or dv.any() or drive.any()):
        made.add(name, (nir.IF if p.spiking else nir.I)(r=gain / dt, **fire))
    else:
        if (dv == 0).any():
            effect = f"{NO_LEAK:.1e} of the potential leaks in a step"
            message = "neurons without a leak that have a synaptic decay, or a bias or leaks beside them"
            made.losses.append(Diagnostic("NIR006", p.name, message, int((dv == 0).sum()), effect))
        leak = np.where(dv == 0, NO_LEAK, dv)
        common = {"r": gain / leak, "v_leak": drive / leak, **fire}
        if filtered:
            kind = nir.CubaLIF if p.spiking else nir.CubaLI
            made.add(name, kind(tau_syn=dt / du, tau_mem=dt / leak, w_in=1 / du, **common))
        else:
            made.add(name, (nir.LIF if p.spiking else nir.LI)(tau=dt / leak, **common))
    if p.refractory:
        effect = "they integrate at once"
        made.losses.append(Diagnostic("NIR006", p.name, "a refractory period", p.refractory, effect))
    if p.reset == "subtract":
        made.notes.append(Diagnostic("NIR005", p.name, "a reset by subtraction stands in snnc's metadata only", p.size))
    return carrier


def _carrier(made: Made, p: LIF) -> Connection | None:
    """A connection whose bias can be that of the neurons: of a dense layer, or of a kernel where channels are equal."""
    into = [c for c in made.graph.connections if c.target == p.name]
    for c in into:
        if not _is_kernel(made, c):
            return c
    by_channel = p.bias.reshape(into[0].synapses.connectivity.target_shape[0], -1)
    return into[0] if (by_channel == by_channel[:, :1]).all() else None
