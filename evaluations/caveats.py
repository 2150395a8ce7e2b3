"""Caveats: what speaks against believing a set of runs, in the words in which a reader is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from .cells import Cell
from .jobs import LOG_FILE
from .results import CHANGED, Array, RunResult

TASK_LIBRARIES = ("gymnasium", "mujoco")
"""Those that tasks are made of."""
MACHINES = ("device", "processor")
"""What runs were computed on."""


def task_caveats(task: str, cells: Sequence[Cell], finished: Sequence[RunResult], grid: Array | None) -> list[str]:
    """Return notes on the runs of one task: how they ended, and where they were not asked for alike.

    Args:
        task: its name.
        cells: one per agent.
        finished: their runs that count.
        grid: steps at which they are compared.
    """
    notes = []
    for cell in cells:
        if cell.refusal:
            notes.append(f"{cell.label} on {task}: no claim, because {cell.refusal}.")
        elif len(cell.counted) == 1:
            notes.append(f"{cell.label} on {task}: a single seed, so nothing is known of the spread between seeds.")
        for run in cell.runs:
            if run.status != "finished":
                log = f"; see {run.folder / LOG_FILE}" if (run.folder / LOG_FILE).exists() else ""
                why = f" ({run.reason}{log})" if run.reason else ""
                at = f" after its evaluation at step {run.steps[-1]:,.0f}" if len(run.steps) else ""
                notes.append(f"{run.name}: {run.status}{at}{why}; it does not count.")
            if run.faults:
                notes.append(f"{run.name}: {run.faults} held-out episodes were cut as faulty and are left out.")
    if len({run.settings.steps for run in finished}) > 1 and grid is not None:
        notes.append(
            f"{task}: the runs differ in length; they are compared at {grid[-1]:,.0f} steps, which all reached."
        )
    elsewhere = {cell.label for cell in cells if cell.finished and not _judged_on(grid, cell.counted)}
    if elsewhere:
        notes.append(
            f"{task}: not judged at the very steps at which all are compared, but read off between evaluations: "
            f"{', '.join(sorted(elsewhere))}."
        )
    if len({(run.settings.evaluation_seed, run.settings.episodes) for run in finished}) > 1:
        notes.append(f"{task}: the runs were not judged on the same held-out episodes.")
    seeds = {cell.label: {run.settings.seed for run in cell.counted} for cell in cells if cell.scores is not None}
    if len({frozenset(some) for some in seeds.values()}) > 1:
        listed = "; ".join(f"{label}: {', '.join(map(str, sorted(some)))}" for label, some in seeds.items())
        notes.append(f"{task}: the agents did not run the same seeds ({listed}).")
    return notes


def namesakes(cells: Iterable[Cell]) -> list[str]:
    """Return a note for each name by which agents were asked for with other settings on another task.

    Where they have the same settings in all, it does not matter by what words; nor do settings that fit the task.
    """
    asked: dict[str, list[set[str]]] = {}
    for cell in cells:
        words = {json.dumps(run.asked, sort_keys=True) for run in cell.runs}
        asked.setdefault(cell.label, []).append(words | {run.variant for run in cell.runs})
    return [
        f"{label} was asked for with other settings, or began from something else, on another task: over all tasks it "
        "is taken for one agent."
        for label, of_tasks in asked.items()
        if not set.intersection(*of_tasks)
    ]


def condition_caveats(runs: Sequence[RunResult]) -> list[str]:
    """Return a note for each thing beside the settings that was not the same for all finished runs."""
    seen = [run.conditions for run in runs if run.status == "finished"]
    notes = []
    for name in sorted({name for one in seen for name in one}, key=lambda one: (one in MACHINES, one)):
        used = sorted(frozenset().union(*(one.get(name, frozenset()) for one in seen)))
        if len(used) < 2:
            continue
        if name in MACHINES:
            notes.append(
                f"The runs were not made on one kind of {name} ({'; '.join(used)}): times cannot be compared, and what "
                "compute.precision=auto stands for may differ."
            )
        else:
            what = ": tasks may differ between them" if name in TASK_LIBRARIES else ""
            notes.append(f"The runs were not made with one version of {name} ({', '.join(used)}){what}.")
    return notes


def commit_caveats(cells: Iterable[Cell]) -> list[str]:
    """Return a note on agents whose runs were not all made at one commit, or with changes that were not committed."""
    commits: dict[str, set[str]] = {}
    for cell in cells:
        commits.setdefault(cell.label, set()).update(*(run.commits for run in cell.counted))
    several = {
        label: sorted(found)
        for label, found in commits.items()
        if len(found) > 1 or any(CHANGED in commit for commit in found)
    }
    if not several:
        return []
    listed = "; ".join(f"{label}: {', '.join(found)}" for label, found in several.items())
    return [
        "Runs of one agent were made at several commits, or with changes that were not committed: what is not a "
        f"setting may differ ({listed})."
    ]


def _judged_on(grid: Array | None, runs: Sequence[RunResult]) -> bool:
    """Whether each of the runs was evaluated at all steps of the grid."""
    return grid is None or all(np.isclose(grid[:, None], run.steps).any(1).all() for run in runs)
