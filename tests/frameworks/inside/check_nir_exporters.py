"""Networks of Norse, sinabs and Rockpool compute the same as their graphs, and so does what their pages say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
import pages
import pytest
import torch
from torch import nn

import toolchain
from toolchain.backends import physical
from toolchain.errors import SnncError

FRAMEWORK = os.environ["SNNC_FRAMEWORK"]
N_IN, N_MID, N_OUT, STEPS = 6, 12, 4, 12


def dense(n: int, m: int, *, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(n, m, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(m, n) * 2 - 0.5)
        if bias:
            layer.bias.copy_(torch.rand(m) - 0.3)
    return layer


Case = tuple[nn.Module, torch.Tensor, list[str], tuple[float, float]]
"""A network, an example, the reset of each population, and current_decay and voltage_decay of the first one."""


def norse_networks() -> Mapping[str, Callable[[], Case]]:
    import norse.torch as norse

    example = torch.zeros(1, N_IN)

    def chain(cell, end=None, *, bias=False, scale=1.0):
        first = dense(N_IN, N_MID, bias=bias)
        first.weight.data *= scale
        parts = [first, cell(), dense(N_MID, N_OUT), (end or cell)()]
        parts[2].weight.data *= scale
        return norse.SequentialState(*parts), example

    return {
        "lif_box": lambda: (*chain(norse.LIFBoxCell, scale=8.0), ["zero", "zero"], (1.0, 0.1)),
        "lif": lambda: (*chain(norse.LIFCell, scale=4.0), ["zero", "zero"], (0.2, 0.1)),
        "lif_bias": lambda: (*chain(norse.LIFCell, scale=4.0, bias=True), ["zero", "zero", "zero"], (0.2, 0.1)),
        "iaf": lambda: (*chain(norse.IAFCell), ["zero", "zero"], (1.0, 0.0)),
        "readout": lambda: (*chain(norse.LIFBoxCell, norse.LIBoxCell, scale=8.0), ["zero", "none"], (1.0, 0.1)),
    }


def sinabs_networks():
    import sinabs.activation as activation
    import sinabs.layers as sl

    single = {"spike_fn": activation.SingleSpike}
    example = torch.zeros(1, 4, N_IN)
    keeps, current = float(np.exp(-1 / 10)), float(np.exp(-1 / 5))

    def chain(make, end=None):
        return nn.Sequential(dense(N_IN, N_MID), make(), dense(N_MID, N_OUT), (end or make)()), example

    def maps():
        squeeze = {"batch_size": 1, **single}
        convolution = nn.Conv2d(1, 3, 3)
        return (
            nn.Sequential(
                convolution, sl.IAFSqueeze(**squeeze), sl.SumPool2d(2), nn.Flatten(), dense(12, N_OUT),
                sl.LIFSqueeze(tau_mem=10.0, norm_input=False, **squeeze),
            ),
            torch.zeros(4, 1, 6, 6),
        )  # fmt: skip

    def lif(**more):
        return lambda: sl.LIF(10.0, norm_input=False, **single, **more)

    both = ["subtract", "subtract"]
    return {
        "iaf": lambda: (*chain(lambda: sl.IAF(**single)), both, (1.0, 0.0)),
        "lif": lambda: (*chain(lif()), both, (1.0, 1 - keeps)),
        "lif_zero": lambda: (*chain(lif(reset_fn=activation.MembraneReset())), ["zero", "zero"], (1.0, 1 - keeps)),
        "current": lambda: (*chain(lif(tau_syn=5.0)), both, (1 - current, 1 - keeps)),
        "maps": lambda: (*maps(), both, (1.0, 0.0)),
        "readout": lambda: (*chain(lif(), lambda: sl.ExpLeak(10.0)), ["subtract", "none"], (1.0, 1 - keeps)),
    }


def rockpool_networks():
    from rockpool.nn.combinators import Sequential
    from rockpool.nn.modules import ExpSynTorch, LIFNeuronTorch, LIFTorch, LinearTorch

    once = {"max_spikes_per_dt": torch.tensor(1.0)}
    example = torch.zeros(1, 4, N_IN)
    keeps = float(np.exp(-1e-3 / 0.02))

    def chain(make, end=None):
        layers = [LinearTorch((N_IN, N_MID)), make(N_MID), LinearTorch((N_MID, N_OUT)), (end or make)(N_OUT)]
        for layer in (layers[0], layers[2]):
            layer.weight.data = torch.rand(layer.weight.shape) * 2 - 0.5
        return Sequential(*layers), example

    def neuron(n):
        return LIFNeuronTorch(n, **once)

    both = ["subtract", "subtract"]
    return {
        "lif": lambda: (*chain(lambda n: LIFTorch(n, **once)), both, (1 - keeps, 1 - keeps)),
        "neuron": lambda: (*chain(neuron), both, (1.0, 1 - keeps)),
        "readout": lambda: (*chain(neuron, ExpSynTorch), ["subtract", "none"], (1.0, 1 - keeps)),
    }


NETWORKS = {"norse": norse_networks, "sinabs": sinabs_networks, "rockpool": rockpool_networks}[FRAMEWORK]()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_spikes_as_the_network_does(name):
    """`from_framework` itself compares every spike; here that there are some, and what the decays must be."""
    torch.manual_seed(0)
    model, example, resets, (current, voltage) = NETWORKS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loaded = toolchain.from_framework(model, example, steps=STEPS)
    assert [p.reset for p in loaded.graph.populations] == resets
    assert "NIR009" not in [d.code for d in loaded.diagnostics]
    first = next(p for p in loaded.graph.populations if not p.name.endswith(".bias"))
    np.testing.assert_allclose(first.current_decay, current, atol=2e-6)
    np.testing.assert_allclose(first.voltage_decay, voltage, atol=2e-6)
    spikes = physical.run(loaded.graph, np.full((2, loaded.graph.input.sample_size), 255)).spikes
    assert all(spikes[p.name].any() for p in loaded.graph.populations if p.spiking)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_values_that_enter_as_currents():
    torch.manual_seed(0)
    model, example, *_ = next(iter(NETWORKS.values()))()
    loaded = toolchain.from_framework(model, example, steps=STEPS, coding="current")
    assert loaded.graph.input.coding == "current"
    with pytest.raises(SnncError, match="no such coding here"):
        toolchain.from_framework(model, example, steps=STEPS, coding="graded")


def refusals():
    torch.manual_seed(0)
    if FRAMEWORK == "norse":
        import norse.torch as norse

        yield norse.SequentialState(nn.Conv2d(1, 2, 3, bias=False), norse.LIFBoxCell()), (1, 1, 5, 5), "export"
        flat = norse.SequentialState(nn.Conv2d(1, 2, 3), norse.LIFBoxCell(), nn.Flatten(), nn.Linear(18, 2))
        yield flat, (1, 1, 5, 5), "no node for modules"
    if FRAMEWORK == "sinabs":
        import sinabs.activation as activation
        import sinabs.layers as sl

        yield nn.Sequential(dense(6, 4), sl.IAF()), (1, 4, 6), "a spike is one number"
        low = sl.LIF(10.0, min_v_mem=-1.0, spike_fn=activation.SingleSpike)
        yield nn.Sequential(dense(6, 4), low), (1, 4, 6), "no neurons that snnc knows"
    if FRAMEWORK == "rockpool":
        from rockpool.nn.combinators import Sequential
        from rockpool.nn.modules import LIFTorch, LinearTorch

        once = {"max_spikes_per_dt": torch.tensor(1.0)}
        yield Sequential(LinearTorch((6, 4)), LIFTorch(4)), (1, 4, 6), "a spike is one number"
        # Its exporter says nothing of recurrent weights; that neurons act on each other is seen when they are measured.
        yield Sequential(LinearTorch((6, 4)), LIFTorch(4, has_rec=True, **once)), (1, 4, 6), "probed neurons"
    yield nn.Sequential(nn.Linear(2, 2)), (1, 2), "no module of a framework"


def test_what_no_chip_computes_is_refused():
    for model, shape, words in refusals():
        with pytest.raises(SnncError, match=words):
            toolchain.from_framework(model, torch.zeros(shape), steps=4)


def test_the_page(capsys):
    name = f"from_{FRAMEWORK}.md"
    decisions = pages.run(name)["decisions"]
    chips = {"loihi", "loihi2"}
    got = pages.check_accuracies(name, capsys.readouterr().out, {FRAMEWORK, "float", *chips})
    assert np.array_equal(decisions["float"], decisions[FRAMEWORK])
    assert np.array_equal(decisions["loihi"], decisions["loihi2"])
    assert got["float"] > 0.8  # or the distance between the two would say nothing
    for chip in chips:
        assert got["float"] - got[chip] <= pages.POINTS
