"""Forethought: learn a world model that predicts in representation space, and think ahead in it.

The names below are the public front door. They are imported on first use, so ``import forethought`` loads neither
torch nor Stable-Baselines3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "JEPA": "world_model",
    "load_lewm": "world_model",
    "ActionSpec": "planners",
    "Plan": "planners",
    "make_planner": "planners",
    "available_planners": "planners",
    "register_planner": "planners",
    "check_planner": "planners",
    "make_env": "envs",
    "available_tasks": "envs",
    "register_task": "envs",
    "EpisodeStore": "envs",
    "JEPAAgent": "agents",
    "Controller": "agents",
    "SurpriseMonitor": "agents",
    "make_agent": "agents",
    "quantity": "agents",
    "available_agents": "agents",
    "register_agent": "agents",
    "evaluate": "evaluations",
    "compare": "evaluations",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'forethought' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .agents import Controller as Controller
    from .agents import JEPAAgent as JEPAAgent
    from .agents import SurpriseMonitor as SurpriseMonitor
    from .agents import available_agents as available_agents
    from .agents import make_agent as make_agent
    from .agents import quantity as quantity
    from .agents import register_agent as register_agent
    from .envs import EpisodeStore as EpisodeStore
    from .envs import available_tasks as available_tasks
    from .envs import make_env as make_env
    from .envs import register_task as register_task
    from .evaluations import compare as compare
    from .evaluations import evaluate as evaluate
    from .planners import ActionSpec as ActionSpec
    from .planners import Plan as Plan
    from .planners import available_planners as available_planners
    from .planners import check_planner as check_planner
    from .planners import make_planner as make_planner
    from .planners import register_planner as register_planner
    from .world_model import JEPA as JEPA
    from .world_model import load_lewm as load_lewm
