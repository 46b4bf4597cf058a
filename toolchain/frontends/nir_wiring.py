"""The nodes of a NIR file and what each reads, graphs within graphs taken apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError, nearest
from toolchain.formats.hdf5_tree import Tree
from toolchain.frontends.nir_fields import Fields
from toolchain.frontends.nir_neurons import MEMORY
from toolchain.frontends.nir_nodes import FLAT, KINDS

WIRES = ("Input", "Output")
KNOWN = (*KINDS, *WIRES, "NIRGraph")


@dataclass
class Wiring:
    """Nodes by full name (`graph.node`), in no order, and for each the names that it reads.

    The inputs and outputs of inner graphs are nodes that sum what they read.
    """

    file: str
    found: list[Diagnostic]
    nodes: dict[str, Fields] = field(default_factory=dict)
    reads: dict[str, list[str]] = field(default_factory=dict)

    @property
    def readers(self) -> dict[str, list[str]]:
        readers: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, sources in self.reads.items():
            for source in sources:
                readers[source].append(name)
        return readers

    def refuse(self, message: str, place: str, **details: object) -> SnncError:
        return SnncError(message, where=f"{self.file}, {place}", **details)  # type: ignore[arg-type]


def wiring(file: str, tree: Tree, found: list[Diagnostic]) -> Wiring:
    """Of the root node of a file.

    Raises:
        SnncError: a node of an unknown kind, edges that lead nowhere or stand twice, graphs without nodes.
    """
    made = Wiring(file, found)
    _add_graph(made, tree, "", "")
    _add_ends(made)
    return made


def _add_ends(made: Wiring) -> None:
    """An Input before the one node that reads nothing, and an Output behind the one that nothing reads, where none are.

    Where it is not plain which node that is, nothing is added, and the missing end is refused later.
    """
    kinds = {fields.kind for fields in made.nodes.values() if fields.outer}
    first = [name for name, sources in made.reads.items() if not sources]
    if "Input" not in kinds and len(first) == 1 and (shape := _read_shape(made.nodes[first[0]])) is not None:
        made.reads[first[0]].append(_add_end(made, "Input", {"shape": shape}))
    last = [name for name, readers in made.readers.items() if not readers]
    if "Output" not in kinds and len(last) == 1:
        made.reads[_add_end(made, "Output", {})] = last


def _add_end(made: Wiring, kind: str, values: dict[str, Any]) -> str:
    name = kind.lower()
    while name in made.nodes:
        name += "_"
    made.nodes[name], made.reads[name] = Fields(made.file, name, kind, values, made.found), []
    made.found.append(Diagnostic("NIR004", name, f"the file has no {kind}, and only one place for it"))
    return name


def _read_shape(fields: Fields) -> NDArray[np.int64] | None:
    """The axes of what a node reads, where it says so by itself."""
    if fields.kind in FLAT:
        return np.array(fields.reals("weight", axes=(2,)).shape[1:])
    if fields.kind in MEMORY:
        return np.array(fields.reals("r", axes=(1, 2, 3)).shape)
    if fields.kind in ("Conv1d", "Conv2d") and fields.has("input_shape"):
        channels = fields.reals("weight", axes=(3, 4)).shape[1] * fields.whole("groups", 1, default=1)
        return np.array([channels, *fields.wholes("input_shape", 1)])
    return None


def _add_graph(made: Wiring, tree: Tree, name: str, prefix: str) -> tuple[list[str], list[str]]:
    """Add a graph's nodes; the full names of its inputs and outputs."""
    place = f"graph {name!r}" if name else "the graph"
    if tree.get("type") != "NIRGraph":
        raise made.refuse("the file's root is no graph", place, got=str(tree.get("type"))[:40], allowed="NIRGraph")
    nodes, edges = tree.get("nodes"), tree.get("edges")
    if not isinstance(nodes, Mapping) or not nodes:
        raise made.refuse("the graph has no nodes", place)
    ends: dict[str, tuple[list[str], list[str]]] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for key, values in nodes.items():
        full = f"{prefix}{key}"
        kind = values.get("type") if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or not isinstance(kind, str):
            raise made.refuse("a node says no type", f"node {full!r}")
        if kind not in KNOWN:
            raise made.refuse("no chip has such a node", f"node {full!r}", got=kind[:40], allowed=nearest(kind, KNOWN))
        if full in made.nodes:
            raise made.refuse("a name stands twice", f"node {full!r}")
        if kind == "NIRGraph":
            ends[key] = _add_graph(made, dict(values), full, f"{full}.")
            continue
        made.nodes[full] = Fields(made.file, full, kind, values, made.found, outer=not prefix)
        made.reads[full] = []
        ends[key] = ([full], [full])
        inputs += [full] * (kind == "Input")
        outputs += [full] * (kind == "Output")
    for a, b in _edges(made, edges, place, name, ends):
        sources, targets = ends[a][1], ends[b][0]
        for side, found, key in (("output", sources, a), ("input", targets, b)):
            if len(found) != 1:
                raise made.refuse(
                    f"an edge to or from a graph needs exactly one {side} in it", f"edge {a!r} -> {b!r}", got=found[:4],
                    remedy=f"give graph {prefix}{key!r} one {side.capitalize()} node",
                )  # fmt: skip
        made.reads[targets[0]].append(sources[0])
    return inputs, outputs


def _edges(made: Wiring, edges: Any, place: str, graph: str, ends: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of names of this graph's nodes. Earlier versions' names are read where one node can be meant."""
    if edges is None or (not isinstance(edges, list) and np.size(edges)):
        raise made.refuse("the graph has no edges", f"{place}, edges", got=type(edges).__name__)
    pairs = []
    renamed = 0
    for edge in edges:
        if not isinstance(edge, list) or len(edge) != 2 or not all(isinstance(end, str) for end in edge):
            raise made.refuse("an edge is a pair of names", f"{place}, edges", got=repr(edge)[:80])
        a, b = (_known(made, end, graph, ends, f"{place}, edge {edge[0][:40]!r} -> {edge[1][:40]!r}") for end in edge)
        renamed += [a, b] != edge
        pairs.append((a, b))
    twice = [pair for pair, count in Counter(pairs).items() if count > 1]
    if twice:
        raise made.refuse("an edge stands twice", place, got=f"{twice[0][0]!r} -> {twice[0][1]!r}")
    if renamed:
        note = "edges named as in earlier versions of nir were understood"
        made.found.append(Diagnostic("NIR004", graph or "edges", note, renamed))
    return pairs


def _known(made: Wiring, end: str, graph: str, ends: Mapping[str, Any], place: str) -> str:
    """The node that is meant: by its name; with the graph's own name before it; with `.input` or `.output` behind."""
    if end in ends:
        return end
    found = set()
    inner = end.removeprefix(f"{graph.rpartition('.')[2]}.") if graph else end
    for name in (inner, inner.removesuffix(".input"), inner.removesuffix(".output")):
        if name in ends:
            found.add(name)
    if len(found) != 1:
        raise made.refuse("an edge leads to no node", place, got=end[:80], allowed=nearest(end[:80], list(ends)[:50]))
    return found.pop()


# ------------------------------------------------------------------------------------------------------- order


def order(made: Wiring, source: str, output: str) -> list[str]:
    """All nodes so that each stands behind what it reads, but for what leads back.

    Raises:
        SnncError: a node that nothing from the input reaches, or that does not reach the output.
    """
    readers = made.readers
    found = _reached(readers, source)
    lost = set(made.nodes) - set(found)
    if lost:
        raise made.refuse("nothing from the input reaches these nodes", ", ".join(sorted(lost)[:8]), got=len(lost))
    dead = set(made.nodes) - set(_reached(made.reads, output))
    if dead:
        raise made.refuse(
            "nothing leads from these nodes to the output",
            ", ".join(sorted(dead)[:8]),
            got=len(dead),
            remedy="take them out, or let a node before the output read them",
        )
    return found


def order_within_a_step(made: Wiring, source: str, ordered: list[str]) -> list[str]:
    """Another order, in which Delays lead nowhere: what they send was computed in a step before."""
    late = [name for name in ordered if _is_late(made.nodes[name])]
    at_once = {name: [] if name in late else targets for name, targets in made.readers.items()}
    found = _reached(at_once, source)
    for name in reversed(late):
        seen = set(found)
        for after in made.readers[name]:
            if after not in seen:
                found = [*_reached(at_once, after, seen), *found]
                seen = set(found)
    return found


def _is_late(fields: Fields) -> bool:
    """Whether a node sends nothing of what it reads in the same step."""
    return fields.kind == "Delay" and bool((fields.reals("delay") > 0).all())


def _reached(readers: Mapping[str, Iterable[str]], source: str, without: Iterable[str] = ()) -> list[str]:
    """What can be reached, in reverse postorder."""
    seen, done = {source, *without}, []
    stack = [(source, iter(readers[source]))]
    while stack:
        name, rest = stack[-1]
        for after in rest:
            if after not in seen:
                seen.add(after)
                stack.append((after, iter(readers[after])))
                break
        else:
            done.append(name)
            stack.pop()
    return done[::-1]


def open_loops(made: Wiring, source: str, ordered: list[str]) -> list[set[str]]:
    """Neurons in loops of which it is not plain which compute first, as some way from the input meets others first."""
    readers = made.readers
    neurons = [name for name in ordered if made.nodes[name].kind in MEMORY]
    place = {name: k for k, name in enumerate(neurons)}
    reads = {name: sorted(_sources(made, name)) for name in neurons}
    led: dict[str, list[str]] = {name: [] for name in neurons}
    for name, sources in reads.items():
        for each in sources:
            led[each].append(name)
    found: list[set[str]] = []
    for target in neurons:
        back = [name for name in reads[target] if place[name] > place[target]]
        if not back or any(target in loop for loop in found):
            continue
        before = set(_reached(readers, source, [target]))
        if before.isdisjoint(back):
            continue
        loop = set(_reached(led, target)) & set(_reached(reads, target))
        found.append(loop)
    return found


def check_thresholds(made: Wiring, loop: set[str]) -> None:
    """In a loop whose neurons read what was sent a step before, a Threshold would make that two steps."""
    one = min(loop)
    for name in sorted({*_reached(made.readers, one)} & {*_reached(made.reads, one)}):
        if made.nodes[name].kind == "Threshold":
            raise made.refuse(
                "a Threshold in a loop, and it is not said which neurons compute first",
                f"Threshold {name!r}",
                got=f"a loop through {', '.join(sorted(loop)[:4])}",
                allowed="loops that are entered at one population",
                remedy="put a Delay of one step or more on the connection that leads back",
            )


def _sources(made: Wiring, target: str) -> set[str]:
    """Neurons that reach these within a step, through nodes without a state."""
    found, seen, todo = set(), set(), list(made.reads[target])
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        kind = made.nodes[name].kind
        if kind in MEMORY:
            found.add(name)
        elif not _is_late(made.nodes[name]):
            todo += made.reads[name]
    return found
