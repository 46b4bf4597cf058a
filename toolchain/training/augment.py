"""Random changes of a batch of images: affine ones as one grid and one interpolation, windows, reflections."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from toolchain.training import kernels, threads
from toolchain.training.recipe import Augment
from toolchain.training.seeds import Draws


def augment(images: Tensor, shape: tuple[int, int, int], ranges: Augment, draws: Draws) -> Tensor:
    """Images uint8 (B, channels * rows * columns), changed at random as `ranges` say; the same shape and type."""
    if ranges.affine:
        images = affine(images, shape, ranges, draws)
    if ranges.crop:
        images = crop(images, shape, ranges.crop, draws)
    return flip(images, shape, draws) if ranges.flip else images


def crop(images: Tensor, shape: tuple[int, int, int], margin: int, draws: Draws) -> Tensor:
    """Each image moved by whole pixels, up to `margin` in each direction; outside is 0."""
    count, (_, rows, columns) = len(images), shape
    padded = functional.pad(images.view(count, *shape), (margin,) * 4)
    first = draws.integers(2 * margin + 1, 2, count).to(images.device)[..., None]
    y, x = first[0] + torch.arange(rows), first[1] + torch.arange(columns)
    chosen = padded[torch.arange(count)[:, None, None], :, y[:, :, None], x[:, None, :]]
    return chosen.permute(0, 3, 1, 2).reshape(count, -1)


def flip(images: Tensor, shape: tuple[int, int, int], draws: Draws) -> Tensor:
    """Each image left and right exchanged, or not, with equal chances."""
    chosen = draws.uniform(len(images), 1, 1, 1).to(images.device) < 0.5
    maps = images.view(-1, *shape)
    return torch.where(chosen, maps.flip(3), maps).flatten(1)


def affine(images: Tensor, shape: tuple[int, int, int], ranges: Augment, draws: Draws) -> Tensor:
    """Each image rotated, sheared, scaled and shifted by random amounts, uniform within the ranges.

    images: uint8 (B, channels * rows * columns).  Returns uint8 of the same shape, rounded to nearest; outside is 0.
    """
    # Columns: angle, shear, scale, shift in x, shift in y; each uniform in -1..1.
    draw = draws.uniform(len(images), 5).to(images.device).mul_(2).sub_(1)
    angle = draw[:, 0] * math.radians(ranges.rotate)
    shear = draw[:, 1] * ranges.shear
    size = 1 / (1 + draw[:, 2] * ranges.scale)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    # The grid runs from -1 to 1 between the outer edges, so a shift by a fraction of the image is twice that fraction.
    sources = (
        (cos, cos * shear - sin, draw[:, 3] * 2 * ranges.shift),
        (sin, sin * shear + cos, draw[:, 4] * 2 * ranges.shift),
    )
    return (_sampled_here if images.device.type == "cpu" else _sampled)(images, shape, sources)


Sources = tuple[tuple[Tensor, Tensor, Tensor], ...]
"""Where each image's pixels come from, x then y: what x and y count, (B,) each, and a constant; on the grid."""


def _sampled(images: Tensor, shape: tuple[int, int, int], sources: Sources) -> Tensor:
    count, (_, rows, columns) = len(images), shape
    x = (torch.arange(columns) * 2 + 1) / columns - 1
    y = ((torch.arange(rows) * 2 + 1) / rows - 1)[:, None]
    grid = torch.stack([_plane(*source, x, y) for source in sources], dim=-1)
    moved = functional.grid_sample(images.view(count, *shape).float(), grid, align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8).view(count, -1)


def _plane(by_x: Tensor, by_y: Tensor, constant: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """by_x * x + by_y * y + constant for every image and pixel: (B, rows, columns)."""
    across = by_x[:, None, None] * x
    down = by_y[:, None, None] * y + constant[:, None, None]
    return across + down


def _sampled_here(images: Tensor, shape: tuple[int, int, int], sources: Sources) -> Tensor:
    """`_sampled` on the processor, in one compiled loop, but for roundings in float32."""
    _, rows, columns = shape
    # A pixel n of N lies at (2 n + 1) / N - 1 on the grid.
    moves = []
    for (by_x, by_y, constant), size in zip(sources, (columns, rows), strict=True):
        first = by_x * (1 / columns - 1) + by_y * (1 / rows - 1) + constant
        moves += [by_x * (size / columns), by_y * (size / rows), (first + 1) * (size / 2) - 0.5]
    out = torch.empty_like(images)
    arrays = images.contiguous().numpy(), torch.stack(moves, 1).numpy(), out.numpy(), rows, columns
    # A pixel takes about as long as four steps of a neuron.
    threads.split(kernels.affine, arrays, len(images), 4 * images.numel())
    return out
