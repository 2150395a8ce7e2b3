"""Cells: one agent on one task over its seeds, its learning curve and its score, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .results import Array, RunResult
from .statistics import Estimate, Statistic, estimate, estimate_curve, interquartile_mean, mean, on_common_grid

LAST_EVALUATIONS = 3
"""A run's score is the mean of its last three evaluations: one alone says as much about luck as about the agent."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A learning curve over several seeds: estimates at P positions (environment steps or CPU seconds)."""

    positions: Array
    points: Sequence[Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {"positions": self.positions.tolist(), "points": [point.to_dict() for point in self.points]}


@dataclass(frozen=True, eq=False)
class Cell:
    """One agent on one task, over its seeds.

    Attributes:
        label: the agent's name, with its settings where they are needed to tell it from another.
        runs: all of its runs.
        counted: the finished ones, from which claims are made; all of them where none is finished.
        scores: (n,) per counted run the mean of the last three points on the grid of steps that all finished runs of
            the task cover; ``None`` where no claim can be made.
        refusal: why not.
        planning_gains: (n,) by how much the scores exceed the bare actor's; ``None`` for agents that do not plan.
        grid: steps that all finished runs of the task cover, at whose end the scores are taken; ``None`` for none.
    """

    label: str
    runs: Sequence[RunResult]
    counted: Sequence[RunResult]
    scores: Array | None
    refusal: str | None
    planning_gains: Array | None = None
    grid: Array | None = None

    @property
    def name(self) -> str:
        """The label, which says so where no run is finished."""
        return self.label if self.finished else f"{self.label} (unfinished)"

    @property
    def finished(self) -> bool:
        """Whether the runs that count are finished."""
        return all(run.status == "finished" for run in self.counted)

    def score(self, statistic: Statistic = interquartile_mean) -> Estimate | None:
        """Return the score over seeds with its interval."""
        return None if self.scores is None else estimate([self.scores], statistic)

    def curve(self, against: str = "steps", of: str = "returns") -> Curve | None:
        """Return the learning curve: attribute ``of`` of the counted runs against attribute ``against``."""
        pairs = [(getattr(run, against), getattr(run, of)) for run in self.counted]
        if not pairs or any(y is None or not len(x) or not np.isfinite([*x, *y]).all() for x, y in pairs):
            return None
        try:
            positions, scores = on_common_grid(pairs)
        except ValueError:
            return None
        return Curve(positions, estimate_curve([scores]))

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of training to the end of the grid, or else of the runs, mean over the counted runs."""
        curves = [(run.steps, run.cpu_seconds) for run in self.counted if len(run.cpu_seconds)]
        ends = [np.interp(steps[-1] if self.grid is None else self.grid[-1], steps, cpu) for steps, cpu in curves]
        return float(np.mean(ends)) if ends and np.isfinite(ends).all() else None

    @property
    def height(self) -> float | None:
        """Mean height of the learning curves on the grid; ``None`` where no claim can be made."""
        if self.scores is None or self.grid is None:
            return None
        heights = [np.interp(self.grid, run.steps, run.returns).mean() for run in self.counted]
        return float(np.mean(heights)) if np.isfinite(heights).all() else None

    def at(self, position: float, against: str = "steps") -> Estimate | None:
        """Return the mean return after so many ``steps`` or ``cpu_seconds``, read off each run's curve.

        ``None`` unless all runs were measured as early and as late.
        """
        curves = [(getattr(run, against), run.returns) for run in self.counted]
        if not curves or not all(len(x) and np.isfinite([*x, *y]).all() for x, y in curves):
            return None
        if any(not x[0] <= position <= x[-1] for x, _ in curves):
            return None
        return estimate([np.array([np.interp(position, x, y) for x, y in curves])], mean)

    def lead_over(self, other: Cell) -> Array | None:
        """Return (n,) by how much the scores exceed those of ``other``, seed by seed; ``None`` for other seeds."""
        if self.scores is None or other.scores is None:
            return None
        ours, theirs = (
            {run.settings.seed: score for run, score in zip(cell.counted, cell.scores, strict=True)}
            for cell in (self, other)
            if cell.scores is not None
        )
        return np.array([ours[seed] - theirs[seed] for seed in ours]) if ours.keys() == theirs.keys() else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold; ``scores`` over seeds, as rliable takes them."""
        iqm, average, curve = self.score(), self.score(mean), self.curve()
        return {
            "seeds": [run.settings.seed for run in self.counted],
            "scores": None if self.scores is None else self.scores.tolist(),
            "planning_gains": None if self.planning_gains is None else self.planning_gains.tolist(),
            "iqm": iqm.to_dict() if iqm else None,
            "mean": average.to_dict() if average else None,
            "refusal": self.refusal,
            "cpu_seconds": self.cpu_seconds,
            "curve": curve.to_dict() if curve else None,
        }


def make_cell(label: str, runs: Sequence[RunResult], grid: Array | None) -> Cell:
    """Return the cell of ``runs``; ``grid`` holds the steps that all finished runs of the task cover, if any."""
    counted = [run for run in runs if run.status == "finished" and len(run.steps)]
    if not counted:
        return Cell(label, runs, [run for run in runs if len(run.steps)], None, "no run is finished")
    if grid is None:
        return Cell(label, runs, counted, None, "the runs share no step at which they could be compared")
    last = grid[-LAST_EVALUATIONS:]
    scores = np.array([np.interp(last, run.steps, run.returns).mean() for run in counted])
    bad = [run.settings.seed for run, score in zip(counted, scores, strict=True) if not np.isfinite(score)]
    if bad:
        seeds = ", ".join(map(str, bad))
        return Cell(label, runs, counted, None, f"seed {seeds} has evaluations without a single sound episode")
    bare = [np.interp(last, run.steps, run.policy_returns).mean() for run in counted if run.policy_returns is not None]
    gains = scores - np.array(bare) if len(bare) == len(counted) and np.isfinite(bare).all() else None
    return Cell(label, runs, counted, scores, None, gains, grid)
