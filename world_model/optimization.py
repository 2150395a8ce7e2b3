"""Optimization: AdamW, gradient clipping, and the rule that a non-finite gradient changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor, nn

from ..core.settings import Range, Settings


@dataclass(frozen=True)
class OptimizationSettings(Settings):
    """Settings of an :class:`Optimization`."""

    learning_rate: Annotated[float, Range(gt=0, le=1)] = 3e-4
    """AdamW's step size."""
    weight_decay: Annotated[float, Range(ge=0, le=1)] = 1e-4
    """AdamW's decoupled weight decay."""
    gradient_clip: Annotated[float, Range(gt=0)] = 20.0
    """Largest norm of the whole gradient."""


class Optimization:
    """The optimiser of one set of parameters, with the random stream of its losses and its counters.

    Args:
        parameters: what is optimised; those that need no gradient are left out.
        settings: see :class:`OptimizationSettings`.
        generator: whatever the losses draw, they draw from it, so that it is saved with the optimiser.

    Attributes:
        updates: calls of :meth:`step` so far.
        skipped: how many of them had a non-finite gradient and changed nothing.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], settings: OptimizationSettings, generator: Generator
    ) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._gradient_clip, self.generator = settings.gradient_clip, generator
        self.updates = 0
        self.skipped = 0

    def step(self, loss: Tensor) -> None:
        """Descend ``loss``, a scalar."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self._gradient_clip)
        if norm.isfinite():
            self._optimizer.step()
        else:
            self.skipped += 1
        self.updates += 1

    def state(self) -> dict[str, Any]:
        """Return what :meth:`load_state` continues from."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`'s output."""
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch would share the tensors
        self.generator.set_state(state["generator"])
        self.updates, self.skipped = int(state["updates"]), int(state["skipped"])
