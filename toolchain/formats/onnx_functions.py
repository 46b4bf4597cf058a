"""The operators of our own domain, each with a body in standard ONNX operators.

The body is what makes a file run in any ONNX runtime; the meaning is `toolchain.ir`'s, and the tests hold the two
equal. A body never changes under the same SCHEMA: readers refuse a file whose bodies are not these.
"""

from __future__ import annotations

from toolchain.formats import onnx_neurons, onnx_synapses

FUNCTIONS = {function.name: function for function in (*onnx_neurons.FUNCTIONS, *onnx_synapses.FUNCTIONS)}
"""Every operator of our domain, by name."""
NEEDS = {"RateInput": "Compartments"}
"""Operators whose body uses another one."""
