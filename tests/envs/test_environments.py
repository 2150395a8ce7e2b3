"""Environments: one manner of stepping, whatever is wrong with what is stepped."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor

from forethought.core.errors import CheckpointError, EnvironmentFault, SettingsError, UnsupportedSpaceError
from forethought.core.seeding import derive_seed
from forethought.envs import Supervision, Transition, episode_seed, make_env, make_environments

from .walking import same, walk


def never_reset_early() -> gym.Env[Any, Any]:
    return Monitor(gym.make("Pendulum-v1"), allow_early_resets=False)


def test_a_step_tells_where_it_led_and_what_to_act_on_next(scripted: Any) -> None:
    environments = make_environments(partial(scripted, longest=2), num_envs=2)
    np.testing.assert_array_equal(environments.reset(), np.zeros((2, 3)))
    action = np.array([[0.5], [-1.0]], np.float32)
    first = environments.step(action)  # episodes of one step: both end, and the next begin
    np.testing.assert_array_equal(first.next_observations, [[0, 1, 4.0], [0, 1, -2.0]])
    np.testing.assert_array_equal(first.observations, [[1, 0, 0], [1, 0, 0]])
    assert first.started.all()
    assert first.terminated.all()
    second = environments.step(action)
    np.testing.assert_array_equal(second.observations, second.next_observations)
    assert not (second.started | second.terminated | second.truncated).any()
    assert second.next_observations.dtype == second.rewards.dtype == np.float32


@pytest.mark.parametrize("async_envs", [False, True])
def test_episodes_that_grow_too_long_are_truncated_and_fresh_ones_begin(async_envs: bool) -> None:
    environments = make_environments("Pendulum-v1", num_envs=2, seed=3, async_envs=async_envs)
    environments.reset()
    zeros = np.zeros((2, 1))
    *inside, last = (environments.step(zeros, longest=5) for _ in range(5))
    assert not any((step.truncated | step.started).any() for step in inside)
    assert last.truncated.all()
    assert last.started.all()
    assert last.valid.all()
    for index, info in enumerate(last.infos):
        assert info["episode"]["l"] == 5
        assert info["TimeLimit.truncated"]
        np.testing.assert_allclose(info["terminal_observation"], last.next_observations[index], rtol=1e-6)
    fresh = make_environments("Pendulum-v1", num_envs=2, seed=3)
    fresh.reset()
    fresh.vector.restart(np.ones(2, bool), beginnings := np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(last.observations, beginnings)
    # An episode that is too long already is cut at its next step.
    walk(environments, 3)
    assert environments.step(zeros, longest=2).truncated.all()
    environments.close()


def test_a_cut_takes_nothing_from_a_terminal_state(scripted: Any) -> None:
    environments = make_environments(partial(scripted, longest=1))  # its first episode terminates, its second is cut
    environments.reset()
    one, two = (environments.step(np.zeros((1, 1)), longest=1) for _ in range(2))
    assert (one.terminated[0], one.truncated[0]) == (True, False)
    assert (two.terminated[0], two.truncated[0]) == (False, True)


@pytest.mark.parametrize("async_envs", [False, True])
def test_an_environment_that_does_not_let_itself_be_cut_is_told_apart(async_envs: bool) -> None:
    patience = Supervision(restarts=0)
    environments = make_environments(never_reset_early, async_envs=async_envs, supervision=patience)
    environments.reset()
    with pytest.raises(EnvironmentFault, match=r"reset failed: .*RuntimeError: .* reset an env.* \(episode_share=None"):
        environments.step(np.zeros((1, 1)), longest=1)
    environments.close()


def test_vectors_keep_their_own_time() -> None:
    environments = make_environments(gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync"))
    environments.reset()
    steps = [environments.step(np.zeros((2, 1)), longest=5) for _ in range(8)]
    assert not any((step.truncated | step.started).any() for step in steps)


def test_every_episode_has_its_own_derived_seed(scripted: Any) -> None:
    environments = make_environments(partial(scripted, longest=1), num_envs=2, seed=7)
    environments.reset()
    walk(environments, 3)
    for index, single in enumerate(environments.vector.environments):  # type: ignore[attr-defined]
        assert single.env.seeds == [derive_seed(7, "episode", index, episode) % 2**31 for episode in range(4)]
    assert episode_seed(7, np.int64(1), np.int32(2)) == episode_seed(7, 1, 2)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_steps_and_another_seed_others() -> None:
    def steps(seed: int) -> list[Transition]:
        environments = make_environments("Pendulum-v1", num_envs=2, seed=seed)
        environments.reset()
        return walk(environments, 20)

    assert all(map(same, steps(3), steps(3)))
    assert not any(map(same, steps(3), steps(4)))


def test_an_episodes_end_is_told_as_stable_baselines_tells_it(scripted: Any) -> None:
    environments = make_environments(partial(scripted, longest=3))
    environments.reset()
    ends = [step for step in walk(environments, 6) if step.infos[0].get("episode")]
    assert [step.infos[0]["episode"] for step in ends] == [
        {"r": 1.0, "l": 1},
        {"r": 3.25, "l": 2},
        {"r": 6.75, "l": 3},
    ]
    assert [step.infos[0]["TimeLimit.truncated"] for step in ends] == [False, True, False]
    assert [step.infos[0]["terminal_observation"][1] for step in ends] == [1.0, 2.0, 3.0]
    # The third episode is terminated and truncated at once: what is terminal stays terminal.
    assert [(step.terminated[0], step.truncated[0]) for step in ends] == [(True, False), (False, True), (True, False)]


def test_nothing_given_out_changes_afterwards(scripted: Any) -> None:
    environments = make_environments(partial(scripted, longest=9, first=8, reuses_its_array=True))
    first = environments.reset()
    copies = [first.copy()]
    transitions = []
    for _ in range(3):
        transitions.append(environments.step(np.zeros((1, 1))))
        copies.append(transitions[-1].next_observations.copy())
    first[:] = transitions[0].observations[:] = transitions[2].observations[:] = 99.0
    np.testing.assert_array_equal(environments.observations[0, :2], [8, 3])
    environments.step(np.zeros((1, 1)))
    np.testing.assert_array_equal(transitions[2].next_observations, copies[3])
    np.testing.assert_array_equal(environments.observations[0, :2], [8, 4])


def test_the_terminal_observation_outlives_the_reset(scripted: Any) -> None:
    environments = make_environments(partial(scripted, reuses_its_array=True))
    environments.reset()
    np.testing.assert_array_equal(walk(environments, 1)[0].infos[0]["terminal_observation"][:2], [0, 1])


@pytest.mark.parametrize("kind", ["observation", "reward", "action"])
def test_a_non_finite_value_cuts_the_episode_and_a_fresh_one_starts(scripted: Any, kind: str) -> None:
    faults = {(3, 2): kind} if kind != "action" else {}
    environments = make_environments(partial(scripted, faults=faults, first=3), num_envs=2)
    environments.reset()
    fine = environments.step(np.zeros((2, 1)))
    assert fine.valid.all()
    bad = environments.step(np.array([[np.nan if kind == "action" else 0.0], [0.0]]))
    assert bad.valid.tolist() == [False, kind == "action"]
    assert bad.started.tolist() == [True, kind != "action"]
    assert not (bad.terminated | bad.truncated).any()
    np.testing.assert_array_equal(bad.observations[0], [4, 0, 0])
    assert bad.infos[0] == {"fault": f"non-finite {kind}"}
    assert environments.faults == (1 if kind == "action" else 2)
    for values in (bad.next_observations, bad.rewards, bad.observations):
        assert np.isfinite(values).all()
    ends = environments.step(np.zeros((2, 1)))  # the fourth episode has one step, and nothing left from the cut one
    assert ends.infos[0]["episode"] == {"r": 1.5, "l": 1}


class Overpowered(gym.Wrapper):
    """In its third step MuJoCo is given a state that is not finite, puts itself back, and tells nobody."""

    def __init__(self) -> None:
        super().__init__(make_env("InvertedPendulum-v5"))

    def reset(self, **options: Any) -> Any:
        self.steps = 0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 3:
            self.unwrapped.data.qvel[0] = np.inf  # type: ignore[attr-defined]
        return super().step(action)


def test_a_simulation_that_diverged_is_a_fault_though_all_that_it_shows_is_finite() -> None:
    environments = make_environments(Overpowered, seed=0)
    environments.reset()
    valid = [environments.step(np.zeros((1, 1))).valid[0] for _ in range(5)]
    assert valid == [True, True, False, True, True]
    assert environments.faults == 1
    bare = Overpowered()
    bare.reset(seed=0)
    assert all(np.isfinite(bare.step(np.zeros(1, np.float32))[0]).all() for _ in range(4))


def test_a_sound_last_step_survives_a_fresh_episode_that_begins_badly(scripted: Any) -> None:
    environments = make_environments(partial(scripted, longest=1, faults={(1, 0): "observation"}))
    environments.reset()
    [step] = walk(environments, 1)
    assert step.valid.all()
    assert step.terminated.all()
    assert environments.faults == 1
    np.testing.assert_array_equal(step.observations, [[2, 0, 0]])


def test_an_overflowing_reward_is_a_fault_too(scripted: Any) -> None:
    huge = gym.wrappers.TransformReward(scripted(longest=9, first=8), lambda reward: reward * 1e300)
    environments = make_environments(huge)
    environments.reset()
    assert walk(environments, 1)[0].infos[0] == {"fault": "non-finite reward"}


def test_a_huge_reward_is_clipped_counted_and_told_once_with_its_value(scripted: Any, caplog: Any) -> None:
    def huge() -> Any:
        return gym.wrappers.TransformReward(scripted(longest=9, first=8), lambda reward: -1e30 * reward)

    environments = make_environments(huge, seed=4)
    environments.reset()
    assert [step.rewards[0] for step in walk(environments, 3)] == [-1e5] * 3
    assert (environments.faults, environments.clipped_rewards) == (0, 3)
    told = [record.message for record in caplog.records]
    assert len(told) == 1
    assert "step 1: the reward -2e+30 is clipped to 100,000 in size" in told[0]
    resumed = make_environments(huge, seed=4)
    assert resumed.load_state_dict(environments.state_dict())
    assert resumed.clipped_rewards == 3


class Chatty(gym.Wrapper[Any, Any, Any, Any]):
    """Tells something else at every step, in words that mean something here too."""

    def step(self, action: Any) -> Any:
        *rest, _ = super().step(action)
        time = self.unwrapped.time  # type: ignore[attr-defined]
        odd = [None, {"episode": 7, f"at {time}": np.zeros(time)}, {"episode": {"r": None, "l": "x"}, "fault": None}]
        return (*rest, odd[time % 3])


def test_whatever_an_environment_tells_its_episodes_are_told_as_stable_baselines_tells_them(scripted: Any) -> None:
    environments = make_environments(Chatty(scripted(longest=4)))
    environments.reset()
    infos = [step.infos[0] for step in walk(environments, 10)]
    assert [info["episode"]["l"] for info in infos if "episode" in info] == [1, 2, 3, 4]


def test_more_than_ten_cut_episodes_in_a_row_end_it_and_a_whole_one_starts_the_count_again(scripted: Any) -> None:
    always = {(episode, 1): "reward" for episode in range(10)} | {(episode, 1): "reward" for episode in range(11, 99)}
    environments = make_environments(partial(scripted, longest=1, faults=always))
    environments.reset()
    walk(environments, 21)
    assert environments.faults == 20
    with pytest.raises(EnvironmentFault, match=r"11 episodes in a row had to be cut.*non-finite reward"):
        environments.step(np.zeros((1, 1)))


def test_sound_steps_do_not_make_an_episode_whole_that_is_cut_after_them(scripted: Any) -> None:
    late = {(episode, 3): "observation" for episode in range(99)}
    environments = make_environments(partial(scripted, longest=99, first=50, faults=late))
    environments.reset()
    walk(environments, 10 * 3)
    resumed = make_environments(partial(scripted, longest=99, first=50, faults=late))
    resumed.load_state_dict(environments.state_dict())
    for one in (environments, resumed):
        with pytest.raises(EnvironmentFault, match="11 episodes in a row"):
            walk(one, 3)


def test_an_environment_that_never_begins_finite_is_reported_at_once(scripted: Any) -> None:
    never = {(episode, 0): "observation" for episode in range(99)}
    with pytest.raises(EnvironmentFault, match="non-finite first observation"):
        make_environments(partial(scripted, faults=never)).reset()


@pytest.mark.parametrize(
    ("kind", "message"),
    [("raise", "step failed: RuntimeError: the gearbox broke"), ("shape", r"shape \(5,\), and the space says \(3,\)")],
)
def test_a_broken_step_names_environment_seed_and_step(scripted: Any, kind: str, message: str) -> None:
    environments = make_environments(scripted(longest=1, faults={(2, 1): kind}), seed=5)
    environments.reset()
    where = rf"ScriptedEnv, environment 0, episode seed {episode_seed(5, 0, 2)}, step 0: .*"
    with pytest.raises(EnvironmentFault, match=where + message) as caught:
        walk(environments, 3)
    assert isinstance(caught.value.__cause__, RuntimeError if kind == "raise" else EnvironmentFault)


@pytest.mark.parametrize("reward", [np.array([1.5]), np.float32(1.5), 1.5, True])
def test_rewards_may_be_any_single_number(scripted: Any, reward: Any) -> None:
    environments = make_environments(gym.wrappers.TransformReward(scripted(), lambda _: reward))
    environments.reset()
    assert walk(environments, 1)[0].rewards[0] == np.float32(reward)


@pytest.mark.parametrize("reward", ["much", np.zeros(2)])
def test_what_is_no_number_is_no_reward(scripted: Any, reward: Any) -> None:
    environments = make_environments(gym.wrappers.TransformReward(scripted(), lambda _: reward))
    environments.reset()
    with pytest.raises(EnvironmentFault, match="environment 0"):
        walk(environments, 1)


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "InvertedPendulum-v5", "HalfCheetah-v5"])
def test_open_episodes_are_taken_up_bit_for_bit(name: str) -> None:
    environments = make_environments(name, num_envs=2, seed=1)
    environments.reset()
    walk(environments, 45)
    state = json.loads(json.dumps(environments.state_dict()))
    resumed = make_environments(name, num_envs=2, seed=1)
    assert resumed.load_state_dict(state)
    np.testing.assert_array_equal(resumed.observations, environments.observations)
    np.testing.assert_array_equal(resumed.started, environments.started)
    assert json.loads(json.dumps(resumed.state_dict())) == state
    steps = 230  # beyond the time limit of the open episodes, into fresh ones
    assert all(map(same, walk(environments, steps, seed=2), walk(resumed, steps, seed=2)))


def test_an_episode_that_cannot_be_repeated_is_replaced_by_a_fresh_one() -> None:
    environments = make_environments("Pendulum-v1", num_envs=2, seed=1)
    environments.reset()
    walk(environments, 5)
    changed = make_environments("Pendulum-v1", num_envs=2, seed=1, env_kwargs={"g": 9.0})
    kept = make_environments("Pendulum-v1", num_envs=2, seed=1)
    state = environments.state_dict()
    assert not changed.load_state_dict(state)
    assert changed.started.all()
    walk(changed, 1)
    state["open_episodes"][0]["return"] += 1.0
    assert not kept.load_state_dict(state)
    assert kept.started.tolist() == [True, False]
    np.testing.assert_array_equal(kept.observations[1], environments.observations[1])
    assert not np.array_equal(kept.observations[0], environments.observations[0])
    ends = [[info["episode"]["l"] for info in step.infos if "episode" in info] for step in walk(kept, 200)]
    assert [lengths for lengths in ends if lengths] == [[200], [200]]  # the kept one five steps before the fresh one


def test_the_state_of_a_vector_that_is_not_ours_starts_afresh() -> None:
    given = gym.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync")
    environments = make_environments(given)
    environments.reset()
    assert not environments.load_state_dict(environments.state_dict())
    assert walk(environments, 1)[0].valid.all()


@pytest.mark.parametrize("damage", [{"actions": "?"}, {"steps": 3}, {"seed": None}])
def test_a_damaged_state_is_a_checkpoint_error(damage: dict[str, Any]) -> None:
    environments = make_environments("Pendulum-v1")
    environments.reset()
    walk(environments, 2)
    state = environments.state_dict()
    state["open_episodes"][0].update(damage)
    with pytest.raises(CheckpointError, match="damaged"):
        environments.load_state_dict(state)
    with pytest.raises(CheckpointError, match="has 2 environments, not 1"):
        environments.load_state_dict({"num_envs": 2})


def test_mistakes_in_use_are_explained(scripted: Any) -> None:
    environments = make_environments(scripted)
    with pytest.raises(SettingsError, match="reset before"):
        environments.step(np.zeros((1, 1)))
    environments.reset()
    wrong: NDArray[Any] = np.zeros((1, 2))
    with pytest.raises(SettingsError, match=r"shape \(1, 1\), not \(1, 2\)"):
        environments.step(wrong)
    environments.close()
    assert environments.vector.environments[0].env.closed  # type: ignore[attr-defined]


def test_what_cannot_be_an_environment_is_explained(scripted: Any) -> None:
    one = scripted()
    with pytest.raises(SettingsError, match="num_envs = 0"):
        make_environments(scripted, num_envs=0)
    with pytest.raises(SettingsError, match="num_envs = 2, but"):
        make_environments(one, num_envs=2)
    with pytest.raises(SettingsError, match="env_kwargs"):
        make_environments(one, env_kwargs={"longest": 2})
    with pytest.raises(SettingsError, match="not int"):
        make_environments(5)
    with pytest.raises(EnvironmentFault, match="same environment twice"):
        make_environments(lambda: one, num_envs=2)
    with pytest.raises(EnvironmentFault, match="returned dict"):
        make_environments(dict)
    with pytest.raises(EnvironmentFault, match="factory failed: ZeroDivisionError"):
        make_environments(lambda: 1 // 0)
    lengths = iter([1.0, 2.0])

    def differing() -> Any:
        env = scripted()
        env.action_space = gym.spaces.Box(0, next(lengths), (1,))
        return env

    with pytest.raises(EnvironmentFault, match="same spaces"):
        make_environments(differing, num_envs=2)
    with pytest.raises(UnsupportedSpaceError, match="FlattenObservation"):
        make_environments("Blackjack-v1")
