"""Placebos: agents whose world model is spoilt on purpose. What they reach, a world model is not needed for.

They are named by their module, so that they stand in nobody's way: ``forethought.evaluations.placebos:frozen_encoder``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..agents import register_agent
from ..agents.jepa_agent import JEPAAgent
from ..core.clip import Clip
from ..world_model import JEPA
from ..world_model.jepa import Losses


class _BlindToActions(JEPA):
    def forward(self, clip: Clip, directions: Tensor) -> Losses:
        """Return the objective on clips whose actions were taken in other clips."""
        return super().forward(replace(clip, actions=clip.actions.roll(1, 0)), directions)


class _FrozenEncoder(JEPA):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder.requires_grad_(False)


@register_agent("permuted_actions")
class PermutedActions(JEPAAgent):
    """Placebo: learns its world model from actions that were permuted within the batch."""

    Model = _BlindToActions


@register_agent("frozen_encoder")
class FrozenEncoder(JEPAAgent):
    """Placebo: its encoder stays as it was drawn at random."""

    Model = _FrozenEncoder
