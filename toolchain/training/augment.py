"""Random affine changes of a batch of images, as one grid and one interpolation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from toolchain.training.recipe import Augment


def affine(images: Tensor, shape: tuple[int, int], ranges: Augment, generator: torch.Generator) -> Tensor:
    """Each image rotated, sheared, scaled and shifted by random amounts, uniform within the ranges.

    images: uint8 (B, rows * columns).  Returns uint8 of the same shape, rounded to nearest; outside is 0.
    """
    count, (rows, columns) = len(images), shape
    # Columns: angle, shear, scale, shift in x, shift in y; each uniform in -1..1.
    draw = torch.rand(count, 5, generator=generator).mul_(2).sub_(1)
    angle = draw[:, 0] * math.radians(ranges.rotate)
    shear = draw[:, 1] * ranges.shear
    size = 1 / (1 + draw[:, 2] * ranges.scale)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    # The grid runs from -1 to 1 between the outer edges, so a shift by a fraction of the image is twice that fraction.
    x = (torch.arange(columns) * 2 + 1) / columns - 1
    y = ((torch.arange(rows) * 2 + 1) / rows - 1)[:, None]
    grid = torch.stack(
        (
            _plane(cos, cos * shear - sin, draw[:, 3] * 2 * ranges.shift, x, y),
            _plane(sin, sin * shear + cos, draw[:, 4] * 2 * ranges.shift, x, y),
        ),
        dim=-1,
    )
    moved = functional.grid_sample(images.view(count, 1, rows, columns).float(), grid, align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8).view(count, -1)


def _plane(by_x: Tensor, by_y: Tensor, constant: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """by_x * x + by_y * y + constant for every image and pixel: (B, rows, columns)."""
    across = by_x[:, None, None] * x
    down = by_y[:, None, None] * y + constant[:, None, None]
    return across + down
