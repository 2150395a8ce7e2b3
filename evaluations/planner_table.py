"""The planner table: one trained agent, acting by one planner after another on the same held-out episodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..agents.policy import PlanningPolicy
from ..core.errors import SettingsError, UnsupportedSpaceError
from ..core.files import write_json
from ..core.provenance import describe_process
from ..core.settings import parse_assignment
from ..core.words import counted
from ..envs import make_env
from .evaluate import Evaluation, evaluate
from .promises import Promises, Promising
from .settings import command_line
from .stage import EnvLike
from .statistics import Estimate, number, paired_gain
from .tables import Table
from .true_simulator import SimulatorPolicy, TrueSimulator

BARE_POLICY = "policy"
IN_TRUTH = ", in the true simulator"
CEILING = ("icem", "categorical_cem")
"""The usual planners, of continuous and of discrete actions: what they bring in the true simulator is the ceiling."""
BUDGET = 300
"""Evaluations that a decision may usually cost, whoever plans."""
PLANNERS = ("policy", "random", "cem", "icem", "mppi", "gradient", "hybrid")
"""The table's usual rows; for discrete actions ``categorical_cem`` takes the place of most."""


@dataclass(frozen=True, eq=False)
class PlannerRow:
    """One way of acting.

    Attributes:
        name: of the planner, with the settings that were given to it.
        evaluation: what it brought; ``None`` where it does not support the action space.
        gain: mean return above the bare policy's on the same episodes; ``None`` for the bare policy itself, and where
            no episode was sound under both.
        budget, gradients: candidate rows evaluated, and differentiated, per decision.
        promises: what its plans promised and kept; ``None`` where nothing is known of that.
    """

    name: str
    evaluation: Evaluation | None
    gain: Estimate | None = None
    budget: int = 0
    gradients: int = 0
    promises: Promises | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "planner": self.name,
            "evaluation": self.evaluation.to_dict() if self.evaluation else None,
            "gain": self.gain.to_dict() if self.gain else None,
            "budget": self.budget,
            "gradients": self.gradients,
            "promises": self.promises.to_dict() if self.promises else None,
        }


@dataclass(frozen=True, eq=False)
class PlannerTable:
    """What :func:`evaluate_planners` found.

    Attributes:
        task: where the episodes were played.
        rows: one per planner, in the order asked for.
        episodes, seed: which held-out episodes.
        budget: evaluations a decision that were allowed.
        horizon: planned steps; ``None`` for those by which the agent itself lets planners search.
        steps: environment steps that the agent had learned from; ``None`` if it does not say.
    """

    task: str
    rows: Sequence[PlannerRow]
    episodes: int
    seed: int
    budget: int
    horizon: int | None = None
    steps: int | None = None

    def table(self) -> Table:
        """Return the figures as text."""
        the_same = "one held-out episode" if self.episodes == 1 else f"the same {self.episodes} held-out episodes"
        return Table(
            ("planner", "return", "gain over policy", "evaluations", "ms/decision", "promised", "kept", "r"),
            [_cells(row) for row in self.rows],
            title=f"{self.task}: one agent, {counted(len(self.rows), 'planner')}",
            notes=(
                f"{self._truth()}Mean over {the_same} (seed {self.seed}) with 95 % "
                "bootstrap intervals; the gain is paired by episode. Evaluations: candidate rows a decision, plus the "
                f"rows differentiated; budget + 2 x gradients <= {self.budget}. Promised is the discounted return that "
                "plans predicted, kept what followed in fact, on average, and r how far the two go together; known of "
                "decisions after which enough was seen.",
            ),
        )

    def _truth(self) -> str:
        if not any(row.name.endswith(IN_TRUTH) for row in self.rows):
            return ""
        return "In the true simulator nothing is guessed but the critic's values; no agent may look there. "

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        return self.table().to_markdown()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        shared = {"task": self.task, "episodes": self.episodes, "seed": self.seed, "budget": self.budget}
        shared |= {name: value for name in ("horizon", "steps") if (value := getattr(self, name)) is not None}
        return {**shared, "rows": [row.to_dict() for row in self.rows], "table": self.table().to_dict()}

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON, with the command and what it ran on.

        A report shows ``planners.json`` of the run folders that it is made of, and what planners add over all of them.
        """
        write_json(path, {"command": command_line(), "process": describe_process(), **self.to_dict()})


def evaluate_planners(
    agent: Any,
    env: EnvLike,
    planners: Sequence[str] | None = None,
    budget: int = BUDGET,
    episodes: int = 10,
    seed: int = 0,
    *,
    horizon: int | None = None,
    simulator: bool | Sequence[str] = False,
    video: str | Path | None = None,
    on_row: Callable[[PlannerRow], None] | None = None,
    **options: Any,
) -> PlannerTable:
    """Let one trained agent act by each of ``planners``, without any training, on the same held-out episodes.

    The bare policy is always among them, because the gains are measured against it.

    Args:
        agent: has ``planning_with(name, budget=...)``, as JEPA agents do.
        env: see :func:`~.evaluate.evaluate`.
        planners: registered names, each alone or followed by settings of its own, as in ``icem+horizon=5+doubt=2``
            (fields of :class:`~forethought.agents.PlanningSettings`, or else the planner's); of those that do not
            support the action space the table says so. By default all of Forethought's own that support it.
        budget: evaluations a decision may cost, rows differentiated counting twice.
        episodes: number of held-out episodes.
        seed: names the set of held-out episodes.
        horizon: planned steps; by default those by which the agent itself lets planners search.
        simulator: let planners that need no gradients, all or these, also try their plans out in the true simulator,
            with the same budget: the ceiling of what they could bring in a model without mistakes. For MuJoCo's tasks
            only.
        video: file to which each planner's first episode is recorded, the planner's name added to its stem.
        on_row: called with each row as it is known.
        options: passed on to :func:`~.evaluate.evaluate`.

    Raises:
        SettingsError: the agent cannot plan, or there is no simulator that plans can be tried out in.
        UnknownNameError: a planner that does not exist.
        SettingsError: a setting that it does not have, or that makes it spend more than ``budget``.
    """
    if not hasattr(agent, "planning_with"):
        raise SettingsError(
            f"{type(agent).__name__} has no world model to plan in: the planner table needs a JEPA agent."
        )
    asked = [*PLANNERS, "categorical_cem"] if planners is None else planners
    names = list(dict.fromkeys([*([] if BARE_POLICY in asked else [BARE_POLICY]), *asked]))
    planning = {"budget": budget} | ({} if horizon is None else {"horizon": horizon})
    views = {name: _view(agent, name, planning) for name in names}  # all at once: a misspelt name fails before any work

    def play(name: str) -> Evaluation:
        film = None if video is None else Path(video).with_stem(f"{Path(video).stem}-{name}")
        return evaluate(views[name], env, episodes, seed, video=film, **options)

    def row_of(name: str, evaluation: Evaluation, acting: Any) -> PlannerRow:
        gain = None if evaluation is bare else _gain(evaluation, bare)
        return PlannerRow(
            name, evaluation, gain, acting.planner.budget, acting.planner.gradients, _promises(acting, evaluation)
        )

    rows: list[PlannerRow] = []

    def add(row: PlannerRow) -> None:
        rows.append(row)
        if on_row is not None:
            on_row(row)

    truth = TrueSimulator(partial(_made, env, options.get("env_kwargs") or {})) if simulator else None
    seeing = views if simulator is True else simulator or ()
    bare = play(BARE_POLICY)
    for name, view in views.items():
        if view is None and planners is None:
            continue
        if view is None:
            add(PlannerRow(name, None))
            continue
        add(row_of(name, bare if name == BARE_POLICY else play(name), view))
        if truth is not None and name in seeing and name != BARE_POLICY and not view.planner.gradients:
            stepwise = _view(agent, name, planning, execute=1)
            evaluation = evaluate(
                SimulatorPolicy(stepwise.policy, truth), truth.env, episodes, seed, max_steps=options.get("max_steps")
            )
            add(row_of(name + IN_TRUTH, evaluation, stepwise))
    if truth is not None:
        truth.close()
    task = env if isinstance(env, str) else _name(env)
    return PlannerTable(task, rows, episodes, seed, budget, horizon, getattr(agent, "num_timesteps", None))


def _made(env: EnvLike, kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    if isinstance(env, gym.Env):
        raise SettingsError("To try plans out in the true simulator, name the task or give a factory.")
    return make_env(env, **kwargs) if isinstance(env, str) else env(**kwargs)


def check_planners(agent: Any, planners: Sequence[str]) -> None:
    """Raise what :func:`evaluate_planners` would, with its usual budget, for planners that it cannot let act."""
    for name in planners:
        _view(agent, name, {"budget": BUDGET})


def bare_policy(agent: Any) -> Any:
    """Return a view of ``agent`` that follows its actor alone, without any search."""
    return agent.planning_with(BARE_POLICY, horizon=1, proposals=1)


def acts_bare(agent: Any) -> bool:
    """Return whether ``agent`` follows its actor alone by itself."""
    planning = getattr(getattr(agent, "settings", None), "planning", None)
    return bool(getattr(planning, "bare", False))


def planner_and_settings(asked: str) -> tuple[str, dict[str, Any]]:
    """Return name and settings of a planner that is asked for as in ``icem+horizon=5+doubt=2``.

    Raises:
        SettingsError: what follows the name are no settings, or no settings of planners.
    """
    name, *parts = re.split(r"\+(?=[^\W\d])", asked)
    settings = dict(parse_assignment(part, f"Planner {asked!r}: ") for part in parts)
    if wrong := settings.keys() & {"planner", "name", "spec", "budget"}:
        raise SettingsError(f"Planner {asked!r}: {', '.join(sorted(wrong))} cannot be set for one of several planners.")
    return name, settings


def _view(agent: Any, asked: str, planning: Mapping[str, int], **forced: int) -> Any:
    name, own = planner_and_settings(asked)
    try:
        view = (
            bare_policy(agent) if asked == BARE_POLICY else agent.planning_with(name, **{**planning, **own, **forced})
        )
    except UnsupportedSpaceError:
        return None
    if own and view.planner.budget + 2 * view.planner.gradients > planning["budget"]:
        raise SettingsError(
            f"Planner {asked!r} spends {view.planner.budget:,} evaluations and {view.planner.gradients:,} gradients, "
            f"beyond the budget of {planning['budget']:,} that all have."
        )
    return Promising(view, agent.settings.behaviour.discount) if isinstance(view, PlanningPolicy) else view


def _promises(view: Any, evaluation: Evaluation) -> Promises | None:
    if not isinstance(view, Promising):
        return None
    return view.kept(evaluation.acting_seeds, evaluation.rewards, evaluation.terminated.tolist())


def _gain(evaluation: Evaluation, bare: Evaluation) -> Estimate | None:
    sound = ~(evaluation.faulty | bare.faulty)
    return paired_gain(evaluation.returns[sound], bare.returns[sound]) if np.any(sound) else None


def evaluations_cell(budget: int, gradients: int) -> str:
    """Return how tables tell the rows evaluated, and differentiated if any are."""
    return f"{budget:,}" + (f" + {gradients:,}" if gradients else "")


def _cells(row: PlannerRow) -> tuple[str, ...]:
    if row.evaluation is None:
        return (row.name, "not for these actions", *[""] * 6)
    interval, faults = row.evaluation.interval(), row.evaluation.faults
    cut = f", {faults} cut" if faults else ""
    gain, effort = str(row.gain) if row.gain else "", evaluations_cell(row.budget, row.gradients)
    kept = ("", "", "")
    if row.promises is not None:
        r = row.promises.correlation
        kept = number(row.promises.promised), number(row.promises.kept), f"{r:.2f}" if np.isfinite(r) else ""
    return (row.name, f"{interval or 'unknown'}{cut}", gain, effort, f"{row.evaluation.decision_ms:.2f}", *kept)


def _name(env: Any) -> str:
    spec = getattr(env, "spec", None)
    return str(spec.id if spec else getattr(env, "__name__", type(env).__name__))
