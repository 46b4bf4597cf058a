"""Pruning methods: a frozen configuration with hooks around each step of training. One file each, one line here."""

from __future__ import annotations

import importlib
from typing import cast

from toolchain.errors import SnncError, nearest
from toolchain.training.methods.base import Clock, MethodConfig, Run

__all__ = ["METHODS", "Clock", "MethodConfig", "Run", "method_config"]

METHODS: dict[str, str] = {
    "deep-r": "toolchain.training.methods.deep_r:DeepRewiring",
    "dense": "toolchain.training.methods.dense:Dense",
    "gmp": "toolchain.training.methods.gmp:MagnitudePruning",
    "grad-r": "toolchain.training.methods.grad_r:GradRewiring",
    "rigl": "toolchain.training.methods.rigl:RigL",
    "set": "toolchain.training.methods.set:SparseEvolution",
    "stds": "toolchain.training.methods.stds:DendriticSpines",
    "upr": "toolchain.training.methods.upr:LearntMasks",
}


def method_config(name: str) -> type[MethodConfig]:
    """The configuration class of a method.

    Raises:
        SnncError: no such method.
    """
    if name not in METHODS:
        raise SnncError(f"unknown method {name!r}", where="method", allowed=nearest(name, METHODS))
    module, attribute = METHODS[name].split(":")
    return cast("type[MethodConfig]", getattr(importlib.import_module(module), attribute))
