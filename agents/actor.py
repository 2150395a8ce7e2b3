"""Actors: policies on latents, deterministic for continuous actions, categorical for discrete ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UnsupportedSpaceError
from ..world_model.networks import mlp

JOINT_ACTIONS_LIMIT = 256


class StateActionValue(Protocol):
    """An ensemble of E action values: latents (..., D) and actions (..., A) to (E, ...)."""

    def __call__(self, latents: Tensor, actions: Tensor, /) -> Tensor:
        """Return action values (E, ...)."""
        ...


class DeterministicActor(nn.Module):
    """Maps latents (..., D) to actions (..., A) in [-1, 1] by a squashed MLP."""

    def __init__(self, latent_dims: int, action_dims: int, hidden: int) -> None:
        super().__init__()
        self.layers = mlp(latent_dims, [hidden, hidden], action_dims)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the preferred actions (..., A)."""
        return self.pre_activation(latents).tanh()

    def pre_activation(self, latents: Tensor) -> Tensor:
        """Return the actions (..., A) before squashing."""
        actions: Tensor = self.layers(latents)
        return actions.float()

    def explore(self, latents: Tensor, noise: Tensor, amount: float | Tensor) -> Tensor:
        """Return actions (..., A) disturbed by ``amount`` (..., 1) times standard normal ``noise`` (..., A)."""
        return (self(latents) + amount * noise).clamp(-1, 1)

    def surprise(self, latents: Tensor, actions: Tensor, amount: float) -> Tensor:
        """Return how much less likely (...) ``actions`` (..., A) are than the preferred ones, in nats.

        The likelihood is that of exploring by ``amount`` (above 0): a Gaussian around the preferred action.
        """
        return 0.5 * ((actions - self(latents)) / amount).square().sum(-1)

    def objective(
        self, latents: Tensor, critic: StateActionValue, noise: Tensor, spread: float
    ) -> tuple[Tensor, Tensor]:
        """Return what to maximise (B,) and a penalty (B,) that keeps the squashing away from saturation.

        The critic judges actions disturbed by ``spread`` times standard normal ``noise`` (B, A).
        """
        before = self.pre_activation(latents)
        return critic(latents, (before.tanh() + spread * noise).clamp(-1, 1)).mean(0), before.square().mean(-1)

    def expected_value(self, latents: Tensor, critic: StateActionValue, noise: Tensor, spread: float) -> Tensor:
        """Return the ensemble's values (E, B) of acting by this policy, smoothed over nearby actions.

        Source: target policy smoothing of TD3 (arXiv 1802.09477), noise clipped at 1.5 spreads.
        """
        smoothing = (spread * noise).clamp(-1.5 * spread, 1.5 * spread)
        return critic(latents, (self(latents) + smoothing).clamp(-1, 1))


class CategoricalActor(nn.Module):
    """Maps latents (..., D) to independent categorical distributions, one per discrete action dimension.

    Actions are concatenated one-hots (..., A). The expectation over actions is exact: all joint actions are
    enumerated up to 256 of them; beyond that it is estimated from 256 that are drawn once, so that every choice of
    every dimension is among them, and weighted by their probability.
    """

    joint_actions: Tensor

    def __init__(self, latent_dims: int, groups: Sequence[int], hidden: int, entropy: float) -> None:
        super().__init__()
        self.groups, self.entropy = tuple(groups), entropy
        self.layers = mlp(latent_dims, [hidden, hidden], sum(groups))
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        self.register_buffer("joint_actions", _joint_actions(self.groups), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the most probable actions, one-hots (..., A)."""
        logits = self._logits(latents)
        return torch.cat([F.one_hot(part.argmax(-1), part.shape[-1]) for part in logits], -1).to(latents.dtype)

    def explore(self, latents: Tensor, noise: Tensor, amount: float | Tensor) -> Tensor:
        """Return sampled one-hots (..., A), each group uniform with probability ``amount``.

        Args:
            latents: (..., D).
            noise: (..., A) standard normal, turned into the uniforms and Gumbels that sampling needs.
            amount: probability (..., 1) of a uniform choice.
        """
        sampled = []
        for logits, normal in zip(self._logits(latents), noise.split(self.groups, -1), strict=True):
            uniform = (0.5 * (1 + torch.erf(normal / math.sqrt(2)))).clamp(1e-6, 1 - 1e-6)
            choice = (_mixed(logits, amount).clamp(min=1e-9).log() - (-uniform.log()).log()).argmax(-1)
            sampled.append(F.one_hot(choice, logits.shape[-1]))
        return torch.cat(sampled, -1).to(latents.dtype)

    def surprise(self, latents: Tensor, actions: Tensor, amount: float) -> Tensor:
        """Return how much less likely (...) ``actions`` (..., A) are than the preferred ones, in nats.

        The likelihood is that of exploring by ``amount`` (above 0), so that even an actor that is all but certain
        leaves a search its say.
        """
        nats = []
        for logits, chosen in zip(self._logits(latents), actions.split(self.groups, -1), strict=True):
            mixed = _mixed(logits, amount)
            nats.append((mixed.amax(-1) / (mixed * chosen).sum(-1)).log())
        return torch.stack(nats).sum(0)

    def log_probabilities(self, latents: Tensor) -> Tensor:
        """Return the log-probabilities (..., K), normalised, of the K joint actions."""
        parts = [part.log_softmax(-1) for part in self._logits(latents)]
        with torch.autocast(latents.device.type, enabled=False):
            return (torch.cat(parts, -1) @ self.joint_actions.T).log_softmax(-1)

    def objective(
        self, latents: Tensor, critic: StateActionValue, noise: Tensor, spread: float
    ) -> tuple[Tensor, Tensor]:
        """Return what to maximise (B,), the expected value over actions plus entropy, and no penalty (B,).

        There is no noise to average over: the expectation is exact.
        """
        log_probabilities = self.log_probabilities(latents)
        probabilities = log_probabilities.exp()
        values = self._values(latents, critic).mean(0)
        entropy = -(probabilities * log_probabilities).sum(-1)
        gain = (probabilities * values).sum(-1) + self.entropy * entropy
        return gain, torch.zeros_like(gain)

    def expected_value(self, latents: Tensor, critic: StateActionValue, noise: Tensor, spread: float) -> Tensor:
        """Return the ensemble's values (E, B) of acting by this policy, the expectation over actions."""
        return (self._values(latents, critic) * self.log_probabilities(latents).exp()).sum(-1)

    def _logits(self, latents: Tensor) -> Sequence[Tensor]:
        """Return the logits (..., C) of each group."""
        logits: Tensor = self.layers(latents).float()
        return logits.split(self.groups, -1)

    def _values(self, latents: Tensor, critic: StateActionValue) -> Tensor:
        """Return the values (E, ..., K) of all joint actions."""
        count = len(self.joint_actions)
        repeated = latents.unsqueeze(-2).expand(*latents.shape[:-1], count, latents.shape[-1])
        return critic(repeated, self.joint_actions.expand(*latents.shape[:-1], *self.joint_actions.shape))


def _mixed(logits: Tensor, amount: float | Tensor) -> Tensor:
    """Return probabilities (..., C): those of ``logits`` (..., C), and equal ones with probability ``amount``."""
    return (1 - amount) * logits.softmax(-1) + amount / logits.shape[-1]


def _joint_actions(groups: tuple[int, ...]) -> Tensor:
    """Return joint actions as concatenated one-hots (K, A): all of them, or up to 256 that hold every choice."""
    if max(groups) > JOINT_ACTIONS_LIMIT:
        raise UnsupportedSpaceError(
            f"A discrete action with {max(groups)} choices is beyond the {JOINT_ACTIONS_LIMIT} that the actor can "
            "weigh: split it into several dimensions (MultiDiscrete)."
        )
    if math.prod(groups) <= JOINT_ACTIONS_LIMIT:
        choices = torch.tensor(list(itertools.product(*(range(size) for size in groups))))
    else:
        generator = torch.Generator().manual_seed(math.prod(groups) % 2**62)
        rounds = [math.ceil(JOINT_ACTIONS_LIMIT / size) for size in groups]
        columns = [
            torch.cat([torch.randperm(size, generator=generator) for _ in range(count)])[:JOINT_ACTIONS_LIMIT]
            for size, count in zip(groups, rounds, strict=True)
        ]
        choices = torch.stack(columns, 1).unique(dim=0)
    return torch.cat([F.one_hot(choices[:, i], size) for i, size in enumerate(groups)], -1).float()


Actor = DeterministicActor | CategoricalActor
"""Of continuous actions, and of discrete ones."""
