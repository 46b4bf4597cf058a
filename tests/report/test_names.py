"""The words for what a layer computes follow from its integers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_maps import any_of, connection, kernel, lif, map_network

import hw_targets
from toolchain.ir import Connectivity, Graph, Program, make_input
from toolchain.pipeline import LAST_PASS, compile_graph
from toolchain.report.names import neuron_text, operation, shape_text

LOIHI = hw_targets.load("loihi")


def program_of(graph: Graph) -> Program:
    return compile_graph(graph, LOIHI, until=LAST_PASS).program


def test_every_kind_of_layer_in_words() -> None:
    program = program_of(map_network())
    assert {p.name: operation(program, p.name) for p in program.populations} == {
        "conv1": "conv 3x3 + LIF",
        "pool": "max pool 2x2 (OR)",
        "deep": "depthwise conv 3x3 + conv 1x1 + LIF, soft reset",
        "hidden": "linear + recurrent linear + current LIF, refractory 2",
        "out": "linear + LIF",
    }
    assert operation(program, "input") == "rate input, on chip"
    assert operation(program_of(map_network(readout=True)), "out") == "linear + readout"


def one_layer(pattern, neurons, *, ones: bool = False, delay: int = 0) -> Program:
    entry = make_input("rate", "input", pattern.n_sources, scale=1.0)
    graph = Graph("one", entry, (neurons,), (connection("w", "input", "a", pattern, ones=ones, delay=delay),), 4)
    graph.verify()
    return program_of(graph)


def test_pools_that_sum_and_kernels_that_are_none() -> None:
    window = kernel((3, 8, 8), 3, 2, stride=2, groups=3)
    n = window.n_targets
    assert operation(one_layer(window, lif("a", n), ones=True), "a") == "sum pool 2x2 + LIF"
    assert operation(one_layer(window, any_of("a", n), ones=True), "a") == "max pool 2x2 (OR)"
    # Two spikes are needed, or other weights: no pooling by OR.
    two = any_of("a", n)
    assert operation(one_layer(window, replace(two, threshold=1.5), ones=True), "a") == "sum pool 2x2 + IF"
    assert operation(one_layer(window, replace(two, reset="subtract"), ones=True), "a").startswith("sum pool 2x2 + IF")
    assert operation(one_layer(window, two), "a") == "depthwise conv 2x2 stride 2 + IF"
    biased = replace(two, bias=np.full(n, -0.1, np.float32))
    assert operation(one_layer(window, biased, ones=True), "a") == "sum pool 2x2 + IF"


def test_delays_and_several_equal_connections() -> None:
    lists = Connectivity.from_mask(np.ones((4, 6), bool))
    assert operation(one_layer(lists, lif("a", 4), delay=3), "a") == "linear delay 3 + LIF"
    graph = Graph(
        "two",
        make_input("rate", "input", 6, scale=1.0),
        (lif("a", 4),),
        tuple(connection(name, "input", "a", lists, seed=k) for k, name in enumerate(("w", "w[2]"))),
        4,
    )
    assert operation(program_of(graph), "a") == "2 x linear + LIF"


@pytest.mark.parametrize(("shape", "text", "neuron"), [((1200,), "1,200", "a[25]"), ((3, 4, 5), "3x4x5", "a[1, 1, 0]")])
def test_shapes_and_places(shape, text: str, neuron: str) -> None:
    assert shape_text(shape) == text
    assert neuron_text("a", shape, 25) == neuron
