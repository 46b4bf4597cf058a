"""Surrogates: derivatives of what they stand for, the same in torch, in compiled loops and step by step."""

import math

import pytest
import torch

from toolchain.errors import SnncError
from toolchain.training import neurons
from toolchain.training.loop import train
from toolchain.training.neurons import Feed, Neuron
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe
from toolchain.training.spiking import CurrentLIF, Neurons
from toolchain.training.spiking import run as run_module
from toolchain.training.surrogates import SURROGATES, slope_of

NAMES = sorted(SURROGATES)

STEP = {
    "arctangent": lambda x: math.atan(x),
    "sigmoid": lambda x: 4 / (1 + math.exp(-x)),
    "fast-sigmoid": lambda x: x / (1 + abs(x)),
    "triangle": lambda x: max(-1.0, min(1.0, x)) - math.copysign(min(abs(x), 1.0) ** 2 / 2, x),
}
"""What each is the derivative of."""


@pytest.mark.parametrize("name", NAMES)
def test_each_is_the_derivative_of_its_step(name):
    h = 1e-5
    for x in (-4.03, -0.71, -0.2, 0.31, 0.9, 3.3):
        expected = (STEP[name](x + h) - STEP[name](x - h)) / (2 * h)
        assert float(SURROGATES[name].derivative(torch.tensor(x, dtype=torch.float64))) == pytest.approx(
            expected, abs=1e-8
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slope", [None, 0.7, 25.0])
@pytest.mark.parametrize("constant", [False, True])
def test_compiled_loops_have_the_gradient_of_the_module(name, slope, constant):
    generator = torch.Generator().manual_seed(5)
    unit = 0.125
    neuron = Neuron(0.75, 1.0 / unit, unit, False, surrogate=name, slope=slope_of(name, slope))
    current = torch.randn(1 if constant else 7, 4, 30, generator=generator)
    weights = torch.randn(7, 4, 30, generator=generator)
    mine, plain, looped = (current.clone().requires_grad_() for _ in range(3))
    expected = run_module(CurrentLIF(1.0, 0.25, surrogate=name, slope=slope), plain.expand(7, 4, 30))
    fast = neurons.run(mine / unit, 7, neuron)
    assert torch.equal(fast, expected)
    silent = Feed(torch.zeros_like, 1)
    step_by_step = neurons.run_looped(looped / unit, None, 7, 0.0, neuron, silent)
    for spikes in (fast, expected, step_by_step):
        (spikes * weights).sum().backward()
    torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(looped.grad, plain.grad, rtol=1e-5, atol=1e-6)
    assert float(plain.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_far_from_the_threshold_the_gradient_is_a_number(name):
    current = torch.tensor([-1e30, -500.0, 500.0, 1e30]).reshape(1, 1, 4).requires_grad_()
    neurons.run(current, 1, Neuron(0.5, 1.0, 1.0, False, surrogate=name, slope=10.0)).sum().backward()
    assert torch.isfinite(current.grad).all()
    assert float(current.grad.abs().max()) < 1e-5


def test_a_recipe_chooses_it(tmp_path, small):
    def weights(number: int, overrides: dict[str, object]) -> torch.Tensor:
        recipe: Recipe = small.resolve({"train.epochs": 1, **overrides})
        result = train(recipe, out_dir=tmp_path / str(number), reporter=Silent())
        return torch.load(result.model, weights_only=True)["layers"][0]["weight"]

    choices = [{}, {"network.surrogate": "sigmoid"}, {"network.surrogate": "triangle"}, {"network.slope": 1.0}]
    first, *others = (weights(number, overrides) for number, overrides in enumerate(choices))
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(first, weights(9, {"network.slope": math.pi}))


def test_what_has_no_meaning_is_refused(small):
    with pytest.raises(SnncError, match="did you mean 'sigmoid'"):
        small.resolve({"network.surrogate": "sigmoids"})
    with pytest.raises(SnncError, match="more than 0"):
        small.resolve({"network.slope": 0.0})
    options = {"threshold": 1.0, "gain": 1.0, "current_decay": 1.0, "voltage_decay": 0.5}
    with pytest.raises(SnncError, match=r"Neurons\.slope"):
        Neurons(**options, slope=-1.0)
