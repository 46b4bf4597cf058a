"""Neurons of NIR in steps of dt (forward Euler), as our neurons have them.

With v' = v - v_reset, so that the reset is to 0 and a sample starts from v_reset:

    LIF       v'[t] = (1 - dt/tau) v'[t-1] + dt/tau (v_leak - v_reset) + dt/tau r x[t]
    CubaLIF   i[t]  = (1 - dt/tau_syn) i[t-1] + dt/tau_syn w_in x[t],   and v' as above with i for x, tau_mem for tau
    IF        v'[t] = v'[t-1] + dt r x[t]

A spike where v' > v_threshold - v_reset. LI, CubaLI and I are the same without spikes, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from toolchain.errors import SnncError
from toolchain.frontends import layers
from toolchain.frontends.network import Network, Tensor, Term, no_offset
from toolchain.frontends.nir_fields import Fields, Reals, as_map
from toolchain.frontends.operators import Listed
from toolchain.ir import LIF, Connectivity

MEMORY = {
    "IF": ("r", "v_reset", "v_threshold"),
    "LIF": ("tau", "r", "v_leak", "v_reset", "v_threshold"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_reset", "v_threshold", "w_in"),
    "I": ("r",),
    "LI": ("tau", "r", "v_leak"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
}
"""Kind -> its fields."""
DEFAULTS = {"v_reset": 0.0, "w_in": 1.0}
"""What earlier versions left out."""
POSITIVE = ("tau", "tau_syn", "tau_mem", "r", "w_in")


@dataclass(frozen=True, eq=False, kw_only=True)
class Euler(layers.Neuron):
    """Neurons that may stand in loops, with a drive of their own: `rest` is added to v in every step.

    fields: where a rounding is noted.
    """

    rest: Reals
    fields: Fields

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        x = network.late(x)
        if np.ndim(self._each("gain", x.shape)):
            effect = "r dt / tau differs from neuron to neuron"
            self.fields.note("NIR003", "merged into the weights, which are rounded to single precision", x.size, effect)
        if x.offset.any() and np.any(np.asarray(self.current_decay) != 1.0):
            x = self._clocked(x, network)
        sent = super().value((x,), network)
        lif, x = network.populations.pop()
        rest = np.broadcast_to(layers.fitted(self.rest, x.shape, f"{self.where}.v_leak"), x.shape).reshape(-1)
        exact = x.whole_offset + rest / lif.gain
        bias = exact.astype(np.float32)
        changed = (bias != exact) & (rest != 0)
        if changed.any():
            by = float((np.abs(bias[changed] - exact[changed]) / np.abs(exact[changed])).max())
            effect = f"by {by:.1e} of its value at most"
            self.fields.note("NIR003", "v_leak: biases rounded to single precision", int(changed.sum()), effect)
        network.populations.append((replace(lif, bias=bias), x))
        return sent

    def _clocked(self, x: Tensor, network: Network) -> Tensor:
        """x with its biases sent by a neuron that spikes in every step: only spikes pass through a synaptic decay."""
        name, entry = f"{self.name}.bias", network.source
        nothing = Connectivity(entry.size, 1, np.zeros(entry.size + 1, np.int64), np.zeros(0, np.int32))
        clock = LIF(name, 1, 0.5, 1.0, 1.0, 0.0, np.ones(1, np.float32))
        term = Term(entry.name, Listed(nothing, np.zeros(0)), layer=f"{name}.unused")
        network.populated(clock, Tensor((1,), (term,), no_offset((1,))))
        values = x.whole_offset
        targets = np.flatnonzero(values).astype(np.int32)
        fan_out = Connectivity(1, x.size, np.array([0, len(targets)], np.int64), targets)
        effect = f"{len(targets)} synapses"
        self.fields.note("NIR010", "a neuron was added that spikes in every step and sends the biases", 1, effect)
        late = Term(name, Listed(fan_out, values[targets]), layer=f"{name}.weights")
        return replace(x, terms=(*x.terms, late), offset=no_offset(x.shape))


@dataclass(frozen=True, eq=False, kw_only=True)
class Threshold(layers.Node):
    """z = x > threshold, without memory: neurons whose potential keeps nothing from one step to the next.

    Spikes as they are pass through. Sums that are 0 or above the threshold, whatever arrives, need no leak, and then no
    register is rounded.
    """

    threshold: Reals

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        level = layers.fitted(self.threshold, x.shape, f"{self.where}.threshold")
        if (level < 0).any():
            raise SnncError(
                "a threshold below 0 spikes at every step",
                where=f"{self.where}.threshold",
                got=float(level.min()),
                allowed="0 or more",
            )
        if x.binary and (level < 1).all():
            return x
        x = network.late(x)
        weights = [term.operator.values for term in x.terms]
        high = float(level.max())
        sure = all(bool(((w == 0) | (w > high)).all()) for w in weights) and network.sends_spikes(x)
        sure = sure and not x.offset.any()
        if not sure and not (level > 0).all():
            raise SnncError(
                "neurons of a chip have a threshold above 0",
                where=f"{self.where}.threshold",
                got=0.0,
                allowed="more than 0; or 0 of spikes, with weights that are all above 0, and no bias",
            )
        # A threshold of 0 and any below the least weight are the same.
        least = min((float(w[w > 0].min()) for w in weights if (w > 0).any()), default=1.0)
        level = np.where(level > 0, level, least / 2)
        neurons = layers.Neuron(
            name=self.name,
            inputs=self.inputs,
            place=self.place,
            threshold=level,
            gain=1.0,
            current_decay=1.0,
            voltage_decay=0.0 if sure else 1.0,
        )
        return neurons.value((x,), network)


@dataclass(frozen=True, eq=False, kw_only=True)
class Copy(layers.Node):
    """Neurons that spike where those that they read do, in the same step."""

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        nothing = np.zeros(x.size, np.float32)
        return network.populated(LIF(self.name, x.size, 0.5, 1.0, 1.0, 0.0, nothing), x)


def neuron(fields: Fields, inputs: tuple[str, ...], dt: float, reset: str) -> Euler:
    """The neurons of a node in steps of dt (in the file's unit of time). reset: of those that spike.

    "subtract-late" takes the threshold away in the step behind the spike, when the potential has leaked: v is lower by
    voltage_decay * threshold than after "subtract".
    """
    fields.known(MEMORY[fields.kind])
    get: Callable[[str], Reals] = lambda name: as_map(fields.reals(name, DEFAULTS.get(name), (0, 1, 2, 3)))  # noqa: E731
    given = {name: get(name) for name in MEMORY[fields.kind]}
    for name in POSITIVE:
        if name in given and not (given[name] > 0).all():
            raise fields.refuse("must be more than 0", name, got=float(given[name].min()))
    spiking = "v_threshold" in given
    v_reset = given.get("v_reset", np.zeros(()))
    if spiking and reset != "zero" and v_reset.any():
        raise fields.refuse(
            "a reset by subtraction has no potential to reset to",
            "v_reset",
            got=float(v_reset[v_reset != 0].reshape(-1)[0]),
            allowed="0, or reset 'zero'",
        )
    parts: dict[str, Any] = {"current_decay": np.ones(()), "voltage_decay": np.zeros(()), "gain": dt * given["r"]}
    rest: Reals = np.zeros(())
    tau = "tau_mem" if "tau_mem" in given else "tau"
    if tau in given:
        parts["voltage_decay"] = _decay(fields, tau, given[tau], dt)
        parts["gain"] = parts["voltage_decay"] * given["r"]
        rest = parts["voltage_decay"] * (given["v_leak"] - v_reset)
    if "tau_syn" in given:
        parts["current_decay"] = _decay(fields, "tau_syn", given["tau_syn"], dt)
        parts["gain"] = parts["gain"] * (parts["current_decay"] * given["w_in"])
    if spiking:
        parts["threshold"] = given["v_threshold"] - v_reset
        if not (parts["threshold"] > 0).all():
            raise fields.refuse(
                "must lie above v_reset, or a neuron spikes without end",
                "v_threshold",
                got=float(given["v_threshold"].min()),
            )
        if reset == "subtract-late":
            reset, parts["kick"] = "subtract", -parts["voltage_decay"] * parts["threshold"]
            if parts["kick"].any():
                message = (
                    "the part of the threshold that a late reset takes besides became a synapse to the neuron itself"
                )
                fields.note("FRW002", message, int(np.count_nonzero(parts["kick"])))
    else:
        parts["threshold"] = np.ones(())
    return Euler(
        name=fields.name,
        inputs=inputs,
        place=fields.place,
        rest=rest,
        fields=fields,
        reset=reset if spiking else "none",
        filters_bias=True,
        **parts,
    )


def _decay(fields: Fields, name: str, tau: Reals, dt: float) -> Reals:
    decay = dt / tau
    if (decay > 1).any():
        raise fields.refuse(
            "the time constant is shorter than a step",
            name,
            got=float(tau.min()),
            allowed=f"at least dt, {dt:g}",
            remedy="choose a smaller --dt",
        )
    return decay
