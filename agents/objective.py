"""Objectives: what a plan costs, seen from one latent state. They are what planners minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..world_model import JEPA, LatentState


@dataclass(frozen=True)
class RewardObjective:
    """Minus the discounted return that the model predicts, plus the critic's value after the last step.

    Rewards and value count only as far as the model expects the episode to last: each is weighted by the
    probability that no earlier step was terminal.

    Attributes:
        model: a world model with a reward head.
        state: where the B environments are.
        value: latents (..., D) to values (...), or ``None`` for plans that end without one.
        discount: per model step.

    Source: the return estimate of TD-MPC2 (arXiv 2310.16828, section 3.2), with a soft termination mask.
    """

    model: JEPA
    state: LatentState
    value: Callable[[Tensor], Tensor] | None
    discount: float

    def __post_init__(self) -> None:
        if self.model.reward_head is None:
            raise SettingsError(
                "This world model predicts no reward, so plans cannot be judged by it: train it with heads=True."
            )

    def __call__(self, actions: Tensor) -> Tensor:
        """Return costs (B, N), lower is better, of ``actions`` (B, N, H, A)."""
        imagined = self.model.imagine(self.state, actions)
        assert imagined.rewards is not None
        horizon = actions.shape[2]
        weights = self.discount ** torch.arange(horizon + 1, device=actions.device)
        if imagined.continues is None:
            alive = actions.new_ones(*actions.shape[:2], horizon + 1)
        else:
            alive = torch.cat([actions.new_ones(*actions.shape[:2], 1), imagined.continues.cumprod(2)], 2)
        weights = weights * alive  # (B, N, H + 1)
        returns = (weights[..., :-1] * imagined.rewards).sum(2)
        if self.value is not None:
            returns = returns + weights[..., -1] * self.value(imagined.latents[:, :, -1])
        return -returns
