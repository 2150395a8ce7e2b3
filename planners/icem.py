"""iCEM: the cross-entropy method for planning at every step, with few samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ..core.settings import Range
from .base import Planner, PopulationSettings, Size, register_planner
from .gaussian import cheapest, moments
from .search import Search


@dataclass(frozen=True)
class ICEMSettings(PopulationSettings):
    """Settings of :class:`ICEM`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {"samples": 400, "iterations": 8}}

    samples: Size = 96
    """Candidates in the first iteration; later ones have fewer."""
    decay: Annotated[float, Range(ge=1)] = 1.25
    """Factor gamma by which the candidates become fewer from one iteration to the next."""
    elites: Annotated[int, Range(ge=1, le=1e9)] = 10
    """Candidates that the Gaussian is fitted to."""
    kept: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Share of the elites that stay, in the next iteration and in the next plan."""
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """Share alpha of the old mean and standard deviation in the new ones."""
    initial_std: Annotated[float, Range(gt=0, le=100)] = 0.5
    """Standard deviation at the start of every plan, in halves of the action range."""
    noise_colour: Annotated[float, Range(ge=0, le=4)] = 0.0
    """Exponent beta of the noise: 0 is white, 2 drifts. More suits smooth tasks and horizons of 10 and above."""

    @property
    def populations(self) -> tuple[int, ...]:
        """Candidates per iteration: they decay, but not below twice the elites."""
        floor = min(self.samples, 2 * self.elites)
        return tuple(max(floor, round(self.samples * self.decay**-i)) for i in range(self.iterations))

    @property
    def kept_elites(self) -> int:
        """How many elites stay."""
        return min(round(self.kept * self.elites), self.samples - 1)

    @property
    def budget(self) -> int:
        """All iterations, and the last mean."""
        return sum(self.populations) + 1

    @property
    def max_proposals(self) -> int:
        """All samples of the first iteration but the warm start and the elites carried from the last plan."""
        return self.samples - 1 - self.kept_elites


@register_planner("icem")
class ICEM(Planner):
    """Improved cross-entropy method: decaying population, elites kept across steps, momentum, coloured noise.

    Source: iCEM (arXiv 2008.06389), algorithm 1. Elites that stay within a plan keep their costs instead of being
    evaluated again, which is the same for an objective that is a function and leaves more of the budget to samples.
    """

    Settings = ICEMSettings
    settings: ICEMSettings

    @property
    def carried(self) -> int:
        """The elites that stay."""
        return self.settings.kept_elites

    def search(self, search: Search) -> Tensor:
        """Run the iterations; carry the best elites to the next plan."""
        populations = [population - (i == 0) for i, population in enumerate(self.settings.populations)]
        noise = self.noise(search.state, sum(populations), self.settings.noise_colour)
        keep = self.settings.momentum
        mean = search.warm_start
        std = torch.full_like(mean, self.settings.initial_std)
        kept, kept_costs = mean[:, :0], mean[:, :0]
        for iteration, own_noise in enumerate(torch.split(noise, populations, 1)):
            samples = self.spec.clip(mean[:, None] + std[:, None] * own_noise)
            if iteration == 0:
                candidates, costs = search.opening(self._with_last_elites(samples, search))
            else:
                costs = torch.cat([kept_costs, search.evaluate(samples)], 1)
                candidates = torch.cat([kept, samples], 1)
            elites, lowest = cheapest(candidates, costs, min(self.settings.elites, costs.shape[1]))
            kept, kept_costs = elites[:, : self.carried], lowest[:, : self.carried]
            new_mean, new_std = moments(elites, lowest.isfinite().to(elites.dtype), mean, std)
            mean = keep * mean + (1 - keep) * new_mean
            std = keep * std + (1 - keep) * new_std
        search.evaluate(mean[:, None])
        return kept

    def _with_last_elites(self, samples: Tensor, search: Search) -> Tensor:
        """Put the last plan's elites in the place of the last samples, which fill in what is unknown of them."""
        carried = self.spec.to_units(search.state.elites)
        first = samples.shape[1] - self.carried
        rest, replaced = samples[:, :first], samples[:, first:]
        return torch.cat([rest, torch.where(carried.isnan(), replaced, carried)], 1)
