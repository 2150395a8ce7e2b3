"""Keep non-finite values out of what Stable-Baselines3's algorithms learn from, as ``Environments`` does for ours.

Imports Stable-Baselines3, so it is imported only where an environment is built; the underscore in its name keeps it
out of the registry's search for agents, which has to stay quick.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ..core.errors import DivergedError, EnvironmentFault
from ..envs.environments import FAULTS_IN_A_ROW
from ..envs.single import described
from ..envs.states import diverged as diverged_simulation
from ..envs.vectors import LARGEST_REWARD, clip_rewards, clipping_note, to_float32

logger = logging.getLogger("forethought.envs")


class FiniteEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Truncates an episode at a step with a non-finite observation or reward, and counts it; clips huge rewards.

    Such a step shows the last finite observation again, with reward 0, and its info says only "fault". An episode that
    begins with a non-finite observation is begun again. It belongs around a ``Monitor``, so that the returns of
    episodes that were cut stay out of the log. A non-finite action is no fault of the environment, and no episode is
    cut for it: SB3 stores what it chose, whatever became of it.

    Attributes:
        faults: episodes cut so far.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.faults = 0
        self._has_clipped = False
        self._faults_in_a_row = self._steps = 0
        self._seed: int | None = None
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and begin again where it does so with a non-finite observation.

        Raises:
            EnvironmentFault: if the environment raises, or more than 10 episodes in a row have to be cut.
        """
        while True:
            self._seed, self._steps = seed, 0
            with self._blamed("reset"):
                observation, info = self.env.reset(seed=seed, options=options)
            if is_finite(observation):
                self._observation = copy.deepcopy(observation)  # the environment may write into its array
                return observation, info
            self._count_fault("first observation")
            seed = None  # the same one would only lead to the same observation

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            DivergedError: if the action is not finite.
            EnvironmentFault: if the environment raises, or more than 10 episodes in a row have to be cut.
        """
        if not is_finite(action):
            raise diverged(f"{self._where}: the action {action} is not finite")
        with self._blamed("step"):
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        if not is_finite(observation):
            return self._cut("observation")
        if diverged_simulation(self.env):
            return self._cut("state")
        if not is_finite(reward):
            return self._cut("reward")
        if terminated or truncated:
            self._faults_in_a_row = 0
        self._observation = copy.deepcopy(observation)
        if not (terminated or truncated):  # the environment's own entry, which SB3 would take for its Monitor's
            info = {key: value for key, value in info.items() if key != "episode"}
        if abs(number := float(reward)) > LARGEST_REWARD:
            if not self._has_clipped:
                logger.warning(clipping_note(self._where, number))
            self._has_clipped = True
            reward = float(clip_rewards(number))
        return observation, reward, terminated, truncated, info

    @property
    def _where(self) -> str:
        spec = self.unwrapped.spec
        where = f"{spec.id if spec else type(self.unwrapped).__name__}, step {self._steps}"
        return where if self._seed is None else f"{where} of the episode with seed {self._seed}"

    def _cut(self, what: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._count_fault(what)
        return copy.deepcopy(self._observation), 0.0, False, True, {"fault": f"non-finite {what}"}

    @contextmanager
    def _blamed(self, call: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise EnvironmentFault(f"{self._where}: {call} failed: {described(error)}") from error

    def _count_fault(self, what: str) -> None:
        if not self.faults:
            logger.warning("%s: cut an episode because of a non-finite %s; more will be counted.", self._where, what)
        self.faults += 1
        self._faults_in_a_row += 1
        if self._faults_in_a_row > FAULTS_IN_A_ROW:
            raise EnvironmentFault(
                f"{self._where}: {self._faults_in_a_row} episodes in a row had to be cut, the last because of a "
                f"non-finite {what}. The environment itself needs mending; `forethought doctor` tells more."
            )


class FiniteVecEnv(DummyVecEnv):
    """One environment as a ``VecEnv``, behind a :class:`FiniteEnv`."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self._guard = FiniteEnv(env)
        super().__init__([lambda: self._guard])

    @property
    def faults(self) -> int:
        """Episodes cut so far."""
        return self._guard.faults


class CheckedVecEnv(VecEnvWrapper):
    """A user's ``VecEnv``, whose episodes cannot be cut from outside: the first non-finite value ends the training.

    Huge rewards are clipped.
    """

    faults = 0

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._has_clipped = False

    def reset(self) -> VecEnvObs:
        """Reset; raises :class:`EnvironmentFault` for a non-finite observation."""
        observations = self.venv.reset()
        self._require_finite("observation", observations)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step; raises :class:`DivergedError` for a non-finite action."""
        if not is_finite(actions):
            raise diverged(f"{type(self.venv).__name__}: the actions {actions.tolist()} are not finite")
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step; raises :class:`EnvironmentFault` for a non-finite observation or reward."""
        with np.errstate(over="ignore"):  # a reward too large for float32 is infinite to SB3, and refused as such
            observations, rewards, dones, infos = self.venv.step_wait()
        self._require_finite("observation", observations)
        self._require_finite("observation", [info.get("terminal_observation", 0.0) for info in infos])
        self._require_finite("reward", rewards)
        if not self._has_clipped and np.abs(rewards).max() > LARGEST_REWARD:
            self._has_clipped = True
            logger.warning(clipping_note(type(self.venv).__name__, rewards[np.abs(rewards).argmax()]))
        return observations, clip_rewards(rewards), dones, infos

    def _require_finite(self, what: str, values: Any) -> None:
        if not is_finite(values):
            raise EnvironmentFault(
                f"{type(self.venv).__name__}: a non-finite {what}, and no episode of a given VecEnv can be cut. Mend "
                "the environment, or pass its name or a factory, of which such episodes are cut and counted."
            )


def diverged(what: str) -> DivergedError:
    """Return the error for an agent of which ``what`` tells that its weights are not finite any more."""
    return DivergedError(
        f"{what}, which comes of weights that are not. What was saved is from before; a smaller learning rate or "
        "smaller rewards may keep it from happening."
    )


def is_finite(value: Any) -> bool:
    """Return whether all numbers are finite as float32, in which they are learned from."""
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_finite, value))
    return bool(np.isfinite(to_float32(value)).all())
