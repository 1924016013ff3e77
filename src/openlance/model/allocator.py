"""How a process that does nothing but compute keeps memory."""

import ctypes

KEEP = 1 << 30
"""Bytes."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free for the next ones, up to a gibibyte, instead of giving it back to the system.

    Every step frees what the next one needs, and fresh pages cost 3 to 7 % of a training step on a CPU, 3 % of a picture (LOG.md). All
    threads share one store, for which that of pictures was measured. A setting of the process, hence for programs that train or serve,
    before they start threads. False where the C library is not glibc.
    """
    try:
        change = getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # a system without a C library of the process to look into
        return False
    settings = ((_TRIM_THRESHOLD, KEEP), (_MMAP_THRESHOLD, KEEP), (_ARENA_MAX, 1))
    return change is not None and all([bool(change(*setting)) for setting in settings])  # noqa: C419  (all are wanted, whichever fails)
