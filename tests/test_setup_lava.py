"""Finding an interpreter for Lava and making its environment; what needs the network is made by `make test`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolchain import environment, setup_lava

ROOT = Path(__file__).resolve().parents[1]
SHIM = ROOT / ".venv-lava-shim" / "bin" / "python"


def python_that_says(folder: Path, name: str, version: str, status: int = 0) -> Path:
    """A stand-in interpreter that answers any question with a version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version}\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no interpreter for Lava but those that the test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(setup_lava.sys, "version_info", (3, 13, 0, "final", 0))
    return tmp_path


def test_3_10_by_any_way_goes_before_3_11_on_the_path(bare: Path) -> None:
    late = python_that_says(bare / "bin", "python3.11", "3.11")
    assert setup_lava.find_python() == (str(late), "3.11", "PATH")
    with_uv = python_that_says(bare / "uv", "python", "3.10")
    python_that_says(bare / "bin", "uv", str(with_uv))
    assert setup_lava.find_python() == (str(with_uv), "3.10", "uv")
    with_pyenv = python_that_says(bare / "pyenv" / "versions" / "3.10.13" / "bin", "python", "3.10")
    assert setup_lava.find_python() == (str(with_pyenv), "3.10", "pyenv")
    on_path = python_that_says(bare / "bin", "python3.10", "3.10")
    assert setup_lava.find_python() == (str(on_path), "3.10", "PATH")
    assert setup_lava.find_python(["3.11"])[1] == "3.11"


def test_one_that_fails_or_is_another_version_is_passed_over(bare: Path) -> None:
    python_that_says(bare / "bin", "python3.10", "3.10", status=127)
    python_that_says(bare / "bin", "python3.11", "3.9")
    good = python_that_says(bare / "bin", "python3.12", "3.12")
    assert setup_lava.find_python() == (str(good), "3.12", "PATH")


def test_none_at_all_says_what_to_do(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup_lava.main(["--target", str(bare / "env")]) == 3
    said = capsys.readouterr().err
    assert "no Python for Lava: looked for 3.10, 3.11, 3.12" in said
    assert "uv python install 3.10" in said
    assert "LAVA_BASE=" in said
    assert not (bare / "env").exists()


@pytest.mark.slow
def test_a_failed_installation_leaves_nothing_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_lava, "PINS", (str(tmp_path / "no-such-file.whl"),))
    monkeypatch.setattr(setup_lava, "PYTHONS", (".".join(map(str, sys.version_info[:2])),))
    assert setup_lava.main(["--target", str(tmp_path / "env"), "--python", sys.executable]) == 3
    assert "no-such-file.whl" in capsys.readouterr().err
    assert not (tmp_path / "env").exists()


def test_ready_until_the_pins_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_that_says(tmp_path / "bin", "python", "3.10")
    assert not setup_lava.ready(tmp_path)
    (tmp_path / setup_lava.STAMP).write_text(json.dumps({"pins": setup_lava.PINS, "python": "3.10"}))
    assert setup_lava.ready(tmp_path)
    assert "is ready" in setup_lava.make(tmp_path)
    monkeypatch.setattr(setup_lava, "PINS", (*setup_lava.PINS, "another==1.0"))
    assert not setup_lava.ready(tmp_path)


def test_runs_with_nothing_installed() -> None:
    # -S: no site-packages at all, as on a machine where nothing has been set up.
    command = [sys.executable, "-S", "-m", "toolchain.setup_lava", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout


def test_made_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(environment.LAVA_PYTHON, raising=False)
    looked_for = [path for path, _ in environment.lava_candidates()]
    assert setup_lava.default_target() / "bin" / "python" in looked_for
    assert environment.cache_directory() / "lava" / "bin" / "python" in looked_for


@pytest.mark.lava
@pytest.mark.skipif(not SHIM.exists(), reason="no .venv-lava-shim (make lava-shim; needs Python 3.11 or 3.12)")
def test_past_the_version_bound_with_the_shim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "backends"))
    from lava_networks import random_cuts, random_program, random_samples

    from toolchain.backends import lava, reference

    monkeypatch.setenv(environment.LAVA_PYTHON, str(SHIM))
    interpreter = environment.find_lava()
    assert interpreter.python.startswith(("3.11.", "3.12."))
    rng = np.random.default_rng(11)
    for coding in ("rate", "graded"):
        program = random_program(rng, coding=coding, steps=4, families=3, members=3)
        samples = random_samples(rng, program, 3)
        got = lava.run(program, samples, slices=random_cuts(rng, program, 2))
        wanted = reference.run(program, samples)
        assert any(spikes.any() for name, spikes in wanted.spikes.items() if name != "in")
        for name, spikes in wanted.spikes.items():
            assert np.array_equal(got.spikes[name], spikes), name


@pytest.mark.lava
@pytest.mark.skipif(not SHIM.exists(), reason="no .venv-lava-shim (make lava-shim; needs Python 3.11 or 3.12)")
def test_without_the_shim_lava_does_not_even_import_there() -> None:
    done = subprocess.run(
        [SHIM, "-c", "import lava.proc.lif.process, lava.proc.lif.models"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "unhashable" in done.stderr or "mutable default" in done.stderr
