"""The seam to Stable-Baselines3: callbacks, and the loggers and ``VecEnv`` that they expect.

Stable-Baselines3 is imported inside the functions, so that importing this room stays quick.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..core.errors import SettingsError

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecEnv

    from ..envs import Environments


def prepare_callback(callback: Any, agent: Any, progress_bar: bool) -> BaseCallback:
    """Return one SB3 callback, initialised for ``agent``, from whatever ``learn`` accepts.

    Args:
        callback: ``None``, an SB3 callback, a list of them, or a function of (locals, globals).
        agent: has ``num_timesteps``, ``logger`` and ``get_env``.
        progress_bar: add SB3's progress bar.
    """
    from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback

    if isinstance(callback, list):
        callback = CallbackList(callback)
    elif not isinstance(callback, BaseCallback):
        callback = ConvertCallback(callback)
    if progress_bar:
        callback = CallbackList([callback, ProgressBarCallback()])
    callback.init_callback(agent)
    prepared: BaseCallback = callback
    return prepared


def console_logger(verbose: int) -> Logger:
    """Return a logger that writes to the console or nowhere; SB3's own leaves an empty temporary folder behind."""
    from stable_baselines3.common.logger import HumanOutputFormat, Logger

    return Logger(folder=None, output_formats=[HumanOutputFormat(sys.stdout)] if verbose else [])


def as_vec_env(source: Any, environments: Environments) -> VecEnv:
    """Return the environments of ``source`` as a ``VecEnv``, for callbacks and for whoever calls ``get_env``.

    An SB3 ``VecEnv`` is returned as it is. For a task name or a factory, copies are made, so that stepping them does
    not disturb training, and not before they are asked for anything. An environment object is shared, as SB3 does. A
    Gymnasium vector environment is described only: its spaces and size.
    """
    import gymnasium as gym
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    from ..envs import make_env

    class DescribedEnvironments(DummyVecEnv):
        """The spaces and size of a Gymnasium vector environment that only the agent steps."""

        def __init__(self) -> None:
            self.envs, self.render_mode = [], None
            VecEnv.__init__(self, environments.num_envs, environments.observation_space, environments.action_space)

        def reset(self) -> Any:
            raise SettingsError("Only the agent steps its Gymnasium vector environment: evaluate in another one.")

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * environments.num_envs

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * environments.num_envs

    class CopiedEnvironments(DummyVecEnv):
        """Copies of the agent's environments, which are made once something other than spaces or size is asked for."""

        def __init__(self, factory: Any) -> None:
            self._factory, self._is_made, self._is_described = factory, False, False
            VecEnv.__init__(self, environments.num_envs, environments.observation_space, environments.action_space)
            self._is_described = True

        def __getattr__(self, name: str) -> Any:
            if self.__dict__.get("_is_made", True):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._is_made = True
            asked = self._seeds, self._options
            try:
                DummyVecEnv.__init__(self, [self._factory] * environments.num_envs)
            except BaseException:
                self._is_made = False
                raise
            self._seeds, self._options = asked
            return getattr(self, name)

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            if not self._is_described:  # SB3 asks for the mode of rendering
                return [None] * environments.num_envs
            return super().get_attr(attr_name, indices)

        def close(self) -> None:
            if self._is_made:
                super().close()

    if isinstance(source, VecEnv):
        return source
    if isinstance(source, gym.vector.VectorEnv):
        return DescribedEnvironments()
    if isinstance(source, gym.Env):
        return DummyVecEnv([lambda: source])
    factory = (lambda: make_env(source)) if isinstance(source, str) else source
    return CopiedEnvironments(factory)
