"""Goals: the same starts for everyone, reached at the step at which they are, beside honest floors."""

from __future__ import annotations

import numpy as np
import pytest

from forethought.core.errors import EnvironmentFault, SettingsError
from forethought.envs import EpisodeStore, make_env
from forethought.envs.goals import GOALS, GoalPairs, recorded_pairs
from forethought.evaluations.goals import Chance, Idle, evaluate_goals

STATES = {"observation": "state"}
SPACE = make_env("two-room").action_space
NEAR = GoalPairs(
    np.array([[40.0, 40.0], [60.0, 150.0], [60.0, 60.0]]), np.array([[80.0, 40.0], [60.0, 76.0], [60.0, 90.0]]), 12, 1
)


class Straight(Idle):
    """Walks straight to the goal, which it is shown as a position."""

    def initial_state(self, seeds, goals):
        return State(np.asarray(goals), list(seeds))

    def predict(self, observation, state, episode_start, deterministic):
        assert deterministic
        assert len(observation) == len(state.goals) == len(episode_start)
        return np.clip((state.goals - observation) / 5, -1, 1).astype(np.float32), state


class State:
    def __init__(self, goals, seeds):
        self.goals, self.seeds = goals, seeds

    def select(self, index):
        return State(self.goals[index], [self.seeds[i] for i in index])


def test_a_goal_is_reached_at_the_first_step_within_its_reach():
    told = evaluate_goals(Straight(SPACE), "two-room", NEAR, env_kwargs=STATES)
    assert told.success.tolist() == [True, True, True]
    assert told.steps.tolist() == [5, 12, 3]
    assert told.excluded == 1
    assert str(told).startswith("100.0 [100, 100] % of 3 goals reached")


def test_what_takes_longer_than_there_are_steps_counts_as_missed():
    short = GoalPairs(NEAR.starts, NEAR.goals, 11, 0)
    told = evaluate_goals(Straight(SPACE), "two-room", short, env_kwargs=STATES)
    assert told.success.tolist() == [True, False, True]
    assert told.steps.tolist() == [5, 11, 3]


def test_the_floors_are_what_they_are():
    pairs = GOALS.get("two-room").pairs(25)
    idle, chance, again = (
        evaluate_goals(seeker(SPACE), "two-room", pairs, env_kwargs=STATES) for seeker in (Idle, Chance, Chance)
    )
    assert idle.success.mean() == 0  # no start is at its goal already
    assert 0.1 < chance.success.mean() < 0.4
    assert np.array_equal(chance.steps, again.steps)
    other = evaluate_goals(Chance(SPACE), "two-room", pairs, seed=1, env_kwargs=STATES)
    assert not np.array_equal(chance.steps, other.steps)


def test_a_task_that_is_no_goal_task_is_named():
    with pytest.raises(EnvironmentFault, match="Pendulum-v1 is no goal task"):
        evaluate_goals(Idle(SPACE), "Pendulum-v1", NEAR)


def recorded(lengths):
    """Return a store of episodes whose states tell episode and step."""
    store = EpisodeStore(1, 1, state_dims=2)
    for number, length in enumerate(lengths):
        states = np.stack([np.full(length + 1, number), np.arange(length + 1)], 1).astype(float)
        zeros = np.zeros((length, 1), np.float32)
        store.add_episode(np.zeros((length + 1, 1), np.float32), zeros, zeros[:, 0], False, True, states)
    return store


@pytest.mark.parametrize("offset", [1, 4, 6])
def test_recorded_pairs_are_of_one_episode_and_as_far_apart_as_was_asked(offset):
    pairs = recorded_pairs(recorded([6, 3, 9]), offset, 200, seed=0)
    assert np.array_equal(pairs.goals - pairs.starts, np.tile([0.0, offset], (200, 1)))
    assert len(np.unique(pairs.starts, axis=0)) == sum(max(length - offset + 1, 0) for length in (6, 3, 9))
    assert (pairs.step_budget, pairs.excluded) == (2 * offset, 0)


def test_recorded_pairs_that_there_are_none_of_are_refused():
    with pytest.raises(SettingsError, match="No recorded episode has 10 steps"):
        recorded_pairs(recorded([6, 9]), 10, 5, seed=0)
    with pytest.raises(SettingsError, match="true states"):
        recorded_pairs(EpisodeStore(1, 1), 1, 5, seed=0)
