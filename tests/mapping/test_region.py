"""A box of neurons: its size, its numbers, its text."""

from __future__ import annotations

import numpy as np
import pytest

from toolchain.mapping.region import Region


def test_a_run_of_a_flat_population() -> None:
    region = Region.flat(10, 3, 7)
    assert (len(region), region.start, region.stop, str(region)) == (4, 3, 7, "[3:7]")
    assert region.neurons().tolist() == [3, 4, 5, 6]
    assert not region.is_whole
    assert Region.whole((10,)).is_whole


def test_a_box_of_a_map_goes_down_its_columns() -> None:
    region = Region((2, 3, 4), ((0, 2), (1, 3), (2, 3)))
    assert (len(region), str(region), region.extents) == (4, "[0:2, 1:3, 2:3]", (2, 2, 1))
    assert region.neurons().tolist() == [6, 10, 18, 22]
    assert Region.whole((1, 2, 3)).neurons().tolist() == [0, 3, 1, 4, 2, 5]
    values = np.arange(24)
    assert region.of(values).reshape(-1).tolist() == [6, 10, 18, 22]
    region.of(values)[:] = 0  # a view
    assert values.sum() == 24 * 23 // 2 - 56


def test_regions_are_ordered_by_their_first_neurons() -> None:
    shape = (4, 4, 4)
    boxes = [Region(shape, r) for r in (((2, 4), (0, 4), (0, 4)), ((0, 2), (2, 4), (0, 4)), ((0, 2), (0, 2), (0, 4)))]
    assert sorted(boxes) == boxes[::-1]


@pytest.mark.parametrize("ranges", [((0, 11),), ((5, 5),), ((-1, 3),)])
def test_what_is_no_region_is_refused(ranges) -> None:
    with pytest.raises(ValueError, match="no region"):
        Region((10,), ranges)
