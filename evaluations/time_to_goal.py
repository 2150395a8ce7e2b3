"""add_time_to_goal: what a pretrained world model lacks to reach goals behind walls, learned beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..agents.time_to_goal import TimeToGoalSettings, learn_time_to_goal
from ..core.errors import RunFolderError
from ..core.locks import FolderLock
from ..core.runs import Run
from ..world_model import JEPA, Quasimetric
from .clock import Clock
from .pretraining import MODEL_FILE, load_pretrained, pretrain_settings_of, training_of
from .stage import limited_threads

TIME_TO_GOAL_FILE = "time_to_goal.zip"
MEASURED_UPDATES = 100
"""The last updates, over which measures are averaged."""


def add_time_to_goal(
    folder: str | os.PathLike[str],
    settings: TimeToGoalSettings | None = None,
    on_update: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Learn how many steps lie between observations, from the episodes that a run's world model learned from.

    Args:
        folder: of a run that :func:`~.pretraining.pretrain` made, which has saved a world model.
        settings: see :class:`~forethought.agents.time_to_goal.TimeToGoalSettings`.
        on_update: see :func:`~forethought.agents.time_to_goal.learn_time_to_goal`.

    Returns:
        The file, in the run's folder; and what is written in it of how it came about: ``settings``, ``cpu_seconds``,
        and the mean measures of the last 100 updates.

    Raises:
        RunFolderError: no such run, one without a world model, or one that another process is writing to.
        CheckpointError: the store is gone or damaged, or the model is.
        WriteError: no room for the file.
    """
    run, settings = Run.open(folder), settings or TimeToGoalSettings()
    pretrained = pretrain_settings_of(run)
    lock, clock = FolderLock(run.folder), Clock()
    try:
        with limited_threads(pretrained.threads):
            model, _ = load_pretrained(run.folder)
            training = training_of(run)
            history: list[dict[str, float]] = []

            def note(update: int, measures: dict[str, float]) -> None:
                history.append(measures)
                if on_update is not None:
                    on_update(update, measures)

            learned = learn_time_to_goal(
                model.to(training.device), training.store, training.learned, settings, pretrained.seed, note
            )
        last = history[-MEASURED_UPDATES:]
        source = {
            "model": _fingerprint(run.folder),
            "settings": settings.to_dict(),
            "cpu_seconds": clock.cpu_seconds,
            "measures": {name: sum(measures[name] for measures in last) / len(last) for name in last[0]},
        }
        return learned.save(run.folder / TIME_TO_GOAL_FILE, source), source
    finally:
        lock.release()


def load_time_to_goal(folder: str | os.PathLike[str]) -> tuple[JEPA, Quasimetric]:
    """Return a run's world model, and how many steps lie between its latents.

    Raises:
        RunFolderError: nothing was learned of that yet, or the world model has learned on since.
        CheckpointError: a damaged file.
    """
    model, _ = load_pretrained(folder)
    path = Path(folder) / TIME_TO_GOAL_FILE
    command = f"forethought time-to-goal {folder}"
    if not path.exists():
        raise RunFolderError(f"{folder} knows no time to goal yet; learn it: {command}")
    learned, source = Quasimetric.load(path)
    if source.get("model") != _fingerprint(Path(folder)):
        raise RunFolderError(f"The world model of {folder} has changed since its time to goal was learned; {command}")
    return model, learned


def _fingerprint(folder: Path) -> str:
    return hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
