"""Recording: whole episodes, played in several environments at a time, as a store takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault
from .codecs import ActionCodec, ObservationCodec
from .states import State, state_of
from .vectors import LARGEST_REWARD, clip_rewards, clipping_note

logger = logging.getLogger("forethought.envs")
Array = NDArray[Any]


class RecordingPolicy(Protocol):
    """Acts in episodes that begin together and end one after the other."""

    def begin(self, env: gym.Env[Any, Any], seeds: Sequence[int]) -> None:
        """Get ready for as many episodes of environments like ``env``, each with a seed for its chance."""
        ...

    def act(self, observations: Sequence[Any], infos: Sequence[Mapping[str, Any]], running: NDArray[np.int64]) -> Array:
        """Return native actions (R, ...) for the R episodes, of those that began, that are still ``running``."""
        ...


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode of T steps, coded as :meth:`EpisodeStore.add_episode` takes it.

    Attributes:
        observations: (T + 1, O), or images (T + 1, height, width, 3).
        actions: (T, A), internal ones.
        rewards: (T,).
        terminated: whether it reached a terminal state.
        truncated: whether it was cut.
        states: (T + 1, S), where the environment tells them.
    """

    observations: Array
    actions: Array
    rewards: Array
    terminated: bool
    truncated: bool
    states: Array | None


@dataclass
class _Playing:
    """An episode in progress."""

    env: gym.Env[Any, Any]
    observation: Any
    info: Mapping[str, Any]
    observations: list[Array] = field(default_factory=list)
    states: list[State | None] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    faulty: bool = False
    clipped: float | None = None  # the first reward that was

    @classmethod
    def begun(cls, env: gym.Env[Any, Any], seed: int) -> Self:
        """Return an episode that has just begun."""
        try:
            return cls(env, *env.reset(seed=seed))
        except Exception as error:
            raise EnvironmentFault(f"{env} failed to reset: {type(error).__name__}: {error}") from error

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated or self.faulty

    def look(self, codec: ObservationCodec) -> None:
        """Keep what is seen now."""
        seen = codec.single(self.observation)
        self.observations.append(seen)
        self.states.append(state_of(self.env))
        self.faulty |= not np.isfinite(seen).all()

    def step(self, action: Any, longest: int | None) -> None:
        if not np.isfinite(action).all():
            self.faulty = True
            return
        try:
            self.observation, reward, terminated, truncated, self.info = self.env.step(action)
        except Exception as error:
            raise EnvironmentFault(
                f"{self.env} failed after {len(self.actions)} steps: {type(error).__name__}: {error}"
            ) from error
        self.actions.append(action)
        self.rewards.append(float(clip_rewards(float(reward))))
        if self.clipped is None and abs(float(reward)) > LARGEST_REWARD:
            self.clipped = float(reward)
        self.terminated = bool(terminated)
        self.truncated = not terminated and (bool(truncated) or len(self.actions) == longest)
        self.faulty |= not np.isfinite(self.rewards[-1])


class Recorder:
    """Environments of one kind, in which whole episodes are recorded.

    Args:
        make: returns a new environment.
        longest: steps after which an episode is cut, beside the environment's own limit.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], longest: int | None = None) -> None:
        self._make, self._longest = make, longest
        self._envs, self._told = [make()], False
        self.observation_codec = ObservationCodec(self._envs[0].observation_space)
        self.action_codec = ActionCodec(self._envs[0].action_space)

    def record(
        self, policy: RecordingPolicy, seeds: Sequence[int], acting_seeds: Sequence[int]
    ) -> list[RecordedEpisode | None]:
        """Play an episode for each of ``seeds``, all at a time, and return them in that order.

        One in which an observation, a reward or an action was not finite is left out: there is nothing in its place.

        Args:
            policy: acts.
            seeds: with which the environments are reset.
            acting_seeds: of the policy's own chance, one for each episode.

        Raises:
            EnvironmentFault: an environment fails.
        """
        while len(self._envs) < len(seeds):
            self._envs.append(self._make())
        episodes = [_Playing.begun(env, seed) for env, seed in zip(self._envs, seeds, strict=False)]
        policy.begin(self._envs[0], acting_seeds)
        for episode in episodes:
            episode.look(self.observation_codec)
        while running := [index for index, episode in enumerate(episodes) if not episode.done]:
            playing = [episodes[index] for index in running]
            actions = policy.act(
                [episode.observation for episode in playing], [episode.info for episode in playing], np.array(running)
            )
            for episode, action in zip(playing, actions, strict=True):
                episode.step(action, self._longest)
                if not episode.faulty:
                    episode.look(self.observation_codec)
        clipped = next((episode.clipped for episode in episodes if episode.clipped is not None), None)
        if clipped is not None and not self._told:
            logger.warning(clipping_note(str(self._envs[0]), clipped))
            self._told = True
        return [None if episode.faulty else self._coded(episode) for episode in episodes]

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _coded(self, episode: _Playing) -> RecordedEpisode:
        states = [state for state in episode.states if state is not None]
        return RecordedEpisode(
            observations=np.stack(episode.observations),
            actions=self.action_codec.encode(np.stack(episode.actions)),
            rewards=np.array(episode.rewards, np.float32),
            terminated=episode.terminated,
            truncated=episode.truncated,
            states=np.stack(states) if len(states) == len(episode.states) else None,
        )
