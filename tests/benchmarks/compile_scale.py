"""How long and how much memory a compile takes, by size; and the encoder against peers. No test: nothing is asserted.

    python -m tests.benchmarks.compile_scale                     # all cases but the largest
    python -m tests.benchmarks.compile_scale layers-1M vgg16     # these
    python -m tests.benchmarks.compile_scale --peers             # the encoder against other ways to count

Every case is compiled (all steps of `compile_graph`) in a process of its own, so that its peak memory is its own. The
network is drawn at random first; that time is not counted, its memory is.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import hw_targets
from tests.benchmarks import networks
from toolchain.errors import DoesNotFit, Violation
from toolchain.ir import Graph
from toolchain.pipeline import Compilation, Options, compile_graph

CASES: dict[str, tuple[str, str, Callable[[], Graph]]] = {
    "layers-10k": (
        "loihi",
        "10 k neurons and 1 M synapses, 1000 a layer",
        lambda: networks.layers(10_000, 1_000_000),
    ),
    "layers-100k": ("loihi", "100 k neurons and 10 M synapses", lambda: networks.layers(100_000, 10_000_000)),
    "layers-1M": ("loihi", "1 M neurons and 100 M synapses", lambda: networks.layers(1_000_000, 100_000_000)),
    "wide-100k": ("loihi", "100 k neurons and 10 M synapses in 10 layers", lambda: networks.wide(100_000, 10_000_000)),
    "maps-12": ("loihi", "four convolutions, maps of 12 x 12", lambda: networks.maps(12)),
    "maps-38": ("loihi", "the same, maps of 38 x 38", lambda: networks.maps(38)),
    "maps-120": ("loihi", "the same, maps of 120 x 120", lambda: networks.maps(120)),
    "maps-380": ("loihi", "the same, maps of 380 x 380", lambda: networks.maps(380)),
    "cifar10": ("loihi", "the paper's CIFAR-10 network at 0.73 %", networks.cifar10),
    "mobilenet": ("loihi", "MobileNet at 224 x 224", networks.mobilenet),
    "vgg16": (
        "loihi",
        "VGG-16 at 224 x 224 with 0.73 % of its convolutions' weights, as the paper's CIFAR-10 network",
        lambda: networks.vgg16(density=0.0073),
    ),
    "vgg16-tenth": (
        "loihi",
        "VGG-16 at 224 x 224 with a tenth of its convolutions' weights: more chips than were ever joined",
        lambda: networks.vgg16(density=0.1),
    ),
    "vgg16-dense": ("loihi", "VGG-16 at 224 x 224 with all weights of its convolutions: refused", networks.vgg16),
}
USUAL = ("layers-10k", "layers-100k", "cifar10", "mobilenet", "vgg16")
MOST_CHIPS = 768
"""Of the largest machine that was built, Pohoiki Springs."""


def peak_gb() -> float:
    """The most memory that this process has held, in GB (10**9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(name: str) -> dict[str, object]:
    """Draw and compile one case in this process; plain numbers."""
    target, _, make = CASES[name]
    graph = make()
    neurons, synapses, weights = networks.synapses_of(graph)
    drawn = peak_gb()
    steps: list[tuple[str, float, float, float, str]] = []
    began, cpu = time.perf_counter(), time.process_time()
    spent = cpu

    def observe(number: int, count: int, step: str, note: str, seconds: float) -> None:
        nonlocal spent
        own, spent = time.process_time() - spent, time.process_time()
        steps.append((step, seconds, own, peak_gb(), note))
        times = f"{seconds:8.2f} s, {own:8.2f} s of CPU"
        print(f"  {step:22} {times}  peak {peak_gb():5.2f} GB  {note}", file=sys.stderr, flush=True)

    state: Compilation | None = None
    refused: tuple[Violation, ...] = ()
    try:
        state = compile_graph(graph, hw_targets.load(target), Options(chips=MOST_CHIPS), observe)
    except DoesNotFit as error:
        refused = error.violations
        print("\n".join(f"  refused: {violation}" for violation in refused), file=sys.stderr, flush=True)
    return {
        "case": name,
        "neurons": neurons,
        "synapses": synapses,
        "weights": weights,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "drawn": drawn,
        "peak": peak_gb(),
        "allowed": 3 * weights * 8 / 1e9 + 1,
        "cores": f"{len(state.mapping.cores):,}" if state else "refused",
        "chips": state.mapping.n_chips if state else f"{len(refused)} violations",
        "steps": steps,
    }


def child(name: str) -> dict[str, object] | None:
    """The numbers of one case, measured in a process of its own; None where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.compile_scale", "--child", name], stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


HEAD = "| case | neurons | synapses | stored weights | wall s | CPU s | peak GB | goal GB | cores | chips |"


def row(found: dict[str, object]) -> str:
    return (
        f"| {found['case']} | {found['neurons']:,} | {found['synapses']:,} | {found['weights']:,} | "
        f"{found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak']:.2f} | {found['allowed']:.2f} | "
        f"{found['cores']} | {found['chips']} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; without any: {', '.join(USUAL)}"
    )
    parser.add_argument("--peers", action="store_true", help="the encoder on one slice, against other ways to count it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = [name for name in given.cases if name not in CASES]
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}; known: {', '.join(CASES)}")
    if given.child:
        print(json.dumps(measure(given.child)))
        return 0
    if given.peers:
        from tests.benchmarks import peers

        return peers.main()
    rows = []
    for name in given.cases or USUAL:
        print(f"{name}: {CASES[name][1]}", file=sys.stderr, flush=True)
        found = child(name)
        if found is None:
            print(f"  {name} failed", file=sys.stderr)
        else:
            rows.append(row(found))
    print("\n".join([HEAD, "|---" + "|--:" * 9 + "|", *rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
