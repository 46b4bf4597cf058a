"""The neuron's window: values, gradients, and the exact integer form."""

import math

import numpy as np
import pytest
import torch

from toolchain.training import neurons
from toolchain.training.neurons import Neuron


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


def test_the_surrogate_is_the_derivative_of_the_arctangent():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    h = 1e-6
    step = lambda z: torch.atan(math.pi * z) / math.pi + 0.5  # noqa: E731
    torch.testing.assert_close(neurons.surrogate(x), (step(x + h) - step(x - h)) / (2 * h), rtol=1e-6, atol=1e-8)


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
