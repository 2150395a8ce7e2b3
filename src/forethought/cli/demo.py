"""``forethought demo``: a JEPA agent and SAC learn one MuJoCo task side by side, and what they learned is shown."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..core.settings import Range, Settings
from .console import console, is_live, print_entries
from .options import parse

TASK = "InvertedPendulum-v5"
TIMES_RANDOM = 5.0


@dataclass(frozen=True)
class DemoOptions(Settings):
    """Train a JEPA agent and SAC on InvertedPendulum-v5 side by side, swap planners, and write a report."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("demo")
    """Folder for everything; runs that are finished in it are not made again."""
    steps: Annotated[int, Range(ge=1)] = 6_000
    """Environment steps of each agent."""
    evaluations: Annotated[int, Range(ge=1)] = 5
    """Evaluations of each agent, evenly spread."""
    episodes: Annotated[int, Range(ge=1)] = 3
    """Held-out episodes per evaluation and planner."""
    budget: Annotated[int, Range(ge=1)] = 64
    """Evaluations + 2 x gradients that each planner may spend on a decision."""


def run(arguments: Sequence[str]) -> int:
    """Train, swap planners, report; end with 1 if the agent does not act far better than at random."""
    options = parse(DemoOptions, "demo", arguments)
    from ..evaluations.compare import CompareSettings, compare
    from ..evaluations.report import report
    from ..evaluations.views import ComparisonView
    from .compare import print_summary

    settings = CompareSettings(
        tasks=(TASK,),
        agents=("jepa", "sac"),
        seeds=1,
        steps=options.steps,
        evaluations=options.evaluations,
        episodes=options.episodes,
        jobs=2,
    )
    target = console(stderr=True)
    with ComparisonView(target, is_live(target)) as view:
        summary = compare(settings, options.out, view)
    folder = options.out / TASK / "jepa" / "seed_0"
    print_summary(summary)
    _swap_planners(folder, options)
    written = report(options.out)
    places = [("report", written.html), *(("plot", plot) for plot in written.plots)]
    places += [("film", film) for film in sorted(options.out.rglob("videos/*.*"))]
    print_entries("Look at", [(what, str(path)) for what, path in places])
    return judge(folder, options.out)


def _swap_planners(folder: Path, options: DemoOptions) -> None:
    """Let the trained agent act by one planner after another, and keep the table for the report."""
    import torch

    from ..evaluations.planner_table import PLANNERS
    from ..evaluations.training import load_trained
    from .evaluate import swap_planners

    agent, trained = load_trained(folder)
    torch.set_num_threads(trained.threads)
    how = {"budget": options.budget, "episodes": options.episodes, "seed": trained.evaluation_seed}
    swap_planners(agent, TASK, PLANNERS, **how).save(folder / "planners.json")


def judge(folder: Path, out: Path) -> int:
    """Say whether the agent of a run acts far better than at random; return the exit code."""
    from ..evaluations.results import read_run

    result = read_run(folder)
    if result.random_return is None or not len(result.returns):
        print(f"forethought: {folder} holds no evaluation, so nothing can be said of it.", file=sys.stderr)
        return 1
    learned, random = result.returns[-1], result.random_return
    if not learned >= TIMES_RANDOM * random:
        print(
            f"forethought: the agent returns {learned:,.1f}, which is less than {TIMES_RANDOM:g} times the "
            f"{random:,.1f} of acting at random: it has not learned. Delete {shlex.quote(str(out))} to try again.",
            file=sys.stderr,
        )
        return 1
    print(f"The agent returns {learned:,.1f} after {result.steps[-1]:,.0f} steps; acting at random, {random:,.1f}.")
    return 0
