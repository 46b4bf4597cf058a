"""What a layer computes, in a few words: `conv 3x3 stride 2 + LIF, soft reset`, `max pool 2x2 (OR)`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from toolchain.ir import Compartments, IntegerConnection, Program
from toolchain.ir.arithmetic import DECAY_ONE


def shape_text(shape: Sequence[int]) -> str:
    """32x16x16 (channels, rows, columns); a population with one axis is its size."""
    return f"{shape[0]:,}" if len(shape) == 1 else "x".join(map(str, shape))


def neuron_text(name: str, shape: Sequence[int], number: int) -> str:
    """conv1[3, 0, 7]: channel, row, column of a neuron of a map; fc1[17] elsewhere."""
    return f"{name}[{', '.join(str(int(k)) for k in np.unravel_index(number, tuple(shape)))}]"


def operation(program: Program, name: str) -> str:
    """What an input or a population computes."""
    if name == program.input.name:
        place = "on chip" if program.input.on_chip else "on host" if program.input.on_host else "from outside"
        return f"{program.input.coding} input, {place}"
    (neurons,) = (p for p in program.populations if p.name == name)
    entering = program.into(name)
    windows = [pool_window(c) for c in entering]
    if len(windows) == 1 and windows[0] is not None and _fires_if_any(neurons, entering[0]):
        return f"max pool {windows[0]} (OR)"
    order = {each: k for k, each in enumerate([program.input.name, *(p.name for p in program.populations)])}
    synapses = [synapses_title(c, order[c.source] >= order[name]) for c in entering]
    counted = [title if n == 1 else f"{n} x {title}" for title, n in Counter(synapses).items()]
    return " + ".join([*counted, neurons_title(neurons)])


def synapses_title(c: IntegerConnection, recurrent: bool = False) -> str:
    """The map that a connection computes: `conv 3x3`, `sum pool 2x2`, `recurrent linear`."""
    pool = pool_window(c)
    title = c.synapses.connectivity.title if pool is None else f"sum pool {pool}"
    usual = 1 if recurrent else 0
    return ("recurrent " if recurrent else "") + title + (f" delay {c.delay}" if c.delay > usual else "")


def neurons_title(p: Compartments) -> str:
    """The kind of neuron: `IF`, `LIF`, `current LIF`, `readout`; then its reset and refractory period where special."""
    if not p.spiking:
        return "readout"
    memory = bool((p.per_neuron("du") != DECAY_ONE).any())
    leak = bool((p.per_neuron("dv") != 0).any())
    kind = ("current " if memory else "") + ("LIF" if leak else "IF")
    soft = ", soft reset" if p.reset == "subtract" else ""
    return kind + soft + (f", refractory {p.refractory}" if p.refractory else "")


def pool_window(c: IntegerConnection) -> str | None:
    """The window of a pooling layer (`2x2`, `3x3 stride 2`), None where the connection is none.

    A sum or average pooling is a depthwise convolution, one channel to one, whose weights are all equal.
    """
    mantissa = c.synapses.mantissa
    equal = len(mantissa) > 0 and int(mantissa[0]) > 0 and bool((mantissa == mantissa[0]).all())
    return c.synapses.connectivity.window if equal else None


def _fires_if_any(p: Compartments, c: IntegerConnection) -> bool:
    """Whether a neuron fires exactly in the steps in which one of its inputs does."""
    alone = int(c.synapses.values.min())
    return (
        p.reset == "zero"
        and not p.refractory
        and not p.bias_mantissa.any()
        and bool((p.per_neuron("du") == DECAY_ONE).all())
        and bool((alone > p.per_neuron("vth")).all())
    )
