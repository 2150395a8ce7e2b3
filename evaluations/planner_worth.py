"""Planner's worth: what each planner adds to the bare actor, as learning goes on, over all seeds of one agent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cells import Cell
from .planner_table import BARE_POLICY
from .results import RunResult
from .statistics import crossed_mean, number
from .tables import Table


def planner_worth(task: str, cell: Cell) -> Table | None:
    """Return what each planner added to the bare actor's return at each step where planners were judged, if any was.

    Args:
        task: where.
        cell: whose counted runs are read; at a step at which one of them was not judged nothing is said.
    """
    runs = cell.counted
    steps = sorted(set.intersection(*({*run.swapped} for run in runs))) if runs else []
    names = [name for name in (runs[0].swapped[steps[0]] if steps else ()) if name != BARE_POLICY]
    if not names:
        return None
    rows = [[name, *(_gain(runs, step, name) for step in steps), _decision(runs, steps[-1], name)] for name in names]
    bare = ", ".join(f"{_bare(runs, step)} at {step:,}" for step in steps)
    seeds, between = ("seed", "episodes") if len(runs) == 1 else ("seeds", "both")
    note = (
        f"Gain over the bare actor, which returned {bare} steps: mean over {len(runs)} {seeds} and the same held-out "
        f"episodes, with 95 % bootstrap intervals over {between}. Milliseconds at the last step, all episodes at once."
    )
    columns = ["planner", *(f"gain at {step:,} steps" for step in steps), "ms/decision"]
    return Table(columns, rows, f"{task}: planners in the model of {cell.name}", [note])


def _returns(runs: Sequence[RunResult], step: int, name: str) -> np.ndarray:
    return np.stack([run.swapped[step][name].returns for run in runs])


def _bare(runs: Sequence[RunResult], step: int) -> str:
    judged = [run.swapped[step].get(BARE_POLICY) for run in runs]
    means = [np.nan if one is None else one.returns.mean() for one in judged]  # of other numbers of episodes, perhaps
    return number(float(np.mean(means))) if np.isfinite(means).all() else "an unknown return"


def _gain(runs: Sequence[RunResult], step: int, name: str) -> str:
    try:
        gains = _returns(runs, step, name) - _returns(runs, step, BARE_POLICY)
    except (KeyError, ValueError):  # another version judged other planners, or other episodes
        return "not comparable"
    return str(crossed_mean(gains)) if np.isfinite(gains).all() else "cut episodes"


def _decision(runs: Sequence[RunResult], step: int, name: str) -> str:
    return number(float(np.mean([run.swapped[step][name].decision_ms for run in runs if name in run.swapped[step]])))
