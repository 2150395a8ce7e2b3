"""The goal table: world models, ways to plan in them, starts and goals at several distances, floors beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..agents.goals import GOAL_PRESETS, GoalPlanningSettings, GoalPolicy
from ..core.errors import SettingsError
from ..core.files import write_json
from ..core.provenance import describe_process
from ..envs import make_env
from ..envs.goals import GOALS, GoalPairs
from ..world_model import JEPA, Quasimetric
from .goals import Chance, GoalEvaluation, Idle, evaluate_goals
from .settings import command_line
from .statistics import Estimate, crossed_mean
from .tables import Table

FLOORS = {"nothing": Idle, "chance": Chance}
OTHER_EPISODES = 0


@dataclass(frozen=True, eq=False)
class GoalModel:
    """What plans are made in.

    Attributes:
        name: such as the folder of its run.
        model: the world model.
        time_to_goal: steps between its latents, which ways with ``distance="time"`` need.
        probe: Pearson's r of a linear probe for each dimension of the true state, where it is known.
    """

    name: str
    model: JEPA
    time_to_goal: Quasimetric | None = None
    probe: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Way:
    """A way to plan.

    Attributes:
        name: of the planner, or of the preset that takes its place.
        planning: all of it.
    """

    name: str
    planning: GoalPlanningSettings

    @classmethod
    def named(cls, name: str, planning: GoalPlanningSettings) -> Way:
        """Return how ``name`` plans: a planner, by ``planning``; or a preset, of which only the distance is changed."""
        if name in GOAL_PRESETS:
            return cls(name, GOAL_PRESETS[name].replace(distance=planning.distance))
        return cls(name, planning.replace(planner=name))


@dataclass(frozen=True, eq=False)
class GoalRow:
    """One way to act, at one distance.

    Attributes:
        name: the planner, or what takes its place.
        offset: recorded steps between start and goal; 0 for goals from other episodes.
        results: one for each world model; a single one of the floors.
        planning: how plans were searched; ``None`` for the floors.
        effort: evaluations + 2 x gradients that a plan took; 0 for the floors.
    """

    name: str
    offset: int
    results: Sequence[GoalEvaluation]
    planning: GoalPlanningSettings | None = None
    effort: int = 0

    def reached(self) -> Estimate:
        """Return the share of goals that were reached; its interval is between goals and, if several, world models."""
        return crossed_mean(np.array([result.success for result in self.results], np.float64))

    @property
    def decision_ms(self) -> float:
        """Mean wall time of deciding per environment step, in milliseconds."""
        return float(np.mean([result.decision_ms for result in self.results]))

    def cells(self) -> tuple[str, ...]:
        """Return the figures as text."""
        share = self.reached()
        bounds = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
        distance = "" if self.planning is None else f"{self.planning.distance}, {self.planning.form}"
        planned = (f"{self.effort:,}", f"{self.decision_ms:.1f}") if self.effort else ("", "")
        return self.name, distance, _goals_after(self.offset), f"{100 * share.value:.1f}{bounds}", *planned

    def __str__(self) -> str:
        name, distance, goals, share, *_ = self.cells()
        way = f"{name} ({distance})" if distance else name
        return f"{way}, goals after {goals}: {share} % reached"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "name": self.name,
            "offset": self.offset,
            "effort": self.effort,
            "success": self.reached().to_dict(),
            "planning": None if self.planning is None else self.planning.to_dict(),
            "results": [result.to_dict() for result in self.results],
        }


@dataclass(frozen=True, eq=False)
class GoalTable:
    """How often goals were reached.

    Attributes:
        task: where.
        models: names of the world models.
        probes: theirs; see :class:`GoalModel`.
        rows: the floors first, for each distance.
        seed: of the planners' chance.
        protocol: in a few words, where starts and goals come from.
    """

    task: str
    models: Sequence[str]
    probes: Sequence[Sequence[float | None] | None]
    rows: Sequence[GoalRow]
    seed: int
    protocol: str

    def table(self) -> Table:
        """Return the figures as text."""
        excluded = {row.offset: row.results[0].excluded for row in self.rows}
        left_out = ", ".join(f"{count} ({_goals_after(offset)})" for offset, count in excluded.items())
        count, worlds = len(self.rows[0].results[0].success), len(self.models)
        models = f"one world model, {self.models[0]}" if worlds == 1 else f"{worlds} world models"
        probes = [", ".join(_r(value) for value in probe) for probe in self.probes if probe is not None]
        read = f" A linear probe reads the true state off held-out latents with r = {'; '.join(probes)}." * bool(probes)
        return Table(
            ("acting", "plans shorten", "goals after", "reached, %", "evaluations", "ms/decision"),
            [row.cells() for row in self.rows],
            title=f"{self.task}: goals reached",
            notes=(
                f"Share of {count} {self.protocol}, by {models}, with 95 % bootstrap intervals over goals"
                f"{' and world models' if worlds > 1 else ''} (seed {self.seed}). There are twice as many steps as lie "
                f"between start and goal, 200 for other episodes. Left out, because the start was at the goal: "
                f"{left_out}.{read}",
            ),
        )

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, with the command and what it ran on."""
        made = {"command": command_line(), "process": describe_process()}
        shared = {"task": self.task, "models": list(self.models), "seed": self.seed, "protocol": self.protocol}
        shared |= {"probes": [None if probe is None else list(probe) for probe in self.probes]}
        write_json(Path(path), {**made, **shared, "rows": [row.to_dict() for row in self.rows]})


def evaluate_goal_planners(
    models: Sequence[GoalModel],
    task: str,
    ways: Sequence[Way],
    offsets: Sequence[int] | None = None,
    episodes: int | None = None,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    on_row: Callable[[GoalRow], None] | None = None,
    pairs_of: Callable[[int], GoalPairs] | None = None,
    protocol: str = "held-out starts and goals",
    video: str | Path | None = None,
) -> GoalTable:
    """Let world models plan to goals, beside doing nothing and chance.

    Args:
        models: at least one; they must fit the task.
        task: a goal task.
        ways: how plans are searched.
        offsets: distances between start and goal, in recorded steps; all that there are by default.
        episodes: how many of the pairs; all by default.
        seed: of the planners' chance.
        env_kwargs: arguments of the environment.
        on_row: called with each row as it is known.
        pairs_of: starts and goals of an offset, if not the task's held-out ones.
        protocol: where they come from, in words for the table.
        video: file for a film of the first goal that the first world model seeks, the first way.

    Raises:
        UnknownNameError: a planner that does not exist, or a task that has no goals.
        SettingsError: an offset that there are no pairs of, a model of other observations, or one that lacks the time
            to goal that a way needs.
    """
    goal_task = GOALS.get(task)
    for offset in offsets or ():
        if pairs_of is None and offset not in goal_task.offsets:
            known = ", ".join(map(str, goal_task.offsets))
            raise SettingsError(f"{task} has no goals after {offset} steps; it has them after {known} (0: others').")
    env = make_env(task, **(env_kwargs or {}))
    spaces = env.observation_space, env.action_space
    env.close()
    policies = [
        [GoalPolicy(world.model, *spaces, way.planning, time_to_goal=world.time_to_goal) for world in models]
        for way in ways
    ]
    rows: list[GoalRow] = []

    def add(row: GoalRow) -> None:
        rows.append(row)
        if on_row is not None:
            on_row(row)

    for offset in offsets or goal_task.offsets:
        pairs = (pairs_of or goal_task.pairs)(offset).first(episodes)
        for name, floor in FLOORS.items():
            add(GoalRow(name, offset, [evaluate_goals(floor(spaces[1]), task, pairs, seed, env_kwargs)]))
        for way, seekers in zip(ways, policies, strict=True):
            results = []
            for seeker in seekers:
                results.append(evaluate_goals(seeker, task, pairs, seed, env_kwargs, video))
                video = None
            effort = seekers[0].planner.budget + 2 * seekers[0].planner.gradients
            add(GoalRow(way.name, offset, results, way.planning, effort))
    names, probes = zip(*((world.name, world.probe) for world in models), strict=True)
    return GoalTable(task, names, probes, rows, seed, protocol)


def _goals_after(offset: int) -> str:
    return "other episodes" if offset == OTHER_EPISODES else f"{offset} steps"


def _r(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
