"""How well quantities were read: correlation, explained share and error in units, with intervals over episodes.

An angle is a point on the unit circle, and its correlation and explained share are those of the points: for narrow
swings they are Pearson's r and R2 of the angle, and they stay right where it turns. Errors are the shorter way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.quantity import Quantity
from ..envs.quantities import wrapped
from ..world_model.probe import CONSTANT, CONSTANT_SHARE
from .statistics import Estimate, estimate_of_sums

Array = NDArray[np.float64]
MEASURES = ("r", "r2", "rmse", "mae")


@dataclass(frozen=True)
class Score:
    """How well one quantity was read on held-out episodes.

    Attributes:
        quantity: which.
        r: correlation; nothing where what was read, or the quantity, is constant.
        r2: share of the variance that is explained; nothing where the quantity is constant.
        rmse, mae: root mean square and mean absolute error, in the quantity's unit.
        constant: whether the quantity did not vary.
    """

    quantity: Quantity
    r: Estimate | None
    r2: Estimate | None
    rmse: Estimate
    mae: Estimate
    constant: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        measures: Mapping[str, Estimate | None] = {name: getattr(self, name) for name in MEASURES}
        told = {name: None if value is None else value.to_dict() for name, value in measures.items()}
        return {"quantity": self.quantity.name, "unit": self.quantity.unit, **told, "constant": self.constant}


def score(
    read: ArrayLike, true: ArrayLike, episodes: ArrayLike, quantities: Sequence[Quantity], seed: int = 0
) -> list[Score]:
    """Return how well quantities were read.

    Args:
        read: (E, Q), what a probe made of E samples.
        true: (E, Q), what was the case.
        episodes: (E,) numbers of the episodes that the samples are from, whole episodes being drawn anew for the
            intervals.
        quantities: Q of them.
        seed: of the intervals.
    """
    read, true = np.asarray(read, np.float64), np.asarray(true, np.float64)
    _, episode = np.unique(np.asarray(episodes), return_inverse=True)
    columns = []
    for index, quantity in enumerate(quantities):
        columns.append(_sums(read[:, index], true[:, index], episode, quantity.angle))
    sums = np.stack(columns, -1)  # (episodes, sums, Q)
    measured = {name: estimate_of_sums(sums, measure, seed) for name, measure in _STATISTICS.items()}
    scores = []
    for index, quantity in enumerate(quantities):
        constant = is_constant(true[:, index])
        correlated, explained, *errors = (measured[name][index] for name in MEASURES)
        unread = constant or is_constant(read[:, index]) or not np.isfinite(correlated.value)
        scores.append(
            Score(
                quantity,
                None if unread else correlated,
                None if constant else explained,
                errors[0],
                errors[1],
                constant,
            )
        )
    return scores


def is_constant(values: ArrayLike) -> bool:
    """Whether values vary by no more than rounding."""
    values = np.asarray(values, np.float64)
    return bool(values.std() <= max(CONSTANT_SHARE * np.abs(values).max(initial=0.0), CONSTANT))


def _sums(read: Array, true: Array, episode: NDArray[np.int64], angle: bool) -> Array:
    """Return, per episode, the sums from which all measures follow (episodes, 10)."""
    missed = wrapped(read - true) if angle else read - true
    points = [np.stack([np.sin(values), np.cos(values)]) if angle else values[None] for values in (read, true)]
    center = points[1].mean(1, keepdims=True)  # so that no digits are lost where the mean is large
    p, t = (values - center for values in points)
    pad = np.zeros((2 - len(p), len(read)))
    rows = [np.ones(len(read)), *p, *pad, *t, *pad, (p * p).sum(0), (t * t).sum(0), (p * t).sum(0)]
    rows += [missed**2, np.abs(missed)]
    return np.stack([np.bincount(episode, row) for row in rows], 1)


# Statistics of sums (..., 10, Q), whose axis before the last is in the order of :func:`_sums`.


def _variances(sums: Array) -> tuple[Array, Array, Array]:
    """Return variances of what was read and of the truth, and their covariance, times the number of samples."""
    n, p, t = sums[..., 0, :], sums[..., 1:3, :], sums[..., 3:5, :]
    pp, tt, pt = (sums[..., index, :] for index in (5, 6, 7))
    return pp - (p * p).sum(-2) / n, tt - (t * t).sum(-2) / n, pt - (p * t).sum(-2) / n


def _correlation(sums: Array) -> Array:
    read, true, both = _variances(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(both / np.sqrt(np.maximum(read, 0) * np.maximum(true, 0)))


def _explained(sums: Array) -> Array:
    pp, tt, pt = (sums[..., index, :] for index in (5, 6, 7))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - (pp - 2 * pt + tt) / _variances(sums)[1])


def _root_mean_square(sums: Array) -> Array:
    return np.asarray(np.sqrt(sums[..., 8, :] / sums[..., 0, :]))


def _mean_absolute(sums: Array) -> Array:
    return np.asarray(sums[..., 9, :] / sums[..., 0, :])


_STATISTICS = {"r": _correlation, "r2": _explained, "rmse": _root_mean_square, "mae": _mean_absolute}
