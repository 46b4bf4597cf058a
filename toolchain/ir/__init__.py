"""The graph: frozen dataclasses, the equation and the shapes of each in its docstring.

`Graph` holds physical units (what was trained), `QuantisedGraph` the same neurons with integer synapses, and
`Program` integers only (what a chip computes). A stage never changes its input.
"""

from toolchain.ir.connectivity import Connectivity
from toolchain.ir.convolution import Convolution
from toolchain.ir.graph import Connection, Graph, QuantisedConnection, QuantisedGraph
from toolchain.ir.inputs import CurrentInput, GradedInput, Input, RateInput, SpikeInput, make_input
from toolchain.ir.neurons import LIF, Compartments, State
from toolchain.ir.pattern import Pattern
from toolchain.ir.program import IntegerConnection, Program
from toolchain.ir.weights import SIGN_MODES, FloatSynapses, IntegerSynapses, mantissa_range, sign_mode_of, stored_shift

__all__ = [
    "LIF",
    "SIGN_MODES",
    "Compartments",
    "Connection",
    "Connectivity",
    "Convolution",
    "CurrentInput",
    "FloatSynapses",
    "GradedInput",
    "Graph",
    "Input",
    "IntegerConnection",
    "IntegerSynapses",
    "Pattern",
    "Program",
    "QuantisedConnection",
    "QuantisedGraph",
    "RateInput",
    "SpikeInput",
    "State",
    "make_input",
    "mantissa_range",
    "sign_mode_of",
    "stored_shift",
]
