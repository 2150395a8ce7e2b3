"""Planners: minimise any batched cost over action sequences. They know torch, and nothing of models or tasks.

``make_planner("icem", spec, horizon=10, budget=300)`` builds one; each stands in a file of its own, beside its paper.
A new one is a class derived from :class:`Planner`, under :func:`register_planner`, that passes :func:`check_planner`.
"""

from __future__ import annotations

from .base import (
    Planner,
    PlannerSettings,
    PopulationSettings,
    available_planners,
    make_planner,
    planner_class,
    planner_summary,
    register_planner,
)
from .check import check_planner, example_specs
from .instruments import BrokenPromise
from .search import Objective, ObjectiveError, Search
from .spec import ActionSpec
from .state import Plan, PlanState, Trace

__all__ = [
    "ActionSpec",
    "BrokenPromise",
    "Objective",
    "ObjectiveError",
    "Plan",
    "PlanState",
    "Planner",
    "PlannerSettings",
    "PopulationSettings",
    "Search",
    "Trace",
    "available_planners",
    "check_planner",
    "example_specs",
    "make_planner",
    "planner_class",
    "planner_summary",
    "register_planner",
]
