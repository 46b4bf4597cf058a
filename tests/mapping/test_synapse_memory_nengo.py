"""Rule `nengo` against nengo-loihi's own `Synapse.bits()`, in an interpreter that has it.

SNNC_NENGO_PYTHON names that interpreter; without it, this one is used where nengo-loihi is installed. It runs as a
child because importing it warns (it knows no newer nengo), and warnings are errors here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import hw_targets
from toolchain.ir.connectivity import Connectivity
from toolchain.mapping.cost_models import nengo_words, stored_weight_bits
from toolchain.mapping.synapse_memory import SynapseLists, cost_slice

RULE = hw_targets.load("loihi").parameters("nengo")

# Fan-outs at and around the run length of 64, and indices around every index width.
FAN_OUTS = [1, 2, 5, 59, 60, 63, 64, 65, 100, 127, 128, 129, 300, 513]
TOPS = [1, 63, 64, 127, 128, 300, 511, 512, 1023]

_CHILD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from nengo_loihi.block import Synapse, SynapseConfig
out = []
for case in json.load(sys.stdin):
    synapse = Synapse(len(case["indices"]))
    weights = [np.ones((1, len(row)), np.float32) for row in case["indices"]]
    indices = [np.array([row], np.int32) for row in case["indices"]]
    synapse._set_weights_indices(weights, indices=indices, compression=case["compression"])
    synapse.format(weight_bits=SynapseConfig.WEIGHT_BITS_MAP.index(case["weight_bits"]), delay_bits=case["delay_bits"])
    out.append(synapse.bits())
json.dump(out, sys.stdout)
"""


def interpreter() -> str:
    named = os.environ.get("SNNC_NENGO_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("nengo_loihi") is None:
        pytest.skip("nengo-loihi is not installed: pip install nengo-loihi==1.1.0, or set SNNC_NENGO_PYTHON")
    return sys.executable


def ask(cases: list[dict[str, object]]) -> list[int]:
    child = subprocess.run(
        [interpreter(), "-c", _CHILD], input=json.dumps(cases), capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def case(lists: SynapseLists, compression: int, dense: bool) -> dict[str, object]:
    whole = lists.connectivity
    rows = [row.tolist() for row in np.split(whole.targets, whole.indptr[1:-1]) if len(row)]
    if dense:  # every compartment up to the last one of the list is stored
        rows = [list(range(row[-1] + 1)) for row in rows]
    return {
        "indices": rows,
        "compression": compression,
        "weight_bits": stored_weight_bits(lists.weight_bits, RULE),
        "delay_bits": lists.delay_bits,
    }


def random_lists(rng: np.random.Generator, weight_bits: int, delay_bits: int) -> SynapseLists:
    top, rows = int(rng.choice(TOPS)), []
    for _ in range(int(rng.integers(1, 5))):
        n = min(int(rng.choice(FAN_OUTS)), top + 1)
        rows.append(np.sort(rng.choice(top + 1, n, replace=False)).astype(np.int32))
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    connectivity = Connectivity(len(rows), top + 1, indptr, np.concatenate(rows))
    return SynapseLists(connectivity, np.ones(connectivity.n_synapses, np.int16), weight_bits, delay_bits)


def test_words_equal_those_of_nengo_loihi_for_every_width() -> None:
    rng = np.random.default_rng(0)
    slices = [
        random_lists(rng, weight_bits, delay_bits)
        for weight_bits in range(1, 9)
        for delay_bits in (0, 3, 6)
        for _ in range(8)
    ]
    sparse = ask([case(lists, 0, dense=False) for lists in slices])
    dense = ask([case(lists, 3, dense=True) for lists in slices])
    used = set()
    for lists, sparse_bits, dense_bits in zip(slices, sparse, dense, strict=True):
        cost = cost_slice("nengo", lists, RULE)
        assert cost.bits == min(sparse_bits, dense_bits)
        used |= set(cost.axons_by_combination())
    assert used == {"dense", "sparse"}


def test_words_of_one_list_follow_the_published_loop() -> None:
    """The rule said again as a loop over runs, for every fan-out up to three runs."""
    stored = np.arange(0, 200, dtype=np.int64)
    for bits in (8, 14, 18):
        expected = [sum(-(-(min(64, n - at) * bits + 10) // 64) for at in range(0, n, 64)) for n in stored.tolist()]
        assert nengo_words(stored, bits, RULE).tolist() == expected
