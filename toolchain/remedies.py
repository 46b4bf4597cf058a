"""What would make a network fit: changes that are tried, compiled again, and named only where they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from hw_targets import Target
from toolchain.errors import DoesNotFit, SnncError
from toolchain.ir import Connection, FloatSynapses, Graph
from toolchain.pipeline import Compilation, Options, compile_graph

CONNECTIVITIES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.01)
"""Parts of the present synapses that are tried, the largest first."""


def find_remedies(graph: Graph, target: Target, options: Options) -> list[str]:
    """Remedies that were compiled again and fit, the least intrusive first; empty where none was found."""
    found = []
    for search in (_more_chips, _fewer_bits, _fewer_synapses):
        trials = list(search(graph, target, options))
        remedy = _first_that_fits(trials, target)
        if remedy is not None:
            found.append(remedy)
    return found


def _first_that_fits(trials: list[tuple[str, Callable[[], Trial]]], target: Target) -> str | None:
    """The least intrusive trial that fits, by halving: each takes less than the one before, and so fits if it does.

    Where that is not so, the one that is named still fits, as it was compiled; there may be a milder one.
    """
    while trials and (last := _fits(trials[-1][1], target)) is not True:
        if last is False:
            return None
        trials = trials[:-1]  # too coarse to be represented at all, which says nothing of the milder ones
    if not trials:
        return None
    fails, fits = -1, len(trials) - 1
    while fits - fails > 1:
        middle = (fails + fits) // 2
        if _fits(trials[middle][1], target):
            fits = middle
        else:
            fails = middle
    return trials[fits][0]


Trial = tuple[Graph, Options]


def _fits(trial: Callable[[], Trial], target: Target) -> bool | None:
    """Whether a trial fits; None where it cannot be compiled at all."""
    graph, options = trial()
    try:
        compile_graph(graph, target, options)
    except DoesNotFit:
        return False
    except SnncError:
        return None
    return True


def _more_chips(graph: Graph, target: Target, options: Options) -> Iterator[tuple[str, Callable[[], Trial]]]:
    """The number of chips that the cores of an unlimited system would need."""
    most = int(target["chips_per_system"])
    unlimited = replace(options, chips=most, board=None)
    try:
        state: Compilation = compile_graph(graph, target, unlimited)
    except SnncError:
        return
    cores = len(state.mapping.cores)
    chips = state.mapping.n_chips
    if chips > Compilation(target, options, graph).chips:
        yield f"--chips {chips} fits: {cores} cores", lambda: (graph, replace(unlimited, chips=chips))


def _fewer_bits(graph: Graph, target: Target, options: Options) -> Iterator[tuple[str, Callable[[], Trial]]]:
    now = Compilation(target, options, graph).weight_bits
    for bits in sorted((b for b in target["weight_bits"] if 2 <= b < now), reverse=True):

        def trial(bits: int = bits) -> Trial:
            return graph, replace(options, weight_bits=bits)

        yield f"--bits {bits} fits (accuracy to be checked with snnc verify)", trial


def _fewer_synapses(graph: Graph, target: Target, options: Options) -> Iterator[tuple[str, Callable[[], Trial]]]:
    """Keep the largest weights of each connection: says what connectivity would fit, not what accuracy is left.

    Of a convolution kernel entries are taken away, each with all the synapses that it makes.
    """
    most = sum(c.synapses.connectivity.capacity for c in graph.connections)
    weights = sum(c.synapses.connectivity.n_weights for c in graph.connections)
    for part in CONNECTIVITIES:

        def trial(part: float = part) -> Trial:
            return _thinned(graph, part), options

        percent = 100 * weights * part / most
        yield f"a connectivity of {percent:.3g} % fits: train with --connectivity {percent / 100:.3g}", trial


def _thinned(graph: Graph, part: float) -> Graph:
    def thin(c: Connection) -> Connection:
        shape = c.synapses.connectivity
        keep = max(1, round(part * shape.n_weights))
        order = np.argsort(-np.abs(c.synapses.weights), kind="stable")
        chosen = np.zeros(shape.n_weights, bool)
        chosen[order[:keep]] = True
        return replace(c, synapses=FloatSynapses(shape.keep_weights(chosen), c.synapses.weights[chosen]))

    return replace(graph, connections=tuple(thin(c) for c in graph.connections))
