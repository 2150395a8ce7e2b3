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

    Everything counts only as far as the model expects the episode to last: each term is weighted by the probability
    that no earlier step was terminal. Model and critic know the actions that the actor takes and explores around;
    far from them they guess, and a search finds the guesses that flatter. A cost on leaving the actor keeps plans
    where both are to be trusted.

    Attributes:
        model: a world model with a reward head.
        state: where the B environments are.
        value: latents (..., D) to values (...), or ``None`` for plans that end without one.
        discount: per model step.
        deviation: latents (..., D) and actions (..., A) to the cost (...) of taking them there, or ``None``.

    Sources: the return estimate of TD-MPC2 (arXiv 2310.16828, section 3.2), with a soft termination mask; why plans
    should stay near the policy that the critic values: TD-M(PC)^2 (arXiv 2502.03550).
    """

    model: JEPA
    state: LatentState
    value: Callable[[Tensor], Tensor] | None
    discount: float
    deviation: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.model.reward_head is None:
            raise SettingsError(
                "This world model predicts no reward, so plans cannot be judged by it: train it with heads=True."
            )

    def __call__(self, actions: Tensor) -> Tensor:
        """Return costs (B, N), lower is better, of ``actions`` (B, N, H, A)."""
        imagined = self.model.imagine(self.state, actions)
        assert imagined.rewards is not None
        gains, horizon = imagined.rewards, actions.shape[2]
        if self.deviation is not None:
            now = self.state.latents[:, None, None].expand(-1, actions.shape[1], 1, -1)
            gains = gains - self.deviation(torch.cat([now, imagined.latents[:, :, :-1]], 2), actions)
        weights = self.discount ** torch.arange(horizon + 1, device=actions.device)
        if imagined.continues is None:
            alive = actions.new_ones(*actions.shape[:2], horizon + 1)
        else:
            alive = torch.cat([actions.new_ones(*actions.shape[:2], 1), imagined.continues.cumprod(2)], 2)
        weights = weights * alive  # (B, N, H + 1)
        returns = (weights[..., :-1] * gains).sum(2)
        if self.value is not None:
            returns = returns + weights[..., -1] * self.value(imagined.latents[:, :, -1])
        return -returns
