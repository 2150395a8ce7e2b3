"""Alarms: from surprise per step to a yes or no, and how well one tells the perturbed from the nominal. NumPy only.

An alarm is a run of alarmed steps after 10 quiet ones. Steps of one episode are correlated, so whatever is estimated
here is counted over whole episodes, and intervals are between episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.errors import SettingsError
from .statistics import Estimate, percentiles

Floats = NDArray[np.float64]

QUIET_STEPS = 10
"""Steps without an alarmed one, after which an alarmed step is a new alarm."""
RESAMPLES = 500


def alarms(scores: Floats, threshold: float) -> NDArray[np.int64]:
    """Return the steps (K,) of an episode at which an alarm begins.

    Args:
        scores: (T,) of the episode; NaN is quiet.
        threshold: a step is alarmed above it.
    """
    alarmed = np.flatnonzero(scores > threshold)
    return alarmed[np.diff(alarmed, prepend=-QUIET_STEPS - 1) > QUIET_STEPS]


def alarm_threshold(scores: Sequence[Floats], per_thousand: float) -> float:
    """Return the lowest threshold at which nominal episodes have no more alarms than allowed.

    Of the alarms that may be expected in episodes of this number and length, one is given to the next episode, as in
    conformal prediction: (alarms + 1) / steps stays below the stated rate.

    Args:
        scores: (T,) of each nominal episode.
        per_thousand: false alarms per 1,000 steps.

    Raises:
        SettingsError: there are too few episodes to tell; it says how many are needed.
    """
    steps = sum(int(np.isfinite(episode).sum()) for episode in scores)
    allowed = math.floor(per_thousand * steps / 1000 + 1e-9) - 1
    if allowed < 0:
        length = steps / max(len(scores), 1)
        needed = f"{math.ceil(1000 / per_thousand / length):,}" if length else "more"
        raise SettingsError(
            f"{len(scores)} nominal episodes, {steps:,} steps in all, are too few to calibrate {per_thousand:g} false "
            f"alarms per 1,000 steps: at least {needed} such episodes are needed."
        )
    known = [episode[np.isfinite(episode)] for episode in scores]
    candidates = np.unique(np.concatenate(known))

    def too_many(index: int) -> bool:
        return sum(len(alarms(episode, candidates[index])) for episode in scores) > allowed

    # From the greatest score downwards, in growing strides, because so low that all steps are alarmed, episodes have a
    # single alarm again.
    high, stride = len(candidates) - 1, 1
    while high - stride >= 0 and not too_many(high - stride):
        high, stride = high - stride, 2 * stride
    low = max(high - stride, -1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_many(middle) else (low, middle)
    return float(candidates[high])


def auroc(perturbed: Sequence[Floats], nominal: Sequence[Floats], seed: int = 0) -> Estimate:
    """Return how likely a perturbed step is more surprising than a nominal one; a tie counts one half.

    Args:
        perturbed: (P,) scores of the perturbed steps of each episode; NaN, where nothing can be told, is left out.
        nominal: (T,) scores of each nominal episode.
        seed: of the resampling.

    Returns:
        The area under the ROC curve over all steps, with a 95 % interval: perturbed and nominal episodes are resampled
        independently.

    Raises:
        ValueError: there is nothing on one side.
    """
    left, right = _Told(perturbed), _Told(nominal)
    order = np.argsort(right.values, kind="stable")
    below, up_to = (np.searchsorted(right.values[order], left.values, side=side) for side in ("left", "right"))
    owner = right.episode[order]

    def area(left_weights: Floats, right_weights: Floats) -> float:
        cumulated = np.concatenate([[0.0], np.cumsum(right_weights[owner])])
        wins = 0.5 * (cumulated[below] + cumulated[up_to])
        weights = left_weights[left.episode]
        return float((weights * wins).sum() / (weights.sum() * cumulated[-1]))

    value = area(np.ones(left.count), np.ones(right.count))
    if min(left.count, right.count) < 2:
        return Estimate(value, None, None, left.count)
    rng = np.random.default_rng(seed)
    drawn = [area(*(_resampled(rng, side.count) for side in (left, right))) for _ in range(RESAMPLES)]
    low, high = percentiles(np.array(drawn))
    return Estimate(value, float(low), float(high), left.count)


class _Told:
    """Scores of several episodes in a row, each with the number of its episode among those that have any."""

    def __init__(self, episodes: Sequence[Floats]) -> None:
        known = [episode[~np.isnan(episode)] for episode in (np.asarray(episode, np.float64) for episode in episodes)]
        known = [episode for episode in known if len(episode)]
        if not known:
            raise ValueError("There is no step that could be told from another.")
        self.values: Floats = np.concatenate(known)
        self.episode = np.repeat(np.arange(len(known)), [len(episode) for episode in known])
        self.count = len(known)


def _resampled(rng: np.random.Generator, count: int) -> Floats:
    """Return how often each of ``count`` episodes is drawn, of as many draws with replacement."""
    return np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
