"""Ahead: whether one agent is ahead of its rivals, by one rule for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .cells import Cell
from .results import Array
from .statistics import Estimate, estimate, mean
from .tables import Table

if TYPE_CHECKING:
    from .summary import TaskSummary


@dataclass(frozen=True)
class Standing:
    """How the first agent stands to one rival, which may be several agents: on each task the best of them counts.

    Attributes:
        rival: its name.
        leads: by task, the agent that counts there, and by how much the first one leads, mean over paired seeds.
        overall: mean over the tasks of the leads in normalised scores, stratified by task.
        seeds: how many runs of each agent there are on each task; 0 where that differs.
        lacking: what keeps from saying more, such as an agent without a score; empty if nothing does.
    """

    rival: str
    leads: Mapping[str, tuple[str, Estimate]]
    overall: Estimate | None
    seeds: int = 0
    lacking: str = ""

    @property
    def ahead(self) -> bool | None:
        """Whether it leads on every task, and the interval of the mean lies above 0; ``None`` if that is not known."""
        if self.overall is None or self.overall.low is None:
            return None
        return self.overall.low > 0 and all(lead.value > 0 for _, lead in self.leads.values())

    @property
    def verdict(self) -> str:
        """Return it as text."""
        if self.ahead is None:
            return f"not known: {self.lacking or 'a single seed'}"
        return "yes" if self.ahead else "no"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "ahead": self.ahead,
            "leads": {task: {"agent": agent} | lead.to_dict() for task, (agent, lead) in self.leads.items()},
            "overall": self.overall.to_dict() if self.overall else None,
            "seeds": self.seeds,
            "lacking": self.lacking,
        }


def standing(tasks: Sequence[TaskSummary], first: str, rival: str, agents: Sequence[str]) -> Standing:
    """Return how ``first`` stands to the best of ``agents`` on each task.

    Nothing is claimed over the tasks unless all of them have finished every run on each, with the same seeds on all,
    and the return that counts as 1 there is not one of those compared.

    Args:
        tasks: with their scores.
        first: label of the agent that may be ahead.
        rival: what the others are called together.
        agents: their labels.
    """
    leads: dict[str, tuple[str, Estimate]] = {}
    normalised: list[Array] = []
    seeds: set[frozenset[int]] = set()
    lacking: list[str] = []
    for task in tasks:
        cells = {cell.label: cell for cell in task.cells if cell.label in (first, *agents)}
        missing = [agent for agent in (first, *agents) if agent not in cells or cells[agent].scores is None]
        if missing:
            lacking.append(f"no {' and no '.join(missing)} on {task.task}")
            continue
        lacking += [
            f"unfinished runs of {cell.label} on {task.task}"
            for cell in cells.values()
            if len(cell.counted) < len(cell.runs)
        ]
        ran = {label: frozenset(run.settings.seed for run in cell.counted) for label, cell in cells.items()}
        others = [agent for agent in agents if ran[agent] != ran[first]]
        if others:
            lacking.append(f"other seeds of {' and '.join(others)} on {task.task}")
            continue
        best = max((cells[agent] for agent in agents), key=_mean_score)
        lead = cells[first].lead_over(best)
        assert lead is not None
        leads[task.task] = best.label, estimate([lead], mean)
        seeds.add(ran[first])
        if task.anchor is None or task.unit is None:
            lacking.append(f"no anchor of {task.task} above acting at random")
        else:
            normalised.append(lead / task.unit)
    if len(seeds) > 1:  # the mean would weigh tasks by their seeds
        lacking.append("other seeds on some tasks than on others")
    overall = None if lacking or not normalised else estimate(normalised, mean)
    shared = len(next(iter(seeds))) if len(seeds) == 1 else 0
    return Standing(rival, leads, overall, shared, "; ".join(lacking))


def ahead_table(tasks: Sequence[TaskSummary], first: str, standings: Sequence[Standing]) -> Table:
    """Return the standings as a table."""

    def lead_on(task: str, one: Standing) -> str:
        if task not in one.leads:
            return ""
        agent, lead = one.leads[task]
        return f"{lead} over {agent}"

    several = len(tasks) > 1
    names = [task.task for task in tasks]
    return Table(
        [
            *("ahead of", "seeds"),
            *(f"lead on {name}" for name in names),
            *(["normalised lead"] if several else []),
            "ahead",
        ],
        [
            [
                one.rival,
                str(one.seeds or ""),
                *(lead_on(name, one) for name in names),
                *([str(one.overall or "")] if several else []),
                one.verdict,
            ]
            for one in standings
        ],
        f"Whether {first} is ahead",
        [
            "Ahead is who leads on every task, by the mean over seeds, paired, and whose mean lead over the tasks, as "
            "a share of what lies between acting at random and the anchor, has a 95 % bootstrap interval, stratified "
            "by task, above 0. Where a rival is several agents, the one that returns more on a task counts there."
        ],
    )


def _mean_score(cell: Cell) -> float:
    assert cell.scores is not None
    return float(cell.scores.mean())
