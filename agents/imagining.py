"""Imagined paths: what a world model expects of acting on, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImaginedPath:
    """Imagined steps, one entry of a list for each, rewards in units of the reward scale.

    Attributes:
        latents: (B, D) before each step.
        actions: (B, A).
        rewards, continues: (B,).
        end: (B,), the value of what follows the last.
        discount: per step.
    """

    latents: list[Tensor]
    actions: list[Tensor]
    rewards: list[Tensor]
    continues: list[Tensor]
    end: Tensor
    discount: float

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.rewards)

    def return_from(self, first: int) -> Tensor:
        """Return what the steps from ``first`` on bring (B,), and what follows, as far as the episode is to last."""
        total, weight = torch.zeros_like(self.end), torch.ones_like(self.end)
        for reward, continues in zip(self.rewards[first:], self.continues[first:], strict=True):
            total = total + weight * reward
            weight = weight * self.discount * continues
        return total + weight * self.end
