"""Networks whose deployments were published, with random weights: their accounts do not ask for others."""

from __future__ import annotations

import math

import numpy as np

from toolchain.ir import (
    Compartments,
    Connectivity,
    Convolution,
    IntegerConnection,
    IntegerSynapses,
    Pattern,
    Program,
    make_input,
)

Pads = tuple[tuple[int, int], tuple[int, int]]


def same(n: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding of "same" as NxTF computes it."""
    total = stride * (math.ceil(n / stride) - 1) + kernel - n
    return total // 2, total // 2 + (total % 2 if kernel > 1 else 0)


class Layers:
    """A chain of layers, one after another. reset: of all neurons."""

    def __init__(self, name: str, shape: tuple[int, ...], *, reset: str = "zero", coding: str = "graded") -> None:
        self.name, self.shape, self.reset, self.bits = name, shape, reset, 8
        self.input = make_input(coding, "input", int(np.prod(shape)))
        self.random = np.random.default_rng(0)
        self.populations: list[Compartments] = []
        self.connections: list[IntegerConnection] = []

    def add(self, pattern: Pattern | None, shape: tuple[int, ...]) -> Layers:
        """A population, fed by the last one; or, without a pattern, one that stands for inputs made on the chip."""
        source = self.populations[-1].name if self.populations else "input"
        name, size = f"layer{len(self.populations)}", int(np.prod(shape))
        self.populations.append(Compartments(name, size, 4096, 0, 100, np.zeros(size, np.int16), reset=self.reset))
        if pattern is not None:
            half = 1 << (self.bits - 1)
            mantissa = self.random.integers(-half + 1, half, pattern.n_weights)
            mantissa[mantissa == 0] = 1
            synapses = IntegerSynapses(pattern, mantissa.astype(np.int16), 0, self.bits, "mixed")
            self.connections.append(IntegerConnection(f"{name}.weight", source, name, synapses))
        self.shape = shape
        return self

    def conv(
        self, outputs: int, kernel: int, stride: int = 1, pads: Pads | str = "valid", *, depthwise: bool = False
    ) -> Layers:
        channels, height, width = self.shape
        if pads == "same":
            pads = (same(height, kernel, stride), same(width, kernel, stride))
        elif pads == "valid":
            pads = ((0, 0), (0, 0))
        mask = np.ones((outputs, 1 if depthwise else channels, kernel, kernel), bool)
        pattern, _ = Convolution.of(
            (channels, height, width),
            mask,
            stride=(stride, stride),
            padding=pads,  # type: ignore[arg-type]
            groups=channels if depthwise else 1,
        )
        return self.add(pattern, pattern.target)

    def depthwise(self, stride: int = 1) -> Layers:
        return self.conv(self.shape[0], 3, stride, "same", depthwise=True)

    def pool(self, size: int) -> Layers:
        return self.conv(self.shape[0], size, size, depthwise=True)

    def dense(self, outputs: int) -> Layers:
        return self.add(Connectivity.from_mask(np.ones((outputs, int(np.prod(self.shape))), bool)), (outputs,))

    def program(self) -> Program:
        return Program(self.name, self.input, tuple(self.populations), tuple(self.connections), 8)


def dvs_gesture() -> Program:
    """32x32x1: 16c3s2, 32c3, 64c3, 11c3, dense11; valid padding, hard reset, inputs made on the chip."""
    made = Layers("dvs gesture", (1, 32, 32), coding="rate")
    return made.conv(16, 3, 2).conv(32, 3).conv(64, 3).conv(11, 3).dense(11).program()


def mobilenet(reset: str = "subtract") -> Program:
    """CIFAR-10, 32x32x3; the first population stands for the input neurons, which reset by subtraction like all."""
    made = Layers("mobilenet", (3, 32, 32), reset=reset).add(None, (3, 32, 32))
    made.conv(32, 3, 2, "same").depthwise().conv(64, 1).depthwise(2).conv(128, 1).depthwise().conv(128, 1)
    return made.depthwise(2).conv(256, 1).depthwise().conv(256, 1).pool(2).dense(10).program()


def key_point_yolo() -> Program:
    """448x448x3. Bits of the weights as the published words of each layer show them."""
    made = Layers("yolo", (3, 448, 448))
    for outputs, kernel, stride, bits in (
        (16, 3, 2, 7),
        (32, 3, 2, 7),
        (64, 3, 2, 5),
        (128, 3, 2, 5),
        (256, 3, 1, 5),
        (256, 3, 2, 4),
        (512, 3, 1, 5),
        (256, 1, 1, 5),
        (512, 3, 1, 5),
        (48, 1, 1, 7),
    ):
        made.bits = bits
        edge = kernel // 2
        made.conv(outputs, kernel, stride, ((edge, edge), (edge, edge)))
    return made.program()


def pilot_net() -> Program:
    """200x66x3, inputs made on the chip; the maps and the first dense layer. Bits of the weights as for the YOLO."""
    made = Layers("pilot net", (3, 66, 200)).add(None, (3, 66, 200))
    for outputs, stride, pad, bits in (
        (24, (2, 2), 0, 7),
        (36, (2, 2), 0, 6),
        (48, (2, 2), 0, 6),
        (64, (2, 1), 1, 4),
        (64, (1, 1), 0, 4),
    ):
        made.bits = bits
        mask = np.ones((outputs, made.shape[0], 3, 3), bool)
        pads = ((pad, pad), (0, 0))
        pattern, _ = Convolution.of(made.shape, mask, stride=stride, padding=pads)  # type: ignore[arg-type]
        made.add(pattern, pattern.target)
    made.bits = 8
    return made.dense(100).program()
