"""Representation: what the latents of a comparison's world models are like at the end, agent by agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .cells import Cell
from .results import RunResult
from .statistics import estimate, mean
from .tables import Table

LAST_CHECKS = 10
"""Checks of each run that are averaged, because one sees no more than a stretch of an episode or a few."""

FIGURES = {"effective rank": "effective_rank", "spread": "spread_mean", "least spread": "spread_min"}
"""What is shown, and how a check calls it."""
ALARMS, CHECKS = "alarms", "checks"


def representation_table(task: str, cells: Sequence[Cell]) -> Table | None:
    """Return what is known of the latents of those agents whose runs have all checked theirs, if there are any."""
    known = {cell.name: found for cell in cells if (found := latents_at_the_end(cell))}
    if not known:
        return None
    last = min(max(map(_steps_ahead, found)) for found in known.values())
    errors = [_error(step) for step in sorted({1, last})]
    rows = [
        [name, *(_shown(found.get(figure)) for figure in (*FIGURES, *errors)), f"{found[ALARMS]} of {found[CHECKS]}"]
        for name, found in known.items()
    ]
    return Table(
        ["agent", *FIGURES, *errors, ALARMS],
        rows,
        f"{task}: latents at the end",
        [
            f"Mean of each run's last {LAST_CHECKS} checks on steps held out until then, over seeds, with 95 % "
            "bootstrap intervals. Spread is the standard deviation over states, the mean and the least of all "
            "dimensions. Errors are of open-loop prediction, as shares of what expecting no change would miss, each in "
            "its model's own latents: one that leaves out what is hard to predict has small ones. Alarms are checks "
            "that took the latents for collapsed, at any time."
        ],
    )


def latents_at_the_end(cell: Cell) -> dict[str, Any] | None:
    """Return what the checks of each counted run found, by figure; ``None`` unless all have checked their latents.

    Errors are those of open-loop prediction as shares of what expecting no change would miss: 1 is as bad as that.
    Figures are lists over runs, with ``None`` where one is not known; beside them stand the number of checks and of
    alarms, those that took the latents for collapsed, in all runs and at any time.
    """
    runs = cell.counted
    if not runs or any(not len(run.health.get("spread_mean", ())) for run in runs):
        return None
    steps = min(sum(name.startswith("open_loop_error_") for name in run.health) for run in runs)
    found: dict[str, Any] = {figure: [_last(run, name) for run in runs] for figure, name in FIGURES.items()}
    for step in range(1, steps + 1):
        errors = [(_last(run, f"open_loop_error_{step}"), _last(run, f"no_change_error_{step}")) for run in runs]
        found[_error(step)] = [error / none if error is not None and none else None for error, none in errors]
    found[ALARMS] = sum(int((run.health.get("collapsed", np.zeros(1)) > 0).sum()) for run in runs)
    found[CHECKS] = sum(len(run.health["spread_mean"]) for run in runs)
    return found


def _shown(values: Sequence[float | None] | None) -> str:
    known = [value for value in values or () if value is not None]
    return str(estimate([np.array(known)], mean)) if values and len(known) == len(values) else ""


def _error(step: int) -> str:
    return f"error {step} step{'s' if step > 1 else ''} ahead"


def _steps_ahead(figure: str) -> int:
    """Return how many steps ahead the figure tells of; 0 if it tells of the present."""
    return int(figure.split()[1]) if figure.startswith("error ") else 0


def _last(run: RunResult, name: str) -> float | None:
    """Return the mean of the last checks in which the figure is known; ``None`` where it never was."""
    values = run.health.get(name, np.empty(0))[-LAST_CHECKS:]
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
