"""``forethought list``: every name that the other commands know, explained in a line."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
from tyro.conf import Positional

from ..core.errors import how_to_add
from ..core.settings import field_names
from .console import print_entries
from .options import parse


@dataclass(frozen=True)
class ListOptions:
    """List planners, agents, tasks, benchmarks and perturbations, each explained in a line."""

    what: Positional[Literal["all", "planners", "agents", "tasks", "benchmarks", "perturbations"]] = "all"
    """Which names."""


def run(arguments: Sequence[str]) -> int:
    """List what is asked for."""
    what = parse(ListOptions, "list", arguments).what
    kinds = {"planners": _planners, "agents": _agents, "tasks": _tasks, "benchmarks": _benchmarks}
    kinds["perturbations"] = _perturbations
    for index, kind in enumerate(kinds if what == "all" else [what]):
        print("\n" if index else "", end="")
        print_entries(kind, kinds[kind]())
    return 0


def _planners() -> list[tuple[str, str]]:
    from ..planners import ActionSpec, available_planners, planner_class, planner_summary

    kinds = {"continuous": gym.spaces.Box(-1, 1, (1,)), "discrete": gym.spaces.Discrete(2)}
    plan = {kind: available_planners(ActionSpec.from_space(space)) for kind, space in kinds.items()}
    entries = []
    for name in available_planners():
        actions = " and ".join(kind for kind, planners in plan.items() if name in planners)
        settings = ", ".join(field_names(planner_class(name).Settings))
        entries.append((name, f"{planner_summary(name)} Actions: {actions or 'others'}. Settings: {settings}."))
    return entries


def _agents() -> list[tuple[str, str]]:
    from ..agents.registry import agents

    entries = []
    for name, agent in agents.items():
        package = getattr(agent, "algorithm", "").partition(":")[0]
        missing = package and importlib.util.find_spec(package) is None
        note = f" Not installed: {how_to_add('contrib')}" if missing else ""
        entries.append((name, agents.summary(name) + note))
    return entries


def _tasks() -> list[tuple[str, str]]:
    from ..envs import TASKS

    return [(name, TASKS.summary(name)) for name in TASKS.names()] + [
        ("...", "Any other Gymnasium id, and module:Name-v0 from an installed module or one in this folder.")
    ]


def _benchmarks() -> list[tuple[str, str]]:
    from ..evaluations.benchmark import available_benchmarks, benchmark_summary

    return [(name, benchmark_summary(name)) for name in available_benchmarks()]


def _perturbations() -> list[tuple[str, str]]:
    from ..envs.perturbations import PERTURBATIONS

    kinds = [(name, PERTURBATIONS.get(name)) for name in PERTURBATIONS.names()]
    return [
        (name, f"{PERTURBATIONS.summary(name)} Strength ({kind.standard:g}): {kind.meaning}.") for name, kind in kinds
    ]
