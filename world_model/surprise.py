"""Statistics of surprise: how far an error is from the usual ones, how rare that is, and when it is an alarm.

Whitening turns errors into distances, tails turn scores of any kind into comparable levels, and a threshold on the
level is chosen over whole episodes, because the steps of one are not independent.

Sources: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004, for the
shrinkage; Angelopoulos et al., Conformal risk control (arXiv 2208.02814), for the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError

QUIET_STEPS = 10
"""After as many steps without one, an alarmed step is a new alarm."""
LEAST_SHRINKAGE = 1e-3
"""No direction of whitened errors counts more than a thousand times what it would without its correlations."""
TAIL_SHARE = 0.02
"""Of usual scores, the highest ones, which a tail is fitted to."""
LEAST_TAIL = 10
"""As many at least."""
KNOTS = 256


@dataclass(frozen=True)
class Whitening:
    """Makes errors of a known mean and covariance into ones of mean zero, unit variance and no correlation.

    Attributes:
        mean: (D,).
        projection: (D, D), with which centred errors are multiplied from the right.
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, errors: Tensor) -> Whitening:
        """Return the whitening of ``errors`` (n, D), by their mean and their covariance, shrunk towards its diagonal.

        The diagonal, and not a sphere, so that the units of the dimensions do not matter. A direction in which errors
        hardly vary would count most of all, on the evidence of rounding: it is shrunk by 0.001 at least.
        """
        errors = errors.double()
        mean, deviation = errors.mean(0), errors.std(0)
        deviation = deviation.clamp(min=1e-6 * float(deviation.max()) + 1e-30)  # a dimension that does not vary
        standard = (errors - mean) / deviation
        values, vectors = torch.linalg.eigh(_shrunk_correlation(standard))
        projection = vectors / values.sqrt() / deviation.unsqueeze(1)
        return cls(mean.float(), projection.float().contiguous())  # as it will be read from a file, for equal products

    def __call__(self, errors: Tensor) -> Tensor:
        """Return whitened ``errors`` (..., D)."""
        return (errors - self.mean) @ self.projection


def _shrunk_correlation(standard: Tensor) -> Tensor:
    """Return the correlation of ``standard`` (n, D) samples, moved towards none by as much as chance may have made."""
    count, dims = standard.shape
    correlation = standard.T @ standard / count
    none = torch.eye(dims, dtype=correlation.dtype, device=correlation.device)
    squares = standard.square()
    by_chance = (squares.T @ squares / count - correlation.square()) / count
    other = 1 - none  # the diagonal is known
    found = (correlation.square() * other).sum().clamp(min=1e-30)
    share = float(((by_chance * other).sum() / found).clamp(LEAST_SHRINKAGE, 1))
    return (1 - share) * correlation + share * none


@dataclass(frozen=True)
class Tails:
    """How rare the scores of C channels are: their levels, -log10 of the probability that a usual score is as high.

    Up to the highest hundredths it is read off the usual scores, beyond off an exponential tail fitted to these. Where
    scores are logarithms, that is a power law, as heavy as that of the errors. Each probability is divided by the
    channel's share of all false alarms: the highest level is then that of all channels together, by the inequality of
    Bonferroni in its weighted form.

    Attributes:
        knots: (C, 256) scores, rising, whose levels are evenly spaced.
        base: (C,), the level of the first knot.
        rise: (C,), between one knot's level and the next one's.
        slope: (C,), by how much the level rises per unit of score beyond the last.
    """

    knots: Tensor
    base: Tensor
    rise: Tensor
    slope: Tensor

    @classmethod
    def fit(cls, scores: Sequence[Tensor], shares: Sequence[float]) -> Tails:
        """Return the tails of usual scores: of each channel (n,) finite ones, at least 20, and its share."""
        tails = [_fit_tail(channel.double()) for channel in scores]
        knots, top, slope = (torch.stack([tail[part] for tail in tails]).float() for part in range(3))
        base = torch.tensor([math.log10(share / sum(shares)) for share in shares])
        return cls(knots, base, top / (KNOTS - 1), slope)

    def to(self, device: torch.device) -> Tails:
        """Return the same on ``device``."""
        return Tails(*(tensor.to(device) for tensor in (self.knots, self.base, self.rise, self.slope)))

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the levels (n, C) of ``scores`` (n, C), NaN where these are."""
        values = scores.T.contiguous()
        above = torch.searchsorted(self.knots, values).clamp(1, KNOTS - 1)
        low, high = self.knots.gather(1, above - 1), self.knots.gather(1, above)
        share = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        beyond = (values - high).clamp(min=0)  # only where the last knot is the next one above
        levels = torch.addcmul(self.base.unsqueeze(1), above - 1 + share, self.rise.unsqueeze(1))
        return torch.addcmul(levels, beyond, self.slope.unsqueeze(1)).T


def _fit_tail(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = len(scores)
    tail = min(max(LEAST_TAIL, round(TAIL_SHARE * count)), count // 2)
    top = -math.log10(tail / count)
    levels = torch.linspace(0, top, KNOTS, dtype=torch.double)
    knots = torch.from_numpy(np.quantile(scores.cpu().numpy(), 1 - 10 ** -levels.numpy()))
    excess = (scores[scores > knots[-1]] - knots[-1]).mean().nan_to_num()
    spread = (scores.max() - scores.min()).clamp(min=1e-3)
    return knots, levels[-1], 1 / (excess.clamp(min=1e-3 * float(spread)) * math.log(10))


@dataclass(frozen=True)
class AlarmThreshold:
    """Above which level a step is alarmed.

    Attributes:
        level: the threshold itself; alarmed is what lies above.
        per_1000: alarms per 1,000 steps of the episodes that it was chosen on.
        guaranteed_per_1000: what is certain, on average over draws of these episodes, of a fresh one of their kind:
            expected alarms over expected steps are no more. It is higher than what was asked for, because a single
            episode may be all alarms, and nears it as episodes grow more.
    """

    level: float
    per_1000: float
    guaranteed_per_1000: float


def alarm_starts(alarmed: NDArray[np.bool_], quiet_steps: int = QUIET_STEPS) -> NDArray[np.bool_]:
    """Return where (T,) alarms start: at alarmed steps that none of the ``quiet_steps`` before them is."""
    steps = np.flatnonzero(alarmed)
    starts = np.zeros(len(alarmed), bool)
    starts[steps[np.diff(steps, prepend=-quiet_steps - 1) > quiet_steps]] = True
    return starts


def alarm_threshold(levels: Sequence[NDArray[np.floating]], per_1000: float) -> AlarmThreshold:
    """Return the lowest threshold at which usual episodes raise no more alarms than ``per_1000`` per 1,000 steps.

    One alarm is a run of alarmed steps after 10 quiet ones. Episodes are exchanged for each other, not steps: a fresh
    episode is counted with one alarm, beside those that raised the alarms counted.

    Args:
        levels: of n episodes, each (T,), NaN where a step cannot be alarmed.
        per_1000: alarms per 1,000 steps.

    Raises:
        SettingsError: the episodes have too few steps for one alarm.
    """
    count, steps = len(levels), sum(map(len, levels))
    allowed = math.floor(per_1000 / 1000 * steps * (count + 1) / count) - 1
    if allowed < 0:
        raise SettingsError(
            f"{steps:,} steps in {count} episodes are too few to tell {per_1000:g} false alarms per 1,000 steps from "
            f"more: {least_steps(per_1000):,} are needed."
        )
    numbers = np.repeat(np.arange(count), [len(episode) + QUIET_STEPS for episode in levels])
    apart = np.concatenate([np.append(episode, np.full(QUIET_STEPS, np.nan)) for episode in levels])
    most = np.zeros(count, np.int64)  # at this threshold or a higher one: runs may join as it sinks
    chosen, alarms = math.inf, 0
    for level in np.unique(apart[np.isfinite(apart)])[::-1]:
        starts = alarm_starts(apart > level)
        most = np.maximum(most, np.bincount(numbers[starts], minlength=count))
        if most.sum() > allowed:
            break
        chosen, alarms = float(level), int(starts.sum())
    worst = math.ceil(max(map(len, levels)) / (QUIET_STEPS + 1))
    surplus = 1000 * (worst - 1) * count / ((count + 1) * steps)
    return AlarmThreshold(chosen, 1000 * alarms / steps, per_1000 + surplus)


def least_steps(per_1000: float) -> int:
    """Return how many steps :func:`alarm_threshold` needs at least."""
    return math.ceil(1000 / per_1000)
