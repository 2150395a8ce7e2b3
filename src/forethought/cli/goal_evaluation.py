"""``forethought evaluate`` for world models that learned from a store: they plan to goals, beside honest floors."""

from __future__ import annotations

import itertools
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import SettingsError, UnknownNameError, did_you_mean
from ..envs.goals import GOALS
from .console import print_table
from .options import names

if TYPE_CHECKING:
    from ..evaluations.goal_table import GoalModel, GoalRow, Way
    from .evaluate import EvaluateOptions

AUTHORS_EPISODES, AUTHORS_SEED, AUTHORS_OFFSET = 50, 42, "25"


def evaluate_goals(options: EvaluateOptions) -> int:
    """Print how often the runs of ``options`` reach goals, and write it into the first one's folder."""
    import torch

    from ..core.runs import Run
    from ..envs.goals import recorded_pairs
    from ..evaluations.goal_table import evaluate_goal_planners
    from ..evaluations.pretraining import store_of

    if options.render is not None:
        raise SettingsError("--render is not for world models that plan to goals; film one with --video goals.gif.")
    torch.set_num_threads(1)
    ways = _ways(options)
    models, task, env_kwargs = _models(options, any(way.planning.distance == "time" for way in ways))
    how: dict[str, Any] = {"video": options.video}
    how |= {"offsets": options.offsets, "episodes": options.episodes, "seed": options.seed or 0}
    if options.protocol == "lewm":
        store = store_of(Run.open(options.run[0]))
        seed = AUTHORS_SEED if options.seed is None else options.seed
        count = options.episodes or AUTHORS_EPISODES
        how["pairs_of"] = partial(recorded_pairs, store, count=count, seed=seed)
        how["protocol"] = "starts and goals from the very episodes that were learned from, as LeWorldModel's authors do"
        how["offsets"] = options.offsets or AUTHORS_OFFSET
    if how["offsets"] is not None:
        how["offsets"] = [_number(text, "--offsets") for text in names(how["offsets"], "--offsets")]

    def tell(row: GoalRow) -> None:
        print(row, file=sys.stderr)

    table = evaluate_goal_planners(models, task, ways, env_kwargs=env_kwargs, on_row=tell, **how)
    print_table(table.table())
    table.save(options.run[0] / "goals.json")
    film = next((result.video for row in table.rows for result in row.results if result.video), None)
    if film is not None:
        print(f"The film is in {film}.")
    return 0


def _ways(options: EvaluateOptions) -> list[Way]:
    """Return all ways to plan that are asked for: planners x distances x budgets."""
    from ..agents.goals import GOAL_PRESETS, GoalPlanningSettings
    from ..evaluations.goal_table import Way
    from ..planners import available_planners
    from .evaluate import refuse

    planners = ["cem"] if options.planners is None else names(options.planners, "--planners")
    known = [*GOAL_PRESETS, *available_planners()]
    for planner in planners:
        if planner.partition("+")[0] not in known and ":" not in planner:
            raise UnknownNameError(f"Unknown planner {planner!r}.{did_you_mean(planner, known)}")
    distances = names(options.distance, "--distance")
    budgets = [_number(text, "--budget") for text in names(options.budget, "--budget")]
    if all(planner in GOAL_PRESETS for planner in planners):
        own = "budget", "horizon", "form", "execute"
        refuse(options, own, f"does not go with {' or '.join(planners)}, which settles how to plan by itself")
    shared: dict[str, Any] = {"form": options.form, "execute": options.execute}
    if options.horizon is not None:
        shared["horizon"] = options.horizon
    ways = []
    for planner, distance in itertools.product(planners, distances):
        for budget in budgets[:1] if planner in GOAL_PRESETS else budgets:
            settings = {**shared, "budget": budget, "distance": distance}
            ways.append(Way.named(planner, GoalPlanningSettings.from_dict(settings)))
    return ways


def _models(options: EvaluateOptions, timed: bool) -> tuple[list[GoalModel], str, dict[str, Any]]:
    """Return the world models, and the task with its arguments, which must be the same for all."""
    from ..evaluations.goal_table import GoalModel
    from ..evaluations.pretraining import load_pretrained
    from ..evaluations.probing import probe_states
    from ..evaluations.time_to_goal import load_time_to_goal

    models, tasks = [], []
    for folder in options.run:
        model, source = load_pretrained(folder)
        learned_time = load_time_to_goal(folder)[1] if timed else None
        models.append(GoalModel(str(folder), model, learned_time, probe_states(folder)))
        tasks.append((source.get("task"), source.get("env", {})))
    learned, env_kwargs = tasks[0]
    if any(other != tasks[0] for other in tasks):
        raise SettingsError(f"These runs learned from different tasks: {', '.join(str(name) for name, _ in tasks)}.")
    task = options.task or learned
    if task is None:
        raise SettingsError(f"{options.run[0]} does not know its task; say where: --task NAME.")
    try:
        GOALS.get(task)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"{error} World models without an agent plan to goals; to act for rewards, let an agent take this one up: "
            f"forethought train {shlex.quote(task)} --world-model {shlex.quote(str(options.run[0]))}."
        ) from error
    return models, task, env_kwargs if task == learned else {}


def _number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise SettingsError(f"{option} {text!r} is not a whole number.")
    return int(text)
