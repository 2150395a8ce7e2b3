"""Where a simulator gives up its state, nobody learns from what it shows afterwards, and nobody is judged by it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from forethought.agents import make_agent
from forethought.agents.training_env import build_vec_env
from forethought.envs import make_env
from forethought.evaluations import evaluate


def test_a_simulation_that_diverged_is_cut_for_baselines_and_left_out_of_evaluations() -> None:
    class Overpowered(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            self.unwrapped.data.qvel[0] = np.inf  # type: ignore[attr-defined]
            return super().step(action)

    env = build_vec_env(lambda: Overpowered(make_env("InvertedPendulum-v5")))
    env.reset()
    _, _, dones, infos = env.step(np.zeros((1, 1), np.float32))
    assert (env.faults, dones[0], infos[0]["fault"]) == (1, True, "non-finite state")
    random = make_agent("random", "InvertedPendulum-v5")
    assert evaluate(random, lambda: Overpowered(make_env("InvertedPendulum-v5")), 2).faults == 2
