"""Which number format a device multiplies fast."""

import os
import platform
from functools import cache

import torch

MEMORY_SHARE = 0.6
"""Most of the machine's memory that float32 weights may take where bfloat16 ones would do in half of it."""


@cache
def multiplies_bfloat16(kind: str) -> bool:
    """Whether devices of a kind ("cpu", "cuda", ...) multiply bfloat16 faster than float32.

    A processor without instructions for it emulates each product: 0.002 TFLOP/s a core instead of 0.066 in float32 on one with AVX2,
    which makes a picture take 4.4 times as long. Intel's AVX512 has one (VDPBF16PS) at a fraction of the rate of float32 products, 0.085
    TFLOP/s a core instead of 0.15, so there only the matrix tiles (AMX) count; AMD's runs at twice the rate. All LOG.md, "Inference".
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return True
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    made_by_amd = torch.cpu.get_capabilities().get("sse4a", False)  # an extension that no Intel processor has
    return bool(torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and made_by_amd))


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
