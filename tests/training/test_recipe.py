"""Recipes: what is refused, and how it is said."""

from pathlib import Path

import pytest

from toolchain.errors import SnncError
from toolchain.training.data import IMAGES
from toolchain.training.methods import method_config
from toolchain.training.recipe import Recipe

MODELS = [p for p in sorted((Path(__file__).parents[2] / "models").glob("*.toml")) if not p.stem.startswith("sweep_")]


def refused(values, *words):
    with pytest.raises(SnncError) as caught:
        Recipe.from_dict({"name": "x", **values}, where="x.toml")
    text = str(caught.value)
    for word in ("x.toml", *words):
        assert word in text, text


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_and_says_what_it_promises(path):
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    measured = recipe.promise.accuracy is not None and recipe.promise.connectivity is not None
    assert measured or recipe.promise.note.startswith("not trained by us")


def test_the_papers_network_for_cifar10():
    """256 channels x 6, 16384-2048-100; its first dense layer holds 91 % of 36.7 million weights."""
    recipe = Recipe.load(next(path for path in MODELS if path.stem == "cifar10_gradr"))
    planned = [layer for layer in recipe.plan(*IMAGES["cifar10"]) if layer.neurons is not None]
    assert [layer.name for layer in planned] == [*(f"conv{number}" for number in range(1, 7)), "fc1", "fc2"]
    assert planned[0].source == (3, 32, 32)
    assert planned[-2].source == (256, 8, 8)
    assert planned[-1].target == (100,)
    kernels = [256 * layer.source[0] * 9 for layer in planned[:6]]
    dense = [16384 * 2048, 2048 * 100]
    assert sum(kernels) + sum(dense) == pytest.approx(36.7e6, rel=2e-3)
    assert dense[0] / (sum(kernels) + sum(dense)) == pytest.approx(0.91, abs=0.005)


def test_a_recipe_written_and_read_back_is_equal(tmp_path, small):
    path = tmp_path / "small.toml"
    path.write_text(small.to_toml())
    assert Recipe.load(path) == small
    assert Recipe.from_dict(small.to_dict()) == small


def test_unknown_keys_suggest_the_nearest():
    refused({"train": {"epoch": 3}}, "unknown key 'epoch'", "did you mean 'epochs'", "[train]")
    refused({"trian": {}}, "unknown key 'trian'", "did you mean 'train'")
    refused({"method": {"name": "grad-r", "alfa": 1.0}}, "did you mean 'alpha'", "[method]")
    refused({"method": {"name": "grad"}}, "did you mean 'grad-r'")
    refused({"method": {"name": "dense", "connectivity": 0.1}}, "unknown key 'connectivity'")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train": {"epochs": "3"}}, ("epochs", "a whole number", "'3'")),
        ({"train": {"epochs": True}}, ("epochs", "a whole number")),
        ({"train": {"epochs": 0}}, ("epochs", "at least 1")),
        ({"train": {"lr": 0}}, ("lr", "more than 0")),
        ({"train": {"lr": float("nan")}}, ("lr", "a number")),
        ({"train": {"lr": float("inf")}}, ("lr", "a number")),
        ({"train": {"loss": "mes"}}, ("loss", "did you mean 'mse'")),
        ({"network": {"hidden": 3}}, ("hidden", "a list")),
        ({"network": {"hidden": [0]}}, ("hidden", "at least 1")),
        ({"network": {"hidden": []}}, ("hidden", "at least one")),
        ({"network": {"bias": 1}}, ("bias", "true or false")),
        ({"network": 3}, ("network", "table")),
        ({"method": 3}, ("method", "table")),
        ({"quantise": {"bits": 9}}, ("bits", "at most 8")),
        ({"method": {"name": "grad-r", "connectivity": 0.0}}, ("connectivity", "more than 0, at most 1")),
        ({"train": {"warmup": 50, "epochs": 50}}, ("warmup", "less than 50")),
    ],
)
def test_wrong_values_are_refused_with_place_and_range(values, words):
    refused(values, *words)


def test_a_name_is_needed():
    with pytest.raises(SnncError, match="missing key 'name'"):
        Recipe.from_dict({})


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "digits.toml").write_text("")
    with pytest.raises(SnncError, match=r"did you mean 'digits\.toml'"):
        Recipe.load(tmp_path / "digit.toml")
    with pytest.raises(SnncError, match="there is no recipe"):
        Recipe.load(tmp_path / "nowhere" / "a.toml")
    (tmp_path / "bad.toml").write_text("a = = 3")
    with pytest.raises(SnncError, match="not valid TOML"):
        Recipe.load(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SnncError, match="cannot be read"):
        Recipe.load(tmp_path / "binary.toml")


def test_overrides(small):
    assert small.resolve({"train.epochs": 9, "seed": None}).train.epochs == 9
    dense = small.resolve({"method.name": "dense"})
    assert dense.method.name == "dense"
    open_loop = small.resolve({"method.alpha": 0.5})
    assert open_loop.method.connectivity is None
    assert open_loop.method.alpha == 0.5
    with pytest.raises(SnncError, match="exclude each other"):
        small.resolve({"method.alpha": 0.5, "method.connectivity": 0.1})
    with pytest.raises(SnncError, match="unknown key 'connectivity'"):
        dense.resolve({"method.connectivity": 0.1})
    with pytest.raises(SnncError, match="did you mean 'epochs'"):
        small.resolve({"train.epoch": 3})
    with pytest.raises(SnncError, match="unknown key 'seeds'"):
        small.resolve({"seeds": 3})


def test_another_method_keeps_the_connectivity_and_what_is_left_out_is_told(small):
    other = small.resolve({"method.name": "rigl"})
    assert other.method == method_config("rigl")(connectivity=0.2)
    assert small.left_out(other) == ["freeze", "interval"]
    assert small.left_out(small.resolve({"method.name": "dense"})) == ["connectivity", "freeze", "interval"]
    assert small.left_out(small.resolve({"method.connectivity": 0.5})) == []
    assert small.resolve({"method.name": "rigl", "method.connectivity": 0.5}).method.connectivity == 0.5
    with pytest.raises(SnncError, match="did you mean 'rigl'"):
        small.resolve({"method.name": "rigle"})


def test_differences_name_the_keys(small):
    other = small.resolve({"train.epochs": 9, "method.alpha": 0.5})
    assert small.differences(other) == ["method.alpha", "method.connectivity", "train.epochs"]
