"""The example of a framework's page runs, and is as right as the page says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

PAGES = {
    "spikingjelly14": "from_spikingjelly.md",
    "spikingjelly2": "from_spikingjelly.md",
    "snntorch": "from_snntorch.md",
}
POINTS = 0.02
"""By which training may come out otherwise on another machine."""


def accuracies(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(float|integer) ([\d.]+)$", text, re.MULTILINE)}


def decisions(network: torch.nn.Module, images: torch.Tensor) -> Any:
    """By the framework itself, in 8 steps."""
    for part in network.modules():
        getattr(part, "reset_mem", getattr(part, "reset", lambda: None))()
    with torch.no_grad():
        return sum(network(images) for _ in range(8)).argmax(1).numpy()


def test_the_example_of_the_page(capsys, tmp_path, monkeypatch) -> None:
    name = PAGES[os.environ["SNNC_FRAMEWORK"]]
    page = (Path(__file__).parents[3] / "docs" / name).read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, name, "exec"), names)
    network, images, tested = (names[name] for name in ("network", "images", "tested"))
    trace = names["physical"].run(names["loaded"].graph, tested)
    assert (decisions(network, images[1400:]) == trace.decisions).mean() > 0.99  # theirs are in single precision
    said, got = accuracies(page), accuracies(capsys.readouterr().out)
    assert set(said) == set(got) == {"float", "integer"}
    for kind, value in said.items():
        assert abs(got[kind] - value) <= POINTS, (said, got)
    assert got["float"] - got["integer"] <= POINTS
