"""Model predictive path integral control: average the samples, weighted by their costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ..core.settings import Range
from .base import Planner, PopulationSettings, register_planner
from .gaussian import moments
from .search import Search


@dataclass(frozen=True)
class MPPISettings(PopulationSettings):
    """Settings of :class:`MPPI`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {"samples": 256, "iterations": 8}}

    effective_fraction: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Effective sample size that the temperature is chosen for, as a share of the candidates."""
    initial_std: Annotated[float, Range(gt=0, le=100)] = 0.5
    """Standard deviation at the start of every plan, in halves of the action range."""
    annealing: Annotated[float, Range(ge=0, le=100)] = 1.0
    """Over I iterations the standard deviation falls geometrically to initial_std / I ** annealing; 0 keeps it."""
    noise_colour: Annotated[float, Range(ge=0, le=4)] = 0.0
    """Exponent beta of the noise: 0 is white, 2 drifts. More suits smooth tasks and horizons of 10 and above."""


@register_planner("mppi")
class MPPI(Planner):
    """Model predictive path integral control, annealed, its temperature set by an effective sample size.

    Source: information-theoretic MPPI (arXiv 1707.02342), with the noise annealed over the iterations as in DIAL-MPC
    (arXiv 2409.15610). The temperature has no unit of cost to be tuned in: it is solved for, per problem and
    iteration, so that the weights are worth a given number of samples.
    """

    Settings = MPPISettings
    settings: MPPISettings

    def search(self, search: Search) -> None:
        """Run the iterations."""
        settings, count = self.settings, self.settings.samples - 1
        noise = self.noise(search.state, count * settings.iterations, settings.noise_colour)
        cooling = settings.iterations ** (-settings.annealing / max(1, settings.iterations - 1))
        mean = search.warm_start
        for iteration in range(settings.iterations):
            own_noise = noise[:, iteration * count : (iteration + 1) * count]
            std = settings.initial_std * cooling**iteration
            samples = self.spec.clip(mean[:, None] + std * own_noise)
            if iteration == 0:
                candidates, costs = search.opening(samples)
            else:
                candidates = torch.cat([mean[:, None], samples], 1)
                costs = search.evaluate(candidates)
            weights = boltzmann_weights(costs, settings.effective_fraction * settings.samples)
            mean = self.spec.clip(moments(candidates, weights, mean, mean)[0])  # rounding may leave the bounds
        search.evaluate(mean[:, None])


def boltzmann_weights(costs: Tensor, effective: float) -> Tensor:
    """Return weights exp(-cost / temperature), the temperature such that they are worth ``effective`` samples.

    The effective sample size, (sum w)^2 / sum w^2, rises with the temperature, so it is bracketed: two rounds try 16
    temperatures at once, and the last bracket is interpolated. Costs enter relative to their own spread, so
    multiplying all of them by a power of two changes nothing.

    Args:
        costs: (B, N), ``inf`` where a candidate is out of the question.
        effective: the effective sample size wanted.

    Returns:
        (B, N), at most 1; zero where the cost is infinite.
    """
    rank = min(costs.shape[1], max(2, math.ceil(effective)))
    lowest = costs.topk(rank, dim=1, largest=False).values
    excess = costs - lowest[:, :1].clamp(max=torch.finfo(costs.dtype).max)
    unit = lowest[:, -1:] - lowest[:, :1]
    unit = torch.where((unit > 0) & unit.isfinite(), unit, _span(excess))
    relative = (excess / unit)[:, None]
    wanted = math.log(effective)
    steps = torch.linspace(0, 1, 16, device=costs.device)
    low = torch.full_like(unit, math.log(1e-2))
    high = torch.full_like(unit, math.log(1e3))
    for _ in range(2):
        grid = low + (high - low) * steps
        weights = torch.exp(-relative / grid.exp()[:, :, None])
        # Where every cost is infinite there is no weight, and any temperature will do.
        sizes = (weights.sum(2).square() / weights.square().sum(2)).nan_to_num(1.0).log()
        above = (sizes < wanted).sum(1, keepdim=True).clamp(1, len(steps) - 1)
        low, high = grid.gather(1, above - 1), grid.gather(1, above)
    smaller, larger = sizes.gather(1, above - 1), sizes.gather(1, above)
    part = ((wanted - smaller) / (larger - smaller).clamp(min=1e-6)).clamp(0, 1)
    return torch.exp(-relative[:, 0] / (low + part * (high - low)).exp())


def _span(excess: Tensor) -> Tensor:
    """Return the largest finite excess (B, 1), or 1 where there is none above zero."""
    largest = excess.where(excess.isfinite(), 0.0).amax(1, keepdim=True)
    return torch.where(largest > 0, largest, 1.0)
