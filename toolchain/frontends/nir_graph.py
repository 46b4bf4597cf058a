"""A .nir file (Neuromorphic Intermediate Representation) as a trained model. Nothing in it is executed.

NIR says neither how long a step is, nor how a sample enters, nor how many steps it lasts, nor whether a reset
subtracts. What the user does not say is taken from our own metadata, then from the file, and is told (NIR001, NIR002).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from toolchain.errors import Diagnostic, UsageError, nearest
from toolchain.formats.nir import DT_KEY, KEY, read_graph
from toolchain.formats.nir_tree import read_tree
from toolchain.frontends import Loaded, layers, nir_time
from toolchain.frontends.network import Network
from toolchain.frontends.nir_fields import Fields, as_map, leading
from toolchain.frontends.nir_neurons import MEMORY, Copy
from toolchain.frontends.nir_nodes import AXES, FLAT, KINDS, Around
from toolchain.frontends.nir_wiring import (
    WIRES,
    Wiring,
    check_thresholds,
    open_loops,
    order,
    order_within_a_step,
    wiring,
)
from toolchain.ir import Graph, Input, make_input
from toolchain.ir.inputs import INPUTS, VALUE_MAX
from toolchain.training.data import IMAGES

STEPS = 32
"""Steps of a sample where nobody says."""
RESETS = ("zero", "subtract", "subtract-late")
Measured = Callable[[Fields, tuple[str, ...], tuple[int, ...]], layers.Node]
"""Makes the neurons of a node for a shape of what it reads."""


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    dt: float | None = None,
    steps: int | None = None,
    coding: str | None = None,
    reset: str | None = None,
    dataset: str | None = None,
) -> Loaded:
    """Read a .nir file. `trust` changes nothing: such a file holds no code.

    dt: a time step, in the file's unit of time.  steps: of a sample.  coding: of the input, rate, graded or current.
    reset: of neurons that spike, zero (to v_reset), subtract (the threshold, before the potential leaks) or
    subtract-late (behind the leak of the next step).  dataset: that a build of it is simulated on.

    Raises:
        SnncError: damaged, no network that a chip can compute (with the node and the field), or no time step.
    """
    file = str(path)
    if reset is not None and reset not in RESETS:
        raise UsageError("no such reset", where="--reset", got=reset, allowed=nearest(reset, RESETS))
    if dataset is not None and dataset not in IMAGES:
        raise UsageError("no such data set", where="--dataset", got=dataset, allowed=nearest(dataset, IMAGES))
    if coding is not None and coding not in INPUTS:
        raise UsageError("no such coding of the input", where="--coding", got=coding, allowed=nearest(coding, INPUTS))
    version, tree = read_tree(path)
    found: list[Diagnostic] = []
    own = read_graph(tree)
    if own is not None:
        given = {"--dt": dt, "--steps": steps, "--coding": coding, "--reset": reset, "--dataset": dataset}
        if any(value is not None for value in given.values()):
            chosen = ", ".join(name for name, value in given.items() if value is not None)
            raise UsageError("snnc wrote this file, and it says this itself", where=chosen, got=file)
        return Loaded(own)
    made = wiring(file, tree, found)
    metadata = tree.get("metadata")
    stored = metadata.get("dt") if isinstance(metadata, Mapping) else None
    if isinstance(metadata, Mapping) and KEY in metadata:
        note = "the file was changed since snnc wrote it, so its nodes count and our metadata do not"
        found.append(Diagnostic("NIR007", file, note))
    step, why = nir_time.choose(file, made.nodes.values(), dt, stored)
    if dt is None:
        found.append(Diagnostic("NIR001", file, f"time step {step:g}: {why}"))
    assumed = [
        text
        for given, text in (
            (steps, f"a sample lasts {STEPS} steps (--steps)"),
            (coding, "values 0 to 255 enter as spike rates (--coding)"),
            (reset, "a reset is to v_reset (--reset)"),
        )
        if given is None
    ]
    if assumed:
        found.append(Diagnostic("NIR002", file, f"not said in the file, so taken: {'; '.join(assumed)}", len(assumed)))
    about = {"nir.version": version, DT_KEY: repr(step)}
    if dataset is not None:
        about["dataset"] = dataset
    graph = build(made, step, reset or RESETS[0], coding or "rate", steps or STEPS, Path(file).stem, about)
    if dataset is not None and graph.input.size != math.prod(IMAGES[dataset][0]):
        raise UsageError(
            "the network reads samples of another size",
            where="--dataset",
            got=f"{dataset}, {math.prod(IMAGES[dataset][0])} values",
            allowed=f"{graph.input.size} values",
        )
    return Loaded(graph, tuple(found))


def build(
    made: Wiring,
    dt: float,
    reset: str,
    coding: str,
    steps: int,
    name: str,
    metadata: Mapping[str, str],
    measured: Measured | None = None,
) -> Graph:
    """The graph of nodes. measured: makes neurons, where their fields do not count.

    Raises:
        SnncError: no network that a chip can compute.
    """
    source, output = _only(made, "Input"), _only(made, "Output")
    if made.reads[source]:
        raise made.refuse("an edge leads into the input", f"Input {source!r}", got=made.reads[source][:4])
    shape = made.nodes[source].shape("shape", _axes_of_a_sample(made, source))
    ordered = order(made, source, output)
    loops = open_loops(made, source, ordered)
    if loops:
        other = order_within_a_step(made, source, ordered)
        if not open_loops(made, source, other):
            ordered, loops = other, []
    for loop in loops:
        check_thresholds(made, loop)
    scale = 1.0 if INPUTS[coding].spiking else 1 / VALUE_MAX
    entry: Input = make_input(coding, source, math.prod(shape), scale=scale)
    network = Network(entry, shape)
    builder = _Builder(made, network, dt, reset, measured)
    for node in ordered:
        builder.compute(node)
    for loop in loops:
        made.found.append(_step_together(network, loop))
    last = _last(network, builder.resolved(output), output, made.found)
    graph = network.graph(last, steps, name, metadata, where=made.file)
    made.found.extend(network.diagnostics)
    return graph


def _only(made: Wiring, kind: str) -> str:
    outer = [name for name, fields in made.nodes.items() if fields.kind == kind and fields.outer]
    if len(outer) != 1:
        raise made.refuse(
            f"a network has one {kind.lower()}",
            "the graph",
            got=f"{len(outer)}: {', '.join(outer[:4])}" if outer else "none",
            remedy=f"give the graph one {kind} node",
        )
    return outer[0]


def _step_together(network: Network, loop: set[str]) -> Diagnostic:
    """Let neurons of a loop use each other's spikes of the step before, so that no order counts."""
    changed = 0
    for k, (lif, x) in enumerate(network.populations):
        if lif.name in loop:
            late = [replace(t, delay=max(t.delay, 1)) if t.source in loop else t for t in x.terms]
            changed += sum(a.delay != b.delay for a, b in zip(late, x.terms, strict=True))
            network.populations[k] = (lif, replace(x, terms=tuple(late)))
    message = "neurons in a loop that is entered at several of them use each other's spikes of the step before"
    return Diagnostic("NIR012", ", ".join(sorted(loop)), message, changed, "connections that got a step of delay")


def _last(network: Network, last: str, output: str, found: list[Diagnostic]) -> str:
    """The layer whose neurons are the output: a copy of them, where others compute behind."""
    end = network.tensors[last]
    first = end.terms[0] if len(end.terms) == 1 else None
    names = [lif.name for lif, _ in network.populations]
    plain = first is not None and first.operator.plain and not first.delay and not end.offset.any() and end.binary
    if first is None or not plain or first.source not in names[:-1]:
        return last
    copy = Copy(name=f"{output}.copy", inputs=(last,))
    network.add(copy)
    message = f"neurons {names[-1]!r} compute behind the output {first.source!r}, so a copy of it is the output"
    found.append(Diagnostic("NIR013", output, message, end.size, f"{end.size} neurons and synapses more"))
    return copy.name


def _axes_of_a_sample(made: Wiring, source: str) -> int | None:
    """How many of the input's axes are not of batch or time, where all that reads it says the same."""
    axes = made.nodes[source].axes("shape")
    readers = [made.nodes[name] for name in made.readers[source]]
    found = {AXES.get(fields.kind) or _neuron_axes(fields, axes) for fields in readers}
    if len(found) != 1 or (taken := found.pop()) is None or taken > len(axes):
        return None
    return taken


def _neuron_axes(fields: Fields, axes: tuple[int, ...]) -> int | None:
    """Of neurons: theirs, where only ones stand before them."""
    if fields.kind not in MEMORY:
        return None
    before = leading(axes, fields.reals("r").shape)
    return None if before is None or math.prod(before) > 1 else len(axes) - len(before) or None


class _Builder:
    """Computes nodes, what they read first."""

    def __init__(self, made: Wiring, network: Network, dt: float, reset: str, measured: Measured | None) -> None:
        self.made = made
        self.network = network
        self.dt = dt
        self.reset = reset
        self.measured = measured
        self.readers = made.readers
        self.aliases: dict[str, str] = {network.source.name: network.source.name}

    def compute(self, name: str) -> None:
        """The node and, before it, what it reads; neurons that lead back are expected, and computed later."""
        stack, open_ = [name], {name}
        while stack:
            node = stack[-1]
            if node in self.aliases:
                stack.pop()
                continue
            missing = [n for n in self.made.reads[node] if n not in self.aliases and n not in self.network.expected]
            if not missing:
                self._add(node)
                stack.pop()
                continue
            if self.made.nodes[missing[0]].kind in MEMORY:
                self._expect(missing[0])
            elif missing[0] in open_:
                raise self.made.refuse(
                    "a cycle without neurons",
                    f"{self.made.nodes[missing[0]].kind} {missing[0]!r}",
                    allowed="cycles through IF, LIF or CubaLIF neurons",
                )
            else:
                open_.add(missing[0])
                stack.append(missing[0])

    def resolved(self, node: str) -> str:
        """The layer that stands for a node."""
        return self.aliases.get(node, node)

    def _expect(self, node: str) -> None:
        fields = self.made.nodes[node]
        if "v_threshold" not in MEMORY[fields.kind]:
            raise self.made.refuse("a readout sends no spikes", f"{fields.kind} {node!r}", got="it stands in a loop")
        shape = as_map(fields.reals("v_threshold", axes=(1, 2, 3))).shape
        self.network.expect(node, shape, fields.place)

    def _add(self, node: str) -> None:
        fields = self.made.nodes[node]
        sources = [self.resolved(name) for name in self.made.reads[node]]
        if not sources:
            raise self.made.refuse("nothing leads into the node", f"{fields.kind} {node!r}")
        if len(sources) > 1:
            total = layers.Add(name=f"{node}.sum", inputs=tuple(sources), place=fields.place)
            self.network.add(total)
            sources = [total.name]
        if fields.kind not in KINDS:
            self._check_wire(node, sources[0])
            self.aliases[node] = sources[0]
            return
        if self.measured is not None and fields.kind in MEMORY:
            shape = self.network.tensors[sources[0]].shape
            self.network.add(self.measured(fields, (sources[0],), shape))
            self.aliases[node] = node
            return
        around = Around(self.dt, self.reset, self._flat(self.readers[node]))
        self.network.add(KINDS[fields.kind](fields, (sources[0],), around))
        self.aliases[node] = node

    def _check_wire(self, node: str, source: str) -> None:
        """What passes through an Input or Output must have the shape that it states, behind axes of batch and time.

        Where those of the network's input are more than one, the same number of samples and steps must come out.
        """
        fields = self.made.nodes[node]
        shape = self.network.tensors[source].shape
        if not fields.has("shape"):
            return
        axes = fields.axes("shape")
        before = leading(axes, shape)
        entry = self.made.nodes[self.network.source.name]
        together = math.prod(entry.axes("shape")) // self.network.source.size
        if before is None or math.prod(before) not in (1, together):
            raise fields.refuse("the shapes do not chain", "shape", got=axes, allowed=shape)
        if math.prod(before) != together:
            raise fields.refuse(
                "the axes of batch and time do not agree with those of the input",
                "shape",
                got=f"{axes}, where {entry.kind} {entry.name!r} has {entry.axes('shape')}",
                allowed=f"axes of {together} before {shape}",
                remedy="export the network with an example of one sample and one step",
            )
        if before:
            fields.without("shape", before, axes[len(before) :])

    def _flat(self, readers: Iterable[str]) -> bool:
        """Whether all that read a node take one axis, the ends of graphs within the graph aside."""
        todo, kinds, seen = list(readers), [], set[str]()
        while todo:
            fields = self.made.nodes[todo.pop()]
            if fields.name in seen:
                continue
            seen.add(fields.name)
            if fields.kind in WIRES and not fields.outer:
                todo += self.readers[fields.name]
            else:
                kinds.append(fields)
        return bool(kinds) and all(
            f.kind in FLAT or (f.kind in MEMORY and f.reals("r", axes=(0, 1, 2, 3)).ndim == 1) for f in kinds
        )
