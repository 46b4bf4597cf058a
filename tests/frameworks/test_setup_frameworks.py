"""What the frameworks' folders hold is what their lists pin."""

from __future__ import annotations

import re
from importlib.metadata import distributions

import pytest
import setup_frameworks
from framework_child import environment


@pytest.mark.parametrize("name", setup_frameworks.names())
def test_every_package_is_pinned_and_there(name) -> None:
    lines = (setup_frameworks.HERE / f"{name}.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)(; .+)?", line) for line in lines]
    assert all(pins), lines
    environment(name)
    there = {d.metadata["Name"].lower(): d.version for d in distributions(path=[str(setup_frameworks.TARGET / name)])}
    assert there == {pin[1].lower(): pin[2] for pin in pins if pin}


def test_a_framework_that_is_not_installed_is_a_reason(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(setup_frameworks, "TARGET", tmp_path)
    monkeypatch.delenv("SNNC_REQUIRE_FRAMEWORKS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make frameworks"):
        environment("snntorch")
    monkeypatch.setenv("SNNC_REQUIRE_FRAMEWORKS", "1")
    with pytest.raises(pytest.fail.Exception, match="make frameworks"):
        environment("snntorch")
