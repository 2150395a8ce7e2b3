"""A scripted environment: everything that it shows follows from the number of its episode, the step and the action."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest


class ScriptedEnv(gym.Env[Any, Any]):
    """Episodes of 1, 2, 3, ... ``longest`` steps that end terminated, truncated, and both, in turn.

    Faults happen at (episode, step), an episode's first observation being step 0: ``{(2, 1): "observation"}``.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        longest: int = 4,
        faults: dict[tuple[int, int], str] | None = None,
        first: int = 0,
        reuses_its_array: bool = False,
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gym.spaces.Box(-2.0, 6.0, (1,), np.float32)
        self.longest, self.faults, self.episode, self.time = longest, faults or {}, first - 1, 0
        self.seeds: list[int | None] = []
        self.closed = False
        self._seen, self._reuses = np.zeros(3), reuses_its_array

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe(0.0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        fault = self.faults.get((self.episode, self.time))
        if fault == "raise":
            raise RuntimeError("the gearbox broke")
        reward = float("nan") if fault == "reward" else self.time + self.episode / 8
        ends = self.time >= 1 + self.episode % self.longest
        terminated, truncated = ends and self.episode % 3 != 1, ends and self.episode % 3 != 0
        return self._observe(float(action[0])), reward, terminated, truncated, {"time": self.time, "odd": None}

    def close(self) -> None:
        self.closed = True

    def _observe(self, action: float) -> Any:
        fault = self.faults.get((self.episode, self.time))
        if fault == "shape":
            return np.zeros(5)
        self._seen[:] = self.episode, self.time, np.nan if fault == "observation" else action
        return self._seen if self._reuses else self._seen.copy()


@pytest.fixture
def scripted() -> type[ScriptedEnv]:
    return ScriptedEnv
