"""The torch modules against the equations of toolchain/ir/neurons.py, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from toolchain.errors import SnncError
from toolchain.ir.neurons import LIF as Population
from toolchain.training import neurons, spiking
from toolchain.training.spiking import IF, LIF, CurrentLIF, Delay, Readout, SumPool2d, reset_state, run

STEPS, SAMPLES, SIZE = 9, 3, 6


def population(module, size=SIZE):
    """The same neurons as the intermediate representation states them."""

    def plain(value):
        return value.detach().numpy().astype(np.float64) if isinstance(value, torch.Tensor) else value

    return Population(
        "p",
        size,
        plain(module.threshold),
        plain(module.gain),
        plain(module.current_decay),
        plain(module.voltage_decay),
        np.zeros(size, np.float32),
        module.reset,
        module.refractory,
    )


def inputs(seed, scale=2.0, shape=(STEPS, SAMPLES, SIZE)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def stepped(module, x, recurrent=None):
    """Spikes and membrane potentials of the definition, one step after the other."""
    p = population(module)
    state, spikes, potentials = p.start(len(x[0])), [], []
    for t in range(len(x)):
        a = x[t].numpy()
        if recurrent is not None:
            past = spikes[t - module.delay] if t >= module.delay else np.zeros(a.shape)
            a = a + past @ recurrent.T
        state, fired = p.step(state, a)
        spikes.append(fired.astype(np.float64))
        potentials.append(state.v)
    return torch.from_numpy(np.stack(spikes)), torch.from_numpy(np.stack(potentials))


def numbers(low, high):
    return st.one_of(
        st.floats(low, high),
        st.integers(0, 2**31).map(lambda seed: torch.from_numpy(np.random.default_rng(seed).uniform(low, high, SIZE))),
    )


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    current=numbers(0.1, 1.0),
    voltage=numbers(0.0, 0.9),
    threshold=numbers(0.2, 3.0),
    gain=st.floats(0.2, 2.0),
    rest=st.sampled_from([("zero", 0), ("zero", 1), ("zero", 4), ("subtract", 0)]),
)
def test_every_option_equals_the_definition(seed, current, voltage, threshold, gain, rest):
    reset, refractory = rest
    module = CurrentLIF(current, voltage, threshold, gain=gain, reset=reset, refractory=refractory)
    x = inputs(seed)
    spikes, potentials = stepped(module, x)
    reset_state(module)
    for t in range(STEPS):
        assert torch.equal(module(x[t]), spikes[t])
        torch.testing.assert_close(module._v, potentials[t], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("module", [LIF(3.0), LIF(torch.linspace(1.5, 4, SIZE).double()), IF(1.5, reset="subtract")])
def test_the_short_forms_are_the_general_one(module):
    x = inputs(4, 3.0)
    spikes, _ = stepped(module, x)
    assert torch.equal(run(module, x), spikes)
    assert 0.05 < float(spikes.mean()) < 0.95


@pytest.mark.parametrize("delay", [1, 3])
def test_recurrent_spikes_arrive_after_the_delay(delay):
    layer = nn.Linear(SIZE, SIZE, bias=False).double()
    nn.init.normal_(layer.weight)
    module = LIF(2.0, 0.5, recurrent=layer, delay=delay)
    x = inputs(1)
    spikes, _ = stepped(module, x, layer.weight.detach().numpy())
    assert torch.equal(run(module, x).detach(), spikes)
    with torch.no_grad():
        layer.weight.zero_()
        assert not torch.equal(run(module, x), spikes)


def test_a_recurrent_convolution_keeps_the_map():
    module = IF(recurrent=nn.Conv2d(2, 2, 3, padding=1))
    x = inputs(0, shape=(4, 3, 2, 5, 5)).float()
    spikes = run(module, x)
    assert spikes.shape == x.shape
    spikes.sum().backward()
    assert float(module.recurrent.weight.grad.abs().sum()) > 0


def test_a_readout_gives_the_potential_of_the_definition():
    for module in (Readout(), Readout(3.0), Readout(2.0, current_decay=0.5)):
        x = inputs(2)
        potentials = stepped(module, x)[1]
        torch.testing.assert_close(run(module, x), potentials, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(Readout(), x)[-1], x.sum(0))


def test_the_comparison_is_strict():
    x = torch.ones(4, 1, 1)
    assert run(IF(2.0), x).flatten().tolist() == [0, 0, 1, 0]
    assert run(IF(2.0, reset="subtract"), x).flatten().tolist() == [0, 0, 1, 0]
    assert run(IF(0.5, refractory=2), x).flatten().tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("tau", [2.0, 3.5])
def test_gradients_equal_those_of_the_window_in_one_node(tau):
    x = inputs(5).float()
    weights = inputs(6).float()
    mine, window = x.clone().requires_grad_(), x.clone().requires_grad_()
    spikes = run(LIF(tau), mine)
    neuron = neurons.Neuron(1 - 1 / tau, 1.0, 1.0, False)
    expected = neurons.run(window / tau, STEPS, neuron)
    assert torch.equal(spikes, expected)
    (spikes * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, window.grad)


@pytest.mark.parametrize("name", sorted(spiking.SURROGATES))
def test_surrogates_are_one_at_the_threshold_and_fall_to_both_sides(name):
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    run(IF(1.0, surrogate=name), (x + 1)[None, None]).sum().backward()
    derivative = x.grad
    assert derivative[2] == 1
    assert derivative[0] < derivative[1] < derivative[2]
    torch.testing.assert_close(derivative, derivative.flip(0))


def test_per_neuron_parameters_can_be_trained_and_saved():
    module = CurrentLIF(1.0, nn.Parameter(torch.full((SIZE,), 0.5)), threshold=torch.ones(SIZE))
    run(module, inputs(7).float()).sum().backward()
    assert float(module.voltage_decay.grad.abs().sum()) > 0
    assert set(module.state_dict()) == {"voltage_decay", "threshold"}
    assert "threshold=(6,)" in repr(module)
    assert "voltage_decay=0.5" in repr(LIF())


def test_a_delay_shifts_in_time_and_forgets_on_reset():
    x = torch.arange(1.0, 6).reshape(5, 1, 1)
    net = nn.Sequential(Delay(2))
    for _ in range(2):
        assert run(net, x).flatten().tolist() == [0, 0, 1, 2, 3]
    assert run(Delay(0), x).flatten().tolist() == [1, 2, 3, 4, 5]
    assert repr(Delay(2)) == "Delay(steps=2)"


def test_sum_pooling_sums_each_window():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert SumPool2d(2)(x).flatten().tolist() == [10, 18, 42, 50]
    padded = SumPool2d((3, 1), stride=(2, 1), padding=(1, 0))(x)
    assert padded[0, 0].tolist() == [[4, 6, 8, 10], [24, 27, 30, 33]]
    assert "kernel_size=(2, 2)" in repr(SumPool2d(2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LIF(1.0), ("tau", "more than 1")),
        (lambda: LIF(torch.tensor([2.0, 0.5])), ("tau", "more than 1")),
        (lambda: LIF(nn.Parameter(torch.tensor([2.0]))), ("tau", "CurrentLIF")),
        (lambda: IF(0.0), ("threshold", "more than 0")),
        (lambda: IF(float("nan")), ("threshold", "more than 0")),
        (lambda: IF(reset="soft"), ("reset", "zero, subtract")),
        (lambda: IF(refractory=63), ("refractory", "0 to 62")),
        (lambda: IF(reset="subtract", refractory=1), ("refractory", "reset 'zero'")),
        (lambda: IF(delay=0), ("delay", "1 to 62")),
        (lambda: IF(surrogate="triangel"), ("surrogate", "did you mean 'triangle'")),
        (lambda: CurrentLIF(0.0, 0.5), ("current_decay", "at most 1")),
        (lambda: CurrentLIF(0.5, 1.0), ("voltage_decay", "less than 1")),
        (lambda: CurrentLIF(0.5, 0.5, gain=0.0), ("gain", "more than 0")),
        (lambda: Delay(-1), ("Delay.steps", "0 to 62")),
    ],
)
def test_parameters_without_meaning_are_refused(make, words):
    with pytest.raises(SnncError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
