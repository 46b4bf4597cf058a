"""A recipe that trains in about a second."""

import pytest
import torch

from toolchain.training.recipe import Recipe

SMALL = {
    "name": "small",
    "data": {"dataset": "digits"},
    "network": {"hidden": [32], "steps": 4},
    "input": {"coding": "rate", "threshold": 127},
    "train": {
        "epochs": 6,
        "batch_size": 48,
        "lr": 1e-2,
        "schedule": "cosine",
        "loss": "cross-entropy",
        "precision": "float32",
        "evaluate_every": 2,
    },
    "quantise": {"aware": True},
    "method": {"name": "grad-r", "connectivity": 0.2, "freeze": 0.3, "interval": 5},
}


@pytest.fixture
def small() -> Recipe:
    return Recipe.from_dict(SMALL)


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks gain nothing from a second thread, and lose much when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
