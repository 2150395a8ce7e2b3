"""Going on from a pretrained world model: what an agent takes over from it, and what it builds anew.

Weights, the statistics of observations and actions, and the settings are taken over. Heads for reward and continuation,
without which nothing could be planned for, are built anew where the model has none: they begin at zero, so that they
move nothing before they have learned something. The optimiser begins anew, too, because a saved model has none.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, SettingsError
from ..core.runs import Run, holds_run
from ..core.settings import merged
from ..envs import ActionCodec, ObservationCodec
from ..world_model import JEPA, JEPASettings, load_model
from ..world_model.saving import MODEL_FILE

HEADS = ("reward_head.", "continue_head.")
OPEN_SETTINGS = {
    "heads",
    "context",
    "unroll",
    "prediction",
    "rollout_weight",
    "target_refresh",
    "regularizer_weight",
    "regularize_mean",
    "directions",
    "reward_weight",
    "continue_weight",
    "transformer.dropout",
}
"""What of a pretrained model's settings may be changed: how it learns and acts, but not what it is."""


def pretrained_model(source: JEPA | str | os.PathLike[str]) -> JEPA:
    """Return the world model that ``source`` is or holds, on the CPU; of a run that is not finished, with a warning.

    Args:
        source: the folder of a run of ``forethought pretrain``, a file of :func:`~forethought.world_model.save_model`,
            or a model, of which a copy is returned.

    Raises:
        CheckpointError: there is no world model, or the file is damaged.
    """
    if isinstance(source, JEPA):
        return copy.deepcopy(source).cpu()
    if not isinstance(source, str | os.PathLike):
        raise SettingsError(f"world_model is the folder of a run, a file or a JEPA, not {type(source).__name__}.")
    path = Path(source)
    if path.is_dir():
        path = path / MODEL_FILE
        if not path.exists():
            raise CheckpointError(
                f"{source} holds no world model ({MODEL_FILE}): give the folder of a run of forethought pretrain that "
                "has saved one."
            )
        if holds_run(source) and (status := Run.open(source).status) != "finished":
            warnings.warn(f"{source} is {status}: the world model is what was saved of it last.", stacklevel=1)
    elif not path.exists() and not path.suffix:
        raise CheckpointError(f"There is no folder {source} of a pretraining run, seen from {Path.cwd()}, and no file.")
    return load_model(path)[0]


def settings_from(pretrained: JEPA, changes: Any = None) -> JEPASettings:
    """Return the settings with which an agent goes on learning ``pretrained``: its own, with heads.

    Args:
        pretrained: the world model.
        changes: those of :class:`JEPASettings` that are asked for, as a mapping, or whole settings.

    Raises:
        SettingsError: for a change of what the model is, naming it.
    """
    own = pretrained.settings.to_dict()
    going_on = {**own, "heads": True}
    if changes is None:
        return JEPASettings.from_dict(going_on)
    if isinstance(changes, JEPASettings):
        changes = changes.to_dict()
    if isinstance(changes, Mapping):
        changes = merged(going_on, {name: value for name, value in changes.items() if value != "auto"})
    asked = JEPASettings.from_dict(changes)
    for name, ours, theirs in _differences(asked.to_dict(), own):
        if name not in OPEN_SETTINGS and not (name == "reward_bins" and pretrained.reward_head is None):
            raise SettingsError(
                f"JEPAAgentSettings.model.{name} = {ours!r} contradicts the pretrained world model, which has "
                f"{theirs!r}: leave it out."
            )
    return asked


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name, value in ours.items():
        if isinstance(value, Mapping) and isinstance(theirs[name], Mapping):
            yield from _differences(value, theirs[name], f"{prefix}{name}.")
        elif value != theirs[name]:
            yield prefix + name, value, theirs[name]


def require_spaces(pretrained: JEPA, observations: ObservationCodec, actions: ActionCodec) -> None:
    """Raise :class:`SettingsError` unless the world model takes these observations and actions."""
    block = pretrained.settings.block
    if tuple(pretrained.observation_shape) != observations.shape:
        raise SettingsError(
            f"The pretrained world model takes observations of the shape {tuple(pretrained.observation_shape)}; those "
            f"of the environment have the shape {observations.shape}."
        )
    if pretrained.action_dims != block * actions.dims:
        raise SettingsError(
            f"The pretrained world model takes blocks of {block} actions of {pretrained.action_dims / block:g} "
            f"dimensions; those of the environment have {actions.dims}."
        )


def take_over(model: JEPA, pretrained: JEPA) -> list[str]:
    """Give ``model``, which was built with :func:`settings_from`, all weights and statistics of ``pretrained``.

    Returns:
        The heads that it keeps its own weights of, because ``pretrained`` has none.

    Raises:
        SettingsError: the pretrained model has parts that its settings do not describe.
    """
    if pretrained.replaced:
        raise SettingsError(
            f"The pretrained world model has parts of its own making ({', '.join(sorted(pretrained.replaced))}), which "
            "an agent cannot build from its settings."
        )
    weights = pretrained.state_dict()
    fresh = {name: w for name, w in model.state_dict().items() if name not in weights and name.startswith(HEADS)}
    try:
        model.load_state_dict({**weights, **fresh})
    except RuntimeError as error:
        raise SettingsError(f"The pretrained world model is not what its settings say: {error}.") from error
    return sorted({name.partition(".")[0] for name in fresh})
