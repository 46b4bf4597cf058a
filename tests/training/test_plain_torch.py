"""The example of docs/training.md: a network that no recipe describes, trained with Grad R in a loop of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from toolchain.backends import reference
from toolchain.training.spiking import reset_state, run


@pytest.mark.slow
def test_the_example_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict = {}
    exec(compile(code, "docs/training.md", "exec"), found)
    network, graph, program = found["network"], found["loaded"].graph, found["deployed"].program

    # Synapses exist where Grad R left them.
    weights = [p for p in network.parameters() if p.ndim > 1]
    alive = sum(int((w != 0).sum()) for w in weights)
    assert 0.02 < alive / sum(w.numel() for w in weights) < 0.9
    assert sum(c.synapses.connectivity.n_weights for c in graph.connections if "skip" not in c.name) == alive
    delays = {c.name: c.delay for c in graph.connections}
    assert sorted(delays.values()) == [0] * (len(delays) - 1) + [1]  # the recurrent one alone

    with torch.no_grad():
        reset_state(network)
        trained = run(network, found["spikes"][:, 1500:])[-1].argmax(1).numpy()
    unseen, labels = found["samples"][1500:].numpy(), found["labels"][1500:].numpy()
    deployed = reference.run(program, unseen, record=()).decisions
    assert (trained == labels).mean() > 0.5
    assert (deployed == trained).mean() > 0.95
    assert np.bincount(deployed, minlength=10).max() < len(unseen) / 2
