"""Speed and memory of training against SpikingJelly and a transcription of Grad R's own loop, in one run. No test.

    python -m tests.benchmarks.training_speed                               # T = 4, 8, 16, 32
    python -m tests.benchmarks.training_speed --steps 8 --rounds 5 --coding current rate --precision float32

784-800-10 without biases, batch 128, leaky neurons (tau 2, hard reset, detached), arctangent surrogate, squared error.
A step is: forward, loss, backward, update. Coding `current`: the first layer's output is computed once a sample and
injected at every step, as in the paper; `rate`: binary spikes, for the others prepared before the clock runs.

- ours: `Session` of the trainer, whole: it also chooses the batch, codes it, and checks that the loss is finite.
- SpikingJelly: multi-step modules, T and batch merged in each product; torch's fused Adam, where ours does Grad R.
- transcription: the paper's algorithm as one writes it in torch, a loop over T in single steps.

With bfloat16 ours multiplies in it and the others run under torch's autocast. Every measurement is a process of its
own, the ways in turn, `rounds` times; the best time counts. Samples a second of wall time and of CPU time; memory is
the peak of the process above what it held when data and libraries were loaded. Images are noise of which a fifth is not
black, as in MNIST; with MNIST in SNNC_DATA or shared/data they are that. Threads: OMP_NUM_THREADS, else torch's choice.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

BATCH, HIDDEN, LR, ALPHA = 128, 800, 1e-3, 1e-3
WARM, BATCHES = 3, 8
WAYS = ("ours", "SpikingJelly", "transcription")
MEAN, STD = 0.1307, 0.3081


def images() -> np.ndarray:
    from tests.benchmarks.simulate_speed import images as test_images

    return test_images(BATCHES * BATCH)


def ours(samples: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> Callable[[int], None]:
    from toolchain.training import memory
    from toolchain.training.data import Dataset
    from toolchain.training.loop import Session
    from toolchain.training.recipe import Recipe

    recipe = Recipe.from_dict(
        {
            "name": "speed",
            "network": {"hidden": [HIDDEN], "steps": options.steps[0]},
            "input": {"coding": options.coding[0]},
            "train": {"epochs": 10_000, "batch_size": BATCH, "lr": LR, "precision": options.precision[0]},
            "method": {"name": "grad-r", "alpha": ALPHA},
        }
    )
    memory.reuse_freed()
    dataset = Dataset("mnist", (1, 28, 28), 10, samples, labels, samples[:1], labels[:1])
    session = Session(recipe, dataset, Path())
    return lambda number: session._one_step()


def inputs(samples: np.ndarray, options: argparse.Namespace) -> list[Any]:
    """Batches as the peers take them: normalised pixels (B, 784), or spikes (T, B, 784)."""
    import torch

    from toolchain.training.encoding import rate

    batches = torch.from_numpy(samples).split(BATCH)
    if options.coding[0] == "rate":
        return [rate(x, options.steps[0], 254, torch.float32) for x in batches]
    return [(x.float() / 255 - MEAN) / STD for x in batches]


def mixed(options: argparse.Namespace) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision[0] == "bfloat16")


def spikingjelly(samples: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> Callable[[int], None]:
    import torch
    from spikingjelly.activation_based import functional, layer, neuron, surrogate
    from torch import nn

    def lif() -> nn.Module:
        return neuron.LIFNode(
            tau=2.0, decay_input=True, detach_reset=True, surrogate_function=surrogate.ATan(), step_mode="m"
        )

    first = nn.Linear(784, HIDDEN, bias=False)
    rest = nn.Sequential(lif(), layer.Linear(HIDDEN, 10, bias=False, step_mode="m"), lif())
    optimiser = torch.optim.Adam([*first.parameters(), *rest.parameters()], lr=LR, fused=True)
    targets = nn.functional.one_hot(torch.from_numpy(labels), 10).float().split(BATCH)
    given, steps = inputs(samples, options), options.steps[0]

    def step(number: int) -> None:
        x = given[number % BATCHES]
        with mixed(options):
            current = first(x)
            current = current if x.ndim == 3 else current.expand(steps, *current.shape)
            rates = rest(current).mean(0)
        loss = nn.functional.mse_loss(rates.float(), targets[number % BATCHES])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        float(loss)
        functional.reset_net(rest)

    return step


def transcription(samples: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> Callable[[int], None]:
    import torch
    from torch import nn

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return (x >= 0).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return upstream / (1 + (math.pi * x) ** 2)

    layers = [nn.Linear(784, HIDDEN, bias=False), nn.Linear(HIDDEN, 10, bias=False)]
    weights = [layer.weight for layer in layers]
    signs = [w.detach().sign() for w in weights]
    thetas = [w.detach().abs() for w in weights]
    firsts, seconds = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    targets = nn.functional.one_hot(torch.from_numpy(labels), 10).float().split(BATCH)
    given, steps = inputs(samples, options), options.steps[0]
    b1, b2, eps, centre = 0.9, 0.999, 1e-8, math.log(2 * (1 - 0.95)) / ALPHA

    def fire(v: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v = v + (x - v) / 2.0
        spikes = Spike.apply(v - 1.0)
        return v * (1 - spikes.detach()), spikes

    @torch.no_grad()
    def update(k: int) -> None:
        eta = LR / (1 - b1**k)
        for w, s, theta, m, v in zip(weights, signs, thetas, firsts, seconds, strict=True):
            g = w.grad
            m.mul_(b1).add_((1 - b1) * g)
            v.mul_(b2).add_((1 - b2) * g * g)
            theta.sub_(eta * s * m / (v.sqrt() / math.sqrt(1 - b2**k) + eps))
            theta.sub_(ALPHA * eta * torch.sign(theta - centre))
            w.copy_(s * theta.clamp(min=0))
            w.grad = None

    def step(number: int) -> None:
        x = given[number % BATCHES]
        hidden: Any = 0.0
        output: Any = 0.0
        count: Any = 0.0
        with mixed(options):
            current = layers[0](x) if x.ndim == 2 else None
            for t in range(steps):
                hidden, spikes = fire(hidden, layers[0](x[t]) if current is None else current)
                output, spikes = fire(output, layers[1](spikes))
                count = count + spikes
        loss = nn.functional.mse_loss(count.float() / steps, targets[number % BATCHES])
        loss.backward()
        update(number + 1)
        float(loss)

    return step


def resident() -> int:
    """KiB that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def child(options: argparse.Namespace) -> None:
    """One measurement, as JSON on standard output."""
    import torch

    sys.stdout, printed = sys.stderr, sys.stdout
    samples = images()
    labels = np.random.default_rng(0).integers(0, 10, len(samples))
    make = {"ours": ours, "SpikingJelly": spikingjelly, "transcription": transcription}[options.child]
    torch.manual_seed(0)
    # Libraries are loaded by then, so that the memory is that of the network.
    torch.ones(2, 2, requires_grad=True).sum().backward()
    step = make(samples, labels, options)
    before = resident()
    for number in range(WARM):
        step(number)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(WARM, WARM + options.count):
        step(number)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = options.count * BATCH
    found = {"wall": done / wall, "cpu": done / cpu, "peak": (resident() - before) / 1024, "all": resident() / 1024}
    print(json.dumps(found), file=printed)


def measure(way: str, steps: int, coding: str, precision: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.training_speed", "--child", way]
    command += ["--steps", str(steps), "--coding", coding, "--precision", precision, "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The fastest, and the least memory."""
    return {key: (min if key in ("peak", "all") else max)(one[key] for one in rounds) for key in rounds[0]}


def compare(options: argparse.Namespace) -> None:
    ways = list(WAYS)
    if importlib.util.find_spec("spikingjelly") is None:
        ways.remove("SpikingJelly")
        print("SpikingJelly is not installed here (pip install spikingjelly==2.0.0): its rows are missing\n")
    print("| coding | precision | T | way | samples / s | of CPU time | peak MiB | in all | times as slow as ours |")
    print("|---|---|--:|---|--:|--:|--:|--:|--:|", flush=True)
    for coding in options.coding:
        for precision in options.precision:
            for steps in options.steps:
                found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for _ in range(options.rounds):
                    for way in ways:
                        found[way].append(measure(way, steps, coding, precision, options.count))
                rows = {way: best(rounds) for way, rounds in found.items()}
                for way, row in rows.items():
                    times = f"{rows['ours']['wall'] / row['wall']:.1f} ({rows['ours']['cpu'] / row['cpu']:.1f} by CPU)"
                    print(
                        f"| {coding} | {precision} | {steps} | {way} | {row['wall']:,.0f} | {row['cpu']:,.0f} "
                        f"| {row['peak']:.0f} | {row['all']:.0f} | {times} |",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--coding", nargs="+", choices=("current", "rate"), default=["current"])
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=30, help="training steps of a measurement")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    (child if options.child else compare)(options)


if __name__ == "__main__":
    main()
