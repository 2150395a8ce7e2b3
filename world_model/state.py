"""What passes between a world model and those who act with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LatentState:
    """Where B environments are, as the model sees it.

    Attributes:
        latents: (B, D), or (B, N, D) inside an imagined rollout of N candidates.
    """

    latents: Tensor

    def select(self, index: Tensor) -> LatentState:
        """Return the state of the environments in ``index``."""
        return LatentState(self.latents[index])

    def put(self, index: Tensor, other: LatentState) -> LatentState:
        """Return the state with the environments in ``index`` replaced by those of ``other``."""
        return LatentState(self.latents.index_copy(0, index, other.latents))

    def detach(self) -> LatentState:
        """Return the state cut off from the graph that made it."""
        return LatentState(self.latents.detach())


@dataclass(frozen=True)
class Step:
    """One imagined step of N candidates in B environments.

    Attributes:
        state: with latents (B, N, D).
        reward: (B, N) predicted reward, or ``None`` for a model without a reward head.
        continues: (B, N) probability that the step was not terminal, or ``None`` without a continue head.
        disagreement: (B, N) spread between ensemble members, or ``None`` for a single predictor.
    """

    state: LatentState
    reward: Tensor | None
    continues: Tensor | None
    disagreement: Tensor | None


@dataclass(frozen=True)
class Imagination:
    """H imagined steps: ``latents`` (B, N, H, D) after each; the others (B, N, H) or ``None``, as in :class:`Step`."""

    latents: Tensor
    rewards: Tensor | None
    continues: Tensor | None
    disagreement: Tensor | None
