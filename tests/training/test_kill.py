"""A run that is killed again and again, anywhere, ends with the same bits."""

import random
import time

import pytest
import torch
from comparison import content
from processes import start, start_and_wait

from toolchain.errors import SnncError
from toolchain.training.loop import train
from toolchain.training.progress import Silent

KILLS = 10


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(tmp_path, small):
    recipe = small.resolve({"train.epochs": 6})
    began = time.monotonic()
    train(recipe, out_dir=tmp_path / "whole", reporter=Silent(), checkpoint_every=0.05)
    length = time.monotonic() - began
    seed = random.SystemRandom().randrange(2**32)
    print(f"kills at the moments of seed {seed}")
    moments = random.Random(seed)
    run, steps, kills = tmp_path / "run0", [], 0
    while kills < KILLS:
        try:
            child = start_and_wait(recipe, run, resume=run.exists(), checkpoint_every=0.01)
        except EOFError:
            # It has come to its end, and another one is killed for the rest.
            finished(recipe, run, tmp_path / "whole")
            run, steps = tmp_path / f"run{kills}", []
            continue
        child.join(moments.uniform(0.0, length / 20))
        child.kill()
        child.join()
        kills += 1
        # What is there is whole, after each kill.
        steps.append(torch.load(run / "checkpoint.pt", weights_only=True)["step"])
        assert steps == sorted(steps)
    finished(recipe, run, tmp_path / "whole")


def finished(recipe, run, whole):
    """Continue to the end and compare with the run that was never killed."""
    train(recipe, out_dir=run, resume=True, reporter=Silent())
    assert content(run) == content(whole)
    assert sorted(p.name for p in run.iterdir()) == ["checkpoint.pt", "metrics.jsonl", "model.pt", "recipe.toml"]


def test_resume_begins_what_was_killed_before_its_first_checkpoint(tmp_path, small):
    recipe = small.resolve({"train.epochs": 1})
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text("half")
    (run / ".checkpoint.pt.abcd1234").write_text("half")
    train(recipe, out_dir=run, resume=True, reporter=Silent())
    train(recipe, out_dir=tmp_path / "other", reporter=Silent())
    assert content(run) == content(tmp_path / "other")
    assert not list(run.glob(".*"))


def test_a_folder_with_other_things_is_no_run(tmp_path, small):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SnncError, match="no checkpoint"):
        train(small, out_dir=tmp_path, resume=True, reporter=Silent())


def test_a_finished_run_is_extended_and_says_so(tmp_path, small):
    short, longer = small.resolve({"train.epochs": 2}), small.resolve({"train.epochs": 4})
    run = tmp_path / "run"
    before = train(short, out_dir=run, reporter=Silent())
    had = [layer["mask"] for layer in torch.load(before.model, weights_only=True)["layers"] if "mask" in layer]
    weight = torch.load(before.model, weights_only=True)["layers"][0]["weight"]
    after = train(longer, out_dir=run, resume=True, reporter=Silent())
    model = torch.load(after.model, weights_only=True)
    assert after.metrics["extended"] == [[2, 4]]
    assert "TRN004" in [d.code for d in after.diagnostics]
    assert "epochs = 4" in (run / "recipe.toml").read_text()
    masks = [layer["mask"] for layer in model["layers"] if "mask" in layer]
    assert all(torch.equal(one, other) for one, other in zip(masks, had, strict=True))
    assert not torch.equal(model["layers"][0]["weight"], weight)
    with pytest.raises(SnncError, match="cannot be shortened") as caught:
        train(short, out_dir=run, resume=True, reporter=Silent())
    assert "--epochs 4" in str(caught.value)


def test_an_extended_run_continues_to_the_same_bits(tmp_path, small):
    for name in ("one", "two"):
        train(small.resolve({"train.epochs": 1}), out_dir=tmp_path / name, reporter=Silent())
    longer = small.resolve({"train.epochs": 8})
    train(longer, out_dir=tmp_path / "one", resume=True, reporter=Silent())
    child = start(longer, tmp_path / "two", resume=True, checkpoint_every=0.0)
    path = tmp_path / "two" / "checkpoint.pt"
    while torch.load(path, weights_only=True)["step"] < 40:
        assert child.is_alive()
        time.sleep(0.02)
    child.kill()
    child.join()
    with pytest.raises(SnncError, match="only once it is finished"):
        train(small.resolve({"train.epochs": 9}), out_dir=tmp_path / "two", resume=True, reporter=Silent())
    train(longer, out_dir=tmp_path / "two", resume=True, reporter=Silent())
    assert content(tmp_path / "one") == content(tmp_path / "two")
