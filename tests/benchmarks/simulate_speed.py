"""The fast back end against Lava, the reference, SpikingJelly and snnTorch, in one run. No test: nothing is asserted.

    python -m tests.benchmarks.simulate_speed                      # all but the largest
    python -m tests.benchmarks.simulate_speed mnist cifar curve    # these
    python -m tests.benchmarks.simulate_speed million              # 1 M neurons, 100 M synapses, in 16 GB
    python -m tests.benchmarks.simulate_speed ways                 # one layer's sums in every way, ours and libraries'

Networks are drawn at random, with thresholds at which a tenth to a fifth of the neurons fires in a step, so that spikes
reach every layer. Rates are samples per second of wall time: ours is the best of three runs over all samples; Lava's
its own steady rate over few (start-up not counted); the others' the best of three runs over all samples, as floats,
the input's spikes given. A peer that is not installed is left out, and the table says so. MNIST is read from
SNNC_DATA, or from shared/data beside the repository; without it, images are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import sparse

import hw_targets
from tests.benchmarks import networks
from toolchain.backends import fast, lava, reference
from toolchain.backends.fast import delivery
from toolchain.backends.lava import _plan
from toolchain.backends.trace import Trace
from toolchain.environment import find_lava
from toolchain.errors import SnncError, ToolError
from toolchain.ir import Connectivity, Graph, IntegerConnection, IntegerSynapses, Program
from toolchain.parallel import cores
from toolchain.pipeline import LAST_PASS, Options, compile_graph
from toolchain.simulation import synaptic_operations
from toolchain.training.data import load

STEPS = 8
RATE = 0.1
"""Part of a layer's sources that is taken to fire in a step when its threshold is chosen."""


def program_of(graph: Graph, steps: int = STEPS, into_input: float = RATE) -> Program:
    """The graph compiled, with thresholds of about one standard deviation of the potential that spikes make.

    A sum of zero-mean weights of random spikes has the variance fan-in * rate * mean square weight; a membrane that
    keeps half of itself has 4/3 of it. Activity then neither dies out nor grows from layer to layer: resets take what
    is above a tenth.
    """
    graph = replace(graph, steps=steps)
    found = compile_graph(graph, hw_targets.load("loihi"), Options(weight_bits=8), until=LAST_PASS).program
    assert found is not None
    rates, populations = {found.input.name: into_input}, []
    for p in found.populations:
        (c,) = found.into(p.name)
        if c.synapses.connectivity.window:  # max pooling: fires when any of its inputs does
            rates[p.name] = 1 - (1 - rates[c.source]) ** 4
            populations.append(p)
            continue
        square = float(np.mean(c.synapses.values.astype(np.float64) ** 2))
        variance = 4 / 3 * c.synapses.connectivity.n_synapses / p.size * rates[c.source] * square
        rates[p.name] = RATE
        populations.append(replace(p, vth=max(1, int(variance**0.5))))
    return replace(found, populations=tuple(populations))


def perceptron(density: float, hidden: int = 800, count: int = 1) -> Program:
    build = networks.Builder("perceptron", (784,))
    for k in range(count):
        build.dense(f"fc{k + 1}", hidden, density)
    build.dense("out", 10, max(density, 0.05))
    return program_of(build.graph())


def convolutional(density: float) -> Program:
    """32C3, max pooling, 64C3, max pooling, dense 128, dense 10, on maps of 3 x 32 x 32."""
    build = networks.Builder("convolutional", (3, 32, 32))
    build.convolution("conv1", 32, density=max(density, 0.3))
    build.pool("pool1")
    build.convolution("conv2", 64, density=density)
    build.pool("pool2")
    build.dense("fc1", 128, density)
    build.dense("fc2", 10)
    return program_of(build.graph(), into_input=0.33)


def images(n: int = 10_000) -> np.ndarray:
    folder = Path(os.environ.get("SNNC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    try:
        return load("mnist", folder).test_x[:n]
    except SnncError:
        print("no MNIST: noise, of which a fifth is not black")
        random = np.random.default_rng(0)
        return (random.integers(0, 256, (n, 784)) * (random.random((n, 784)) < 0.2)).astype(np.uint8)


# --- rates -------------------------------------------------------------------------------------------------------


def best(function: Callable[[], object], times: int = 3) -> tuple[float, float]:
    """Seconds of wall time and of CPU of the fastest of several runs, after one that is not counted."""
    function()
    taken = []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        function()
        taken.append((time.perf_counter() - began, time.process_time() - cpu))
    return min(taken)


def of_fast(program: Program, samples: np.ndarray) -> tuple[float, float, Trace]:
    """Samples per second of wall time and of CPU time of one core, and the last run's trace."""
    traces: list[Trace] = []

    def run() -> None:
        traces[:] = [fast.run(program, samples, record=(), at_any_size=True)]

    wall, cpu = best(run)
    return len(samples) / wall, len(samples) / cpu, traces[0]


def of_reference(program: Program, samples: np.ndarray) -> float:
    return len(samples) / best(lambda: reference.run(program, samples, record=()), 1)[0]


def listed(program: Program) -> Program:
    """The same with every synapse listed, which is what Lava's own Dense and Sparse take."""
    connections = []
    for c in program.connections:
        pattern, weight = c.synapses.connectivity.unroll()
        synapses = replace(c.synapses, connectivity=pattern, mantissa=c.synapses.mantissa[weight])
        connections.append(replace(c, synapses=synapses))
    return replace(program, connections=tuple(connections))


def of_lava(program: Program, samples: np.ndarray) -> float | None:
    """Lava's steady rate with its own processes LIFReset, Dense and Sparse."""
    try:
        found = lava.execute(lava.to_spec(listed(program), samples, slices={}), record=())
    except ToolError as error:
        print(f"no Lava: {error.message}")
        return None
    return len(samples) / found.report["run_s"]


def of_lava_batched(program: Program, samples: np.ndarray) -> float | None:
    """Lava's rate with the batched processes over all samples, in one run for each core; start-up not counted."""
    spec = lava.to_spec(program, samples, slices={})
    try:
        began = time.perf_counter()
        found = lava.execute(replace(spec, batch=_plan.batch(spec, "batched", ())), record=())
        seconds = time.perf_counter() - began
    except ToolError as error:
        print(f"no Lava: {error.message}")
        return None
    parts = found.report["parts"].values()
    return len(samples) / (seconds - max(part["ready_s"] + part["start_s"] for part in parts))


def of_lava_convolutions(layers: list[dict], activity: float, steps: int = 2 * STEPS) -> float | None:
    """Lava's steady rate with its own process Conv, on a network of the same shapes."""
    network = json.dumps({"input": [32, 32, 3], "activity": activity, "layers": layers})
    try:
        interpreter = find_lava().path
    except ToolError as error:
        print(f"no Lava: {error.message}")
        return None
    command = [interpreter, Path(__file__).with_name("lava_stock.py"), network, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"Lava's own convolutions failed: {done.stderr[-300:]}")
        return None
    return steps / STEPS / float(done.stdout.split()[-1])


def float_layers(program: Program) -> list[tuple]:
    """Weights as floats, (targets, sources), and threshold of each layer, in units of one mantissa."""
    found = []
    for p in program.populations:
        (c,) = program.into(p.name)
        found.append((c.synapses.connectivity.dense(c.synapses.values.astype(np.float32)), float(np.max(p.vth))))
    return found


def of_torch(program: Program, samples: np.ndarray, library: str) -> float | None:
    """Float inference of the same layers in a library for PyTorch, all samples in batches of 1000."""
    try:
        import torch

        run = {"snnTorch": _snntorch, "SpikingJelly": _spikingjelly}[library](program)
    except ImportError as error:
        print(f"no {library}: {error}")
        return None
    torch.set_num_threads(cores())
    sent = program.input.encode(samples, program.steps)
    batches = [torch.from_numpy(sent[:, k : k + 1000].astype(np.float32)) for k in range(0, len(samples), 1000)]

    def everything() -> None:
        with torch.no_grad():
            for batch in batches:
                run(batch)

    return len(samples) / best(everything)[0]


def _snntorch(program: Program) -> Callable:
    import snntorch
    import torch

    layers = []
    for weights, threshold in float_layers(program):
        linear = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        linear.weight.data = torch.from_numpy(weights)
        neurons = snntorch.Leaky(beta=0.5, threshold=threshold, reset_mechanism="zero", reset_delay=False)
        layers.append((linear, neurons))

    def run(sent: torch.Tensor) -> torch.Tensor:
        state = [neurons.init_leaky() for _, neurons in layers]
        count = torch.zeros(())
        for x in sent:
            for k, (linear, neurons) in enumerate(layers):
                x, state[k] = neurons(linear(x), state[k])
            count = count + x
        return count

    return run


def _spikingjelly(program: Program) -> Callable:
    import torch
    from spikingjelly.activation_based import functional, layer, neuron

    layers = []
    for weights, threshold in float_layers(program):
        linear = layer.Linear(weights.shape[1], weights.shape[0], bias=False, step_mode="m")
        linear.weight.data = torch.from_numpy(weights)
        lif = neuron.LIFNode(tau=2.0, decay_input=False, v_threshold=threshold, v_reset=0.0, step_mode="m")
        layers += [linear, lif]
    network = torch.nn.Sequential(*layers).eval()

    def run(sent: torch.Tensor) -> torch.Tensor:
        functional.reset_net(network)
        return network(sent).sum(0)

    return run


# --- what is printed ---------------------------------------------------------------------------------------------


def table(title: str, ours: float, per_core: float, peers: dict[str, float | None]) -> None:
    print(f"\n{title}\n\n| way | samples / s | times slower than fast |\n|---|--:|--:|")
    print(f"| fast ({per_core:,.0f} a second of one core) | {ours:,.0f} | 1 |")
    for name, rate in peers.items():
        if rate is None:
            print(f"| {name} | not there | |")
        else:
            print(f"| {name} | {rate:,.1f} | {ours / rate:,.1f} |", flush=True)


def activity(program: Program, trace: Trace) -> str:
    return ", ".join(f"{name} {100 * c.mean() / program.steps:.1f} %" for name, c in trace.counts.items())


def mnist() -> None:
    samples = images()
    for density in (0.05, 1.0):
        program = perceptron(density)
        ours, per_core, trace = of_fast(program, samples)
        peers = {
            "Lava, stock processes": of_lava(program, samples[:200]),
            "Lava, batched": of_lava_batched(program, samples),
            "reference": of_reference(program, samples[:1000]),
            "SpikingJelly, floats": of_torch(program, samples, "SpikingJelly"),
            "snnTorch, floats": of_torch(program, samples, "snnTorch"),
        }
        title = f"784-800-10, {STEPS} steps, {100 * density:.0f} % of synapses, {len(samples)} images"
        table(f"{title}; fires: {activity(program, trace)}", ours, per_core, peers)


def cifar() -> None:
    samples = np.random.default_rng(0).integers(0, 256, (1024, 3072)).astype(np.uint8)
    shapes: list[dict] = [
        *({"kind": "conv", "channels": 32}, {"kind": "pool"}, {"kind": "conv", "channels": 64}, {"kind": "pool"}),
        *({"kind": "dense", "channels": 128}, {"kind": "dense", "channels": 10}),
    ]
    for density in (0.1, 1.0):
        program = convolutional(density)
        ours, per_core, trace = of_fast(program, samples)
        peers = {
            "Lava, its Conv (which has no pruned kernels)": of_lava_convolutions(shapes, 0.33),
            "Lava, synapses listed in its Sparse": of_lava(program, samples[:10]),
            "reference": of_reference(program, samples[:64]),
        }
        title = f"32C3-P2-64C3-P2-128-10 on 3 x 32 x 32, {STEPS} steps, {100 * density:.0f} % of synapses"
        table(f"{title}; fires: {activity(program, trace)}", ours, per_core, peers)


def curve() -> None:
    samples = images()
    print("\n| network | synapses | samples / s | of one core | times as fast as dense |\n|---|--:|--:|--:|--:|")
    for hidden, count in ((800, 1), (2000, 2)):
        rows = []
        for density in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
            program = perceptron(density, hidden, count)
            rows.append((density, *of_fast(program, samples[: 10_000 // count])[:2]))
        name = "784" + f"-{hidden}" * count + "-10"
        for density, wall, cpu in rows:
            times = f"{wall / rows[-1][1]:.1f}"
            print(f"| {name} | {100 * density:.0f} % | {wall:,.0f} | {cpu:,.0f} | {times} |", flush=True)


def million() -> None:
    began = time.perf_counter()
    program = program_of(networks.layers(1_000_000, 100_000_000), steps=networks.STEPS)
    print(f"drawn and compiled in {time.perf_counter() - began:.0f} s")
    head = (
        "samples | s | of CPU | state steps / s | synapses x steps / s | operations (spikes x synapses) / s | peak GB"
    )
    print(f"\n| {head} |\n|--:|--:|--:|--:|--:|--:|--:|")
    random = np.random.default_rng(0)
    for n in (1, 16, 64):
        samples = random.integers(0, 256, (n, program.input.sample_size)).astype(np.uint8)
        began, cpu = time.perf_counter(), time.process_time()
        trace = fast.run(program, samples, record=(), at_any_size=True)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        states = n * program.steps * sum(p.size for p in program.populations) / wall
        synapses = n * program.steps * program.n_synapses / wall
        operations = n * sum(synaptic_operations(program, trace).values()) / wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"| {n} | {wall:.2f} | {cpu:.2f} | {states:.3g} | {synapses:.3g} | {operations:.3g} | {peak:.2f} |")
    fires = {p.name: trace.counts[p.name].mean() / program.steps for p in program.populations}
    print(f"fires: {100 * min(fires.values()):.1f} % to {100 * max(fires.values()):.1f} % of a layer in a step")


def ways() -> None:
    """Sums of 784 -> 800 for 512 lanes: microseconds of CPU of one thread, and what the model of costs says."""
    lanes, random, rows = 512, np.random.default_rng(0), []
    for density in (0.01, 0.05, 0.2, 1.0):
        weights = np.where(random.random((800, 784)) < density, random.integers(1, 31, (800, 784)), 0)
        weights *= random.choice([-1, 1], weights.shape)
        synapses = IntegerSynapses(
            Connectivity.from_mask(weights != 0), weights.T[weights.T != 0].astype(np.int16), 0, 8, "mixed"
        )
        magnitude = int(np.abs(weights).sum(axis=1).max())
        connection = IntegerConnection("c", "a", "b", synapses)
        for active in (0.01, 0.1, 0.5):
            sent = np.zeros((785, lanes), np.uint8)
            sent[:784] = random.random((784, lanes)) < active
            d = delivery.Delivery(connection, delivery.Sums(-30000, 30000, 0), 1, magnitude)
            sums, model = np.zeros((800, lanes), np.int16), d.costs(lanes, int(sent.sum()))
            found = {}
            for way, deliver in delivery.WAYS.items():
                seconds = alone(
                    lambda deliver=deliver, d=d, sums=sums, sent=sent: deliver(d, sums, True, 0, sent, 0, lanes, 1)
                )
                found[way] = f"{seconds * 1e6:,.0f} ({model[way] / 1e3:,.0f})"
            found.update({name: f"{s * 1e6:,.0f}" for name, s in of_libraries(weights, sent[:784]).items()})
            rows.append((f"| {100 * density:.0f} % | {100 * active:.0f} % ", found))
    print("\n| synapses | active | " + " | ".join(rows[0][1]) + " |\n|--:|--:|" + "--:|" * len(rows[0][1]))
    for head, found in rows:
        print(head + "| " + " | ".join(found.values()) + " |")


def alone(function: Callable[[], object]) -> float:
    """Seconds of CPU of the calling thread, the fastest of several runs."""
    function()
    taken = []
    for _ in range(5):
        began = time.thread_time()
        function()
        taken.append(time.thread_time() - began)
    return min(taken)


def of_libraries(weights: np.ndarray, sent: np.ndarray) -> dict[str, float]:
    floats, integers = sent.astype(np.float32), sent.astype(np.int32)
    single, whole = sparse.csr_array(weights.astype(np.float32)), sparse.csr_array(weights.astype(np.int32))
    active = sparse.csr_array(integers)
    found = {
        "scipy, float32": alone(lambda: single @ floats),
        "scipy, int32": alone(lambda: whole @ integers),
        "scipy, both sparse": alone(lambda: whole @ active),
    }
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    dense, spikes = torch.from_numpy(weights.astype(np.float32)), torch.from_numpy(floats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its sparse tensors are announced as unfinished
        compressed = dense.to_sparse_csr()
    found["torch, dense"] = alone(lambda: dense @ spikes)
    found["torch, sparse"] = alone(lambda: compressed @ spikes)
    return found


CASES = {"mnist": mnist, "cifar": cifar, "curve": curve, "million": million, "ways": ways}
USUAL = ("mnist", "cifar", "curve")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; without any: {USUAL}")
    given = parser.parse_args()
    for name in given.cases or USUAL:
        if name not in CASES:
            parser.error(f"unknown case {name}; known: {', '.join(CASES)}")
        CASES[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
