"""Strengths: how strong a perturbation must be for an agent's normalised return to fall to stated levels.

Source of the levels: Anomaly-Gym, whose strengths are those at which the normalised return is 0.99, 0.95, 0.90, 0.75
and 0.50. There they are looked up on a grid; here they are searched for by bisection, on paired episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..core.errors import SettingsError
from ..envs.perturbations import NominalScale, perturbation
from .subject import Subject

LEVELS = (0.99, 0.95, 0.90, 0.75, 0.50)
EPISODES = 10
"""Paired episodes on which a strength is judged."""
TRIALS = 7
"""Strengths tried for each level, at most, once one with some effect is known to be mild enough for it."""
COARSE_TRIALS = 14
"""Strengths tried in order to find that one, where most of a range is too strong."""
GEOMETRIC = 5.0
"""Ratio of a range's ends beyond which strengths are halved in their logarithm."""


@dataclass(frozen=True)
class Strength:
    """What a search found.

    Attributes:
        level: normalised return that was asked for.
        strength: at which it is nearest; nothing where even the greatest strength does not lower it so far.
        reached: normalised return there, or at the greatest strength.
    """

    level: float
    strength: float | None
    reached: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


def search_strengths(
    measure: Callable[[float], float],
    mildest: float,
    strongest: float,
    levels: Sequence[float] = LEVELS,
    whole: bool = False,
    trials: int = TRIALS,
) -> list[Strength]:
    """Find the strengths at which a falling function crosses ``levels``, by bisection.

    Args:
        measure: normalised return at a strength; what was measured once is not measured again.
        mildest: a strength without effect, at which the return is taken to be 1.
        strongest: the greatest of use; it may be below ``mildest``.
        levels: to be crossed.
        whole: whether strengths are whole numbers.
        trials: halvings for each level, once a strength beyond ``mildest`` is known to be mild enough for it.
    """
    known = {mildest: 1.0, strongest: measure(strongest)}
    geometric = min(mildest, strongest) > 0 and max(mildest, strongest) / min(mildest, strongest) >= GEOMETRIC

    def between(mild: float, strong: float) -> float:
        middle = math.sqrt(mild * strong) if geometric else (mild + strong) / 2
        return float(round(middle)) if whole else middle

    found = []
    for level in levels:
        if known[strongest] > level:
            found.append(Strength(level, None, known[strongest]))
            continue
        # The tightest bracket of what is known, from the mild end: where noise makes it cross twice, the first time.
        order = sorted(known, key=lambda strength: abs(strength - mildest))
        first = next(index for index, strength in enumerate(order) if known[strength] <= level)
        mild, strong = order[max(first - 1, 0)], order[first]
        coarse, fine = COARSE_TRIALS, trials
        while fine and coarse and (middle := between(mild, strong)) not in (mild, strong):
            if mild == mildest:
                coarse -= 1
            else:
                fine -= 1
            known.setdefault(middle, math.nan)
            if math.isnan(known[middle]):
                known[middle] = measure(middle)
            mild, strong = (middle, strong) if known[middle] > level else (mild, middle)
        tried = [strength for strength in known if strength != mildest]
        best = min(tried, key=lambda strength: (abs(known[strength] - level), abs(strength - mildest)))
        found.append(Strength(level, best, known[best]))
    return found


def calibrate_strengths(
    subject: Subject,
    name: str,
    scale: NominalScale | None,
    levels: Sequence[float] = LEVELS,
    *,
    episodes: int = EPISODES,
    steps: int | None = None,
    seed: int = 0,
    trials: int = TRIALS,
) -> list[Strength]:
    """Find the strengths at which the nominal agent's normalised return falls to ``levels``.

    Nominal and perturbed episodes begin alike. What lasts is perturbed from the first step, as in Anomaly-Gym; what
    happens at once, halfway through the nominal episode. The return is 1 for the nominal agent, and 0 for chance and
    where the simulation breaks down.

    Args:
        subject: acts.
        name: of the perturbation.
        scale: what is nominal.
        levels: normalised returns, below 1.
        episodes: paired ones on which each strength is judged.
        steps: after which an episode is cut.
        seed: of the episodes.
        trials: see :func:`search_strengths`.

    Raises:
        UnknownNameError, SettingsError: there is no such perturbation, the task cannot have it, or the agent earns no
            more there than chance, so that there is nothing to fall.
    """
    probe = subject.make()
    kind = perturbation(name, probe)
    mildest, strongest = kind.search(probe)
    probe.close()
    if mildest == kind.allowed[0] == kind.allowed[1]:
        mildest = 0.0  # of a strength that is all or nothing, nothing is none
    seeds = subject.seeds("strengths", seed, range(episodes))
    nominal = list(subject.watch(*seeds, steps))
    chance = _mean_return(list(subject.watch(*seeds, steps, random=True)))
    earned = _mean_return(nominal)
    if not earned > chance:
        raise SettingsError(
            f"In {subject.task}, {subject.acting} earns {earned:g} and chance {chance:g}: there is no return to fall, "
            "so strengths cannot be calibrated by it. Give them: --strengths standard, or numbers."
        )
    halfway = {
        world: 0 if played is None else len(played.episode.actions) // 2
        for world, played in zip(seeds[0], nominal, strict=True)
    }

    def measure(strength: float) -> float:
        onset = halfway.__getitem__ if kind.at_once else 0
        played = list(subject.watch(*seeds, steps, lambda env: kind(env, strength, onset, scale=scale)))
        pairs = [after for before, after in zip(nominal, played, strict=True) if before is not None]
        returns = [
            chance if one is None else _return(one) for one in pairs
        ]  # where the simulation breaks down, nothing
        return (float(np.mean(returns)) - chance) / (earned - chance)

    return search_strengths(measure, mildest, strongest, levels, kind.whole or kind.counts, trials)


def levels_by_strength(found: Sequence[Strength]) -> dict[float, float]:
    """Return each strength that was found, with that of its levels to which the return there is closest.

    Where strengths are whole numbers, one may be nearest to several levels.
    """
    levels: dict[float, float] = {}
    for strength in sorted(found, key=lambda one: abs(one.reached - one.level)):
        if strength.strength is not None:
            levels.setdefault(strength.strength, strength.level)
    return {strength.strength: levels[strength.strength] for strength in found if strength.strength is not None}


def _mean_return(played: Sequence[Any]) -> float:
    """Return the mean of what the sound episodes brought."""
    returns = [_return(watched) for watched in played if watched is not None]
    return float(np.mean(returns)) if returns else math.nan


def _return(watched: Any) -> float:
    return float(watched.episode.rewards.sum())
