"""Synapses with their weights: floats in physical units, or integers as a chip holds them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir.pattern import Pattern

SIGN_MODES = ("mixed", "excitatory", "inhibitory")


def mantissa_range(sign_mode: str, weight_bits: int) -> tuple[int, int]:
    """Smallest and largest mantissa of a sign mode: 'mixed' spends one of its bits on the sign.

    Raises:
        SnncError: an unknown sign mode, or bits that it does not have (mixed 2 to 8, others 1 to 8).
    """
    lowest = 2 if sign_mode == "mixed" else 1
    if sign_mode not in SIGN_MODES or not lowest <= weight_bits <= 8:
        raise SnncError(
            "no such weight format",
            got=f"sign mode {sign_mode!r}, {weight_bits} bits",
            allowed="mixed with 2 to 8 bits, excitatory or inhibitory with 1 to 8 bits",
        )
    if sign_mode == "mixed":
        return -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1
    top = (1 << weight_bits) - 1
    return (0, top) if sign_mode == "excitatory" else (-top, 0)


def stored_shift(sign_mode: str, weight_bits: int) -> int:
    """How far to the left of its lowest place a narrow mantissa is stored; the exponent register counts from there.

    A weight field is 8 bits wide, and a mixed weight spends one more place on its sign (Loihi: the number of low
    bits lost). So `register = exponent - stored_shift`.
    """
    return (9 if sign_mode == "mixed" else 8) - weight_bits


def sign_mode_of(mantissa: NDArray[np.integer]) -> str:
    """The narrowest sign mode that holds these mantissas."""
    if not len(mantissa) or int(mantissa.min()) >= 0:
        return "excitatory"
    return "inhibitory" if int(mantissa.max()) <= 0 else "mixed"


@dataclass(frozen=True, eq=False)
class FloatSynapses:
    """Weights in physical units, float32, shape (connectivity.n_weights,), in the pattern's order."""

    connectivity: Pattern
    weights: NDArray[np.float32]

    def verify(self, where: str) -> None:
        """Raise SnncError unless there is a finite weight for each that the pattern stores."""
        self.connectivity.verify(where)
        if self.weights.shape != (self.connectivity.n_weights,):
            raise SnncError(
                "weights and synapses differ in number",
                where=where,
                got=self.weights.shape,
                allowed=(self.connectivity.n_weights,),
            )
        bad = ~np.isfinite(self.weights)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise SnncError(
                f"{int(bad.sum())} weights are NaN or infinite",
                where=f"{where}, first at {self.connectivity.describe(at)}",
                got=float(self.weights[at]),
                allowed="finite numbers",
                remedy="train again with a smaller learning rate, or repair the checkpoint",
            )


@dataclass(frozen=True, eq=False)
class IntegerSynapses:
    """Weights as a chip holds them: `weight = mantissa * 2**exponent`, with one exponent for the connection.

    mantissa: int16, shape (connectivity.n_weights,), in `mantissa_range(sign_mode, weight_bits)`. The exponent is not
    negative, so that no bit is ever shifted out: Lava shifts the sum where a chip shifts each weight, and only
    lossless shifts make the two agree.
    """

    connectivity: Pattern
    mantissa: NDArray[np.int16]
    exponent: int
    weight_bits: int
    sign_mode: str

    @property
    def values(self) -> NDArray[np.int64]:
        """The integer weights, exponent applied."""
        return self.mantissa.astype(np.int64) << self.exponent

    def keep(self, sources: NDArray[np.bool_], targets: NDArray[np.bool_]) -> IntegerSynapses:
        """The synapses between the marked neurons."""
        connectivity, kept = self.connectivity.select(sources, targets)
        return replace(self, connectivity=connectivity, mantissa=self.mantissa[kept])

    def keep_weights(self, weights: NDArray[np.bool_]) -> IntegerSynapses:
        """The synapses of the marked weights."""
        return replace(self, connectivity=self.connectivity.keep_weights(weights), mantissa=self.mantissa[weights])

    def verify(self, where: str) -> None:
        """Raise SnncError unless every mantissa lies in the range of its format."""
        self.connectivity.verify(where)
        low, high = mantissa_range(self.sign_mode, self.weight_bits)
        if self.mantissa.shape != (self.connectivity.n_weights,):
            raise SnncError(
                "mantissas and synapses differ in number",
                where=where,
                got=self.mantissa.shape,
                allowed=(self.connectivity.n_weights,),
            )
        if self.exponent < 0:
            raise SnncError("negative weight exponent", where=where, got=self.exponent, allowed="0 or more")
        if len(self.mantissa) and not (low <= int(self.mantissa.min()) and int(self.mantissa.max()) <= high):
            raise SnncError(
                "a weight mantissa is out of range",
                where=where,
                got=f"{int(self.mantissa.min())}..{int(self.mantissa.max())}",
                allowed=f"{low}..{high} ({self.sign_mode}, {self.weight_bits} bits)",
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, IntegerSynapses)
            and self.connectivity == other.connectivity
            and (self.exponent, self.weight_bits, self.sign_mode)
            == (other.exponent, other.weight_bits, other.sign_mode)
            and np.array_equal(self.mantissa, other.mantissa)
        )

    __hash__ = None  # type: ignore[assignment]
