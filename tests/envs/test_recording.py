"""Whole episodes are recorded as they were played, with the states that environments can be put back into."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from forethought.core.errors import EnvironmentFault, UnknownNameError
from forethought.envs import make_env
from forethought.envs.experts import ExpertPolicy, RandomPolicy
from forethought.envs.recording import Recorder
from forethought.envs.states import start_from, state_of
from forethought.envs.vectors import LARGEST_REWARD

TASKS = ["two-room", "Hopper-v5", "Pendulum-v1", "CartPole-v1"]


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_what_its_actions_bring_and_does_not_depend_on_its_neighbours(task: str) -> None:
    recorder = Recorder(lambda: make_env(task), longest=30)
    together = recorder.record(RandomPolicy(), [5, 6, 7], [1, 2, 3])
    [alone] = recorder.record(RandomPolicy(), [6], [2])
    assert alone is not None
    for name, values in vars(together[1]).items():
        np.testing.assert_array_equal(values, getattr(alone, name), err_msg=name)
    env = make_env(task)
    observation, _ = env.reset(seed=6)
    native = recorder.action_codec.decode(alone.actions)
    seen, rewards = [recorder.observation_codec.single(observation)], []
    for action in native:
        observation, reward, terminated, *_ = env.step(action)
        seen.append(recorder.observation_codec.single(observation))
        rewards.append(reward)
    np.testing.assert_array_equal(alone.observations, np.stack(seen))
    np.testing.assert_allclose(alone.rewards, rewards, rtol=1e-6)
    assert alone.terminated == terminated
    assert alone.terminated or alone.truncated
    recorder.close()


@pytest.mark.parametrize("task", ["two-room", "Hopper-v5", "InvertedPendulum-v5"])
def test_an_episode_can_begin_in_any_recorded_state(task: str) -> None:
    recorder = Recorder(lambda: make_env(task), longest=12)
    [episode] = recorder.record(RandomPolicy(), [3], [4])
    assert episode is not None
    assert episode.states is not None
    env = make_env(task)
    for state, seen in zip(episode.states, episode.observations, strict=True):
        observation, _ = start_from(env, state)
        np.testing.assert_allclose(recorder.observation_codec.single(observation), seen, atol=1e-6)
        np.testing.assert_array_equal(state_of(env), state)


def test_states_are_copies_and_only_told_where_there_are_any(scripted: Any) -> None:
    env = make_env("Pendulum-v1")
    env.reset(seed=0)
    state = state_of(env)
    assert state is not None
    env.step(env.action_space.sample())
    assert not np.array_equal(state, state_of(env))
    assert state_of(scripted()) is None
    assert state_of(make_env("FrozenLake-v1")) is None
    [episode] = Recorder(scripted).record(RandomPolicy(), [0], [0])
    assert episode is not None
    assert episode.states is None


def test_an_environment_that_cannot_be_put_anywhere_says_so(scripted: Any) -> None:
    for env in (scripted(), make_env("Pendulum-v1")):
        with pytest.raises(EnvironmentFault, match="cannot be started in a given state"):
            start_from(env, np.zeros(2))
    with pytest.raises(EnvironmentFault, match="6 positions and 6 velocities, not 3 numbers"):
        start_from(make_env("Hopper-v5"), np.zeros(3))


@pytest.mark.parametrize("fault", ["observation", "reward"])
def test_an_episode_with_a_value_that_is_not_finite_is_left_out(scripted: Any, fault: str) -> None:
    made: list[gym.Env[Any, Any]] = []

    def make() -> gym.Env[Any, Any]:
        made.append(scripted(longest=5, faults={(4, 2): fault}, first=3 + len(made)))
        return made[-1]

    episodes = Recorder(make).record(RandomPolicy(), [0, 1, 2], [0, 1, 2])
    assert [episode is None for episode in episodes] == [False, True, False]


def test_an_environment_that_raises_is_named(scripted: Any) -> None:
    recorder = Recorder(lambda: scripted(longest=5, faults={(3, 1): "raise"}, first=3))
    with pytest.raises(EnvironmentFault, match="failed after 0 steps: RuntimeError: the gearbox broke"):
        recorder.record(RandomPolicy(), [0], [0])


def test_an_environment_that_cannot_begin_is_named_and_rewards_are_clipped_as_online(scripted: Any) -> None:
    class Rich(gym.Wrapper[Any, Any, Any, Any]):
        reward = 1e30

        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, self.reward, *rest

    [episode] = Recorder(lambda: Rich(scripted(longest=3))).record(RandomPolicy(), [0], [0])
    assert episode is not None
    assert set(episode.rewards.tolist()) == {LARGEST_REWARD}
    Rich.reward = 1e39  # more than float32 holds
    assert Recorder(lambda: Rich(scripted(longest=3))).record(RandomPolicy(), [0], [0]) == [None]

    class Stuck(Rich):
        def reset(self, **_: Any) -> Any:
            raise RuntimeError("no power")

    with pytest.raises(EnvironmentFault, match="failed to reset: RuntimeError: no power"):
        Recorder(lambda: Stuck(scripted(longest=3))).record(RandomPolicy(), [0], [0])


def test_a_task_without_an_expert_is_answered_with_those_that_have_one() -> None:
    with pytest.raises(UnknownNameError, match=r"Hopper-v5 has no expert; .*two-room have one"):
        ExpertPolicy("Hopper-v5")
