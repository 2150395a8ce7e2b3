"""Agents: where world model, planners and environments meet. Names are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .behaviour import Behaviour as Behaviour
    from .behaviour import BehaviourSettings as BehaviourSettings
    from .controller import Controller as Controller
    from .controller import ControllerState as ControllerState
    from .jepa_agent import JEPAAgent as JEPAAgent
    from .objective import RewardObjective as RewardObjective
    from .policy import PlanningPolicy as PlanningPolicy
    from .registry import available_agents as available_agents
    from .registry import make_agent as make_agent
    from .registry import register_agent as register_agent
    from .settings import JEPAAgentSettings as JEPAAgentSettings
    from .settings import PlanningSettings as PlanningSettings
    from .surprise import Surprise as Surprise
    from .surprise import SurpriseMonitor as SurpriseMonitor
    from .surprise import SurpriseSettings as SurpriseSettings
    from .surprise_wrappers import SurpriseWrapper as SurpriseWrapper
    from .surprise_wrappers import VectorSurpriseWrapper as VectorSurpriseWrapper
    from .wish import Wish as Wish
    from .wish import effort as effort
    from .wish import quantity as quantity
    from .wish import reward as reward

_HOME = {
    "Behaviour": "behaviour",
    "BehaviourSettings": "behaviour",
    "Controller": "controller",
    "ControllerState": "controller",
    "JEPAAgent": "jepa_agent",
    "JEPAAgentSettings": "settings",
    "PlanningPolicy": "policy",
    "PlanningSettings": "settings",
    "RewardObjective": "objective",
    "Surprise": "surprise",
    "SurpriseMonitor": "surprise",
    "SurpriseSettings": "surprise",
    "SurpriseWrapper": "surprise_wrappers",
    "VectorSurpriseWrapper": "surprise_wrappers",
    "Wish": "wish",
    "available_agents": "registry",
    "effort": "wish",
    "make_agent": "registry",
    "quantity": "wish",
    "register_agent": "registry",
    "reward": "wish",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
