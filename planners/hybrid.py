"""A short search by sampling, then second-order descent from the best of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ..core.settings import Range
from .base import Planner, PlannerSettings, Size, register_planner
from .icem import ICEM, ICEMSettings
from .lbfgs import InverseHessian
from .search import Search
from .spec import ActionSpec

_STEP_SIZES = (2.0, 1.0, 0.5, 0.2, 0.05)
"""Tried at once in every line search; 1 is the full quasi-Newton step."""


@dataclass(frozen=True)
class HybridSettings(PlannerSettings):
    """Settings of :class:`Hybrid`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "cpu": {},
        "gpu": {"samples": 400, "iterations": 4, "starts": 8, "steps": 15},
    }
    sizes: ClassVar[tuple[str, ...]] = ("steps", "samples", "iterations", "starts")

    samples: Size = 64
    """Candidates in the first iteration of the sampling stage."""
    iterations: Size = 3
    """Iterations of the sampling stage."""
    starts: Size = 1
    """Best candidates that are improved, side by side; at most as many as the sampling stage keeps."""
    steps: Size = 15
    """Quasi-Newton steps from each start."""
    memory: Annotated[int, Range(ge=1, le=1000)] = 8
    """Steps that the estimate of the curvature remembers."""
    first_step: Annotated[float, Range(gt=0, le=100)] = 0.25
    """Largest change of an action in the first step, in halves of the action range."""

    @property
    def sampling(self) -> ICEMSettings:
        """The sampling stage, which keeps at least as many elites as there are starts."""
        elites = max(10, 2 * self.starts)
        return ICEMSettings(
            samples=self.samples, iterations=self.iterations, elites=elites, kept=max(0.3, self.starts / elites)
        )

    @property
    def points(self) -> int:
        """How many candidates are improved: the starts, or fewer if the sampling stage has not as many."""
        return min(self.starts, max(1, self.sampling.kept_elites))

    @property
    def budget(self) -> int:
        """The sampling stage, its best once more, and at every step a ladder of step sizes and where it ends."""
        return self.sampling.budget + self.points * (1 + self.steps * (len(_STEP_SIZES) + 1))

    @property
    def gradients(self) -> int:
        """Every start, before the first step and after every step."""
        return self.points * (1 + self.steps)

    @property
    def max_proposals(self) -> int:
        """As many as the sampling stage takes."""
        return self.sampling.max_proposals

    def proportions(self, effort: int) -> dict[str, Any]:
        """Half of it for sampling; more starts rather than more than about 30 steps."""
        return {"samples": max(1, effort // 5), "starts": max(1, min(64, effort // 500))}


@register_planner("hybrid")
class Hybrid(Planner):
    """Short iCEM, then projected L-BFGS from its best candidates; never worse than its sampling stage.

    Sampling finds the valley, curvature its floor: shooting problems are ill-conditioned, which costs samplers and
    plain gradients most of their budget. A line search evaluates all its step sizes at once and takes the best, so
    a step never goes up. Sources: Byrd, Lu, Nocedal and Zhu (1995) for bounds; sampling before gradients as in
    GradCEM (arXiv 2004.08763).
    """

    Settings = HybridSettings
    settings: HybridSettings

    def __init__(self, spec: ActionSpec, horizon: int, settings: HybridSettings | None = None) -> None:
        super().__init__(spec, horizon, settings)
        self._sampling = ICEM(spec, horizon, self.settings.sampling)
        self._step_sizes = torch.tensor(_STEP_SIZES, device=spec.device)[:, None, None]

    @property
    def carried(self) -> int:
        """The elites of the sampling stage."""
        return self._sampling.carried

    def search(self, search: Search) -> Tensor:
        """Sample, then descend; carry the sampling stage's elites to the next plan."""
        elites = self._sampling.search(search)
        best = self.spec.to_units(search.best_actions)[:, None]
        points = torch.cat([best, elites[:, 1 : self.settings.points]], 1)
        curvature = InverseHessian(self.settings.memory, self.settings.first_step)
        costs, gradients = search.differentiate(points)
        reach = torch.ones_like(costs)
        for _ in range(self.settings.steps):
            free = (self.spec.clip(points - gradients.sign()) != points).to(points.dtype)
            direction = curvature.direction(gradients.flatten(2), free.flatten(2)).view_as(points)
            previous, stuck = points, costs
            points, moved = self._line_search(search, points, costs, direction, reach)
            # Where no step size went down the next ladder is a finer one.
            reach = torch.where(moved, 1.0, reach / 8)
            costs, new_gradients = search.differentiate(points)
            costs = torch.where(moved, costs, stuck)
            curvature.add((points - previous).flatten(2), (new_gradients - gradients).flatten(2))
            gradients = new_gradients
        return elites

    def _line_search(
        self, search: Search, points: Tensor, costs: Tensor, direction: Tensor, reach: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the best of the points (B, S, H, A) along ``direction``, and (B, S) whether it went down."""
        strides = reach[:, :, None, None, None] * self._step_sizes * direction[:, :, None]
        trials = self.spec.clip(points[:, :, None] + strides)
        lowest, index = search.evaluate(trials.flatten(1, 2)).unflatten(1, (costs.shape[1], -1)).min(2)
        chosen = trials.gather(2, index[:, :, None, None, None].expand(-1, -1, 1, *points.shape[2:]))[:, :, 0]
        moved = lowest < costs
        return torch.where(moved[:, :, None, None], chosen, points), moved
