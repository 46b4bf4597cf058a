"""Recipes: everything that decides a training run, as TOML files and as frozen dataclasses.

An unknown key, a wrong type or a value out of range is refused, with the file, the section and the key in the error.
A recipe written by `to_toml` and read back is equal, so the copy in a run's folder repeats the run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from toolchain.errors import SnncError, nearest
from toolchain.ir.neurons import REFRACTORY_LIMIT
from toolchain.training.architecture import LAYERS, NEURONS, Layer, Planned, Shape, plan
from toolchain.training.data import IMAGES
from toolchain.training.methods import METHODS, MethodConfig, method_config
from toolchain.training.settings import build, plain, setting
from toolchain.training.surrogates import SURROGATES

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


@dataclass(frozen=True)
class Data:
    """dataset: a name of `data.DATASETS`."""

    dataset: str = setting("mnist", choices=tuple(IMAGES))


@dataclass(frozen=True)
class Network:
    """Layers of neurons; the shape of the input and the classes come from the data (see docs/training.md).

    layers: a table for each, of the kinds of `architecture.LAYERS`.  hidden: short for dense layers alone, the neurons
    of each. The output layer is dense and needs no table.  steps: time steps T for each sample.
    neuron, tau, threshold, current_decay, reset, refractory, bias: of all layers that do not say otherwise, see
    `architecture.NeuronOptions`.  batch_norm: of the convolutions, and of the layers of `hidden`.
    vote: output neurons for each class, whose spikes are counted together.  readout: the output neurons do not spike;
    their potential, the sum of all that they get, decides.
    init, gain: weights at the start: uniform within 1 / sqrt(inputs), as PyTorch's layers have them, or a rule of
    `initialise.RULES`; times gain. Biases are not affected.
    surrogate, slope: what stands for a spike's derivative, see `surrogates`; without a slope the surrogate's own.
    `auto` takes the slope with which gradients are level over the layers at the start (`slopes`); the recipe in a run's
    folder has the number.
    """

    hidden: tuple[int, ...] = setting((800,), low=1)
    layers: tuple[Layer, ...] = setting((), kinds=LAYERS)
    steps: int = setting(8, low=1, high=4096)
    neuron: str = setting("lif", choices=NEURONS)
    tau: float = setting(2.0, above=1.0, high=4096.0)
    threshold: float = setting(1.0, above=0.0)
    current_decay: float = setting(1.0, above=0.0, high=1.0)
    reset: str = setting("zero", choices=("zero", "subtract"))
    refractory: int = setting(0, low=0, high=REFRACTORY_LIMIT)
    bias: bool = False
    batch_norm: bool = False
    vote: int = setting(1, low=1, high=1000)
    readout: bool = False
    init: str = setting("uniform", choices=("uniform", "kaiming", "xavier", "orthogonal"))
    gain: float = setting(1.0, above=0.0)
    surrogate: str = setting("arctangent", choices=tuple(SURROGATES))
    slope: float | Literal["auto"] | None = setting(None, above=0.0, word="auto")


@dataclass(frozen=True)
class Input:
    """How a value 0..255 enters. threshold: of the on-chip input neurons (rate). payload_bits: of a spike (graded).

    mean, std: the first layer sees (x / 255 - mean) / std (current coding alone).
    """

    coding: str = setting("rate", choices=("rate", "graded", "current"))
    threshold: int = setting(254, low=1, high=131071)
    payload_bits: int = setting(8, low=1, high=8)
    mean: float = setting(0.1307, low=0.0, high=1.0)
    std: float = setting(0.3081, above=0.0)


@dataclass(frozen=True)
class Train:
    """The course of training. What the Grad R paper does not have is marked (ours).

    lr: largest learning rate.  schedule: `constant`, or `cosine` (ours): from the fraction `decay_from` of training
    on, a half cosine down to `final_lr` times lr.
    warmup: (ours) epochs of linear rise.  loss: `mse` between rate and one-hot label, or `cross-entropy` (ours) on
    `loss_scale` times rate.  weight_decay: (ours) shrinks weights by lr * weight_decay a step.
    precision: of matrix products in training passes: `auto` takes bfloat16 where the processor has it in hardware.
    Evaluation never uses it.  evaluate_every: epochs between measurements on the test set, which steer nothing.
    """

    epochs: int = setting(50, low=1)
    batch_size: int = setting(128, low=1)
    lr: float = setting(1e-3, above=0.0)
    schedule: str = setting("constant", choices=("constant", "cosine"))
    final_lr: float = setting(0.0, low=0.0, high=1.0)
    decay_from: float = setting(0.0, low=0.0, high=1.0)
    warmup: float = setting(0.0, low=0.0)
    loss: str = setting("mse", choices=("mse", "cross-entropy"))
    loss_scale: float = setting(12.0, above=0.0)
    label_smoothing: float = setting(0.0, low=0.0, below=1.0)
    weight_decay: float = setting(0.0, low=0.0)
    precision: str = setting("auto", choices=("auto", "float32", "bfloat16"))
    evaluate_every: int = setting(5, low=1)


@dataclass(frozen=True)
class Augment:
    """(ours for all but the ranges) Random affine change of each training image; 0 switches a part off.

    rotate: largest angle in degrees.  shift: in fractions of the image.  scale: largest relative change of size.
    shear: largest horizontal shear.  crop: pixels of padding around the image, of which a window of the image's size is
    cut out.  flip: left and right, every other image.  until: fraction of training after which images stay as they are.
    """

    rotate: float = setting(0.0, low=0.0, high=180.0)
    shift: float = setting(0.0, low=0.0, high=1.0)
    scale: float = setting(0.0, low=0.0, below=1.0)
    shear: float = setting(0.0, low=0.0, high=1.0)
    crop: int = setting(0, low=0, high=64)
    flip: bool = False
    until: float = setting(1.0, low=0.0, high=1.0)

    @property
    def affine(self) -> bool:
        return max(self.rotate, self.shift, self.scale, self.shear) > 0

    @property
    def active(self) -> bool:
        return self.affine or self.crop > 0 or self.flip


@dataclass(frozen=True)
class Quantise:
    """aware: train in the chip's integers.  bits: of a signed weight mantissa.

    settle: fraction of training at the end in which the integer grids stay as they are.  fold: fraction of training
    after which batch norms become part of the weights; a network that has any trains in floating point until then.
    """

    aware: bool = False
    bits: int = setting(8, low=2, high=8)
    settle: float = setting(0.1, low=0.0, high=1.0)
    fold: float = setting(0.6, low=0.0, high=1.0)


@dataclass(frozen=True)
class Promise:
    """What this recipe was measured to reach: accuracy as deployed and connectivity, both fractions; notes in words."""

    accuracy: float | None = setting(None, low=0.0, high=1.0)
    connectivity: float | None = setting(None, above=0.0, high=1.0)
    note: str = ""


@dataclass(frozen=True)
class Recipe:
    """One training run, complete. `method` is the frozen configuration of the pruning method."""

    name: str
    seed: int = setting(0, low=0, high=2**32 - 1)
    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    input: Input = field(default_factory=Input)
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)
    quantise: Quantise = field(default_factory=Quantise)
    method: MethodConfig = field(default_factory=lambda: method_config("dense")())
    promise: Promise = field(default_factory=Promise)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Read a TOML file.

        Raises:
            SnncError: the file is missing or no TOML, a key is unknown (the nearest name is suggested), or a
                value has the wrong type or is out of range.
        """
        path = Path(path)
        try:
            text = path.read_bytes().decode()
        except FileNotFoundError:
            here = sorted(p.name for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
            raise SnncError(
                f"there is no recipe {path}",
                where=str(path),
                allowed=nearest(path.name, here) if here else None,
                remedy="name a TOML file, for example models/digits.toml",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SnncError(f"{path} cannot be read as a recipe", where=str(path), got=str(error)) from None
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SnncError(f"{path} is not valid TOML", where=str(path), got=str(error)) from None
        values.setdefault("name", path.stem)
        return Recipe.from_dict(values, where=str(path))

    @staticmethod
    def from_dict(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """A recipe from nested plain values, as `to_dict` gives them.

        Raises:
            SnncError: as `load`.
        """
        rest = dict(values)
        method = rest.pop("method", {"name": "dense"})
        network = rest.get("network")
        if isinstance(network, Mapping) and network.get("layers"):
            rest["network"] = {"hidden": [], **network}
        built = build(Recipe, rest, where, skip=("method",), top=True)
        recipe = dataclasses.replace(built, method=_build_method(method, f"{where}: [method]"))
        _check_together(recipe, where)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values without those that are not set; `from_dict` gives an equal recipe."""
        values = plain(self, skip=("method",))
        values["method"] = {"name": self.method.name, **plain(self.method)}
        return values

    def to_toml(self) -> str:
        """The recipe as TOML text, every value written out."""
        return tomli_w.dumps(self.to_dict())

    def plan(self, shape: Shape, classes: int, *, where: str = "recipe") -> tuple[Planned, ...]:
        """The layers of the network on images of a shape (C, H, W); see `architecture.plan`.

        Raises:
            SnncError: layers do not fit together, or cannot be trained as the recipe asks.
        """
        return plan(self.network, shape, classes, coding=self.input.coding, where=where)

    def resolve(self, overrides: Mapping[str, Any]) -> Recipe:
        """A recipe with some values replaced: keys are dotted, `train.epochs`, `seed`, `method.connectivity`.

        A value of None is not asked and changes nothing. Naming another method starts from that method's defaults, but
        keeps the recipe's connectivity where both methods have one (see `left_out`); asking for an alpha switches the
        closed loop on connectivity off, and the other way round.

        Raises:
            SnncError: as `load`; alpha and connectivity asked for together.
        """
        asked = {key: value for key, value in overrides.items() if value is not None}
        if "method.alpha" in asked and "method.connectivity" in asked:
            raise SnncError(
                "alpha and connectivity exclude each other",
                where="--alpha, --connectivity",
                remedy="give alpha for a constant pressure, or connectivity for the closed loop that finds it",
            )
        values = self.to_dict()
        if "method.name" in asked and asked["method.name"] != self.method.name:
            values["method"] = _renamed(values["method"], asked["method.name"])
        if "method.alpha" in asked:
            values["method"].pop("connectivity", None)
        for key, value in asked.items():
            *sections, last = key.split(".")
            at = values
            for section in sections:
                at = at.setdefault(section, {})
            at[last] = list(value) if isinstance(value, tuple) else value
        return Recipe.from_dict(values, where="recipe with the options of the command")

    def left_out(self, resolved: Recipe) -> list[str]:
        """Keys of the method that this recipe sets, and that another method in the resolved one does without."""
        if self.method.name == resolved.method.name:
            return []
        before, default = plain(self.method), plain(type(self.method)())
        after = plain(resolved.method)
        own = (key for key, value in before.items() if value != default.get(key))
        return [key for key in own if key != "connectivity" or key not in after]

    def chosen(self) -> dict[str, Any]:
        """What decides the training: dotted values that differ from the defaults, the method and the data set always.

        A setting that joins later with a default changes nothing here; neither do the name and the promise.
        """
        default = dict(_flat(dataclasses.replace(Recipe(""), method=type(self.method)()).to_dict()))
        mine = {k: v for k, v in _flat(self.to_dict()) if k != "name" and not k.startswith("promise.")}
        always = ("method.name", "data.dataset")
        return {key: value for key, value in mine.items() if key in always or value != default.get(key)}

    def differences(self, other: Recipe) -> list[str]:
        """Dotted names of the values that differ."""
        mine, theirs = dict(_flat(self.to_dict())), dict(_flat(other.to_dict()))
        return sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _renamed(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A method's table for another method: of the old keys only a connectivity means the same."""
    known = {item.name for item in dataclasses.fields(method_config(name))}
    kept = {"connectivity"} & known & table.keys()
    return {"name": name} | {key: table[key] for key in kept}


def _build_method(values: Any, where: str) -> MethodConfig:
    if not isinstance(values, Mapping):
        raise SnncError("[method] must be a table", where=where, got=repr(values))
    rest = dict(values)
    name = rest.pop("name", None)
    if name not in METHODS:
        raise SnncError(
            "the recipe names no known method",
            where=f"{where} name",
            got=repr(name),
            allowed=nearest(str(name), METHODS),
        )
    return build(method_config(name), rest, where)


def _check_together(recipe: Recipe, where: str) -> None:
    if recipe.train.warmup >= recipe.train.epochs:
        raise SnncError(
            "warm-up must end before training does",
            where=f"{where}: [train] warmup",
            got=recipe.train.warmup,
            allowed=f"less than {recipe.train.epochs} epochs",
        )
    network = recipe.network
    if not network.hidden and not network.layers:
        raise SnncError("at least one hidden layer is needed", where=f"{where}: [network] hidden", got="[]")
    if network.hidden and network.layers:
        raise SnncError(
            "the network is described twice",
            where=f"{where}: [network] hidden, layers",
            got=f"hidden = {list(network.hidden)} and {len(network.layers)} layers",
            allowed="one of them",
        )
    recipe.plan(*IMAGES[recipe.data.dataset], where=where)
