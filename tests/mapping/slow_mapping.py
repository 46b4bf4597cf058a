"""What a core uses, counted again from the raw synapse lists in plain Python, for comparison with the mapping."""

from __future__ import annotations

import math
from collections.abc import Iterable

import slow_nxtf

from toolchain.ir import Program
from toolchain.mapping.partition import Slice
from toolchain.mapping.place import Core, Mapping


def lists_onto(program: Program, connection: str, start: int, stop: int) -> dict[int, tuple[list[int], list[int]]]:
    """Source neuron -> (targets counted from `start`, mantissas), for sources that have any."""
    (c,) = [c for c in program.connections if c.name == connection]
    shape = c.synapses.connectivity
    found: dict[int, tuple[list[int], list[int]]] = {}
    for source in range(shape.n_sources):
        for at in range(int(shape.indptr[source]), int(shape.indptr[source + 1])):
            target = int(shape.targets[at])
            if start <= target < stop:
                targets, weights = found.setdefault(source, ([], []))
                targets.append(target - start)
                weights.append(int(c.synapses.mantissa[at]))
    return found


def list_words(model: str, lists: dict[int, tuple[list[int], list[int]]], bits: int, registers: Iterable) -> list[int]:
    """Words of every list of a slice by the wording of the rule."""
    if model == "loihi2-fitted":
        return [math.ceil((20 * len(targets) + 16) / 64) for targets, _ in lists.values()]
    if model == "nengo":
        top = max((max(targets) for targets, _ in lists.values()), default=0)
        index = min(b for b in (0, 6, 7, 8, 9, 10, 11, 12) if 1 << b > top)
        dense = [nengo_list(max(targets) + 1, bits) for targets, _ in lists.values()]
        sparse = [nengo_list(len(targets), bits + index) for targets, _ in lists.values()]
        return min(dense, sparse, key=sum)
    held = [(f.encoding, f.sign_mode, f.index_bits, f.skip_bits) for f in registers]
    out = []
    for targets, weights in lists.values():
        ways = [
            slow_nxtf.list_bits_with(held, encoding, signs, targets, weights, bits)
            for encoding in ("dense1", "dense2", "sparse", "runlength")
            for signs in ("one_list", "shared_sign")
        ]
        out.append(min(slow_nxtf.words(way) for way in ways if way is not None))
    return out


def nengo_list(stored: int, per_synapse: int) -> int:
    runs = [min(64, stored - first) for first in range(0, stored, 64)]
    return sum(math.ceil((run * per_synapse + 10) / 64) for run in runs)


def slice_use(program: Program, model: str, s: Slice) -> dict[str, int]:
    """Compartments, input axons, synapses, words and the longest list of one slice."""
    use = {"compartments": s.stop - s.start, "groups": 1, "input_axons": 0, "synapses": 0, "synapse_words": 0}
    use["largest_list_words"] = 0
    for name, cost in s.costs.items():
        (c,) = [c for c in program.connections if c.name == name]
        lists = lists_onto(program, name, s.start, s.stop)
        words = list_words(model, lists, c.synapses.weight_bits, cost.formats)
        use["input_axons"] += len(lists)
        use["synapses"] += sum(len(targets) for targets, _ in lists.values())
        use["synapse_words"] += sum(words)
        use["largest_list_words"] = max(use["largest_list_words"], *words, 0)
    return use


def output_entries(program: Program, mapping: Mapping) -> list[dict[str, int]]:
    """Per core: output axons, and those of them to other chips (each charged one entry more)."""
    out = []
    for core in mapping.cores:
        entries = crossing = 0
        for s in core.slices:
            for c in program.connections:
                if c.source != s.population:
                    continue
                for other in mapping.cores:
                    for t in other.slices:
                        if t.population == c.target and c.name in t.costs:
                            heard = lists_onto(program, c.name, t.start, t.stop)
                            n = sum(s.start <= source < s.stop for source in heard)
                            entries += n
                            crossing += n if other.chip != core.chip else 0
        out.append({"output_axons": entries + crossing, "crossing_axons": crossing})
    return out


def configs(program: Program, core: Core) -> dict[str, int]:
    """Different registers of the neurons on a core."""
    neurons = {p.name: p for p in program.populations}
    if program.input.on_chip:
        neurons[program.input.name] = program.input.compartments
    compartments, thresholds = set(), set()
    for s in core.slices:
        p = neurons[s.population]
        for n in s.region.neurons():
            du, dv, vth = (int(p.per_neuron(field)[n]) for field in ("du", "dv", "vth"))
            compartments.add((du, dv, p.bias_exponent, p.reset, p.refractory))
            thresholds.add(vth)
    return {"compartment_configs": len(compartments), "threshold_configs": len(thresholds)}


def core_uses(program: Program, mapping: Mapping) -> list[dict[str, int]]:
    """What each core uses, from scratch."""
    found = []
    for core, out in zip(mapping.cores, output_entries(program, mapping), strict=True):
        parts = [slice_use(program, mapping.costing.model, s) for s in core.slices]
        use = {key: sum(p[key] for p in parts) for key in parts[0] if key != "largest_list_words"}
        use["largest_list_words"] = max(p["largest_list_words"] for p in parts)
        use.update(configs(program, core))
        found.append({**use, **out})
    return found
