"""The neuron's window: values, gradients, and the exact integer form."""

import math

import numpy as np
import pytest
import torch

from toolchain.ir.neurons import Compartments
from toolchain.training import kernels, neurons, threads
from toolchain.training.neurons import Neuron
from toolchain.training.spiking import CurrentLIF
from toolchain.training.spiking import run as run_module


class Spike(torch.autograd.Function):
    """A plain step with the surrogate's gradient, for the slow reference."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream / (1 + (math.pi * x) ** 2)


def slow(current, steps, neuron):
    v, spikes = torch.zeros_like(current[0]), []
    for t in range(steps):
        v = neuron.decay * v + current[min(t, len(current) - 1)]
        s = Spike.apply((v - neuron.threshold) * neuron.unit)
        spikes.append(s)
        v = v * (1 - s.detach())
    return torch.stack(spikes)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("unit", [1.0, 0.125])
def test_values_and_gradients_equal_plain_autograd(constant, unit):
    generator = torch.Generator().manual_seed(3)
    neuron = Neuron(0.5, 1.0 / unit, unit, False)
    current = torch.randn(1 if constant else 6, 5, 7, generator=generator) / unit
    weights = torch.randn(6, 5, 7, generator=generator)
    mine, reference = current.clone().requires_grad_(), current.clone().requires_grad_()
    fast, expected = neurons.run(mine, 6, neuron), slow(reference, 6, neuron)
    assert torch.equal(fast, expected)
    assert 0 < fast.mean() < 1
    (fast * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, reference.grad)


def test_the_comparison_is_strict_and_the_reset_is_to_zero():
    neuron = Neuron(0.5, 4.0, 1.0, False)
    current = torch.tensor([4.0, 2.5, 1.0]).reshape(3, 1, 1)
    # 4 is not above 4; 2 + 2.5 is; then it starts from 0.
    assert neurons.run(current, 3, neuron).flatten().tolist() == [0, 1, 0]
    assert neurons.run_exact(current, 3, neuron).flatten().tolist() == [False, True, False]


def test_the_exact_integer_form_equals_integer_arithmetic():
    rng = np.random.default_rng(0)
    current = rng.integers(-40000, 44000, (12, 3, 50)) * 64
    dv, threshold = 1365, 20000 << 6
    v = np.zeros((3, 50), np.int64)
    expected = np.zeros(current.shape, bool)
    for t in range(12):
        scaled = v * (4096 - dv)
        v = np.where(scaled >= 0, scaled // 4096, -((-scaled) // 4096)) + current[t]
        v = np.clip(v, -(2**23 - 1), 2**23 - 1)
        expected[t] = v > threshold
        v[expected[t]] = 0
    got = neurons.run_exact(torch.from_numpy(current).double(), 12, Neuron(1 - dv / 4096, threshold, 1e-6, True))
    assert np.array_equal(got.numpy(), expected)
    assert 0.01 < expected.mean() < 0.99


def test_training_and_exact_form_agree_on_integers():
    generator = torch.Generator().manual_seed(1)
    current = torch.randint(-900, 1000, (8, 4, 60), generator=generator).float() * 64
    neuron = Neuron(0.5, 700.0 * 64, 1 / 64, True)
    assert torch.equal(neurons.run(current, 8, neuron).bool(), neurons.run_exact(current, 8, neuron))


OPTIONS = [("zero", 0), ("zero", 1), ("zero", 3), ("subtract", 0)]


@pytest.mark.parametrize(("reset", "refractory"), OPTIONS)
@pytest.mark.parametrize("constant", [False, True])
def test_every_option_has_the_values_and_gradients_of_plain_autograd(reset, refractory, constant):
    generator = torch.Generator().manual_seed(5)
    neuron = Neuron(0.75, 1.0, 1.0, False, reset, refractory)
    current = torch.randn(1 if constant else 7, 4, 30, generator=generator)
    weights = torch.randn(7, 4, 30, generator=generator)
    mine, plain = current.clone().requires_grad_(), current.clone().requires_grad_()
    module = CurrentLIF(1.0, 0.25, reset=reset, refractory=refractory)
    expected = run_module(module, plain.expand(7, 4, 30))
    fast = neurons.run(mine, 7, neuron)
    assert torch.equal(fast, expected)
    assert 0.02 < fast.mean() < 0.9
    (fast * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, plain.grad)
    assert torch.equal(neurons.run_exact(current, 7, neuron).float(), expected)


@pytest.mark.parametrize(("reset", "refractory"), OPTIONS)
@pytest.mark.parametrize("du", [4096, 1500])
def test_every_option_is_the_compartment_of_the_chip(reset, refractory, du):
    rng = np.random.default_rng(2)
    sums = rng.integers(-900, 1200, (9, 3, 40))
    compartments = Compartments("p", 40, du, 700, 800, np.zeros(40, np.int16), reset=reset, refractory=refractory)
    state, expected = compartments.start(3), []
    for a in sums:
        state, fired = compartments.step(state, a)
        expected.append(fired)
    neuron = Neuron(1 - 700 / 4096, 800.0 * 64, 1 / 64, True, reset, refractory)
    current = torch.from_numpy(sums).double() * 64
    u = neurons.synapse_exact(current, 9, 1 - du / 4096, True)
    assert np.array_equal(neurons.run_exact(u, 9, neuron).numpy(), np.stack(expected))
    # float32 holds these states, so the training pass agrees.
    v = neurons.synapse(current.float(), 9, 1 - du / 4096, True)
    assert np.array_equal(neurons.run(v, 9, neuron).bool().numpy(), np.stack(expected))
    assert 0.02 < np.mean(expected) < 0.9


def test_the_synaptic_filter_has_the_gradient_of_a_linear_one():
    current = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(1))
    for constant in (False, True):
        given = current[:1] if constant else current
        mine, plain = given.clone().requires_grad_(), given.clone().requires_grad_()
        u, expected = torch.zeros(3, 5), []
        for step in plain.expand(6, 3, 5):
            u = 0.25 * u + step
            expected.append(u)
        filtered = neurons.synapse(mine, 6, 0.25, False)
        torch.testing.assert_close(filtered, torch.stack(expected))
        (filtered * weights).sum().backward()
        (torch.stack(expected) * weights).sum().backward()
        torch.testing.assert_close(mine.grad, plain.grad)
    assert neurons.synapse(current, 6, 0.0, False) is current


def test_bfloat16_computes_in_float32_and_rounds_to_nearest():
    generator = torch.Generator().manual_seed(3)
    current = torch.randn(4, 50_000, generator=generator).bfloat16()
    upstream = torch.randn(4, 50_000, generator=generator).bfloat16()
    half, full = current.clone().requires_grad_(), current.float().requires_grad_()
    neuron = Neuron(0.5, 1.0, 1.0, False)
    spikes, expected = neurons.run(half, 4, neuron), neurons.run(full, 4, neuron)
    assert spikes.dtype == torch.bfloat16
    assert torch.equal(spikes.float(), expected)
    spikes.backward(upstream)
    expected.backward(upstream.float())
    assert torch.equal(half.grad, full.grad.bfloat16())


def test_threads_change_nothing():
    current = torch.randn(3, 2 * threads.PARALLEL_FROM + 7, generator=torch.Generator().manual_seed(4))
    neuron = Neuron(0.5, 1.0, 1.0, False)

    def result():
        given = current.clone().requires_grad_()
        spikes = neurons.run(given, 3, neuron)
        spikes.square().sum().backward()
        return spikes.detach(), given.grad

    alone = result()
    torch.set_num_threads(3)
    assert all(torch.equal(one, other) for one, other in zip(alone, result(), strict=True))


def test_without_a_folder_for_compiled_code_every_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = kernels.numba.njit

    def njit(**options: object):
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return plain(**options)

    monkeypatch.setattr(kernels.numba, "njit", njit)
    made = kernels.compiled(lambda x: x + 1), kernels.inlined(lambda x: x + 2)
    monkeypatch.undo()
    assert [function(2) for function in made] == [3, 4]
