"""What passes between a world model and those who act with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Past:
    """The last K steps before the present one, for predictors that look back; the newest comes last.

    Attributes:
        latents: (B, K, D).
        actions: (B, K, F), encoded, what was done in each.
        padding: (B,) integers, how many of the K, the first ones, were never taken; ``None`` for none.
    """

    latents: Tensor
    actions: Tensor
    padding: Tensor | None = None

    @classmethod
    def of(cls, state: LatentState, action: Tensor) -> Past:
        """Return the past of whatever follows ``action`` (B, F), encoded, in ``state``."""
        latents, actions = state.latents.unsqueeze(1), action.unsqueeze(1)
        if state.past is None:
            return cls(latents, actions)
        past = state.past
        return cls(torch.cat([past.latents, latents], 1), torch.cat([past.actions, actions], 1), past.padding)

    def newest(self, steps: int) -> Past | None:
        """Return the newest ``steps``, or all if there are not as many; ``None`` for no steps."""
        surplus = max(self.latents.shape[1] - steps, 0)
        padding = None if self.padding is None else (self.padding - surplus).clamp(min=0)
        return Past(self.latents[:, surplus:], self.actions[:, surplus:], padding) if steps else None

    def map(self, change: Callable[[Tensor], Tensor]) -> Past:
        """Return the past with ``change`` applied to each of its tensors."""
        padding = None if self.padding is None else change(self.padding)
        return Past(change(self.latents), change(self.actions), padding)


@dataclass(frozen=True)
class LatentState:
    """Where B environments are, as the model sees it.

    Attributes:
        latents: (B, D), or (B, N, D) inside an imagined rollout of N candidates.
        past: what came before, where the model looks back over steps that were really taken; in an imagined rollout
            with an axis N, too.
    """

    latents: Tensor
    past: Past | None = None

    @classmethod
    def joined(cls, states: Sequence[LatentState]) -> LatentState:
        """Return the state of all environments of ``states``, which are alike."""
        others = [iter(state.tensors()) for state in states]
        return states[0].map(lambda _: torch.cat([next(tensors) for tensors in others]))

    def map(self, change: Callable[[Tensor], Tensor]) -> LatentState:
        """Return the state with ``change`` applied to each of its tensors."""
        return LatentState(change(self.latents), None if self.past is None else self.past.map(change))

    def select(self, index: Tensor) -> LatentState:
        """Return the state of the environments in ``index``."""
        return self.map(lambda tensor: tensor[index])

    def put(self, index: Tensor, other: LatentState) -> LatentState:
        """Return the state with the environments in ``index`` replaced by those of ``other``, which is alike."""
        others = iter(other.tensors())
        return self.map(lambda tensor: tensor.index_copy(0, index, next(others)))

    def candidates(self, count: int) -> LatentState:
        """Return the state with an axis N of ``count`` equal candidates after B."""
        return self.map(lambda tensor: tensor.unsqueeze(1).expand(-1, count, *tensor.shape[1:]))

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in the order of :meth:`map`."""
        found: list[Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found


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
