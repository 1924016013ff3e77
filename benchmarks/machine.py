"""What every benchmark prints: the machine, the command, a table."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable

import torch


def describe_machine(threads: int) -> str:
    """Cores, instruction set and torch version."""
    capability = torch.backends.cpu.get_cpu_capability()
    seen = _cpu_flags()
    flags = "AMX" if "amx_bf16" in seen else "AVX512-BF16" if "avx512_bf16" in seen else capability
    flags += " of Intel" if "GenuineIntel" in seen else ""
    return f"{os.cpu_count()} cores ({threads} thread(s) used), {platform.machine()}, {flags}, torch {torch.__version__}"


def print_table(title: str, rows: Iterable[tuple[str, ...]], machine: str) -> None:
    """Title, machine, command, rows."""
    lines = [tuple(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    print(f"{title}\n  {machine}\n  python {shlex.join(sys.argv)}")
    for row in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return file.read(8192)
    except OSError:
        return ""
