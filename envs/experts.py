"""Experts: who acts when data are recorded for a task, and knows none of the goals that will be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from ..core.registry import Registry


class Expert(Protocol):
    """Acts through one episode; it may look at everything that the environment's info tells."""

    def __call__(self, info: Mapping[str, Any]) -> NDArray[Any]:
        """Return the native action for the state that ``info`` describes, as returned by ``reset`` or ``step``."""
        ...


EXPERTS: Registry[Callable[[int], Expert]] = Registry("expert", __package__)
"""By the task's name, what makes an expert for one episode from a seed: ``EXPERTS.get("two-room")(seed)``."""
