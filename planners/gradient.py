"""Gradient descent on the actions, through the model, from several starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch

from ..core.settings import Range
from .base import Planner, PlannerSettings, Size, register_planner
from .gaussian import cheapest
from .search import Search

_DECAY, _SQUARE_DECAY, _EPSILON = 0.9, 0.99, 1e-8


@dataclass(frozen=True)
class GradientSettings(PlannerSettings):
    """Settings of :class:`Gradient`."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"cpu": {}, "gpu": {"samples": 256, "starts": 16, "steps": 40}}
    sizes: ClassVar[tuple[str, ...]] = ("steps", "samples", "starts")

    samples: Size = 32
    """Candidates from which the starts are chosen, the warm start among them."""
    starts: Size = 2
    """Best candidates that are improved, side by side."""
    steps: Size = 45
    """Gradient steps from each start."""
    step_size: Annotated[float, Range(gt=0, le=100)] = 0.1
    """Largest change of an action in the first step, in halves of the action range; falls to zero like a cosine."""
    initial_std: Annotated[float, Range(gt=0, le=100)] = 0.5
    """Standard deviation of the candidates around the warm start, in halves of the action range."""

    @property
    def budget(self) -> int:
        """The candidates, then every start at every step and after the last."""
        return self.samples + min(self.starts, self.samples) * (self.steps + 1)

    @property
    def gradients(self) -> int:
        """Every start at every step."""
        return min(self.starts, self.samples) * self.steps

    @property
    def max_proposals(self) -> int:
        """All candidates but the warm start."""
        return self.samples - 1

    def proportions(self, effort: int) -> dict[str, Any]:
        """A tenth of the effort for choosing starts, of which there are more only where steps abound."""
        return {"samples": max(1, min(256, effort // 10)), "starts": max(2, min(16, effort // 1500))}


@register_planner("gradient")
class Gradient(Planner):
    """Multi-start gradient descent through the objective: projected Adam with a cosine step size.

    Source: Adam (arXiv 1412.6980), on the actions of a learned model as in DINO-WM (arXiv 2411.04983); its momentum,
    the decaying step and the bounds are what single-start gradient descent lacked there.
    """

    Settings = GradientSettings
    settings: GradientSettings

    def search(self, search: Search) -> None:
        """Choose the starts, improve them, evaluate where they end."""
        settings = self.settings
        noise = self.noise(search.state, settings.samples - 1)
        samples = self.spec.clip(search.warm_start[:, None] + settings.initial_std * noise)
        candidates, costs = search.opening(samples)
        points, _ = cheapest(candidates, costs, min(settings.starts, settings.samples))
        momentum, square = torch.zeros_like(points), torch.zeros_like(points)
        for step in range(settings.steps):
            _, gradients = search.differentiate(points)
            momentum = torch.lerp(gradients, momentum, _DECAY)
            square = torch.lerp(gradients.square(), square, _SQUARE_DECAY)
            size = settings.step_size * (1 + math.cos(math.pi * step / settings.steps)) / 2
            size /= 1 - _DECAY ** (step + 1)
            norm = (square / (1 - _SQUARE_DECAY ** (step + 1))).sqrt() + _EPSILON
            points = self.spec.clip(points - size * momentum / norm)
        search.evaluate(points)
