"""Optimization: AdamW, gradient clipping, and the rule that a non-finite gradient changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor, nn


class Optimization:
    """The optimiser of one set of parameters, with the random stream of its losses and its counters.

    Args:
        parameters: what is optimised; those that need no gradient are left out.
        learning_rate, weight_decay: AdamW's.
        gradient_clip: largest norm of the whole gradient.
        generator: whatever the losses draw, they draw from it, so that it is saved with the optimiser.

    Attributes:
        updates: calls of :meth:`step` so far.
        skipped: how many of them had a non-finite gradient and changed nothing.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
        gradient_clip: float,
        generator: Generator,
    ) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        self._gradient_clip, self.generator = gradient_clip, generator
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
