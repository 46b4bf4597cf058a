"""Layers become a graph that computes the same: against torch, step by step; and what is refused, in which words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.backends import physical
from toolchain.errors import SnncError
from toolchain.frontends import network, operators
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
from toolchain.ir import Connectivity, Convolution, RateInput, make_input

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


# What the connections are.

SAMPLE = RateInput("input", 32, np.arange(32, dtype=np.int32))
MAP = (2, 4, 4)


def conv(name: str, inputs: str, outputs: int = 3, channels: int = 2, size: int = 3, **options) -> Conv2d:
    random = np.random.default_rng(len(name))
    weight = random.integers(-8, 9, (outputs, channels, size, size)).astype(np.float32) / 8
    weight[weight == 0] = 1
    return Conv2d(name=name, inputs=(inputs,), **{"weight": weight, "mask": np.ones(weight.shape, bool)} | options)


def linear(name: str, inputs: str, outputs: int, n: int, **options) -> Linear:
    weight = np.random.default_rng(n).integers(1, 9, (outputs, n)).astype(np.float32) / 8
    return Linear(name=name, inputs=(inputs,), **{"weight": weight, "mask": np.ones(weight.shape, bool)} | options)


def neurons(name: str, inputs: str, **options) -> Neuron:
    plain = {"threshold": 1.0, "gain": 1.0, "current_decay": 1.0, "voltage_decay": 0.0}
    return Neuron(name=name, inputs=(inputs,), **plain | options)


def lowered(*nodes: Node, source=SAMPLE, shape=MAP, check: bool = True):
    """The graph, found equal to the layers in torch."""
    loaded = lower(nodes, source, shape, 4, "small", {})
    if check:
        samples = np.random.default_rng(0).integers(0, 256, (3, source.size)).astype(np.uint8)
        expected = simulate(nodes, source, shape, 4, samples)
        trace = physical.run(loaded.graph, samples)
        for population in loaded.graph.populations:
            spikes = expected[population.name].reshape(4, 3, -1).transpose(1, 0, 2)
            assert np.array_equal(trace.spikes[population.name], spikes), population.name
    return loaded


def test_a_pool_and_a_convolution_are_one_convolution() -> None:
    pool = AvgPool(name="pool", inputs=("input",), kernel=(2, 2), stride=(2, 2))
    loaded = lowered(pool, conv("c", "pool", padding=((1, 1), (1, 1))), neurons("n", "c"))
    pattern = loaded.graph.connections[0].synapses.connectivity
    assert isinstance(pattern, Convolution)
    assert (pattern.size, pattern.stride, pattern.padding) == ((6, 6), (2, 2), ((2, 2), (2, 2)))
    assert pattern.n_weights == 3 * 2 * 36
    assert loaded.diagnostics == ()


def test_convolutions_that_are_no_convolution_at_the_border_are_listed() -> None:
    first, second = conv("a", "input", padding=((1, 1), (1, 1))), conv("b", "a", channels=3, padding=((1, 1), (1, 1)))
    loaded = lowered(first, second, neurons("n", "b"))
    pattern = loaded.graph.connections[0].synapses.connectivity
    assert isinstance(pattern, Connectivity)
    assert [(d.code, d.where, d.count) for d in loaded.diagnostics] == [("MDL005", "b", pattern.n_synapses)]
    inside = lowered(first, replace(second, padding=((0, 0), (0, 0))), neurons("n", "b"))
    assert isinstance(inside.graph.connections[0].synapses.connectivity, Convolution)


def test_an_odd_map_under_a_pool() -> None:
    source = RateInput("input", 25, np.arange(25, dtype=np.int32))
    pool = SumPool(name="pool", inputs=("input",), kernel=(2, 2), stride=(2, 2))
    layer = conv("c", "pool", channels=1, padding=((1, 1), (1, 1)))
    loaded = lowered(pool, layer, neurons("n", "c"), source=source, shape=(1, 5, 5))
    assert [d.code for d in loaded.diagnostics] == ["MDL005"]
    loaded = lowered(pool, replace(layer, padding=((1, 0), (1, 0))), neurons("n", "c"), source=source, shape=(1, 5, 5))
    assert loaded.diagnostics == ()


def test_zeros_stay_zeros_and_synapses_of_weight_zero_stay() -> None:
    weight = np.zeros((3, 2, 3, 3), np.float32)
    mask = np.zeros(weight.shape, bool)
    mask[0, 0, 1, 1] = mask[1, 1, 0, 2] = mask[2, 0, 2, 0] = True
    weight[0, 0, 1, 1], weight[2, 0, 2, 0] = 2, -1  # and one synapse of weight 0
    norm = BatchNorm(name="norm", inputs=("c",), scale=np.array([2.0, 3.0, 0.0]), shift=np.array([1.0, 0.0, 2.0]))
    pool = SumPool(name="pool", inputs=("input",), kernel=(2, 2), stride=(1, 1))
    layer = conv("c", "input", weight=weight, mask=mask)
    synapses = lowered(layer, norm, neurons("n", "norm")).graph.connections[0].synapses
    assert synapses.connectivity.n_weights == 3
    assert sorted(synapses.weights) == [0, 0, 4]
    pooled = lowered(pool, replace(layer, inputs=("pool",)), norm, neurons("n", "norm")).graph.connections[0].synapses
    assert pooled.connectivity.n_weights == 12
    dense = linear("d", "f", 2, 32, mask=np.eye(2, 32, dtype=bool), weight=np.zeros((2, 32), np.float32))
    flat = Flatten(name="f", inputs=("input",))
    assert lowered(flat, dense, neurons("n", "d")).graph.connections[0].synapses.connectivity.n_synapses == 2


def test_a_bias_and_a_padded_convolution() -> None:
    """Beside the map is 0, not the shift: biases at the border differ from those inside."""
    norm = BatchNorm(name="norm", inputs=("input",), scale=np.ones(2), shift=np.array([1.0, -0.5]))
    loaded = lowered(norm, conv("c", "norm", padding=((1, 1), (1, 1))), neurons("n", "c"))
    bias = loaded.graph.populations[0].bias.reshape(3, 4, 4)
    assert (bias[:, 1, 1] == bias[:, 2, 2]).all()
    assert not (bias[:, 0, 0] == bias[:, 1, 1]).all()


def test_names_of_connections() -> None:
    nodes = (
        conv("stem", "input", outputs=2, padding=((1, 1), (1, 1))),
        neurons("one", "stem"),
        MaxPool(name="max", inputs=("one",), kernel=(2, 2), stride=(2, 2)),
        AvgPool(name="avg", inputs=("one",), kernel=(2, 2), stride=(2, 2)),
        Add(name="sum", inputs=("max", "avg")),
        neurons("two", "sum"),
        Concat(name="both", inputs=("two", "max")),
        conv("head", "both", channels=4, size=1),
        neurons("three", "head"),
    )
    names = [(c.name, c.source, c.target) for c in lowered(*nodes).graph.connections]
    assert names == [
        ("stem", "input", "one"),
        ("max.any", "one", "max"),
        ("two.skip", "max", "two"),
        ("avg", "one", "two"),
        ("head", "two", "three"),
        ("head[2]", "max", "three"),
    ]


def test_the_grid_of_training_is_kept_where_weights_are() -> None:
    grid = {"weight_step": 0.125, "weight_bits": 5}
    flat = Flatten(name="flat", inputs=("pool",))
    head = (flat, linear("d", "flat", 3, 8, **grid), neurons("n", "d"))
    for pool, step in ((SumPool, 0.125), (AvgPool, 0.125 / 4)):
        loaded = lowered(pool(name="pool", inputs=("input",), kernel=(2, 2), stride=(2, 2)), *head)
        assert (loaded.graph.connections[0].weight_step, loaded.graph.connections[0].weight_bits) == (step, 5)
        assert loaded.diagnostics == ()
    twice = lowered(conv("c", "input", **grid), Scale(name="x", inputs=("c",), factor=-2.0), neurons("n", "x"))
    assert twice.graph.connections[0].weight_step == 0.25
    apart = (conv("a", "input", **grid), conv("bb", "input", **grid), Concat(name="side", inputs=("a", "bb")))
    assert [c.weight_step for c in lowered(*apart, neurons("n", "side")).graph.connections] == [0.125, 0.125]


@pytest.mark.parametrize(
    "between",
    [
        BatchNorm(name="x", inputs=("c",), scale=np.array([1.0, 2.0, 1.0]), shift=np.zeros(3)),
        SumPool(name="x", inputs=("c",), kernel=(2, 2), stride=(1, 1)),
        conv("x", "c", channels=3, size=1),
    ],
)
def test_a_grid_that_a_merge_leaves_is_reported(between: Node) -> None:
    first = conv("c", "input", weight_step=0.125, weight_bits=4)
    loaded = lowered(first, between, neurons("n", "x"))
    assert loaded.graph.connections[0].weight_step is None
    assert [d.code for d in loaded.diagnostics] == ["MDL004"]
    assert "0.125" in loaded.diagnostics[0].effect


def test_parameters_of_each_neuron() -> None:
    each = np.linspace(0.5, 2, 32)
    options = {"threshold": each.reshape(MAP), "gain": np.array(0.5)}
    lowered(neurons("n", "input", **options, voltage_decay=0.5))
    loaded = lowered(neurons("n", "input", **options, voltage_decay=np.full(32, 0.5)), check=False)
    lif = loaded.graph.populations[0]
    assert np.array_equal(lif.threshold, each)
    assert (lif.voltage_decay, lif.gain) == (0.5, 0.5)
    channel = lowered(
        conv("c", "input", padding=((1, 1), (1, 1)), outputs=2),
        neurons("n", "c", gain=np.array([0.5, 2.0]).reshape(2, 1, 1)),
    )
    assert isinstance(channel.graph.connections[0].synapses.connectivity, Convolution)
    assert channel.graph.populations[0].gain == 1.0
    listed = lowered(
        conv("c", "input", padding=((1, 1), (1, 1)), outputs=2),
        neurons("n", "c", gain=np.exp2(np.arange(32) % 3).reshape(MAP)),
    )
    assert [d.code for d in listed.diagnostics] == ["MDL005"]


def test_a_population_that_is_read_as_two_maps() -> None:
    fold = Reshape(name="fold", inputs=("input",), shape=(8, 2, 2))
    nodes = (conv("a", "input"), conv("b", "fold", channels=8, size=1), neurons("n", "a"))
    flat, more = Flatten(name="flat", inputs=("n",)), Flatten(name="more", inputs=("b",))
    loaded = lowered(fold, *nodes, flat, more, Add(name="sum", inputs=("flat", "more")), neurons("m", "sum"))
    kinds = [(c.name, type(c.synapses.connectivity)) for c in loaded.graph.connections]
    assert kinds == [("a", Convolution), ("m.skip", Connectivity), ("b", Connectivity)]
    assert [d.code for d in loaded.diagnostics] == ["MDL005"]


# What is refused.


def refused(*nodes: Node, source=SAMPLE, shape=MAP, words: tuple[str, ...] = ()) -> None:
    with pytest.raises(SnncError) as caught:
        lower(nodes, source, shape, 4, "small", {})
    for word in words:
        assert word in str(caught.value), str(caught.value)


FLAT = Flatten(name="flat", inputs=("input",))
TALL = Reshape(name="tall", inputs=("input",), shape=(2, 8, 2))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([linear("d", "input", 3, 32)], ("do not chain", "d", "in a map of (2, 4, 4)", "flatten the map")),
        ([FLAT, linear("d", "flat", 3, 30)], ("it reads 30, but layer 'flat' has 32", "weight of shape (3, 32)")),
        ([FLAT, conv("c", "flat")], ("reads a map", "'flat' of shape (32,)", "put the flattening behind")),
        ([conv("c", "input", channels=3)], ("does not match the channels", "c", "input of 2 channels")),
        ([conv("c", "input", size=5)], ("the kernel is larger than its input", "c", "smaller kernel")),
        ([SumPool(name="p", inputs=("input",), kernel=(5, 1), stride=(1, 1))], ("larger than its input", "p")),
        ([Add(name="s", inputs=("input", "tall"))], ("a sum of unequal shapes", "'tall' has (2, 8, 2)", "1 x 1")),
        ([Concat(name="s", inputs=("input", "tall"))], ("maps of unequal size", "'tall' has (2, 8, 2)")),
        ([Reshape(name="r", inputs=("input",), shape=(3, 3))], ("the shapes differ in size", "32 entries")),
        (
            [BatchNorm(name="b", inputs=("input",), scale=np.ones(3), shift=np.ones(2))],
            ("b.scale", "(2,), the channels"),
        ),
        ([Scale(name="x", inputs=("input",), factor=np.ones((3, 1, 1)))], ("x.factor", "do not fit", "(2, 4, 4)")),
        ([neurons("n", "input", threshold=np.ones(3))], ("n.threshold", "do not fit")),
        (
            [conv("c", "input"), MaxPool(name="p", inputs=("c",), kernel=(2, 2), stride=(2, 2))],
            ("max pooling needs spikes", "p", "layer 'c'", "put the neurons before"),
        ),
        (
            [conv("c", "input", bias=np.ones(3, np.float32)), Delay(name="z", inputs=("c",), steps=1)],
            ("a bias cannot be delayed", "z", "put the delay before"),
        ),
        ([neurons("n", "later")], ("reads 'later'", "cycle without delay", "recurrent connection")),
        ([neurons("n", "input"), neurons("n", "input")], ("a name stands twice",)),
        (
            [neurons("n", "input", recurrent=Recurrence(conv("r", "n", outputs=2, padding=((1, 1), (1, 1))), 0))],
            ("a cycle without delay", "n.recurrent.delay"),
        ),
        (
            [neurons("n", "input", recurrent=Recurrence(conv("r", "n"), 1))],
            ("from the neurons to themselves", "(2, 4, 4) -> (3, 2, 2)"),
        ),
        (
            [conv("c", "input", bias=np.ones(3, np.float32)), neurons("n", "c", current_decay=0.5, filters_bias=True)],
            ("no synaptic decay", "n", "current_decay 0.5", "without a bias"),
        ),
        ([conv("c", "input")], ("the network has no neurons", "small")),
        (
            [neurons("n", "input"), conv("c", "n")],
            ("does not end in neurons", "layer 'c' behind neurons 'n'", "Readout"),
        ),
        ([neurons("n", "input"), Delay(name="z", inputs=("n",), steps=1)], ("does not end in neurons",)),
        ([conv("c", "input"), neurons("n", "input")], ("no layer reads", "c", "take it out")),
        ([neurons("n", "input", reset="none"), neurons("m", "n")], ("only the last population can be a readout", "n")),
    ],
)
def test_layers_without_meaning(nodes: list[Node], words: tuple[str, ...]) -> None:
    reads_tall = any("tall" in node.inputs for node in nodes)
    refused(*([TALL] if reads_tall else []), *nodes, words=words)


@pytest.mark.parametrize(
    "source", [make_input("graded", "input", 32), make_input("rate", "input", 32, scale=0.5)], ids=["graded", "scaled"]
)
def test_max_pooling_of_inputs_that_are_no_spikes(source) -> None:
    pool = MaxPool(name="p", inputs=("input",), kernel=(2, 2), stride=(2, 2))
    refused(pool, source=source, words=("max pooling needs spikes", "the input 'input'"))
    lowered(pool)


def test_an_input_shape_that_does_not_hold_the_input() -> None:
    refused(neurons("n", "input"), shape=(2, 4, 5), words=("does not hold its values", "of 32 values"))
    refused(neurons("n", "input"), shape=(8, 4), words=("does not hold its values",))


def test_place_of_a_layer_in_its_file() -> None:
    refused(replace(conv("c", "input", size=5), place="model.pt, layers[3]"), words=("where: model.pt, layers[3]",))


def test_limits(monkeypatch) -> None:
    pair = conv("a", "input", padding=((1, 1), (1, 1))), conv("b", "a", channels=3, padding=((1, 1), (1, 1)))
    monkeypatch.setattr(operators, "LISTING_LIMIT", 100)
    refused(*pair, words=("too large to be composed", "b", "up to 100", "put neurons between"))
    monkeypatch.setattr(operators, "KERNEL_LIMIT", 100)
    refused(
        pair[0], replace(pair[1], padding=((0, 0), (0, 0))), words=("two convolutions without neurons", "up to 100")
    )
    monkeypatch.setattr(operators, "PRODUCT_LIMIT", 100)
    refused(FLAT, linear("d", "flat", 20, 32), linear("e", "d", 9, 20), words=("two layers without neurons", "288"))
    doubled = [Add(name=str(k), inputs=(str(k - 1) if k else "input",) * 2) for k in range(12)]
    refused(*doubled, words=("too many paths", "1024"))
    monkeypatch.setattr(network, "SIZE_LIMIT", 100)
    refused(conv("c", "input", padding=((9, 9), (9, 9))), words=("larger than any chip", "c", "100 numbers"))
    refused(AvgPool(name="p", inputs=("input",), kernel=(90, 1), stride=(1, 1)), words=("larger than any chip", "p"))
    refused(FLAT, linear("d", "flat", 70, 32), words=("larger than any chip", "d"))
    refused(Concat(name="c", inputs=("input",) * 3), words=("larger than any chip", "c"))
