"""Which number format a device multiplies fast."""

import os
import platform
from functools import cache

import torch

MEMORY_SHARE = 0.6
"""Most of the machine's memory that float32 weights may take where bfloat16 ones would do in half of it."""


@cache
def multiplies_bfloat16(kind: str) -> bool:
    """Whether devices of a kind ("cpu", "cuda", ...) have instructions for products of bfloat16.

    A processor without them emulates each product: 0.002 TFLOP/s a core instead of 0.066 in float32 on one with AVX2
    (LOG.md, "Inference"), which makes a picture take 4.4 times as long.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return True
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_dtype(device: str | torch.device, parameters: int = 0) -> torch.dtype:
    """bfloat16 where the device multiplies it; else float32, unless so many `parameters` would not fit the host's memory in it."""
    kind = torch.device(device).type
    if multiplies_bfloat16(kind) or (kind == "cpu" and parameters * 4 > MEMORY_SHARE * host_memory()):
        return torch.bfloat16
    return torch.float32


def host_memory() -> float:
    """Bytes of the machine's memory, infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
