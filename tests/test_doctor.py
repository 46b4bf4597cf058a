"""What `snnc doctor` finds."""

from __future__ import annotations

import collections
import importlib.metadata
from pathlib import Path

import pytest

from toolchain import doctor, environment
from toolchain.errors import ToolError


def by_name(rows: list[doctor.Row]) -> dict[str, doctor.Row]:
    return {row.what: row for row in rows}


def test_every_row_that_is_not_ok_says_what_to_do() -> None:
    rows = doctor.check()
    assert {row.state for row in rows} <= {"ok", "missing", "optional"}
    assert all(row.remedy for row in rows if row.state != "ok")
    assert {"Python", "Lava", "processor cores"} <= by_name(rows).keys()


def test_packages_against_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "numpy>=1.26",
        "scipy>=99.0",
        "no-such-thing>=1",
        'tomli>=2; python_version < "3.10"',
        'torch>=99; extra == "train"',
        "click",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(
        environment,
        "version",
        {"snnc": "0.1", "numpy": "2.4.6", "scipy": "1.17.1rc1", "torch": "2.13.0+cpu", "click": "8"}.get,
    )
    rows = by_name(doctor.packages())
    assert (rows["numpy"].state, rows["numpy"].found, rows["numpy"].needed) == ("ok", "2.4.6", ">=1.26")
    assert (rows["scipy"].state, rows["scipy"].found) == ("missing", "1.17.1rc1")
    assert (rows["no-such-thing"].state, rows["no-such-thing"].remedy) == ("missing", "pip install snnc")
    assert (rows["torch [train]"].state, rows["torch [train]"].remedy) == ("optional", "pip install 'snnc[train]'")
    assert rows["click"].state == "ok"
    assert "tomli" not in rows


def test_numbers_are_compared_not_letters() -> None:
    assert doctor._at_least("1.10.0", ">=1.9")
    assert not doctor._at_least("1.9", ">=1.10")
    assert doctor._at_least("2.13.0+cpu", ">=2.13")


def test_snnc_itself_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", refuse)
    (row,) = doctor.packages()
    assert (row.state, row.what) == ("missing", "snnc")


def test_lava_missing_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> environment.Interpreter:
        raise ToolError("no Python interpreter with Lava was found", got="here, there", remedy="make lava")

    monkeypatch.setattr(environment, "find_lava", none)
    (row,) = doctor.lava()
    assert (row.state, row.remedy) == ("optional", "make lava")
    assert "here, there" in row.found
    there = environment.Interpreter(Path("/x/python"), "set-up", "3.10.4", (("lava-nc", "0.9.0"), ("numpy", "1.26.4")))
    monkeypatch.setattr(environment, "find_lava", lambda: there)
    found, warning = doctor.lava()
    assert found.state == "ok"
    assert "lava-nc 0.9.0, numpy 1.26.4, Python 3.10.4: /x/python (set-up)" in found.found
    assert (warning.state, warning.found) == ("optional", "0.9.0")


def test_space(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(0, 0, 5 * 2**20))
    rows = [row for row in doctor.machine() if row.what.startswith("free in")]
    assert {row.state for row in rows} <= {"missing", "optional"}
    assert all(row.found == "5 MiB" and row.remedy for row in rows)
