"""Optimization: AdamW, gradient clipping, and the rule that a non-finite loss or gradient changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Generator, Tensor, nn

from ..core.parallel import ALONE, Ranks
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
        parameters: what is optimised, or groups of it as torch's optimisers take them, each with settings of its own;
            parameters that need no gradient are left out.
        settings: see :class:`OptimizationSettings`.
        generator: whatever the losses draw, they draw from it, so that it is saved with the optimiser.
        ranks: the processes whose gradients are averaged; by default this one alone.

    Attributes:
        updates: calls of :meth:`step` so far.
        skipped: how many of them had a non-finite loss or gradient and changed nothing.
        skipped_in_a_row: how many of those since the last that changed something.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        settings: OptimizationSettings,
        generator: Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        self._optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for group in self._optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
            group["initial_lr"] = group["lr"]
        self._asked = [(group["lr"], group["weight_decay"]) for group in self._optimizer.param_groups]
        self._slowdown = 1.0
        self._parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._gradient_clip, self.generator, self._ranks = settings.gradient_clip, generator, ranks
        self.updates = self.skipped = self.skipped_in_a_row = 0

    def step(self, loss: Tensor) -> bool:
        """Descend ``loss``, a scalar, and return whether that was possible."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self._ranks.average(gradients)
        norm = nn.utils.get_total_norm(gradients)
        finite = bool((norm.isfinite() & loss.isfinite()).item())  # the gradient of a loss that overflows may be finite
        if finite:
            nn.utils.clip_grads_with_norm_(self._parameters, self._gradient_clip, norm)
            self._optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1
        self.updates += 1
        return finite

    def pace(self, factor: float) -> None:
        """Take the next steps at ``factor`` times the learning rate, for schedules."""
        for group in self._optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]

    def restart(self, slowdown: float) -> None:
        """Forget the moments, and go on with ``slowdown`` times the learning rate."""
        self._optimizer.state.clear()
        self._slowdown *= slowdown
        self._take_what_was_asked()
        self.skipped_in_a_row = 0

    def state(self) -> dict[str, Any]:
        """Return what :meth:`load_state` continues from."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "slowdown": self._slowdown,
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`'s output, with the learning rate and weight decay that were asked for now."""
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch would share the tensors
        self._slowdown = float(state.get("slowdown", 1.0))
        self._take_what_was_asked()
        self.generator.set_state(state["generator"])
        for counter in ("updates", "skipped", "skipped_in_a_row"):
            setattr(self, counter, int(state[counter]))

    def _take_what_was_asked(self) -> None:
        for group, (rate, decay) in zip(self._optimizer.param_groups, self._asked, strict=True):
            group["lr"] = group["initial_lr"] = rate * self._slowdown
            group["weight_decay"] = decay
