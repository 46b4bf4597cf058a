"""The number format of matrix products in training passes."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve(asked: str, device: torch.device = CPU) -> str:
    """`auto` becomes bfloat16 on a GPU and where the processor multiplies it in hardware, else float32; others stay."""
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return "bfloat16"
    capable = (
        getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
    return "bfloat16" if capable and torch.backends.mkldnn.is_available() else "float32"
