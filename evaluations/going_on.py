"""Going on: with what settings a run does, and whether it still is the one that was never broken off."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

from ..agents.registry import agents
from ..core.checkpoints import Checkpoint
from ..core.errors import RunFolderError
from ..core.files import as_json
from ..core.provenance import list_changes as list_other_conditions
from ..core.runs import Run
from ..core.settings import merged
from .results import noted_settings
from .settings import TrainSettings, differences, list_changes

IDENTITY = {"task", "agent", "seed", "world_model"}
"""Settings without which a run is another one. Others may be changed before it is resumed, where the agent still
fits its checkpoint: more steps, or a smaller batch where memory was short."""


def settings_to_go_on_with(checkpoint: Checkpoint, asked: TrainSettings) -> TrainSettings:
    """Return what a run goes on with: what its agent had, but for what is asked for otherwise since.

    So defaults that have changed since change nothing. Settings that there are no more are left out.

    Args:
        checkpoint: of the run.
        asked: by its ``config.json`` today.
    """
    had = _agent_settings(checkpoint)
    known = None if had is None else getattr(agents.get(asked.agent), "Settings", None)
    if had is None or known is None:
        return asked
    before = _asked_before(checkpoint).agent_settings
    kept = _still_meant(had, known().to_dict(), before, asked.agent_settings)
    return asked.replace(agent_settings=merged(kept, asked.agent_settings))


def check_changes(run: Run, checkpoint: Checkpoint, asked: TrainSettings, agent_settings: dict[str, Any]) -> bool:
    """Return whether what is learned stays the same; warn of any change, and refuse another run's settings.

    Args:
        run: about to go on.
        checkpoint: from which it does.
        asked: by its ``config.json`` today.
        agent_settings: all those that the agent has with which it goes on.

    Raises:
        RunFolderError: its ``config.json`` asks for another run.
    """
    before, had = _asked_before(checkpoint), _agent_settings(checkpoint)
    changes = list_changes(before, asked)
    if changes.keys() & IDENTITY:
        raise RunFolderError(
            f"{run.folder / 'config.json'} was changed into that of another run ({'; '.join(changes.values())}): undo "
            "that, or train in another folder."
        )
    if had is not None:  # then it is what the agent has that counts, not the words in which it was asked for
        noted = noted_settings(before, {"agent_settings": had})
        changes = list_changes(before, asked.replace(agent_settings=before.agent_settings))
        changes |= differences(as_json(noted), as_json(agent_settings), "agent_settings.")
    if changes:
        warnings.warn(f"{run.folder} goes on with other settings: {'; '.join(changes.values())}.", stacklevel=3)
    return not any(name.startswith("agent_settings.") for name in changes)


def has_been_exact(run: Run) -> bool:
    """Whether the run never went on otherwise than the unbroken one, by what it ran on or what was noted."""
    conditions = itertools.pairwise(run.manifest["starts"])
    return run.manifest.get("resume") != "inexact" and not any(list_other_conditions(*pair) for pair in conditions)


def _asked_before(checkpoint: Checkpoint) -> TrainSettings:
    return TrainSettings.from_dict(checkpoint.documents["run"]["settings"])


def _agent_settings(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return all settings that the agent in a checkpoint had; ``None`` where it does not hold them."""
    agent = checkpoint.documents.get("agent")
    settings = agent.get("settings") if isinstance(agent, dict) else None
    return settings if isinstance(settings, dict) else None


def _still_meant(
    had: Mapping[str, Any], known: Mapping[str, Any], before: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``had`` without settings that there are no more, and those that were asked for ``before`` and not now."""
    kept = {}
    for name, value in had.items():
        if name not in known:
            continue
        nested = known[name], before.get(name, {}), asked.get(name, {})
        if isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in nested):
            kept[name] = _still_meant(value, *nested)
        elif name not in before or name in asked:
            kept[name] = value
    return kept
