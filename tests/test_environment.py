"""Finding the interpreter that has Lava."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from toolchain import environment
from toolchain.errors import ToolError

FAKE = """#!/bin/sh
echo '{"python": "3.10.4", "versions": {"lava-nc": %s, "numpy": "1.26.4", "scipy": "1.15.3"}}'
"""


def fake(path: Path, lava_version: str | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE % (f'"{lava_version}"' if lava_version else "null"))
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Lava anywhere, but where the test puts one; returns the folder of the user's caches."""
    monkeypatch.delenv(environment.LAVA_PYTHON, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "repository" / "toolchain" / "environment.py"))
    return tmp_path


def test_none_says_where_it_was_looked_for_and_how_to_get_one(nowhere: Path) -> None:
    with pytest.raises(ToolError, match="no Python interpreter with Lava") as caught:
        environment.find_lava()
    assert caught.value.exit_code == 3
    said = str(caught.value)
    assert sys.executable in said
    assert str(nowhere / "repository" / ".venv-lava") in said
    assert str(nowhere / "snnc" / "lava") in said
    assert "make lava" in said


def test_order(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = fake(nowhere / "snnc" / "lava" / "bin" / "python", "0.10.0")
    assert environment.find_lava().path == cached
    beside = fake(nowhere / "repository" / ".venv-lava" / "bin" / "python", "0.10.0")
    found = environment.find_lava()
    assert (found.path, found.python, found.version("lava-nc")) == (beside, "3.10.4", "0.10.0")
    named = fake(nowhere / "named", "0.10.1")
    monkeypatch.setenv(environment.LAVA_PYTHON, str(named))
    assert environment.find_lava().path == named
    assert "SNNC_LAVA_PYTHON" in environment.find_lava().how


def test_one_without_lava_is_passed_over(nowhere: Path) -> None:
    fake(nowhere / "repository" / ".venv-lava" / "bin" / "python", None)
    cached = fake(nowhere / "snnc" / "lava" / "bin" / "python", "0.10.0")
    assert environment.find_lava().path == cached


def test_what_the_user_names_is_never_replaced(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(nowhere / "snnc" / "lava" / "bin" / "python", "0.10.0")
    monkeypatch.setenv(environment.LAVA_PYTHON, str(nowhere / "not-there"))
    with pytest.raises(ToolError, match="no such interpreter"):
        environment.find_lava()
    without = fake(nowhere / "without", None)
    monkeypatch.setenv(environment.LAVA_PYTHON, str(without))
    with pytest.raises(ToolError, match="without lava-nc"):
        environment.find_lava()


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 4\n", "#!/bin/sh\necho nonsense\n", "no program\n"])
def test_something_that_is_no_interpreter(nowhere: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = nowhere / "odd"
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setenv(environment.LAVA_PYTHON, str(path))
    with pytest.raises(ToolError, match="not a Python interpreter that answers"):
        environment.find_lava()


def test_versions_of_this_interpreter() -> None:
    found = environment.probe(Path(sys.executable), "this one", ("numpy", "no-such-package"))
    assert found.version("numpy") == environment.version("numpy")
    assert found.version("no-such-package") is None
    assert not found.has_lava
