"""What all our own agents share of Stable-Baselines3's surface: learn's prologue, the logger, the log's keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
import numpy as np

from ..core.errors import SettingsError
from ..core.seeding import drawn_seed
from ..core.settings import Range, check_value
from .sb3 import console_logger, prepare_callback

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecEnv


class SB3Surface:
    """Base of agents that speak Stable-Baselines3 without being one of its algorithms.

    Attributes:
        seed: of every random stream; drawn anew where it was given as ``None``.
        verbose: 0 for silence, 1 for SB3's table of metrics.
        tensorboard_log: folder for TensorBoard events, or ``None``.
        num_timesteps: environment steps taken.
        observation_space, action_space: native, of a single environment.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def __init__(self, seed: int | None, verbose: int, tensorboard_log: str | None) -> None:
        self.seed = drawn_seed(seed)
        self.verbose, self.tensorboard_log = verbose, tensorboard_log
        self.num_timesteps = 0
        self._logger: Logger | None = None

    @property
    def logger(self) -> Logger:
        """SB3's logger; one that writes nowhere until ``learn`` or ``set_logger``."""
        if self._logger is None:
            return console_logger(verbose=0)
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Log to ``logger`` from now on."""
        self._logger = logger

    @property
    def env(self) -> VecEnv | None:
        """The training environments; see :meth:`get_env`."""
        return self.get_env()

    @property
    def n_envs(self) -> int:
        """How many they are; 1 without any."""
        env = self.get_env()
        return 1 if env is None else int(env.num_envs)

    def get_env(self) -> VecEnv | None:
        """Return the training environments as an SB3 ``VecEnv``, or ``None`` for an agent without any."""
        raise NotImplementedError

    def get_vec_normalize_env(self) -> None:
        """Return ``None``: our agents refuse ``VecNormalize``, whose statistics would not travel with them."""

    def _set_up_learning(
        self, total_timesteps: int, callback: Any, tb_log_name: str, reset_num_timesteps: bool, progress_bar: bool
    ) -> tuple[int, BaseCallback]:
        """Return the step at which to stop and the callback, told that training starts, as SB3's ``learn`` does.

        Raises:
            SettingsError: that is no number of steps.
        """
        from stable_baselines3.common.utils import configure_logger

        check_value("total_timesteps", total_timesteps, Annotated[float, Range(ge=0)])
        if reset_num_timesteps:
            self.num_timesteps = 0
        until = total_timesteps + self.num_timesteps
        if self._logger is None and self.tensorboard_log is None:
            self._logger = console_logger(self.verbose)
        elif self._logger is None:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        prepared = prepare_callback(callback, self, progress_bar)
        prepared.on_training_start({"self": self, "total_timesteps": until, "tb_log_name": tb_log_name}, {})
        return until, prepared

    def _dump(self, episodes: Iterable[Mapping[str, float]]) -> None:
        """Write what was recorded, with the mean return and length of ``episodes``."""
        episodes = list(episodes)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if episodes:
            self.logger.record("rollout/ep_rew_mean", float(np.mean([episode["r"] for episode in episodes])))
            self.logger.record("rollout/ep_len_mean", float(np.mean([episode["l"] for episode in episodes])))
        if told := [episode["success"] for episode in episodes if "success" in episode]:
            self.logger.record("rollout/success_rate", float(np.mean(told)))
        self.logger.dump(step=self.num_timesteps)

    def _require_same_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        asked, own = (observation_space, action_space), (self.observation_space, self.action_space)
        if asked != own or [_keys(space) for space in asked] != [_keys(space) for space in own]:
            raise SettingsError(
                f"The environment observes {observation_space} and acts in {action_space}; this agent was made for "
                f"{self.observation_space} and {self.action_space}."
            )


def _keys(space: gym.Space[Any]) -> list[str]:
    """Return the keys of a Dict in their order, which Gymnasium's comparison passes over, and codecs do not."""
    return list(space.spaces) if isinstance(space, gym.spaces.Dict) else []
