"""How a training process keeps memory."""

import ctypes

KEEP = 1 << 30
"""Bytes."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free for the next ones, up to a gibibyte, instead of giving it back to the system.

    Every step frees what the next one needs, and fresh pages cost 3 to 7 % of a step on a CPU (LOG.md). A setting of the process, hence
    for programs that do nothing but train. False where the C library is not glibc.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    return change is not None and bool(change(_TRIM_THRESHOLD, KEEP)) and bool(change(_MMAP_THRESHOLD, KEEP))
