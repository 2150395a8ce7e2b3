"""Evaluation plays the same episodes for everybody, changes nothing, and believes no number that is not finite."""

from __future__ import annotations

import json
import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from forethought.core.errors import EnvironmentFault, SettingsError
from forethought.evaluations import stage
from forethought.evaluations.evaluate import evaluate


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_results_do_not_depend_on_how_many_episodes_run_at_once(countdown, seeded_agent, at_once):
    together = evaluate(seeded_agent, countdown, episodes=7)
    apart = evaluate(seeded_agent, countdown, episodes=7, at_once=at_once)
    assert np.array_equal(together.returns, apart.returns)
    assert np.array_equal(together.lengths, apart.lengths)
    assert len(set(together.lengths)) > 1, "the episodes must finish at different times to tell anything"


def test_all_episodes_are_decided_in_one_batch_that_shrinks_as_they_finish(countdown, seeded_agent):
    lengths = evaluate(seeded_agent, countdown, episodes=5).lengths
    sizes = [size for size, _, _ in seeded_agent.batches]
    assert sizes == [int((lengths > step).sum()) for step in range(max(lengths))]


def test_only_the_first_decision_begins_an_episode_and_determinism_is_passed_on(countdown, seeded_agent):
    evaluate(seeded_agent, countdown, episodes=3, deterministic=False)
    starts = [start for _, start, _ in seeded_agent.batches]
    assert starts[0].all()
    assert not np.concatenate(starts[1:]).any()
    assert not any(deterministic for _, _, deterministic in seeded_agent.batches)


def test_everybody_meets_the_same_episodes_and_another_seed_means_others(countdown, constant_agent, seeded_agent):
    first, second = evaluate(constant_agent(), countdown), evaluate(seeded_agent, countdown)
    assert np.array_equal(first.seeds, second.seeds)
    assert np.array_equal(first.lengths, second.lengths)
    assert len(set(first.seeds)) == 10
    assert not set(first.seeds) & set(evaluate(constant_agent(), countdown, seed=1).seeds)


def test_an_episode_can_be_replayed_by_its_seed(countdown, constant_agent):
    evaluation = evaluate(constant_agent(), countdown, episodes=3)
    env = countdown()
    env.reset(seed=int(evaluation.seeds[2]))
    rewards = [env.step(np.array([0.5, 0.0], np.float32))[1] for _ in range(evaluation.lengths[2])]
    assert evaluation.returns[2] == pytest.approx(sum(rewards))
    assert evaluation.terminated.all()


def test_dict_observations_arrive_as_a_dict_of_stacked_arrays(countdown, constant_agent):
    agent = constant_agent()
    evaluate(agent, countdown, episodes=4, env_kwargs={"dictionary": True})
    assert {key: value.shape for key, value in agent.observations[0].items()} == {"a": (4, 2), "b": (4, 2)}


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_a_step_that_is_not_finite_cuts_the_episode_and_is_counted(countdown, constant_agent, where):
    kwargs = {"fault": 4, "where": where, "shortest": 3, "longest": 4}
    evaluation = evaluate(constant_agent(), countdown, episodes=20, env_kwargs=kwargs)
    long_enough = evaluation.lengths >= 4
    assert 0 < evaluation.faults == long_enough.sum() < 20
    assert np.array_equal(evaluation.faulty, long_enough)
    assert np.isfinite(evaluation.returns).all()
    assert evaluation.return_mean == pytest.approx(evaluation.returns[~long_enough].mean())
    assert "cut as faulty" in str(evaluation)


def test_a_first_observation_that_is_not_finite_ends_the_episode_before_it_begins(countdown, constant_agent):
    evaluation = evaluate(constant_agent(), countdown, episodes=2, env_kwargs={"fault": 0, "where": "observation"})
    assert evaluation.faulty.all()
    assert not evaluation.lengths.any()
    assert np.isnan(evaluation.return_mean)
    assert evaluation.interval() is None


def test_an_action_that_is_not_finite_never_reaches_the_environment(countdown, constant_agent):
    evaluation = evaluate(constant_agent((float("nan"), 0.0)), countdown, episodes=2)
    assert evaluation.faulty.all()
    assert not evaluation.lengths.any()


def test_episodes_are_cut_at_max_steps_as_not_terminated(countdown, constant_agent):
    evaluation = evaluate(constant_agent(), countdown, episodes=3, max_steps=2)
    assert evaluation.lengths.tolist() == [2, 2, 2]
    assert not evaluation.terminated.any()


def test_an_environment_without_any_limit_is_cut_with_a_warning(countdown, constant_agent, monkeypatch):
    monkeypatch.setattr(stage, "UNLIMITED_STEPS", 20)
    with pytest.warns(UserWarning, match="no limit of its own"):
        evaluation = evaluate(constant_agent(), countdown, episodes=1, env_kwargs={"shortest": 99, "longest": 99})
    assert evaluation.lengths.tolist() == [20]


def test_one_environment_plays_the_episodes_in_turn_and_stays_open(countdown, seeded_agent):
    env = countdown()
    assert np.array_equal(
        evaluate(seeded_agent, env, episodes=4).returns, evaluate(seeded_agent, countdown, episodes=4).returns
    )
    assert not env.closed


def test_environments_made_for_the_evaluation_are_closed_even_if_the_agent_fails(countdown):
    made = []

    def factory():
        made.append(countdown())
        return made[-1]

    class Failing:
        def predict(self, *args, **kwargs):
            raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        evaluate(Failing(), factory, episodes=3)
    assert len(made) == 3
    assert all(env.closed for env in made)


def test_a_state_that_cannot_be_narrowed_keeps_its_batch_whole(countdown):
    class Recurrent:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            state = np.zeros(len(observation)) if state is None else state + 1
            assert len(state) == len(observation) == 5
            return np.tile(np.float32([0.5, 0.0]), (5, 1)), state

    assert evaluate(Recurrent(), countdown, episodes=5).terminated.all()


def test_a_raw_sb3_model_earns_what_a_plain_loop_earns():
    model = DQN("MlpPolicy", "CartPole-v1", seed=3)
    evaluation = evaluate(model, "CartPole-v1", episodes=3)
    for seed, total in zip(evaluation.seeds, evaluation.returns, strict=True):
        env, done, earned = gym.make("CartPole-v1"), False, 0.0
        observation, _ = env.reset(seed=int(seed))
        while not done:
            observation, reward, terminated, truncated, _ = env.step(model.predict(observation, deterministic=True)[0])
            earned, done = earned + reward, terminated or truncated
        assert total == earned


def test_a_raw_sb3_model_sees_observations_normalised_as_in_training():
    vector = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    vector.obs_rms.mean[:] = 100.0
    model = PPO("MlpPolicy", vector, seed=0)
    seen = []
    inner = model.predict
    model.predict = lambda observation, **kwargs: (seen.append(observation), inner(observation, **kwargs))[1]
    evaluate(model, "CartPole-v1", episodes=2)
    assert (np.concatenate(seen) == -10.0).all(), "clipped as VecNormalize does"


def test_the_global_generators_are_as_before_and_stochastic_models_are_repeatable():
    model = PPO("MlpPolicy", "CartPole-v1", seed=0)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    first = evaluate(model, "CartPole-v1", episodes=3, deterministic=False)
    assert (random.random(), np.random.random(), torch.rand(()).item()) == expected  # noqa: NPY002
    second = evaluate(model, "CartPole-v1", episodes=3, deterministic=False)
    assert np.array_equal(first.returns, second.returns)


def test_time_is_told_per_decision_and_per_batch(countdown, seeded_agent):
    evaluation = evaluate(seeded_agent, countdown, episodes=6)
    calls, decisions = len(seeded_agent.batches), evaluation.lengths.sum()
    assert evaluation.batch_ms * calls == pytest.approx(evaluation.decision_ms * decisions)
    assert evaluation.decision_ms > 0


def test_an_evaluation_survives_json(countdown, seeded_agent):
    evaluation = evaluate(seeded_agent, countdown, episodes=4)
    data = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert data["returns"] == evaluation.returns.tolist()
    assert data["return"]["value"] == pytest.approx(evaluation.return_mean)
    assert data["return"]["low"] <= evaluation.return_mean <= data["return"]["high"]


@pytest.mark.parametrize("setting", [{"episodes": 0}, {"at_once": 0}, {"max_steps": -1}])
def test_settings_out_of_range_are_named(countdown, seeded_agent, setting):
    with pytest.raises(SettingsError, match=next(iter(setting))):
        evaluate(seeded_agent, countdown, **setting)


def test_a_vector_of_environments_is_refused_with_the_reason(seeded_agent):
    with pytest.raises(SettingsError, match="its own batch"):
        evaluate(seeded_agent, gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")]))


def test_an_agent_made_for_other_spaces_is_refused(countdown, constant_agent):
    agent = constant_agent()
    agent.action_space = gym.spaces.Discrete(3)
    with pytest.raises(SettingsError, match=r"actions in Discrete\(3\).*Box\(-1.0, 1.0, \(2,\)"):
        evaluate(agent, countdown, episodes=1)
    agent.action_space = gym.spaces.Box(-5, 5, (2,))
    assert evaluate(agent, countdown, episodes=1).lengths.size == 1


@pytest.mark.parametrize("method", ["reset", "step"])
def test_an_environment_that_raises_is_named(countdown, constant_agent, monkeypatch, method):
    def fail(self, *args, **kwargs):
        raise RuntimeError("the gearbox broke")

    monkeypatch.setattr(countdown, method, fail)
    with pytest.raises(EnvironmentFault, match=r"Countdown.*failed after 0 steps: RuntimeError: the gearbox"):
        evaluate(constant_agent(), countdown, episodes=1)
