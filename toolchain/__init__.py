"""snnc: from a trained spiking network to the cores of a neuromorphic chip."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "from_framework": "toolchain.frameworks:from_framework",
    "from_torch": "toolchain.frontends.torch_modules:from_torch",
}
"""Name -> where it is. Looked up when it is used, so that `import toolchain` needs no torch."""
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
