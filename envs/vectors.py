"""Vectors: the ways to step several environments, each brought to one manner.

All of them report a step as a :class:`Transition` whose "episode" entries and faults :class:`Environments` fills in.
:class:`BuiltVector` is ours: it steps single environments one after the other and starts every episode with a seed
of its own, so that an episode can be repeated from its seed and its actions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault
from ..core.seeding import derive_seed
from .codecs import ObservationCodec
from .transition import Transition

LARGEST_REWARD = 1e5
"""Rewards beyond it are clipped: a unit of rewards that fits one of them leaves nothing of all the others."""

Array = NDArray[Any]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def episode_seed(run_seed: int, environment: int, episode: int) -> int:
    """Return the reset seed of an episode: below 2**31, because older environments take no larger ones."""
    # Plain ints, because a seed is derived from the types of its parts too.
    return derive_seed(int(run_seed), "episode", int(environment), int(episode)) % 2**31


class Vector(Protocol):
    """B environments behind batched native actions and coded observations."""

    name: str
    num_envs: int
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    codec: ObservationCodec

    def reset(self) -> Floats:
        """Start a fresh episode everywhere and return its observations (B, O)."""
        ...

    def step(self, actions: Array) -> Transition:
        """Step with native actions (B, *shape), resetting what ends."""
        ...

    def restart(self, mask: Mask, observations: Floats) -> None:
        """Abandon the episodes where ``mask`` holds, and write what the fresh ones begin with into ``observations``."""
        ...

    def where(self, index: int | None = None) -> str:
        """Describe environment ``index`` (or all) at this moment, for messages."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class BuiltVector:
    """Single environments stepped in order, each episode with its own derived seed.

    Args:
        environments: with equal spaces.
        name: what messages call them.
        seed: of the run.
    """

    def __init__(self, environments: Sequence[gym.Env[Any, Any]], name: str, seed: int) -> None:
        self.environments, self.name, self.seed = list(environments), name, seed
        self.num_envs = len(self.environments)
        self.observation_space, self.action_space = environments[0].observation_space, environments[0].action_space
        for environment in self.environments[1:]:
            if (environment.observation_space, environment.action_space) != (self.observation_space, self.action_space):
                raise EnvironmentFault(f"{name}: the environments do not all have the same spaces.")
        self.codec = ObservationCodec(self.observation_space)
        self.episodes = np.full(self.num_envs, -1)
        self.seeds = np.zeros(self.num_envs, np.int64)
        self.steps = np.zeros(self.num_envs, np.int64)

    def reset(self) -> Floats:
        """Start the next episode everywhere."""
        observations = np.empty((self.num_envs, self.codec.size), np.float32)
        self.restart(np.ones(self.num_envs, bool), observations)
        return observations

    def restart(self, mask: Mask, observations: Floats) -> None:
        """Start the next episode where ``mask`` holds."""
        for index in indices(mask):
            episode = int(self.episodes[index]) + 1
            observations[index] = self.begin(index, episode, episode_seed(self.seed, index, episode))

    def begin(self, index: int, episode: int, seed: int) -> Floats:
        """Start episode number ``episode`` of environment ``index`` with ``seed`` and return its observation (O,)."""
        self.episodes[index], self.seeds[index], self.steps[index] = episode, seed, 0
        try:
            observation, _ = self.environments[index].reset(seed=int(seed))
            return self.codec.single(observation)
        except Exception as error:
            raise self._fault(index, "reset", error) from error

    def advance(self, index: int, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any], Any]:
        """Step one environment; return coded observation, reward, terminated, truncated, info, native observation."""
        try:
            observation, reward, terminated, truncated, info = self.environments[index].step(action)
            coded, number = self.codec.single(observation), _scalar(reward)
        except Exception as error:
            raise self._fault(index, "step", error) from error
        self.steps[index] += 1
        # The info belongs to the environment, which may change it later.
        info = dict(info) if isinstance(info, dict) else {}
        return coded, number, bool(terminated), bool(truncated), info, observation

    def step(self, actions: Array) -> Transition:
        """Step every environment, and reset those whose episode ended."""
        after = np.empty((self.num_envs, self.codec.size), np.float32)
        rewards = np.empty(self.num_envs, np.float64)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for index in range(self.num_envs):
            coded, rewards[index], terminated[index], truncated[index], info, native = self.advance(
                index, actions[index]
            )
            after[index] = coded
            if terminated[index] or truncated[index]:
                info["terminal_observation"] = copy.deepcopy(native)
            infos.append(info)
        ended = terminated | truncated
        observations = after.copy()
        self.restart(ended, observations)
        return Transition(
            after, to_float32(rewards), terminated, truncated, np.ones_like(ended), observations, ended, infos
        )

    def where(self, index: int | None = None) -> str:
        """Name the environment, the seed of its episode and the step."""
        if index is None:
            return self.name
        return f"{self.name}, environment {index}, episode seed {self.seeds[index]}, step {self.steps[index]}"

    def close(self) -> None:
        """Close all environments."""
        for environment in self.environments:
            environment.close()

    def _fault(self, index: int, call: str, error: Exception) -> EnvironmentFault:
        what = str(error) if isinstance(error, EnvironmentFault) else f"{type(error).__name__}: {error}"
        return EnvironmentFault(f"{self.where(index)}: {call} failed: {what}")


def indices(mask: Mask) -> list[int]:
    """Return where ``mask`` (B,) holds, as plain ints."""
    return [index for index, holds in enumerate(mask.tolist()) if holds]


def finite_rows(values: Floats) -> Mask:
    """Return (B,), where a row of ``values`` (B, O) is finite."""
    return np.asarray(np.isfinite(values).all(axis=1))


def to_float32(values: Array) -> Floats:
    """Return float32; what it cannot hold becomes infinite and is dealt with as such."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values).astype(np.float32)


def clip_rewards(rewards: Array | float) -> Floats:
    """Return float32 rewards of at most :data:`LARGEST_REWARD` in size; what is not finite stays as it is."""
    rewards = to_float32(np.asarray(rewards))
    return np.where(np.isfinite(rewards), rewards.clip(-LARGEST_REWARD, LARGEST_REWARD), rewards)


def clipping_note(where: str, reward: float) -> str:
    """Return what to tell of the first reward that was clipped."""
    return (
        f"{where}: the reward {reward:g} is clipped to {LARGEST_REWARD:,.0f} in size, as will be others. If rewards "
        "are meant to be that large, scale them with gymnasium.wrappers.TransformReward."
    )


def _scalar(reward: Any) -> float:
    values = np.asarray(reward, dtype=np.float64)
    if values.size != 1:
        raise EnvironmentFault(f"the reward has shape {values.shape}, and must be one number.")
    return float(values.item())
