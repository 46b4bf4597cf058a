"""Rules about a program as a whole, before any core is filled: registers, delays, layers. One function each.

Each takes the program and the target and answers with what is broken; a number that the target does not state is not
asked for. The docstring's first line is the wording that users read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from hw_targets import Limit as TargetLimit
from hw_targets import Target
from toolchain.errors import Violation
from toolchain.ir import Convolution, IntegerConnection, Program, stored_shift
from toolchain.mapping.cost_count import kernel_memory, kernel_of, neuron_memory

ProgramRule = Callable[[Program, Target], Iterator[Violation]]


def source_of(stated: TargetLimit) -> str:
    """Where a number of a target file comes from, in short."""
    return stated.cited


def _beyond(
    target: Target, key: str, where: str, value: int, remedy: str | None = None, rule: str | None = None
) -> Iterator[Violation]:
    """A violation where the value lies beyond a limit that the target states."""
    if key not in target or target[key] == "unlimited":
        return
    stated = target.limit(key)
    most = int(stated.value)  # type: ignore[arg-type]
    if value < most if key.endswith("_min") else value > most:
        yield Violation(rule or key.replace("_", " "), where, value, most, stated.unit, source_of(stated), remedy)


def _largest(values: int | NDArray[np.int32]) -> int:
    return int(np.max(values))


def _on_chip(program: Program) -> tuple[IntegerConnection, ...]:
    """The connections that are not computed on the host."""
    return tuple(c for c in program.connections if not (program.input.on_host and c.source == program.input.name))


def spike_payload(program: Program, target: Target) -> Iterator[Violation]:
    """Spikes carry no more than the chip's spikes can."""
    most = int(target["spike_payload_bits"]) if target["spike_payload"] else 0
    needed = 0 if program.input.on_host or program.input.payload_max == 1 else program.input.payload_max.bit_length()
    if needed > most:
        yield Violation(
            "spikes carry no such payload",
            program.input.name,
            needed,
            most,
            "payload bits",
            source_of(target.limit("spike_payload_bits")),
            "train with input coding 'rate' or 'current', or choose a target with graded spikes (loihi2)",
        )


def registers(program: Program, target: Target) -> Iterator[Violation]:
    """Thresholds, decays, biases and exponents are numbers that the chip's registers can hold."""
    threshold = program.input.parameters().get("threshold", 0)
    yield from _beyond(target, "threshold_mantissa_max", f"{program.input.name}.threshold", threshold)
    for p in program.populations:
        yield from _beyond(target, "threshold_mantissa_max", f"{p.name}.vth", _largest(p.vth), "use fewer weight bits")
        yield from _beyond(
            target, "bias_mantissa_max", f"{p.name}.bias", int(np.abs(p.bias_mantissa.astype(np.int64)).max(initial=0))
        )
        yield from _beyond(target, "bias_exponent_max", f"{p.name}.bias_exponent", p.bias_exponent)
        yield from _beyond(target, "current_decay_max", f"{p.name}.du", _largest(p.du))
        slow = "train with a slower decay" if target.get("voltage_decay_max") else "train integrate-and-fire neurons"
        yield from _beyond(target, "voltage_decay_max", f"{p.name}.dv", _largest(p.dv), slow)
    for c in _on_chip(program):
        register = c.synapses.exponent - stored_shift(c.synapses.sign_mode, c.synapses.weight_bits)
        yield from _beyond(target, "weight_exponent_max", f"{c.name}.exponent", register)
        yield from _beyond(target, "weight_exponent_min", f"{c.name}.exponent", register)


def delays(program: Program, target: Target) -> Iterator[Violation]:
    """A synapse stores the steps that its spikes wait beyond the one that every spike takes; there is a largest."""
    needed = program.chip_delays
    for c in _on_chip(program):
        stored = needed[c.name] - 1
        skipped = stored - c.delay
        if c.delay and stored > int(target.get("delay_max", stored)):
            longest = int(target["delay_max"]) - skipped
            remedy = f"train with a delay of {longest} steps or fewer" if longest >= 0 else None
        else:
            remedy = None
        remedy = remedy or "let the connection skip fewer layers, or relay its spikes by neurons on the way"
        yield from _beyond(target, "delay_max", f"{c.name}.delay", stored, remedy, "steps that a synapse delays")


def resets(program: Program, target: Target) -> Iterator[Violation]:
    """Neurons are reset, wait and are read in ways that the chip has."""
    for p in program.populations:
        if p.refractory:
            # The register counts the step of the spike too.
            yield from _beyond(
                target,
                "refractory_max",
                f"{p.name}.refractory",
                p.refractory + 1,
                "train with a shorter refractory period",
                "refractory register",
            )
        if "resets" in target and p.reset not in target["resets"]:
            stated = target.limit("resets")
            yield Violation(
                f"neurons with reset {p.reset!r}, where the chip has {', '.join(target['resets'])}",
                f"{p.name}.reset",
                p.size,
                0,
                "neurons",
                source_of(stated),
                f"train with reset {target['resets'][0]!r}",
            )


def fan_in(program: Program, target: Target) -> Iterator[Violation]:
    """A neuron has no more synapses than the chip gives it."""
    if target.get("fan_in_per_neuron", "unlimited") == "unlimited":
        return
    on_chip = _on_chip(program)
    for p in program.populations:
        total = np.zeros(p.size, np.int64)
        for c in on_chip:
            if c.target == p.name:
                total += c.synapses.connectivity.fan_in
        most = int(target["fan_in_per_neuron"])
        over = int(np.count_nonzero(total > most))
        where = f"{p.name}, neuron {int(total.argmax())}" + (f" and {over - 1} more" if over > 1 else "")
        remedy = f"train with a connectivity at which no neuron has more than {most} synapses"
        yield from _beyond(
            target, "fan_in_per_neuron", where, int(total.max(initial=0)), remedy, "synapses of a neuron"
        )


def inputs_and_outputs(program: Program, target: Target) -> Iterator[Violation]:
    """The network has no more inputs and outputs than the chip has channels for them."""
    yield from _beyond(
        target, "inputs_per_chip", program.input.name, program.input.size, "feed fewer channels", "inputs of a chip"
    )
    yield from _beyond(target, "outputs_per_chip", program.output.name, program.output.size, None, "outputs of a chip")


def layers(program: Program, target: Target) -> Iterator[Violation]:
    """Kernels, strides and feature maps are of sizes that the chip's layers can have."""
    shapes = program.shapes
    for c in _on_chip(program):
        pattern = c.synapses.connectivity
        height, width = kernel_of(pattern, shapes[c.source])[2:]
        yield from _beyond(target, "kernel_size", c.name, max(height, width), "use smaller kernels", "kernel size")
        if "strides" in target and isinstance(pattern, Convolution):
            for stride in sorted(set(pattern.stride) - set(target["strides"])):
                stated = target.limit("strides")
                yield Violation(
                    f"strides of {', '.join(map(str, target['strides']))} only",
                    c.name,
                    stride,
                    max(target["strides"]),
                    stated.unit,
                    source_of(stated),
                )
        if c.source == program.input.name:
            yield from _beyond(
                target, "input_map_size", c.source, max(shapes[c.source][1:], default=1), None, "size of the input map"
            )
    for p in program.populations:
        shape = shapes[p.name]
        yield from _beyond(target, "output_map_size", p.name, max(shape[1:], default=1), None, "size of a feature map")
        yield from _beyond(target, "channels_per_layer", p.name, shape[0], None, "channels of a layer")
    for name in (program.input.name, *(p.name for p in program.populations)):
        yield from _beyond(target, "targets_per_layer", name, len(program.out_of(name)), None, "targets of a layer")


def layer_memory(program: Program, target: Target) -> Iterator[Violation]:
    """Where a chip's cores differ in size and hold one layer each, every layer finds a core that is large enough."""
    if "kernel_memory_per_core" not in target:
        return
    needs, memories = layer_needs(program), _memories(target)
    kernel_source, neuron_source = (source_of(target.limit(f"{what}_memory_per_core")) for what in ("kernel", "neuron"))
    fits = dict(zip(needs, _fitting(needs, target), strict=True))
    lonely = [name for name in needs if not fits[name].any()]
    for name in lonely:
        kernel, neuron = needs[name]
        # Of the cores that hold its neurons the one with the most kernel memory, if any does.
        able = memories[0][memories[1] >= neuron]
        if len(able):
            most = int(able.max())
            yield Violation("kernel memory of a core", name, kernel, most, "kernel entries", kernel_source)
        else:
            most = int(memories[1].max())
            yield Violation("neuron memory of a core", name, neuron, most, "neurons", neuron_source)
    held = len(core_of_layers(program, target))
    if held < len(needs) - len(lonely):
        names = ", ".join(name for name in needs if name not in lonely)
        yield Violation(
            "cores that are large enough, one for each layer",
            names,
            len(needs) - len(lonely),
            held,
            "cores",
            kernel_source,
            "use fewer or smaller layers",
        )


def layer_needs(program: Program) -> dict[str, tuple[int, int]]:
    """Population -> kernel memory (entries, over all its connections) and neuron memory (neurons)."""
    shapes, found = program.shapes, {}
    for p in program.populations:
        entering = [c for c in _on_chip(program) if c.target == p.name]
        kernel = sum(kernel_memory(kernel_of(c.synapses.connectivity, shapes[c.source])) for c in entering)
        found[p.name] = kernel, neuron_memory(shapes[p.name])
    return found


def core_of_layers(program: Program, target: Target) -> dict[str, int]:
    """Population -> number of the core that holds it, for as many as find one; each core holds one layer."""
    needs = layer_needs(program)
    fits = sparse.csr_array(np.array(_fitting(needs, target)))
    match = maximum_bipartite_matching(fits, perm_type="column")
    return {name: int(core) for name, core in zip(needs, match, strict=True) if core >= 0}


def _memories(target: Target) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kernel memory and neuron memory of every core."""
    kernels, neurons = (np.array(target[f"{what}_memory_per_core"], np.int64) for what in ("kernel", "neuron"))
    return kernels, neurons


def _fitting(needs: dict[str, tuple[int, int]], target: Target) -> list[NDArray[np.bool_]]:
    """For each layer which cores are large enough."""
    kernels, neurons = _memories(target)
    return [(kernels >= kernel) & (neurons >= neuron) for kernel, neuron in needs.values()]


PROGRAM_RULES: tuple[ProgramRule, ...] = (
    spike_payload,
    registers,
    delays,
    resets,
    fan_in,
    inputs_and_outputs,
    layers,
    layer_memory,
)


def check_program(program: Program, target: Target) -> Iterator[Violation]:
    """All rules about a program, one after another."""
    for rule in PROGRAM_RULES:
        yield from rule(program, target)
