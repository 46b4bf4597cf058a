"""Graph and Program as ONNX models. The reader builds the same model again and compares, so this is the format.

A model computes ONE TIME STEP. It takes `sample` (uint8, batch x sample_size) and the state, all zeros at a sample's
first step: `NAME.u`, `NAME.v` of every population, `NAME.wait` where it has a refractory period, and `NAME.sent`,
(batch, steps, size), the latest first, of every source out of which a connection has a delay. It returns
`NAME.spikes` (uint8) of all that spike, and each state's next value, `NAME.u_next` and so on. Within a step spikes pass
through all layers: on the chip each layer works one step after the one before it and its window is shifted by as much,
so that a sample meets the same arithmetic.

Values are named NAME.word, where NAME is an input, population or connection and word one of a fixed set without dots:
so no two names can meet. The weights stand first and in the order of the connections, neurons in that of the
populations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from toolchain import __version__
from toolchain.errors import SnncError
from toolchain.formats.onnx_bytes import Model
from toolchain.formats.onnx_functions import FUNCTIONS, NEEDS
from toolchain.formats.onnx_layouts import GAP_TYPES, Layout, check_layout, layout_of, places_of
from toolchain.formats.onnx_neurons import kind_of, words
from toolchain.formats.onnx_parts import DOMAIN, IR_VERSION, OPSET, SCHEMA, double
from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    Graph,
    Input,
    IntegerConnection,
    Pattern,
    Program,
)

BATCH = "batch"
SAMPLE = "sample"
EXPONENT_MAX = 16
"""Largest weight exponent of a file; with it every product still fits 64 bits."""
SHIFT_MAX = 31
STEPS_MAX = (1 << 31) - 1
PROVENANCE = "snnc.metadata."
INT32_MAX = (1 << 31) - 1
BYTE_MAX = (1 << 8) - 1
REGISTERS = ("du", "dv", "vth")
REALS = ("threshold", "gain", "current_decay", "voltage_decay")
SIZE_MAX = (1 << 31) - 1
"""Protocol buffers, and with them ONNX files without external data, end at 2 GiB."""

INPUT_OPERATORS = {"rate": "RateInput", "graded": "GradedInput", "current": "CurrentInput", "spikes": "SpikeInput"}
"""Input coding -> our operator."""

DOC = (
    "One time step. Feed `sample` and the states NAME.u, NAME.v, NAME.wait, NAME.sent (zeros at the first step), then "
    "feed each NAME.word_next back as NAME.word. After `snnc.steps` steps `snnc.decision` says what the answer is."
)
DECISIONS = {
    True: "the neuron with the most spikes in snnc.steps steps, ties to the lowest index",
    False: "the neuron with the highest membrane potential at the last step, ties to the lowest index",
}
"""Whether the output spikes -> how it answers."""


@dataclass(frozen=True)
class MantissaFormat:
    """How a file stores the mantissas of a sign mode: element type, and the sign that stored values carry.

    zero_point: what is added to them to get a byte without sign.
    """

    dtype: np.dtype[np.generic]
    element: int
    sign: int
    zero_point: int


MANTISSA_FORMATS = {
    "mixed": MantissaFormat(np.dtype("int8"), TensorProto.INT8, 1, 128),
    # 8 bits without sign reach 255, which int8 does not hold.
    "excitatory": MantissaFormat(np.dtype("uint8"), TensorProto.UINT8, 1, 0),
    "inhibitory": MantissaFormat(np.dtype("uint8"), TensorProto.UINT8, -1, 0),
}


class _Builder:
    """Collects the parts of one model, in the order of computation."""

    def __init__(self, network: Graph | Program) -> None:
        self.values: list[NDArray[np.generic]] = []
        self.name = network.name
        self.model = ModelProto()
        self.graph = self.model.graph
        self.operators: set[str] = set()
        self.bytes = 0
        self.taken = {
            network.input.name,
            *(p.name for p in network.populations),
            *(c.name for c in network.connections),
        }
        self.longest: dict[str, int] = {}
        """Source -> its longest delay, where there is any."""
        for c in network.connections:
            if c.delay:
                self.longest[c.source] = max(c.delay, self.longest.get(c.source, 0))
        self.tapped: set[str] = set()

    def node(self, operator: str, name: str, inputs: list[str], outputs: list[str], **attributes: object) -> None:
        """One of our operators; attributes that are None are left out."""
        self.operators.add(operator)
        given: dict[str, Any] = {key: value for key, value in attributes.items() if value is not None}
        self.graph.node.append(helper.make_node(operator, inputs, outputs, name=name, domain=DOMAIN, **given))

    def own(self, name: str) -> str:
        """The name of a node that stands for no population or connection; none, if one of these has taken it."""
        return "" if name in self.taken else name

    def value(self, name: str, element: int, size: int) -> str:
        """Declare an inner value of shape (batch, size): a reader of the file then needs no inference."""
        self.graph.value_info.append(_value(name, element, size))
        return name

    def tensor(self, name: str, values: NDArray[np.generic], element: int) -> str:
        """A tensor; its values are kept beside the model."""
        self.bytes += values.nbytes
        if self.bytes > SIZE_MAX:
            raise too_large(self.name, self.bytes)
        tensor = self.graph.initializer.add()
        tensor.name = name
        tensor.data_type = element
        tensor.dims.extend(values.shape)
        self.values.append(values.astype(values.dtype.newbyteorder("<"), copy=False))
        return name

    def weights(
        self, connection: str, word: str, pattern: Pattern, values: NDArray[np.generic], element: int
    ) -> Layout:
        """Store the weights of a connection, `values` in the pattern's order."""
        layout = layout_of(pattern)
        check_layout(layout, connection)
        places = places_of(pattern, layout)
        stored = places.stored(values)
        self.tensor(f"{connection}.{word}", stored if layout.listed else stored.reshape(layout.shape), element)
        if places.gaps is not None:
            wanted = places.gaps.dtype.newbyteorder("<")
            gap_type = next(element for element, dtype in GAP_TYPES.items() if dtype == wanted)
            self.tensor(f"{connection}.gaps", places.gaps, gap_type)
        return layout

    def dense(self, connection: str, word: str, layout: Layout, element: int) -> str:
        """The weights as an operator takes them: a tensor with all its places."""
        if not layout.listed:
            return f"{connection}.{word}"
        name = f"{connection}.dense"
        self.graph.value_info.append(helper.make_tensor_value_info(name, element, list(layout.shape)))
        given = [f"{connection}.gaps", f"{connection}.{word}"]
        self.node("SparseTensor", self.own(name), given, [name], shape=list(layout.shape))
        return name

    def state(self, name: str, element: int, shape: list[int]) -> tuple[str, str]:
        """A state as input and, stepped, as output of the model."""
        self.graph.input.append(_value(name, element, *shape))
        self.graph.output.append(_value(f"{name}_next", element, *shape))
        return name, f"{name}_next"

    def states(self, name: str, size: int, element: int, kind: str = "") -> tuple[list[str], list[str]]:
        """The states of a population, before and after the step, and what it sends."""
        kept, spiking = words(kind)
        both = [self.state(f"{name}.{word}", TensorProto.INT64 if word == "wait" else element, [size]) for word in kept]
        after = [after for _, after in both] + ([self.spikes(name, size)] if spiking else [])
        return [before for before, _ in both], after

    def spikes(self, name: str, size: int) -> str:
        self.graph.output.append(_value(f"{name}.spikes", TensorProto.UINT8, size))
        return f"{name}.spikes"

    def remember(self, source: str, payload: str, element: int, size: int) -> None:
        """Keep what a source sends for as long as its longest delay."""
        steps = self.longest.get(source, 0)
        if steps:
            before, after = self.state(f"{source}.sent", element, [steps, size])
            self.node("DelayLine", self.own(f"{source}.sent"), [payload, before], [after])

    def arriving(self, source: str, payload: str, delay: int, element: int, size: int) -> str:
        """What arrives out of a source after a delay; the same value for all connections that ask for it."""
        if not delay:
            return payload
        name = f"{payload}_{delay}"
        if name not in self.tapped:
            self.tapped.add(name)
            self.value(name, element, size)
            self.node("DelayTap", self.own(name), [f"{source}.sent"], [name], steps=delay)
        return name

    def total(self, name: str, size: int, element: int, sums: list[str]) -> str:
        """The sum over the connections that enter a population."""
        result = sums[0]
        for number, term in enumerate(sums[1:], start=1):
            together = self.value(f"{name}.a{number}", element, size)
            self.graph.node.append(helper.make_node("Add", [result, term], [together], name=self.own(together)))
            result = together
        return result

    def finish(self, network: Graph | Program, kind: str) -> Model:
        model = self.model
        self.graph.name = network.name
        needed = self.operators | {NEEDS[o] for o in self.operators if o in NEEDS}
        model.functions.extend(FUNCTIONS[name] for name in sorted(needed))
        model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, SCHEMA)])
        model.ir_version = IR_VERSION
        model.producer_name, model.producer_version, model.doc_string = "snnc", __version__, DOC
        for key, value in sorted(metadata(network, kind).items()):
            model.metadata_props.add(key=key, value=value)
        return Model(model, self.values)


def program_model(program: Program) -> Model:
    """An integer program as a model of one time step."""
    build = _Builder(program)
    source = program.input
    layouts = {}
    for c in program.connections:
        stored = MANTISSA_FORMATS[c.synapses.sign_mode]
        values = c.synapses.mantissa if stored.sign > 0 else -c.synapses.mantissa
        layouts[c.name] = build.weights(
            c.name, "mantissas", c.synapses.connectivity, values.astype(stored.dtype), stored.element
        )
    payload = _input(build, source)
    build.remember(source.name, payload, TensorProto.UINT8, source.size)
    for p in program.populations:
        sums = [_integer_sum(build, source, c, layouts[c.name]) for c in program.into(p.name)]
        kind = kind_of(p.reset, p.refractory)
        before, after = build.states(p.name, p.size, TensorProto.INT64, kind)
        a = build.total(p.name, p.size, TensorProto.INT64, sums)
        build.node(
            f"{kind}Compartments",
            p.name,
            [*before, a, *_registers(build, p)],
            after,
            bias_exponent=int(p.bias_exponent),
            refractory=int(p.refractory) or None,
        )
        build.remember(p.name, f"{p.name}.spikes", TensorProto.UINT8, p.size)
    return build.finish(program, "program")


def graph_model(graph: Graph) -> Model:
    """A trained graph as a model of one time step in double precision."""
    build = _Builder(graph)
    source = graph.input
    layouts = {}
    for c in graph.connections:
        values = c.synapses.weights.astype(np.float32, copy=False)
        layouts[c.name] = build.weights(c.name, "weights", c.synapses.connectivity, values, TensorProto.FLOAT)
    value = build.value(f"{source.name}.value", TensorProto.DOUBLE, source.size)
    build.node(
        "PhysicalInput",
        build.own(value),
        [_input(build, source)],
        [value],
        scale=double(source.scale),
        offset=double(source.offset),
    )
    build.remember(source.name, value, TensorProto.DOUBLE, source.size)
    for p in graph.populations:
        sums = [_float_sum(build, source, c, layouts[c.name]) for c in graph.connections if c.target == p.name]
        kind = kind_of(p.reset, p.refractory)
        before, after = build.states(p.name, p.size, TensorProto.DOUBLE, kind)
        a = build.total(p.name, p.size, TensorProto.DOUBLE, sums)
        build.node(
            f"{kind}LIF", p.name, [*before, a, *_parameters(build, p)], after, refractory=int(p.refractory) or None
        )
        build.remember(p.name, f"{p.name}.spikes", TensorProto.UINT8, p.size)
    return build.finish(graph, "graph")


def metadata(network: Graph | Program, kind: str) -> dict[str, str]:
    """What stands in the file beside the computation. The network's own metadata keep their keys, behind a prefix."""
    source, output = network.input, network.populations[-1]
    entries = {
        "snnc.schema": str(SCHEMA),
        "snnc.kind": kind,
        "snnc.steps": str(int(network.steps)),
        "snnc.output": f"{output.name}.{'spikes' if output.spiking else 'v_next'}",
        "snnc.decision": DECISIONS[output.spiking],
        "snnc.input.coding": source.coding,
        # repr gives the shortest text that reads back as the same double.
        "snnc.input.scale": repr(float(source.scale)),
        "snnc.input.offset": repr(float(source.offset)),
    }
    entries.update({f"snnc.input.{key}": str(int(value)) for key, value in source.parameters().items()})
    entries.update({f"{PROVENANCE}{key}": value for key, value in network.metadata.items()})
    return entries


def too_large(name: str, size: int) -> SnncError:
    """The error for a network whose weights alone take more bytes than one file can have."""
    return SnncError(
        "the network is too large for one ONNX file",
        where=name,
        got=f"at least {size / 2**30:.2f} GiB",
        allowed=f"{SIZE_MAX / 2**30:.2f} GiB",
        remedy="lower the connectivity, or cut the network into several",
    )


def integer_operator(layout: Layout, payload: int) -> str:
    """The operator of 8 bits, unless some sum could leave its 32 bits, whatever spikes and weights.

    Every term counts as 255 times the largest payload: mantissas with a sign are raised to bytes without one.
    """
    # ONNX Runtime 1.32 leaves the result of an empty MatMulInteger uninitialised.
    fits = 0 < layout.terms * BYTE_MAX * payload <= INT32_MAX
    return f"{'' if fits else 'Wide'}Integer{layout.operator}"


def _value(name: str, element: int, *shape: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, [BATCH, *shape])


def _input(build: _Builder, source: Input) -> str:
    """The input neurons; returns the name of what they send."""
    build.graph.input.append(_value(SAMPLE, TensorProto.UINT8, source.sample_size))
    channels = build.tensor(f"{source.name}.channels", source.channels.astype(np.int32), TensorProto.INT32)
    operator = INPUT_OPERATORS[source.coding]
    if not source.on_chip:
        payload = build.spikes(source.name, source.size)
        own = source.parameters() if source.coding == "graded" else {}
        build.node(operator, source.name, [SAMPLE, channels], [payload], **own)
        return payload
    before, after = build.states(source.name, source.size, TensorProto.INT64)
    build.node(operator, source.name, [SAMPLE, channels, *before], after, **source.parameters())
    return after[-1]


def _registers(build: _Builder, p: Compartments) -> list[str]:
    registers = [
        build.tensor(f"{p.name}.{k}", np.asarray(getattr(p, k), np.int32), TensorProto.INT32) for k in REGISTERS
    ]
    return [*registers, build.tensor(f"{p.name}.bias_mantissa", p.bias_mantissa.astype(np.int16), TensorProto.INT16)]


def _parameters(build: _Builder, p: LIF) -> list[str]:
    values = [build.tensor(f"{p.name}.{k}", np.asarray(getattr(p, k), np.float64), TensorProto.DOUBLE) for k in REALS]
    return [*values, build.tensor(f"{p.name}.bias", p.bias.astype(np.float32), TensorProto.FLOAT)]


def _integer_sum(build: _Builder, source: Input, c: IntegerConnection, layout: Layout) -> str:
    """One connection's sum; what the host computes passes through its rounding too."""
    synapses, pattern = c.synapses, c.synapses.connectivity
    from_input = c.source == source.name
    stored = MANTISSA_FORMATS[synapses.sign_mode]
    payload = build.arriving(c.source, f"{c.source}.spikes", c.delay, TensorProto.UINT8, pattern.n_sources)
    mantissas = build.dense(c.name, "mantissas", layout, stored.element)
    a = build.value(f"{c.name}.a", TensorProto.INT64, pattern.n_targets)
    build.node(
        integer_operator(layout, source.payload_max if from_input else 1),
        c.name,
        [payload, mantissas],
        [a],
        **layout.attributes,
        sign_mode=synapses.sign_mode,
        sign=stored.sign,
        weight_bits=int(synapses.weight_bits),
        exponent=int(synapses.exponent),
        zero_point=stored.zero_point,
    )
    if not (from_input and source.on_host):
        return a
    injected = build.value(f"{c.name}.injected", TensorProto.INT64, pattern.n_targets)
    build.node("HostCurrent", build.own(injected), [a], [injected], **source.parameters())
    return injected


def _float_sum(build: _Builder, source: Input, c: Connection, layout: Layout) -> str:
    pattern = c.synapses.connectivity
    word, element = ("value", TensorProto.DOUBLE) if c.source == source.name else ("spikes", TensorProto.UINT8)
    payload = build.arriving(c.source, f"{c.source}.{word}", c.delay, element, pattern.n_sources)
    weights = build.dense(c.name, "weights", layout, TensorProto.FLOAT)
    a = build.value(f"{c.name}.a", TensorProto.DOUBLE, pattern.n_targets)
    build.node(
        f"Float{layout.operator}",
        c.name,
        [payload, weights],
        [a],
        **layout.attributes,
        weight_step=None if c.weight_step is None else double(c.weight_step),
        weight_bits=None if c.weight_bits is None else int(c.weight_bits),
        weight_exponent=None if c.weight_exponent is None else int(c.weight_exponent),
    )
    return a
