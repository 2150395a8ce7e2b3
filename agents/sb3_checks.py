"""What Stable-Baselines3 would accept and fail on later, or in words of its own: found before a baseline is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..core.errors import SettingsError, UnsupportedSpaceError, did_you_mean
from ..core.settings import Range, check_value
from ..envs import ActionCodec, ObservationCodec
from .registry import agents

OURS = {"policy", "env", "seed", "verbose", "tensorboard_log", "device", "_init_setup_model"}
RANGES = {
    "learning_rate": Range(gt=0),
    "buffer_size": Range(ge=1),
    "learning_starts": Range(ge=0),
    "batch_size": Range(ge=2),
    "tau": Range(gt=0, le=1),
    "gamma": Range(ge=0, le=1),
    "gae_lambda": Range(ge=0, le=1),
    "train_freq": Range(ge=1),
    "gradient_steps": Range(ge=-1),
    "n_steps": Range(ge=1),
    "n_epochs": Range(ge=1),
    "action_noise": Range(ge=0),
    "policy_delay": Range(ge=1),
    "target_update_interval": Range(ge=1),
    "exploration_fraction": Range(gt=0, le=1),
    "exploration_initial_eps": Range(ge=0, le=1),
    "exploration_final_eps": Range(ge=0, le=1),
}


def check_settings(name: str, algorithm: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, each of the type that the SB3 class's signature asks for and in its range.

    Args:
        name: of the baseline, for messages.
        algorithm: the SB3 class.
        settings: its keyword arguments; ``action_noise`` as a standard deviation.

    Raises:
        SettingsError: for one that does not exist, naming the closest, that does not fit, or that JSON cannot hold.
    """
    parameters = inspect.signature(algorithm).parameters
    known = [parameter for parameter in parameters if parameter not in OURS]
    checked = {}
    for setting, value in settings.items():
        if setting not in known:
            raise SettingsError(f"{name} has no setting {setting!r}.{did_you_mean(setting, known)}")
        hint: Any = float | None if setting == "action_noise" else parameters[setting].annotation
        if setting in RANGES:
            hint = Annotated[hint, RANGES[setting]]
        checked[setting] = check_value(f"{name}.{setting}", value, hint)
        if not _is_plain(checked[setting]):
            raise SettingsError(
                f"{name}.{setting} = {value!r} could not be saved without code: use numbers, strings, lists and "
                "mappings of them."
            )
    return checked


def check_spaces(
    name: str, acts_in: tuple[type[gym.Space[Any]], ...], observations: gym.Space[Any], actions: gym.Space[Any]
) -> None:
    """Raise :class:`UnsupportedSpaceError` for spaces that the baseline cannot learn in, naming agents that can."""
    if len(ObservationCodec(observations).shape) > 1:
        raise UnsupportedSpaceError(
            f"The observations are images, of shape {observations.shape}; the baselines learn from states. Use an "
            "environment that observes its state."
        )
    ActionCodec(actions)
    if not isinstance(actions, acts_in):
        fitting = [other for other, agent in agents.items() if isinstance(actions, getattr(agent, "acts_in", object))]
        raise UnsupportedSpaceError(
            f"{name} acts in {' or '.join(kind.__name__ for kind in acts_in)}, and this environment's actions are "
            f"{actions}. Agents that fit: {', '.join(fitting)}."
        )
    parts = observations.spaces.values() if isinstance(observations, spaces.Dict) else [observations]
    if any(_starts_elsewhere(space) for space in (actions, *parts)):
        raise UnsupportedSpaceError(
            f"{name} counts discrete values from 0, as all of Stable-Baselines3 does, and this environment does not: "
            f"{observations}, {actions}. The agents jepa and random take it as it is; for {name}, shift it with "
            "gymnasium.wrappers.TransformAction or TransformObservation."
        )
    fixed = isinstance(actions, spaces.Box) and bool((actions.low == actions.high).any())
    if fixed and spaces.Discrete not in acts_in:  # those for Box alone squash actions, and divide by the range
        raise UnsupportedSpaceError(
            f"{name} cannot act where a dimension of the actions has one value only, as in {actions}. Leave it out "
            "with gymnasium.wrappers.TransformAction."
        )


def _starts_elsewhere(space: gym.Space[Any]) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and bool(np.any(space.start))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)
