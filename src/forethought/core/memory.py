"""Memory of the process: how much of what was freed is kept at hand."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``."""
_KEPT = 2**31 - 1
_LARGEST_KEPT_BLOCK = 2**25
"""glibc takes no more."""


def keep_freed_memory() -> bool:
    """Keep freed memory for what is allocated next, rather than give it back to the system.

    By default glibc gives back what is free at the end of its heap, and asks for it again at the next step, whose every
    page then costs a fault: a tenth of the time of planning with a transformer, and a fifth of learning from images.
    The process stays as large as it ever was. It concerns the whole process, so that only programs should call it.

    Returns:
        Whether it could be done; with other C libraries than glibc, everything stays as it is.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        adjust = ctypes.CDLL(None).mallopt
        return bool(adjust(_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK) and adjust(_TRIM_THRESHOLD, _KEPT))
    return False
