"""AUROC: how well scores tell perturbed steps from nominal ones, with intervals between episodes. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .statistics import Estimate, percentiles

Floats = NDArray[np.float64]

RESAMPLES = 500


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
