"""The worker as a library, and the example in the docs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from lava_networks import chain

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
