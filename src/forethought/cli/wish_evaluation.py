"""``forethought evaluate --objective``: a trained model acts on a wish that it was never trained for.

An agent without a world model cannot be asked; what it does anyway is measured alike, for comparison.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from ..core.errors import SettingsError
from .console import print_table
from .options import names

if TYPE_CHECKING:
    from ..agents.wish import Wish
    from ..evaluations.nominal import WorldModel
    from ..evaluations.settings import TrainSettings
    from ..evaluations.wishing import WishRow
    from .evaluate import EvaluateOptions

EPISODES = 10


def evaluate_objective(options: EvaluateOptions, source: Path) -> int:
    """Print how well the run ``source`` fulfils the wish of ``options``, and write it into the run's folder."""
    import torch

    from ..agents.wish import Wish
    from ..core.runs import Run
    from ..envs import make_env
    from ..evaluations.action_limits import action_limits
    from ..evaluations.nominal import world_model_of
    from ..evaluations.wish_probes import wish_probes
    from ..evaluations.wishing import evaluate_wish

    if not source.is_dir():
        raise SettingsError(f"{source} is not a run folder, from whose experience probes could be fitted.")
    if options.render is not None:
        raise SettingsError("--render does not go with --objective; film it with --video wish.mp4.")
    assert options.objective is not None
    wish = Wish.parse(options.objective)
    torch.set_num_threads(1)
    if (plain := _plain_agent(source)) is not None:
        acting, task, arguments = _not_asked(options, *plain)
    else:
        world = world_model_of(source)
        task, arguments = options.task or world.task or "", world.env
        if not task:
            raise SettingsError(f"{source} does not know where its episodes were recorded; say it: --task NAME.")
        env = make_env(task, **arguments)
        try:
            limits = None if options.limits is None else action_limits(env, options.limits)
            probes = wish_probes(source, wish.quantities, on_progress=_tell) if wish.quantities else {}
            acting = _acting(options, world, wish, probes, limits, env)
        finally:
            env.close()

    def tell(row: WishRow) -> None:
        _tell(f"{row.name}: {row}")

    table = evaluate_wish(
        acting,
        task,
        wish,
        options.episodes or EPISODES,
        Run.open(source).config.get("evaluation_seed", 0) if options.seed is None else options.seed,
        limits=options.limits or "",
        env=arguments,
        on_row=tell,
        video=options.video,
    )
    print_table(table.table())
    print(f"Kept in {table.save(source / 'wishes')}.")
    return 0


def _plain_agent(source: Path) -> tuple[Any, TrainSettings] | None:
    """Return the agent of a run that has no world model, which cannot be asked for anything, and how it was trained."""
    from ..core.runs import kind_of
    from ..evaluations.pretraining import KIND
    from ..evaluations.training import load_trained

    if kind_of(source) == KIND:
        return None
    agent, settings = load_trained(source)
    return None if hasattr(agent, "planning_for") else (agent, settings)


def _not_asked(options: EvaluateOptions, agent: Any, settings: TrainSettings) -> tuple[dict[str, Any], str, Any]:
    """Return an agent that does what it does, where, and the environment's arguments."""
    for name in ("planners", "limits", "horizon"):
        if getattr(options, name) is not None:
            raise SettingsError(f"--{name} is for plans, and {settings.agent} has no world model to plan in.")
    return {f"{settings.agent}, not asked": agent}, options.task or settings.task, {}


def _acting(
    options: EvaluateOptions,
    world: WorldModel,
    wish: Wish,
    probes: Any,
    limits: gym.spaces.Box | None,
    env: gym.Env[Any, Any],
) -> dict[str, Any]:
    """Return the ways to act on a wish by name, and beside them that which knows nothing of it."""
    from ..agents import make_agent
    from ..agents.settings import split_changes
    from ..agents.wish_policy import WISH_PLANNING, wish_planning, wish_policy
    from ..envs import ActionCodec, ObservationCodec
    from ..evaluations.planner_table import bare_policy, planner_and_settings
    from ..planners import ActionSpec

    planners: list[str | None] = [None] if options.planners is None else [*names(options.planners, "--planners")]
    changes: dict[str, Any] = {} if options.horizon is None else {"horizon": options.horizon}
    if options.planners is not None:
        changes["budget"] = int(options.budget)
    acting: dict[str, Any] = {}
    if (agent := world.agent) is not None:
        for planner in planners:
            asked = planner or wish_planning(agent.settings, wish).planner_for(agent.spec)
            name, own = planner_and_settings(asked)
            acting[asked] = agent.planning_for(wish, probes, planner and name, limits, **changes | own)
        return acting | {"bare actor, not asked": bare_policy(agent)}
    codecs = ObservationCodec(env.observation_space), ActionCodec(env.action_space)
    spec = ActionSpec.from_space(codecs[1].planning_space)
    for planner in planners:
        asked = planner or WISH_PLANNING.planner_for(spec)
        name, own = planner_and_settings(asked)
        shared, rest = split_changes(name, changes | own)
        planning = WISH_PLANNING.replace(**shared)
        acting[asked] = wish_policy(world.model, codecs, wish, probes, planning, rest, limits=limits)
    return acting | {"random": make_agent("random", env)}


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
