"""Controls: baselines that are given what our agent has, so that what remains of a difference has other causes.

They are named by their module, as placebos are: ``forethought.evaluations.controls:sac_short_episodes``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from ..agents.baselines import BOX, SAC
from ..agents.online import longest_episode
from ..envs import make_env

SHARE = 0.02
"""Largest share of all steps so far that one episode takes."""


class ShortEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Cuts episodes where a JEPA agent with an ``episode_share`` of 0.02 would, after as many steps in all.

    Args:
        env: whose episodes are cut.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._steps = self._length = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._length = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, the last of the episode if it is long enough."""
        longest = longest_episode(SHARE, self._steps)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        self._length += 1
        truncated = truncated or (not terminated and longest is not None and self._length >= longest)
        return observation, reward, terminated, truncated, info


class SACShortEpisodes(SAC, name="sac_short_episodes", algorithm=SAC.algorithm, acts_in=BOX):
    """Control: Stable-Baselines3's SAC, learning from episodes as short as a JEPA agent's may be.

    Args:
        env: a task name or factory; ``None`` in :meth:`load` alone.
        settings: as for every baseline.
    """

    def __init__(self, env: str | Callable[[], gym.Env[Any, Any]] | None, *arguments: Any, **settings: Any) -> None:
        def cut() -> ShortEpisodes:
            return ShortEpisodes(make_env(env) if isinstance(env, str) else env())  # type: ignore[misc]

        super().__init__(None if env is None else cut, *arguments, **settings)
