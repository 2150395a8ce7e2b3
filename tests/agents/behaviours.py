"""Small behaviours, clips and critics of which every figure can be reckoned by hand."""

from __future__ import annotations

import torch

from forethought.agents.behaviour import Behaviour, BehaviourSettings
from forethought.core.clip import Clip
from forethought.world_model import JEPA, JEPASettings

MODEL = JEPA(3, 2, JEPASettings(latent_dims=4, hidden=16))


def make_clip(valid: list[float], terminated: list[float], rewards: list[float]) -> Clip:
    steps = len(valid)
    return Clip(
        torch.zeros(1, steps + 1, 3),
        torch.zeros(1, steps, 2),
        torch.tensor([rewards]),
        torch.tensor([terminated]),
        torch.tensor([valid]),
    )


def make_behaviour(**settings) -> Behaviour:
    torch.manual_seed(0)
    return Behaviour(4, 2, (), BehaviourSettings(**{"hidden": 16, "discount": 0.5, **settings}))


class ConstantCritic(torch.nn.Module):
    """Values every state at the first entry of its latent."""

    def forward(self, latents: torch.Tensor, actions: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        return latents[..., 0].expand(2, *latents.shape[:-1])
