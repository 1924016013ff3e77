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
    try:
        change = getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # a system without a C library of the process to look into
        return False
    return change is not None and bool(change(_TRIM_THRESHOLD, KEEP)) and bool(change(_MMAP_THRESHOLD, KEEP))
