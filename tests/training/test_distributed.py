"""Two processes that train one network against one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import start_together

from toolchain.errors import SnncError
from toolchain.training import distributed
from toolchain.training.data import load
from toolchain.training.loop import Session, train
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe

LAYERS = [
    {"kind": "conv", "channels": 6, "batch_norm": True},
    {"kind": "max_pool"},
    {"kind": "dropout", "rate": 0.2},
    {"kind": "dense", "units": 24, "recurrent": True},
]


FEW = {"train.epochs": 1, "train.batch_size": 205, "train.lr": 1e-3, "quantise.aware": False}
"""7 steps, small ones: Adam's step of a gradient that is nearly 0 has the size of any other, and no exact digit."""


@pytest.fixture
def maps(small) -> Recipe:
    """Everything that depends on how a batch is divided: batch norm, dropout, augmentation, odd batches."""
    values = small.resolve(FEW).to_dict()
    values["network"] = {"layers": LAYERS, "steps": 3}
    values["augment"] = {"rotate": 10.0, "shift": 0.1, "crop": 1}
    return Recipe.from_dict(values)


def ended(processes, seconds=90):
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.1))
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.kill()
    assert not alive, "processes hang"
    return [process.exitcode for process in processes]


def weights(folder):
    layers = torch.load(folder / "model.pt", weights_only=True)["layers"]
    return [(layer["weight"], layer["mask"], layer["bias"]) for layer in layers if "weight" in layer]


def check_agreement(one, two):
    for (mine, mask, bias), (theirs, other, shift) in zip(weights(one), weights(two), strict=True):
        assert float((mask != other).float().mean()) < 1e-3
        both = mask & other
        assert float((mine - theirs)[both].abs().max()) < 1e-5
        assert bias is None or float((bias - shift).abs().max()) < 1e-5
    for line, other in zip(
        *((folder / "metrics.jsonl").read_text().splitlines() for folder in (one, two)), strict=True
    ):
        line, other = json.loads(line), json.loads(other)
        assert line.keys() == other.keys()
        name = "accuracy" if "final" in line else "loss"
        assert line[name] == pytest.approx(other[name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("normed", [False, True])
def test_gradients_of_two_processes_are_those_of_one(tmp_path, maps, normed, monkeypatch):
    """Of one step on everything, in a network whose neurons all spike.

    Both sides have our batch norm: torch's sums in float32 are off by 2e-4 here, which spikes turn into 1 % of the
    gradients. The gradient through a batch norm is a difference of near numbers.
    """
    values = maps.resolve({"train.batch_size": 1437, "method.alpha": 1e-3}).to_dict()
    layers = [{**LAYERS[0], "batch_norm": normed}, *LAYERS[1:]]
    values["network"] = {"layers": layers, "steps": 3, "threshold": 0.3, "gain": 2.0}
    recipe = Recipe.from_dict(values)
    assert ended(start_together(recipe, tmp_path / "two", 2)) == [0, 0]
    own = SimpleNamespace(size=lambda: 2, batch_norm=distributed.batch_norm)
    monkeypatch.setattr("toolchain.training.layers.distributed", own)
    result = train(recipe, out_dir=tmp_path / "one", reporter=Silent(), device="cpu")
    assert min(result.metrics["spikes_per_neuron"].values()) > 0
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
    moments, others = (state["method"]["optimiser"]["state"] for state in (one, two))
    for mine, theirs in zip(moments.values(), others.values(), strict=True):
        assert float((mine["m"] - theirs["m"]).norm() / mine["m"].norm()) < (1e-3 if normed else 1e-5)


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path, maps):
    assert ended(start_together(maps, tmp_path / "two", 2)) == [0, 0]
    train(maps, out_dir=tmp_path / "one", reporter=Silent(), device="cpu")
    check_agreement(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path, small):
    """The very command of the documentation."""
    recipe = small.resolve({"train.epochs": 1, "quantise.aware": False})
    path = tmp_path / "small.toml"
    path.write_text(recipe.to_toml())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "toolchain.cli", "train", str(path), "--device", "cpu", "-o", str(tmp_path / "two")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") == 1
    train(recipe, out_dir=tmp_path / "one", reporter=Silent())
    check_agreement(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_stop_of_one_stops_all_and_a_killed_one_hangs_no_other(tmp_path, small):
    recipe, run = small.resolve({"train.epochs": 2000}), tmp_path / "run"

    def started(**options):
        before = (run / "metrics.jsonl").stat().st_mtime_ns if run.exists() else 0
        processes = start_together(recipe, run, 2, **options)
        while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").stat().st_mtime_ns == before:
            assert all(process.is_alive() for process in processes)
            time.sleep(0.02)
        return processes

    processes = started()
    os.kill(processes[1].pid, signal.SIGTERM)
    assert 0 not in ended(processes)
    step = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert step > 0
    processes = started(resume=True)
    processes[1].kill()
    assert ended(processes) == [1, -signal.SIGKILL]
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] > step


def test_the_synchronised_batch_norm_is_torch_s(monkeypatch):
    """On one process; that sums over processes are right is what the agreement of two shows."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 5, 5, 6, generator=random)
    upstream = torch.randn(x.shape, generator=random)
    results = []
    for own in (True, False):
        mine, scale = x.clone().requires_grad_(), torch.linspace(0.5, 2, 6).requires_grad_()
        shift, mean, var = torch.linspace(-1, 1, 6).requires_grad_(), torch.zeros(6), torch.ones(6)
        if own:
            y = distributed.batch_norm(mine, mean, var, scale, shift, momentum=0.1, eps=1e-5)
        else:
            merged = mine.flatten(0, 3)
            y = torch.nn.functional.batch_norm(merged, mean, var, scale, shift, training=True).view(x.shape)
        (y * upstream).sum().backward()
        results.append((y.detach(), mean, var, mine.grad, scale.grad, shift.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_shares_cover_every_sample_once(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    for count in (3, 10, 128):
        shares = []
        for rank in range(3):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares += range(count)[distributed.part(count)]
        assert shares == list(range(count))


def test_batches_smaller_than_the_processes_are_refused(tmp_path, small, monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 64)
    with pytest.raises(SnncError, match="fewer samples than there are processes") as caught:
        Session(small, load("digits"), tmp_path)
    assert "batch_size" in str(caught.value)


def test_processes_that_differ_are_told(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    alike = iter([2.0, 0.0, 2.5, 1.0])
    monkeypatch.setattr(distributed, "total", lambda x: x.fill_(next(alike)))
    distributed.check_alike([torch.ones(1)])
    with pytest.raises(SnncError, match="no longer hold the same"):
        distributed.check_alike([torch.ones(1)])
