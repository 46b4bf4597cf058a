"""A network from a file that nobody vouches for: `program` or `graph`, then `compare` with what we would write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto

from toolchain.formats.onnx_file import File
from toolchain.formats.onnx_layouts import GAP_TYPES, layout_of, places_of, read_kernel, read_lists
from toolchain.formats.onnx_model import (
    EXPONENT_MAX,
    INPUT_OPERATORS,
    MANTISSA_FORMATS,
    PROVENANCE,
    REALS,
    REGISTERS,
    SHIFT_MAX,
    STEPS_MAX,
)
from toolchain.formats.onnx_neurons import KINDS, REFRACTORY, RESETS
from toolchain.formats.onnx_synapses import GEOMETRY
from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    FloatSynapses,
    Graph,
    Input,
    IntegerConnection,
    IntegerSynapses,
    Pattern,
    Program,
    make_input,
)
from toolchain.ir.inputs import VALUE_BITS
from toolchain.ir.neurons import REFRACTORY_LIMIT

LENGTHS = {"source_shape": 3, "target_shape": 3, "kernel_shape": 2, "strides": 2, "pads": 4, "dilations": 2}
"""Numbers of each list that describes a convolution."""
INTEGER_OPERATORS = ("IntegerSynapses", "WideIntegerSynapses", "IntegerConvolution", "WideIntegerConvolution")
FLOAT_OPERATORS = ("FloatSynapses", "FloatConvolution")


class Reader(File):
    """One file on the way to a network."""

    def program(self) -> Program:
        source = self._input()
        neurons, wiring = self._wiring(INTEGER_OPERATORS, "Compartments")
        populations = []
        for node in neurons:
            bias = self._vector(f"{node.name}.bias_mantissa", TensorProto.INT16)
            kind = node.op_type.removesuffix("Compartments")
            du, dv, vth = (self._per_neuron(f"{node.name}.{key}", TensorProto.INT32) for key in REGISTERS)
            exponent = self._int(node, "bias_exponent")
            populations.append(
                Compartments(
                    node.name, len(bias), du, dv, vth, bias, exponent, RESETS[kind], self._refractory(node, kind)
                )
            )
        sizes = {source.name: source.size, **{p.name: p.size for p in populations}}
        connections = []
        for name in self._ordered(wiring, "mantissas"):
            target, node = wiring[name]
            start, delay = self._source(node, dict.fromkeys(sizes, "spikes"))
            mode = self._attribute(node, "sign_mode", AttributeProto.STRING)
            sign_mode = mode.s.decode(errors="replace") if mode is not None else ""
            if sign_mode not in MANTISSA_FORMATS:
                self.refuse("unknown sign mode", name, got=sign_mode[:40], allowed=", ".join(MANTISSA_FORMATS))
            stored = MANTISSA_FORMATS[sign_mode]
            exponent = self._int(node, "exponent")
            if not 0 <= exponent <= EXPONENT_MAX:
                self.refuse("weight exponent out of range", name, got=exponent, allowed=f"0 to {EXPONENT_MAX}")
            pattern, values = self._weights(node, "mantissas", (sizes[start], sizes[target]), stored.element)
            mantissa = values.astype(np.int16) * np.int16(stored.sign)
            synapses = IntegerSynapses(pattern, mantissa, exponent, self._int(node, "weight_bits"), sign_mode)
            connections.append(IntegerConnection(name, start, target, synapses, delay))
        return Program(
            self._text(self.model.graph.name, "name"),
            source,
            tuple(populations),
            tuple(connections),
            self._whole("snnc.steps", 1, STEPS_MAX),
            self._provenance(),
        )

    def graph(self) -> Graph:
        source = self._input()
        neurons, wiring = self._wiring(FLOAT_OPERATORS, "LIF")
        populations = []
        for node in neurons:
            bias = self._vector(f"{node.name}.bias", TensorProto.FLOAT)
            kind = node.op_type.removesuffix("LIF")
            threshold, gain, du, dv = (self._per_neuron(f"{node.name}.{key}", TensorProto.DOUBLE) for key in REALS)
            if not isinstance(gain, float):
                self.refuse("not one number", f"{node.name}.gain", got=f"shape {gain.shape}")
            refractory = self._refractory(node, kind)
            populations.append(LIF(node.name, len(bias), threshold, gain, du, dv, bias, RESETS[kind], refractory))
        sizes = {source.name: source.size, **{p.name: p.size for p in populations}}
        connections = []
        for name in self._ordered(wiring, "weights"):
            target, node = wiring[name]
            start, delay = self._source(node, {**dict.fromkeys(sizes, "spikes"), source.name: "value"})
            pattern, weights = self._weights(node, "weights", (sizes[start], sizes[target]), TensorProto.FLOAT)
            bits, exponent = (
                self._attribute(node, name, AttributeProto.INT) for name in ("weight_bits", "weight_exponent")
            )
            connections.append(
                Connection(
                    name,
                    start,
                    target,
                    FloatSynapses(pattern, weights),
                    weight_step=self._double(node, "weight_step"),
                    weight_bits=None if bits is None else int(bits.i),
                    delay=delay,
                    weight_exponent=None if exponent is None else int(exponent.i),
                )
            )
        return Graph(
            self._text(self.model.graph.name, "name"),
            source,
            tuple(populations),
            tuple(connections),
            self._whole("snnc.steps", 1, STEPS_MAX),
            self._provenance(),
        )

    def _input(self) -> Input:
        coding = self._entry("snnc.input.coding")
        nodes = [n for n in self.model.graph.node if n.op_type in INPUT_OPERATORS.values()]
        if coding not in INPUT_OPERATORS or [n.op_type for n in nodes] != [INPUT_OPERATORS[coding]]:
            self.refuse("the input's coding and its operator differ", "snnc.input.coding", got=coding[:40])
        name = nodes[0].name
        dims = [d for value in self.model.graph.input[:1] for d in value.type.tensor_type.shape.dim]
        sample_size = dims[1].dim_value if len(dims) == 2 else 0
        if not 0 < sample_size <= STEPS_MAX:
            self.refuse("the size of a sample is missing or out of range", "sample", got=sample_size)
        limits = {
            "rate": {"threshold": STEPS_MAX},
            "graded": {"payload_bits": VALUE_BITS},
            "current": {"shift": SHIFT_MAX},
            "spikes": {},
        }[coding]
        return make_input(
            coding,
            name,
            sample_size,
            self._vector(f"{name}.channels", TensorProto.INT32),
            scale=self._real("snnc.input.scale"),
            offset=self._real("snnc.input.offset"),
            **{key: self._whole(f"snnc.input.{key}", 0, high) for key, high in limits.items()},
        )

    def _per_neuron(self, name: str, element: int) -> Any:
        """One number for a whole population, or one a neuron (their number is verified with the population)."""
        values = self._array(name, element)
        return values if values.ndim else values.item()

    def _refractory(self, node: NodeProto, kind: str) -> int:
        steps = self._int(node, "refractory") if kind == REFRACTORY else 0
        if not 0 <= steps <= REFRACTORY_LIMIT:
            self.refuse("refractory is out of range", node.name, got=steps, allowed=f"0 to {REFRACTORY_LIMIT}")
        return steps

    def _wiring(self, synapses: Sequence[str], base: str) -> tuple[list[NodeProto], dict[str, tuple[str, NodeProto]]]:
        """Neuron nodes in order; connection name -> (target's name, node). Sums stand before what they enter."""
        neurons: list[NodeProto] = []
        connections: dict[str, tuple[str, NodeProto]] = {}
        waiting: list[NodeProto] = []
        kinds = {f"{kind}{base}" for kind in KINDS}
        for node in self.model.graph.node:
            if node.op_type in synapses:
                waiting.append(node)
            elif node.op_type in kinds:
                neurons.append(node)
                for entering in waiting:
                    if entering.name in connections:
                        self.refuse("a connection stands twice", entering.name)
                    connections[entering.name] = (node.name, entering)
                waiting = []
        if waiting:
            self.refuse("a connection leads nowhere", waiting[0].name)
        return neurons, connections

    def _source(self, node: NodeProto, words: dict[str, str]) -> tuple[str, int]:
        """Where a connection starts, and its delay: it takes NAME.word, or NAME.word_DELAY. words: NAME -> word."""
        value = self._text(node.input[0], node.name) if len(node.input) else ""
        source, _, sent = value.rpartition(".")
        if source not in words:
            self.refuse("a connection starts at nothing that is known", node.name, got=value[:80])
        word = words[source]
        steps = "0" if sent == word else sent.removeprefix(f"{word}_")
        if not (steps.isascii() and steps.isdigit() and len(steps) <= 10):
            self.refuse("a connection starts at nothing that is known", node.name, got=value[:80])
        if int(steps) > STEPS_MAX:
            self.refuse("a delay is out of range", node.name, got=steps, allowed=f"0 to {STEPS_MAX}")
        return source, int(steps)

    def _ordered(self, connections: dict[str, Any], word: str) -> list[str]:
        """Names of the connections in the order of their weights."""
        names = [name.removesuffix(f".{word}") for name in self.tensors if name.endswith(f".{word}")]
        if sorted(names) != sorted(connections):
            self.refuse("connections and weights differ", got=names[:8], allowed=sorted(connections)[:8])
        return names

    def _weights(
        self, node: NodeProto, word: str, sizes: tuple[int, int], element: int
    ) -> tuple[Pattern, NDArray[Any]]:
        """The pattern of a connection between populations of these sizes, and its weights in the pattern's order."""
        name = node.name
        stored = self._array(f"{name}.{word}", element)
        gaps = self._vector(f"{name}.gaps", *GAP_TYPES) if f"{name}.gaps" in self.tensors else None
        where = f"{self.path}, {name}"
        pattern: Pattern
        if node.op_type.endswith("Convolution"):
            geometry = {key: self._ints(node, key, LENGTHS[key]) for key in GEOMETRY if key in LENGTHS}
            pattern = read_kernel(sizes, geometry, self._int(node, "group"), stored.shape, gaps, where)
        else:
            pattern = read_lists(sizes, stored.shape, gaps, where)
        return pattern, places_of(pattern, layout_of(pattern)).weights(stored.reshape(-1))

    def _provenance(self) -> dict[str, str]:
        return {k.removeprefix(PROVENANCE): v for k, v in self.metadata.items() if k.startswith(PROVENANCE)}
