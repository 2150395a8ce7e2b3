"""Random shooting: the cheapest of many uniformly random plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .base import Planner, PlannerSettings, Size, register_planner
from .noise import normal_to_uniform
from .search import Search
from .spec import ActionSpec


@dataclass(frozen=True)
class RandomSettings(PlannerSettings):
    """Settings of :class:`RandomShooting`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {"samples": 3000}}

    samples: Size = 300
    """Candidates, the warm start among them."""

    @property
    def budget(self) -> int:
        """All samples."""
        return self.samples

    @property
    def max_proposals(self) -> int:
        """All samples but the warm start."""
        return self.samples - 1


@register_planner("random")
class RandomShooting(Planner):
    """Random shooting: the cheapest of many random plans, the baseline that a search must beat.

    Actions are uniform in their range, or normal where it is not finite; categories are equally likely.
    """

    Settings = RandomSettings
    settings: RandomSettings

    @classmethod
    def supports(cls, spec: ActionSpec) -> bool:
        """All actions."""
        return True

    def search(self, search: Search) -> None:
        """Evaluate all candidates at once."""
        noise = self.noise(search.state, self.settings.samples - 1)
        if self.spec.discrete:
            samples = self.spec.one_hots.sample(self.spec.one_hots.uniform, noise)
        else:
            uniform = 2 * normal_to_uniform(noise) - 1
            ranged = self.spec.low.isfinite() & self.spec.high.isfinite()
            samples = uniform if self.spec.bounded else torch.where(ranged, uniform, self.spec.clip(noise))
        search.opening(samples)
