"""The arm that takes up poses: its states, its goals, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest

from forethought.core.errors import SettingsError
from forethought.envs import make_env
from forethought.envs.held_out import ANY_GOAL
from forethought.envs.reacher_goals import HELD_OUT, ReacherGoalsEnv, babbler
from forethought.envs.states import start_from, state_of


@pytest.fixture
def arm():
    env = make_env("reacher-goals")
    yield env
    env.close()


def pose(first, second, *velocities):
    """Return a state with the marker somewhere."""
    return np.array([first, second, 0.1, -0.1, *(velocities or (0, 0)), 0, 0], float)


def test_a_recorded_state_is_gone_on_from_to_the_bit(arm):
    babble = babbler(0)
    _, info = arm.reset(seed=0)
    for _ in range(20):
        *_, info = arm.step(babble(info))
    state, torques = info["state"], [babble(info) for _ in range(10)]
    ahead = [arm.step(action)[0] for action in torques]
    seen, _ = arm.reset(seed=9, options={"state": state})
    assert np.array_equal(seen, arm.unwrapped.observe(state))
    assert np.array_equal(ahead, [arm.step(action)[0] for action in torques])
    seen, _ = start_from(arm, state)
    assert np.array_equal(seen, arm.unwrapped.observe(state))


def test_an_observation_is_of_the_joints_alone(arm):
    first, info = arm.reset(seed=3)
    other, _ = arm.reset(seed=5, options={"state": info["state"], "goal": pose(1, 2)})
    assert np.array_equal(first, other)  # the marker is elsewhere
    assert arm.observation_space.contains(first)
    np.testing.assert_allclose(
        arm.unwrapped.observe(pose(0.5, -1, 3, 4)), [np.cos(0.5), np.cos(1), np.sin(0.5), -np.sin(1), 3, 4]
    )
    assert not np.array_equal(first, arm.reset(seed=4)[0])


def test_looking_at_a_goal_disturbs_nothing(arm):
    arm.reset(seed=0)
    before = state_of(arm)
    arm.unwrapped.observe(pose(1, 1))
    assert np.array_equal(before, state_of(arm))


def test_the_goal_is_reached_when_both_joints_are_there_whichever_way_round(arm):
    near, far = pose(3.1, 0.5, 9, 9), pose(3.1, 0.7)
    goal = pose(3.15 - 2 * np.pi, 0.55)
    assert ReacherGoalsEnv.is_success(np.stack([near, far]), goal).tolist() == [True, False]
    arm.reset(options={"state": pose(3.1, 0.5), "goal": goal})
    _, reward, terminated, truncated, info = arm.step(np.zeros(2))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)
    arm.reset(options={"state": far, "goal": goal})
    _, reward, terminated, _, info = arm.step(np.zeros(2))
    assert (reward, terminated, info["is_success"]) == (0.0, False, False)
    assert info["distance"] == pytest.approx(0.15, abs=0.01)
    arm.reset()
    assert "is_success" not in arm.step(np.zeros(2))[4]


def test_the_marker_shows_where_the_fingertip_will_be(arm):
    goal = pose(0.3, -1.2)
    arm.reset(seed=0, options={"goal": goal})
    arm.reset(options={"goal": goal, "state": goal})
    bare = arm.unwrapped
    np.testing.assert_allclose(bare.get_body_com("target")[:2], bare.get_body_com("fingertip")[:2], atol=1e-12)


def test_torques_beyond_the_bounds_are_clipped(arm):
    arm.reset(seed=1)
    strong = arm.step(np.array([5.0, -5.0]))[0]
    arm.reset(seed=1)
    assert np.array_equal(strong, arm.step(np.array([1.0, -1.0]))[0])


@pytest.mark.parametrize("offset", [25, 50, ANY_GOAL])
def test_what_is_held_out_is_sound(offset):
    pairs = HELD_OUT.pairs(offset)
    assert pairs.starts.shape == pairs.goals.shape == (200, 8)
    assert not ReacherGoalsEnv.is_success(pairs.starts, pairs.goals).any()
    assert not pairs.goals[:, 4:].any()  # poses at rest
    assert np.ptp(pairs.starts[:, 0]) > 5  # all around
    assert pairs.step_budget == (2 * offset or 200)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gaol": 1}, "Did you mean 'goal'"),
        ({"state": [1, 2]}, "eight finite numbers"),
        ({"goal": [np.nan] * 8}, "eight finite numbers"),
        ({"goal": "up"}, "is not a state"),
    ],
)
def test_what_is_no_state_is_named(arm, options, said):
    with pytest.raises(SettingsError, match=said):
        arm.reset(options=options)
