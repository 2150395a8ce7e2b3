"""Cross-entropy method: fit a Gaussian to the best samples, sample again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch

from ..core.settings import Range
from .base import Planner, PopulationSettings, register_planner
from .gaussian import cheapest, moments
from .search import Search


@dataclass(frozen=True)
class CEMSettings(PopulationSettings):
    """Settings of :class:`CEM`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "cpu": {},
        "gpu": {"samples": 300, "iterations": 10},
        "lewm-paper": {"samples": 300, "iterations": 30, "initial_std": 1.0, "returns": "mean"},
    }

    elite_fraction: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Share of the candidates that the Gaussian is fitted to."""
    initial_std: Annotated[float, Range(gt=0, le=100)] = 0.5
    """Standard deviation at the start, in halves of the action range."""
    returns: Literal["best", "mean"] = "best"
    """The plan that is returned: the best one seen, or the last mean, which may be worse than the warm start and than
    proposals; so LeWorldModel plans."""


@register_planner("cem")
class CEM(Planner):
    """Cross-entropy method: fits a Gaussian to the best samples and samples again.

    Source: Rubinstein (1999); for planning with learned models PETS (arXiv 1805.12114). The mean is evaluated in
    every iteration and at the end, so that the plan returned is the best one seen, the mean included.

    The preset "lewm-paper" is the planner of LeWorldModel (arXiv 2603.19312): 300 samples, 30 iterations, 30 elites, a
    spread of 1, and the last mean returned, unless its cost is not finite, so that what other planners promise, to be
    no worse than the warm start and the proposals, does not hold. The paper also plans without bounds: give it such a
    specification.
    """

    Settings = CEMSettings
    settings: CEMSettings

    def search(self, search: Search) -> None:
        """Run the iterations."""
        count = self.settings.samples - 1
        elites = max(1, round(self.settings.elite_fraction * self.settings.samples))
        noise = self.noise(search.state, count * self.settings.iterations)
        mean = search.warm_start
        std = torch.full_like(mean, self.settings.initial_std)
        for iteration in range(self.settings.iterations):
            own_noise = noise[:, iteration * count : (iteration + 1) * count]
            samples = self.spec.clip(mean[:, None] + std[:, None] * own_noise)
            if iteration == 0:
                candidates, costs = search.opening(samples)
            else:
                candidates = torch.cat([mean[:, None], samples], 1)
                costs = search.evaluate(candidates)
            best, lowest = cheapest(candidates, costs, elites)
            mean, std = moments(best, lowest.isfinite().to(best.dtype), mean, std)
        search.evaluate(mean[:, None])
        if self.settings.returns == "mean":
            search.settle(mean)
