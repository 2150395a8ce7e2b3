"""Cross-entropy method for categorical actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ..core.settings import Range
from .base import Planner, PopulationSettings, Size, register_planner
from .gaussian import cheapest, moments
from .search import Search
from .spec import ActionSpec


@dataclass(frozen=True)
class CategoricalCEMSettings(PopulationSettings):
    """Settings of :class:`CategoricalCEM`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {"samples": 256, "iterations": 8}}

    iterations: Size = 4
    """How often the probabilities are fitted."""
    elite_fraction: Annotated[float, Range(gt=0, le=1)] = 0.15
    """Share of the candidates that the probabilities are fitted to."""
    uniform_fraction: Annotated[float, Range(ge=0, le=1)] = 0.2
    """Share of equal probabilities in the fitted ones, so that no category is ever given up."""
    warm_fraction: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Share of the last plan's choices in the first probabilities."""

    def proportions(self, effort: int) -> dict[str, Any]:
        """Rather more samples than more iterations, after which few new plans come up: 75 x 4 at 300."""
        return {"iterations": max(1, round(0.6 * effort ** (1 / 3)))}


@register_planner("categorical_cem")
class CategoricalCEM(Planner):
    """Cross-entropy method over categorical actions: fits probabilities to the best samples and samples again.

    Every choice of a plan has its own probabilities. They begin between equal ones and the last plan's choices,
    where there is a last plan. Source: Rubinstein and Kroese, The Cross-Entropy Method (2004), chapter 4.
    """

    Settings = CategoricalCEMSettings
    settings: CategoricalCEMSettings

    @classmethod
    def supports(cls, spec: ActionSpec) -> bool:
        """Discrete and multi-discrete actions."""
        return spec.discrete

    @property
    def carried(self) -> int:
        """The best plan, whose end is unknown once it has been shifted."""
        return 1

    def search(self, search: Search) -> Tensor:
        """Run the iterations; carry the best plan to the next."""
        settings, one_hots = self.settings, self.spec.one_hots
        elites = max(1, round(settings.elite_fraction * settings.samples))
        counts = [settings.samples - (i == 0) for i in range(settings.iterations)]
        noise = self.noise(search.state, sum(counts))
        last = search.state.elites[:, 0]
        uniform = one_hots.uniform.expand_as(last)
        probabilities = torch.where(last.isnan(), uniform, uniform.lerp(last, settings.warm_fraction))
        for iteration, own_noise in enumerate(torch.split(noise, counts, 1)):
            samples = one_hots.sample(probabilities[:, None], own_noise)
            if iteration == 0:
                candidates, costs = search.opening(samples)
            else:
                candidates, costs = samples, search.evaluate(samples)
            best, lowest = cheapest(candidates, costs, elites)
            frequencies, _ = moments(best, lowest.isfinite().to(best.dtype), probabilities, uniform)
            probabilities = frequencies.lerp(uniform, settings.uniform_fraction)
        search.score(self.spec.project(probabilities)[:, None])
        return search.best_actions[:, None]
