"""EnsembleDynamics: a probabilistic ensemble of dynamics models in observation space, as a baseline detector.

Source: PEDM (Haider et al., "Out-of-Distribution Detection for Reinforcement Learning Agents with Probabilistic
Dynamics Models", AAMAS 2023), whose ensemble is that of PETS (arXiv 1805.12114).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.seeding import torch_generator
from ..core.settings import Range, Settings, Width
from ..envs.recording import RecordedEpisode
from .detectors import Floats, ModelSteps, Seen, require_steps

_AT_ONCE = 4096


@dataclass(frozen=True)
class EnsembleSettings(Settings):
    """Settings of :class:`EnsembleDynamics`."""

    members: Annotated[int, Range(ge=2, le=64)] = 5
    """Networks, each of which learns from its own resample of the steps."""
    hidden: Width = 200
    """Width of their hidden layers."""
    layers: Annotated[int, Range(ge=1, le=16)] = 3
    """Hidden layers."""
    updates: Annotated[int, Range(ge=1, le=10**6)] = 3000
    """Steps of Adam."""
    batch_size: Annotated[int, Range(ge=1, le=65_536)] = 256
    """Steps that each member sees per update."""
    learning_rate: Annotated[float, Range(gt=0, le=1)] = 1e-3
    """At the beginning; it falls to zero along a cosine."""
    particles: Annotated[int, Range(ge=1, le=10_000)] = 100
    """Predictions drawn from the ensemble, for the nearest of them."""


class EnsembleDynamics:
    """Gaussian networks predict how the observation changes; what they all find unlikely is surprising.

    Args:
        block: environment steps per model step.
        seed: of the networks and of all draws.
        criterion: "deviation": the squared error of the ensemble's mean in its predicted variance, members' spread
            included, averaged over coordinates: what drawn predictions give on average, in closed form. "nearest":
            the squared error of the nearest of the drawn predictions, averaged over coordinates, in which PEDM's
            authors measure.
        settings: see :class:`EnsembleSettings`.
    """

    def __init__(
        self,
        block: int = 1,
        seed: int = 0,
        criterion: Literal["deviation", "nearest"] = "deviation",
        settings: EnsembleSettings | None = None,
    ) -> None:
        self.name = "pedm" if criterion == "deviation" else "pedm-nearest"
        self._block, self._seed, self._criterion = block, seed, criterion
        self._settings, self._seen = settings or EnsembleSettings(), Seen()

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Learn nominal dynamics."""
        steps = ModelSteps.of(episodes, self._block)
        require_steps(steps, 100, "an ensemble")
        self._seen.fit(steps.after)
        before, after = self._seen(steps.before), self._seen(steps.after)
        inputs = np.concatenate([before, steps.actions], 1)
        self._input_mean, self._input_scale = inputs.mean(0), _scale(inputs)
        self._change_mean, self._change_scale = (after - before).mean(0), _scale(after - before)
        x, y = self._coded(steps)
        s, count = self._settings, len(x)
        generator = torch_generator(self._seed, "ensemble dynamics")
        self._network = _Ensemble(x.shape[1], y.shape[1], s, generator)
        resamples = torch.randint(count, (s.members, count), generator=generator)
        optimizer = torch.optim.Adam(self._network.parameters(), lr=s.learning_rate)
        for update in range(s.updates):
            for group in optimizer.param_groups:
                group["lr"] = s.learning_rate * 0.5 * (1 + math.cos(math.pi * update / s.updates))
            columns = torch.randint(count, (s.members, s.batch_size), generator=generator)
            rows = resamples.gather(1, columns)
            mean, log_variance = self._network(x[rows])
            loss = ((y[rows] - mean).square() * (-log_variance).exp() + log_variance).mean((1, 2)).sum()
            loss = loss + 0.01 * self._network.bounds_width()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self._network.requires_grad_(False)

    @torch.no_grad()
    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return the error, in the units that the criterion says."""
        steps = ModelSteps.of(episodes, self._block)
        x, y = self._coded(steps)
        measure = self._by_deviation if self._criterion == "deviation" else self._by_nearest
        parts = zip(x.split(_AT_ONCE), y.split(_AT_ONCE), strict=True)
        return steps.per_episode(torch.cat([measure(*part) for part in parts]).double().numpy())

    def _by_deviation(self, x: Tensor, y: Tensor) -> Tensor:
        means, log_variances = self._network(x.expand(self._settings.members, -1, -1))
        mean, variance = means.mean(0), log_variances.exp().mean(0) + means.var(0, unbiased=False)
        return ((y - mean).square() / variance).mean(-1)

    def _by_nearest(self, x: Tensor, y: Tensor) -> Tensor:
        s, generator = self._settings, torch_generator(self._seed, "particles")
        means, log_variances = self._network(x.expand(s.members, -1, -1))
        deviations = (0.5 * log_variances).exp()
        nearest = torch.full((len(x),), torch.inf)
        for particle in range(s.particles):
            member = particle % s.members
            noise = torch.randn(y.shape[1], generator=generator)  # of all steps, so that a step's score is its own
            drawn = means[member] + deviations[member] * noise
            nearest = torch.minimum(nearest, (y - drawn).square().mean(-1))
        return nearest

    def _coded(self, steps: ModelSteps) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (S, ...), standardised."""
        before, after = self._seen(steps.before), self._seen(steps.after)
        inputs = (np.concatenate([before, steps.actions], 1) - self._input_mean) / self._input_scale
        targets = (after - before - self._change_mean) / self._change_scale
        return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()


class _Ensemble(nn.Module):
    """Members side by side: (M, B, inputs) to means and log-variances (M, B, outputs)."""

    def __init__(self, inputs: int, outputs: int, settings: EnsembleSettings, generator: torch.Generator) -> None:
        super().__init__()
        widths = [inputs, *[settings.hidden] * settings.layers, 2 * outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for width, following in itertools.pairwise(widths):
            drawn = torch.randn(settings.members, width, following, generator=generator) / math.sqrt(width)
            self.weights.append(nn.Parameter(drawn))
            self.biases.append(nn.Parameter(torch.zeros(settings.members, 1, following)))
        self.least = nn.Parameter(torch.full((outputs,), -10.0))
        self.greatest = nn.Parameter(torch.full((outputs,), 0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-variances, the latter softly bounded."""
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = x if layer == last else F.silu(x)
        mean, log_variance = x.chunk(2, -1)
        log_variance = self.greatest - F.softplus(self.greatest - log_variance)
        return mean, self.least + F.softplus(log_variance - self.least)

    def bounds_width(self) -> Tensor:
        """Return what keeps the bounds of the log-variance close to what is needed."""
        return (self.greatest - self.least).sum()


def _scale(values: Floats) -> Floats:
    deviation = values.std(0)
    return np.where(deviation > 0, deviation, 1.0)
