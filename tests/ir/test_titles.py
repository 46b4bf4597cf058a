"""What patterns call themselves, and what they are with nothing pruned."""

from __future__ import annotations

import numpy as np
import pytest

from toolchain.ir import Connectivity, Convolution

Pair = tuple[int, int]
AROUND = ((1, 1), (1, 1))


def conv(source, shape, *, groups=1, stride=(1, 1), dilation=(1, 1), density=1.0, padding=AROUND) -> Convolution:
    mask = np.random.default_rng(0).random(shape) < density
    options = {"stride": stride, "dilation": dilation, "groups": groups, "padding": padding}
    return Convolution.of(source, mask, **options)[0]


@pytest.mark.parametrize(
    ("pattern", "title"),
    [
        (Connectivity.from_mask(np.ones((3, 2), bool)), "linear"),
        (conv((2, 8, 8), (4, 2, 3, 3)), "conv 3x3"),
        (conv((2, 8, 8), (4, 2, 3, 5), stride=(2, 2)), "conv 3x5 stride 2"),
        (conv((2, 8, 8), (4, 2, 3, 3), stride=(2, 1), dilation=(2, 2)), "conv 3x3 stride 2x1 dilation 2"),
        (conv((4, 8, 8), (8, 2, 1, 1), groups=2), "conv 1x1, 2 groups"),
        (conv((4, 8, 8), (4, 1, 3, 3), groups=4), "depthwise conv 3x3"),
        (conv((4, 8, 8), (8, 1, 3, 3), groups=4), "depthwise conv 3x3"),
        (conv((1, 8, 8), (4, 1, 3, 3)), "conv 3x3"),
        (conv((2, 1, 9), (4, 2, 1, 3), stride=(1, 2), padding=((0, 0), (1, 1))), "conv1d 3 stride 2"),
        (conv((4, 8, 8), (4, 4, 3, 3), density=0.0), "conv 3x3"),
    ],
)
def test_titles(pattern, title: str) -> None:
    assert pattern.title == title


@pytest.mark.parametrize(
    ("pattern", "window"),
    [
        (conv((4, 8, 8), (4, 1, 2, 2), groups=4, stride=(2, 2), padding=((0, 0), (0, 0))), "2x2"),
        (conv((4, 8, 8), (4, 1, 3, 3), groups=4, stride=(2, 2)), "3x3 stride 2"),
        (conv((1, 8, 8), (1, 1, 2, 2)), "2x2 stride 1"),
        (conv((2, 1, 8), (2, 1, 1, 2), groups=2, stride=(1, 2)), "2"),
        (conv((4, 8, 8), (8, 1, 2, 2), groups=4), None),
        (conv((4, 8, 8), (4, 4, 2, 2)), None),
        (conv((4, 8, 8), (4, 1, 1, 1), groups=4), None),
        (conv((4, 8, 8), (4, 1, 2, 2), groups=4, dilation=(2, 2)), None),
        (conv((4, 8, 8), (4, 1, 3, 3), groups=4, density=0.7), None),
        (Connectivity.from_mask(np.ones((3, 2), bool)), None),
    ],
)
def test_windows_of_what_could_be_pooling(pattern, window: str | None) -> None:
    assert pattern.window == window


def test_groups_of_random_kernels_are_the_most_that_hold() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        inputs, outputs = (int(n) for n in random.integers(1, 13, 2))
        mask = random.random((outputs, inputs, 1, 2)) < random.choice([0.05, 0.2, 1.0])
        if random.random() < 0.5:
            split = int(random.integers(1, 5))
            mask &= (np.arange(outputs)[:, None] * split // outputs == np.arange(inputs) * split // inputs)[
                ..., None, None
            ]
        pattern = Convolution.of((inputs, 4, 4), mask)[0]
        c, _, _, o = pattern.entries
        holds = [
            g
            for g in range(1, 13)
            if inputs % g == outputs % g == 0 and (c // (inputs // g) == o // (outputs // g)).all()
        ]
        assert pattern.groups == (max(holds) if len(c) else 1)
        assert pattern.n_synapses == pattern.uses.sum()


def test_groups_that_do_not_divide_are_none() -> None:
    assert conv((6, 4, 4), (4, 3, 3, 3), groups=2).groups == 2
    assert conv((6, 4, 4), (4, 6, 3, 3)).groups == 1


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_full_keeps_shape_and_groups_and_contains_what_there_is(groups: int) -> None:
    pruned = conv((4, 6, 6), (8, 4 // groups, 3, 3), groups=groups, stride=(2, 1), density=0.8)
    full = pruned.full
    full.verify("full")
    assert (full.source, full.target, full.groups) == (pruned.source, pruned.target, groups)
    assert full.n_weights == full.capacity == pruned.capacity == 8 * 4 // groups * 9
    keys = [{(int(a), int(b)) for a, b in zip(p.stored.sources, p.stored.targets, strict=True)} for p in (full, pruned)]
    assert keys[0] > keys[1]
    assert full.full == full
    assert full.n_synapses == full.pairs == pruned.pairs > pruned.n_synapses


def test_full_lists() -> None:
    some = Connectivity.from_mask(np.array([[True, False], [False, False], [True, True]]))
    full = some.full
    full.verify("full")
    assert full == Connectivity.from_mask(np.ones((3, 2), bool))
    assert some.stored is some
    assert some.capacity == full.capacity == 6
