"""What holds for all tests: one thread each, because several run at once, and Ctrl-C means what it means."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; subprocesses inherit it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as it is in what a shell starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Return a context manager in which no file can grow beyond so many bytes: the write fails, as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
