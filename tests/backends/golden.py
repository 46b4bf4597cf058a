"""Reads the golden networks of tests/golden: one small network for each kind of layer and neuron.

A file holds the network, its samples, what every population is expected to do, and why: enough to check it by hand.
Registers default to a memoryless current and a membrane that keeps nothing below 64 units (du 4096, dv 4095), so that
v is the sum of the step. A unit is one synaptic weight: 64 of the potential's own.

connections: `weights` is a matrix (targets, sources), absent synapses 0; `kernel` is (output channels, input channels /
groups, rows, columns).  spikes: population -> sample -> neuron -> a digit a step.  potentials: readout -> sample ->
potential of each neuron at the last step, in units of 1/64.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.backends.trace import Trace
from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input
from toolchain.ir.convolution import Convolution

FOLDER = Path(__file__).parents[1] / "golden"
KINDS = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@dataclass(frozen=True, eq=False)
class Golden:
    program: Program
    samples: np.ndarray
    spikes: dict[str, np.ndarray]
    potentials: dict[str, np.ndarray]

    def assert_equal(self, trace: Trace) -> None:
        """All spikes, counts and potentials are these."""
        for name, spikes in self.spikes.items():
            assert np.array_equal(trace.spikes[name], spikes), name
            assert np.array_equal(trace.counts[name], spikes.sum(axis=1)), name
        assert trace.potentials.keys() == self.potentials.keys()
        for name, potentials in self.potentials.items():
            assert np.array_equal(trace.potentials[name], potentials), name


def read(kind: str) -> Golden:
    text = json.loads((FOLDER / f"{kind}.json").read_text())
    entry = dict(text["input"])
    shape = entry.pop("shape")
    program = Program(
        kind,
        make_input(entry.pop("coding"), "input", int(np.prod(shape)), **entry),
        tuple(_population(name, **fields) for name, fields in text["populations"].items()),
        tuple(_connection(name, **fields) for name, fields in text["connections"].items()),
        text["steps"],
    )
    program.verify()
    spikes = {
        name: np.array([[[int(d) for d in neuron] for neuron in sample] for sample in samples], np.uint8)
        for name, samples in text["spikes"].items()
    }
    return Golden(
        program,
        np.array(text["samples"]),
        {name: values.transpose(0, 2, 1) for name, values in spikes.items()},
        {name: np.array(values) for name, values in text.get("potentials", {}).items()},
    )


def _population(name: str, size: int, **fields: Any) -> Compartments:
    registers = {"du": 4096, "dv": 4095, "vth": 0, "bias_mantissa": [0] * size, **fields}
    for field in ("du", "dv", "vth"):
        if isinstance(registers[field], list):
            registers[field] = np.array(registers[field], np.int32)
    registers["bias_mantissa"] = np.array(registers["bias_mantissa"], np.int16)
    return Compartments(name, size, **registers)


def _connection(name: str, source: str, target: str, delay: int = 0, **fields: Any) -> IntegerConnection:
    if "weights" in fields:
        weights = np.array(fields["weights"])
        pattern: Connectivity | Convolution = Connectivity.from_mask(weights != 0)
        mantissa = weights.T[weights.T != 0]
    else:
        kernel = np.array(fields.pop("kernel"))
        places = {key: tuple(map(tuple, v)) if key == "padding" else v for key, v in fields.items() if key != "map"}
        for key in ("stride", "dilation"):
            if key in places:
                places[key] = tuple(places[key])
        pattern, positions = Convolution.of(tuple(fields["map"]), kernel != 0, **places)  # type: ignore[arg-type]
        mantissa = kernel.ravel()[positions]
    return IntegerConnection(
        name, source, target, IntegerSynapses(pattern, mantissa.astype(np.int16), 0, 8, "mixed"), delay
    )
