"""``make_environments``: from an id, a factory, an environment or a vector of them to :class:`Environments`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from ..core.errors import EnvironmentFault, ForethoughtError, SettingsError
from .adapters import GymnasiumVector, StableBaselinesVector
from .environments import Environments
from .quiet import quiet_mujoco
from .tasks import make_env
from .vectors import BuiltVector, Vector


def make_environments(
    env: Any,
    num_envs: int = 1,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Environments:
    """Bring whatever a user gives us to act in behind one interface.

    Args:
        env: a task name or id (see :func:`make_env`), a factory that returns a new environment at every call, one
            environment, a Gymnasium vector environment in any autoreset mode, or a Stable-Baselines3 ``VecEnv``.
            Of the first three we build the vector ourselves, seed every episode, and can resume exactly.
        num_envs: how many environments to build; a vector brings its own number.
        seed: of the run; episode seeds are derived from it.
        env_kwargs: passed to the id's environment or to the factory.

    Raises:
        SettingsError: if the arguments do not fit each other.
        UnknownNameError: for an unknown id.
        UnsupportedSpaceError: for spaces that cannot be coded.
        EnvironmentFault: if an environment cannot be built.
    """
    quiet_mujoco()
    if num_envs < 1:
        raise SettingsError(f"num_envs = {num_envs} is out of range: it must be at least 1.")
    kwargs = dict(env_kwargs or {})
    if _is_vec_env(env) or isinstance(env, VectorEnv | gym.Env):
        if kwargs:
            raise SettingsError("env_kwargs needs an id or a factory; this environment exists already.")
        own = 1 if isinstance(env, gym.Env) else env.num_envs
        if num_envs not in (1, own):
            raise SettingsError(f"num_envs = {num_envs}, but the given environment is {own}; give an id or a factory.")
    return Environments(_vector(env, num_envs, seed, kwargs))


def _vector(env: Any, num_envs: int, seed: int, kwargs: dict[str, Any]) -> Vector:
    if isinstance(env, VectorEnv):
        return GymnasiumVector(env, seed)
    if _is_vec_env(env):
        return StableBaselinesVector(env, seed)
    if isinstance(env, gym.Env):
        return BuiltVector([env], _name(env), seed)
    if isinstance(env, str):
        return BuiltVector([make_env(env, **kwargs) for _ in range(num_envs)], env, seed)
    if callable(env):
        built = [_call(partial(env, **kwargs)) for _ in range(num_envs)]
        if len({id(single.unwrapped) for single in built}) < num_envs:
            raise EnvironmentFault("The factory returned the same environment twice; it must make a new one each time.")
        return BuiltVector(built, _name(built[0]), seed)
    raise SettingsError(
        f"An environment is a name, a factory, a Gymnasium environment or vector, or a Stable-Baselines3 VecEnv, not "
        f"{type(env).__name__}."
    )


def _call(factory: Callable[[], Any]) -> gym.Env[Any, Any]:
    try:
        env = factory()
    except ForethoughtError:
        raise
    except Exception as error:
        raise EnvironmentFault(f"The environment's factory failed: {type(error).__name__}: {error}") from error
    if not isinstance(env, gym.Env):
        raise EnvironmentFault(f"The environment's factory returned {type(env).__name__}, not a gymnasium.Env.")
    return env


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _is_vec_env(env: Any) -> bool:
    # Whoever holds a VecEnv has imported Stable-Baselines3; nobody else should wait for it.
    module = sys.modules.get("stable_baselines3.common.vec_env")
    return module is not None and isinstance(env, module.VecEnv)
