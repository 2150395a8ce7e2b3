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
from ..core.settings import Settings, completed, field_names, merged, without_unknown
from .results import noted_settings
from .settings import TrainSettings, differences, list_changes

IDENTITY = {"task", "agent", "seed", "world_model"}
"""Settings without which a run is another one. Others may be changed before it is resumed, where the agent still
fits its checkpoint: more steps, or a smaller batch where memory was short."""


def settings_to_go_on_with(run: Run, checkpoint: Checkpoint, asked: TrainSettings) -> TrainSettings:
    """Return what a run goes on with: what its agent had, but for what is asked for otherwise than before.

    So defaults that have changed since change nothing. What is not asked for any more has its default of today, and
    settings that there are no more are left out.

    Args:
        run: about to go on.
        checkpoint: from which it does.
        asked: by its ``config.json`` today.

    Raises:
        RunFolderError: that is another run.
    """
    before, had = _asked_before(checkpoint), _agent_settings(checkpoint)
    changes = list_changes(before, asked)
    if changes.keys() & IDENTITY:
        raise RunFolderError(
            f"{run.folder / 'config.json'} was changed into that of another run ({'; '.join(changes.values())}): undo "
            "that, or train in another folder."
        )
    known = None if had is None else getattr(agents.get(asked.agent), "Settings", None)
    if had is None or not (isinstance(known, type) and issubclass(known, Settings)):
        return asked
    words = (_spelled_out(one.agent_settings, known) for one in (before, asked))
    return asked.replace(agent_settings=_altered(completed(known, without_unknown(known, had)), *words))


def check_changes(run: Run, checkpoint: Checkpoint, asked: TrainSettings, agent_settings: dict[str, Any]) -> bool:
    """Return whether what is learned stays the same, and warn of any change.

    Args:
        run: about to go on.
        checkpoint: from which it does.
        asked: by its ``config.json`` today.
        agent_settings: all those that the agent has with which it goes on, if it tells.
    """
    before, had = _asked_before(checkpoint), _agent_settings(checkpoint)
    changes = list_changes(before, asked)
    if had is not None and agent_settings:  # it is what the agent has that counts, not in what words it was asked for
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


def _spelled_out(words: Mapping[str, Any], known: type[Settings]) -> dict[str, Any]:
    """Return the settings that an agent is asked for, with the planner where it belongs."""
    if "planner" not in words or "planner" in field_names(known):
        return dict(words)
    others = {name: value for name, value in words.items() if name != "planner"}
    return merged(merged({"planning": {}}, others), {"planning": {"planner": words["planner"]}})


def _altered(had: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``had`` with what is asked for ``now`` and was not ``before``; what is not any more is left out."""
    result = dict(had)
    for name in dict.fromkeys([*before, *now]):
        if name in before and name in now and before[name] == now[name]:
            continue
        have, said, says = had.get(name), before.get(name, {}), now.get(name, {})
        if isinstance(have, Mapping) and isinstance(said, Mapping) and isinstance(says, Mapping):
            result[name] = _altered(have, said, says)
        elif name in now:
            result[name] = now[name]
        else:
            result.pop(name, None)
    return result
