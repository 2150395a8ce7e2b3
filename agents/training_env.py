"""The ``VecEnv`` in which baselines learn, made from whatever a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

from ..core.errors import EnvironmentFault, ForethoughtError, SettingsError
from ..envs import make_env, quiet_mujoco

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def build_vec_env(env: Any) -> VecEnv:
    """Return ``env`` as an SB3 ``VecEnv``, with SB3's ``Monitor`` around an environment that has none.

    Non-finite values do not get through: an episode with any is cut and counted in ``faults``; in a ``VecEnv`` that
    was given, where it cannot be cut, :class:`EnvironmentFault` ends the training.

    Args:
        env: a task name, environment, factory or SB3 ``VecEnv``.

    Raises:
        SettingsError: for ``VecNormalize``, a Gymnasium vector environment, and what is no environment.
        EnvironmentFault: for a factory that fails.
        UnknownNameError: for an unknown task.
    """
    from stable_baselines3.common.env_util import is_wrapped
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_wrapper

    from ._finite import CheckedVecEnv, FiniteVecEnv

    quiet_mujoco()
    if isinstance(env, VecEnv):
        if unwrap_vec_wrapper(env, VecNormalize) is not None:
            raise SettingsError(
                "VecNormalize would leave the agent with observations that only this VecEnv can make: evaluation "
                "elsewhere, and a loaded agent, would see others. Pass the VecEnv without it."
            )
        return env if isinstance(env, FiniteVecEnv | CheckedVecEnv) else CheckedVecEnv(env)
    if isinstance(env, str):
        env = make_env(env)
    elif callable(env) and not isinstance(env, gym.Env):
        try:
            env = env()
        except ForethoughtError:
            raise
        except Exception as error:
            raise EnvironmentFault(f"The environment's factory failed: {type(error).__name__}: {error}") from error
    if isinstance(env, gym.vector.VectorEnv):
        raise SettingsError(
            "Stable-Baselines3's agents cannot learn in a Gymnasium vector environment: give a task name, a factory, "
            "or stable_baselines3.common.env_util.make_vec_env(id, n_envs)."
        )
    if not isinstance(env, gym.Env):
        raise SettingsError(
            f"An environment is a name, a factory, a Gymnasium environment or an SB3 VecEnv, not {type(env).__name__}."
        )
    return FiniteVecEnv(env if is_wrapped(env, Monitor) else Monitor(env))
