"""Vectors that users bring: three autoreset modes and Stable-Baselines3, and always the same experience."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecFrameStack, VecMonitor, VecNormalize

from forethought.core.errors import EnvironmentFault, SettingsError
from forethought.envs import Environments, EpisodeStore, Transition, make_environments

MODES = list(AutoresetMode)
KINDS = ["built", *[mode.name for mode in MODES], "SB3"]
LENGTHS = (3, 5)  # of the longest episode in each environment


def make(kind: str, factories: list[Any]) -> Environments:
    """Build the same environments as every kind of vector."""
    if kind == "built":
        remaining = iter(factories)
        return make_environments(lambda: next(remaining)(), num_envs=len(factories))
    if kind == "SB3":
        return make_environments(DummyVecEnv([partial(clean, factory) for factory in factories]))
    return make_environments(SyncVectorEnv(factories, autoreset_mode=AutoresetMode[kind]))


def clean(factory: Any) -> Any:
    env = factory()
    env.render_mode = None
    return env


def record(environments: Environments, rows: int) -> tuple[EpisodeStore, list[Transition]]:
    """Act by a rule that looks at nothing but the observations, until ``rows`` steps are stored."""
    store = EpisodeStore(3, 1, environments.num_envs)
    store.begin(environments.reset())
    transitions = []
    while store.rows < rows:
        actions = np.sin(environments.observations[:, :1] * 3 + environments.observations[:, 1:2]).astype(np.float32)
        transitions.append(environments.step(actions))
        store.append(actions, transitions[-1])
    return store, transitions


def closed_episodes(store: EpisodeStore) -> list[dict[str, NDArray[Any]]]:
    """Return finished episodes, sorted by what was seen."""
    episodes = [store.episode(index) for index in range(store.episodes)]
    return sorted((one for one in episodes if one["closed"]), key=lambda one: one["observations"].tolist())


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("faults", [{}, {(2, 2): "observation", (4, 1): "reward", (7, 2): "observation"}])
def test_one_environment_is_stored_alike_row_by_row(scripted: Any, kind: str, faults: dict[Any, str]) -> None:
    factory = partial(scripted, faults=faults)
    expected, _ = record(make("built", [factory]), 60)
    stored, _ = record(make(kind, [factory]), 60)
    for name, values in expected.arrays().items():
        if name not in ("now", "began"):  # NEXT_STEP has yet to learn how the next episode begins
            np.testing.assert_array_equal(stored.arrays()[name], values, err_msg=name)
    assert len(closed_episodes(stored)) > 20


@pytest.mark.parametrize("mode", MODES)
def test_arrays_that_a_vector_uses_again_and_again_are_copied(scripted: Any, mode: AutoresetMode) -> None:
    # In mode SAME_STEP Gymnasium passes the final observation on as it is, and its reset may write into that array.
    factory = partial(scripted, reuses_its_array=mode is not AutoresetMode.SAME_STEP)
    expected, _ = record(make("built", [scripted]), 30)
    stored, _ = record(make_environments(SyncVectorEnv([factory], copy=False, autoreset_mode=mode)), 30)
    for name in ("observations", "rewards", "terminated", "latest"):
        np.testing.assert_array_equal(stored.arrays()[name], expected.arrays()[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_several_environments_are_stored_alike_episode_by_episode(scripted: Any, kind: str) -> None:
    factories = [partial(scripted, longest, first=100 * index) for index, longest in enumerate(LENGTHS)]
    one, other = (closed_episodes(record(make(which, factories), 120)[0]) for which in ("built", kind))
    for index in range(2):
        mine = [episode for episode in one if episode["observations"][0, 0] // 100 == index][:15]
        theirs = [episode for episode in other if episode["observations"][0, 0] // 100 == index][:15]
        assert len(mine) == len(theirs) == 15
        for left, right in zip(mine, theirs, strict=True):
            for name in left:
                np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_ends_are_told_alike(scripted: Any, kind: str) -> None:
    _, transitions = record(make(kind, [partial(scripted, faults={(4, 1): "reward"})]), 40)
    infos = [step.infos[0] for step in transitions if step.terminated[0] or step.truncated[0]]
    told = [(info["episode"], info["TimeLimit.truncated"], info["time"]) for info in infos]
    lengths = [1 + episode % 4 for episode in range(99) if episode != 4]
    numbers = [episode for episode in range(99) if episode != 4]
    expected = [
        ({"r": length * (length + 1) / 2 + length * number / 8, "l": length}, number % 3 == 1, length)
        for length, number in zip(lengths, numbers, strict=True)
    ]
    assert told == expected[: len(told)]
    assert len(told) >= 14
    np.testing.assert_array_equal([info["terminal_observation"][1] for info in infos], lengths[: len(told)])
    assert [step.infos[0] for step in transitions if "fault" in step.infos[0]] == [{"fault": "non-finite reward"}]


@pytest.mark.parametrize("kind", ["SAME_STEP", "DISABLED", "SB3", "built"])
def test_only_next_step_mode_spends_steps_on_resets(scripted: Any, kind: str) -> None:
    assert all(step.valid.all() for step in record(make(kind, [scripted]), 40)[1])


def test_in_next_step_mode_the_step_that_only_resets_is_not_valid(scripted: Any) -> None:
    environments = make("NEXT_STEP", [partial(scripted, 1)])
    environments.reset()
    end, reset, after = (environments.step(np.zeros((1, 1))) for _ in range(3))
    assert (end.valid[0], end.terminated[0], end.started[0]) == (True, True, False)
    assert (reset.valid[0], reset.terminated[0], reset.started[0]) == (False, False, True)
    np.testing.assert_array_equal(reset.observations, [[1, 0, 0]])
    assert (after.valid[0], after.infos[0]["episode"]) == (True, {"r": 1.125, "l": 1})


def test_worker_processes_give_the_same_experience_and_cut_alike(scripted: Any) -> None:
    faults = {(3, 2): "observation"}
    expected, _ = record(make("built", [partial(scripted, faults=faults)]), 30)
    for mode in MODES:
        environments = make_environments(AsyncVectorEnv([partial(scripted, faults=faults)], autoreset_mode=mode))
        stored, _ = record(environments, 30)
        environments.close()
        assert environments.faults == 1
        np.testing.assert_array_equal(stored.arrays()["observations"], expected.arrays()["observations"])


def test_a_dead_worker_is_named_instead_of_an_empty_error(scripted: Any) -> None:
    vector = AsyncVectorEnv([scripted])
    environments = make_environments(vector)
    environments.reset()
    vector.processes[0].kill()
    vector.processes[0].join()
    with pytest.raises(EnvironmentFault, match=r"AsyncVectorEnv, vector step 0: step failed: .*a worker process died"):
        environments.step(np.zeros((1, 1)))
    vector.close(terminate=True)


@pytest.mark.parametrize("mode", MODES)
def test_vector_wrappers_may_stand_between(scripted: Any, mode: AutoresetMode) -> None:
    vector = vector_wrappers.RecordEpisodeStatistics(SyncVectorEnv([scripted] * 2, autoreset_mode=mode))
    _, transitions = record(make_environments(vector), 20)
    episodes = [info["episode"] for step in transitions for info in step.infos if "episode" in info]
    assert {"r": 1.0, "l": 1}.items() <= {key: episodes[0][key] for key in ("r", "l")}.items()


@pytest.mark.parametrize("mode", [None, "Sometimes"])
def test_an_unknown_autoreset_mode_is_refused(scripted: Any, mode: Any) -> None:
    vector = SyncVectorEnv([scripted])
    vector.metadata = {"autoreset_mode": mode}
    with pytest.raises(EnvironmentFault, match=r"autoreset_mode'\] is .*must be one of AutoresetMode.NEXT_STEP"):
        make_environments(vector)


def test_a_foreign_vector_that_cannot_reset_one_environment_is_refused_when_it_must(scripted: Any) -> None:
    class Foreign(vector_wrappers.TransformReward):
        @property
        def unwrapped(self) -> Any:
            return self

    inner = SyncVectorEnv([partial(scripted, faults={(0, 1): "reward"})])
    environments = make_environments(Foreign(inner, lambda reward: reward))
    environments.reset()
    with pytest.raises(EnvironmentFault, match="cannot reset one environment alone"):
        environments.step(np.zeros((1, 1)))


def test_wrappers_that_make_observations_of_their_own_are_refused_when_one_must_restart(scripted: Any) -> None:
    def factory() -> Any:
        return clean(partial(scripted, faults={(1, 1): "reward"}))

    environments = make_environments(VecFrameStack(DummyVecEnv([factory]), 2))
    environments.reset()
    environments.step(np.zeros((1, 1)))
    with pytest.raises(EnvironmentFault, match=r"VecFrameStack, which .* cannot reset one environment alone"):
        environments.step(np.zeros((1, 1)))


def test_a_monitor_that_was_fooled_by_a_cut_episode_is_not_believed(scripted: Any) -> None:
    def factory() -> Any:
        return clean(partial(scripted, faults={(1, 1): "reward"}))

    environments = make_environments(VecMonitor(DummyVecEnv([factory])))
    environments.reset()
    episodes = [environments.step(np.zeros((1, 1))).infos[0].get("episode") for _ in range(5)]
    assert [(one["r"], one["l"]) for one in episodes if one] == [(1.0, 1), (6.75, 3)]


@pytest.mark.parametrize("kind", KINDS)
def test_resetting_begins_other_episodes_than_before_and_the_same_in_another_run(kind: str) -> None:
    first, again = (make(kind, [PendulumEnv] * 2) for _ in range(2))
    begun = [first.reset() for _ in range(2)]
    assert not np.isin(begun[0][:, 0], begun[1][:, 0]).any()
    np.testing.assert_array_equal([again.reset() for _ in range(2)], begun)


def test_natively_vectorised_environments_with_one_seed_for_all_work() -> None:
    vector = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    environments = make_environments(vector, seed=1)
    first = environments.reset()
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        step = environments.step(environments.action_codec.sample(rng, 3))
        ends += int((step.valid & step.terminated).sum())
    assert ends >= 3
    np.testing.assert_array_equal(make_environments(vector, seed=1).reset(), first)


def test_same_step_without_final_observations_is_refused(scripted: Any) -> None:
    class Forgetful(gym.vector.VectorWrapper):
        def step(self, actions: Any) -> Any:
            return (*self.env.step(actions)[:4], {})

    environments = make_environments(Forgetful(SyncVectorEnv([scripted], autoreset_mode=AutoresetMode.SAME_STEP)))
    environments.reset()
    with pytest.raises(EnvironmentFault, match="without infos\\['final_obs'\\]"):
        environments.step(np.zeros((1, 1)))


@pytest.mark.parametrize("space", [gym.spaces.Discrete(4, start=2), gym.spaces.MultiDiscrete([2, 3])])
@pytest.mark.parametrize("kind", KINDS)
def test_discrete_spaces_and_dicts_go_through_every_kind(kind: str, space: gym.Space[Any]) -> None:
    class Parrot(gym.Env[Any, Any]):
        observation_space = gym.spaces.Dict({"said": space, "time": gym.spaces.Box(0, 9, (1,))})
        action_space = space

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.time = 0
            first = space.start if isinstance(space, gym.spaces.Discrete) else np.zeros(2, np.int64)
            return {"said": first, "time": np.zeros(1, np.float32)}, {}

        def step(self, action: Any) -> Any:
            assert space.contains(action)
            self.time += 1
            return {"said": action, "time": np.full(1, self.time, np.float32)}, 0.0, self.time == 3, False, {}

    environments = make(kind, [Parrot, Parrot])
    environments.reset()
    rng, heard = np.random.default_rng(0), 0
    for _ in range(12):
        actions = environments.action_codec.sample(rng, 2)
        transition = environments.step(actions)
        said = transition.next_observations[:, : environments.action_codec.dims]
        np.testing.assert_array_equal(said[transition.valid], actions[transition.valid])
        heard += int(transition.valid.sum())
    assert heard >= 18


def test_vec_normalize_is_refused_wherever_it_hides(scripted: Any) -> None:
    hidden = VecMonitor(VecNormalize(DummyVecEnv([partial(clean, scripted)])))
    with pytest.raises(SettingsError, match="VecNormalize changes its scale"):
        make_environments(hidden)


def test_a_monitor_keeps_the_last_word_on_returns(scripted: Any) -> None:
    doubled = gym.wrappers.TransformReward(Monitor(scripted()), lambda reward: 2 * reward)
    doubled.unwrapped.render_mode = None
    environments = make_environments(DummyVecEnv([lambda: doubled]))
    environments.reset()
    assert environments.step(np.zeros((1, 1))).infos[0]["episode"]["r"] == 1.0


def test_an_error_in_a_vec_env_is_reported_with_its_name(scripted: Any) -> None:
    class Broken(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            raise RuntimeError("no power")

    environments = make_environments(Broken(DummyVecEnv([partial(clean, scripted)])))
    environments.reset()
    with pytest.raises(EnvironmentFault, match="DummyVecEnv, vector step 0: step failed: RuntimeError: no power"):
        environments.step(np.zeros((1, 1)))
