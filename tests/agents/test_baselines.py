"""A baseline is SB3's algorithm, unchanged, behind our names, checks and files."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from forethought.agents import available_agents, make_agent
from forethought.agents.registry import agents
from forethought.agents.training_env import build_vec_env
from forethought.core.errors import (
    CheckpointError,
    DivergedError,
    EnvironmentFault,
    MissingExtraError,
    SettingsError,
    UnknownNameError,
    UnsupportedSpaceError,
)
from forethought.core.files import load_archive

from .conftest import Toy

SMALL = {"policy_kwargs": {"net_arch": [8]}}
OFF_POLICY = {**SMALL, "buffer_size": 500, "learning_starts": 20, "batch_size": 8}
CASES = {
    "ppo": ("Pendulum-v1", {**SMALL, "n_steps": 32, "batch_size": 16, "n_epochs": 2}),
    "sac": ("Pendulum-v1", OFF_POLICY),
    "td3": ("Pendulum-v1", OFF_POLICY),
    "tqc": ("Pendulum-v1", OFF_POLICY),
    "crossq": ("Pendulum-v1", OFF_POLICY),
    "dqn": ("CartPole-v1", OFF_POLICY),
}


@pytest.fixture(autouse=True)
def _sb3_files_are_never_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("SB3's files can execute code")

    monkeypatch.setattr(BaseAlgorithm, "save", forbidden)
    monkeypatch.setattr(BaseAlgorithm, "load", classmethod(forbidden))


def train(name: str, steps: int = 64, **more: Any) -> Any:
    env, settings = CASES[name]
    return make_agent(name, env, seed=1, device="cpu", **settings, **more).learn(steps)


def weights(model: BaseAlgorithm) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in model.policy.state_dict().values()])


@pytest.mark.parametrize(("name", "algorithm"), [("ppo", PPO), ("sac", SAC)])
def test_the_same_seed_and_settings_give_the_weights_that_sb3_alone_gives(name: str, algorithm: Any) -> None:
    env, settings = CASES[name]
    own = copy.deepcopy(settings)  # SB3 changes what it is given
    alone = algorithm("MlpPolicy", Monitor(gym.make(env)), seed=1, device="cpu", **own).learn(64)
    ours = train(name)
    assert torch.equal(weights(ours.model), weights(alone))
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    acted, expected = (agent.predict(observations, deterministic=True)[0] for agent in (ours, alone))
    np.testing.assert_array_equal(acted, expected)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_baseline_acts_and_goes_on_as_the_one_in_memory(name: str, tmp_path: Path) -> None:
    agent = train(name)
    agent.save(tmp_path / "agent")
    loaded = agents.get(name).load(tmp_path / "agent", device="cpu")
    observations = np.array([agent.observation_space.sample() for _ in range(8)])
    acted, again = (each.predict(observations, deterministic=True)[0] for each in (agent, loaded))
    np.testing.assert_array_equal(acted, again)
    assert loaded.num_timesteps == agent.num_timesteps > 0
    assert loaded.get_env() is None
    with pytest.raises(SettingsError, match="no environment to learn in"):
        loaded.learn(1)

    loaded.set_env(CASES[name][0])
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps >= agent.num_timesteps + 32
    assert not torch.equal(weights(loaded.model), weights(agent.model))


@pytest.mark.parametrize("name", ["sac", "dqn"])
def test_optimisers_temperature_and_exploration_are_saved_too(name: str, tmp_path: Path) -> None:
    agent = train(name)
    agent.save(tmp_path / "agent")
    loaded = agents.get(name).load(tmp_path / "agent.zip")
    saved, restored = agent.model.get_parameters(), loaded.model.get_parameters()
    for optimizer in (key for key in saved if "optimizer" in key):
        assert saved[optimizer]["param_groups"] == restored[optimizer]["param_groups"]
        for index, state in saved[optimizer]["state"].items():
            for key, value in state.items():
                assert torch.equal(value, restored[optimizer]["state"][index][key])
    if name == "sac":
        assert torch.equal(agent.model.log_ent_coef, loaded.model.log_ent_coef)
        assert agent.model.log_ent_coef != 0
    else:
        assert agent.model.exploration_rate == loaded.model.exploration_rate < 1


def test_sb3_callbacks_run_and_save_in_our_format(tmp_path: Path) -> None:
    env, settings = CASES["ppo"]
    agent = make_agent("ppo", env, seed=0, **settings)
    agent.learn(
        64,
        callback=[
            CheckpointCallback(32, str(tmp_path), name_prefix="at"),
            EvalCallback(Monitor(gym.make(env)), eval_freq=32, best_model_save_path=str(tmp_path), verbose=0),
        ],
    )
    for name in ("at_32_steps.zip", "best_model.zip"):
        assert load_archive(tmp_path / name).documents["agent"]["kind"] == "ppo-agent"
    assert agents.get("ppo").load(tmp_path / "at_32_steps").num_timesteps == 32
    assert agent.logger.name_to_value is not None


@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("name", ["random", "ppo"])
def test_learning_without_a_log_leaves_no_folder_behind(
    name: str, verbose: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = {"n_steps": 16, "batch_size": 8} if name == "ppo" else {}
    agent = make_agent(name, Toy, verbose=verbose, **settings).learn(32)
    agent.dump_logs()
    assert list(tmp_path.iterdir()) == []
    assert ("time/" in capsys.readouterr().out) == bool(verbose)


@pytest.mark.parametrize("name", ["random", "ppo"])
def test_evaluate_policy_runs_on_one_and_on_many_environments(name: str) -> None:
    agent = make_agent(name, Toy)
    for env in (Monitor(Toy()), make_vec_env(Toy, 3)):
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=3)
        assert mean == 10


@pytest.mark.parametrize("name", ["random", "ppo"])
@pytest.mark.parametrize("kind", ["name", "factory", "environment", "vector"])
def test_a_baseline_learns_in_whatever_it_is_given(name: str, kind: str) -> None:
    ready: dict[str, Any] = {
        "name": "Pendulum-v1",
        "factory": Toy,
        "environment": Toy(),
        "vector": make_vec_env(Toy, 2),
    }
    source = ready[kind]
    agent = make_agent(name, source, **({"n_steps": 16, "batch_size": 8} if name == "ppo" else {}))
    agent.learn(16)
    assert agent.num_timesteps >= 16
    assert agent.get_env().num_envs == getattr(source, "num_envs", 1)


@pytest.mark.parametrize("name", ["random", "ppo"])
def test_environments_that_do_not_fit_are_refused_with_the_reason(name: str) -> None:
    def broken() -> gym.Env[Any, Any]:
        raise RuntimeError("no licence")

    with pytest.raises(SettingsError, match="VecNormalize"):
        make_agent(name, VecNormalize(make_vec_env(Toy, 1)))
    with pytest.raises(SettingsError, match="Gymnasium vector environment"):
        make_agent(name, gym.make_vec("CartPole-v1", 2))
    with pytest.raises(SettingsError, match="not int"):
        make_agent(name, 3)
    with pytest.raises(SettingsError, match="needs an environment"):
        make_agent(name, None)
    with pytest.raises(EnvironmentFault, match="no licence"):
        make_agent(name, broken)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'Pendulum-v1'"):
        make_agent(name, "Pendulun-v1")
    with pytest.raises(SettingsError, match="was made for"):
        make_agent(name, "Pendulum-v1").set_env("CartPole-v1")


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("sac", {"lerning_rate": 1}, r"sac has no setting 'lerning_rate'\. Did you mean 'learning_rate'\?"),
        ("ppo", {"learning_starts": 1}, r"ppo has no setting 'learning_starts'"),
        ("sac", {"seeds": 1}, r"sac has no setting 'seeds'"),
        ("sac", {"learning_rate": -1}, r"sac\.learning_rate = -1\.0 is out of range: it must lie in \(0, inf\)"),
        ("sac", {"gamma": 1.5}, r"sac\.gamma = 1\.5 is out of range: it must lie in \[0, 1\]"),
        ("sac", {"batch_size": "many"}, r"sac\.batch_size = 'many' must be int"),
        ("sac", {"buffer_size": 1e5}, r"sac\.buffer_size = 100000\.0 must be int"),
        ("sac", {"learning_rate": abs}, r"sac\.learning_rate = .* could not be saved without code"),
        ("sac", {"policy_kwargs": {"activation_fn": torch.nn.ReLU}}, r"could not be saved without code"),
        ("sac", {"policy_kwargs": {"nets": 3}}, r"refuses to build sac so: .*nets"),
        ("td3", {"action_noise": "some"}, r"td3\.action_noise = 'some' must be float or None"),
        ("sac", {"device": "tpu"}, r"Unknown device 'tpu'"),
        ("random", {"horizon": 1}, r"random agent has no settings.*'horizon'"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_trained(name: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_agent(name, "Pendulum-v1", **setting)


@pytest.mark.parametrize(
    ("name", "space", "message"),
    [
        ("sac", spaces.Discrete(2), r"sac acts in Box, .*Agents that fit: dqn, jepa, ppo, random"),
        ("dqn", spaces.Box(-1, 1, (1,)), r"dqn acts in Discrete, .*fit: crossq, .*td3, tdmpc2_form, tqc"),
        ("ppo", spaces.Discrete(2, start=1), r"counts discrete values from 0"),
        ("sac", spaces.Box(np.float32([0, -1]), np.float32([0, 1])), r"one value only"),
        ("ppo", spaces.Box(-np.inf, np.inf, (1,)), r"infinite bounds"),
        ("random", spaces.Box(-np.inf, np.inf, (1,)), r"infinite bounds"),
        ("ppo", spaces.Dict({"a": spaces.Discrete(2)}), r"The action space is Dict"),
        ("ppo", spaces.Tuple([spaces.Discrete(2)]), r"The action space is Tuple"),
        ("sac", spaces.Box(-1, 1, (0,)), r"no dimensions"),
    ],
)
def test_action_spaces_that_do_not_fit_are_refused(name: str, space: gym.Space[Any], message: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=message):
        make_agent(name, Toy(action_space=space))


def test_observation_spaces_that_do_not_fit_are_refused() -> None:
    parts = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (1,))})
    assert make_agent("ppo", Toy(parts)).model.policy.observation_space == parts
    with pytest.raises(UnsupportedSpaceError, match="flatten it"):
        make_agent("crossq", Toy(parts))
    with pytest.raises(UnsupportedSpaceError, match="images"):
        make_agent("ppo", Toy(spaces.Box(0, 255, (64, 64, 3), np.uint8)))
    with pytest.raises(UnsupportedSpaceError, match="from 0"):
        make_agent("ppo", Toy(spaces.Discrete(3, start=2)))


class Faulty(Toy):
    """A :class:`Toy` that writes into one array, and goes wrong at step 3 of every second episode, or of all."""

    def __init__(self, wrong: str, always: bool = False) -> None:
        super().__init__()
        self.wrong, self.always, self.episode, self.seen = wrong, always, 0, np.zeros(2, np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        self.episode += 1
        self.seen[:] = np.nan if self.wrong == "first observation" and self._goes_wrong() else 0.5
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        _, reward, *rest = super().step(action)
        wrong = self.steps == 3 and self._goes_wrong()
        self.seen[:] = np.nan if wrong and self.wrong == "observation" else 0.1 * self.steps
        return self.seen, 1e300 if wrong and self.wrong == "reward" else reward, *rest

    def _goes_wrong(self) -> bool:
        return self.always or self.episode % 2 == 0


@pytest.mark.parametrize("wrong", ["observation", "reward", "first observation"])
@pytest.mark.parametrize("name", ["random", "sac"])
def test_episodes_with_non_finite_values_are_cut_and_counted_and_nothing_of_them_is_stored(
    name: str, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = make_agent(name, Faulty(wrong), **(OFF_POLICY if name == "sac" else {}))
    agent.learn(39)
    assert agent.faults == 3, "after each whole episode of 10 steps"
    assert [f"non-finite {wrong}; more will be counted" in record.message for record in caplog.records] == [True]
    if name == "sac":
        buffer = agent.model.replay_buffer
        for stored in (buffer.observations, buffer.next_observations, buffer.rewards):
            assert np.isfinite(stored[:39]).all()
        assert {episode["l"] for episode in agent.model.ep_info_buffer} == {10}, "none that was cut"


@pytest.mark.parametrize("wrong", ["first observation", "observation"])
def test_more_than_ten_cut_episodes_in_a_row_end_the_training_whatever_was_sound_in_them(wrong: str) -> None:
    env = build_vec_env(Faulty(wrong, always=True))

    def go_on() -> None:
        env.reset()
        for _ in range(11):
            for _ in range(3):
                env.step(np.zeros((1, 1), np.float32))

    with pytest.raises(EnvironmentFault, match=rf"11 episodes in a row had to be cut.*non-finite {wrong}"):
        go_on()
    assert env.faults == 11


@pytest.mark.parametrize(("call", "step"), [("reset", 0), ("step", 2)])
def test_an_environment_that_raises_is_named_with_seed_and_step(call: str, step: int) -> None:
    class Breaks(Toy):
        def reset(self, **kwargs: Any) -> Any:
            return 1 // 0 if call == "reset" else super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            return 1 // 0 if self.steps == step else super().step(action)

    agent = make_agent("random", Breaks, seed=4)
    message = rf"Breaks, step {step} of the episode with seed 4: {call} failed: ZeroDivisionError: .* in {call}\)"
    with pytest.raises(EnvironmentFault, match=message):
        agent.learn(5)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("name", ["sac", "td3", "ppo"])
def test_an_agent_whose_weights_are_no_numbers_ends_its_training_and_stores_nothing(name: str, vector: bool) -> None:
    agent = make_agent(name, make_vec_env(Toy, 1) if vector else Toy, **CASES[name][1])
    agent.learn(32)
    with torch.no_grad():
        for weight in agent.model.policy.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"not finite"):
        agent.learn(32, reset_num_timesteps=False)
    stored = agent.model.replay_buffer if name != "ppo" else agent.model.rollout_buffer
    assert np.isfinite(stored.actions).all()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("name", ["sac", "ppo"])
def test_a_huge_reward_is_clipped_and_told_once_with_its_value(
    name: str, vector: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def lottery() -> gym.Env[Any, Any]:
        return gym.wrappers.TransformReward(Toy(), lambda reward: -1e30 * reward)

    agent = make_agent(name, make_vec_env(lottery, 1) if vector else lottery, **CASES[name][1]).learn(40)
    assert [record.message for record in caplog.records if "the reward -1e+30 is clipped to 100,000" in record.message]
    assert len(caplog.records) == 1
    assert weights(agent.model).isfinite().all()


def test_what_an_environment_means_by_episode_is_not_taken_for_sb3s() -> None:
    class Counting(Toy):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            odd = {"episode": self.steps, "map": np.zeros(self.steps), f"at {self.steps}": None}
            return (*super().step(action)[:4], odd)

    agent = make_agent("ppo", Counting, **CASES["ppo"][1]).learn(40)
    agent.dump_logs()
    assert {episode["l"] for episode in agent.model.ep_info_buffer} == {10}


@pytest.mark.parametrize("wrong", ["observation", "reward", "first observation"])
def test_a_given_vec_env_whose_episodes_cannot_be_cut_ends_the_training_at_a_non_finite_value(wrong: str) -> None:
    agent = make_agent("random", make_vec_env(lambda: Faulty(wrong), 2))
    with pytest.raises(EnvironmentFault, match=r"non-finite .*pass its name or a factory"):
        agent.learn(100)


def test_the_given_settings_are_left_as_they_were() -> None:
    given: dict[str, Any] = {"net_arch": [8]}
    agent = make_agent("ppo", Toy, policy_kwargs=given)
    assert given == agent.settings["policy_kwargs"] == {"net_arch": [8]}


def test_td3_explores_by_default_and_with_the_noise_that_it_is_given() -> None:
    assert make_agent("td3", "Pendulum-v1").model.action_noise._sigma == pytest.approx(0.1)
    assert make_agent("td3", "Pendulum-v1", action_noise=0.3).model.action_noise._sigma == pytest.approx(0.3)
    assert make_agent("td3", "Pendulum-v1", action_noise=None).model.action_noise is None


def test_without_the_extra_its_baselines_are_listed_and_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    assert {"tqc", "crossq"} <= set(available_agents())
    with pytest.raises(MissingExtraError, match=r"pip install '.\[contrib\]'"):
        make_agent("tqc", "Pendulum-v1")


def test_listing_the_agents_does_not_import_stable_baselines3() -> None:
    code = "import forethought, sys; print(*forethought.available_agents(), 'stable_baselines3' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.split() == [*available_agents(), "False"]


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    make_agent("random", Toy).save(tmp_path / "random")
    make_agent("ppo", Toy, **SMALL).save(tmp_path / "ppo")
    with pytest.raises(CheckpointError, match="does not hold a sac agent"):
        agents.get("sac").load(tmp_path / "ppo")
    with pytest.raises(CheckpointError, match="does not hold a random agent"):
        agents.get("random").load(tmp_path / "ppo")
    with pytest.raises(SettingsError, match="spaces are not those of"):
        agents.get("ppo").load(tmp_path / "ppo", env="Pendulum-v1")
    with pytest.raises(SettingsError, match="was made for"):
        agents.get("random").load(tmp_path / "random", env="Pendulum-v1")
