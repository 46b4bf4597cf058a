"""The number format of matrix products in training passes."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve(asked: str, device: torch.device = CPU) -> str:
    """`auto` becomes bfloat16 on a GPU and where the processor has tiles for it (AMX), else float32; others stay.

    Instructions for pairs of them (AVX512-BF16) alone are no gain: on a Xeon that has these without tiles, with torch
    2.13, steps of models/mnist_lenet.toml and models/cifar10_small.toml took 1.2 and 1.3 times as long in bfloat16.
    """
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return "bfloat16"
    capable = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return "bfloat16" if capable and torch.backends.mkldnn.is_available() else "float32"
