"""Networks of Norse, sinabs and Rockpool become graphs that spike as they do: see `inside/`."""

from __future__ import annotations

import pytest
from framework_child import inside


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["norse", "sinabs", "rockpool"])
def test_networks_compute_the_same(framework) -> None:
    inside(framework, "check_nir_exporters.py")
