"""Memory: freed memory stays at hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from forethought.core.memory import keep_freed_memory

STEPS = 20
FAULTS = f"""
import ctypes, resource, sys
from forethought.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
libc, size = ctypes.CDLL(None), 16 << 20
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]
def step():
    blocks = [libc.malloc(size) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, size)
    for block in reversed(blocks):
        libc.free(block)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_what_was_freed_is_used_again_without_asking_the_system():
    if not keep_freed_memory():
        pytest.skip("this C library has its own way")
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("leave", "keep")
    )
    pages = 8 * (16 << 20) // 4096
    assert kept < pages, "what one step freed was asked for again"
    assert given_back > STEPS * pages / 4, "nothing is gained here"
