"""Layers of a .net file as ours, with their integers as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic
from toolchain.frontends import layers
from toolchain.frontends.netx_fields import Integers, Layer
from toolchain.ir import mantissa_range
from toolchain.ir.arithmetic import BIAS_LIMIT, DECAY_ONE, THRESHOLD_LIMIT
from toolchain.ir.weights import sign_mode_of

WEIGHT_BITS = 8
"""Of Loihi's weights."""
DELAY_MAX = 62
NEURON_FIELDS = ("type", "iDecay", "vDecay", "vThMant", "refDelay", "gradedSpike", "messageBits", "weight_exp")
IGNORED = ("wgtExp", "scaleRho", "tauRho", "theta")
"""Of training alone (theta is vThMant << 6); netx reads none of them."""
COMMON = ("type", "shape", "weight", "bias", "delay", "neuron")
DENSE = (*COMMON, "inFeatures", "outFeatures", "weight_rec")
CONV = (*COMMON, "inChannels", "outChannels", "kernelSize", "stride", "padding", "dilation", "groups")
REFUSED = {
    "average": "slayer does not export it and netx does not run it, so nothing says what it computes on the chip",
    "convT": "transposed convolutions are run by no netx and are no layer of ours",
    "unpool": "unpooling is a transposed convolution, run by no netx and no layer of ours",
    "concat": "netx reads no concatenation",
    "kwta": "neurons that stop each other within a step are no compartments of the chip",
    "dense_comp": "complex weights drive resonators, which are no neurons of ours",
}
"""What lava-dl 0.6.0 does with each: tests/data/netx/unread/answers.json."""
REMEDIES = {
    "average": "to count votes, let slayer.block.cuba.Affine(dynamics=False) be the last layer, with a weight of one "
    "from each neuron of a group to the group's output: the sums over the sample are in the ratio of the averages",
}
NEURON_REFUSED = {
    "SDNN": "sigma-delta neurons send differences as graded spikes, every step; ours send binary ones",
    "ALIF": "an adaptive threshold is a state that our compartments do not have",
    "RF": "resonators have a complex state that our compartments do not have",
    "ADRF": "resonators have a complex state that our compartments do not have",
}


@dataclass(eq=False)
class Reader:
    """Makes nodes layer by layer. last: the name of what the next layer reads, `shape` its axes."""

    last: str
    shape: tuple[int, ...]
    found: list[Diagnostic]

    def nodes(self, layer: Layer, *, last: bool) -> Iterator[layers.Node]:
        """What a layer stands for.

        Raises:
            SnncError: a kind, field or value that we cannot represent exactly.
        """
        if layer.kind not in KINDS:
            raise layer.refuse(
                "a layer that no network of ours computes",
                "type",
                got=f"{layer.kind}: {REFUSED[layer.kind]}" if layer.kind in REFUSED else layer.kind,
                allowed=", ".join(KINDS),
                remedy=REMEDIES.get(layer.kind),
            )
        yield from KINDS[layer.kind](self, layer, last)

    # The kinds.

    def flatten(self, layer: Layer, last: bool) -> Iterator[layers.Node]:
        layer.known(("type", "shape"))
        yield self._then(layers.Flatten(name=layer.name, inputs=(self.last,), place=layer.place), (self._size,))

    def dense(self, layer: Layer, last: bool) -> Iterator[layers.Node]:
        layer.known(DENSE)
        outputs = math.prod(layer.shape("shape"))
        if len(self.shape) > 1:
            # netx reads a map in the order channel, row, column where a flatten stands before the layer; without one
            # it refuses the shapes, so that nothing is guessed.
            if self.shape[1:] != (1, 1):
                raise layer.refuse(
                    "a dense layer reads one axis",
                    "shape",
                    got=f"a map of {self.shape}",
                    remedy="put slayer.block.cuba.Flatten() before it",
                )
            flat = layers.Flatten(name=f"{layer.name}.flat", inputs=(self.last,), place=layer.place)
            yield self._then(flat, (self._size,))
        weight = self._matrix(layer, "weight", outputs, self._size)
        delay = self._delays(layer, weight.shape)
        recurrent = None
        if layer.kind == "dense_rec":
            if delay.any():
                raise layer.refuse(
                    "a delay in a recurrent layer",
                    "delay",
                    got=f"up to {int(delay.max())} steps",
                    allowed=0,
                    remedy="train without delays: slayer delays what the layer sends; netx does not run it, or, where "
                    "the layer is as wide as what it reads, delays what it and its loop read",
                )
            back = self._matrix(layer, "weight_rec", outputs, outputs)
            every = np.ones(back.shape, bool)
            recurrent = layers.Recurrence(self._linear(f"{layer.name}.recurrent", layer, "weight_rec", back, every))
        parts: list[str] = []
        bias = self._bias(layer, outputs)
        for steps in np.unique(delay).tolist():
            name = f"{layer.name}.weight" + (f".delay{steps}" if steps else "")
            if steps:
                late = layers.Delay(name=f"{name}.late", inputs=(self.last,), steps=int(steps), place=layer.place)
                yield late
            source = f"{name}.late" if steps else self.last
            own = None if parts else bias
            yield self._linear(name, layer, "weight", weight, delay == steps, source, own)
            parts.append(name)
        if len(parts) > 1:
            yield layers.Add(name=f"{layer.name}.sum", inputs=tuple(parts), place=layer.place)
        summed = f"{layer.name}.sum" if len(parts) > 1 else parts[0]
        yield from self._neurons(layer, summed, (outputs,), last, recurrent)

    def conv(self, layer: Layer, last: bool) -> Iterator[layers.Node]:
        layer.known(CONV)
        kernel = self._kernel(layer, "weight")
        yield from self._convolved(layer, kernel, layer.whole("groups", 1), last)

    def pool(self, layer: Layer, last: bool) -> Iterator[layers.Node]:
        """Sums over windows with one kernel for all channels, into neurons."""
        layer.known(CONV)
        kernel = self._kernel(layer, "weight")
        if kernel.shape[:2] != (1, 1) or len(self.shape) != 3:
            raise layer.refuse(
                "a pooling has one kernel for all channels", "weight", got=kernel.shape, allowed="(1, 1, y, x)"
            )
        for axis, name in ((1, "height"), (2, "width")):
            if self.shape[axis] % kernel.shape[axis + 1]:
                raise layer.refuse(
                    f"slayer pads a map whose {name} the window does not divide, by a rule of its own",
                    "kernelSize",
                    got=f"{name} {self.shape[axis]}, window {kernel.shape[axis + 1]}",
                    remedy="let the window divide the map",
                )
        channels = self.shape[0]
        yield from self._convolved(layer, np.repeat(kernel, channels, axis=0), channels, last)

    # What they share.

    @property
    def _size(self) -> int:
        return math.prod(self.shape)

    def _then(self, node: layers.Node, shape: tuple[int, ...]) -> layers.Node:
        self.last, self.shape = node.name, shape
        return node

    def _kernel(self, layer: Layer, field: str) -> Integers:
        """(out, in / groups, y, x); slayer keeps an axis of time behind."""
        kernel = layer.integers(field, (4, 5))
        if kernel.ndim == 5 and kernel.shape[4] != 1:
            raise layer.refuse("a kernel over time is no synapse", field, got=kernel.shape, allowed="(..., 1)")
        return kernel.reshape(kernel.shape[:4])

    def _convolved(self, layer: Layer, kernel: Integers, groups: int, last: bool) -> Iterator[layers.Node]:
        if layer.has("delay") and layer.integers("delay", (0, 1)).any():
            raise layer.refuse(
                "delays behind a convolution", "delay", allowed=0, remedy="netx leaves them out: train without delays"
            )
        pads = layer.pair("padding", 0, 0)
        name = f"{layer.name}.weight"
        yield layers.Conv2d(
            name=name,
            inputs=(self.last,),
            place=layer.place,
            mask=kernel != 0,
            stride=layer.pair("stride", 1, 1),
            padding=((pads[0], pads[0]), (pads[1], pads[1])),
            dilation=layer.pair("dilation", 1, 1),
            groups=groups,
            bias=self._bias(layer, len(kernel)),
            **self._grid(layer, "weight", kernel),
        )
        yield from self._neurons(layer, name, layer.shape("shape"), last)

    def _matrix(self, layer: Layer, field: str, outputs: int, inputs: int) -> Integers:
        if layer.has(f"{field}/imag") or layer.has(f"{field}/real"):
            raise layer.refuse("complex weights drive resonators, which are no neurons of ours", field)
        weight = layer.integers(field, (1, 2))
        if weight.size != outputs * inputs:
            raise layer.refuse("layer sizes do not chain", field, got=weight.shape, allowed=(outputs, inputs))
        return weight.reshape(outputs, inputs)

    def _linear(
        self,
        name: str,
        layer: Layer,
        field: str,
        weight: Integers,
        chosen: NDArray[np.bool_],
        source: str | None = None,
        bias: NDArray[np.float64] | None = None,
    ) -> layers.Linear:
        grid = self._grid(layer, field, weight)
        inputs, mask = (self.last if source is None else source,), chosen & (weight != 0)
        return layers.Linear(name=name, inputs=inputs, place=layer.place, mask=mask, bias=bias, **grid)

    def _grid(self, layer: Layer, field: str, weight: Integers) -> dict[str, Any]:
        """Weights with the coarsest step that is a power of two: mantissa * 2**exponent, the mantissa of 8 bits."""
        used = weight[weight != 0]
        exponent = 0
        if used.size:
            together = int(np.bitwise_or.reduce(np.abs(used)))
            exponent = (together & -together).bit_length() - 1
            low, high = mantissa_range(sign_mode_of(used), WEIGHT_BITS)
            # No coarser than the mantissas need: netx too keeps weights that fit as they are.
            least, most = int(used.min()), int(used.max())
            fits = [e for e in range(exponent + 1) if low << e <= least and most <= high << e]
            if not fits:
                raise layer.refuse(
                    "the weights need more than the 8 bits of a mantissa",
                    field,
                    got=f"{least} to {most}, multiples of {1 << exponent}",
                    allowed=f"{low} to {high} times a power of two that divides all of them",
                    remedy="export with slayer's own quantise hook (pre_hook_fx), which leaves even numbers",
                )
            exponent = fits[0]
        return {
            "weight": weight.astype(np.float32),
            "weight_step": float(1 << exponent),
            "weight_bits": WEIGHT_BITS,
            "weight_exponent": exponent,
        }

    def _delays(self, layer: Layer, shape: tuple[int, int]) -> Integers:
        """Steps that each synapse waits, of shape (outputs, inputs), as netx reads the field."""
        if not layer.has("delay"):
            return np.zeros(shape, np.int64)
        delay = layer.integers("delay", (0, 1, 2))
        if int(delay.min()) < 0 or int(delay.max()) > DELAY_MAX:
            worst = int(delay.max()) if int(delay.max()) > DELAY_MAX else int(delay.min())
            raise layer.refuse("a delay that no synapse has", "delay", got=worst, allowed=f"0 to {DELAY_MAX} steps")
        outputs, inputs = shape
        if delay.ndim == 1 and delay.size == outputs:
            delay = delay.reshape(-1, 1)
        elif delay.ndim == 1 and delay.size != inputs:
            raise layer.refuse("one delay for each output or input", "delay", got=delay.shape, allowed=shape)
        if delay.ndim == 2 and delay.shape not in (shape, (outputs, 1)):
            raise layer.refuse("one delay for each synapse", "delay", got=delay.shape, allowed=shape)
        return np.broadcast_to(delay, shape)

    def _neurons(
        self,
        layer: Layer,
        read: str,
        shape: tuple[int, ...],
        last: bool,
        recurrent: layers.Recurrence | None = None,
    ) -> Iterator[layers.Node]:
        if not layer.has("neuron"):
            if not last:
                raise layer.refuse("a layer without neurons sends nothing", "neuron", allowed="as the last layer alone")
            message = "the layer has no neurons: its sums add up over the sample, and the highest is the decision"
            layer.note("NTX003", message, math.prod(shape))
            parts: dict[str, Any] = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.0, "reset": "none"}
        else:
            parts = self._registers(layer, shape, last)
        made = layers.Neuron(name=layer.name, inputs=(read,), place=layer.place, gain=1.0, recurrent=recurrent, **parts)
        yield self._then(made, shape)

    def _bias(self, layer: Layer, outputs: int) -> NDArray[np.float64] | None:
        """One for each output, or each channel of a map."""
        if not layer.has("bias"):
            return None
        bias = layer.integers("bias", (0, 1))
        most = int(np.abs(bias).max())
        if most > BIAS_LIMIT:
            raise layer.refuse("a bias beyond the register", "bias", got=most, allowed=f"magnitude up to {BIAS_LIMIT}")
        if bias.size not in (1, outputs):
            raise layer.refuse("one bias for each channel", "bias", got=bias.shape, allowed=(outputs,))
        return np.broadcast_to(bias.reshape(-1), (outputs,)).astype(np.float64)

    def _registers(self, layer: Layer, shape: tuple[int, ...], last: bool) -> dict[str, Any]:
        kind = layer.text("neuron/type")
        if kind not in ("CUBA", "LOIHI"):
            known = next((why for word, why in NEURON_REFUSED.items() if kind.startswith(word)), "unknown")
            raise layer.refuse(
                "neurons that we cannot represent", "neuron/type", got=f"{kind}: {known}", allowed="CUBA, LOIHI"
            )
        layer.known((*NEURON_FIELDS, *IGNORED), "neuron")
        for field, why in (
            ("gradedSpike", "spikes with a payload between layers"),
            ("messageBits", "spikes with a payload between layers"),
            ("weight_exp", "a normalisation scaled these sums in training, and netx leaves that out"),
        ):
            if layer.has(f"neuron/{field}") and layer.integers(f"neuron/{field}", (0, 1)).any():
                raise layer.refuse(why, f"neuron/{field}", got=layer.integers(f"neuron/{field}", (0, 1)), allowed=0)
        decays = {}
        for field, ours, low, high in (
            ("iDecay", "current_decay", 1, DECAY_ONE),
            ("vDecay", "voltage_decay", 0, DECAY_ONE - 1),
        ):
            value = layer.integers(f"neuron/{field}", (0, 1))
            if int(value.min()) < low or int(value.max()) > high:
                raise layer.refuse(
                    "a decay that no register holds",
                    f"neuron/{field}",
                    got=int(value.min()) if int(value.min()) < low else int(value.max()),
                    allowed=f"{low} to {high} of 4096",
                )
            if value.size > 1:
                value = value.reshape(-1, *(1 for _ in shape[1:]))
            decays[ours] = float(value.reshape(-1)[0]) / DECAY_ONE if value.size == 1 else value / DECAY_ONE
        return {**decays, **self._threshold(layer, shape, last), "refractory": self._refractory(layer)}

    def _threshold(self, layer: Layer, shape: tuple[int, ...], last: bool) -> dict[str, Any]:
        threshold = layer.whole("neuron/vThMant")
        if threshold < 1:
            raise layer.refuse(
                "a threshold below 1 is no neuron's", "neuron/vThMant", got=threshold, allowed="1 or more"
            )
        if threshold <= THRESHOLD_LIMIT:
            return {"threshold": float(threshold)}
        # v ends at 2**23 - 1, below such a threshold: the neurons never spike.
        if not last:
            raise layer.refuse(
                "neurons that can never spike lead nowhere",
                "neuron/vThMant",
                got=threshold,
                allowed=f"1 to {THRESHOLD_LIMIT}",
            )
        layer.note("NTX003", f"a threshold of {threshold} is never reached: taken as a readout", math.prod(shape))
        return {"threshold": 1.0, "reset": "none"}

    def _refractory(self, layer: Layer) -> int:
        """The register counts the step of the spike itself, so that 1 is no wait at all."""
        stored = layer.whole("neuron/refDelay", 1)
        if not 1 <= stored <= 63:
            raise layer.refuse(
                "a refractory delay that no register holds", "neuron/refDelay", got=stored, allowed="1 to 63"
            )
        if stored > 1:
            layer.note(
                "NTX004", f"refDelay {stored}: neurons wait {stored - 1} steps after a spike; netx leaves it out"
            )
        return stored - 1


KINDS: dict[str, Callable[[Reader, Layer, bool], Iterator[layers.Node]]] = {
    "flatten": Reader.flatten,
    "dense": Reader.dense,
    "dense_rec": Reader.dense,
    "conv": Reader.conv,
    "pool": Reader.pool,
}
"""Kind of layer in the file -> what makes nodes of it."""
