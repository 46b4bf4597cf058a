"""The order in which slices fill chips: along the network, or across it, so that few axons cross."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolchain.mapping.packing import Packer
from toolchain.mapping.slices import Slice
from toolchain.mapping.wiring import Edges, Wiring

BLOCKS = (1, 2, 3, 4, 8)
"""Populations in a row whose slices are mixed by position; and all of them."""

MOST_PAIRS = 4_000_000
"""Pairs of slices that send to each other up to which orders are compared, which looks at every pair some 50 times.

Where there are more, every slice hears nearly all of the layer before, and no order keeps its axons on a chip."""

ROUNDS = 4


def best_orders(wiring: Wiring, packer: Packer) -> list[list[int]]:
    """Orders of all slices, the most promising first: fewest chips, then least room, then fewest axons that cross.

    Room is estimated: chips hold slices in this order up to their number of cores, and a slice takes as much of a core
    as its most used limit, its axons to other chips included.
    """
    network = np.arange(len(wiring.slices))
    edges = wiring.edges
    if len(edges.axons) > MOST_PAIRS:
        return [network.tolist()]
    found: dict[bytes, tuple[tuple[int, int, int], int, NDArray[np.int64]]] = {}
    for number, order in enumerate([network, *_across(wiring)]):
        if order.tobytes() not in found:
            found[order.tobytes()] = _judge(order, edges, packer), number, order
    ranked = sorted(found.values(), key=lambda each: each[:2])
    return [order.tolist() for _, _, order in ranked]


def _judge(order: NDArray[np.int64], edges: Edges, packer: Packer) -> tuple[int, int, int]:
    """Chips, cores' worth of room, and axons that cross, for slices placed in an order."""
    need = packer.base.max(axis=1, initial=0.0)
    crossing = np.zeros(len(order), np.int64)
    for _ in range(ROUNDS):
        taken = need if packer.share else np.maximum(1.0, np.ceil(need))
        end = np.cumsum(taken[order])
        chips = np.empty(len(order), np.int64)
        chips[order] = ((end - taken[order] / 2) / packer.capacity).astype(np.int64)
        crossing = edges.crossing(chips)
        need = (packer.base + crossing[:, None] * packer.slope).max(axis=1, initial=0.0)
    return int(chips.max(initial=0)) + 1, int(np.ceil(need.sum())), int(crossing.sum())


def _across(wiring: Wiring) -> list[NDArray[np.int64]]:
    """Orders in which blocks of populations are mixed: by rows of their maps, and by tiles of rows and columns."""
    names = list(wiring.by_population)
    rank = {name: k for k, name in enumerate(names)}
    place = np.array([_position(s) for s in wiring.slices])
    flat = np.array([len(s.region.shape) == 1 for s in wiring.slices])
    ways = (place[:, 0], np.where(flat, place[:, 0], _tile(place[:, 0], place[:, 1])))
    population = np.array([rank[s.population] for s in wiring.slices])
    blocks = [*(b for b in BLOCKS if b < len(names)), len(names)]
    return [
        np.lexsort((np.arange(len(place)), population, way, (population + shift) // block))
        for block in blocks
        for shift in sorted({0, -len(names) % block})  # blocks from the first layer on, or up to the last
        for way in ways
    ]


def _position(s: Slice) -> tuple[float, float]:
    """The middle of a slice, as a part of the population's rows and columns (0 to 1)."""
    middles = [(a + b) / 2 / n for (a, b), n in zip(s.region.ranges, s.region.shape, strict=True)]
    return (middles[0], middles[0]) if len(middles) == 1 else (middles[1], middles[2])


def _tile(down: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """A number (0 to 1) by which neighbours in the plane stand near each other: bits of row and column in turns."""
    bits = 8
    rows, columns = ((np.clip(x, 0, 1 - 1e-9) * (1 << bits)).astype(np.int64) for x in (down, right))
    out = np.zeros(len(rows), np.int64)
    for bit in range(bits):
        out |= ((columns >> bit) & 1) << (2 * bit) | ((rows >> bit) & 1) << (2 * bit + 1)
    return out / (1 << 2 * bits)
