"""``forethought evaluate``: a trained agent on held-out episodes, by its own planner or by one after another.

A world model that learned from a store has no agent and no reward; it plans to held-out goals instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from ..core.errors import CheckpointError, RunFolderError, SettingsError
from ..core.runs import kind_of
from ..core.settings import Range, Settings
from ..core.words import counted
from .console import console, is_live, print_table
from .options import names, parse

if TYPE_CHECKING:
    from ..evaluations.planner_table import PlannerRow, PlannerTable

EPISODES = 10
GoalForm = Literal["last", "sum", "best"]


@dataclass(frozen=True)
class EvaluateOptions(Settings):
    """Evaluate a trained agent on held-out episodes.

    With --planners, swap the planner by name and compare them; with --objective, ask for what it was never trained for.

    A world model that learned from recordings plans to held-out goals, beside the floors of doing nothing and chance.
    """

    run: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Run folder, or an agent's .zip file, which needs --task. With goals there may be several, such as one for each
    seed, which are judged together."""
    planners: str | None = None
    """Planners by name, such as policy,cem,icem, and but for goals with settings, as in icem,icem+horizon=5+doubt=2; by
    default the agent acts as it does by itself, and cem seeks goals.
    To goals, closed-loop is the default, and lewm-paper plans as its paper does."""
    budget: str = "300"
    """With --planners or goals: evaluations + 2 x gradients that each may spend on a plan. With goals there may be
    several, such as 100,300,900."""
    horizon: Annotated[int, Range(ge=1)] | None = None
    """With --planners or goals: planned steps; by default the agent's own, or 5 blocks."""
    simulator: bool = False
    """With --planners: try plans out in the true simulator, too, with the same budget: the ceiling of planning. For
    MuJoCo's tasks."""
    episodes: Annotated[int, Range(ge=1)] | None = None
    """Held-out episodes, the same for every planner; by default 10, or all goals that there are."""
    objective: str | None = None
    """A wish in physical quantities, such as "x_velocity=2.0" or "x_velocity>=1, 0.5*torso_height>=0.6, 0.01*effort":
    NAME=VALUE, NAME>=VALUE, NAME<=VALUE, NAME=max, NAME=min, reward or effort, each after WEIGHT* if it is not to count
    1. Probes read the quantities off latents; they are fitted to what the run learned from when first asked for."""
    limits: str | None = None
    """With --objective: limits on actions by an actuator's name or number, or for all, such as
    "bthigh=0, bshin=-0.2:0.5, all=0.8"."""
    offsets: str | None = None
    """With goals: recorded steps between start and goal, such as 25,100, and 0 for goals from other episodes; by
    default all that there are."""
    distance: str = "latent"
    """With goals: what plans shorten, the latent distance, or the time to go (see forethought time-to-goal), or both
    one after the other: latent,time."""
    form: GoalForm = "sum"
    """With goals: which distance counts, the sum over all planned steps, the last or the best."""
    execute: Annotated[int, Range(ge=1)] = 1
    """With goals: planned blocks that are executed before planning anew."""
    protocol: Literal["held-out", "lewm"] = "held-out"
    """With goals: from where they are. lewm takes 50 pairs from the very episodes that were learned from, 25 steps
    apart, as the authors of LeWorldModel do; its figures are not comparable with others."""
    seed: Annotated[int, Range(ge=0)] | None = None
    """Names the set of held-out episodes; by default that of the run's own evaluations."""
    task: str | None = None
    """Where to act, if not in the task that the agent was trained in."""
    video: Path | None = None
    """File for a film of the first episode, .mp4 or .gif."""
    render: Literal["human"] | None = None
    """Watch the episodes in a window, one after another."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate."""
    options = parse(EvaluateOptions, "evaluate", arguments)
    if not options.run:
        raise SettingsError("Which run? Such as: forethought evaluate runs/HalfCheetah-v5-jepa-0.")
    if options.objective is not None:
        if len(options.run) != 1:
            raise SettingsError("One run at a time, please, where --objective asks for something.")
        goals = "offsets", "distance", "form", "execute", "protocol"
        refuse(options, (*goals, "simulator"), "does not go with --objective")
        from .wish_evaluation import evaluate_objective

        _require_budget(options)
        return evaluate_objective(options, options.run[0])
    refuse(options, ("limits",), "is for plans that --objective asks for")
    if _is_pretrained(options.run[0]):
        from .goal_evaluation import evaluate_goals

        refuse(options, ("simulator",), "is for agents; goals are sought in the world model alone")
        return evaluate_goals(options)
    if len(options.run) != 1:
        raise SettingsError("One run at a time, please; several may only be given where world models plan to goals.")
    [source] = options.run
    goals = "offsets", "distance", "form", "execute", "protocol"
    refuse(options, goals, f"is for world models that plan to goals, and {source} holds an agent")
    _require_budget(options)
    agent, task, seed = _load(options, source)
    episodes = options.episodes or EPISODES
    play: dict[str, Any] = {"render": options.render, "video": options.video}
    if options.planners is None:
        swapping = "horizon", "budget", "simulator"
        refuse(options, swapping, "is for the planners of --planners; name one, such as --planners random")
        from ..evaluations.evaluate import evaluate

        evaluation = evaluate(agent, task, episodes, seed, **play)
        print(f"{task}: {evaluation}")
        video = evaluation.video
    else:
        planners = names(options.planners, "--planners")
        how = {"budget": int(options.budget), "horizon": options.horizon, "episodes": episodes, "seed": seed}
        table = swap_planners(agent, task, planners, simulator=options.simulator, **how, **play)
        if source.is_dir() and options.task is None:  # the run's report speaks of the task it was trained in
            table.save(source / "planners.json")
        video = next((row.evaluation.video for row in table.rows if row.evaluation), None)
    if video is not None:
        print(f"The film is in {video}.")
    return 0


def refuse(options: EvaluateOptions, given: Sequence[str], why: str) -> None:
    """Refuse options that do not have their default values."""
    for name in given:
        if getattr(options, name) != getattr(EvaluateOptions, name):
            raise SettingsError(f"--{name} {why}.")


def _require_budget(options: EvaluateOptions) -> None:
    if not options.budget.isdecimal() or int(options.budget) < 1:
        raise SettingsError(f"--budget {options.budget!r} is not a whole number of at least 1.")


def _is_pretrained(run: Path) -> bool:
    from ..evaluations.pretraining import KIND

    return kind_of(run) == KIND


def _load(options: EvaluateOptions, source: Path) -> tuple[Any, str, int]:
    """Return the agent, the task, and the seed of the held-out episodes."""
    import torch

    if source.is_dir():
        from ..evaluations.training import load_trained

        agent, trained = load_trained(source)
        torch.set_num_threads(trained.threads)  # as in its training, so that the same episodes bring the same returns
        seed = trained.evaluation_seed if options.seed is None else options.seed
        return agent, options.task or trained.task, seed
    if not source.exists():
        raise RunFolderError(f"There is no {source}, seen from {Path.cwd()}.")
    if options.task is None:
        raise SettingsError(
            f"{source} is not a run folder; to evaluate an agent's file, say where: --task InvertedPendulum-v5."
        )
    torch.set_num_threads(1)
    return _load_file(source), options.task, options.seed or 0


def _load_file(path: Path) -> Any:
    from ..agents.registry import agents
    from ..core.files import load_archive

    document = load_archive(path).documents.get("agent")
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str) or not kind.endswith("-agent"):
        raise CheckpointError(f"{path} holds no agent.")
    return agents.get(kind.removesuffix("-agent")).load(path)


def swap_planners(agent: Any, task: str, planners: Sequence[str], **how: Any) -> PlannerTable:
    """Evaluate ``agent`` by each of ``planners``, tell on standard error how it goes, and print the table.

    Args:
        agent: has a world model to plan in.
        task: where it acts.
        planners: registered names, alone or followed by settings.
        how: passed on to :func:`~forethought.evaluations.planner_table.evaluate_planners`.
    """
    from ..evaluations.planner_table import evaluate_planners
    from ..planners import available_planners

    target = console(stderr=True)
    live, done = is_live(target), 0
    with target.status("Evaluating") if live else nullcontext() as status:

        def tell(row: PlannerRow) -> None:
            nonlocal done
            done += 1
            if status is not None:
                status.update(f"Evaluating: {counted(done, 'planner')} done")
            else:
                unfit = f"not for these actions, which {', '.join(available_planners(agent.spec))} plan"
                print(f"{row.name}: {row.evaluation or unfit}", file=sys.stderr)

        table = evaluate_planners(agent, task, planners, on_row=tell, **how)
    print_table(table.table())
    return table
