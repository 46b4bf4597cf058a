"""The closed loop on alpha, by itself and on real training."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.training.controller import ConnectivityController, connectivity, missing_shift
from toolchain.training.loop import train
from toolchain.training.progress import Silent


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 400), st.floats(0.001, 1.0))
def test_the_missing_shift_lands_on_the_number_of_synapses_asked_for(seed, size, wanted):
    theta = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    moved = theta - missing_shift([theta], wanted)
    # Never fewer than one synapse; equal numbers cannot be told apart, and random ones are not equal.
    assert int((moved > 0).sum()) == max(round(wanted * size), 1)


def test_the_loop_follows_its_course_against_a_force_it_does_not_know():
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(20000, generator=generator)
    loop = ConnectivityController(target=0.05, ramp_steps=2000, interval=20, gain=0.3, power=3.0)
    eta = 1e-3
    for step in range(3000):
        if step % loop.interval == 0:
            loop.look(step, [theta], eta * loop.interval)
        # The unknown force pushes everything up, and noise moves each by itself.
        theta += 0.2 * eta + 1e-4 * torch.randn(theta.shape, generator=generator) - loop.alpha * eta
        if step > 500 and step % 500 == 0:
            assert connectivity([theta]) == pytest.approx(loop.course(step), rel=0.1, abs=0.01)
    assert connectivity([theta]) == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("wanted", [0.02, 0.3])
@pytest.mark.parametrize("freeze", [0.0, 0.3])
def test_training_ends_within_five_percent_of_the_connectivity_asked_for(tmp_path, small, wanted, freeze):
    recipe = small.resolve({"method.connectivity": wanted, "method.freeze": freeze})
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    assert result.metrics["connectivity"] == pytest.approx(wanted, rel=0.05)


def test_without_a_connectivity_alpha_stays_as_published(tmp_path, small):
    recipe = small.resolve({"method.alpha": 0.03, "train.epochs": 3})
    train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all('"alpha": 0.03' in line for line in lines[:2])
    assert '"frozen": false' in lines[1]
