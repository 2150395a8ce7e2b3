"""The random agent is an agent like the others: seeded streams, callbacks, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback, StopTrainingOnMaxEpisodes

from forethought.agents import make_agent
from forethought.agents.registry import agents

from .conftest import Toy


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.float32([-2, 5]), np.float32([2, 6])),
        spaces.Discrete(3, start=5),
        spaces.MultiDiscrete([2, 4]),
    ],
)
def test_random_actions_cover_their_space_and_stay_in_it(space: gym.Space[Any]) -> None:
    agent = make_agent("random", Toy(action_space=space))
    actions, _ = agent.predict(np.zeros((500, 2), np.float32))
    assert all(space.contains(action) for action in actions)
    assert space.contains(agent.predict(np.zeros(2, np.float32))[0])
    low, high = np.min(actions, axis=0), np.max(actions, axis=0)
    if isinstance(space, spaces.Box):
        assert (high - low > 0.9 * (space.high - space.low)).all()
    else:
        assert (high - low == getattr(space, "nvec", getattr(space, "n", None)) - 1).all()


def test_random_streams_do_not_depend_on_who_acts_beside_them() -> None:
    agent = make_agent("random", Toy)
    observations = np.zeros((3, 2), np.float32)

    def act(seeds: list[int], steps: int = 4) -> np.ndarray[Any, Any]:
        state, actions = agent.initial_state(seeds), []
        for _ in range(steps):
            drawn, state = agent.predict(observations[: len(seeds)], state, deterministic=True)
            actions.append(drawn)
        return np.array(actions)

    together = act([7, 8, 9])
    for index, seed in enumerate((7, 8, 9)):
        np.testing.assert_array_equal(act([seed])[:, 0], together[:, index])
    state = agent.initial_state([7, 8, 9])
    _, state = agent.predict(observations, state)
    narrowed, _ = agent.predict(observations[:2], state.select(np.array([2, 0])))
    np.testing.assert_array_equal(narrowed, together[1, [2, 0]])
    assert len(np.unique(together)) == together.size


def test_the_random_agent_repeats_itself_by_its_seed() -> None:
    def returns(seed: int) -> list[float]:
        agent = make_agent("random", "Pendulum-v1", seed=seed).learn(400)
        return [episode["r"] for episode in agent._episodes]

    assert returns(0) == returns(0) != returns(1)


def test_the_random_agent_runs_callbacks_and_logs_as_if_it_learned(tmp_path: Path) -> None:
    agent = make_agent("random", Toy)
    agent.learn(1000, callback=[StopTrainingOnMaxEpisodes(3), CheckpointCallback(20, str(tmp_path))])
    assert agent.num_timesteps == 30
    loaded = agents.get("random").load(tmp_path / "rl_model_20_steps.zip", env=Toy)
    assert loaded.num_timesteps == 20
    assert loaded.learn(10, reset_num_timesteps=False).num_timesteps == 30
