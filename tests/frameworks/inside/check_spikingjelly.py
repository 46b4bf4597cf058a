"""Networks of SpikingJelly, of whichever version is there, compute the same as their graphs."""

from __future__ import annotations

import pytest
import torch
from compared import STEPS, codes, compared, kinds, random_weights, refused
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from toolchain.training.spiking import Readout, reset_state


def run(network, x):
    for part in network.modules():
        if isinstance(part, neuron.BaseNode):
            part.reset()
    reset_state(network)
    return torch.stack([network(step) for step in x])


def run_all_steps(network, x):
    functional.reset_net(network)
    return network(x)


def dense(*neurons: nn.Module) -> nn.Module:
    """Dense layers of 6, each before one of the neurons."""
    sizes = [8, *(6 for _ in neurons)]
    parts = [part for i, n in enumerate(neurons) for part in (layer.Linear(sizes[i], 6), n)]
    return random_weights(nn.Sequential(*parts), 3.0)


resets = st.one_of(st.none(), st.floats(-0.5, 0.5))


@given(
    tau=st.floats(1.1, 8.0),
    v_threshold=st.floats(0.6, 1.5),
    v_reset=resets,
    decay_input=st.booleans(),
    learned=st.booleans(),
    store=st.booleans(),
)
def test_any_parameters(tau, v_threshold, v_reset, decay_input, learned, store) -> None:
    options = {"v_threshold": v_threshold, "v_reset": v_reset, "decay_input": decay_input, "store_v_seq": store}
    lif = neuron.ParametricLIFNode(init_tau=tau, **options) if learned else neuron.LIFNode(tau=tau, **options)
    network = random_weights(nn.Sequential(nn.Linear(8, 6), lif, nn.Linear(6, 6), neuron.IFNode()), 3.0 * tau)
    loaded = compared(network, (8,), run)
    assert kinds(loaded.graph)[0] == ("1", "subtract" if v_reset is None else "zero")


@pytest.mark.parametrize("v_reset", [None, 0.0])
def test_spikes_at_the_threshold_itself(v_reset) -> None:
    """Weights of 1/2 against a threshold of 1: every other spike meets it exactly."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), neuron.IFNode(v_reset=v_reset)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(2) / 2)
    assert codes(compared(network, (2,), run)) == {"FRW001"}


def convolutional(step_mode: str) -> nn.Module:
    network = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.LIFNode(tau=2.0),
        layer.MaxPool2d(2),
        layer.Conv2d(4, 4, 3),
        layer.BatchNorm2d(4),
        neuron.IFNode(v_reset=None),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Dropout(0.5),
        layer.Linear(4, 20),
        neuron.LIFNode(tau=2.0, decay_input=False),
    )
    functional.set_step_mode(network, step_mode)
    return random_weights(network, 5.0)


def test_a_convolutional_network_in_both_step_modes() -> None:
    one, many = (
        compared(convolutional(m), (1, 8, 8), r, all_steps=m == "m") for m, r in (("s", run), ("m", run_all_steps))
    )
    assert kinds(one.graph) == kinds(many.graph)
    assert [c.name for c in one.graph.connections] == [c.name for c in many.graph.connections]


def test_containers_are_seen_through() -> None:
    network = nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)),
        neuron.LIFNode(step_mode="m"),
        layer.SeqToANNContainer(nn.Flatten(), nn.Linear(3 * 16, 10)),
        layer.MultiStepContainer(neuron.IFNode(), nn.Linear(10, 6), neuron.LIFNode()),
    )
    loaded = compared(random_weights(network, 4.0), (1, 6, 6), run_all_steps, all_steps=True)
    assert kinds(loaded.graph) == [("1", "zero"), ("3.0", "zero"), ("3.2", "zero")]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(layer.Linear(8, 8), neuron.LIFNode())
        self.second = nn.Sequential(layer.Linear(8, 8), neuron.LIFNode())
        self.last = nn.Sequential(layer.Linear(8, 4), neuron.IFNode())
        functional.set_step_mode(self, "m")

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.second(x)).mean(0)


def test_a_residual_network_that_ends_in_a_rate() -> None:
    def spikes(network, x):
        functional.reset_net(network)
        y = network.first(x)
        return network.last(y + network.second(y))

    compared(random_weights(Residual(), 4.0), (8,), spikes, all_steps=True)


def test_votes_are_summed() -> None:
    network = nn.Sequential(layer.Linear(8, 12), neuron.LIFNode(), layer.VotingLayer(4))
    loaded = compared(random_weights(network, 5.0), (8,), lambda n, x: run(n, x).cumsum(0))
    assert codes(loaded) >= {"FRW003"}
    assert loaded.graph.populations[-1].size == 3


def test_our_readout_behind_their_neurons() -> None:
    network = random_weights(nn.Sequential(layer.Linear(8, 6), neuron.LIFNode(), nn.Linear(6, 3), Readout()), 4.0)
    compared(network, (8,), run)


if hasattr(neuron, "NonSpikingLIFNode"):

    @pytest.mark.parametrize("last", [neuron.NonSpikingLIFNode, neuron.NonSpikingIFNode])
    def test_neurons_that_never_spike(last) -> None:
        network = nn.Sequential(layer.Linear(8, 6), neuron.LIFNode(), layer.Linear(6, 3), last(decode="last_mem"))
        functional.set_step_mode(network, "m")
        random_weights(network, 4.0)

        def last_potential(network, x):
            return run_all_steps(network, x)[None]

        compared(network, (8,), last_potential, all_steps=True)
        network[3].decode = "max-mem"
        refused(network, (STEPS, 1, 8), "decode", "last step")


class Own(neuron.IFNode):
    """Measured like any other; this one is no neuron of the chip."""

    def single_step_forward(self, x):
        spikes = super().single_step_forward(x)
        self.v = self.v.clamp(min=0.0)
        return spikes


class Strong(neuron.LIFNode):
    def single_step_forward(self, x):
        return super().single_step_forward(2.0 * x)


def test_subclasses_are_measured_too() -> None:
    compared(dense(Strong()), (8,), run)
    refused(dense(Own()), (1, 8), "1 (Own)", "at step", "potential of 0")


def test_after_it_has_run_with_gradients() -> None:
    network = dense(neuron.LIFNode(), neuron.ParametricLIFNode(decay_input=False))
    network(torch.ones(3, 8)).sum()
    compared(network, (8,), run)


@pytest.mark.parametrize("kind", [neuron.QIFNode, neuron.EIFNode, neuron.IzhikevichNode])
def test_other_equations_are_refused(kind) -> None:
    refused(dense(kind()), (1, 8), f"1 ({kind.__name__})")


def test_what_does_not_run_there_or_here_is_refused() -> None:
    mixed = nn.Sequential(layer.Linear(8, 6, step_mode="m"), neuron.LIFNode())
    refused(mixed, (STEPS, 1, 8), "1 (LIFNode)", "step mode 's' in a network of step mode 'm'")
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), neuron.LIFNode(step_mode="m"))
    refused(plain, (STEPS, 1, 1, 5, 5), "0 (Conv2d)", "SeqToANNContainer")
    drops = nn.Sequential(layer.Linear(8, 6), layer.SynapseFilter(), neuron.LIFNode())
    refused(drops, (1, 8), "1 (SynapseFilter)", "not a layer that snnc knows")

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.lif = layer.Linear(8, 6), neuron.LIFNode()

        def forward(self, x):
            return sum(self.lif(self.dense(x)) for _ in range(3))

    refused(Loop(), (1, 8), "lif (LIFNode)", "called more than once", "loop over time")
