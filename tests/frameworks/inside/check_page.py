"""The example of a framework's page runs, and is as right as the page says."""

from __future__ import annotations

import os
from typing import Any

import pages
import torch

PAGES = {
    "spikingjelly14": "from_spikingjelly.md",
    "spikingjelly2": "from_spikingjelly.md",
    "snntorch": "from_snntorch.md",
}


def decisions(network: torch.nn.Module, images: torch.Tensor) -> Any:
    """By the framework itself, in 8 steps."""
    for part in network.modules():
        getattr(part, "reset_mem", getattr(part, "reset", lambda: None))()
    with torch.no_grad():
        return sum(network(images) for _ in range(8)).argmax(1).numpy()


def test_the_example_of_the_page(capsys, tmp_path, monkeypatch) -> None:
    name = PAGES[os.environ["SNNC_FRAMEWORK"]]
    monkeypatch.chdir(tmp_path)
    names = pages.run(name)
    network, images, tested = (names[name] for name in ("network", "images", "tested"))
    trace = names["physical"].run(names["loaded"].graph, tested)
    assert (decisions(network, images[1400:]) == trace.decisions).mean() > 0.99  # theirs are in single precision
    got = pages.check_accuracies(name, capsys.readouterr().out, {"float", "integer"})
    assert got["float"] - got["integer"] <= pages.POINTS
