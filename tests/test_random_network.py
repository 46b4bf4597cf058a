"""Networks that are drawn instead of trained: the recipe's shape, as many synapses as asked for, nobody left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolchain.errors import SnncError
from toolchain.ir import Convolution, Graph
from toolchain.random_network import random_graph
from toolchain.training.recipe import Recipe

LAYERS = """
[network]
steps = 5
tau = 4.0
layers = [
  { kind = "conv", channels = 8, kernel = 3, bias = true },
  { kind = "max_pool" },
  { kind = "conv", channels = 16, kernel = 3, stride = 2, groups = 4, reset = "subtract" },
  { kind = "avg_pool" },
  { kind = "dropout", rate = 0.5 },
  { kind = "dense", units = 30, neuron = "if" },
]
"""


@pytest.fixture
def recipe(tmp_path: Path):
    def made(text: str = LAYERS, **sections: str) -> Recipe:
        (tmp_path / "r.toml").write_text(
            f'name = "drawn"\n[data]\ndataset = "digits"\n{text}\n[quantise]\naware = false'
        )
        return Recipe.load(tmp_path / "r.toml")

    return made


def weighted(graph: Graph) -> list:
    return [c for c in graph.connections if c.name.endswith(".weight")]


def test_the_layers_of_the_recipe(recipe) -> None:
    graph = random_graph(recipe(), 0.5, 0)
    graph.verify()
    assert [(p.name, p.size, p.reset) for p in graph.populations] == [
        ("conv1", 8 * 64, "zero"),
        ("pool1", 8 * 16, "zero"),
        ("conv2", 16 * 4, "subtract"),
        ("fc1", 30, "zero"),
        ("fc2", 10, "zero"),
    ]
    assert (graph.populations[0].gain, graph.populations[0].voltage_decay) == (0.25, 0.25)
    assert (graph.populations[3].gain, graph.populations[3].voltage_decay) == (1.0, 0.0)
    second = graph.connections[2].synapses.connectivity
    assert isinstance(second, Convolution)
    assert (second.stride, second.groups, second.source) == ((2, 2), 4, (8, 4, 4))
    assert graph.steps == 5


@pytest.mark.parametrize("connectivity", [0.02, 0.3, 1.0])
def test_as_many_weights_as_asked_for_and_no_channel_left_out(recipe, connectivity: float) -> None:
    graph = random_graph(recipe(), connectivity, 3)
    capacity = {"conv1.weight": 72, "conv2.weight": 16 * 2 * 9, "fc2.weight": 300}
    for c in weighted(graph):
        pattern = c.synapses.connectivity
        assert (pattern.stored.fan_in > 0).all(), c.name
        if c.name in capacity:
            least = round(connectivity * capacity[c.name])
            heard = pattern.stored.fan_out.reshape(pattern.source_shape[0], -1).sum(axis=1)
            assert least <= pattern.n_weights <= least + len(heard) + pattern.stored.n_targets
            assert c.source == "input" or (heard > 0).all()
    full = random_graph(recipe(), 1.0, 3).connections[2].synapses.connectivity
    assert full.n_weights == full.capacity


def test_the_seed_decides(recipe) -> None:
    one, again, other = (random_graph(recipe(), 0.4, seed) for seed in (1, 1, 2))
    same = [
        np.array_equal(a.synapses.weights, b.synapses.weights)
        for a, b in zip(one.connections, again.connections, strict=True)
    ]
    assert all(same)
    assert weighted(one)[0].synapses.connectivity != weighted(other)[0].synapses.connectivity


def test_votes_and_readouts(recipe) -> None:
    voting = random_graph(recipe("[network]\nhidden = [20]\nvote = 3\n"), 0.5, 0)
    assert [(p.name, p.size, p.spiking) for p in voting.populations] == [
        ("fc1", 20, True),
        ("fc2", 30, True),
        ("vote", 10, False),
    ]
    assert (voting.connections[-1].synapses.connectivity.fan_in == 3).all()
    reading = random_graph(recipe("[network]\nhidden = [20]\nreadout = true\n"), 0.5, 0)
    assert not reading.populations[-1].spiking


@pytest.mark.parametrize("connectivity", [0.0, -1.0, 1.1])
def test_no_such_part(recipe, connectivity: float) -> None:
    with pytest.raises(SnncError, match="part of all synapses"):
        random_graph(recipe(), connectivity, 0)
