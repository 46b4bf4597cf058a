"""Layers become a graph that computes the same: against torch, step by step; and what is refused, in which words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.backends import physical
from toolchain.frontends.layers import (
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    MaxPool,
    Neuron,
    Node,
    Recurrence,
    Reshape,
    Scale,
    SumPool,
    lower,
)
from toolchain.ir import make_input

pytest.importorskip("torch")
from stepwise import simulate


class Maker:
    """Draws layers one behind another. Weights are multiples of 1/8, so that no sum in a step is ever rounded and a
    spike at the threshold's edge cannot come out differently."""

    def __init__(self, data: st.DataObject, shape: tuple[int, ...]) -> None:
        self.data = data
        self.random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[Node] = []
        self.shape = shape
        self.last = "input"
        self.spikes: list[tuple[str, tuple[int, ...]]] = []
        self.without_bias = data.draw(st.integers(0, 2)) == 0

    def draw(self, strategy):
        return self.data.draw(strategy)

    def grown(self, kind, axes=None, inputs=None, **options) -> str:
        name = f"{kind.__name__.lower()}{len(self.nodes)}"
        self.nodes.append(kind(name=name, inputs=inputs or (self.last,), **options))
        self.last, self.shape = name, axes or self.shape
        return name

    def weights(self, *shape: int):
        weight = self.random.integers(-8, 9, shape) / 8
        return {"weight": weight.astype(np.float32), "mask": self.random.random(shape) < 0.7}

    def bias(self, n: int):
        return (self.random.integers(-4, 5, n) / 8).astype(np.float32) if self.draw(self.biased) else None

    @property
    def biased(self):
        return st.just(False) if self.without_bias else st.booleans()

    def conv(self, *, keep: bool = False, bias: bool = True) -> None:
        channels, *extent = self.shape
        size = [self.draw(st.integers(1, 3)) for _ in range(2)]
        dilation = [1 if keep else self.draw(st.integers(1, 2)) for _ in range(2)]
        stride = [1 if keep else self.draw(st.integers(1, 2)) for _ in range(2)]
        padding = [
            ((k - 1) // 2, k // 2) if keep else tuple(self.draw(st.integers(0, 2)) for _ in range(2)) for k in size
        ]
        groups = self.draw(st.sampled_from([g for g in (1, channels) if channels % g == 0]))
        outputs = channels if keep else groups * self.draw(st.integers(1, 3))
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
        out = [(n + sum(p) - span) // s + 1 for n, p, span, s in zip(extent, padding, spans, stride, strict=True)]
        if min(n + sum(p) - span for n, p, span in zip(extent, padding, spans, strict=True)) < 0:
            return
        self.grown(
            Conv2d,
            (outputs, *out),
            **self.weights(outputs, channels // groups, *size),
            bias=self.bias(outputs) if bias else None,
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
        )

    def linear(self, outputs: int | None = None, bias: bool = True) -> None:
        if len(self.shape) == 3:
            self.flatten()
        outputs = outputs or self.draw(st.integers(1, 6))
        self.grown(
            Linear, (outputs,), **self.weights(outputs, self.shape[0]), bias=self.bias(outputs) if bias else None
        )

    def flatten(self) -> None:
        self.grown(Flatten, (int(np.prod(self.shape)),))

    def fold(self) -> None:
        """The same numbers as a map of other axes."""
        n = int(np.prod(self.shape))
        height = self.draw(st.sampled_from([k for k in (1, 2, 3, 4) if n % k == 0]))
        shape = (1, height, n // height) if self.draw(st.booleans()) else (n // height, height, 1)
        self.grown(Reshape, shape, shape=shape)

    def norm(self) -> None:
        n = self.shape[0]
        self.grown(BatchNorm, scale=self.random.choice([-1.0, 0.5, 1, 2], n), shift=self.shift(n))

    def shift(self, n: int):
        return np.zeros(n) if self.without_bias else self.random.integers(-2, 3, n) / 4

    def scale(self) -> None:
        self.grown(Scale, factor=self.draw(st.sampled_from((-1.0, 0.5, 2.0))), shift=float(self.shift(1)[0]))

    def pool(self, kind) -> None:
        channels, *extent = self.shape
        kernel = [self.draw(st.sampled_from([k for k in (1, 2, 4) if k <= n])) for n in extent]
        stride = [self.draw(st.integers(1, 3)) for _ in range(2)]
        padding = [self.draw(st.integers(0, k // 2)) for k in kernel]
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(extent, padding, kernel, stride, strict=True)]
        self.grown(kind, (channels, *out), kernel=tuple(kernel), stride=tuple(stride), padding=tuple(padding))

    def affine(self) -> None:
        """One layer without neurons."""
        choices = [self.linear, self.norm, self.scale, self.flatten, self.fold]
        if len(self.shape) == 3:
            choices += [self.conv, self.conv, self.conv, lambda: self.pool(AvgPool), lambda: self.pool(SumPool)]
        self.draw(st.sampled_from(choices))()

    def branch(self) -> None:
        """Two paths from here that meet in a sum or side by side."""
        start, shape = self.last, self.shape
        paths = []
        for _ in range(2):
            self.last, self.shape = start, shape
            if len(shape) == 3 and self.draw(st.booleans()):
                self.conv(keep=True)
            elif len(shape) == 1 and self.draw(st.booleans()):
                self.linear(shape[0])
            elif self.draw(st.booleans()):
                self.norm()
            paths.append(self.last)
        self.last, self.shape = paths[0], shape
        if self.draw(st.booleans()):
            self.grown(Add, inputs=tuple(paths))
        else:
            self.grown(Concat, (2 * shape[0], *shape[1:]), inputs=tuple(paths))

    def neurons(self, **changes) -> None:
        per_neuron = self.draw(st.sampled_from(("one", "channel", "each")))
        axes = {"one": (), "channel": (self.shape[0],) + (1,) * (len(self.shape) - 1), "each": self.shape}[per_neuron]
        reset = self.draw(st.sampled_from(("zero", "subtract")))
        options = {
            "threshold": self.random.choice([0.5, 1.0, 1.5], axes),
            "gain": self.random.choice([0.5, 1.0], axes),
            "current_decay": self.random.choice([0.5, 1.0], axes) if self.without_bias else 1.0,
            "filters_bias": True,
            "voltage_decay": self.random.choice([0.0, 0.5], axes),
            "reset": reset,
            "refractory": self.draw(st.integers(0, 2)) if reset == "zero" else 0,
        }
        start, shape, nodes = self.last, self.shape, self.nodes
        if self.draw(st.integers(0, 2)) == 0:
            self.nodes = []
            self.conv(keep=True) if len(shape) == 3 else self.linear(shape[0])
            layer = replace(self.nodes[0], name=f"recurrent{len(nodes)}")
            options["recurrent"] = Recurrence(layer, self.draw(st.integers(1, 3)))
            self.nodes, self.last, self.shape = nodes, start, shape
        self.grown(Neuron, **options | changes)
        self.spikes.append((self.last, self.shape))

    def after_spikes(self) -> None:
        """What may follow spikes alone."""
        if len(self.shape) == 3 and self.draw(st.integers(0, 2)) == 0:
            self.pool(MaxPool)
        if self.draw(st.integers(0, 2)) == 0:
            self.grown(Delay, steps=self.draw(st.integers(0, 3)))
        earlier = [name for name, shape in self.spikes[:-1] if shape == self.shape]
        if earlier and self.draw(st.booleans()):
            self.grown(Add, inputs=(self.last, earlier[-1]))


@settings(max_examples=150)
@given(st.data())
def test_a_lowered_graph_computes_what_its_layers_compute(data):
    maps = data.draw(st.booleans())
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6)))
    shape = shape if maps else (data.draw(st.integers(1, 8)),)
    coding = data.draw(st.sampled_from(("rate", "graded", "current")))
    steps = data.draw(st.integers(1, 6))
    maker = Maker(data, shape)
    source = make_input(
        coding,
        "input",
        int(np.prod(shape)),
        scale=1.0 if coding == "rate" else 1 / 64,
        offset=0.25 if coding == "current" else 0.0,
    )
    for _ in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(0, 3))):
            maker.affine()
        if data.draw(st.integers(0, 2)) == 0:
            maker.branch()
        maker.neurons()
        maker.after_spikes()
    maker.linear(3)
    maker.grown(Neuron, threshold=1.0, gain=0.5, current_decay=1.0, voltage_decay=0.5, reset="none")
    used = {name for node in maker.nodes for name in node.inputs}
    assert used >= {node.name for node in maker.nodes[:-1]}
    samples = maker.random.integers(0, 256, (3, source.size)).astype(np.uint8)
    expected = simulate(maker.nodes, source, shape, steps, samples)
    graph = lower(maker.nodes, source, shape, steps, "drawn", {}).graph
    trace = physical.run(graph, samples)
    for population in graph.populations[:-1]:
        spikes = expected[population.name].reshape(steps, len(samples), -1).transpose(1, 0, 2)
        assert np.array_equal(trace.spikes[population.name], spikes), population.name
    np.testing.assert_allclose(trace.potentials[maker.last], expected[maker.last][-1], rtol=0, atol=1e-9)
