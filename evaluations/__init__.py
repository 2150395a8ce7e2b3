"""Evaluations: what an agent can do, measured on held-out episodes, compared with others, and reported.

Names that need torch are imported on first use. The others are imported here, also because :func:`evaluate`,
:func:`compare` and :func:`report` share their names with the modules that hold them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .compare import CompareSettings, compare, summarise_folders
from .evaluate import Evaluation, evaluate
from .planner_table import PlannerTable, evaluate_planners
from .report import Report, report
from .settings import Progress, TrainingResult, TrainSettings
from .summary import Summary

if TYPE_CHECKING:
    from .training import load_trained as load_trained
    from .training import resume as resume
    from .training import train as train

_HOME = {"load_trained": "training", "resume": "training", "train": "training"}

__all__ = [
    "evaluate",
    "Evaluation",
    "evaluate_planners",
    "PlannerTable",
    "train",
    "resume",
    "load_trained",
    "TrainSettings",
    "TrainingResult",
    "Progress",
    "compare",
    "CompareSettings",
    "summarise_folders",
    "Summary",
    "report",
    "Report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
