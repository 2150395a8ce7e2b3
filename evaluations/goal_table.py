"""The goal table: one world model, several planners, starts and goals at several distances, floors beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agents.goals import GOAL_PRESETS, GoalPlanningSettings, GoalPolicy
from ..core.errors import SettingsError
from ..core.files import write_json
from ..envs import make_env
from ..envs.goals import GOALS, GoalPairs
from ..world_model import JEPA, Quasimetric
from .goals import Chance, GoalEvaluation, Idle, evaluate_goals
from .tables import Table

FLOORS = {"nothing": Idle, "chance": Chance}
OTHER_EPISODES = 0


@dataclass(frozen=True, eq=False)
class GoalRow:
    """One way to act, at one distance.

    Attributes:
        name: the planner, or what takes its place.
        offset: recorded steps between start and goal; 0 for goals from other episodes.
        evaluation: what came of it.
        evaluations: candidate rows a plan, and those that were differentiated twice more; 0 for the floors.
    """

    name: str
    offset: int
    evaluation: GoalEvaluation
    evaluations: int

    def cells(self) -> tuple[str, ...]:
        """Return the figures as text."""
        goals = "other episodes" if self.offset == OTHER_EPISODES else f"{self.offset} steps"
        milliseconds = f"{self.evaluation.decision_ms:.1f}" if self.evaluations else ""
        evaluations = f"{self.evaluations:,}" if self.evaluations else ""
        return self.name, goals, self.evaluation.percentage(), evaluations, milliseconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        shared = {"name": self.name, "offset": self.offset, "evaluations": self.evaluations}
        return {**shared, **self.evaluation.to_dict()}


@dataclass(frozen=True, eq=False)
class GoalTable:
    """How often goals were reached.

    Attributes:
        task: where.
        rows: the floors first.
        planning: how plans were searched, but for the planner's name.
        seed: of the planners' chance.
    """

    task: str
    rows: Sequence[GoalRow]
    planning: GoalPlanningSettings
    seed: int

    def table(self) -> Table:
        """Return the figures as text."""
        excluded = {row.offset: row.evaluation.excluded for row in self.rows}
        left_out = ", ".join(
            f"{count} ({'other episodes' if offset == OTHER_EPISODES else f'{offset} steps'})"
            for offset, count in excluded.items()
        )
        count = len(self.rows[0].evaluation.success)
        p = self.planning
        return Table(
            ("acting", "goals after", "reached, %", "evaluations", "ms/decision"),
            [row.cells() for row in self.rows],
            title=f"{self.task}: goals reached",
            notes=(
                f"Share of the same {count} held-out starts and goals with 95 % bootstrap intervals (seed "
                f"{self.seed}); there are twice as many steps as lie between start and goal, 200 for other episodes. "
                f"Plans of {p.horizon} model steps, {p.execute} of them executed (lewm-paper: 5 and 5); they "
                f"shorten the {p.distance} distance, {p.form}. Pairs whose start was at the goal were left out: "
                f"{left_out}.",
            ),
        )

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        rows = [row.to_dict() for row in self.rows]
        planning = self.planning.to_dict()
        write_json(Path(path), {"task": self.task, "seed": self.seed, "planning": planning, "rows": rows})


def evaluate_goal_planners(
    model: JEPA,
    task: str,
    planners: Sequence[str],
    planning: GoalPlanningSettings | None = None,
    offsets: Sequence[int] | None = None,
    episodes: int | None = None,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    on_row: Callable[[GoalRow], None] | None = None,
    time_to_goal: Quasimetric | None = None,
) -> GoalTable:
    """Let one world model plan to held-out goals by each of ``planners``, beside doing nothing and chance.

    Args:
        model: a world model.
        task: a goal task.
        planners: registered names, or presets such as "lewm-paper".
        planning: budget, horizon and so on, the same for all.
        offsets: distances between start and goal, in recorded steps; all that there are by default.
        episodes: how many of the held-out pairs; all by default.
        seed: of the planners' chance.
        env_kwargs: arguments of the environment.
        on_row: called with each row as it is known.
        time_to_goal: of the model's latents; where it is given, all planners plan by it.

    Raises:
        UnknownNameError: a planner that does not exist, or a task that has no goals.
        SettingsError: an offset that there are no pairs of, or a model of other observations.
    """
    goal_task, planning = GOALS.get(task), planning or GoalPlanningSettings()
    for offset in offsets or ():
        if offset not in goal_task.offsets:
            known = ", ".join(map(str, goal_task.offsets))
            raise SettingsError(f"{task} has no goals after {offset} steps; it has them after {known} (0: others').")
    env = make_env(task, **(env_kwargs or {}))
    planning = planning.replace(distance="latent" if time_to_goal is None else "time")
    policies = {
        name: GoalPolicy(
            model, env.observation_space, env.action_space, _planned_by(name, planning), time_to_goal=time_to_goal
        )
        for name in planners
    }
    rows: list[GoalRow] = []

    def play(name: str, seeker: Any, offset: int, pairs: GoalPairs, evaluations: int) -> None:
        rows.append(GoalRow(name, offset, evaluate_goals(seeker, task, pairs, seed, env_kwargs), evaluations))
        if on_row is not None:
            on_row(rows[-1])

    for offset in offsets or goal_task.offsets:
        pairs = goal_task.pairs(offset).first(episodes)
        for name, floor in FLOORS.items():
            play(name, floor(env.action_space), offset, pairs, 0)
        for name, policy in policies.items():
            planner = policy.planner
            play(name, policy, offset, pairs, planner.budget + 2 * planner.gradients)
    env.close()
    return GoalTable(task, rows, planning, seed)


def _planned_by(name: str, planning: GoalPlanningSettings) -> GoalPlanningSettings:
    """Return how the planner or preset ``name`` plans."""
    if name in GOAL_PRESETS:
        return GOAL_PRESETS[name].replace(distance=planning.distance)
    return planning.replace(planner=name)
