"""Planner's worth: what each planner adds to the bare actor, for one agent as it learns, and over tasks and agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .cells import LAST_EVALUATIONS, Cell
from .planner_table import BARE_POLICY, evaluations_cell
from .results import RunResult, Swapped
from .statistics import Estimate, crossed_mean, estimate, mean, number
from .tables import Table

RANDOM = "random"
"""The planner that tries actions at random: no yardstick for others."""


@dataclass(frozen=True, eq=False)
class PlannerScore:
    """What one planner is worth, as a share of what lies between acting at random and the return that counts as 1.

    Attributes:
        gain: mean of what it adds to the bare actor's return, over the runs of all tasks.
        gains: the same of each task.
        lead: mean of what it returns beyond the first planner that searches, run by run; ``None`` for that one itself.
    """

    gain: Estimate
    gains: Mapping[str, Estimate]
    lead: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "gain": self.gain.to_dict(),
            "gains": {task: gain.to_dict() for task, gain in self.gains.items()},
            "lead": self.lead.to_dict() if self.lead else None,
        }


@dataclass(frozen=True, eq=False)
class PlannersOverall:
    """What planners are worth over several tasks and agents, each run judged by the end of its curve, as scores are.

    Attributes:
        scores: by planner, those by which all runs were judged that were judged by any, and with the same effort.
        judged: by task, how many runs were judged, and how many there are of agents that plan.
        others: planners by which not all of these runs were judged alike; nothing is said of them.
    """

    scores: Mapping[str, PlannerScore]
    judged: Mapping[str, tuple[int, int]]
    others: Sequence[str]

    def table(self) -> Table:
        """Return the figures as text."""
        first = next(name for name, score in self.scores.items() if score.lead is None)
        rivals = len(self.scores) > 1
        tasks = [task for task, (judged, _) in self.judged.items() if judged]
        columns = ["planner", "gain", *(f"gain on {task}" for task in tasks)]
        rows = [
            [
                name,
                str(score.gain),
                *(str(score.gains[task]) for task in tasks),
                *([str(score.lead or "")] if rivals else []),
            ]
            for name, score in self.scores.items()
        ]
        runs = ", ".join(f"{judged} of {known} on {task}" for task, (judged, known) in self.judged.items())
        note = (
            "Gain over the bare actor in the same held-out episodes, mean over runs of all agents and seeds (and over "
            f"those of their last {LAST_EVALUATIONS} evaluations that were so judged), with 95 % bootstrap intervals "
            "between runs, stratified by task; 1 is what lies between acting at random and the "
            f"anchor, where one was given, or else the best agent's mean. Runs judged: {runs}."
        )
        note += " The lead is paired by run." if rivals else ""
        note += f" Not all were judged alike by {', '.join(self.others)}." if self.others else ""
        return Table([*columns, *([f"lead over {first}"] if rivals else [])], rows, "Planners over all runs", [note])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "planners": {name: score.to_dict() for name, score in self.scores.items()},
            "judged": {task: {"judged": judged, "runs": known} for task, (judged, known) in self.judged.items()},
            "others": list(self.others),
        }


def planners_overall(runs: Mapping[str, Sequence[RunResult]], units: Mapping[str, float]) -> PlannersOverall | None:
    """Return what planners add over all runs that were judged by several, if any were.

    Args:
        runs: finished ones, by task.
        units: by task, the difference in return that counts as 1; tasks without one are left out.
    """
    found = {task: _judged(runs[task]) for task in units}
    judged = {task: several for task, several in found.items() if several}
    every = [one for several in judged.values() for one in several]
    names = [name for name in dict.fromkeys(name for one in every for name in one) if name != BARE_POLICY]
    shared = [name for name in names if _are_alike(every, name)]
    if not shared:
        return None
    strata = {
        name: {
            task: np.array([_gained(one, name) for one in several]) / units[task] for task, several in judged.items()
        }
        for name in shared
    }
    first = strata[next((name for name in shared if name != RANDOM), shared[0])]
    scores = {
        name: PlannerScore(
            estimate(list(gains.values()), mean),
            {task: estimate([of_task], mean) for task, of_task in gains.items()},
            None if gains is first else estimate([gains[task] - first[task] for task in gains], mean),
        )
        for name, gains in strata.items()
    }
    planning = {task: [run for run in runs[task] if run.policy_returns is not None or run.swapped] for task in runs}
    known = {task: (len(found.get(task, ())), len(several)) for task, several in planning.items() if several}
    return PlannersOverall(scores, known, [name for name in names if name not in shared])


def _judged(runs: Sequence[RunResult]) -> list[Mapping[str, Swapped]]:
    """Return, of each run that was judged when most were, at the last such step, what is comparable there."""
    steps = Counter(step for run in runs for step in run.swapped)
    last = max(steps, key=lambda step: (steps[step], step), default=0)
    found = [_comparable(_lately(run, last)) for run in runs if last in run.swapped]
    return [judged for judged in found if len(judged) > 1]


def _lately(run: RunResult, last: int) -> Mapping[str, Swapped]:
    """Return how a run was judged after ``last`` steps; returns are means with those before that a score counts, too.

    Only with those, though, where it was judged alike.
    """
    final = run.swapped[last]
    before = [run.swapped.get(step, {}) for step in run.steps if step < last][1 - LAST_EVALUATIONS :]
    alike = [judged for judged in before if judged.keys() == final.keys() and _all_alike(judged, final)]
    return {
        name: replace(one, returns=np.mean([judged[name].returns for judged in (*alike, final)], 0))
        for name, one in final.items()
    }


def _all_alike(judged: Mapping[str, Swapped], other: Mapping[str, Swapped]) -> bool:
    return all(one.is_like(other[name]) for name, one in judged.items())


def _are_alike(judged: Sequence[Mapping[str, Swapped]], name: str) -> bool:
    """Whether all were judged by the planner ``name``, with the same effort and in as many episodes."""
    return all(name in one for one in judged) and all(one[name].is_like(judged[0][name]) for one in judged)


def _comparable(judged: Mapping[str, Swapped]) -> Mapping[str, Swapped]:
    """Return the bare actor and the planners that have an episode which was cut in neither."""
    bare = judged.get(BARE_POLICY)
    if bare is None:
        return {}
    return {
        name: one
        for name, one in judged.items()
        if len(one.returns) == len(bare.returns) and np.isfinite(one.returns - bare.returns).any()
    }


def _gained(judged: Mapping[str, Swapped], name: str) -> float:
    """Return the mean gain over the bare actor."""
    return float(np.nanmean(judged[name].returns - judged[BARE_POLICY].returns))


def planner_worth(task: str, cell: Cell) -> Table | None:
    """Return what each planner added to the bare actor's return at each step where planners were judged, if any was.

    Args:
        task: where.
        cell: whose counted runs are read; at a step at which one of them was not judged nothing is said.
    """
    runs, steps = cell.counted, _steps_of_all(cell)
    known = dict.fromkeys(name for step in reversed(steps) for name in runs[0].swapped[step])
    names = [name for name in known if name != BARE_POLICY]
    if not names:
        return None
    last = {name: [run.swapped[steps[-1]][name] for run in runs if name in run.swapped[steps[-1]]] for name in names}
    details = {heading: [tell(last[name]) for name in names] for heading, tell in AT_LAST.items()}
    told = {heading: cells for heading, cells in details.items() if any(cells)}  # older runs noted less
    rows = [
        [name, *(_gain(runs, step, name) for step in steps), *(cells[row] for cells in told.values())]
        for row, name in enumerate(names)
    ]
    bare = ", ".join(f"{_bare(runs, step)} at {step:,}" for step in steps)
    seeds, between = ("seed", "episodes") if len(runs) == 1 else ("seeds", "both")
    note = (
        f"Gain over the bare actor, which returned {bare} steps: mean over {len(runs)} {seeds} and the same held-out "
        f"episodes, with 95 % bootstrap intervals over {between}. Milliseconds at the last step, all episodes at once."
    )
    if "promised" in told:
        note += " Promised at that step is the discounted return that plans predicted, kept what followed in fact, and "
        note += "r how far the two go together."
    columns = ["planner", *(f"gain at {step:,} steps" for step in steps), *told]
    return Table(columns, rows, f"{task}: planners in the model of {cell.name}", [note])


def plans_by_step(task: str, cell: Cell) -> Table | None:
    """Return what plans promised and kept at each step where planners were judged, if that is known of several.

    Args:
        task: where.
        cell: whose counted runs are read.
    """
    rows, told = [], set()
    for step in _steps_of_all(cell):
        judged = [run.swapped[step] for run in cell.counted]
        for name in judged[0]:
            if name == BARE_POLICY or not _are_alike(judged, name):
                continue
            cells = {heading: AT_LAST[heading]([one[name] for one in judged]) for heading in PLANS}
            if cells["promised"]:
                rows.append([f"{step:,}", name, *cells.values()])
                told.add(step)
    if len(told) < 2:
        return None
    note = "Milliseconds of wall time per decision, all episodes at once; promised is the discounted return that plans "
    note += "predicted, kept what followed in fact, and r how far the two go together."
    return Table(["steps", "planner", *PLANS], rows, f"{task}: what plans in the model of {cell.name} promised", [note])


def _steps_of_all(cell: Cell) -> list[int]:
    """Return at which steps all counted runs were judged by planners."""
    return sorted(set.intersection(*({*run.swapped} for run in cell.counted))) if cell.counted else []


def _returns(runs: Sequence[RunResult], step: int, name: str) -> np.ndarray:
    return np.stack([run.swapped[step][name].returns for run in runs])


def _bare(runs: Sequence[RunResult], step: int) -> str:
    judged = [run.swapped[step].get(BARE_POLICY) for run in runs]
    means = [np.nan if one is None else one.returns.mean() for one in judged]  # of other numbers of episodes, perhaps
    return number(float(np.mean(means))) if np.isfinite(means).all() else "an unknown return"


def _gain(runs: Sequence[RunResult], step: int, name: str) -> str:
    judged = [run.swapped[step] for run in runs]
    if not any(name in one for one in judged):
        return ""
    if not all(_are_alike(judged, one) for one in (name, BARE_POLICY)):
        return "not comparable"
    gains = _returns(runs, step, name) - _returns(runs, step, BARE_POLICY)
    return str(crossed_mean(gains)) if np.isfinite(gains).all() else "cut episodes"


def _evaluations(judged: Sequence[Swapped]) -> str:
    """Return how many rows are evaluated and differentiated per decision, where all agree about it."""
    rows = judged[0].rows if judged else None
    return evaluations_cell(*rows) if rows and all(one.rows == rows for one in judged) else ""


def _mean_of(figure: Callable[[Swapped], float | None]) -> Callable[[Sequence[Swapped]], str]:
    """Return what tells the mean of a figure, where all know it."""

    def tell(judged: Sequence[Swapped]) -> str:
        found = [value for one in judged if (value := figure(one)) is not None and np.isfinite(value)]
        return number(float(np.mean(found))) if found and len(found) == len(judged) else ""

    return tell


AT_LAST: Mapping[str, Callable[[Sequence[Swapped]], str]] = {
    "evaluations": _evaluations,
    "ms/decision": _mean_of(lambda one: one.decision_ms),
    "promised": _mean_of(lambda one: one.promises.promised if one.promises else None),
    "kept": _mean_of(lambda one: one.promises.kept if one.promises else None),
    "r": _mean_of(lambda one: one.promises.correlation if one.promises else None),
}
"""What the table says of a planner in all runs beside its gain, by column: seen where it was judged last."""
PLANS = ("ms/decision", "promised", "kept", "r")
"""Those of them that differ from step to step."""
