"""Products of sparse payloads with dense weights: event by event against torch's matrix product, in one run. No test.

    python -m tests.benchmarks.product_speed
    python -m tests.benchmarks.product_speed --density 0.1 --rounds 50

Rows are samples and steps. "Sums" is the forward product, which finds the events too; "gradient" that by the weights,
which sorts them by input first. Milliseconds, medians of `rounds`. Threads: OMP_NUM_THREADS, else torch's
choice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from toolchain.training import layout
from toolchain.training.events import DENSITY_LIMIT, Events

SHAPES = ((128, 784, 800), (1024, 800, 800), (1024, 256, 256), (256, 784, 128))


Way = Callable[[], torch.Tensor]


def milliseconds(timed: Callable[[Way], float], way: Way, rounds: int) -> float:
    """The median of what it says of a way in seconds, the first three times left out."""
    return 1e3 * statistics.median([timed(way) for _ in range(rounds + 3)][3:])


def row(shape: tuple[int, int, int], density: float, rounds: int) -> str:
    count, inputs, outputs = shape
    random = torch.Generator().manual_seed(0)
    x = (torch.rand(count, inputs, generator=random) < density).float()
    weight = layout.by_input(torch.randn(outputs, inputs, generator=random)).requires_grad_()
    upstream = torch.randn(count, outputs, generator=random)

    def events() -> torch.Tensor:
        found = Events.of(x)
        assert found is not None
        return found.product(weight)

    def forward(sums: Way) -> float:
        began = time.perf_counter()
        sums()
        return time.perf_counter() - began

    def gradient(sums: Way) -> float:
        made = sums()
        began = time.perf_counter()
        made.backward(upstream)
        spent = time.perf_counter() - began
        weight.grad = None
        return spent

    numbers = []
    for timed in (forward, gradient):
        ours, torchs = (milliseconds(timed, way, rounds) for way in (events, lambda: x @ weight.t()))
        numbers.append(f"{ours:.2f} | {torchs:.2f} | {torchs / ours:.1f}")
    return f"| {count} x {inputs} x {outputs} | {100 * density:g} % | {' | '.join(numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2, 0.245])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    if not all(0 <= density < DENSITY_LIMIT for density in options.density):
        parser.error(f"--density: 0 or more and below {DENSITY_LIMIT}, from where on products are torch's")
    print(f"{torch.get_num_threads()} threads\n")
    print("| rows x inputs x outputs | events | sums | torch | ratio | gradient | torch | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for shape in SHAPES:
        for density in options.density:
            print(row(shape, density, options.rounds), flush=True)


if __name__ == "__main__":
    main()
