"""Detectors: what tells, step by step, how surprising an episode is; the protocol, and baselines that know no latents.

A step is a model step: ``block`` environment steps, of which the observation at the end is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import SettingsError
from ..core.seeding import numpy_generator
from ..envs.recording import RecordedEpisode

Array = NDArray[Any]
Floats = NDArray[np.float64]

REDUCED_SIDE = 16
"""Pixels along a side of what the baselines see of an image."""
COMPONENTS = 64
"""Principal components of reduced images that the baselines see, at most."""
REFERENCES = 10_000
"""Nominal steps that are kept to compare with, at most."""
WINDOW = 10
"""Steps over which means are taken."""
_AT_ONCE = 2000
_FLOOR = 1e-4
"""Least deviation along a direction in which nominal steps hardly vary, relative to the mean deviation."""


class Detector(Protocol):
    """Learns what is nominal, and says how surprising steps are.

    Attributes:
        name: in tables.
    """

    name: str

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Learn from nominal episodes.

        Raises:
            SettingsError: there are too few.
        """
        ...

    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return (T,) scores of each episode's T model steps.

        Score t says how surprising what was observed after step t + 1 is, given everything before. Higher is more
        surprising; NaN stands where the detector cannot tell yet.
        """
        ...


@dataclass(frozen=True, eq=False)
class ModelSteps:
    """Episodes cut into model steps, all in a row.

    Attributes:
        before, after: (S, ...) observations around each of the S steps.
        actions: (S, block x A).
        lengths: steps of each episode; a rest shorter than a block is left out.
    """

    before: Array
    actions: Array
    after: Array
    lengths: list[int]

    @classmethod
    def of(cls, episodes: Sequence[RecordedEpisode], block: int) -> ModelSteps:
        """Cut ``episodes``."""
        lengths = [len(episode.actions) // block for episode in episodes]
        pairs = list(zip(episodes, lengths, strict=True))
        seen = [episode.observations[: block * length + 1 : block] for episode, length in pairs]
        actions = [
            episode.actions[: block * length].reshape(length, block * episode.actions.shape[1])
            for episode, length in pairs
        ]
        return cls(
            np.concatenate([some[:-1] for some in seen]),
            np.concatenate(actions),
            np.concatenate([some[1:] for some in seen]),
            lengths,
        )

    def per_episode(self, values: Array) -> list[Floats]:
        """Return (S,) ``values`` of all steps, episode by episode."""
        return np.split(np.asarray(values, np.float64), np.cumsum(self.lengths)[:-1])


def require_steps(steps: ModelSteps, least: int, what: str) -> None:
    """Raise :class:`SettingsError` unless there are at least so many nominal steps to fit ``what`` to."""
    count = len(steps.actions)
    if count < least:
        length = max(count / max(len(steps.lengths), 1), 1.0)
        raise SettingsError(
            f"{len(steps.lengths)} nominal episodes, {count:,} steps in all, are too few to fit {what} to: at least "
            f"{least:,} steps are needed, which are about {int(np.ceil(least / length))} such episodes."
        )


class Seen:
    """What baselines see of observations: vectors as they are, images as principal components of small copies."""

    def fit(self, observations: Array) -> None:
        """Find the components of nominal images."""
        self._mean: Floats | None = None
        if observations.ndim == 2:
            return
        rows = np.linspace(0, len(observations) - 1, min(len(observations), 4000)).astype(np.int64)
        small = _reduced(observations[rows])
        self._mean = small.mean(0)
        _, values, directions = np.linalg.svd(small - self._mean, full_matrices=False)
        self._directions = directions[:COMPONENTS][values[:COMPONENTS] > 1e-9 * values[0]]

    def __call__(self, observations: Array) -> Floats:
        """Return (S, F)."""
        if self._mean is None:
            return np.asarray(observations, np.float64)
        return (_reduced(observations) - self._mean) @ self._directions.T


class Whitening:
    """Linear coordinates in which nominal samples vary by one in every direction, and independently."""

    def __init__(self, samples: Floats) -> None:
        scale = samples.std(0)
        self._mean, self._scale = samples.mean(0), np.where(scale > 0, scale, 1.0)
        values, directions = np.linalg.eigh(np.cov((samples - self._mean) / self._scale, rowvar=False))
        deviations = np.sqrt(values.clip(0)).clip(_FLOOR * float(np.sqrt(values.clip(0).mean())))
        self._turn = directions / deviations

    def __call__(self, samples: Floats) -> Floats:
        """Return the coordinates (S, F) of samples (S, F)."""
        whitened: Floats = (samples - self._mean) / self._scale @ self._turn
        return whitened


class SuccessiveDistance:
    """How far an observation is from the one before, in the deviations of nominal changes."""

    name = "successive"

    def __init__(self, block: int = 1) -> None:
        self._block, self._seen = block, Seen()

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Measure nominal changes."""
        steps = ModelSteps.of(episodes, self._block)
        require_steps(steps, 2, "distances")
        self._seen.fit(steps.after)
        deviation = (self._seen(steps.after) - self._seen(steps.before)).std(0)
        self._deviation = np.where(deviation > 0, deviation, 1.0)

    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return the mean square of the change."""
        steps = ModelSteps.of(episodes, self._block)
        change = (self._seen(steps.after) - self._seen(steps.before)) / self._deviation
        return steps.per_episode(np.square(change).mean(1))


class NearestNeighbour:
    """How far a step is from the nearest nominal one: observation, action and next observation, whitened together."""

    name = "nearest"

    def __init__(self, block: int = 1, seed: int = 0) -> None:
        self._block, self._seed, self._seen = block, seed, Seen()

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Keep nominal steps, 10,000 drawn by chance where there are more."""
        steps = ModelSteps.of(episodes, self._block)
        self._seen.fit(steps.after)
        samples = self._samples(steps)
        require_steps(steps, 2 * samples.shape[1], "nearest neighbours")
        self._whiten = Whitening(samples)
        rng = numpy_generator(self._seed, "nearest neighbours")
        kept = rng.choice(len(samples), min(len(samples), REFERENCES), replace=False)
        self._references = torch.from_numpy(self._whiten(samples[kept])).float()

    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return the Euclidean distance."""
        steps = ModelSteps.of(episodes, self._block)
        samples = torch.from_numpy(self._whiten(self._samples(steps))).float()
        nearest = [torch.cdist(some, self._references).amin(1) for some in samples.split(_AT_ONCE)]
        return steps.per_episode(torch.cat(nearest).numpy())

    def _samples(self, steps: ModelSteps) -> Floats:
        return np.concatenate([self._seen(steps.before), steps.actions, self._seen(steps.after)], 1)


class MeanKernel:
    """Two statistics of what was seen lately: its mean, and its kernel similarity to a summary of nominal data.

    After DEEDEE (arXiv 2510.21638), which sums up an episode by its mean and by an RBF kernel's similarity to a
    summary of the training data. Its paper judges whole episodes; here both are taken over the last 10 steps, so that
    there is a score at every step. The choices of the summary (a sample of nominal observations), of the bandwidth
    (median distance) and of how the two are joined (the greater, in nominal deviations) are our own.
    """

    name = "mean-kernel"

    def __init__(self, block: int = 1, seed: int = 0) -> None:
        self._block, self._seed, self._seen = block, seed, Seen()

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Sum up nominal data."""
        steps = ModelSteps.of(episodes, self._block)
        self._seen.fit(steps.after)
        seen = self._seen(steps.after)
        require_steps(steps, 2 * max(seen.shape[1], WINDOW), "means")
        scale = seen.std(0)
        self._mean, self._scale = seen.mean(0), np.where(scale > 0, scale, 1.0)
        rng = numpy_generator(self._seed, "kernel summary")
        normal = self._normal(seen)
        self._summary = torch.from_numpy(normal[rng.choice(len(normal), min(len(normal), 1000), replace=False)])
        distances = torch.cdist(self._summary[:300], self._summary[:300])
        self._bandwidth = max(float(distances.median()), 1e-9)
        statistics = [self._statistics(part) for part in np.split(normal, np.cumsum(steps.lengths)[:-1])]
        longest = max(len(part) for part in statistics)
        # Means of fewer steps vary more: what is nominal depends on how many there are, until the window is full.
        self._nominal: list[tuple[Floats, Floats]] = []
        for filled in range(min(WINDOW, longest)):
            full = filled == min(WINDOW, longest) - 1
            some = np.concatenate([part[filled:] if full else part[filled : filled + 1] for part in statistics])
            self._nominal.append((some.mean(0), some.std(0)))
        least = self._nominal[-1][1].clip(1e-9)  # of few episodes, the first steps may hardly differ
        self._nominal = [(mean, deviation.clip(least)) for mean, deviation in self._nominal]

    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return the greater of the two statistics, in nominal deviations above their means."""
        steps = ModelSteps.of(episodes, self._block)
        normal = self._normal(self._seen(steps.after))
        scored = []
        for part in np.split(normal, np.cumsum(steps.lengths)[:-1]):
            statistics = self._statistics(part)
            filled = np.arange(len(part)).clip(max=len(self._nominal) - 1)
            mean, deviation = (np.stack([pair[which] for pair in self._nominal])[filled] for which in (0, 1))
            scored.append(((statistics - mean) / deviation).max(1, initial=-np.inf))
        return scored

    def _normal(self, seen: Floats) -> Floats:
        return (seen - self._mean) / self._scale

    def _statistics(self, normal: Floats) -> Floats:
        """Return (T, 2): distance of the window's mean from the nominal mean, and lack of similarity to the summary."""
        if not len(normal):
            return np.zeros((0, 2))
        squares = torch.cdist(torch.from_numpy(normal), self._summary).square().numpy()
        lack = 1.0 - np.exp(-0.5 * squares / self._bandwidth**2).mean(1)
        means = _lately(np.column_stack([normal, lack]))
        return np.column_stack([np.linalg.norm(means[:, :-1], axis=1), means[:, -1]])


def _lately(values: Floats) -> Floats:
    """Return (T, F), the mean of each row and those before it, of 10 in all at most."""
    sums = np.cumsum(np.concatenate([np.zeros((1, values.shape[1])), values]), 0)
    end = np.arange(1, len(values) + 1)
    start = (end - WINDOW).clip(0)
    return (sums[end] - sums[start]) / (end - start)[:, None]


def _reduced(images: Array) -> Floats:
    """Return images (S, height, width, 3) as flat small ones (S, F), by the mean of areas, with values in [0, 1]."""
    parts = []
    for some in np.array_split(images, max(-(-len(images) // _AT_ONCE), 1)):
        pixels = torch.from_numpy(np.ascontiguousarray(some)).permute(0, 3, 1, 2).float() / 255.0
        parts.append(torch.nn.functional.adaptive_avg_pool2d(pixels, REDUCED_SIDE).flatten(1).numpy())
    return np.concatenate(parts).astype(np.float64)
