"""Which synapses there are: how many each layer gets, the largest of values, random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolchain.training.seeds import rand_like


def whole_parts(shares: Sequence[float], total: int, limits: Sequence[int]) -> list[int]:
    """Whole numbers near `shares`, none above its limit, that add up to `total`.

    shares add up to total, but for rounding; what is missing goes where most was cut off.
    """
    counts = [min(math.floor(share), limit) for share, limit in zip(shares, limits, strict=True)]
    by_rest = sorted(range(len(counts)), key=lambda i: counts[i] - shares[i])
    while sum(counts) < total:
        for i in by_rest:
            if sum(counts) < total and counts[i] < limits[i]:
                counts[i] += 1
    return counts


def erdos_renyi(shapes: Sequence[Sequence[int]], connectivity: float) -> list[int]:
    """Synapses of each layer, which in total are `connectivity` of all, rounded; small layers are denser.

    A layer of weights (out, in, kernel...) has the density e * sum(shape) / prod(shape), at most 1; e is common.
    Source: Mocanu et al. 2018, equation 3; with the kernel's axes Evci et al. 2020, section 3 (ERK).
    """
    sizes = [math.prod(shape) for shape in shapes]
    total = round(connectivity * sum(sizes))
    full: set[int] = set()
    while True:
        left = total - sum(sizes[i] for i in full)
        common = left / max(sum(sum(shape) for i, shape in enumerate(shapes) if i not in full), 1)
        over = {i for i, shape in enumerate(shapes) if i not in full and common * sum(shape) > sizes[i]}
        if not over:
            break
        full |= over
    shares = [float(size) if i in full else common * sum(shapes[i]) for i, size in enumerate(sizes)]
    return whole_parts(shares, total, sizes)


def largest_of(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Bools of the values' shapes: exactly `count` of the largest of all."""
    flat = torch.cat([value.flatten() for value in values])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(count, sorted=False).indices] = True
    parts = chosen.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


@torch.no_grad()
def thin_out(weights: Sequence[nn.Parameter], connectivity: float, random: torch.Generator) -> list[Tensor]:
    """Masks with random synapses, as many in each layer as `erdos_renyi` says; the others' weights become 0.

    The weights that are left grow by 1 / sqrt(density), so that the sums keep their variance (ours: neurons with a
    tenth of their synapses would hardly ever reach the threshold).
    """
    masks = []
    for weight, count in zip(weights, erdos_renyi([weight.shape for weight in weights], connectivity), strict=True):
        (mask,) = largest_of([rand_like(weight, random)], count)
        weight.mul_(mask).mul_(math.sqrt(weight.numel() / max(count, 1)))
        masks.append(mask)
    return masks
