"""Augmentation on tensors."""

import math

import pytest
import torch

from toolchain.training import augment as augmentation
from toolchain.training.augment import affine, augment, crop, flip
from toolchain.training.recipe import Augment
from toolchain.training.seeds import Draws

SHAPE = (1, 9, 9)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(seed=0):
    return Draws(generator(seed))


def images(count=6):
    return torch.randint(0, 256, (count, 81), generator=generator(1), dtype=torch.uint8)


def test_no_range_no_change():
    assert not Augment().active
    assert torch.equal(affine(images(), SHAPE, Augment(), draws()), images())


def test_the_generator_decides():
    ranges = Augment(rotate=20, shift=0.1, scale=0.2, shear=0.2)
    assert ranges.active
    one, same, other = (affine(images(), SHAPE, ranges, draws(seed)) for seed in (4, 4, 5))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == torch.uint8
    assert one.shape == (6, 81)


def centre(batch):
    """Centre of mass of each image, in pixels: (B, 2), x then y."""
    picture = batch.view(-1, 9, 9).double()
    at = torch.arange(9, dtype=torch.float64)
    total = picture.sum((1, 2))
    return torch.stack(((picture.sum(1) * at).sum(1) / total, (picture.sum(2) * at).sum(1) / total), 1)


def test_shifts_stay_within_their_range_and_reach_far_into_it():
    dot = torch.zeros(400, 81, dtype=torch.uint8)
    dot[:, 40] = 255
    moved = centre(affine(dot, SHAPE, Augment(shift=2 / 9), draws())) - 4
    assert float(moved.abs().max()) <= 2.05
    assert float(moved[:, 0].max()) > 1.7
    assert float(moved[:, 1].min()) < -1.7


def test_a_turn_keeps_the_distance_from_the_middle():
    dot = torch.zeros(400, 81, dtype=torch.uint8)
    dot[:, 43] = 255
    moved = centre(affine(dot, SHAPE, Augment(rotate=90), draws())) - 4
    distance = moved.norm(dim=1)
    assert float(distance.min()) > 2.6
    assert float(distance.max()) < 3.4
    assert float(moved[:, 1].max()) > 2.5


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 11, 7)])
def test_the_compiled_loop_samples_as_torch_does(shape, monkeypatch):
    ranges = Augment(rotate=40, shift=0.2, scale=0.2, shear=0.2)
    x = torch.randint(0, 256, (300, math.prod(shape)), generator=generator(3), dtype=torch.uint8)
    found = affine(x, shape, ranges, draws(9))
    monkeypatch.setattr(augmentation, "_sampled_here", augmentation._sampled)
    expected = affine(x, shape, ranges, draws(9))
    assert not torch.equal(expected, x)
    # They round in another order, which the nearest integer shows now and then.
    apart = (found.int() - expected.int()).abs()
    assert int(apart.max()) <= 1
    assert float(apart.float().mean()) < 1e-3


COLOUR = (3, 9, 9)


def coloured(count=400):
    return torch.randint(1, 256, (count, 243), generator=generator(2), dtype=torch.uint8)


def test_crops_move_whole_images_within_the_margin():
    x = coloured()
    moved = crop(x, COLOUR, 2, draws()).view(-1, *COLOUR)
    maps = torch.nn.functional.pad(x.view(-1, *COLOUR), (2, 2, 2, 2))
    windows = {(dy, dx): maps[:, :, dy : dy + 9, dx : dx + 9] for dy in range(5) for dx in range(5)}
    fits = torch.stack([(window == moved).flatten(1).all(1) for window in windows.values()])
    assert bool((fits.sum(0) == 1).all())
    # Every shift occurs.
    assert bool(fits.any(1).all())


def test_half_of_the_images_are_reflected():
    x = coloured()
    changed = flip(x, COLOUR, draws()).view(-1, *COLOUR)
    same = (changed == x.view(-1, *COLOUR)).flatten(1).all(1)
    mirrored = (changed == x.view(-1, *COLOUR).flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 140 < int(same.sum()) < 260


def test_what_a_recipe_asks_for_is_done():
    ranges = Augment(crop=1, flip=True)
    assert ranges.active
    assert not ranges.affine
    x = coloured(50)
    changed = augment(x, COLOUR, ranges, draws(7))
    assert changed.dtype == torch.uint8
    assert changed.shape == x.shape
    assert torch.equal(changed, augment(x, COLOUR, ranges, draws(7)))
    assert not torch.equal(changed, x)
    assert torch.equal(augment(x, COLOUR, Augment(), draws()), x)
    turned = augment(x, COLOUR, Augment(rotate=20), draws(7))
    assert torch.equal(turned, affine(x, COLOUR, Augment(rotate=20), draws(7)))
