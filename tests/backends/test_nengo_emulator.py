"""The neuron's rule against another's: the integer emulator of nengo-loihi 1.1.0, every u, v and spike.

Its refractory register counts the step of the spike itself, so it holds one more than our period; a soft reset it does
not have. Its code runs in a child process, because it warns at import and turns on pytest plugins.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolchain.ir import Compartments

_CHILD = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from nengo_loihi.block import LoihiBlock
from nengo_loihi.emulator.interface import BlockInfo, CompartmentState
given = np.load(sys.argv[1])
steps, n = given["sums"].shape
block = LoihiBlock(n)
cells = block.compartment
cells.decay_u, cells.decay_v, cells.scale_u, cells.scale_v = given["du"] - 1, given["dv"], False, False
cells.vth, cells.bias, cells.refract_delay = given["vth"] << 6, given["bias"], given["refractory"] + 1
cells.vmin, cells.vmax = -(2**23 - 1), 2**23 - 1
state = CompartmentState(BlockInfo([block]))
rows = []
for sums in given["sums"]:
    state.input[0] = sums << 6
    state.update(np.random)
    rows.append([state.current.copy(), state.voltage.copy(), state.spiked.astype(np.int32)])
np.save(sys.argv[2], np.array(rows))
"""


def interpreter() -> str:
    named = os.environ.get("SNNC_NENGO_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("nengo_loihi") is None:
        pytest.skip("nengo-loihi is not installed: pip install nengo-loihi==1.1.0, or set SNNC_NENGO_PYTHON")
    return sys.executable


def test_current_potential_and_spikes_of_every_step(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    periods = (0, 1, 2, 5, 62)
    each, steps = 200, 150
    n = each * len(periods)
    registers = {
        "du": np.where(random.random(n) < 0.3, 4096, random.integers(1, 4097, n)).astype(np.int32),
        "dv": np.where(random.random(n) < 0.3, 0, random.integers(0, 4096, n)).astype(np.int32),
        "vth": random.integers(0, 400, n).astype(np.int32),
        "bias": random.integers(-2000, 2001, n).astype(np.int32),
        "refractory": np.repeat(np.array(periods, np.int32), each),
        "sums": random.integers(-100, 121, (steps, n)).astype(np.int32),
    }
    np.savez(tmp_path / "given.npz", **registers)  # type: ignore[arg-type]
    command = [interpreter(), "-c", _CHILD, str(tmp_path / "given.npz"), str(tmp_path / "found.npy")]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, child.stderr
    theirs = np.load(tmp_path / "found.npy")
    for k, period in enumerate(periods):
        here = slice(k * each, (k + 1) * each)
        du, dv, vth, bias = (registers[name][here] for name in ("du", "dv", "vth", "bias"))
        neurons = Compartments("n", each, du, dv, vth, bias.astype(np.int16), 0, refractory=period)
        state = neurons.start(1)
        for t in range(steps):
            state, fired = neurons.step(state, registers["sums"][t, here][None].astype(np.int64))
            assert np.array_equal(np.stack([state.u[0], state.v[0], fired[0]]), theirs[t, :, here]), (period, t)
        assert 0 < theirs[:, 2, here].mean() < 1
