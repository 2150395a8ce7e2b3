"""Quasimetric: how many steps lie between two latents, learned on a world model whose latents stay as they are.

Latent distance tells little of how long a way is: the goal may be near and behind a wall. A quasimetric never breaks
the triangle inequality, so knowing only how far a step can lead, it extends to the shortest way between any two states.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import CheckpointError
from ..core.files import damage_reported, load_archive, save_archive
from ..core.settings import Range, Settings, Width
from .networks import mlp

KIND = "forethought.quasimetric"


@dataclass(frozen=True)
class QuasimetricSettings(Settings):
    """Settings of a :class:`Quasimetric` and of how it is learned."""

    hidden: Width = 256
    """Width of the two hidden layers."""
    embedding: Width = 64
    """Dimensions of each of the two embeddings, that of the symmetric and that of the one-way part."""
    slack: Annotated[float, Range(gt=0, le=1)] = 0.25
    """Share by which recorded steps may look longer than they are, as a root mean square."""
    temperature: Annotated[float, Range(gt=0)] = 10.0
    """Steps over which pairs cease to be pushed apart, around the longest distance that is told apart."""


class Quasimetric(nn.Module):
    """Steps from latents to goals: zero from a state to itself, never negative, and no detour is a short cut.

    A distance between embeddings, plus the largest of several one-way differences.

    Args:
        latent_dims: D.
        longest: environment steps; longer distances are not told apart.
        settings: see :class:`QuasimetricSettings`.

    Sources: the form is that of Metric Residual Networks (arXiv 2208.08133), the objective of :meth:`loss` that of
    Quasimetric RL (arXiv 2304.01203).
    """

    def __init__(self, latent_dims: int, longest: float, settings: QuasimetricSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or QuasimetricSettings()
        self.latent_dims, self.longest = latent_dims, longest
        self.embed = mlp(latent_dims, [s.hidden] * 2, 2 * s.embedding)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Return environment steps (...) from ``latents`` (..., D) to ``goals`` (..., D), which broadcast."""
        return self._between(self.embed(latents), self.embed(goals))

    def _between(self, first: Tensor, second: Tensor) -> Tensor:
        both, one_way = (first - second).split(self.settings.embedding, -1)
        symmetric = torch.linalg.vector_norm(both, dim=-1)  # whose gradient at zero is zero
        steps: Tensor = (symmetric + F.relu(one_way).amax(-1)) * self.log_scale.exp()
        return steps

    def loss(self, before: Tensor, after: Tensor, steps: Tensor, price: float) -> tuple[Tensor, Tensor]:
        """Return what is to be descended, and the mean square by which recorded steps look too long, both scalars.

        Everything is pushed apart as far as the record allows: no pair may look further apart than the steps that were
        taken from one to the other.

        Args:
            before: (B, D) latents from anywhere in the record, in random order.
            after: (B, D), those ``steps`` (B,) environment steps later in the same episodes.
            steps: at least 1.
            price: what looking too long costs; raise it while that is more than the settings' slack.
        """
        first, second = self.embed(before), self.embed(after)
        too_long = F.relu(self._between(first, second) / steps - 1).square().mean()
        others = self._between(first, second.roll(1, 0))
        warmth = self.settings.temperature
        apart = warmth * F.softplus((self.longest - others) / warmth).mean() / self.longest
        return apart + price * too_long, too_long.detach()

    def save(self, path: str | os.PathLike[str], source: Mapping[str, Any] | None = None) -> Path:
        """Write it as an archive of safetensors and JSON, with what it was learned from; return the file.

        Raises:
            WriteError: it could not be written; what stood in its place is unchanged.
        """
        config = {"latent_dims": self.latent_dims, "longest": self.longest, "settings": self.settings.to_dict()}
        document = {"kind": KIND, "config": config, "source": dict(source or {})}
        return save_archive(Path(path), {"quasimetric": document}, {"quasimetric": self.state_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> tuple[Quasimetric, dict[str, Any]]:
        """Return what :meth:`save` wrote, on the CPU, and its source.

        Raises:
            CheckpointError: the file holds none, or is damaged.
        """
        path = Path(path)
        archive = load_archive(path)
        document = archive.documents.get("quasimetric")
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise CheckpointError(f"{path} holds no quasimetric.")
        with damage_reported(path):
            config = document["config"]
            settings = QuasimetricSettings.from_dict(config["settings"])
            with torch.random.fork_rng(devices=[]):  # weights that are overwritten take nothing from the user's stream
                quasimetric = cls(int(config["latent_dims"]), float(config["longest"]), settings)
            quasimetric.load_state_dict(archive.tensors["quasimetric"])
            source = dict(document["source"])
        return quasimetric.eval(), source
