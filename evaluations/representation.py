"""Representation: what the latents of a comparison's world models are like at the end, agent by agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .cells import LAST_EVALUATIONS, Cell
from .results import Array, RunResult
from .statistics import estimate, mean
from .tables import Table

FIGURES = {"effective rank": "effective_rank", "spread": "spread_mean", "least spread": "spread_min"}
"""What is shown, and how a check calls it."""
ALARMS, CHECKS = "alarms", "checks"


def representation_table(task: str, cells: Sequence[Cell]) -> Table | None:
    """Return what is known of the latents of those agents whose runs have all checked theirs, if there are any."""
    known = {cell.name: found for cell in cells if (found := latents_at_the_end(cell))}
    if not known:
        return None
    last = min(max(map(_steps_ahead, found)) for found in known.values())
    errors = [_error(step) for step in sorted({min(1, last), last} - {0})]
    rows = [
        [name, *(_shown(found.get(figure)) for figure in (*FIGURES, *errors)), f"{found[ALARMS]} of {found[CHECKS]}"]
        for name, found in known.items()
    ]
    ends = {cell.grid[-1] for cell in cells if cell.grid is not None}
    when = f"at {ends.pop():,.0f} steps" if len(ends) == 1 else "at the end"
    return Table(
        ["agent", *FIGURES, *errors, ALARMS],
        rows,
        f"{task}: latents {when}",
        [
            f"Mean of the logged checks after the evaluation before the last {LAST_EVALUATIONS}, on steps held out "
            "until then, over seeds, with 95 % bootstrap intervals. Spread is the standard deviation over states, the "
            "mean and the least of all dimensions. Errors are of open-loop prediction, in model steps, as shares of "
            "what expecting no change would miss, each in its model's own latents: one that leaves out what is hard to "
            "predict has small ones. Alarms are logged checks that took the latents for collapsed, from the beginning."
        ],
    )


def latents_at_the_end(cell: Cell) -> dict[str, Any] | None:
    """Return what the checks of each counted run found, by figure; ``None`` unless all have checked their latents.

    Figures are lists over runs, with ``None`` where one is not known: means over the steps in which the run is scored.
    Errors are those of open-loop prediction as shares of what expecting no change would miss: 1 is as bad as that.
    Beside them stand the number of checks, and of those that took the latents for collapsed, of all runs until then.
    """
    runs = cell.counted
    if not runs or any("step" not in run.health for run in runs):
        return None
    checks = [_Checks(run, cell.grid) for run in runs]
    steps = min(sum(name.startswith("open_loop_error_") for name in run.health) for run in runs)
    found: dict[str, Any] = {figure: [one.mean(name) for one in checks] for figure, name in FIGURES.items()}
    for step in range(1, steps + 1):
        errors = [(one.mean(f"open_loop_error_{step}"), one.mean(f"no_change_error_{step}")) for one in checks]
        found[_error(step)] = [error / none if error is not None and none else None for error, none in errors]
    found[ALARMS] = sum(one.alarms for one in checks)
    found[CHECKS] = sum(one.count for one in checks)
    return found


class _Checks:
    """The checks of one run, up to where it is scored on ``grid``, or else to its end."""

    def __init__(self, run: RunResult, grid: Array | None) -> None:
        steps, scored = run.health["step"], run.steps if grid is None else grid
        until = steps <= scored[-1]
        self._health = {name: values[until] for name, values in run.health.items()}
        self._last = steps[until] > (scored[-LAST_EVALUATIONS - 1] if len(scored) > LAST_EVALUATIONS else 0)
        self.count = int(until.sum())
        self.alarms = int((self._health.get("collapsed", np.zeros(0)) > 0).sum())

    def mean(self, name: str) -> float | None:
        """Return the mean of the last checks in which the figure is known; ``None`` where it is in none of them."""
        values = self._health[name][self._last] if name in self._health else np.zeros(0)
        known = values[np.isfinite(values)]
        return float(known.mean()) if len(known) else None


def _shown(values: Sequence[float | None] | None) -> str:
    known = [value for value in values or () if value is not None]
    return str(estimate([np.array(known)], mean)) if values and len(known) == len(values) else ""


def _error(step: int) -> str:
    return f"error {step} step{'s' if step > 1 else ''} ahead"


def _steps_ahead(figure: str) -> int:
    """Return how many steps ahead the figure tells of; 0 if it tells of the present."""
    return int(figure.split()[1]) if figure.startswith("error ") else 0
