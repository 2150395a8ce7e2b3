"""Environments: by name, coded to flat vectors, stepped in batches, and remembered.

The names below are imported on first use, so that a worker process that only makes environments does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "make_env": "tasks",
    "available_tasks": "tasks",
    "register_task": "tasks",
    "TASKS": "tasks",
    "make_environments": "making",
    "Environments": "environments",
    "Supervision": "supervision",
    "Transition": "transition",
    "ObservationCodec": "codecs",
    "ActionCodec": "codecs",
    "EpisodeStore": "store",
    "check_environment": "check",
    "Check": "check",
    "episode_seed": "vectors",
    "quiet_mujoco": "quiet",
    "perturb": "perturbations",
    "perturbations_for": "perturbations",
    "NominalScale": "perturbations",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .check import Check as Check
    from .check import check_environment as check_environment
    from .codecs import ActionCodec as ActionCodec
    from .codecs import ObservationCodec as ObservationCodec
    from .environments import Environments as Environments
    from .making import make_environments as make_environments
    from .perturbations import NominalScale as NominalScale
    from .perturbations import perturb as perturb
    from .perturbations import perturbations_for as perturbations_for
    from .quiet import quiet_mujoco as quiet_mujoco
    from .store import EpisodeStore as EpisodeStore
    from .supervision import Supervision as Supervision
    from .tasks import TASKS as TASKS
    from .tasks import available_tasks as available_tasks
    from .tasks import make_env as make_env
    from .tasks import register_task as register_task
    from .transition import Transition as Transition
    from .vectors import episode_seed as episode_seed
