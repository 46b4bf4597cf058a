"""Deployments that were published, predicted (docs/validation.md lists them all)."""

from __future__ import annotations

import itertools

import numpy as np
import published_networks as networks
import pytest
from small_targets import costing_of, limits_of

import hw_targets
from toolchain.ir import Convolution, IntegerSynapses, Program
from toolchain.mapping.convolution import ConvolvedSynapses, Exclusive, Layout, destination_groups
from toolchain.mapping.partition import Partition, partition
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import FormatChoice

LOIHI, LOIHI2 = hw_targets.load("loihi"), hw_targets.load("loihi2")
AS_NXTF = {"encodings": ("sparse",), "sign_lists": ("shared_sign",)}

# Unit test of the published compiler: input (rows, columns, channels), output channels, kernel, stride, padding,
# encoding, shape of a core -> input axons, synapses stored (with the zeros of dense2, which depend on weights: None).
COMPRESSED = [
    ((7, 7, 2), 2, 3, 1, "valid", "sparse", (5, 5, 2), 14, 900),
    ((32, 32, 3), 2, 3, 1, "valid", "sparse", (30, 10, 2), 108, 29160),
    ((32, 32, 3), 2, 3, 2, "valid", "sparse", (10, 5, 2), 198, 4050),
    ((27, 26, 2), 2, 1, 2, "valid", "sparse", (7, 13, 2), 52, 56),
    ((32, 30, 2), 2, 2, 2, "valid", "sparse", (16, 5, 2), 60, 768),
    ((30, 35, 2), 2, 3, 2, "same", "sparse", (8, 9, 2), 144, 1408),
    ((7, 7, 2), 2, 3, 1, "valid", "runlength", (5, 5, 2), 14, 900),
    ((20, 25, 2), 2, 3, 2, "same", "runlength", (6, 9, 2), 104, 928),
    ((7, 7, 2), 2, 3, 1, "valid", "dense1", (5, 5, 2), 14, 900),
    ((30, 35, 2), 2, 3, 2, "same", "dense1", (15, 10, 2), 72, 1408),
    ((7, 7, 2), 2, 3, 1, "valid", "dense2", (5, 5, 2), 14, None),
    ((30, 35, 2), 2, 3, 2, "same", "dense2", (6, 9, 2), 216, None),
]


@pytest.mark.parametrize("row", COMPRESSED, ids=lambda row: f"{row[5]} {row[0]}")
def test_compressed_convolutions_have_the_published_axons_and_synapses(row) -> None:
    (height, width, channels), outputs, kernel, stride, padding, encoding, core, axons, stored = row
    pads = [networks.same(n, kernel, stride) if padding == "same" else (0, 0) for n in (height, width)]
    mask = np.ones((outputs, channels, kernel, kernel), bool)
    pattern, _ = Convolution.of((channels, height, width), mask, stride=(stride, stride), padding=tuple(pads))
    mantissa = np.random.default_rng(0).integers(1, 120, pattern.n_weights) * (-1) ** np.arange(pattern.n_weights)
    whole = ConvolvedSynapses(IntegerSynapses(pattern, mantissa.astype(np.int16), 0, 8, "mixed"), pattern)
    # The published test takes every source to send to one core only.
    alone = Exclusive(np.ones(height, bool), np.ones(width, bool), np.ones(channels, bool))
    found = np.zeros(2, np.int64)
    steps = (core[2], core[0], core[1])
    for corner in itertools.product(*(range(0, n, k) for n, k in zip(pattern.target, steps, strict=True))):
        ends = zip(corner, steps, pattern.target, strict=True)
        region = Region(pattern.target, tuple((a, min(a + k, n)) for a, k, n in ends))
        layout = Layout(region.extents[0], region.extents[1], destination_groups(pattern, region.ranges[2]))
        part = whole.onto(region, layout, alone)
        cost = part.cost("nxtf", LOIHI.parameters("nxtf"), FormatChoice((encoding,), ("shared_sign",), 7))
        found += cost.n_axons, cost.payload_bits // 8
    assert found[0] == axons
    assert stored is None or found[1] == stored


def cut(program: Program, target: hw_targets.Target, method: str, **choice: object) -> Partition:
    costing = costing_of(target, **choice)
    return partition(program, costing, limits_of(target, costing.model), method)


def counts(found: Partition) -> list[int]:
    assert found.impossible == ()
    return [reason.n_slices for reason in found.reasons]


def test_dvs_gesture_takes_49_cores() -> None:
    found = cut(networks.dvs_gesture(), LOIHI, "nxtf", **AS_NXTF)
    assert counts(found) == [1, 8, 8, 22, 9, 1]
    largest = [max(len(s) for s in found.slices if s.population == f"layer{k}") for k in range(4)]
    assert largest == [480, 676, 352, 99]


def test_mobilenet_takes_157_cores_on_two_chips() -> None:
    program = networks.mobilenet()
    assert sum(p.size for p in program.populations[1:]) == 76_810  # the published sum leaves the input out
    # Printed: kernel entries times positions, borders not taken off, and one output channel of the first layer.
    patterns = [c.synapses.connectivity for c in program.connections]
    entries = [p.n_weights * int(np.prod(p.target_shape[1:])) for p in patterns]
    entries[0] //= patterns[0].target_shape[0]
    assert sum(entries) == 3_930_880
    found = counts(cut(program, LOIHI, "nxtf", **AS_NXTF))
    assert (sum(found), divmod(sum(found), LOIHI["cores_per_chip"])) == (157, (1, 29))


def test_key_point_yolo_takes_574_cores() -> None:
    found = cut(networks.key_point_yolo(), LOIHI2, "halving")
    assert counts(found) == [224, 112, 56, 28, 56, 16, 32, 14, 32, 4]


def test_the_maps_of_pilot_net_take_the_published_cores() -> None:
    found = cut(networks.pilot_net(), LOIHI2, "halving")
    assert counts(found)[:6] == [13, 25, 13, 3, 3, 2]  # the dense layers were cut by an older compiler's limits
    largest = [max(len(s) for s in found.slices if s.population == f"layer{k}") for k in range(6)]
    assert largest == [3168, 3072, 2160, 2688, 2048, 2048]
    words = [max(s.usage.synapse_words for s in found.slices if s.population == f"layer{k}") for k in range(6)]
    assert words == [0, 81, 864, 1620, 2160, 2880]


def test_our_own_cut_takes_no_more_cores() -> None:
    """What is found without imitating anybody; the numbers stand in docs/validation.md."""
    assert sum(counts(cut(networks.dvs_gesture(), LOIHI, "fewest"))) == 45
    assert sum(counts(cut(networks.mobilenet(), LOIHI, "fewest"))) == 157
    assert sum(counts(cut(networks.key_point_yolo(), LOIHI2, "fewest"))) == 521
