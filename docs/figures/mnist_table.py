"""Train, compile and simulate MNIST 784-800-10 for every input coding, connectivity and seed; write mnist.md.

    .venv/bin/python docs/figures/mnist_table.py --data DIR --runs runs/mnist

Runs that are there already are not trained again. Accuracy is that of the compiled integer program in the reference
simulator, over all 10,000 test images; the difference to float is that of the same trained network.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import hw_targets
from toolchain.backends import physical, reference
from toolchain.frontends import load
from toolchain.pipeline import compile_graph
from toolchain.simulation import accuracy, synaptic_operations
from toolchain.training.data import load as load_data
from toolchain.training.loop import train
from toolchain.training.recipe import Recipe

HERE = Path(__file__).parent
RECIPES = {"rate": ("mnist_mlp", "loihi"), "graded": ("mnist_mlp_graded", "loihi2")}


def one(coding: str, connectivity: float, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """One run: trained if it is not there yet, compiled, simulated; its figures."""
    name, target = RECIPES[coding]
    folder = runs / f"{coding}_{connectivity:g}_s{seed}"
    if not (folder / "model.pt").exists():
        recipe = Recipe.load(HERE.parents[1] / "models" / f"{name}.toml")
        recipe = recipe.resolve({"method.connectivity": connectivity, "seed": seed})
        train(recipe, data_dir=data, out_dir=folder, resume=(folder / "checkpoint.pt").exists())
    cached = folder / "figures.json"
    if cached.exists():
        return json.loads(cached.read_text())
    loaded = load(folder)
    state = compile_graph(loaded.graph, hw_targets.load(target))
    test = load_data("mnist", data)
    trace = reference.run(state.program, test.test_x, record=())
    float_trace = physical.run(state.graph, test.test_x)
    connections = [c.synapses.connectivity for c in state.graph.connections]
    figures = {
        "coding": coding,
        "asked": connectivity,
        "seed": seed,
        "connectivity": sum(c.n_synapses for c in connections) / sum(c.n_sources * c.n_targets for c in connections),
        "accuracy": accuracy(trace, test.test_y),
        "float": accuracy(float_trace, test.test_y),
        "operations": sum(synaptic_operations(state.program, trace).values()),
        "cores": len(state.mapping.cores),
        "kib": sum(core.usage.synapse_words for core in state.mapping.cores) * 8 / 1024,
        "seconds": json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"],
        "target": target,
    }
    cached.write_text(json.dumps(figures))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--connectivities", type=float, nargs="+", default=[0.05, 0.02])
    parser.add_argument("--codings", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    lines = [
        "| inputs, target | connectivity % | accuracy as deployed %, mean (spread) | each seed | float % "
        "| synaptic operations a sample | cores | KiB | training s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for coding in asked.codings:
        for connectivity in asked.connectivities:
            rows = [one(coding, connectivity, seed, asked.data, asked.runs) for seed in asked.seeds]
            scores = [100 * row["accuracy"] for row in rows]
            times = ", ".join(f"{row['seconds']:.0f}" for row in rows)

            def mean(key: str, rows: list[dict[str, Any]] = rows) -> float:
                return statistics.mean(row[key] for row in rows)

            lines.append(
                f"| {coding}, {rows[0]['target']} | {100 * mean('connectivity'):.2f} "
                f"| {statistics.mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f}) "
                f"| {', '.join(f'{score:.2f}' for score in scores)} | {100 * mean('float'):.2f} "
                f"| {mean('operations'):,.0f} | {mean('cores'):.0f} | {mean('kib'):.1f} "
                f"| {times} |"
            )
    (HERE / "mnist.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
