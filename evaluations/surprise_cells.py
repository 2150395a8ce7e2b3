"""Cells of the surprise benchmark: a perturbation at one strength, and what detectors make of its episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.perturbations import Perturbation
from ..envs.recording import RecordedEpisode
from ..world_model.surprise import alarm_starts
from .auroc import auroc
from .detectors import Detector, Floats
from .statistics import Estimate, estimate, mean
from .subject import Watched

SOON = 10
"""Model steps within which an alarm counts as soon."""


@dataclass(frozen=True)
class CellPlan:
    """What is to be played: a perturbation, a strength, and the level of return at which that was found, if it was."""

    name: str
    strength: float
    level: float | None = None

    @property
    def key(self) -> str:
        """What its file is called."""
        return f"{self.name}-{self.strength:.10g}"


@dataclass(frozen=True, eq=False)
class NominalScores:
    """What detectors make of nominal episodes.

    Attributes:
        scores: by detector, (T,) of each episode.
        lengths: environment steps of each episode.
        returns: of each episode; nothing for one that held something non-finite, which has no step then.
    """

    scores: dict[str, list[Floats]]
    lengths: list[int]
    returns: list[float | None]

    @classmethod
    def of(cls, detectors: Sequence[Detector], episodes: Sequence[RecordedEpisode | None]) -> NominalScores:
        """Score ``episodes``."""
        sound = [episode for episode in episodes if episode is not None]
        scores: dict[str, list[Floats]] = {}
        for detector in detectors:
            scored = iter(detector.scores(sound) if sound else [])
            scores[detector.name] = [np.zeros(0) if episode is None else next(scored) for episode in episodes]
        lengths = [0 if episode is None else len(episode.actions) for episode in episodes]
        returns = [None if episode is None else float(episode.rewards.sum()) for episode in episodes]
        return cls(scores, lengths, returns)

    def extend(self, more: NominalScores) -> None:
        """Add other episodes."""
        for name, scores in self.scores.items():
            scores += more.scores[name]
        self.lengths.extend(more.lengths)
        self.returns.extend(more.returns)


def judge_cell(
    plan: CellPlan,
    kind: type[Perturbation],
    detectors: Sequence[Detector],
    watched: Iterable[Watched | None],
    nominal_returns: Sequence[float | None],
    nominal: Mapping[str, Sequence[Floats]],
    thresholds: dict[str, float],
    block: int,
) -> dict[str, Any]:
    """Return what detectors make of a cell's episodes, as plain data.

    An event is the first model step that was perturbed. What happens at once is told from nominal steps by that step
    alone, what lasts by all steps that were perturbed. An alarm counts that begins at the event's step, or in the 10
    that begin with it; of a frozen sensor, only for episodes in which what it should have shown moved.

    Args:
        plan: the cell.
        kind: its perturbation.
        detectors: fitted.
        watched: its episodes, one for each of ``nominal_returns``; nothing for those that went non-finite.
        nominal_returns: of the episodes of the same seeds without the perturbation.
        nominal: by detector, what it made of nominal episodes.
        thresholds: by detector.
        block: environment steps per model step.
    """
    episodes, pairs, left_out = [], [], 0
    for played, before in zip(watched, nominal_returns, strict=True):
        if played is None or before is None:
            left_out += 1
            continue
        pairs.append((float(played.episode.rewards.sum()), before))
        if played.event is not None and played.event // block < len(played.episode.actions) // block:
            episodes.append(played)
    cell: dict[str, Any] = {
        "perturbation": plan.name,
        "strength": plan.strength,
        "level": plan.level,
        "control": kind.control,
        "at_once": kind.at_once,
        "episodes": len(pairs),
        "left_out": left_out,
        "events": len(episodes),
        "return": float(np.mean([perturbed for perturbed, _ in pairs])) if pairs else None,
        "paired_nominal_return": float(np.mean([before for _, before in pairs])) if pairs else None,
        "detectors": {},
    }
    counted = [played.moved is not False for played in episodes]
    cell["counted_events"] = sum(counted)
    for detector in detectors if episodes else []:
        scores = detector.scores([played.episode for played in episodes])
        steps = [_perturbed_steps(played, len(some), block) for played, some in zip(episodes, scores, strict=True)]
        events = [int(flags.argmax()) for flags in steps]
        if kind.at_once:
            perturbed = [some[event : event + 1] for some, event in zip(scores, events, strict=True)]
        else:
            perturbed = [some[flags] for some, flags in zip(scores, steps, strict=True)]
        delays = [_delay(some, event, thresholds[detector.name]) for some, event in zip(scores, events, strict=True)]
        cell["detectors"][detector.name] = _summary(perturbed, nominal[detector.name], delays, counted)
    return cell


def _perturbed_steps(played: Watched, steps: int, block: int) -> NDArray[np.bool_]:
    """Return (T,), whether anything in each model step was perturbed."""
    return np.asarray(played.truth[: steps * block].reshape(steps, block).any(1))


def _delay(scores: Floats, event: int, threshold: float) -> int | None:
    """Return after how many model steps an alarm begins, 1 for the event's own; nothing if none does."""
    later = event + np.flatnonzero(alarm_starts(scores > threshold)[event:])
    return int(later[0]) - event + 1 if len(later) else None


def _summary(
    perturbed: Sequence[Floats], nominal: Sequence[Floats], delays: list[int | None], counted: list[bool]
) -> dict[str, Any]:
    kept = [math.inf if delay is None else delay for delay, counts in zip(delays, counted, strict=True) if counts]
    return {
        "auroc": _plain(auroc(perturbed, nominal)),
        "detected_next_step": _share([delay <= 1 for delay in kept]),
        "detected_soon": _share([delay <= SOON for delay in kept]),
        "delay_median": _finite(float(np.median(kept))) if kept else None,
        "delays": delays,
        "counted": counted,
    }


def _share(hits: Sequence[bool]) -> dict[str, Any] | None:
    return _plain(estimate([np.array(hits, np.float64)], mean)) if hits else None


def _plain(value: Estimate) -> dict[str, Any]:
    return value.to_dict()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
