"""True states of environments: what a simulator could go on from, beside what it lets an agent see.

They are recorded with observations, so that an evaluation can start where a recorded episode was, and a latent can be
asked what it knows. Agents never learn from them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault

State = NDArray[np.float64]


def state_of(env: gym.Env[Any, Any]) -> State | None:
    """Return the state (S,) in which an environment is, a copy, or nothing where it tells none.

    MuJoCo environments tell positions and velocities; others may have an attribute ``state`` of numbers.
    """
    bare: Any = env.unwrapped
    if is_mujoco(bare):
        return np.concatenate([bare.data.qpos, bare.data.qvel]).astype(np.float64)
    state = getattr(bare, "state", None)
    if state is None or isinstance(state, str):
        return None
    try:
        numbers = np.array(state, np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.ndim == 1 and numbers.size else None


def start_from(env: gym.Env[Any, Any], state: State, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Begin an episode in ``state`` (S,), as :func:`state_of` returned it, and return its observation and info.

    Tasks that take ``options={"state": ...}`` at their reset are given it; MuJoCo environments are put there.

    Raises:
        EnvironmentFault: for environments that cannot be put anywhere, or not there.
    """
    bare: Any = env.unwrapped
    if not is_mujoco(bare):
        observation, info = env.reset(seed=seed, options={"state": state})
        reached = state_of(env)
        if reached is None or not np.array_equal(reached, state):
            raise EnvironmentFault(f"{env} cannot be started in a given state: its reset does not take the option.")
        return observation, info
    _, info = env.reset(seed=seed)
    positions, velocities = np.split(np.asarray(state, np.float64), [bare.model.nq])
    if velocities.shape != (bare.model.nv,):
        raise EnvironmentFault(
            f"{env} has {bare.model.nq} positions and {bare.model.nv} velocities, not {len(state)} numbers in all."
        )
    bare.set_state(positions, velocities)
    return bare._get_obs(), info


def diverged(env: gym.Env[Any, Any]) -> bool:
    """Return whether MuJoCo has given up a state of this episode, because it was not finite or too large.

    It then begins anew from the model's initial state by itself, and whoever steps it is told nothing.
    """
    warnings = getattr(getattr(env.unwrapped, "data", None), "warning", None)
    return warnings is not None and any(warnings[kind].number for kind in _given_up())


@cache
def _given_up() -> tuple[int, ...]:
    from mujoco import mjtWarning

    return tuple(
        int(kind) for kind in (mjtWarning.mjWARN_BADQPOS, mjtWarning.mjWARN_BADQVEL, mjtWarning.mjWARN_BADQACC)
    )


def is_mujoco(bare: Any) -> bool:
    """Whether an unwrapped environment is one of MuJoCo, as Gymnasium makes them."""
    return all(hasattr(bare, name) for name in ("data", "model", "set_state", "_get_obs")) and hasattr(
        bare.data, "qpos"
    )
