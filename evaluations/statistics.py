"""Statistics of a handful of runs: robust means, honest intervals, probability of improvement, curves.

Scores come in *strata*: one array per task, whose first axis is the independent runs (seeds) of that task. Bootstrap
resamples draw runs with replacement inside each stratum, so that no task is over- or under-represented. NumPy only.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021), sections
4.1 (stratified bootstrap), 4.3 (interquartile mean) and A.3 (probability of improvement).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array, int], Array]
"""Reduces the given axis of an array to one number."""

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number measured on ``n`` independent runs or episodes, with its interval.

    Attributes:
        value: the statistic of what was measured.
        low, high: ends of the 95 % interval; ``None`` where some stratum holds a single run, which says nothing about
            the spread between runs.
        n: number of runs (or episodes) in all.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether the spread could be estimated at all."""
        return self.low is not None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{number(self.value)} (n = {self.n}, no interval)"
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain data that JSON can hold."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def number(value: float) -> str:
    """Return ``value`` to about four significant digits, as tables and labels show it."""
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def mean(scores: Array, axis: int) -> Array:
    """Return the mean along ``axis``."""
    return np.asarray(scores.mean(axis=axis))


def interquartile_mean(scores: Array, axis: int) -> Array:
    """Return the mean of the middle half along ``axis``: a quarter of the values, rounded down, is cut at each end."""
    count = scores.shape[axis]
    cut = count // 4
    kept = np.take(np.sort(scores, axis=axis), np.arange(cut, count - cut), axis=axis)
    return np.asarray(kept.mean(axis=axis))


def estimate(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Return ``statistic`` over all scores, with its 95 % stratified bootstrap interval (percentiles).

    Args:
        strata: per task, the scores of its runs; tasks may have different numbers of runs.
        statistic: :func:`interquartile_mean` or :func:`mean`.
        seed: of the resampling; the same seed gives the same interval.
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: nothing to measure, or a score that is not finite.
    """
    points = [_finite(scores, dimensions=1)[:, None] for scores in strata]
    return estimate_curve(points, statistic, seed, resamples)[0]


def estimate_curve(
    strata: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Estimate]:
    """Return one :class:`Estimate` per point of a curve; whole runs are resampled, each with all of its points.

    Args:
        strata: per task, an array (runs, P) of scores on a common grid of P steps (:func:`on_common_grid`).
        statistic: as for :func:`estimate`.
        seed: as for :func:`estimate`.
        resamples: as for :func:`estimate`.
    """
    arrays = [_finite(scores, dimensions=2) for scores in strata]
    values = statistic(_pool(arrays), 0)
    count = sum(len(array) for array in arrays)
    if min(len(array) for array in arrays) < 2:
        return [Estimate(float(value), None, None, count) for value in values]
    drawn = statistic(_resample(arrays, seed, resamples), 1)
    low, high = percentiles(drawn)
    return [Estimate(float(v), float(a), float(b), count) for v, a, b in zip(values, low, high, strict=True)]


def mean_direction(angles: ArrayLike) -> float:
    """Return the direction in (-pi, pi] of the mean of unit vectors that point to ``angles``, in radians."""
    array = np.asarray(angles, np.float64)
    return float(np.arctan2(np.sin(array).mean(), np.cos(array).mean()))


def estimate_direction(angles: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean direction of ``angles`` (n,), in radians, with its 95 % bootstrap interval.

    The ends of the interval lie to both sides of the mean, and so may lie beyond half a turn.
    """
    centre = mean_direction(_finite(angles, dimensions=1))
    turns = np.asarray(angles, np.float64) - centre
    away = estimate([np.arctan2(np.sin(turns), np.cos(turns))], mean, seed, resamples)
    if away.low is None or away.high is None:
        return Estimate(centre, None, None, away.n)
    return Estimate(centre, centre + away.low, centre + away.high, away.n)


def crossed_mean(scores: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of scores (runs, E) of several runs on the same E episodes, with its 95 % bootstrap interval.

    Runs and episodes are drawn anew independently of each other, so that the interval holds for other runs and other
    episodes; with a single run it is between episodes alone, and says nothing of other runs.
    """
    array = _finite(scores, dimensions=2)
    if array.shape[1] < 2:
        return Estimate(float(array.mean()), None, None, array.size)
    generator = np.random.default_rng(seed)
    runs, episodes = (generator.integers(count, size=(resamples, count)) for count in array.shape)
    drawn = np.array([array[chosen][:, played].mean() for chosen, played in zip(runs, episodes, strict=True)])
    low, high = percentiles(drawn)
    return Estimate(float(array.mean()), float(low), float(high), array.size)


def estimate_of_sums(
    sums: ArrayLike, statistic: Callable[[Array], Array], seed: int = 0, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Return statistics of all samples of several episodes, with 95 % bootstrap intervals; whole episodes are drawn.

    Args:
        sums: (E, ...), for each of E episodes the sums over its samples from which the statistics follow.
        statistic: makes statistics (..., P) of sums with any axes before them.
        seed: of the resampling; the same seed gives the same interval.
        resamples: number of bootstrap resamples.

    Returns:
        P estimates; one that is not finite has no interval, nor has one of a single episode.
    """
    sums = np.asarray(sums, np.float64)
    values = statistic(sums.sum(0))
    if len(sums) < 2:
        return [Estimate(float(value), None, None, len(sums)) for value in values]
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    times = np.stack([np.bincount(row, minlength=len(sums)) for row in drawn]).astype(np.float64)
    resampled = statistic(np.tensordot(times, sums, 1))
    estimates = []
    for value, column in zip(values, resampled.T, strict=True):
        known = column[np.isfinite(column)]  # all of a quantity's variation may be in episodes that were not drawn
        ends = percentiles(known).tolist() if np.isfinite(value) and len(known) else [None, None]
        estimates.append(Estimate(float(value), ends[0], ends[1], len(sums)))
    return estimates


def probability_of_improvement(
    ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return how likely a run of ours beats a run of theirs on a task drawn at random; a tie counts one half.

    Args:
        ours: per task, the scores of our runs.
        theirs: per task, in the same order, the scores of theirs.
        seed: of the resampling.
        resamples: number of bootstrap resamples.
    """
    left = [_finite(scores, dimensions=1) for scores in ours]
    right = [_finite(scores, dimensions=1) for scores in theirs]
    if len(left) != len(right):
        raise ValueError(f"Both sides need the same tasks, not {len(left)} and {len(right)}.")
    value = float(np.mean([_wins(a, b) for a, b in zip(left, right, strict=True)]))
    count = sum(len(array) for array in (*left, *right))
    if min(len(array) for array in (*left, *right)) < 2:
        return Estimate(value, None, None, count)
    generator = np.random.default_rng(seed)
    drawn = np.mean(
        [
            _wins(_draw(a, generator, resamples), _draw(b, generator, resamples))
            for a, b in zip(left, right, strict=True)
        ],
        axis=0,
    )
    low, high = percentiles(drawn)
    return Estimate(value, float(low), float(high), count)


def paired_gain(values: ArrayLike, baseline: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Return the mean difference between two treatments of the same episodes, with its 95 % bootstrap interval.

    Pairing removes what both share, such as an easy or a hard start, and so tells smaller gains apart.
    """
    left, right = _finite(values, dimensions=1), _finite(baseline, dimensions=1)
    if left.shape != right.shape:
        raise ValueError(f"Pairs are needed, not {len(left)} values beside {len(right)}.")
    return estimate([left - right], mean, seed, resamples)


def on_common_grid(curves: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[Array, Array]:
    """Bring learning curves that were measured at different steps onto the steps that all of them cover.

    Args:
        curves: per run, its steps (increasing) and its scores at these steps.

    Returns:
        steps: (P,), evenly spaced from the latest first to the earliest last step, with as many points as the run
            that was measured least often.
        scores: (runs, P), linearly interpolated; equal to what was measured wherever a step was measured.
    """
    known = [(_finite(steps, dimensions=1), _finite(scores, dimensions=1)) for steps, scores in curves]
    if not known:
        raise ValueError("There are no curves to compare.")
    first = max(steps[0] for steps, _ in known)
    last = min(steps[-1] for steps, _ in known)
    if first > last:
        raise ValueError(f"The curves share no step: one begins at {first:g}, another ends at {last:g}.")
    points = min(len(steps) for steps, _ in known) if first < last else 1
    grid = np.linspace(first, last, points) if points > 1 else np.array([last])
    return grid, np.stack([np.interp(grid, steps, scores) for steps, scores in known])


def _finite(scores: ArrayLike, dimensions: int) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != dimensions or not array.size:
        raise ValueError(f"Scores need {dimensions} non-empty axes, not shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("A score is not finite, so nothing can be claimed about these runs.")
    return array


def _pool(arrays: Sequence[Array]) -> Array:
    if not arrays:
        raise ValueError("There are no scores.")
    return np.concatenate(arrays)


def _draw(runs: NDArray[Any], generator: np.random.Generator, resamples: int) -> Array:
    """Return (resamples, runs, ...): the runs of one stratum drawn with replacement."""
    return np.asarray(runs[generator.integers(len(runs), size=(resamples, len(runs)))])


def _resample(arrays: Sequence[Array], seed: int, resamples: int) -> Array:
    generator = np.random.default_rng(seed)
    return np.concatenate([_draw(array, generator, resamples) for array in arrays], axis=1)


def percentiles(drawn: Array) -> Array:
    """Return the two ends of the 95 % interval of what bootstrap resamples (first axis) gave."""
    tail = 50 * (1 - CONFIDENCE)
    return np.percentile(drawn, [tail, 100 - tail], axis=0)


def _wins(ours: Array, theirs: Array) -> Array:
    """Return the share of pairs (last axes) in which ours is higher."""
    difference = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)))
