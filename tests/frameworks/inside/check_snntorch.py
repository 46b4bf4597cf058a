"""Networks of snnTorch compute the same as their graphs."""

from __future__ import annotations

import numpy as np
import pytest
import snntorch as snn
import torch
from compared import codes, compared, kinds, random_weights, refused
from hypothesis import given
from hypothesis import strategies as st
from snntorch import utils
from torch import nn

import hw_targets
from toolchain.backends import physical, reference
from toolchain.pipeline import Options, compile_graph

HIDDEN = {"init_hidden": True}


def run(network, x):
    utils.reset(network)
    return torch.stack([network(step) for step in x])


def run_first(network, x):
    """What stands first among the outputs."""
    utils.reset(network)
    return torch.stack([network(step)[0] for step in x])


def dense(*neurons: nn.Module, scale: float = 3.0, bias: bool = True) -> nn.Module:
    """Dense layers of 6, each before one of the neurons."""
    sizes = [8, *(6 for _ in neurons)]
    parts = [part for i, n in enumerate(neurons) for part in (nn.Linear(sizes[i], 6, bias=bias), n)]
    return random_weights(nn.Sequential(*parts), scale)


decays = st.floats(0.05, 1.0)
fading = st.floats(0.05, 0.999)
"""A synaptic current that keeps everything is refused."""


@given(
    beta=decays,
    threshold=st.floats(0.5, 2.0),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    learned=st.booleans(),
    factor=st.sampled_from([1.0, 0.5]),
)
def test_leaky(beta, threshold, reset, learned, factor) -> None:
    options = {"threshold": threshold, "reset_mechanism": reset, "learn_beta": learned, "learn_threshold": learned}
    lif = snn.Leaky(beta=beta, graded_spikes_factor=factor, **options, **HIDDEN)
    loaded = compared(dense(lif, snn.Leaky(beta=0.5, **HIDDEN)), (8,), run)
    assert kinds(loaded.graph)[0] == ("1", "zero" if reset == "zero" else "subtract")


@given(alpha=fading, beta=decays, reset=st.sampled_from(["subtract", "zero", "none"]), delayed=st.booleans())
def test_synaptic(alpha, beta, reset, delayed) -> None:
    delayed = delayed or reset == "subtract"
    lif = snn.Synaptic(alpha=alpha, beta=beta, reset_mechanism=reset, reset_delay=delayed, **HIDDEN)
    compared(dense(lif, snn.Leaky(beta=0.5, **HIDDEN), scale=1.0, bias=False), (8,), run)


def test_a_reset_after_the_leak_is_a_synapse_to_itself() -> None:
    loaded = compared(dense(snn.Leaky(beta=0.75, **HIDDEN)), (8,), run)
    assert codes(loaded) == {"FRW002"}
    (kick,) = (c for c in loaded.graph.connections if c.source == c.target)
    assert (kick.name, kick.delay, kick.synapses.connectivity.n_synapses) == ("1.kick", 1, 6)
    assert set(kick.synapses.weights) == {-0.25}
    assert codes(compared(dense(snn.Leaky(beta=0.75, reset_mechanism="zero", **HIDDEN)), (8,), run)) == set()


def test_a_neuron_may_have_its_own_numbers() -> None:
    lif = snn.Leaky(beta=torch.linspace(0.1, 0.9, 6), threshold=torch.linspace(0.5, 1.5, 6), **HIDDEN)
    compared(dense(lif), (8,), run)


def test_lapicque() -> None:
    compared(dense(snn.Lapicque(R=5.0, C=1.0, **HIDDEN), scale=20.0), (8,), run)


@pytest.mark.parametrize(
    ("lif", "steps"),
    [
        (snn.Leaky(beta=0.8, reset_mechanism="zero", **HIDDEN), 0),
        (snn.Lapicque(beta=0.8, reset_mechanism="zero", **HIDDEN), 1),
        (snn.Synaptic(alpha=0.5, beta=0.8, reset_mechanism="zero", **HIDDEN), 1),
        (snn.Synaptic(alpha=0.5, beta=0.8, reset_mechanism="zero", reset_delay=False, **HIDDEN), 0),
        (snn.RLeaky(beta=0.8, linear_features=6, reset_mechanism="zero", **HIDDEN), 1),
        (snn.RLeaky(beta=0.8, linear_features=6, reset_mechanism="zero", reset_delay=False, **HIDDEN), 0),
    ],
)
def test_a_reset_to_zero_may_take_the_next_step_too(lif, steps) -> None:
    assert compared(dense(lif, bias=False), (8,), run).graph.populations[0].refractory == steps


def test_resets_that_leave_the_chip_in_integers() -> None:
    """The synapses of a reset are mapped and simulated like any other."""
    network = dense(snn.Synaptic(alpha=0.5, beta=0.8, **HIDDEN), snn.Leaky(beta=0.8, **HIDDEN), bias=False)
    graph = compared(network, (8,), run).graph
    assert [(c.name, c.delay) for c in graph.connections if c.source == c.target] == [
        ("1.kick", 1),
        ("1.kick[2]", 2),
        ("3.kick", 1),
    ]
    program = compile_graph(graph, hw_targets.load("loihi"), Options()).program
    samples = np.random.default_rng(2).integers(0, 256, (50, 8)).astype(np.uint8)
    float_spikes, spikes = (t.spikes[t.output] for t in (physical.run(graph, samples), reference.run(program, samples)))
    assert float_spikes.mean() > 0.1
    assert (float_spikes == spikes).mean() > 0.9


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("kind", ["linear", "one to one"])
def test_recurrent_neurons(kind, reset) -> None:
    form = {"linear_features": 6} if kind == "linear" else {"all_to_all": False, "V": torch.linspace(-1.0, 1.0, 6)}
    loaded = compared(dense(snn.RLeaky(beta=0.8, reset_mechanism=reset, **form, **HIDDEN)), (8,), run)
    assert "1.recurrent" in " ".join(c.name for c in loaded.graph.connections)


def test_recurrent_kernels_and_currents() -> None:
    rleaky = snn.RLeaky(beta=0.8, conv2d_channels=3, kernel_size=3, **HIDDEN)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), rleaky, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 6))
    network.append(snn.RSynaptic(alpha=0.5, beta=0.8, linear_features=6, **HIDDEN))
    for dense_layer in (network[4], network[5].recurrent):
        dense_layer.bias = None
    compared(random_weights(network, 2.0), (1, 6, 6), run)


class OneStep(nn.Module):
    """States come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(8, 6), snn.Leaky(beta=0.8)
        self.fc2, self.lif2 = nn.Linear(6, 4, bias=False), snn.Synaptic(alpha=0.5, beta=0.8)

    def forward(self, x, mem1, syn2, mem2):
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
        return spk2, mem1, syn2, mem2


def test_a_step_that_takes_and_gives_states() -> None:
    def loop(network, x):
        states = [torch.zeros(len(x[0]), n).double() for n in (6, 4, 4)]
        spikes = []
        for step in x:
            sent, *states = network(step, *states)
            spikes.append(sent)
        return torch.stack(spikes)

    compared(random_weights(OneStep(), 3.0), (8,), loop)


def test_a_potential_that_is_never_reset_is_a_readout() -> None:
    last = snn.Leaky(beta=0.7, reset_mechanism="none", output=True, **HIDDEN)
    network = dense(snn.Leaky(beta=0.8, **HIDDEN), last)

    def potentials(network, x):
        utils.reset(network)
        return torch.stack([network(step)[1] for step in x])

    assert kinds(compared(network, (8,), potentials).graph)[-1] == ("3", "none")
    last = snn.Leaky(beta=0.7, output=True, **HIDDEN)
    assert kinds(compared(dense(last), (8,), run_first).graph) == [("1", "subtract")]


def test_after_it_has_run_with_gradients() -> None:
    network = dense(
        snn.Leaky(beta=0.9, learn_beta=True, **HIDDEN), snn.Synaptic(alpha=0.5, beta=0.5, **HIDDEN), bias=False
    )
    network(torch.ones(3, 8)).sum()
    compared(network, (8,), run)


class Loop(nn.Module):
    """The usual form: the loop over time is in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(8, 6), snn.Leaky(beta=0.8)

    def forward(self, x):
        mem = self.lif.reset_mem()
        out = []
        for _ in range(4):
            spk, mem = self.lif(self.fc(x), mem)
            out.append(spk)
        return torch.stack(out)


class Forgetful(Loop):
    def forward(self, x, mem):
        return self.lif(self.fc(x), mem)[0]


class Peeks(Loop):
    def forward(self, x, mem):
        spk, mem = self.lif(self.fc(x), mem)
        return spk * mem, mem


class Potential(Loop):
    def forward(self, x, mem):
        return self.lif(self.fc(x), mem)[1]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Loop(), ["lif (Leaky)", "does not come from the step before", "one time step"]),
        (Forgetful(), ["state of 'lif' is not returned"]),
        (Peeks(), ["mul (mul)", "nothing but spikes"]),
        (Potential(), ["membrane potential of neurons that spike", "'none'"]),
        (dense(snn.Leaky(beta=0.8, reset_delay=False, **HIDDEN)), ["1 (Leaky)", "neither to a potential nor by"]),
        (dense(snn.Alpha(alpha=0.9, beta=0.8, **HIDDEN)), ["1 (Alpha)"]),
        (dense(snn.Leaky(beta=0.8, state_quant=torch.round, **HIDDEN)), ["1 (Leaky)"]),
        (dense(snn.Leaky(beta=0.0, **HIDDEN)), ["1 (Leaky)", "of the potential 0"]),
        (dense(snn.Synaptic(alpha=0.5, beta=0.8, **HIDDEN)), ["bias", "no synaptic decay"]),
        (dense(snn.Leaky(beta=0.8), snn.Leaky(beta=0.8, **HIDDEN)), ["2 (Linear)", "nothing but spikes"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_is_refused(network, words) -> None:
    refused(network, (1, 8), *words)


def test_lateral_inhibition_is_seen() -> None:
    with pytest.warns(UserWarning, match="unstable"):
        lif = snn.Leaky(beta=0.8, inhibition=True, **HIDDEN)
    refused(dense(lif), (1, 8), "1 (Leaky)")
