"""The learner: optimiser, precision and update rule of a world model. Every training loop uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from ..core.clip import Clip
from ..core.seeding import torch_generator
from ..core.settings import Range, Settings
from .jepa import JEPA, Losses
from .optimization import Optimization


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
        s = self.settings
        self.optimization = Optimization(
            model.parameters(), s.learning_rate, s.weight_decay, s.gradient_clip, torch_generator(seed, "learner")
        )

    def update(self, clip: Clip) -> Losses:
        """Take one optimisation step and return its losses."""
        directions = self.model.draw_directions(self.optimization.generator)
        with torch.autocast(clip.actions.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            losses: Losses = self.model(clip, directions)
        self.optimization.step(losses.total)
        if self.optimization.updates % self.model.settings.target_refresh == 0:
            self.model.refresh_target()
        return losses
