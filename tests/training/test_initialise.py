"""Initialisations: their published variances, their gain, and the default untouched."""

import pytest
import torch

from toolchain.errors import SnncError
from toolchain.training.initialise import RULES
from toolchain.training.modules import SpikingNetwork


def weights(small, **options):
    recipe = small.resolve({"network.hidden": [200], **{f"network.{key}": value for key, value in options.items()}})
    return SpikingNetwork(recipe, (1, 8, 8), 10).weights()[0].detach()


def test_the_default_is_uniform_within_the_bound_of_torchs_layers(small):
    default = weights(small)
    assert float(default.abs().max()) <= 64**-0.5
    assert float(default.var()) == pytest.approx(1 / (3 * 64), rel=0.05)
    # The first numbers of the recipe's seed are the first layer's.
    expected = torch.empty(200, 64).uniform_(-(64**-0.5), 64**-0.5, generator=torch.Generator().manual_seed(small.seed))
    assert torch.equal(default, expected)


@pytest.mark.parametrize(
    ("name", "variance"), [("kaiming", 2 / 64), ("xavier", 2 / (64 + 200)), ("orthogonal", 1 / 200)]
)
def test_variances_are_those_published(small, name, variance):
    made = weights(small, init=name)
    assert float(made.var()) == pytest.approx(variance, rel=0.05)
    assert torch.equal(made, weights(small, init=name))
    assert not torch.equal(made, weights(small.resolve({"seed": 1}), init=name))


def test_orthogonal_columns_are_orthogonal(small):
    made = weights(small, init="orthogonal")
    torch.testing.assert_close(made.T @ made, torch.eye(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["uniform", *RULES])
def test_the_gain_multiplies(small, name):
    torch.testing.assert_close(weights(small, init=name, gain=2.5), 2.5 * weights(small, init=name))


def test_unknown_names_and_gains_are_refused(small):
    with pytest.raises(SnncError, match="did you mean 'kaiming'"):
        weights(small, init="kaimin")
    with pytest.raises(SnncError, match="more than 0"):
        weights(small, gain=0.0)
