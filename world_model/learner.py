"""The learner: optimiser, precision and update rule of a world model. Every training loop uses it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..core.clip import Clip
from ..core.seeding import torch_generator
from ..core.settings import Range, Settings
from .jepa import JEPA, Losses


@dataclass(frozen=True)
class LearnerSettings(Settings):
    """Settings of a :class:`Learner`."""

    learning_rate: Annotated[float, Range(gt=0, le=1)] = 3e-4
    """AdamW's step size."""
    weight_decay: Annotated[float, Range(ge=0, le=1)] = 1e-4
    """AdamW's decoupled weight decay."""
    gradient_clip: Annotated[float, Range(gt=0)] = 20.0
    """Largest norm of the whole gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass; bf16 is autocast, with losses and statistics in fp32."""


class Learner:
    """Updates a world model from clips.

    Args:
        model: what learns.
        settings: see :class:`LearnerSettings`.
        seed: of the regularizer's random directions.
    """

    def __init__(self, model: JEPA, settings: LearnerSettings | None = None, seed: int = 0) -> None:
        self.model, self.settings = model, settings or LearnerSettings()
        self.generator = torch_generator(seed, "learner")
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.updates = 0
        self.skipped = 0

    def update(self, clip: Clip) -> Losses:
        """Take one optimisation step and return its losses; a non-finite gradient is skipped and counted."""
        directions = self.model.draw_directions(self.generator)
        with torch.autocast(clip.actions.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            losses: Losses = self.model(clip, directions)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        self.skipped += not apply_gradients(self.optimizer, self.settings.gradient_clip)
        self.updates += 1
        if self.updates % self.model.settings.target_refresh == 0:
            self.model.refresh_target()
        return losses

    def state(self) -> dict[str, Any]:
        """Return what continues the learner beside the model's weights: optimiser, generator, counters."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`'s output."""
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch would share the tensors
        self.generator.set_state(state["generator"])
        self.updates, self.skipped = int(state["updates"]), int(state["skipped"])


def apply_gradients(optimizer: torch.optim.Optimizer, clip: float) -> bool:
    """Clip the whole gradient to norm ``clip`` and step; return whether it was finite (and the step taken)."""
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    finite = bool(norm.isfinite())
    if finite:
        optimizer.step()
    return finite
