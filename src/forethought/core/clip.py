"""Clip: the batch of short sequences that the store cuts and the world model learns from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClipSpec:
    """What a model asks of the sampler.

    Args:
        length: model steps T per clip.
        block: environment steps per model step; their actions are concatenated and their rewards summed.
    """

    length: int
    block: int = 1


@dataclass(frozen=True)
class Clip:
    """B sequences of T model steps; everything after an episode's end is padding, marked in ``valid``.

    Attributes:
        observations: (B, T + 1, *O) float32, what was seen before each step and after the last.
        actions: (B, T, A), as the model takes them: [-1, 1], one-hot for discrete; A = block x action dims.
        rewards: (B, T) float32, summed over the block.
        terminated: (B, T) float32, 1 where the step led to a terminal state, not to a time limit.
        valid: (B, T) float32, 1 where the step was really taken. ``valid[:, 0]`` is always 1; the observation
            after step t is real exactly where ``valid[:, t]`` is 1.
        rewarded: (B,) float32, 1 where rewards and ends are those of the task, 0 where they are unknown; ``None`` for
            1 everywhere.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor
    rewarded: Tensor | None = None

    @property
    def batch(self) -> int:
        """Number of sequences B."""
        return self.actions.shape[0]

    @property
    def length(self) -> int:
        """Number of model steps T."""
        return self.actions.shape[1]

    def steps(self, first: int, last: int) -> Clip:
        """Return the part from step ``first`` up to step ``last``, itself excluded."""
        inner = {name: getattr(self, name)[:, first:last] for name in ("actions", "rewards", "terminated", "valid")}
        return Clip(self.observations[:, first : last + 1], **inner, rewarded=self.rewarded)

    def first(self, count: int) -> Clip:
        """Return the first ``count`` sequences."""
        return Clip(**{name: tensor[:count] for name, tensor in self.tensors().items()})

    def joined(self, other: Clip) -> Clip:
        """Return these sequences followed by those of ``other``, which has a ``rewarded`` where this one has."""
        theirs = other.tensors()
        return Clip(**{name: torch.cat([tensor, theirs[name]]) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that there are, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def to(self, device: torch.device | str) -> Clip:
        """Return the clip on ``device``."""
        return Clip(**{name: tensor.to(device) for name, tensor in self.tensors().items()})
