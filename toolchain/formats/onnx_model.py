"""Graph and Program as ONNX models. The reader builds the same model again and compares, so this is the format.

A model computes ONE TIME STEP. It takes `sample` (uint8, batch x sample_size) and the state `NAME.u`, `NAME.v` of every
population, all zeros at a sample's first step; it returns `NAME.spikes` (uint8) and the next state `NAME.u_next`,
`NAME.v_next`. Within a step spikes pass through all layers: on the chip each layer works one step after the one
before it and its window is shifted by as much, so that a sample meets the same arithmetic.

Values are named NAME.word, where NAME is an input, population or connection and word one of a fixed set without dots:
so no two names can meet. Sparse initialisers stand in the order of the connections, neurons in that of the populations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto, helper

from toolchain import __version__
from toolchain.formats.onnx_functions import DOMAIN, FUNCTIONS, IR_VERSION, NEEDS, OPSET, SCHEMA, double
from toolchain.ir import (
    Connectivity,
    Graph,
    Input,
    IntegerConnection,
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
SIZE_MAX = (1 << 31) - 1
"""Protocol buffers, and with them ONNX files without external data, end at 2 GiB."""

INPUT_OPERATORS = {"rate": "RateInput", "graded": "GradedInput", "current": "CurrentInput"}
"""Input coding -> our operator."""

DOC = (
    "One time step. Feed `sample` and the states NAME.u, NAME.v (zeros at the first step); read NAME.spikes and feed "
    "NAME.u_next, NAME.v_next back. After `snnc.steps` steps the output neuron with the most spikes is the decision."
)


@dataclass(frozen=True)
class MantissaFormat:
    """How a file stores the mantissas of a sign mode: element type, and the sign that stored values carry."""

    dtype: np.dtype[np.generic]
    element: int
    sign: int


MANTISSA_FORMATS = {
    "mixed": MantissaFormat(np.dtype("int8"), TensorProto.INT8, 1),
    # 8 bits without sign reach 255, which int8 does not hold.
    "excitatory": MantissaFormat(np.dtype("uint8"), TensorProto.UINT8, 1),
    "inhibitory": MantissaFormat(np.dtype("uint8"), TensorProto.UINT8, -1),
}


def dense(name: str, values: NDArray[np.generic], element: int, *, data: bool) -> TensorProto:
    """A tensor with its values as little-endian bytes; without them where `data` is false."""
    tensor = TensorProto()
    tensor.name = name
    tensor.data_type = element
    tensor.dims.extend(values.shape)
    if data:
        tensor.raw_data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return tensor


def sparse(
    name: str, connectivity: Connectivity, values: NDArray[np.generic], element: int, *, data: bool
) -> SparseTensorProto:
    """A sparse tensor (n_sources, n_targets) whose positions, source * n_targets + target, ascend."""
    if data:
        position = connectivity.sources.astype(np.int64) * connectivity.n_targets + connectivity.targets
    else:
        position = np.broadcast_to(np.int64(0), (connectivity.n_synapses,))
    tensor = SparseTensorProto()
    tensor.values.CopyFrom(dense(name, values, element, data=data))
    tensor.indices.CopyFrom(dense("", position, TensorProto.INT64, data=data))
    tensor.dims.extend((connectivity.n_sources, connectivity.n_targets))
    return tensor


class _Builder:
    """Collects the parts of one model, in the order of computation."""

    def __init__(self, *, data: bool) -> None:
        self.data = data
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.inner: list[ValueInfoProto] = []
        self.dense: list[TensorProto] = []
        self.operators: set[str] = set()

    def node(self, operator: str, name: str, inputs: list[str], outputs: list[str], **attributes: object) -> None:
        """One of our operators; attributes that are None are left out."""
        self.operators.add(operator)
        given: dict[str, Any] = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, domain=DOMAIN, **given))

    def value(self, name: str, element: int, size: int) -> str:
        """Declare an inner value of shape (batch, size): runtimes cannot infer it past a sparse operand."""
        self.inner.append(_value(name, element, size))
        return name

    def tensor(self, name: str, values: NDArray[np.generic], element: int) -> str:
        self.dense.append(dense(name, values, element, data=self.data))
        return name

    def state(self, name: str, size: int, element: int) -> tuple[list[str], list[str]]:
        """u and v of a population as inputs and, stepped, as outputs of the model."""
        words = ("u", "v")
        self.inputs += [_value(f"{name}.{word}", element, size) for word in words]
        self.outputs += [_value(f"{name}.{word}_next", element, size) for word in words]
        return [f"{name}.{word}" for word in words], [f"{name}.{word}_next" for word in words]

    def spikes(self, name: str, size: int) -> str:
        self.outputs.append(_value(f"{name}.spikes", TensorProto.UINT8, size))
        return f"{name}.spikes"

    def total(self, name: str, size: int, element: int, sums: list[str]) -> str:
        """The sum over the connections that enter a population."""
        result = sums[0]
        for number, term in enumerate(sums[1:], start=1):
            together = self.value(f"{name}.a{number}", element, size)
            self.nodes.append(helper.make_node("Add", [result, term], [together], name=together))
            result = together
        return result

    def model(self, network: Graph | Program, kind: str, weights: list[SparseTensorProto]) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            network.name,
            self.inputs,
            self.outputs,
            self.dense,
            value_info=self.inner,
            sparse_initializer=weights,
        )
        needed = self.operators | {NEEDS[o] for o in self.operators if o in NEEDS}
        model = helper.make_model(
            graph,
            functions=[FUNCTIONS[name] for name in sorted(needed)],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, SCHEMA)],
            ir_version=IR_VERSION,
            producer_name="snnc",
            producer_version=__version__,
            doc_string=DOC,
        )
        for key, value in sorted(metadata(network, kind).items()):
            model.metadata_props.add(key=key, value=value)
        return model


def program_model(program: Program, *, data: bool = True) -> ModelProto:
    """An integer program as a model of one time step; without the tensors' values where `data` is false."""
    build = _Builder(data=data)
    _input(build, program.input)
    for p in program.populations:
        sums = [_integer_sum(build, program.input, c) for c in program.into(p.name)]
        before, after = build.state(p.name, p.size, TensorProto.INT64)
        a = build.total(p.name, p.size, TensorProto.INT64, sums)
        bias = build.tensor(f"{p.name}.bias_mantissa", p.bias_mantissa.astype(np.int16), TensorProto.INT16)
        build.node(
            "Compartments",
            p.name,
            [*before, a, bias],
            [*after, build.spikes(p.name, p.size)],
            du=int(p.du),
            dv=int(p.dv),
            vth=int(p.vth),
            bias_exponent=int(p.bias_exponent),
        )
    return build.model(program, "program", [_mantissas(c, data=data) for c in program.connections])


def graph_model(graph: Graph, *, data: bool = True) -> ModelProto:
    """A trained graph as a model of one time step in double precision."""
    build = _Builder(data=data)
    source = graph.input
    payload = _input(build, source)
    value = build.value(f"{source.name}.value", TensorProto.DOUBLE, source.size)
    build.node(
        "PhysicalInput",
        f"{source.name}.physical",
        [payload],
        [value],
        scale=double(source.scale),
        offset=double(source.offset),
    )
    for p in graph.populations:
        sums = []
        for c in graph.connections:
            if c.target == p.name:
                sums.append(build.value(f"{c.name}.a", TensorProto.DOUBLE, p.size))
                build.node(
                    "FloatSynapses",
                    c.name,
                    [value if c.source == source.name else f"{c.source}.spikes", f"{c.name}.weights"],
                    [sums[-1]],
                    weight_step=None if c.weight_step is None else double(c.weight_step),
                    weight_bits=None if c.weight_bits is None else int(c.weight_bits),
                )
        before, after = build.state(p.name, p.size, TensorProto.DOUBLE)
        a = build.total(p.name, p.size, TensorProto.DOUBLE, sums)
        bias = build.tensor(f"{p.name}.bias", p.bias.astype(np.float32), TensorProto.FLOAT)
        build.node(
            "LIF",
            p.name,
            [*before, a, bias],
            [*after, build.spikes(p.name, p.size)],
            threshold=double(p.threshold),
            gain=double(p.gain),
            current_decay=double(p.current_decay),
            voltage_decay=double(p.voltage_decay),
        )
    weights = [
        sparse(
            f"{c.name}.weights",
            c.synapses.connectivity,
            c.synapses.weights.astype(np.float32),
            TensorProto.FLOAT,
            data=data,
        )
        for c in graph.connections
    ]
    return build.model(graph, "graph", weights)


def metadata(network: Graph | Program, kind: str) -> dict[str, str]:
    """What stands in the file beside the computation. The network's own metadata keep their keys, behind a prefix."""
    source = network.input
    entries = {
        "snnc.schema": str(SCHEMA),
        "snnc.kind": kind,
        "snnc.steps": str(int(network.steps)),
        "snnc.input.coding": source.coding,
        # repr gives the shortest text that reads back as the same double.
        "snnc.input.scale": repr(float(source.scale)),
        "snnc.input.offset": repr(float(source.offset)),
    }
    entries.update({f"snnc.input.{key}": str(int(value)) for key, value in source.parameters().items()})
    entries.update({f"{PROVENANCE}{key}": value for key, value in network.metadata.items()})
    return entries


def _value(name: str, element: int, size: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, [BATCH, size])


def _input(build: _Builder, source: Input) -> str:
    """The input neurons; returns the name of what they send."""
    build.inputs.append(_value(SAMPLE, TensorProto.UINT8, source.sample_size))
    channels = build.tensor(f"{source.name}.channels", source.channels.astype(np.int32), TensorProto.INT32)
    operator = INPUT_OPERATORS[source.coding]
    if not source.on_chip:
        payload = build.spikes(source.name, source.size)
        own = source.parameters() if source.coding == "graded" else {}
        build.node(operator, source.name, [SAMPLE, channels], [payload], **own)
        return payload
    before, after = build.state(source.name, source.size, TensorProto.INT64)
    payload = build.spikes(source.name, source.size)
    build.node(operator, source.name, [SAMPLE, channels, *before], [*after, payload], **source.parameters())
    return payload


def _integer_sum(build: _Builder, source: Input, c: IntegerConnection) -> str:
    """One connection's sum; what the host computes passes through its rounding too."""
    synapses = c.synapses
    from_input = c.source == source.name
    size = synapses.connectivity.n_targets
    a = build.value(f"{c.name}.a", TensorProto.INT64, size)
    build.node(
        _operator(c, source.payload_max if from_input else 1),
        c.name,
        [f"{c.source}.spikes", f"{c.name}.mantissas"],
        [a],
        sign_mode=synapses.sign_mode,
        sign=MANTISSA_FORMATS[synapses.sign_mode].sign,
        weight_bits=int(synapses.weight_bits),
        exponent=int(synapses.exponent),
    )
    if not (from_input and source.on_host):
        return a
    injected = build.value(f"{c.name}.injected", TensorProto.INT64, size)
    build.node("HostCurrent", injected, [a], [injected], **source.parameters())
    return injected


def _operator(c: IntegerConnection, payload: int) -> str:
    """The cheap product, unless a sum could leave its 32 bits, whatever the spikes."""
    if not c.synapses.connectivity.n_sources:
        return "WideIntegerSynapses"  # ONNX Runtime 1.32 leaves an empty MatMulInteger's result uninitialised
    # Double precision is exact here: magnitudes are at most 255, so sums stay far below 2**53.
    magnitude = np.abs(c.synapses.mantissa.astype(np.float64))
    largest = np.bincount(c.synapses.connectivity.targets, weights=magnitude).max(initial=0.0)
    return "IntegerSynapses" if int(largest) * payload <= INT32_MAX else "WideIntegerSynapses"


def _mantissas(c: IntegerConnection, *, data: bool) -> SparseTensorProto:
    stored = MANTISSA_FORMATS[c.synapses.sign_mode]
    values = (c.synapses.mantissa * np.int16(stored.sign)).astype(stored.dtype)
    return sparse(f"{c.name}.mantissas", c.synapses.connectivity, values, stored.element, data=data)
