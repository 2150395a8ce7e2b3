"""``make_environments``: from an id, a factory, an environment or a vector of them to :class:`Environments`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from ..core.errors import EnvironmentFault, SettingsError
from .adapters import GymnasiumVector, StableBaselinesVector
from .environments import Environments
from .processes import Nursery, WorkerEnvironment
from .quiet import quiet_mujoco
from .single import LocalEnvironment, Single
from .supervision import Supervision
from .tasks import make_env, portable_factory
from .vectors import BuiltVector, Vector


def make_environments(
    env: Any,
    num_envs: int = 1,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    async_envs: bool = False,
    supervision: Supervision | None = None,
) -> Environments:
    """Bring whatever a user gives us to act in behind one interface.

    Args:
        env: a task name or id (see :func:`make_env`), a factory that returns a new environment at every call, one
            environment, a Gymnasium vector environment in any autoreset mode, or a Stable-Baselines3 ``VecEnv``.
            Of the first three we build the vector ourselves, seed every episode, and can resume exactly.
        num_envs: how many environments to build; a vector brings its own number.
        seed: of the run; episode seeds are derived from it.
        env_kwargs: passed to the id's environment or to the factory.
        async_envs: run each environment in a process of its own; only with an id or a factory.
        supervision: what is done when an environment fails, if not by default; one that was given as an object cannot
            be built anew.

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
        if async_envs:
            raise SettingsError("async_envs needs an id or a factory; this environment exists already.")
        own = 1 if isinstance(env, gym.Env) else env.num_envs
        if num_envs not in (1, own):
            raise SettingsError(f"num_envs = {num_envs}, but the given environment is {own}; give an id or a factory.")
    return Environments(_vector(env, num_envs, seed, kwargs, async_envs, supervision or Supervision()))


def _vector(
    env: Any, num_envs: int, seed: int, kwargs: dict[str, Any], async_envs: bool, supervision: Supervision
) -> Vector:
    if isinstance(env, VectorEnv):
        return GymnasiumVector(env, seed)
    if _is_vec_env(env):
        return StableBaselinesVector(env, seed)
    if isinstance(env, gym.Env):
        given = LocalEnvironment(lambda: env)
        return BuiltVector([given], given.name, seed, supervision.replace(restarts=0))
    if not isinstance(env, str) and not callable(env):
        raise SettingsError(
            "An environment is a name, a factory, a Gymnasium environment or vector, or a Stable-Baselines3 VecEnv, "
            f"not {type(env).__name__}."
        )
    if async_envs:
        remote = portable_factory(env) if isinstance(env, str) else env
        built: Sequence[Single] = _in_processes(partial(remote, **kwargs), num_envs, supervision)
    else:
        built = _here(partial(make_env, env, **kwargs) if isinstance(env, str) else partial(env, **kwargs), num_envs)
    return BuiltVector(built, env if isinstance(env, str) else built[0].name, seed, supervision)


def _here(factory: Callable[[], Any], num_envs: int) -> Sequence[LocalEnvironment]:
    built = [LocalEnvironment(factory) for _ in range(num_envs)]
    if len({id(single.env.unwrapped) for single in built}) < num_envs:
        raise EnvironmentFault("The factory returned the same environment twice; it must make a new one each time.")
    return built


def _in_processes(factory: Callable[[], Any], num_envs: int, supervision: Supervision) -> Sequence[WorkerEnvironment]:
    nursery = Nursery()
    started = [WorkerEnvironment(nursery, factory, supervision.timeout_s) for _ in range(num_envs)]
    for worker in started:
        worker.wait_until_built()
    return started


def _is_vec_env(env: Any) -> bool:
    # Whoever holds a VecEnv has imported Stable-Baselines3; nobody else should wait for it.
    module = sys.modules.get("stable_baselines3.common.vec_env")
    return module is not None and isinstance(env, module.VecEnv)
