"""Where agents compute, and what to lower where that has too little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..core.errors import OutOfMemoryError, SettingsError
from ..core.parallel import ALONE, Ranks


def choose_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """Return the device called ``name``; "auto" is a GPU where there is one for every rank of this machine.

    Raises:
        SettingsError: for a name that torch does not know, and for a GPU that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and ranks.own_gpus else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingsError(f"Unknown device {name!r}: use 'auto', 'cpu' or 'cuda'.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device={name!r} was asked for and this machine has none that torch can use: try 'auto'.")
    if device.type == "cuda" and (device.index or 0) >= (known := torch.cuda.device_count()):
        raise SettingsError(f"device={name!r} was asked for and this machine has {known} GPUs, counted from cuda:0 on.")
    if device.type == "cuda" and not ranks.own_gpus:
        raise SettingsError(
            f"This machine has {torch.cuda.device_count()} GPUs, and more processes that learn together: start one per "
            "GPU, or ask for device='cpu'."
        )
    return device


@contextmanager
def memory_explained(doing: str, settings: str) -> Iterator[None]:
    """Name the ``settings`` to lower where host or GPU run out of memory in the block.

    Raises:
        OutOfMemoryError: in place of the various errors of NumPy and torch.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_about_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for {doing}: lower {settings}. What was saved before is intact."
        ) from error


def _is_about_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory; for the host's it has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
