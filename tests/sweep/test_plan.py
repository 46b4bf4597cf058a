"""Sweep files: what is refused and how it is said; the points, and what trains once."""

from pathlib import Path

import pytest
from sweep_files import RECIPE, write

from toolchain.errors import SnncError
from toolchain.sweep import plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('target = ["loihi"]', ["unknown key 'target'", "did you mean 'targets'"]),
        ("", ["missing key 'targets'"]),
        ('targets = ["loihi"]\nseeds = [1, 1]', ["listed twice", "seeds", "1"]),
        ('targets = ["loihi"]\nseeds = []', ["empty", "seeds"]),
        ('targets = ["loihi"]\nseeds = 1', ["a list is needed", "seeds"]),
        ('targets = ["loihi"]\nconnectivities = [1.5]', ["out of range", "connectivities", "at most 1"]),
        ('targets = ["loihi"]\nbits = [9]', ["out of range", "bits", "at most 8"]),
        ('targets = ["loihi"]\nmethods = ["gradr"]', ["unknown choice", "did you mean 'grad-r'"]),
        ('targets = ["loihy"]', ["loihy", "targets"]),
        ('targets = ["loihi"]\n[vary]\n"train.epohcs" = [1]', ["unknown key", "did you mean 'train.epochs'"]),
        ('targets = ["loihi"]\n[vary]\nseed = [1]', ["a list of its own", "seeds = [...]"]),
        ('targets = ["loihi"]\n[vary]\n"train.epochs" = 3', ["a list of values", "train.epochs"]),
        ('targets = ["loihi"]\n[vary]\n"train.epochs" = [0, -1]', ["refused at every point", "epochs"]),
        ('targets = ["loihi"]\noptions = 3', ["[options] must be a table", "3"]),
        ('targets = ["loihi"]\n[options]\ngmp = 3', ["[options.gmp] must be a table", "3"]),
        ('targets = ["loihi"]\n[options.gmp]\nscope = "network"', ["not swept", "options.gmp", "grad-r"]),
        ('targets = ["loihi"]\n[options.grad-r]\nalhpa = 1', ["unknown option", "did you mean 'alpha'"]),
        ('targets = ["loihi"]\n[options.grad-r]\nconnectivity = 0.1', ["set twice", "connectivity"]),
        ("targets = [", ["not valid TOML"]),
    ],
)
def test_what_is_refused_is_named(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(SnncError) as caught:
        plan.load(path)
    for word in ("sweep.toml", *words):
        assert word in str(caught.value), caught.value


def test_a_sweep_file_that_is_not_there(tmp_path):
    with pytest.raises(SnncError, match="cannot be read"):
        plan.load(tmp_path / "none.toml")


def test_chips_and_bits_of_rounding_share_a_training(tmp_path):
    text = 'targets = ["loihi", "loihi2"]\nbits = [8, 4]\nseeds = [0, 1]\nconnectivities = [0.3, 0.1]'
    after = plan.load(write(tmp_path, text, aware=False))
    assert len(after.points) == 16
    assert len(after.trainings) == 4
    assert {p.options.weight_bits for p in after.points} == {8, 4}
    during = plan.load(write(tmp_path, text, aware=True))
    assert len(during.points) == 16
    assert len(during.trainings) == 8
    assert {p.options.weight_bits for p in during.points} == {None}
    assert {t.recipe.quantise.bits for t in during.trainings} == {8, 4}


def test_a_method_without_connectivity_is_one_point(tmp_path):
    sweep = plan.load(
        write(tmp_path, 'targets = ["loihi"]\nmethods = ["dense", "grad-r"]\nconnectivities = [0.3, 0.1]')
    )
    assert [p.training.recipe.method.name for p in sweep.points] == ["dense", "grad-r", "grad-r"]
    assert any("dense has no connectivity" in note for note in sweep.notes)


def test_tables_and_dotted_keys_are_the_same(tmp_path):
    dotted = plan.read(write(tmp_path, 'targets = "loihi"\n[vary]\n"train.epochs" = [1, 2]'))
    table = plan.read(write(tmp_path, 'targets = "loihi"\n[vary.train]\nepochs = [1, 2]'))
    assert dotted == table
    assert dotted.targets == ("loihi",)


def test_another_base_recipe_has_other_folders_and_a_longer_file_the_same(tmp_path):
    path = write(tmp_path, 'targets = ["loihi"]')
    (one,) = plan.load(path).trainings
    grown = plan.load(write(tmp_path, 'targets = ["loihi"]\nseeds = [0, 1]\n[vary]\n"train.epochs" = [2, 3]'))
    assert one.key in {t.key for t in grown.trainings}
    assert one.label in {t.label for t in grown.in_folder([one.label]).trainings}
    (tmp_path / "small.toml").write_text(RECIPE.format(aware="true").replace("[24]", "[25]"))
    others = plan.load(path).trainings
    assert one.key not in {t.key for t in others}


def test_the_shipped_example():
    sweep = plan.load(Path(__file__).parents[2] / "models" / "sweep_digits.toml")
    assert len(sweep.points) == 8


def test_a_method_has_its_own_options_at_every_point(tmp_path):
    text = 'targets = ["loihi"]\nmethods = ["grad-r", "gmp"]\nconnectivities = [0.5, 0.1]\n'
    text += '[options.gmp]\nscope = "network"'
    found = plan.load(write(tmp_path, text)).trainings
    assert [getattr(t.recipe.method, "scope", None) for t in found] == [None, None, "network", "network"]
    assert [t.recipe.method.connectivity for t in found] == [0.5, 0.1, 0.5, 0.1]
