"""Cost model `count`: for chips whose rule of synapse memory is not public. What exists is counted, nothing is added.

Also the two amounts that the published software for DYNAP-CNN counts for a layer: kernel and neuron memory.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np

from toolchain.ir import Convolution, Pattern
from toolchain.mapping.synapse_memory import FormatChoice, Parameters, SliceCost, SynapseLists


def cost_count(lists: SynapseLists, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """The bare weights, packed: what any layout takes at least. No index, header or list is charged.

    A convolution's kernel entries count once. Words are of the whole slice, so no list has words of its own.
    """
    stored = lists.connectivity.n_synapses
    payload = stored * (lists.weight_bits + lists.delay_bits)
    words = -(-payload // parameters["word_bits"])
    used = lists.connectivity.fan_out > 0
    return SliceCost(
        model="count",
        words=words,
        words_per_axon=np.zeros(len(used), np.int64),
        axons=lists.axons,
        synapses=lists.axons.n_synapses,
        entries=stored,
        payload_bits=payload,
        index_bits=0,
        header_bits=0,
        padding_bits=words * parameters["word_bits"] - payload,
        combination=np.where(used, 0, -1).astype(np.int8),
        combinations=("counted",),
    )


def kernel_of(pattern: Pattern, source_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Output channels, input channels, height and width of a connection's kernel.

    A connection that is no convolution is one whose kernel covers the source map: every target is an output channel.
    """
    if isinstance(pattern, Convolution):
        return (pattern.target[0], pattern.source[0], *pattern.size)
    channels, height, width = source_shape if len(source_shape) == 3 else (*source_shape, 1, 1)
    return pattern.n_targets, channels, height, width


def kernel_memory(kernel: tuple[int, int, int, int]) -> int:
    """Kernel memory that a layer takes, in entries: c 2^ceil(log2(kh kw)) 2^ceil(log2 f); pruned entries count."""
    outputs, inputs, height, width = kernel
    return inputs * _power_of_two(height * width) * _power_of_two(outputs)


def neuron_memory(shape: tuple[int, ...]) -> int:
    """Neuron memory that a layer takes, in neurons: f 2^ceil(log2 height) 2^ceil(log2 width)."""
    channels, height, width = shape if len(shape) == 3 else (*shape, 1, 1)
    return channels * _power_of_two(height) * _power_of_two(width)


def _power_of_two(n: int) -> int:
    return 1 << ceil(log2(n)) if n > 1 else 1
