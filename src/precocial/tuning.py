"""Process-wide settings that make the command line faster; libraries leave them to their host."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def tune_process() -> None:
    """Keep freed memory, and let idle OpenMP threads sleep. Call before torch is imported.

    glibc gives every tensor above 32 MB back to the kernel and faults it in anew; and OpenMP
    threads that spin between two torch calls take the cores that physics needs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(_TOP_PAD, 64 * 2**20)
