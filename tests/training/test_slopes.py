"""The slope that is chosen keeps gradients level, and a deep network trains with it alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import hw_targets
from toolchain.backends import fast
from toolchain.errors import SnncError
from toolchain.frontends.checkpoint import load as load_model
from toolchain.pipeline import compile_graph
from toolchain.simulation import accuracy
from toolchain.training import slopes
from toolchain.training.data import load
from toolchain.training.loop import train
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe
from toolchain.training.surrogates import SURROGATES, slope_of


@pytest.fixture
def deep(small) -> Recipe:
    return small.resolve({"network.hidden": (64,) * 20, "network.batch_norm": True, "network.slope": "auto"})


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_chosen_slope_keeps_gradients_level_and_others_do_not(deep, surrogate):
    recipe, digits = deep.resolve({"network.surrogate": surrogate}), load("digits", None)
    slope = slopes.choose(recipe, digits)
    assert slope == slopes.choose(recipe, digits)
    probe = slopes.Probe(recipe, digits)

    level, narrow, wide = (probe.norms(slope * times) for times in (1, 3, 1 / 3))
    assert len(level) == 20
    assert max(level) < 10 * min(level)
    # Of the triangle nothing passes the last layer either.
    assert narrow[0] <= 0.05 * narrow[-1]
    assert wide[0] > 100 * wide[-1]
    assert abs(probe.growth(slope)) < 0.02


@pytest.mark.slow
def test_twenty_layers_train_with_the_chosen_slope_and_not_with_the_surrogates_own(tmp_path):
    """The demonstration of docs/training.md, shortened. Chance is a loss of ln 10 = 2.30."""
    recipe = Recipe.load(Path(__file__).parents[2] / "models" / "digits_deep.toml").resolve({"train.epochs": 8})
    losses = []
    for slope in ("auto", slope_of(recipe.network.surrogate, None)):
        out = tmp_path / str(slope)
        train(recipe.resolve({"network.slope": slope}), out_dir=out, reporter=Silent())
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([record["loss"] for record in records if "loss" in record][-1])
    with_it, without = losses
    assert with_it < 1.8
    assert without > 2.2


def test_growth_is_the_slope_of_the_logarithm_over_the_layers(deep, monkeypatch):
    probe = slopes.Probe(deep, load("digits", None))
    monkeypatch.setattr(probe, "norms", lambda slope: [8.0, 4.0, 2.0])
    assert probe.growth(1.0) == pytest.approx(np.log(2))
    monkeypatch.setattr(probe, "norms", lambda slope: [0.0, 4.0, 2.0])
    assert probe.growth(1.0) == -np.inf


def test_the_run_writes_the_number_and_resumes_with_it(tmp_path, deep, monkeypatch):
    short = deep.resolve({"train.epochs": 1, "network.hidden": (16, 16)})
    result = train(short, out_dir=tmp_path / "run", reporter=Silent())
    slope = result.recipe.network.slope
    assert slope == slopes.choose(short, load("digits", None))
    assert Recipe.load(tmp_path / "run" / "recipe.toml") == result.recipe
    monkeypatch.setattr(slopes, "choose", lambda *a: pytest.fail("chosen again"))
    again = train(short, out_dir=tmp_path / "run", resume=True, reporter=Silent())
    assert again.recipe == result.recipe
    assert again.metrics == result.metrics


def test_what_has_no_level_slope_is_refused(deep):
    digits = load("digits", None)
    with pytest.raises(SnncError, match="comparing hidden layers"):
        slopes.choose(deep.resolve({"network.hidden": (16,)}), digits)
    with pytest.raises(SnncError, match="level over the layers") as caught:
        slopes.choose(deep.resolve({"network.batch_norm": False}), digits)
    assert "batch_norm = true" in str(caught.value)
    with pytest.raises(SnncError, match="wrong type") as caught:
        deep.resolve({"network.slope": "steep"})
    assert 'a number, or "auto"' in str(caught.value)
    with pytest.raises(ValueError, match="not chosen"):
        slope_of("arctangent", "auto")


def test_a_dense_batch_norm_is_deployed_as_trained(tmp_path, small):
    # Frozen, and left out of the computation, before the fold and after it.
    digits = load("digits", None)
    for freeze in (0.7, 0.3):
        asked = {"network.hidden": (24, 24), "network.batch_norm": True, "quantise.fold": 0.5, "method.freeze": freeze}
        result = train(small.resolve(asked), out_dir=tmp_path / str(freeze), reporter=Silent())
        # Chance is 0.1.
        assert result.metrics["accuracy"] > 0.3
        state = compile_graph(load_model(result.model).graph, hw_targets.load("loihi"))
        trace = fast.run(state.program, digits.test_x, record=())
        assert accuracy(trace, digits.test_y) == result.metrics["accuracy"]
        last = json.loads((tmp_path / str(freeze) / "metrics.jsonl").read_text().splitlines()[-1])
        assert 0 < last["data_share"] < 1
