"""Freed memory is kept for the next step.

PyTorch asks the C library for a buffer for every result. By default glibc gives large ones back to
the kernel when they are freed, and each page of the next one costs a fault: a tenth to a fifth of a
gradient step on networks of a few hundred units. Here it keeps them; other libraries do as they do.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_AT_END = 2**30
"""Bytes that may be free at the end of the heap before they are given back."""
_BUFFER = 2**25
"""Bytes from which a buffer is mapped by itself: the most that glibc takes."""


def keep() -> None:
    """From now on, in this process."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(_TRIM_THRESHOLD, _AT_END)
    mallopt(_MMAP_THRESHOLD, _BUFFER)
