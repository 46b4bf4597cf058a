"""How fast whole test sets run in Lava: stock processes one sample after the other, and samples side by side.

    python -m tests.benchmarks.lava_speed                    # all cases
    python -m tests.benchmarks.lava_speed mnist --data DIR   # one; DIR holds the data set's files
    python -m tests.benchmarks.lava_speed cifar10 --samples 200 --check 50

No test: nothing is asserted but that the first `--check` samples equal the reference in every spike. Networks are
drawn at random, data are real. Start-up is what passes before the first step of the last run that starts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import hw_targets
from tests.benchmarks import networks
from toolchain.backends import lava, reference
from toolchain.backends.lava import _plan
from toolchain.backends.trace import first_divergence
from toolchain.ir import Graph, Program
from toolchain.pipeline import LAST_PASS, Options, compile_graph
from toolchain.training.data import load

SPREAD = 6.0
"""Of the weights: so wide that every layer spikes, in about a sixth of all steps."""


def mlp() -> Graph:
    build = networks.Builder("784-800-10", (784,), spread=SPREAD)
    build.dense("fc1", 800)
    build.dense("fc2", 10)
    return build.graph()


CASES: dict[str, tuple[str, int, int, Callable[[], Graph]]] = {
    "mnist": ("mnist", 10_000, 100, mlp),
    "cifar10": ("cifar10", 1_000, 4, lambda: networks.cifar10(spread=SPREAD)),
}
"""Data set, test samples, samples for the stock processes alone, network."""
CHECKED_AT_ONCE = {"mnist": 10_000, "cifar10": 100}
"""As many as memory holds every spike of, twice."""
STEPS = 8


def program_of(graph: Graph) -> Program:
    return compile_graph(replace(graph, steps=STEPS), hw_targets.load("loihi"), Options(), until=LAST_PASS).program


def timed(program: Program, x: np.ndarray, processes: str) -> tuple[dict[str, Any], float]:
    """The worker's report, and wall time."""
    spec = lava.to_spec(program, x, slices={})
    spec = replace(spec, batch=_plan.batch(spec, processes, ()))
    began = time.perf_counter()
    found = lava.execute(spec, record=())
    return found.report, time.perf_counter() - began


def show(name: str, n: int, report: dict[str, Any], wall: float) -> None:
    parts = report.get("parts", {"all": report})
    start = max(part["ready_s"] + part["start_s"] for part in parts.values())
    cpu = sum(part["cpu_s"] for part in parts.values())
    print(
        f"{name:8} {n:6} samples: {wall:7.1f} s in all, {cpu:7.1f} s of CPU; start-up {start:4.1f} s, then "
        f"{wall - start:7.1f} s: {n / (wall - start):7.1f} samples/s",
        flush=True,
    )
    for part, times in parts.items():
        figures = (f"{key} {value:.4g}" for key, value in times.items() if not isinstance(value, str))
        print(f"    {part}: {', '.join(figures)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--data", type=Path, default=Path("shared/data"))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--stock", type=int, help="samples for the stock processes alone (0: none)")
    parser.add_argument("--check", type=int, default=100)
    options = parser.parse_args()
    for case in options.cases:
        dataset, n, stock, make = CASES[case]
        test_x = load(dataset, options.data).test_x
        x = test_x[: options.samples or n]
        program = program_of(make())
        neurons = program.input.size + sum(p.size for p in program.populations)
        synapses = sum(c.synapses.connectivity.n_synapses for c in program.connections)
        print(f"{case}: {neurons:,} neurons with the input, {synapses:,} synapses, {program.steps} steps", flush=True)
        few = stock if options.stock is None else options.stock
        if few:
            show("stock", few, *timed(program, x[:few], "stock"))
        show("batched", len(x), *timed(program, x, "batched"))
        for first in range(0, options.check, CHECKED_AT_ONCE[case]):
            last = min(first + CHECKED_AT_ONCE[case], options.check)
            check(program, test_x[first:last], f"samples {first} to {last - 1}")


def check(program: Program, x: np.ndarray, where: str) -> None:
    wanted = reference.run(program, x)
    apart = first_divergence(lava.run(program, x, processes="batched"), wanted, potentials=True)
    print(f"    {where} against the reference: {apart or 'every spike equal'}", flush=True)
    rates = (f"{name} {counts.mean() / program.steps:.3f}" for name, counts in wanted.counts.items())
    print(f"    spikes a neuron and step: {', '.join(rates)}", flush=True)
    assert apart is None, apart


if __name__ == "__main__":
    main()
