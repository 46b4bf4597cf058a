"""One slice costed in several ways in one run, as nanoseconds of CPU a synapse and as a ratio to ours.

The peers: the same rule written one list at a time in plain Python (tests/mapping/slow_nxtf.py, from the rule's
wording); the numpy definition; and nengo-loihi's own `Synapse.bits()`, where it is installed, against our cost by the
same rule. That rule is a much easier one: one format for the slice, and no choice of registers.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import hw_targets
from tests.benchmarks.networks import random_connectivity
from toolchain.mapping import encoders_registers, nxtf_compiled
from toolchain.mapping.synapse_memory import FormatChoice, SynapseLists, cost_slice

SLICES = ((4000, 600, 0.025), (800, 1000, 0.05), (784, 800, 0.5))
"""Sources, compartments, density."""

_NENGO = """
import sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from nengo_loihi.block import Synapse
data = np.load(sys.argv[1])
indptr, targets = data["indptr"], data["targets"]
synapse = Synapse(len(indptr) - 1)
rows = [targets[None, a:b] for a, b in zip(indptr[:-1], indptr[1:])]
synapse._set_weights_indices([np.ones(r.shape, np.float32) for r in rows], indices=rows, compression=0)
synapse.format(weight_bits=7, delay_bits=0)
times = []
for _ in range(5):
    began = time.process_time()
    synapse.bits()
    times.append(time.process_time() - began)
print(min(times))
"""


def best_of(function: Callable[[], object], times: int = 5) -> float:
    """Seconds of CPU of the fastest of several runs, after one that is not counted."""
    function()
    taken = []
    for _ in range(times):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return min(taken)


def scalar(lists: SynapseLists) -> int:
    """Words of every list in each of the eight combinations, in plain Python."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "mapping"))
    import slow_nxtf

    whole, total = lists.connectivity, 0
    for k in range(whole.n_sources):
        part = slice(int(whole.indptr[k]), int(whole.indptr[k + 1]))
        targets, weights = whole.targets[part].tolist(), lists.mantissas[part].tolist()
        for encoding in ("dense1", "dense2", "sparse", "runlength"):
            for signs in ("one_list", "shared_sign"):
                total += slow_nxtf.list_cost(encoding, signs, targets, weights, lists.weight_bits)[1]
    return total


def nengo(lists: SynapseLists, folder: Path) -> float | None:
    """Seconds of nengo-loihi's `Synapse.bits()`; None where it is not installed."""
    if importlib.util.find_spec("nengo_loihi") is None:
        return None
    path = folder / "slice.npz"
    np.savez(path, indptr=lists.connectivity.indptr, targets=lists.connectivity.targets)
    done = subprocess.run([sys.executable, "-c", _NENGO, str(path)], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def ways(lists: SynapseLists) -> dict[str, float | None]:
    """Seconds of every way to cost one slice."""
    target, choice = hw_targets.load("loihi"), FormatChoice()
    rule = target.parameters("nxtf")
    with tempfile.TemporaryDirectory() as folder:
        return {
            "rule nxtf, compiled": best_of(lambda: nxtf_compiled.write(lists, choice, 8, rule)),
            "rule nxtf, numpy": best_of(lambda: encoders_registers.define(lists, choice, 8, rule)),
            "rule nxtf, plain Python, registers not chosen": best_of(lambda: scalar(lists), 1),
            "rule nengo, ours": best_of(lambda: cost_slice("nengo", lists, target.parameters("nengo"))),
            "rule nengo, nengo-loihi's Synapse.bits": nengo(lists, Path(folder)),
        }


def main() -> int:
    random = np.random.default_rng(0)
    print("| slice | synapses | way | ns a synapse | times ours |\n|---|--:|---|--:|--:|")
    for n_sources, n_targets, density in SLICES:
        connectivity = random_connectivity(random, n_sources, n_targets, density)
        mantissas = random.integers(-128, 128, connectivity.n_synapses).astype(np.int16)
        mantissas[mantissas == 0] = 1
        ours = 1.0
        for way, seconds in ways(SynapseLists(connectivity, mantissas, 8)).items():
            if seconds is None:
                continue
            if "compiled" in way or "ours" in way:
                ours = seconds
            each = seconds / connectivity.n_synapses * 1e9
            slice_ = f"{n_sources} x {n_targets}, {density:.1%}"
            print(
                f"| {slice_} | {connectivity.n_synapses:,} | {way} | {each:,.1f} | {seconds / ours:,.1f} |", flush=True
            )
    return 0
