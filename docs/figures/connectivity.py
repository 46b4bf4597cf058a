"""Cores and synapse memory of 784-800-10 against connectivity; writes connectivity.md and .svg, and accounting.md.

    .venv/bin/python docs/figures/connectivity.py

Synapses are drawn at random and weights are normal, 8 bits, seed 0, target loihi, cost model nxtf.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hw_targets
from toolchain.errors import DoesNotFit
from toolchain.pipeline import Compilation, Options, compile_graph
from toolchain.random_network import random_graph
from toolchain.training.recipe import Recipe

CONNECTIVITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
ENCODINGS = ("dense1", "dense2", "sparse", "runlength")
HERE = Path(__file__).parent
PAGE = HERE.parent / "accounting.md"
BEGIN, END = "<!-- connectivity.md begins -->\n", "<!-- connectivity.md ends -->\n"


def words(state: Compilation) -> int:
    return sum(core.usage.synapse_words for core in state.mapping.cores)


def main() -> None:
    target = hw_targets.load("loihi")
    recipe = Recipe.load(HERE.parents[1] / "models" / "mnist_mlp.toml")
    # One compartment a neuron: what is counted here are synapses.
    recipe = recipe.resolve({"network.reset": "zero", "network.readout": False})
    best = Options(weight_bits=8)
    rows, curves = [], {name: [] for name in ("chosen for each list", *ENCODINGS)}
    for connectivity in CONNECTIVITIES:
        graph = random_graph(recipe, connectivity, seed=0)
        state = compile_graph(graph, target, best)
        alone = compile_graph(graph, target, replace(best, share_cores=False))
        curves["chosen for each list"].append(words(state))
        for encoding in ENCODINGS:
            try:
                forced = compile_graph(graph, target, replace(best, encodings=(encoding,), share_cores=False))
                curves[encoding].append(words(forced))
            except DoesNotFit:
                curves[encoding].append(None)
        total = words(state)
        synapses = state.program.n_synapses
        payload = sum(core.usage.payload_bits for core in state.mapping.cores)
        each = [("-" if curve[-1] is None else f"{curve[-1]:,}") for name, curve in curves.items() if name in ENCODINGS]
        rows.append(
            f"| {100 * connectivity:g} | {synapses:,} | {len(state.mapping.cores)} | {len(alone.mapping.cores)} | "
            f"{total * 8 / 1024:.1f} | {100 * payload / (total * 64):.0f} | {total:,} | " + " | ".join(each) + " |"
        )
    head = (
        "| connectivity % | synapses | cores | cores, one layer each | KiB | payload % | words, chosen | "
        + " | ".join(f"words, {name}" for name in ENCODINGS)
        + " |\n"
        + "|---" * (7 + len(ENCODINGS))
        + "|\n"
    )
    table = head + "\n".join(rows) + "\n"
    (HERE / "connectivity.md").write_text(table)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1])
    plot(curves)


def plot(curves: dict[str, list[int | None]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "snnc"  # the same figure gives the same bytes
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, curve), style in zip(curves.items(), ("k-", "C0--", "C1:", "C2--", "C3-."), strict=True):
        points = [(100 * c, w * 8 / 1024) for c, w in zip(CONNECTIVITIES, curve, strict=True) if w is not None]
        axes.plot(*zip(*points, strict=True), style, marker=".", label=name, linewidth=2.5 if style == "k-" else 1.2)
    axes.axhline(128, color="grey", linewidth=0.8)
    axes.annotate("synapse memory of one core", (0.5, 134), fontsize=8, color="grey")
    axes.set(xscale="log", yscale="log", xlabel="connectivity (%)", ylabel="synapse memory (KiB)")
    axes.set_title("784-800-10 on Loihi, 8-bit weights, random synapses")
    axes.legend(fontsize=8)
    figure.savefig(HERE / "connectivity.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
