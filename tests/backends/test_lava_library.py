"""The worker as a library, and the example in the docs."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from lava_networks import chain, skip_and_loop

from toolchain.backends import lava as backend
from toolchain.backends import reference
from toolchain.environment import Interpreter

pytestmark = pytest.mark.lava
DOCS = Path(__file__).resolve().parents[2] / "docs" / "lava_in_your_own_program.md"


@pytest.mark.parametrize("coding", ["rate", "graded"])
def test_example_in_the_docs(lava: Interpreter, tmp_path: Path, coding: str) -> None:
    example = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1]
    program = chain(3, coding=coding, steps=5)
    sample = np.array([255, 0, 130, 90])
    backend.export(program, tmp_path / "network")
    np.save(tmp_path / "sample.npy", sample)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [lava.path, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    wanted = reference.run(program, sample[None])
    assert done.stdout.strip() == f"{wanted.counts['n2'][0].tolist()} decision {wanted.decisions[0]}"
    assert wanted.counts["n2"].any()


STREAM = """
import sys
import numpy as np
sys.path.insert(0, "network")
import worker
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

network = worker.build("network", reset=False)
steps = 24
total = steps + max(network.lags.values())
source = Source(data=np.repeat(np.load("sample.npy")[:, None], total, axis=1))
network.feed(source.s_out)
sinks = {}
for name in network.outputs:
    sinks[name] = Sink(shape=network.spikes(name).shape, buffer=total)
    network.spikes(name).connect(sinks[name].a_in)
source.run(condition=RunSteps(total), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
found = {name: sink.data.get()[:, network.lags[name] : network.lags[name] + steps] for name, sink in sinks.items()}
source.stop()
np.savez("found.npz", **found)
"""


def test_a_stream_without_samples_and_a_readout(lava: Interpreter, tmp_path: Path) -> None:
    # Delays beyond the sample's length, a loop, a skip: without resets nothing that is under way is ever dropped.
    program = skip_and_loop()
    delayed = dataclasses.replace(program.connections[-1], delay=6)
    readout = dataclasses.replace(program.populations[-1], reset="none", dv=1024)
    program = dataclasses.replace(
        program,
        populations=(*program.populations[:-1], readout),
        connections=(*program.connections[:-1], delayed),
    )
    sample = np.array([255, 140, 120, 90])
    backend.export(program, tmp_path / "network")
    np.save(tmp_path / "sample.npy", sample)
    command = [lava.path, "-W", "ignore", "-c", STREAM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    endless = reference.run(dataclasses.replace(program, steps=24), sample[None])
    for name in ("in", "a", "b"):
        assert np.array_equal(found[name].T, endless.spikes[name][0]), name
    assert np.array_equal(found["c"][:, -1], endless.potentials["c"][0])
    assert found["c"][:, -1].any()


def test_exported_folder_is_self_contained_and_refuses_an_existing_one(tmp_path: Path) -> None:
    backend.export(chain(1), tmp_path / "network")
    assert {path.name for path in (tmp_path / "network").iterdir()} == {
        "spec.json",
        "arrays.npz",
        "worker.py",
        "_spec.py",
        "_compat.py",
    }
    with pytest.raises(FileExistsError):
        backend.export(chain(1), tmp_path / "network")
