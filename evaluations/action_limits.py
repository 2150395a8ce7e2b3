"""Limits on actions, said by the names of actuators."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np

from ..core.errors import SettingsError, UnknownNameError, did_you_mean
from ..envs.states import is_mujoco

ALL = "all"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_LIMIT = re.compile(rf"([\w-]+)\s*=\s*({_NUMBER})(?:\s*:\s*({_NUMBER}))?")


def action_limits(env: gym.Env[Any, Any], text: str) -> gym.spaces.Box:
    """Return the box of native actions that a text such as ``"bthigh=0, bshin=-0.2:0.5, all=0.8"`` leaves.

    Each part is an actuator's name (in MuJoCo), its number from 0, or ``all``, and then the largest size of its action,
    or its lowest and highest value. Parts that speak of the same actuator hold together.

    Args:
        env: whose actions they are.
        text: parts separated by commas.

    Raises:
        UnknownNameError: an actuator that there is not; it names the closest, and all there are.
        SettingsError: another text, actions that are no box, or limits that leave nothing.
    """
    space = env.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise SettingsError(f"Limits are for actions that are rows of numbers, not for {space}.")
    names = _actuators(env, len(space.low))
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    for part in text.split(","):
        found = _LIMIT.fullmatch(part.strip())
        if found is None:
            raise SettingsError(f"{part.strip()!r} is no limit: say NAME=SIZE or NAME=LOW:HIGH, such as bthigh=0.5.")
        name, first, second = found.groups()
        sides = (-abs(float(first)), abs(float(first))) if second is None else (float(first), float(second))
        chosen = range(len(low)) if name == ALL else [_index(name, names)]
        for index in chosen:
            low[index], high[index] = max(low[index], sides[0]), min(high[index], sides[1])
            if low[index] > high[index]:
                raise SettingsError(f"These limits leave nothing of the actuator {names[index]!r}: {text!r}.")
    return gym.spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)


def _actuators(env: gym.Env[Any, Any], count: int) -> list[str]:
    """Return what actuators are called."""
    numbers = [str(index) for index in range(count)]
    bare: Any = env.unwrapped
    if not is_mujoco(bare) or bare.model.nu != count:
        return numbers
    return [bare.model.actuator(index).name or numbers[index] for index in range(count)]


def _index(name: str, names: list[str]) -> int:
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise UnknownNameError(f"There is no actuator {name!r}.{did_you_mean(name, [*names, ALL])}")
