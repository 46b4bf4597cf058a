"""Untrained networks of a given size, made without a dense matrix anywhere. Same seed, same network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolchain.ir import LIF, Connection, Connectivity, Convolution, FloatSynapses, Graph, Pattern, make_input

STEPS = 16


def random_connectivity(random: np.random.Generator, n_sources: int, n_targets: int, density: float) -> Connectivity:
    """Every pair is connected with this probability: the gaps between connected pairs are geometric."""
    pairs = n_sources * n_targets
    if density >= 1:
        indptr = np.arange(n_sources + 1, dtype=np.int64) * n_targets
        return Connectivity(n_sources, n_targets, indptr, np.tile(np.arange(n_targets, dtype=np.int32), n_sources))
    parts, last = [], -1
    while last < pairs:
        at = last + np.cumsum(random.geometric(density, max(1000, int(pairs * density * 1.01)) // 8))
        parts.append(at)
        last = int(at[-1])
    chosen = np.concatenate(parts)
    chosen = chosen[: np.searchsorted(chosen, pairs)]
    indptr = np.searchsorted(chosen, np.arange(n_sources + 1, dtype=np.int64) * n_targets)
    return Connectivity(n_sources, n_targets, indptr.astype(np.int64), (chosen % n_targets).astype(np.int32))


@dataclass
class Builder:
    """A network that grows layer by layer, with normal weights and Grad R's neuron (tau 2).

    spread: standard deviation of a neuron's weights, times the square root of their number.
    """

    name: str
    shape: tuple[int, ...]
    seed: int = 0
    spread: float = 2.0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.input = make_input("rate", "input", int(np.prod(self.shape)))
        self.populations: list[LIF] = []
        self.connections: list[Connection] = []
        self.source = "input"

    def _add(self, name: str, pattern: Pattern, bias: bool) -> None:
        fan_in = max(1.0, pattern.n_synapses / pattern.n_targets)
        weights = self.random.normal(0.0, self.spread / np.sqrt(fan_in), pattern.n_weights).astype(np.float32)
        values = np.zeros(pattern.n_targets, np.float32)
        if bias:  # one a channel, as a convolution with a folded batch norm has it
            per_channel = self.random.normal(0.0, 0.05, pattern.target_shape[0]).astype(np.float32)
            values = np.repeat(per_channel, pattern.n_targets // len(per_channel))
        self.populations.append(LIF(name, pattern.n_targets, 1.0, 0.5, 1.0, 0.5, values))
        self.connections.append(Connection(f"{name}.weight", self.source, name, FloatSynapses(pattern, weights)))
        self.source, self.shape = name, pattern.target_shape

    def dense(self, name: str, n_targets: int, density: float = 1.0) -> None:
        n_sources = int(np.prod(self.shape))
        self._add(name, random_connectivity(self.random, n_sources, n_targets, density), bias=True)

    def convolution(
        self,
        name: str,
        channels: int,
        size: int = 3,
        stride: int = 1,
        padding: int = 1,
        density: float = 1.0,
        groups: int = 1,
    ) -> None:
        """A convolution with neurons; its synapses are drawn from all of the kernel's."""
        assert len(self.shape) == 3
        shape = (channels, self.shape[0] // groups, size, size)
        mask = self.random.random(shape) < density if density < 1 else np.ones(shape, bool)
        pattern, _ = Convolution.of(
            self.shape,  # type: ignore[arg-type]
            mask,
            stride=(stride, stride),
            padding=((padding, padding), (padding, padding)),
            groups=groups,
        )
        self._add(name, pattern, bias=True)

    def pool(self, name: str, size: int = 2) -> None:
        """Max pooling of spikes: a neuron that fires when any of its inputs does."""
        channels = self.shape[0]
        mask = np.ones((channels, 1, size, size), bool)
        pattern, _ = Convolution.of(self.shape, mask, stride=(size, size), groups=channels)  # type: ignore[arg-type]
        self.populations.append(
            LIF(name, pattern.n_targets, 0.5, 1.0, 1.0, 0.0, np.zeros(pattern.n_targets, np.float32))
        )
        synapses = FloatSynapses(pattern, np.ones(pattern.n_weights, np.float32))
        self.connections.append(Connection(f"{name}.weight", self.source, name, synapses))
        self.source, self.shape = name, pattern.target_shape

    def graph(self) -> Graph:
        return Graph(
            self.name, self.input, tuple(self.populations), tuple(self.connections), STEPS, {"seed": str(self.seed)}
        )


def layers(neurons: int, synapses: int, width: int = 1000) -> Graph:
    """Sparse dense layers of one width, `neurons` in all; about `synapses` synapses, the same part of the pairs in all.

    The width is one that a core of Loihi can listen to (4096 input axons), and whose layers are cut into so few slices
    that they may stand on different chips (1024 output axons of a core lead to other chips).
    """
    build = Builder(f"layers-{neurons}-{synapses}", (width,))
    count = max(1, neurons // width)
    for k in range(count):
        build.dense(f"fc{k + 1}", width, synapses / count / width**2)
    return build.graph()


def wide(neurons: int, synapses: int, count: int = 10) -> Graph:
    """The same in few wide layers: every core then holds the few neurons whose inputs fit its input axons."""
    return layers(neurons, synapses, neurons // count)


def vgg16(size: int = 224, density: float = 1.0, classes: int = 1000, hidden: int = 4096, dense: float = 0.01) -> Graph:
    """VGG-16: 13 convolutions of 3 x 3 in five blocks, each with a pooling; three dense layers, kept sparse."""
    build = Builder(f"vgg16-{size}", (3, size, size))
    for block, (channels, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1):
        for k in range(count):
            build.convolution(f"conv{block}_{k + 1}", channels, density=density)
        build.pool(f"pool{block}")
    for k, n in enumerate([hidden, hidden, classes], start=1):
        build.dense(f"fc{k}", n, dense)
    return build.graph()


def maps(size: int, channels: int = 16, count: int = 4, classes: int = 10) -> Graph:
    """Convolutions of 3 x 3 that keep the size of their map, and a dense layer that hears 20 neurons of the last one
    for each class: synapses grow with the map alone."""
    build = Builder(f"maps-{size}", (1, size, size))
    for k in range(count):
        build.convolution(f"conv{k + 1}", channels)
    build.dense("fc", classes, 20 / (channels * size * size))
    return build.graph()


def mobilenet(size: int = 224, classes: int = 1000) -> Graph:
    """MobileNet: a convolution with stride 2, then 13 times a depthwise and a pointwise one, and a dense layer.

    The average over the last map is taken by a neuron a channel.
    """
    build = Builder(f"mobilenet-{size}", (3, size, size))
    build.convolution("conv1", 32, stride=2)
    pairs = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024)]
    for k, (stride, channels) in enumerate(pairs, start=1):
        build.convolution(f"dw{k}", build.shape[0], stride=stride, groups=build.shape[0])
        build.convolution(f"pw{k}", channels, size=1, padding=0)
    build.convolution("average", build.shape[0], size=build.shape[1], padding=0, groups=build.shape[0])
    build.dense("fc", classes)
    return build.graph()


def cifar10(density: float = 0.0073, repeat: Sequence[int] = (3, 3), spread: float = 2.0) -> Graph:
    """The paper's CIFAR-10 network: (256C3-LIF) x 3, max pooling, x 3, max pooling, dense 2048, dense 100 (votes)."""
    build = Builder("cifar10-6conv", (3, 32, 32), spread=spread)
    for block, count in enumerate(repeat, start=1):
        for k in range(count):
            first = block == 1 and k == 0
            build.convolution(f"conv{block}_{k + 1}", 256, density=max(density, 0.1) if first else density)
        build.pool(f"pool{block}")
    build.dense("fc1", 2048, density)
    build.dense("fc2", 100, max(density, 0.02))
    return build.graph()


def synapses_of(graph: Graph) -> tuple[int, int, int]:
    """Neurons, synapses and stored weights."""
    patterns = [c.synapses.connectivity for c in graph.connections]
    return (
        sum(p.size for p in graph.populations),
        sum(p.n_synapses for p in patterns),
        sum(p.n_weights for p in patterns),
    )
