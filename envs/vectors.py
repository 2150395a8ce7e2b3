"""Vectors: the ways to step several environments, each brought to one manner.

All of them report a step as a :class:`Transition` whose "episode" entries and faults :class:`Environments` fills in.
:class:`BuiltVector` is ours: it steps single environments, here or each in a process of its own, and starts every
episode with a seed of its own, so that an episode can be repeated from its seed and its actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault
from ..core.seeding import derive_seed
from .codecs import Array, Floats, ObservationCodec
from .single import Outcome, Single
from .supervision import RestartBudget, Supervision
from .transition import Transition

LARGEST_REWARD = 1e5
"""Rewards beyond it are clipped: a unit of rewards that fits one of them leaves nothing of all the others."""

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

    def reset(self) -> Array:
        """Start a fresh episode everywhere and return its observations (B, O)."""
        ...

    def step(self, actions: Array, last: Mask) -> Transition:
        """Step, resetting what ends.

        Args:
            actions: native (B, *shape).
            last: (B,), where the episode is truncated after this step, if it has not ended by itself; vectors that
                keep their own time disregard it.
        """
        ...

    def restart(self, mask: Mask, observations: Array) -> None:
        """Abandon the episodes where ``mask`` holds, and write what the fresh ones begin with into ``observations``."""
        ...

    def where(self, index: int | None = None) -> str:
        """Describe environment ``index`` (or all) at this moment, for messages."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class BuiltVector:
    """Single environments stepped together, each episode with its own derived seed.

    All are asked before the first answer is awaited, so that those in processes of their own work at the same time;
    answers are taken in the order of the environments, whichever comes first. An environment that fails is built anew,
    within the budget of ``supervision``: its step is not valid and its next episode begins. The steps before it stay
    valid, because they were answered whole.

    Args:
        environments: with equal spaces.
        name: what messages call them.
        seed: of the run.
        supervision: how patient to be with environments that fail.
    """

    def __init__(self, environments: Sequence[Single], name: str, seed: int, supervision: Supervision) -> None:
        self.environments, self.name, self.seed = list(environments), name, seed
        self.num_envs = len(self.environments)
        self.observation_space, self.action_space = environments[0].observation_space, environments[0].action_space
        for environment in self.environments[1:]:
            if (environment.observation_space, environment.action_space) != (self.observation_space, self.action_space):
                raise EnvironmentFault(f"{name}: the environments do not all have the same spaces.")
        self.codec = ObservationCodec(self.observation_space)
        self.budget = RestartBudget(supervision)
        self.episodes = np.full(self.num_envs, -1)
        self.seeds = np.zeros(self.num_envs, np.int64)
        self._next_seeds = [episode_seed(seed, index, 0) for index in range(self.num_envs)]
        self.steps = np.zeros(self.num_envs, np.int64)

    def reset(self) -> Array:
        """Start the next episode everywhere."""
        observations = self.codec.empty(self.num_envs)
        self.restart(np.ones(self.num_envs, bool), observations)
        return observations

    def restart(self, mask: Mask, observations: Array) -> None:
        """Start the next episode where ``mask`` holds."""
        chosen = indices(mask)
        for index in chosen:
            self._ask_for_episode(index, int(self.episodes[index]) + 1, self._next_seeds[index])
        for index in chosen:
            try:
                observations[index] = self._answer(index).observation
            except EnvironmentFault as fault:
                observations[index] = self.replace(index, fault)

    def begin(self, index: int, episode: int, seed: int) -> Array:
        """Start episode number ``episode`` of environment ``index`` with ``seed`` and return its observation (O,)."""
        self._ask_for_episode(index, episode, seed)
        return self._answer(index).observation

    def advance(self, index: int, action: Any) -> Outcome:
        """Step one environment."""
        self.environments[index].ask_step(action, self._next_seeds[index])
        outcome = self._answer(index)
        self.steps[index] += 1
        return outcome

    def replace(self, index: int, fault: EnvironmentFault) -> Array:
        """Build environment ``index`` anew after ``fault``, and return what its next episode begins with (O,).

        Raises:
            EnvironmentFault: the budget of restarts is spent.
        """
        while True:
            self.budget.spend(fault)
            try:
                self.environments[index].rebuild()
            except EnvironmentFault as again:
                fault = self._located(index, again)
                continue
            try:
                return self.begin(index, int(self.episodes[index]) + 1, self._next_seeds[index])
            except EnvironmentFault as again:
                fault = again

    def step(self, actions: Array, last: Mask) -> Transition:
        """Step every environment, reset those whose episode ended, and build anew those that failed."""
        for index, (environment, action) in enumerate(zip(self.environments, actions, strict=True)):
            environment.ask_step(action, self._next_seeds[index], bool(last[index]))
        after = self.codec.empty(self.num_envs)
        rewards, valid = np.zeros(self.num_envs, np.float64), np.ones(self.num_envs, bool)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        faults: dict[int, EnvironmentFault] = {}
        for index in range(self.num_envs):
            try:
                after[index], rewards[index], terminated[index], truncated[index], info = self._answer(index)
            except EnvironmentFault as error:
                faults[index], valid[index], info = error, False, {"fault": str(error)}
            infos.append(info)
        self.steps += valid
        self.budget.steps += self.num_envs - len(faults)
        ended = terminated | truncated
        observations = after.copy()
        self.restart(ended, observations)
        for index, fault in faults.items():
            after[index] = observations[index] = self.replace(index, fault)
        return Transition(after, to_float32(rewards), terminated, truncated, valid, observations, ended | ~valid, infos)

    def where(self, index: int | None = None) -> str:
        """Name the environment, the seed of its episode and the step."""
        if index is None:
            return self.name
        return f"{self.name}, environment {index}, episode seed {self.seeds[index]}, step {self.steps[index]}"

    def close(self) -> None:
        """Close all environments."""
        for environment in self.environments:
            environment.close()

    def _ask_for_episode(self, index: int, episode: int, seed: int) -> None:
        self.episodes[index], self.seeds[index], self.steps[index] = episode, seed, 0
        self._next_seeds[index] = episode_seed(self.seed, index, episode + 1)
        self.environments[index].ask_reset(seed)

    def _answer(self, index: int) -> Outcome:
        try:
            return self.environments[index].answer()
        except EnvironmentFault as fault:
            raise self._located(index, fault) from fault.__cause__

    def _located(self, index: int, fault: EnvironmentFault) -> EnvironmentFault:
        """Return ``fault`` with the place where it happened."""
        located = EnvironmentFault(f"{self.where(index)}: {fault}")
        located.__cause__ = fault.__cause__
        return located


def indices(mask: Mask) -> list[int]:
    """Return where ``mask`` (B,) holds, as plain ints."""
    return [index for index, holds in enumerate(mask.tolist()) if holds]


def finite_rows(values: Array) -> Mask:
    """Return (B,), where a row of ``values`` (B, ...) is finite, as an image always is."""
    if values.dtype == np.uint8:
        return np.ones(len(values), bool)
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
