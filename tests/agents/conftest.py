"""Small agents and scripted environments for the agents' tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought import JEPAAgent
from forethought.agents.trials import AgentState

SMALL: dict[str, Any] = {
    "model": {"latent_dims": 8, "hidden": 16, "directions": 8},
    "behaviour": {"hidden": 16},
    "planning": {"budget": 24, "proposals": 4},
    "learning_starts": 20,
    "batch_size": 8,
    "health_interval": 25,
}


class Target(gym.Env):
    """Reward for acting close to what is observed; episodes of ``length`` steps, terminal on request."""

    def __init__(self, action_space: gym.Space | None = None, length: int = 10, terminal: bool = False, **kinds: Any):
        self.observation_space = kinds.get("observation_space", spaces.Box(-1, 1, (2,), np.float32))
        self.action_space = action_space or spaces.Box(-1, 1, (2,), np.float32)
        self.length, self.terminal, self.render_mode = length, terminal, None

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        reward = -float(np.abs(np.asarray(action, np.float64)).mean())
        ended = self.steps >= self.length
        return self._observe(), reward, ended and self.terminal, ended and not self.terminal, {}

    def _observe(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


class Toy(gym.Env[Any, Any]):
    """Ten steps on any spaces; the reward is 1."""

    def __init__(self, observation_space: gym.Space[Any] | None = None, action_space: gym.Space[Any] | None = None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (2,))
        self.action_space = action_space or spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == 10, {}


def weights(agent: JEPAAgent | AgentState) -> dict[str, torch.Tensor]:
    return {**agent.model.state_dict(), **{f"b.{k}": v for k, v in agent.behaviour.state_dict().items()}}


def same(first: JEPAAgent | AgentState, second: JEPAAgent | AgentState) -> bool:
    ours, theirs = weights(first), weights(second)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def small() -> dict[str, Any]:
    """Settings of an agent that learns in milliseconds."""
    return {name: dict(value) if isinstance(value, dict) else value for name, value in SMALL.items()}
