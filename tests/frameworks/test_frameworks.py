"""Networks of other frameworks become graphs that compute the same: see `inside/`."""

from __future__ import annotations

import pytest
from framework_child import inside


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "file"),
    [
        ("spikingjelly14", "check_spikingjelly.py"),
        ("spikingjelly2", "check_spikingjelly.py"),
        ("snntorch", "check_snntorch.py"),
        ("spikingjelly2", "check_page.py"),
        ("snntorch", "check_page.py"),
    ],
)
def test_networks_compute_the_same(framework, file) -> None:
    inside(framework, file)
