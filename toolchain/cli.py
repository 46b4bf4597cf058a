"""The command `snnc`: parse, call, print; nothing else. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from toolchain import __version__
from toolchain.errors import Diagnostic, DoesNotFit, SnncError, UsageError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hw_targets import Target
    from toolchain.backends.trace import Trace
    from toolchain.build import Build
    from toolchain.ir import Graph
    from toolchain.pipeline import Observer, Options

PLAIN_WIDTH = 118
"""Columns of tables where the output is no terminal."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class _Commands(click.Group):
    """A group that keeps the order in which commands are written here and knows the nearest name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.message} {nearest(args[0], self.commands)}", ctx) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="snnc")
@click.option("--debug", is_flag=True, help="Show a traceback with errors.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Train a sparse spiking network, compile it for a neuromorphic chip, and know every byte that it takes."""
    ctx.obj = debug


def main() -> NoReturn:
    """Entry point of the command."""
    code = run(sys.argv[1:])
    if "toolchain.training.distributed" in sys.modules:
        from toolchain.training import distributed

        distributed.leave(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; errors become a message and an exit code.

    0 done, 1 refused (does not fit, wrong model), 2 wrong usage, 3 an outside tool failed, 130 stopped by the user.
    """
    try:
        code = cli.main(args=arguments, prog_name="snnc", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SnncError as error:
        if "--debug" in arguments:
            raise
        _print_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        err.print("stopped")
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_error(error: SnncError) -> None:
    err.print(f"[bold red]error[/]: {escape(error.message)}")
    if isinstance(error, DoesNotFit):
        for violation in error.violations:
            err.print(f"  - {escape(str(violation))}")
    for label, value in error.lines():
        err.print(f"  {label}: {escape(value)}")


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on standard error, shown on a terminal only, gone when done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


# ------------------------------------------------------------------------------------------------ train


class Slope(click.ParamType):
    """A number, or the word that asks for one to be chosen."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        return value if value == "auto" else float(click.FLOAT.convert(value, param, ctx))


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Folder with the data set's files.")
@click.option("--method", help="Pruning method (docs/training.md); keeps the recipe's connectivity.")
@click.option("--alpha", type=float, help="Grad R's constant pressure toward zero, as published.")
@click.option("--connectivity", type=float, help="Part of the synapses that there are at the end (0 to 1).")
@click.option("--epochs", type=int, help="Passes over the training set (default: the recipe's).")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation (default: the recipe's).")
@click.option("--quantise-aware/--float", "quantise_aware", default=None, help="Train in the chip's arithmetic.")
@click.option("--bits", type=int, help="Weight bits of quantise-aware training.")
@click.option("--surrogate", help="What stands for a spike's derivative (docs/training.md).")
@click.option("--surrogate-slope", "slope", type=Slope(), help='Its slope, or "auto": level gradients at the start.')
@click.option("--resume", is_flag=True, help="Continue from the checkpoint in the output folder.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda; auto is a GPU where torch has one.")
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Minutes between two checkpoints; the end of an epoch is always one.",
)
@click.option("--tensorboard", is_flag=True, help="Write the figures of each epoch for TensorBoard too.")
@click.option("-o", "--output", "output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def train(
    recipe: Path,
    data_dir: Path | None,
    method: str | None,
    alpha: float | None,
    connectivity: float | None,
    epochs: int | None,
    seed: int | None,
    quantise_aware: bool | None,
    bits: int | None,
    surrogate: str | None,
    slope: float | str | None,
    resume: bool,
    device: str,
    checkpoint_every: float,
    tensorboard: bool,
    output: Path,
) -> None:
    """Train the network of a RECIPE (a TOML file, see models/) and write model.pt."""
    _train(
        recipe,
        {
            "method.name": method,
            "method.alpha": alpha,
            "method.connectivity": connectivity,
            "train.epochs": epochs,
            "seed": seed,
            "quantise.aware": quantise_aware,
            "quantise.bits": bits,
            "network.surrogate": surrogate,
            "network.slope": slope,
        },
        data_dir=data_dir,
        out_dir=output,
        resume=resume,
        device=device,
        checkpoint_every=60 * checkpoint_every,
        tensorboard=tensorboard,
    )


def _train(recipe: Path, overrides: dict[str, Any], **options: Any) -> None:
    from toolchain.training.recipe import Recipe

    loaded = Recipe.load(_recipe_path(recipe))
    resolved = loaded.resolve(overrides)
    if left_out := loaded.left_out(resolved):
        keys = ", ".join(left_out)
        err.print(f"{resolved.method.name} starts from its own defaults; {loaded.method.name}'s {keys} left out")
    with _needs_extra("train"):
        from toolchain.training.loop import train as run_training
    result = run_training(resolved, **options)
    if result is None:
        # Another process of the same run has it.
        return
    for diagnostic in result.diagnostics:
        err.print(escape(str(diagnostic)))
    if resolved.network.slope == "auto":
        out.print(f"{result.recipe.network.surrogate} surrogate with slope {result.recipe.network.slope:g}, chosen")
    m = result.metrics
    out.print(
        f"accuracy {100 * m['accuracy']:.2f} % (test set, as deployed), connectivity {100 * m['connectivity']:.2f} %, "
        f"{m['seconds']:.0f} s"
    )
    out.print(f"wrote {result.model}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the pictures (default: the run's).")
def plot(run: Path, output: Path | None) -> None:
    """Draw a training RUN: curves, connectivity of each layer, histograms of weights (PNG)."""
    with _needs_extra("train"):
        from toolchain.training.plots import plot as draw
    with _needs_extra("plot"):
        written = draw(run, output)
    for path in written:
        out.print(f"wrote {path}")


def _recipe_path(recipe: Path) -> Path:
    """The path as given; or, where there is no such file, the recipe of that name that ships with us."""
    if not recipe.exists():
        import models

        shipped = Path(models.__file__).parent / recipe.name
        if shipped.exists() and recipe.parent.name in ("", "models"):
            return shipped
    return recipe


@contextlib.contextmanager
def _needs_extra(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise SnncError(
            f"{error.name} is not installed", remedy=f"pip install 'snnc[{extra}]' (see snnc doctor)"
        ) from error


# ------------------------------------------------------------------------------------------------ compile


def _target_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option(
                "--target", "target_name", required=True, help="Name of a target, or a TOML file of your own."
            ),
            click.option("--bits", type=int, help="Weight bits (default: those of training, else the target's)."),
            click.option("--cost-model", help="How synapse memory is charged (default: the target's)."),
            click.option("--chips", type=click.IntRange(1), help="Chips to spread over (default: 1)."),
            click.option("--board", help="A board or machine of the target, with all its chips (see snnc targets)."),
            click.option("--one-layer-per-core", is_flag=True, help="Do not let small layers share a core."),
            click.option(
                "--search",
                default="fewest",
                show_default=True,
                help="How maps are cut: fewest slices; nxtf, as Intel's compiler; halving, as that of Loihi 2.",
            ),
        )
    ):
        command = option(command)
    return command


def _choices(command: Callable[..., None]) -> Callable[..., None]:
    """What a file of NIR or of lava-dl leaves open; `toolchain.frontends.CHOICES` has the same names."""
    for option in reversed(
        (
            click.option("--dt", type=float, help="NIR: a time step, in the unit of the file's time constants."),
            click.option("--steps", type=click.IntRange(1), help="NIR, lava-dl: time steps of a sample (default: 32)."),
            click.option(
                "--coding", help="How samples enter: rate (NIR's default), spikes (lava-dl's), graded or current."
            ),
            click.option("--reset", help="NIR: zero (to v_reset, default), subtract (the threshold) or subtract-late."),
            click.option(
                "--dataset", help="NIR: what the network was trained on, for simulate: mnist, digits, cifar10."
            ),
        )
    ):
        command = option(command)
    return command


def _load_target(name: str) -> Target:
    import hw_targets

    try:
        return hw_targets.load(name)
    except hw_targets.TargetError as error:
        raise UsageError(str(error), where="--target") from error


def _options(
    bits: int | None = None,
    cost_model: str | None = None,
    chips: int | None = None,
    board: str | None = None,
    one_layer_per_core: bool = False,
    search: str | None = None,
) -> Options:
    from toolchain.mapping.partition import METHODS
    from toolchain.pipeline import Options

    if search is not None and search not in METHODS:
        raise UsageError(f"no search {search!r}", where="--search", allowed=nearest(search, METHODS))
    if chips is not None and board is not None:
        raise UsageError("a board says how many chips there are: choose one of --chips and --board")
    return Options(
        weight_bits=bits,
        cost_model=cost_model,
        chips=chips or 1,
        board=board,
        share_cores=not one_layer_per_core,
        search=search or METHODS[0],
    )


def _print_step(number: int, total: int, name: str, note: str, seconds: float) -> None:
    out.print(f"\\[{number:2d}/{total}] {name}: {escape(note)}  [dim]{seconds:.2f} s[/]")


def _compiled(graph: Graph, target: Target, options: Options, observe: Observer | None) -> Any:
    """Compile; where it does not fit, search for remedies before the refusal is shown."""
    from toolchain.pipeline import compile_graph
    from toolchain.remedies import find_remedies

    try:
        with err.status("compiling ...") as status:
            return compile_graph(graph, target, options, observe, begins=lambda step: status.update(f"{step} ..."))
    except DoesNotFit as error:
        if all(violation.remedy for violation in error.violations):
            raise  # each says already what to do
        with err.status("does not fit: compiling alternatives to see which would ..."):
            remedies = find_remedies(graph, target, options)
        text = "; or ".join(remedies) if remedies else "no smaller variant that was tried fits"
        raise DoesNotFit(error.message, error.violations, remedy=text) from None


@cli.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@_target_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Build folder to write.")
@click.option("--force", is_flag=True, help="Replace an earlier build.")
@click.option("--emit-images", is_flag=True, help="Write each core's synapse memory as a decodable image.")
@click.option("--trust", is_flag=True, help="Load a pickled model, which can run any code.")
@_choices
def compile_command(
    model: Path,
    target_name: str,
    bits: int | None,
    cost_model: str | None,
    chips: int | None,
    board: str | None,
    one_layer_per_core: bool,
    search: str,
    output: Path,
    force: bool,
    emit_images: bool,
    trust: bool,
    **choices: Any,
) -> None:
    """Compile a trained MODEL (model.pt, a training folder, a .nir or .net file, or graph.onnx) for a chip."""
    options = _options(bits, cost_model, chips, board, one_layer_per_core, search)
    _compile(model, target_name, options, output, force, emit_images, trust, choices)


def _compile(
    model: Path,
    target_name: str,
    options: Options,
    output: Path,
    force: bool,
    emit_images: bool,
    trust: bool,
    choices: dict[str, Any],
) -> None:
    from toolchain import build, report
    from toolchain.files import refuse_existing
    from toolchain.frontends import load

    target = _load_target(target_name)
    if not force:
        refuse_existing(output)  # before the work, not after it
    began = time.perf_counter()
    with _needs_extra("train"):
        loaded = load(model, trust=trust, **choices)
    for diagnostic in loaded.diagnostics:
        err.print(escape(str(diagnostic)))
    state = _compiled(loaded.graph, target, options, _print_step)
    with err.status("the dense network, for comparison ...") as status:
        facts = build.facts(state, loaded.diagnostics)
        status.update(f"writing {escape(str(output))} ...")
        digest = build.write_build(state, facts, output, force=force, emit_images=emit_images)
    report.render_text({**facts, "build_hash": digest}, out)
    names = ", ".join(sorted(path.name for path in output.iterdir()))
    out.print(f"wrote {output}/ ({names})  build {digest}  {time.perf_counter() - began:.1f} s")


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--lossy", is_flag=True, help="Write also what the format expresses only nearly; says what.")
@click.option("--force", is_flag=True, help="Replace the target.")
@click.option("--trust", is_flag=True, help="Load a pickled model, which can run any code.")
@_choices
def convert(source: Path, target: Path, lossy: bool, force: bool, trust: bool, **choices: Any) -> None:
    """Convert a model: SOURCE as `snnc compile` reads it, TARGET a .nir, .onnx or .pt file; and say what changed."""
    from toolchain import convert as conversion
    from toolchain.files import refuse_existing

    if not force:
        refuse_existing(target)
    with _needs_extra("train"):
        done = conversion.convert(source, target, trust=trust, lossy=lossy, choices=choices)
    for title, diagnostics in (("read", done.read), ("written", done.written)):
        for diagnostic in diagnostics:
            out.print(f"{title}: {diagnostic}", markup=False)
    conversion.check(done, target)
    synapses = sum(c.synapses.connectivity.n_synapses for c in done.graph.connections)
    out.print(
        f"wrote {target}: {len(done.graph.populations)} populations, {len(done.graph.connections)} connections, "
        f"{synapses:,} synapses; read back equal in every bit",
        markup=False,
    )


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@_target_options
@click.option("--connectivity", type=click.FloatRange(0, 1, min_open=True), required=True, help="Part of the synapses.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random network.")
def check(
    recipe: Path,
    target_name: str,
    bits: int | None,
    cost_model: str | None,
    chips: int | None,
    board: str | None,
    one_layer_per_core: bool,
    search: str,
    connectivity: float,
    seed: int,
) -> None:
    """Would the network of a RECIPE fit, before any training? Synapses and weights are drawn at random."""
    from toolchain import build, report
    from toolchain.random_network import random_graph
    from toolchain.training.recipe import Recipe

    target = _load_target(target_name)
    graph = random_graph(Recipe.load(_recipe_path(recipe)), connectivity, seed)
    state = _compiled(graph, target, _options(bits, cost_model, chips, board, one_layer_per_core, search), None)
    out.print(f"untrained: {100 * connectivity:g} % of the synapses at random, normal weights, seed {seed}")
    report.render_text(build.facts(state, ()), out)


# ------------------------------------------------------------------------------------------------ look


@cli.command("report")
@click.argument("build_dir", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="One line for each core.")
@click.option("--html", "as_html", is_flag=True, help="A page that needs nothing else.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the mapping to an .svg, .png or .pdf file.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of reports, what every figure means.")
def report_command(
    build_dir: Path | None, as_json: bool, as_csv: bool, as_html: bool, picture: Path | None, schema: bool
) -> None:
    """Cores, memory and limits of a build, layer by layer and core by core."""
    from toolchain import report
    from toolchain.build import load_build

    if as_json + as_csv + as_html + schema + (picture is not None) > 1:
        raise UsageError("choose one of --json, --csv, --html, --picture and --schema")
    if schema:
        click.echo(json.dumps(report.schema(), indent=2))
        return
    if build_dir is None:
        raise UsageError("which build?", remedy="snnc report BUILD_DIR")
    facts = load_build(build_dir).report
    if picture is not None:
        report.mapping_picture(facts, picture)
        out.print(f"wrote {picture}")
    elif as_json:
        click.echo(report.to_json(facts), nl=False)
    elif as_csv:
        click.echo(report.to_csv(facts), nl=False)
    elif as_html:
        click.echo(report.render_html(facts), nl=False)
    else:
        report.render_text(facts, out)


@cli.command()
@click.argument("build_dir", type=click.Path(path_type=Path))
@click.option("--core", type=int, help="Everything about one core.")
@click.option("--layer", help="Everything about one layer.")
@click.option("--neuron", help="Where a neuron is: conv1:3,0,7 (channel, row, column) or fc1:17.")
@click.option("--why", help="Why a layer takes as many cores as it takes.")
def inspect(build_dir: Path, core: int | None, layer: str | None, neuron: str | None, why: str | None) -> None:
    """Look into one core, one layer or one neuron of a build."""
    from toolchain import report
    from toolchain.build import load_build

    if sum(x is not None for x in (core, layer, neuron, why)) != 1:
        raise UsageError("choose one of --core, --layer, --neuron and --why")
    build = load_build(build_dir)
    state = build.compilation()
    with err.status("finding the mapping again ..."):
        mapping = build.mapping()
    if core is not None:
        shown = report.inspect_core(build.program, mapping, state.limits, core)
    elif layer is not None:
        shown = report.inspect_layer(build.program, mapping, state.limits, layer)
    elif neuron is not None:
        shown = report.inspect_neuron(build.program, mapping, neuron)
    else:
        assert why is not None
        shown = report.why(build.program, mapping, state.limits, why)
    out.print(shown)


@cli.command()
@click.argument("name", required=False)
def targets(name: str | None) -> None:
    """The chips that are known; with NAME every limit of one, with its unit and source."""
    import hw_targets
    from toolchain import report

    if name is None:
        out.print(report.target_table([hw_targets.load(each) for each in hw_targets.available()]))
    else:
        out.print(report.target_view(_load_target(name)))


# ------------------------------------------------------------------------------------------------ simulate


def _event_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option(
                "--events", type=click.Path(path_type=Path), help="File or folder of events, for coding 'spikes'."
            ),
            click.option("--dt", help="Events: time of a step, such as 1ms (default) or 500us."),
            click.option("--map", "event_map", help="Events: the input's CHANNELSxHEIGHTxWIDTH (default: its own)."),
            click.option("--downsample", type=click.IntRange(1), help="Events: places that become one, on each axis."),
        )
    ):
        command = option(command)
    return command


def _samples(
    build: Build, data_dir: Path | None, count: int | None, events: Path | None = None, **binning: Any
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The first `count` test samples of the data set that the network was trained on, or recordings of events."""
    if events is not None:
        from toolchain.simulation import event_samples

        binned = event_samples(build.graph, events, count, **binning)
        for diagnostic in binned.diagnostics:
            err.print(escape(str(diagnostic)))
        return binned.samples, binned.labels
    if given := [name.replace("event_", "") for name, value in binning.items() if value is not None]:
        raise UsageError(
            "an option of event data", where="--" + ", --".join(given), remedy="name the data: --events FILE"
        )
    if build.program.input.coding == "spikes":
        raise SnncError(
            "the network reads spikes of every step",
            where=build.program.input.name,
            remedy="--events FILE, or a folder: see docs/events.md",
        )
    from toolchain.training.data import load

    name = build.program.metadata.get("dataset")
    if name is None:
        raise SnncError(
            "the build does not say which data set it was trained on",
            where=str(build.path),
            remedy="compile a .nir file with --dataset",
        )
    data = load(name, data_dir)
    if count is not None and count > len(data.test_x):
        raise UsageError(
            "there are not so many test samples", where="--samples", got=count, allowed=f"1 to {len(data.test_x)}"
        )
    return data.test_x[:count], data.test_y[:count]


@cli.command()
@click.argument("build_dir", type=click.Path(path_type=Path))
@click.option("--backend", default="fast", show_default=True, help="fast, reference, lava or onnx: all equal.")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Folder with the data set's files.")
@click.option("--samples", type=click.IntRange(1), help="How many test samples (default: all).")
@_event_options
@click.option("--deadline", type=float, help="Seconds after which Lava is stopped (default: from the work).")
@click.option("--lava-processes", help="Lava: stock, batched (samples side by side) or auto (default).")
@click.option("--device", help="fast: cpu (default), or a GPU as torch names it: cuda, cuda:1.")
@click.option(
    "--save-spikes", type=click.Path(path_type=Path, dir_okay=False), help="Write every spike to an .npz file."
)
@click.option("--json", "as_json", is_flag=True, help="Figures as JSON.")
def simulate(
    build_dir: Path,
    backend: str,
    data_dir: Path | None,
    samples: int | None,
    deadline: float | None,
    lava_processes: str | None,
    device: str | None,
    save_spikes: Path | None,
    as_json: bool,
    events: Path | None = None,
    **binning: Any,
) -> None:
    """Run a build on test data: accuracy, spikes, synaptic operations, time."""
    from toolchain import report, simulation
    from toolchain.build import load_build

    with _needs_extra("onnx"):
        run = simulation.backend(backend)
    build = load_build(build_dir)
    options = _backend_options(backend, deadline, lava_processes, device)
    x, y = _samples(build, data_dir, samples, events, **binning)
    # The file is opened first: a place that cannot be written is told before the work, not after it.
    with _spike_file(save_spikes) as save, _progress(f"{backend}, {len(x)} samples") as progress:
        record = None if save_spikes is not None else ()
        trace = run(build.program, x, progress=progress, record=record, **options)
        save(trace)
    operations = simulation.synaptic_operations(build.program, trace)
    spikes = {name: float(counts.sum(axis=1).mean()) for name, counts in trace.counts.items()}
    estimate = report.energy(build.report, build.target, spikes, synaptic_operations=operations)
    if as_json:
        figures = {
            "backend": backend,
            "build": build.hash,
            "samples": len(x),
            "accuracy": None if y is None else simulation.accuracy(trace, y),
            "spikes_per_sample": spikes,
            "synaptic_operations_per_sample": operations,
            "energy": estimate,
            "seconds": trace.seconds,
            "notes": [str(note) for note in trace.notes],
        }
        click.echo(json.dumps(figures, indent=2))
        return
    table = Table(box=None, header_style="bold")
    for column in ("layer", "neurons", "spikes / sample", "spikes / neuron", "silent", "synaptic ops / sample"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name, counts in trace.counts.items():
        mean = spikes[name]
        silent = int((counts.sum(axis=0) == 0).sum())
        into = sum(operations[c.name] for c in build.program.into(name))
        fired = (
            ("readout", "-", "-")
            if name in trace.potentials
            else (f"{mean:.1f}", f"{mean / counts.shape[1]:.3f}", silent)
        )
        table.add_row(name, str(counts.shape[1]), *map(str, fired), f"{into:.0f}")
    out.print(table)
    rate = len(x) / trace.seconds
    right = "no labels for" if y is None else f"accuracy {100 * simulation.accuracy(trace, y):.2f} % of"
    out.print(
        f"{right} {len(x)} test samples  {backend}, build {build.hash}, {trace.seconds:.1f} s ({rate:.0f} samples/s)"
    )
    _print_notes(trace.notes)
    if estimate is not None:
        report.render_energy({"energy": estimate}, out)
    if save_spikes is not None:
        out.print(f"wrote {save_spikes}")


def _backend_options(
    backend: str, deadline: float | None, lava_processes: str | None, device: str | None = None
) -> dict[str, Any]:
    given = (
        ("--deadline", "lava", "deadline_s", deadline),
        ("--lava-processes", "lava", "processes", lava_processes),
        ("--device", "fast", "device", device),
    )
    for option, whose, _, value in given:
        if value is not None and backend != whose:
            raise UsageError(f"{option} is for the back end {whose}", where=option)
    return {name: value for _, _, name, value in given if value is not None}


@contextlib.contextmanager
def _spike_file(path: Path | None) -> Iterator[Callable[[Trace], None]]:
    """What writes every spike (and a readout's potentials as NAME.potential) to a file; nothing without a path."""
    if path is None:
        yield lambda trace: None
        return
    import numpy as np

    from toolchain.files import atomic_write

    with atomic_write(path) as stream:
        yield lambda trace: np.savez_compressed(
            stream,
            allow_pickle=False,
            **trace.spikes,
            **{f"{name}.potential": values for name, values in trace.potentials.items()},
        )


@cli.command()
@click.argument("build_dir", type=click.Path(path_type=Path))
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Folder with the data set's files.")
@click.option("--samples", type=click.IntRange(1), help="How many test samples (default: 100; of events: all).")
@_event_options
@click.option("--deadline", type=float, help="Seconds after which Lava is stopped (default: from the work).")
@click.option("--lava-processes", help="Lava: stock, batched (samples side by side) or auto (default).")
@click.option("--without-lava", is_flag=True, help="Leave Lava out, for machines that have none.")
@click.option("--json", "as_json", is_flag=True, help="Figures as JSON.")
def verify(
    build_dir: Path,
    data_dir: Path | None,
    samples: int | None,
    deadline: float | None,
    lava_processes: str | None,
    without_lava: bool,
    as_json: bool,
    events: Path | None = None,
    **binning: Any,
) -> None:
    """Float, quantised and reference, and fast, ONNX Runtime and Lava, which must equal the reference."""
    from toolchain.backends import onnx_runtime
    from toolchain.build import load_build

    build = load_build(build_dir)
    x, y = _samples(build, data_dir, samples or (None if events else 100), events, **binning)
    exact: dict[str, dict[str, Any]] = {"fast": {"at_any_size": True}, "onnx": {}}
    try:
        onnx_runtime.check(build.program)
    except SnncError as error:
        del exact["onnx"]
        err.print(f"no row onnx: {error}", markup=False)
    if not without_lava:
        exact["lava"] = _backend_options("lava", deadline, lava_processes)
    rows = _verify(build, x, y, exact)
    if as_json:
        click.echo(json.dumps([row.to_dict() for row in rows], indent=2))
    else:
        _print_rows(rows, len(x))
    failed = [row for row in rows if row.failed]
    if failed:
        raise SnncError(
            f"{failed[0].name} and the row above it differ in a spike",
            where=str(failed[0].divergence),
            allowed="every spike equal",
            remedy="this is a fault of the toolchain: please report it with the build folder",
        )


def _verify(build: Build, x: NDArray[Any], y: NDArray[Any] | None, exact: dict[str, dict[str, Any]]) -> list[Any]:
    from toolchain import simulation
    from toolchain.pipeline import LAST_PASS, compile_graph

    state = compile_graph(build.graph, build.target, build.options, until=LAST_PASS)
    if state.program != build.program:
        raise SnncError(
            "program.onnx is not what graph.onnx compiles to",
            where=str(build.path),
            remedy="compile again: this version of snnc and the one that wrote the build differ",
        )
    with err.status("simulating ...") as status:
        return simulation.verify(
            state, x, y, exact_backends=exact, observe=lambda name: status.update(f"simulating: {name}")
        )


def _print_rows(rows: list[Any], samples: int) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("", "accuracy", "agrees with row above", "first spike that differs", "time"):
        table.add_column(column, justify="right" if column in ("accuracy", "time") else "left")
    for row in rows:
        same = "" if row.agreement is None else "none"
        differs = same if row.divergence is None else str(row.divergence)
        agreement = "" if row.agreement is None else f"{100 * row.agreement:.2f} %"
        if row.exact:
            agreement += " (must be exact)"
        right = "-" if row.accuracy is None else f"{100 * row.accuracy:.2f} %"
        table.add_row(row.name, right, agreement, differs, f"{row.seconds:.2f} s")
    out.print(table)
    out.print(f"{samples} test samples")
    for row in rows:
        _print_notes(row.notes)


def _print_notes(notes: Iterable[Diagnostic]) -> None:
    for note in notes:
        out.print(str(note), markup=False)


# ------------------------------------------------------------------------------------------------ sweep


@cli.command()
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of this sweep.")
@click.option("--scheduler", help="Address of a Dask scheduler that runs (default: a cluster on this machine).")
@click.option("--workers", type=click.IntRange(1), help="Processes of the own cluster (default: one a core).")
@click.option("--data", "data_dir", type=click.Path(path_type=Path), help="Folder with the data set's files.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="table.csv alone, or table.parquet beside it.",
)
@click.option(
    "--picture",
    type=click.Choice(["png", "svg", "none"]),
    default="png",
    show_default=True,
    help="Accuracy against cores.",
)
@click.option("--dry-run", is_flag=True, help="List the points and how far each is; do nothing.")
def sweep(
    sweep_file: Path,
    output: Path,
    scheduler: str | None,
    workers: int | None,
    data_dir: Path | None,
    kind: str,
    picture: str,
    dry_run: bool,
) -> None:
    """Train, compile and simulate every point of a SWEEP (a TOML file, docs/sweep.md).

    The same command continues a sweep that was stopped, and does what is new in its file.
    """
    from toolchain import parallel
    from toolchain.sweep import picture as pictures
    from toolchain.sweep import plan, run, shown, table

    if scheduler is not None and workers is not None:
        raise UsageError("the workers of a scheduler that runs are its own: choose one of --scheduler and --workers")
    asked = plan.load(_recipe_path(sweep_file))
    state = run.State.of(asked, output.absolute())
    shown.before(state, out, err)
    if dry_run:
        shown.plan(state, out)
        return
    if kind == "parquet":
        table.need_parquet()
    if picture != "none":
        pictures.need_matplotlib()

    def finish(rows: list[table.Row]) -> None:
        shown.write(state, rows, kind == "parquet", None if picture == "none" else picture, out)

    with err.status("starting workers ...") as status, _needs_extra("sweep"):
        rows = run.run(
            state,
            scheduler=scheduler,
            workers=workers or parallel.cores(),
            data=None if data_dir is None else data_dir.absolute(),
            teller=shown.Lines(out, status.update),
            finish=finish,
        )
    failed = [row for row in rows if row["error"] is not None]
    if failed:
        raise SnncError(
            f"{len(failed)} of {len(rows)} points failed",
            where=", ".join(row["folder"] for row in failed[:5]) + (", ..." if len(failed) > 5 else ""),
            got=failed[0]["error"],
            remedy="see the column error, and error.txt in a point's folder; the same command tries them again",
        )


# ------------------------------------------------------------------------------------------------ demo, doctor


@cli.command()
def doctor() -> None:
    """What is installed, what is missing, and the command that gets it."""
    from toolchain import doctor as checks

    rows = checks.check()
    table = Table(box=None, header_style="bold")
    for column in ("", "what", "found", "needed", "to do"):
        table.add_column(column, overflow="fold")
    for row in rows:
        mark = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "optional": "[yellow]optional[/]"}
        table.add_row(
            mark.get(row.state, row.state), *(escape(x) for x in (row.what, row.found, row.needed, row.remedy))
        )
    out.print(table)
    if any(row.state == "missing" for row in rows):
        raise SnncError("something that is needed is missing", remedy="run the commands in the last column")


@cli.command()
@click.option(
    "-o", "--output", default="snnc-demo", show_default=True, type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--target", "target_name", default="loihi", show_default=True, help="Name of a target.")
@click.option("--without-lava", is_flag=True, help="Leave Lava out, for machines that have none.")
def demo(output: Path, target_name: str, without_lava: bool) -> None:
    """The whole way in about a minute, on the handwritten digits that ship with scikit-learn."""
    from toolchain.build import load_build
    from toolchain.files import refuse_existing

    refuse_existing(output)
    run, build_dir = output / "run", output / "build"
    _say(f"snnc train models/digits.toml -o {run}")
    _train(Path("models/digits.toml"), {}, out_dir=run)
    _say(f"snnc compile {run} --target {target_name} -o {build_dir}")
    _compile(run, target_name, _options(), build_dir, False, False, False, {})
    layer = load_build(build_dir).program.populations[0].name
    ctx = click.get_current_context()
    _say(f"snnc inspect {build_dir} --why {layer}")
    ctx.invoke(inspect, build_dir=build_dir, why=layer)
    _say(f"snnc simulate {build_dir}")
    ctx.invoke(simulate, build_dir=build_dir)
    _say(f"snnc verify {build_dir}" + (" --without-lava" if without_lava else ""))
    ctx.invoke(verify, build_dir=build_dir, samples=100, without_lava=without_lava)
    out.print(f"\nopen {build_dir}/report.html in a browser")


def _say(command: str) -> None:
    out.print(f"\n[bold]$ {escape(command)}[/]")


if __name__ == "__main__":
    main()
