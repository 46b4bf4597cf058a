"""The training loop.

Everything random is drawn from generators seeded by the recipe's seed, what it is for, and the step. So there is no
generator state to keep: a run continued from its checkpoint does what it would have done without the stop, bit for bit
(with the same number of threads and the same torch; products are summed in another order elsewhere).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from toolchain.errors import Diagnostic, Interrupted, SnncError
from toolchain.files import remove_unfinished, write_text
from toolchain.training import augment, checkpoint, distributed, evaluate, memory, precision, progress, quantise, slopes
from toolchain.training import device as devices
from toolchain.training import tensorboard as boards
from toolchain.training.data import Dataset, load
from toolchain.training.layers import Weights
from toolchain.training.methods import Clock, Run
from toolchain.training.modules import SpikingNetwork
from toolchain.training.recipe import Recipe, Train
from toolchain.training.seeds import AUGMENT, DROPOUT, ORDER, Draws, generator

CHECKPOINT_EVERY = 600.0
"""Seconds between two checkpoints in a long epoch."""
GRID_INTERVAL = 20
"""Steps between two fits of the integer grids; weights must not run into the end of their range in between."""


@dataclass(frozen=True)
class TrainResult:
    """What a run gave. metrics: the figures of `evaluate.figures`, as deployed, and the seconds that it took."""

    model: Path
    recipe: Recipe
    metrics: dict[str, Any]
    diagnostics: tuple[Diagnostic, ...]


def train(
    recipe: Recipe,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    out_dir: str | os.PathLike[str],
    resume: bool = False,
    reporter: progress.Reporter | None = None,
    device: str = "cpu",
    checkpoint_every: float = CHECKPOINT_EVERY,
    tensorboard: bool = False,
) -> TrainResult | None:
    """Train as the recipe says and write model.pt, metrics.jsonl, recipe.toml and checkpoint.pt into out_dir.

    resume: continue from out_dir's checkpoint, to the same bits as if there had been no stop; with more epochs than a
    finished run had, go on with it (see `Session._extend`).
    reporter: receives the progress; a bar or lines on standard error when None.
    device: a name of `device.DEVICES`.
    checkpoint_every: seconds after which a checkpoint is written, besides those at the end of each epoch.
    tensorboard: write the figures of each epoch as TensorBoard's events too, into out_dir/tensorboard.
    Of several processes (`distributed`) the first one writes and reports, and has the result; the others get None.

    Raises:
        SnncError: data, device or folder refused, checkpoint of another recipe, a file could not be written, loss not
            finite, another process ended.
        Interrupted: SIGINT or SIGTERM came; the checkpoint is written, the message says how to continue.
    """
    memory.reuse_freed()
    place = devices.resolve(device)
    dataset, folder = load(recipe.data.dataset, data_dir), Path(out_dir)
    recipe = _with_precision(_with_slope(recipe, dataset, folder / "recipe.toml", resume), place)
    with distributed.joined(place), devices.default(place):
        first = distributed.rank() == 0
        # The others look into the folder once the first one has prepared it.
        begun = distributed.anyone(first and _prepare(folder, resume))
        session = Session(recipe, dataset, folder, place, checkpoint_every)
        if begun:
            session.restore()
        if first:
            write_text(folder / "recipe.toml", recipe.to_toml())
            reporter = progress.automatic() if reporter is None else reporter
            session.log = boards.Board(folder / "tensorboard", session.step) if tensorboard else None
        else:
            reporter = progress.Silent()
        try:
            with _stop_signals() as stopped:
                session.run(reporter, stopped)
        finally:
            reporter.close()
            if session.log is not None:
                session.log.close()
        return session.finish() if first else None


def _with_precision(recipe: Recipe, device: torch.device) -> Recipe:
    chosen = precision.resolve(recipe.train.precision, device)
    return replace(recipe, train=replace(recipe.train, precision=chosen))


def _with_slope(recipe: Recipe, dataset: Dataset, before: Path, resume: bool) -> Recipe:
    """The recipe with a number where the slope is chosen by us: that of the recipe of the run before, or a new one."""
    if recipe.network.slope != "auto":
        return recipe
    slope = Recipe.load(before).network.slope if resume and before.exists() else slopes.choose(recipe, dataset)
    return replace(recipe, network=replace(recipe.network, slope=slope))


def _prepare(folder: Path, resume: bool) -> bool:
    """Make the folder, or look at what is there; whether it has a checkpoint to continue from.

    A run that was killed before its first checkpoint has left a recipe at most; --resume then begins it.
    """
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SnncError(
            f"{folder} exists already",
            where="-o",
            got=str(folder),
            remedy="choose another place with -o, or continue what is there with --resume",
        )
    if resume:
        for name in ("recipe.toml", "checkpoint.pt", "metrics.jsonl", "model.pt"):
            remove_unfinished(folder / name)
    found = resume and (folder / "checkpoint.pt").exists()
    foreign = not folder.is_dir() or {path.name for path in folder.iterdir()} - {"recipe.toml", "tensorboard"}
    if resume and not found and foreign:
        raise SnncError(f"there is no checkpoint in {folder}", where=str(folder), remedy="start without --resume")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnncError(f"could not make {folder}", where="-o", got=error.strerror) from error
    return found


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a step is never cut in half; a second one stops at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def learning_rates(options: Train, steps_per_epoch: int) -> tuple[float, ...]:
    """The learning rate of every step: linear warm-up, then constant.

    With `cosine`, from the fraction `decay_from` of training on, a half cosine down to final_lr * lr.
    """
    total = options.epochs * steps_per_epoch
    hold = round(options.decay_from * total)
    warm = round(options.warmup * steps_per_epoch)
    rates = []
    for step in range(total):
        if step < warm:
            factor = (step + 1) / warm
        elif options.schedule == "cosine" and step >= hold:
            begin = max(warm, hold)
            done = (step - begin) / max(total - begin, 1)
            factor = options.final_lr + (1 - options.final_lr) * (1 + math.cos(math.pi * done)) / 2
        else:
            factor = 1.0
        rates.append(options.lr * factor)
    return tuple(rates)


def loss_of(options: Train, rates: Tensor, labels: Tensor) -> Tensor:
    """The loss of output rates (B, classes), spike counts over T."""
    if options.loss == "cross-entropy":
        return functional.cross_entropy(options.loss_scale * rates, labels, label_smoothing=options.label_smoothing)
    target = functional.one_hot(labels, rates.shape[1]).to(rates.dtype)
    if options.label_smoothing:
        target = target * (1 - options.label_smoothing) + options.label_smoothing / rates.shape[1]
    return functional.mse_loss(rates, target)


class Session:
    """A run in progress: network, method, position, and sums of the current epoch."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        device: torch.device = precision.CPU,
        checkpoint_every: float = CHECKPOINT_EVERY,
    ) -> None:
        self.recipe, self.dataset, self.folder, self.device = recipe, dataset, folder, device
        options = recipe.train
        arrays = (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y)
        self.x, self.y, self.test_x, self.test_y = (torch.from_numpy(array.copy()).to(device) for array in arrays)
        last = len(self.x) % options.batch_size or options.batch_size
        if min(last, len(self.x)) < distributed.size():
            raise SnncError(
                "the last batch of an epoch has fewer samples than there are processes",
                where="[train] batch_size",
                got=f"{len(self.x)} samples in batches of {options.batch_size}, {last} in the last",
                allowed=f"{distributed.size()} or more in each",
                remedy="choose another batch size, or start fewer processes",
            )
        # The last, smaller batch of an epoch is trained on too.
        self.steps_per_epoch = math.ceil(len(self.x) / options.batch_size)
        self.total = options.epochs * self.steps_per_epoch
        self.rates = learning_rates(options, self.steps_per_epoch)
        # Its weights are drawn there, so they are the same wherever training computes.
        with precision.CPU:
            self.network = SpikingNetwork(recipe, dataset.shape, dataset.classes)
        self.network.to(device)
        self.parameters = list(self.network.parameters())
        self.method: Run = recipe.method.start(self.network, total_steps=self.total, weight_decay=options.weight_decay)
        self.dtype = precision.DTYPES[options.precision]
        self.step = 0
        self.seconds = self.data_seconds = 0.0
        self.loss_sum = 0.0
        self.samples_seen = 0
        self.shrunk = 0
        self.records: list[dict[str, Any]] = []
        self.extended: list[list[int]] = []
        self.log: boards.Board | None = None
        self._order = (-1, torch.empty(0, dtype=torch.int64))
        self._every, self._saved = checkpoint_every, time.monotonic()

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self.step // self.steps_per_epoch

    def _generator(self, purpose: int, number: int) -> torch.Generator:
        return generator(self.recipe.seed, purpose, number)

    def _batch(self) -> tuple[Tensor, Tensor, slice, int]:
        """This process's samples and labels, which part of the batch they are, and of how many."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, torch.randperm(len(self.x), generator=self._generator(ORDER, epoch), device="cpu"))
        size = self.recipe.train.batch_size
        batch = self._order[1][position * size : (position + 1) * size]
        part = distributed.part(len(batch))
        chosen = batch[part].to(self.device)
        x, ranges = self.x.index_select(0, chosen), self.recipe.augment
        if ranges.active and self.step < ranges.until * self.total:
            x = augment.augment(x, self.dataset.shape, ranges, self._draws(AUGMENT, part, len(batch)))
        return x, self.y.index_select(0, chosen), part, len(batch)

    def _draws(self, purpose: int, part: slice, whole: int) -> Draws:
        return Draws(self._generator(purpose, self.step), part.start, whole - part.stop)

    def run(self, reporter: progress.Reporter, stopped: threading.Event) -> None:
        """Train to the end, or until `stopped` is set."""
        accuracy = next((r["accuracy"] for r in reversed(self.records) if "accuracy" in r), None)
        began = time.monotonic() - self.seconds
        connected = evaluate.connectivity(self.method.masks())
        while self.step < self.total:
            self._one_step()
            ended = self.step % self.steps_per_epoch == 0
            self.seconds = time.monotonic() - began
            mean = self.loss_sum / max(self.samples_seen, 1)
            if ended:
                record = self._end_epoch()
                accuracy = record.get("accuracy", accuracy)
                connected = record["connectivity"]
                self.seconds = time.monotonic() - began
                self.save()
            if ended or self.step % 10 == 0:
                status = progress.Status(
                    self.step,
                    self.total,
                    (self.step - 1) // self.steps_per_epoch + 1,
                    self.recipe.train.epochs,
                    mean,
                    accuracy,
                    connected,
                )
                reporter.update(status, epoch_ended=ended)
            elif time.monotonic() - self._saved >= self._every:
                self.save()
            if distributed.anyone(stopped.is_set()) and self.step < self.total:
                self.save()
                raise Interrupted(
                    f"stopped in epoch {self.epoch + 1} of {self.recipe.train.epochs}",
                    where=str(self.folder),
                    remedy="the same command with --resume continues from here",
                )

    def _one_step(self) -> None:
        clock = Clock(self.step, self.total, self.rates)
        was_frozen = self.method.frozen
        self.method.before_step(clock)
        if self.method.frozen and self.network.used is None and not (was_frozen and self.step):
            self.network.compact(self.method.masks())
        if self.network.normed and self.recipe.quantise.aware and self.step >= self._fold_at:
            self._fold()
        if self.recipe.quantise.aware and not self.network.normed and self._refit(was_frozen):
            self.network.fit_grids()
        began = time.perf_counter()
        x, y, part, whole = self._batch()
        self.data_seconds += time.perf_counter() - began
        rates = self.network.rates(self.network(x, self.dtype, self._draws(DROPOUT, part, whole)))
        # The loss of a batch is a mean over its samples; each process adds its own.
        loss = loss_of(self.recipe.train, rates, y) * (len(y) / whole)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        value = distributed.total_gradients(self.parameters, float(loss.detach()))
        if not math.isfinite(value):
            raise SnncError(
                "the loss is not finite",
                where=f"epoch {self.epoch + 1}, step {self.step}",
                got=value,
                remedy="lower [train] lr",
            )
        self.method.after_backward(clock)
        self.method.step(clock)
        self.loss_sum += value * whole
        self.samples_seen += whole
        self.step += 1

    def _refit(self, was_frozen: bool) -> bool:
        """Whether the grids follow the weights now: now and then, but not in the end, for training to settle."""
        settled = self.step >= (1 - self.recipe.quantise.settle) * self.total
        due = self.step % GRID_INTERVAL == 0 and not settled
        return due or not self.network.on_grid or self.method.frozen != was_frozen

    @property
    def _fold_at(self) -> int:
        return round(self.recipe.quantise.fold * self.total)

    def _fold(self) -> None:
        """Make the batch norms a part of the weights; training goes on with those."""
        for index, layer in enumerate(self.network.layers):
            if layer.normed:
                factors = layer.fold()
                self.method.rescale(index, factors)
        if self.method.frozen:
            self.network.compact(self.method.masks())

    def _end_epoch(self) -> dict[str, Any]:
        if self.step == self.total:
            self.method.finish()
            if self.network.normed:
                self._fold()
                if self.recipe.quantise.aware:
                    self.network.fit_grids()
        self._keep_sums_in_range()
        distributed.check_alike(self.parameters)
        masks = self.method.masks()
        record = {
            "epoch": self.epoch,
            "loss": self.loss_sum / self.samples_seen,
            "lr": self.rates[self.step - 1],
            "connectivity": evaluate.connectivity(masks),
            "connectivity_per_layer": evaluate.by_layer(self.network, masks),
            "frozen": self.method.frozen,
            **self.method.report(),
        }
        if self.epoch % self.recipe.train.evaluate_every == 0 and self.step < self.total:
            record["accuracy"] = evaluate.accuracy(self.network, self.test_x, self.test_y)
        record["seconds"], record["data_seconds"] = round(self.seconds, 3), round(self.data_seconds, 3)
        self.loss_sum, self.samples_seen = 0.0, 0
        self.records.append(record)
        if self.log is not None:
            self.log.write(record, self.step)
        return record

    def _keep_sums_in_range(self) -> None:
        """Shrink the weights into neurons whose worst sum would leave the chip's 24 bits (or the host's 13)."""
        for population in self.network.populations:
            if population.grid is None:
                continue
            if population.bias is not None:
                # The register saturates there in any case.
                limit = quantise.bias_limit(population.grid)
                population.bias.data.clamp_(-limit, limit)
            # Rounding adds at most half a step for each synapse, raising to one step at most one.
            sums, limit = self._sums(population, population.grid)
            over = sums > limit
            if bool(over.any()):
                self.shrunk += int(over.sum())
                factors = (limit * quantise.HEADROOM / sums).clamp(max=1.0)
                factors = torch.where(over, factors, torch.ones_like(factors))
                for index, layer in enumerate(self.network.layers):
                    if any(layer is one for one in population.connections):
                        self.method.shrink(index, factors)

    def _sums(self, population: Weights, grid: quantise.Grid) -> tuple[Tensor, float]:
        """For each output the largest sum of its mantissas times payloads, and how large it may be."""
        if self.network.on_host(population):
            scale = self.network.scale(population)
            mantissas = quantise.mantissas(population.weight.detach(), grid)
            beside = self.network.beside(population, mantissas * grid.step) / (grid.step * scale.scale)
            limit = max(quantise.HOST_LIMIT * 2**grid.shift - beside, 1.0)
            return quantise.row_sums(mantissas) * scale.payload, limit
        sums = torch.zeros(())
        for layer in population.connections:
            assert layer.grid is not None
            mantissas = quantise.mantissas(layer.weight.detach(), layer.grid)
            sums = sums + quantise.row_sums(mantissas) * (self.network.scale(layer).payload * 2**layer.grid.exponent)
        return sums * population.current_growth(self.recipe.network.steps), quantise.SUM_LIMIT

    def save(self) -> None:
        """Write the checkpoint and the metrics so far."""
        self._saved = time.monotonic()
        if distributed.rank() != 0:
            return
        checkpoint.save(
            self.folder / "checkpoint.pt",
            {
                "format": "snnc-checkpoint",
                "version": checkpoint.CHECKPOINT_VERSION,
                "recipe": self.recipe.to_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "data_seconds": self.data_seconds,
                "loss_sum": self.loss_sum,
                "samples_seen": self.samples_seen,
                "shrunk": self.shrunk,
                "extended": self.extended,
                "records": self.records,
                "network": self.network.state_dict(),
                "normed": [layer.normed for layer in self.network.layers],
                "grids": [None if layer.grid is None else vars(layer.grid) for layer in self.network.layers],
                "method": self.method.state_dict(),
            },
        )
        self._write_metrics(self.records)

    def _write_metrics(self, records: list[dict[str, Any]]) -> None:
        write_text(self.folder / "metrics.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))

    def restore(self) -> None:
        """Take over the checkpoint's state.

        Raises:
            SnncError: the checkpoint is damaged, belongs to another recipe, or to a run that cannot be extended.
        """
        path = self.folder / "checkpoint.pt"
        state = checkpoint.load(path, self.device)
        saved = Recipe.from_dict(state["recipe"], where=str(path))
        differing = saved.differences(self.recipe)
        self.extended = state["extended"]
        if differing == ["train.epochs"]:
            self._extend(saved.train.epochs, state["step"], path)
        elif differing:
            raise SnncError(
                "the checkpoint belongs to another recipe",
                where=str(path),
                got=f"differs in {', '.join(differing)}",
                remedy="resume with the recipe.toml beside the checkpoint, or choose another place with -o",
            )
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        for layer, normed, grid in zip(self.network.layers, state["normed"], state["grids"], strict=True):
            layer.normed = normed
            layer.grid = None if grid is None else quantise.Grid(**grid)
        self.step, self.seconds, self.data_seconds = state["step"], state["seconds"], state["data_seconds"]
        self.loss_sum, self.samples_seen = state["loss_sum"], state["samples_seen"]
        if self.method.frozen:
            self.network.compact(self.method.masks())
        self.shrunk, self.records = state["shrunk"], state["records"]

    def _extend(self, before: int, step: int, path: Path) -> None:
        """Go on with a finished run, of so many epochs, to the number of epochs that the recipe asks for.

        What was final stays final: the set of synapses, and folded batch norms. What goes by fractions of training
        (learning rate, augmentation, the settling of grids) is from here on where a run of all epochs would have it.
        """
        epochs = self.recipe.train.epochs
        if step == before * self.steps_per_epoch and epochs > before:
            self.extended = [*self.extended, [before, epochs]]
            return
        fewer = epochs < before
        raise SnncError(
            "a run cannot be shortened" if fewer else "a run can be extended only once it is finished",
            where=f"{path}: [train] epochs",
            got=f"{epochs}; the run is at step {step} of {before * self.steps_per_epoch}, {before} epochs",
            allowed=f"{before}",
            remedy=f"--resume --epochs {before}" + ("" if fewer else f", then --resume --epochs {epochs}"),
        )

    def finish(self) -> TrainResult:
        """Measure the trained network as deployed and write the model."""
        masks = self.method.masks()
        metrics = evaluate.figures(self.network, masks, self.test_x, self.test_y)
        metrics["precision"] = self.recipe.train.precision
        if self.extended:
            metrics["extended"] = self.extended
        checkpoint.save(self.folder / "model.pt", checkpoint.model(self.network, masks, metrics))
        # Not in the model: equal trainings make equal files.
        metrics["seconds"] = round(self.seconds, 3)
        metrics["data_share"] = round(self.data_seconds / self.seconds, 4) if self.seconds else 0.0
        diagnostics = self._diagnostics(masks)
        self._write_metrics([*self.records, {"final": True, **metrics, "diagnostics": [str(d) for d in diagnostics]}])
        return TrainResult(self.folder / "model.pt", self.recipe, metrics, diagnostics)

    def _diagnostics(self, masks: list[Tensor]) -> tuple[Diagnostic, ...]:
        found = []
        for layer in self.network.layers:
            if layer.grid is None:
                continue
            size = layer.weight.detach().abs() / layer.grid.step
            raised = int(((size > 0) & (size < 0.5)).sum())
            clipped = int((size.round() > layer.grid.limit).sum())
            if raised:
                found.append(
                    Diagnostic(
                        "TRN001",
                        layer.name,
                        f"{raised} weights below half a step raised to one",
                        raised,
                    )
                )
            if clipped:
                found.append(
                    Diagnostic(
                        "TRN002",
                        layer.name,
                        f"{clipped} weights saturate at {layer.grid.limit} steps",
                        clipped,
                    )
                )
        for before, after in self.extended:
            found.append(
                Diagnostic(
                    "TRN004",
                    "network",
                    f"a finished run of {before} epochs was extended to {after}; the set of synapses stayed as it was",
                    after - before,
                    f"another network than {after} epochs at once; learning rate from there on as there, "
                    f"{self.rates[min(before * self.steps_per_epoch, self.total - 1)]:.3g} at first",
                )
            )
        if self.shrunk:
            found.append(
                Diagnostic(
                    "TRN003",
                    "network",
                    f"weights into a neuron shrunk {self.shrunk} times so that no sum overflows",
                    self.shrunk,
                )
            )
        return tuple(found)
