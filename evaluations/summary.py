"""Summary: what may be claimed from a set of runs, agent by agent and task by task, and what may not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .ahead import Standing, ahead_table, standing
from .caveats import commit_caveats, condition_caveats, namesakes, task_caveats
from .cells import LAST_EVALUATIONS, Cell, make_cell
from .planner_worth import PlannersOverall, planner_worth, planners_overall, plans_by_step
from .published import Published, beside_published
from .representation import latents_at_the_end, representation_table
from .results import Array, RunResult
from .statistics import Estimate, estimate, mean, number, on_common_grid, probability_of_improvement
from .tables import Table

CPU_HOURS = (0.25, 0.5, 1.0, 2.0)
"""Of training, after which agents are compared beside the same steps."""


@dataclass(frozen=True, eq=False)
class TaskSummary:
    """All agents on one task.

    Attributes:
        task: its name.
        cells: one per agent, in the order of the comparison.
        horizon: environment steps that all finished runs cover, where the scores are taken; ``None`` if none is.
        random_return: mean return of acting at random; ``None`` if not measured.
        anchor: return that counts as 1 in normalised scores; ``None`` for the best agent's mean.
        published: what others have published about some of the tasks.
    """

    task: str
    cells: Sequence[Cell]
    horizon: float | None
    random_return: float | None
    anchor: float | None = None
    published: Sequence[Published] = ()

    @property
    def unit(self) -> float | None:
        """What 1 is worth in normalised scores, beyond acting at random; ``None`` where that cannot be said."""
        one = self.anchor
        if one is None:
            one = max((float(cell.scores.mean()) for cell in self.cells if cell.scores is not None), default=None)
        if one is None or self.random_return is None or one <= self.random_return:
            return None
        return one - self.random_return

    def table(self) -> Table:
        """Return the scores as text; agents are compared with the first one."""
        first = self.cells[0]
        rivals = len(self.cells) > 1
        columns = ["agent", "seeds", "return (IQM)", "return (mean)", "over the run", "CPU time"]
        rows = []
        for cell in self.cells:
            seeds = f"{len(cell.counted) if cell.finished else 0} of {len(cell.runs)}"
            if cell.scores is None:
                row = [cell.label, seeds, "no claim", "", "", ""]
            else:
                area = "" if cell.height is None else f"{cell.height:,.1f}"
                seconds = cell.cpu_seconds
                time = "" if seconds is None else f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"
                row = [cell.label, seeds, str(cell.score()), str(cell.score(mean)), area, time]
            rows.append([*row, *([_chance(first, cell), _lead(first, cell)] if rivals else [])])
        horizon = f" at {self.horizon:,.0f} steps" if self.horizon else ""
        return Table(
            [*columns, *([f"P({first.label} is better)", f"lead of {first.label}"] if rivals else [])],
            rows,
            f"{self.task}{horizon}",
            self._notes(),
        )

    def tables(self) -> list[Table]:
        """Return the scores, and as far as it is known cost, what is published, the latents and what planners added."""
        others = beside_published(self.task, self.cells, self.published, self.horizon or 0)
        worth = [tell(self.task, cell) for cell in self.cells for tell in (planner_worth, plans_by_step)]
        known = [self.cost_table(), others, representation_table(self.task, self.cells), *worth]
        return [self.table(), *(table for table in known if table is not None)]

    def cost_table(self) -> Table | None:
        """Return what each agent returns after the same computing time, if any has come as far, beside equal steps."""
        after = {cell.name: [cell.at(3600 * hours, "cpu_seconds") for hours in CPU_HOURS] for cell in self.cells}
        known = [column for column in range(len(CPU_HOURS)) if any(row[column] for row in after.values())]
        if not known:
            return None
        heads = [f"{CPU_HOURS[column]:g} CPU-hours" for column in known]
        rows = {label: [row[column] for column in known] for label, row in after.items()}
        note = "CPU time of training alone; mean over seeds with 95 % bootstrap intervals, read off each run's curve. "
        note += "Empty where not all runs were measured as early or as late."
        if self.horizon is not None:
            heads.append(f"{self.horizon:,.0f} steps")
            rows = {cell.name: [*rows[cell.name], cell.at(self.horizon)] for cell in self.cells}
            note += " After so many steps: by the evaluation there alone, which is not the score above."
        return Table(
            ["agent", *heads],
            [[label, *("" if score is None else str(score) for score in row)] for label, row in rows.items()],
            f"{self.task}: return after the same computing time",
            [note],
        )

    def _notes(self) -> list[str]:
        notes = [
            f"Return: mean of the last {LAST_EVALUATIONS} evaluations (where there are as many), over seeds, with 95 % "
            "stratified bootstrap "
            "intervals; over the run: mean height of the learning curve until then; lead: mean difference of returns, "
            "paired by seed."
        ]
        if self.random_return is not None:
            notes.append(f"Acting at random returns {self.random_return:,.1f} on the held-out episodes.")
        return notes


@dataclass(frozen=True, eq=False)
class Summary:
    """What a set of runs says.

    Attributes:
        tasks: one summary per task.
        notes: what a reader must know before believing it: missing seeds, faults, step counts that differ.
        rivals: agents that the first one is to be ahead of, by what they are called together.
    """

    tasks: Sequence[TaskSummary]
    notes: Sequence[str]
    rivals: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Label of the agent whose leads are told."""
        return self.tasks[0].cells[0].label if self.tasks else ""

    @cached_property
    def standings(self) -> list[Standing]:
        """How the first agent stands to each rival of which there are runs, and which it is not itself."""
        known = {cell.label for task in self.tasks for cell in task.cells}
        return [
            standing(self.tasks, self.first, rival, agents)
            for rival, agents in self.rivals.items()
            if known.intersection(agents) and self.first not in agents
        ]

    @cached_property
    def overall(self) -> dict[str, dict[str, Estimate]]:
        """Per agent that has a score on every task, "iqm" and "mean" of its normalised scores over tasks and seeds.

        0 is what acting at random returns on the task, 1 its anchor, or else the best mean score of any agent in this
        comparison. Beside them, for agents that plan, "planning": the mean of what planning adds to the bare actor; and
        for all but the first, "lead": the mean of what the first has more, seed by seed. Empty for a single task, and
        where random returns are missing or not beaten, or a single agent would be compared with itself.
        """
        normalised: dict[str, list[Array]] = {}
        gains: dict[str, list[Array]] = {}
        leads: dict[str, list[Array]] = {}
        for task in self.tasks:
            scored = [cell for cell in task.cells if cell.scores is not None]
            leader = next((cell for cell in scored if cell.label == self.first), None)
            low, unit = task.random_return, task.unit
            if low is None or unit is None or (task.anchor is None and len(scored) < 2):
                return {}
            for cell in scored:
                assert cell.scores is not None
                normalised.setdefault(cell.label, []).append((cell.scores - low) / unit)
                if cell.planning_gains is not None:
                    gains.setdefault(cell.label, []).append(cell.planning_gains / unit)
                lead = None if leader is None or leader is cell else leader.lead_over(cell)
                if lead is not None:
                    leads.setdefault(cell.label, []).append(lead / unit)
        if len(self.tasks) < 2:
            return {}
        paired = {"planning": gains, "lead": leads}
        return {
            label: {"iqm": estimate(strata), "mean": estimate(strata, mean)}
            | {
                name: estimate(differences[label], mean)
                for name, differences in paired.items()
                if len(differences.get(label, [])) == len(self.tasks)
            }
            for label, strata in normalised.items()
            if len(strata) == len(self.tasks)
        }

    @cached_property
    def published(self) -> dict[str, float]:
        """Per published agent with a figure at the horizon of every task, the mean of its normalised scores.

        Empty where 1 is not an anchor on every task: what was published does not change with what we compare.
        """
        scores: dict[str, list[float]] = {}
        for task in self.tasks:
            low, unit, horizon = task.random_return, task.unit, task.horizon
            if low is None or unit is None or horizon is None or task.anchor is None:
                return {}
            for one in task.published:
                value = one.curve(task.task, horizon).get(round(horizon))
                if value is not None:
                    scores.setdefault(one.label, []).append((value - low) / unit)
        return {label: float(np.mean(found)) for label, found in scores.items() if len(found) == len(self.tasks)}

    @cached_property
    def planners(self) -> PlannersOverall | None:
        """What planners add over the runs of all agents; ``None`` where several tasks or agents were not judged so."""
        units = {task.task: task.unit for task in self.tasks if task.unit is not None}
        finished = {task.task: [cell for cell in task.cells if cell.finished] for task in self.tasks}
        if sum(any(run.swapped for run in cell.counted) for cells in finished.values() for cell in cells) < 2:
            return None
        return planners_overall(
            {task: [r for c in cells for r in c.counted] for task, cells in finished.items()}, units
        )

    def tables(self) -> list[Table]:
        """Return for each task its scores, cost and planners, and what there is to say over all tasks and agents."""
        own = [table for task in self.tasks for table in task.tables()]
        return [*own, *self.overall_tables()]

    def overall_tables(self) -> list[Table]:
        """Return what there is to say of agents over several tasks, of the first one's rivals, and of planners."""
        return [
            *([self._agents_table()] if self.overall else []),
            *([ahead_table(self.tasks, self.first, self.standings)] if self.standings else []),
            *([self.planners.table()] if self.planners else []),
        ]

    def _agents_table(self) -> Table:
        known = {name for scores in self.overall.values() for name in scores}
        heads = {
            "iqm": "normalised (IQM)",
            "mean": "normalised (mean)",
            "planning": "gain of planning (mean)",
            "lead": f"lead of {self.first} (mean)",
        }
        shown = [name for name in heads if name in known]
        columns = ["agent", *(heads[name] for name in shown)]
        rows = [[label, *(str(scores.get(name, "")) for name in shown)] for label, scores in self.overall.items()]
        rows += [
            [label, *(number(score) if name == "mean" else "" for name in shown)]
            for label, score in self.published.items()
        ]
        note = "Per task, 0 is acting at random and 1 the best agent's mean here"
        anchored = [f"{task.anchor:,g} on {task.task}" for task in self.tasks if task.anchor is not None]
        note += f", or what was set: {', '.join(anchored)}." if anchored else "."
        note += " Planning gains what it adds to the bare actor." if "planning" in known else ""
        note += " The lead is paired by seed." if "lead" in known else ""
        note += " Published figures are those at the last step, not of three evaluations." if self.published else ""
        return Table(columns, rows, f"All {len(self.tasks)} tasks", (note,))

    def to_markdown(self) -> str:
        """Return all tables and notes in Markdown."""
        notes = ["**Before believing it**\n", *(f"- {note}" for note in self.notes), ""] if self.notes else []
        return "\n".join([*(table.to_markdown() for table in self.tables()), *notes])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold; scores are arrays over seeds, as rliable takes them."""
        return {
            "tasks": {
                task.task: {
                    "horizon": task.horizon,
                    "random_return": task.random_return,
                    "anchor": task.anchor,
                    "published": [one.to_dict() for one in task.published],
                    "agents": {
                        cell.label: cell.to_dict() | {"latents": latents_at_the_end(cell)} for cell in task.cells
                    },
                }
                for task in self.tasks
            },
            "overall": {
                label: {name: score.to_dict() for name, score in scores.items()}
                for label, scores in self.overall.items()
            },
            "ahead": {one.rival: one.to_dict() for one in self.standings},
            "planners": self.planners.to_dict() if self.planners else None,
            "notes": list(self.notes),
        }


def summarise(
    runs: Sequence[RunResult],
    notes: Sequence[str] = (),
    order: Sequence[str] = (),
    anchors: Mapping[str, float] | None = None,
    published: Sequence[Published] = (),
    rivals: Mapping[str, Sequence[str]] | None = None,
) -> Summary:
    """Group ``runs`` by task and agent and work out what may be claimed.

    Args:
        runs: of any tasks, agents and seeds.
        notes: what is known already, such as runs that could not be read.
        order: names of agents in the order wanted; the others follow by name, the random agent last.
        anchors: returns that count as 1 in normalised scores, by task; where there is none, the best agent's mean does.
        published: what others have published.
        rivals: agents that the first one is to be ahead of, by what they are called together.
    """
    rank = {name: index for index, name in enumerate([*order, *([] if "jepa" in order else ["jepa"])])}
    tasks, found = [], list(notes)
    for task in dict.fromkeys(run.settings.task for run in runs):
        mine = [run for run in runs if run.settings.task == task]
        variants = sorted(
            {run.variant for run in mine}, key=lambda one: (_agent(one) == "random", rank.get(_agent(one), 99), one)
        )
        groups = {variant: [run for run in mine if run.variant == variant] for variant in variants}
        finished = [run for run in mine if run.status == "finished" and len(run.steps)]
        grid = _grid(finished)
        cells = [make_cell(_label(variant, variants), group, grid) for variant, group in groups.items()]
        found += task_caveats(task, cells, finished, grid)
        references = [run.random_return for run in mine if run.random_return is not None]
        reference = float(np.mean(references)) if references and np.isfinite(references).all() else None
        anchor = (anchors or {}).get(task)
        theirs = {one.agent: one for one in reversed(published) if task in one.returns}  # the first of each agent
        horizon = None if grid is None else float(grid[-1])
        tasks.append(TaskSummary(task, cells, horizon, reference, anchor, list(theirs.values())[::-1]))
    every = [cell for task in tasks for cell in task.cells]
    found += [*condition_caveats(runs), *commit_caveats(every), *namesakes(every)]
    return Summary(tasks, found, dict(rivals or {}))


def _grid(finished: Sequence[RunResult]) -> Array | None:
    try:
        return on_common_grid([(run.steps, np.zeros(len(run.steps))) for run in finished])[0]
    except ValueError:
        return None


def _chance(first: Cell, other: Cell) -> str:
    if first is other or first.scores is None or other.scores is None:
        return ""
    chance = probability_of_improvement([first.scores], [other.scores])
    if chance.low is None or chance.high is None:
        return f"{chance.value:.2f} (no interval)"
    return f"{chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]"


def _lead(first: Cell, other: Cell) -> str:
    lead = first.lead_over(other)
    return "" if lead is None or first is other else str(estimate([lead], mean))


def _agent(variant: str) -> str:
    name: str = json.loads(variant)[0]
    return name


def _label(variant: str, variants: Sequence[str]) -> str:
    """Return the agent's name, followed, where others have the same name, by the settings in which they differ."""
    agent, settings = json.loads(variant)
    rivals = [_flat(json.loads(other)[1]) for other in variants if _agent(other) == agent]
    differing = sorted({key for rival in rivals for key in rival if len({str(one.get(key)) for one in rivals}) > 1})
    shown = [f"{key}={_flat(settings).get(key, 'default')}" for key in differing]
    return f"{agent} ({', '.join(shown)})" if shown else str(agent)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
