"""Energy and time of one sample, from published figures of single events: an estimate, not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hw_targets import EnergyModel, Target
from toolchain.errors import SnncError, nearest

Facts = dict[str, Any]

LABEL = "estimate, not measured"


def energy(
    report: Facts,
    target: Target,
    spikes: Mapping[str, float],
    *,
    synaptic_operations: Mapping[str, float] | None = None,
    model: str | None = None,
) -> Facts | None:
    """Energy (nJ) and time (us) of one sample on the mapped cores, or None where the target publishes no figures.

    spikes: per sample, by name of input or layer.  synaptic_operations: per sample, by name of connection, as a
    simulator counts them; without it, spikes times the mean fan-out of the source.  model: one of the target's
    energy models that gives events (the first by default).

    What the source leaves open is given as the least and the most it can be.

    Raises:
        SnncError: unknown model, or spikes of a layer that the report does not have.
    """
    known = {name: each for name, each in target.energy.items() if name in FORMULAS}
    if model is not None and model not in known:
        raise SnncError(
            f"no energy model {model!r} for target {target.name!r}",
            allowed=nearest(model, known) if known else "none: no figures are published for this target",
        )
    if not known:
        return None
    name = model or next(iter(known))
    _check_names(report, spikes, synaptic_operations)
    counts = count_events(report, spikes, synaptic_operations)
    chosen = known[name]
    parts, step_ns, formula = FORMULAS[name](counts, chosen)
    low, high = (round(sum(part[f"nanojoule_{end}"] for part in parts), 6) for end in ("low", "high"))
    steps = report["network"]["steps_per_sample"]
    sample_us = [round(ns * steps / 1000, 6) for ns in step_ns]
    static, static_formula, static_sources = _static(target, report["totals"]["chips"], sample_us)
    notes = [
        "hops are of cores that are numbered tile by tile and row by row, chips side by side: assumed"
        if counts.hops is not None
        else "routing between tiles is left out: where cores stand on the mesh is not known",
        "a layer's synaptic operations are taken as spread over its cores like its synapses",
    ]
    if synaptic_operations is None:
        notes.append("synaptic operations are spikes times the mean fan-out, not counted spike by spike")
    return {
        "label": LABEL,
        "model": name,
        "description": chosen.description,
        "sources": sorted({source for entry in chosen.entries.values() for source in entry.source} | static_sources),
        "spikes_per_sample": {key: round(value, 6) for key, value in spikes.items()},
        "synaptic_operations_per_sample": round(counts.operations, 6),
        "energy": parts,
        "total_nanojoule": [low, high],
        "sample_microseconds": sample_us,
        "time_formula": formula,
        "static_microjoule": static,
        "static_formula": static_formula,
        "notes": notes,
    }


@dataclass(frozen=True)
class Counts:
    """Events of one sample. cores: compartments of each core, and its synaptic operations in one step.

    hops: of messages from tile to tile, east-west and north-south; None where the report does not tell them.
    """

    steps: int
    neurons: int
    spikes: float
    operations: float
    messages: float
    cores: tuple[tuple[int, float], ...]
    hops: tuple[float, float] | None = None

    @property
    def updates(self) -> int:
        """Compartment updates: every compartment in every step."""
        return self.neurons * self.steps

    def slowest(self, update_ns: float, operation_ns: float) -> float:
        """ns of one step on the core that takes longest: its updates and synaptic operations one after another."""
        return max((n * update_ns + ops * operation_ns for n, ops in self.cores), default=0.0)


def count_events(report: Facts, spikes: Mapping[str, float], operations: Mapping[str, float] | None) -> Counts:
    """Events of one sample, from its spikes and the report's axons, synapses and traffic (see `mapping.traffic`).

    A spike makes as many operations as its neuron has synapses: of a convolution those at all places, each counted.
    """
    by_layer: dict[str, float] = {}
    messages = 0.0
    traffic = report["traffic"]["populations"] if "traffic" in report else None
    known = traffic is not None and report["traffic"]["hops_east_west"] is not None
    hops: tuple[float, float] | None = (0.0, 0.0) if known else None
    on_chip = [layer for layer in report["layers"] if layer["on_chip"]]
    for layer in on_chip:
        entering = [c for c in layer["connections"] if not c["on_host"]]
        by_layer[layer["name"]] = sum(
            operations.get(c["name"], 0.0)
            if operations is not None
            else spikes.get(c["source"], 0.0) * c["synapses"] / max(c["inputs"], 1)
            for c in entering
        )
    for layer in report["layers"]:
        each = spikes.get(layer["name"], 0.0) / max(layer["outputs"], 1)
        if traffic is None:
            messages += each * layer["usage"]["output_axons"] if layer["on_chip"] else 0.0
        elif layer["name"] in traffic:
            sent = traffic[layer["name"]]
            messages += each * sent["messages"]
            if hops is not None and sent["hops_east_west"] is not None:
                hops = hops[0] + each * sent["hops_east_west"], hops[1] + each * sent["hops_north_south"]
    synapses = {layer["name"]: max(layer["usage"]["synapses"], 1) for layer in on_chip}
    steps = report["network"]["steps_per_sample"]
    cores = tuple(
        (
            core["usage"]["compartments"],
            sum(
                by_layer[s["population"]] * s["usage"]["synapses"] / synapses[s["population"]] / steps
                for s in core["slices"]
            ),
        )
        for core in report["cores"]
    )
    return Counts(
        steps=steps,
        neurons=report["totals"]["usage"]["compartments"],
        spikes=sum(spikes.get(layer["name"], 0.0) for layer in on_chip),
        operations=sum(by_layer.values()),
        messages=messages,
        cores=cores,
        hops=hops,
    )


Range = tuple[float, float]
Estimate = tuple[list[Facts], Range, str]


def _part(part: str, events: float, picojoule: Range, formula: str) -> Facts:
    return {
        "part": part,
        "events": round(events, 6),
        "nanojoule_low": round(events * picojoule[0] / 1000, 6),
        "nanojoule_high": round(events * picojoule[1] / 1000, 6),
        "formula": formula,
    }


def _hops(counts: Counts, at: Mapping[str, float]) -> list[Facts]:
    """The way of the messages over the mesh, where it is known."""
    if counts.hops is None:
        return []
    right, down = at["hop_east_west_energy"], at["hop_north_south_energy"]
    total, events = counts.hops[0] * right + counts.hops[1] * down, sum(counts.hops)
    mean = total / events if events else 0.0
    text = f"{counts.hops[0]:,.0f} hops east-west x {right:g} + {counts.hops[1]:,.0f} north-south x {down:g} pJ"
    return [_part("mesh hops", events, (mean, mean), text)]


def _davies2018(counts: Counts, model: EnergyModel) -> Estimate:
    """Synaptic operations, updates (all inactive to all active) and spike messages within a tile."""
    at = _values(model)
    operation, message = at["synaptic_operation_energy"], at["spike_within_tile_energy"]
    idle, busy = at["neuron_update_inactive_energy"], at["neuron_update_active_energy"]
    parts = [
        _part("synaptic operations", counts.operations, (operation, operation), f"operations x {operation:g} pJ"),
        _part(
            "neuron updates",
            counts.updates,
            (idle, busy),
            f"compartments x steps x {idle:g} (all inactive) to {busy:g} pJ (all active)",
        ),
        _part("spike messages", counts.messages, (message, message), f"messages x {message:g} pJ, within one tile"),
        *_hops(counts, at),
    ]
    barrier = at["barrier_time_1_tiles"], at["barrier_time_32_tiles"]
    time = at["synaptic_operation_time"]
    idle_ns, busy_ns = at["neuron_update_inactive_time"], at["neuron_update_active_time"]
    step = counts.slowest(idle_ns, time) + barrier[0], counts.slowest(busy_ns, time) + barrier[1]
    formula = (
        f"steps x (fullest core: compartments x {idle_ns:g} to {busy_ns:g} ns + operations x {time:g} ns; "
        f"+ barrier {barrier[0]:g} to {barrier[1]:g} ns)"
    )
    return parts, step, formula


def _sanafe(counts: Counts, model: EnergyModel) -> Estimate:
    """Calibrated to measurements: accesses (updates: none to all), spikes, synapses read as sparse, axons."""
    at = _values(model)
    access, update = at["neuron_access_energy"], at["neuron_access_energy"] + at["neuron_update_energy"]
    operation = (
        min(at["synapse_sparse_energy"], at["synapse_dense_energy"]),
        max(at["synapse_sparse_energy"], at["synapse_dense_energy"]),
    )
    spike, message = at["neuron_spike_energy"], at["axon_out_energy"] + at["axon_in_energy"]
    parts = [
        _part(
            "synaptic operations",
            counts.operations,
            operation,
            f"operations x {operation[0]:g} to {operation[1]:g} pJ (sparse or dense)",
        ),
        _part(
            "neuron updates",
            counts.updates,
            (access, update),
            f"compartments x steps x {access:g} (accessed) to {update:g} pJ (updated as well)",
        ),
        _part("spikes", counts.spikes, (spike, spike), f"spikes x {spike:g} pJ"),
        _part("spike messages", counts.messages, (message, message), f"messages x {message:g} pJ (axon out and in)"),
        *_hops(counts, at),
    ]
    barrier = at["barrier_time_1_tiles"], at["barrier_time_29_tiles"]
    idle_ns, busy_ns = at["neuron_access_time"], at["neuron_access_time"] + at["neuron_update_time"]
    read = sorted((at["synapse_sparse_time"], at["synapse_dense_time"]))
    step = counts.slowest(idle_ns, read[0]) + barrier[0], counts.slowest(busy_ns, read[1]) + barrier[1]
    formula = (
        f"steps x (fullest core: compartments x {idle_ns:g} to {busy_ns:g} ns + operations x {read[0]:g} to "
        f"{read[1]:g} ns; + synchronisation {barrier[0]:g} to {barrier[1]:g} ns); spikes and axons left out"
    )
    return parts, step, formula


FORMULAS: dict[str, Callable[[Counts, EnergyModel], Estimate]] = {"davies2018": _davies2018, "sanafe": _sanafe}


def _values(model: EnergyModel) -> dict[str, float]:
    return {key: float(entry.value) for key, entry in model.entries.items()}  # type: ignore[arg-type]


def _static(target: Target, chips: int, sample_us: list[float]) -> tuple[list[float] | None, str, set[str]]:
    """Static energy: the published power of a chip over the sample's time."""
    for model in target.energy.values():
        stated = model.entries.get("static_power_per_chip")
        if stated is not None:
            milliwatt = float(stated.value)  # type: ignore[arg-type]
            micro = [round(milliwatt * chips * us / 1000, 6) for us in sample_us]
            return micro, f"{milliwatt:g} mW a chip x {chips} x time", set(stated.source)
    return None, "", set()


def _check_names(report: Facts, spikes: Mapping[str, float], operations: Mapping[str, float] | None) -> None:
    layers = [layer["name"] for layer in report["layers"]]
    connections = [c["name"] for layer in report["layers"] for c in layer["connections"]]
    for given, known, what in ((spikes, layers, "layer"), (operations or {}, connections, "connection")):
        for name in given:
            if name not in known:
                raise SnncError(f"the report has no {what} {name!r}", where="energy", allowed=nearest(name, known))
