"""JEPAAgent: SB3's surface, spaces, files, and determinism."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    CheckpointCallback,
    EvalCallback,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from forethought import JEPAAgent
from forethought.core.errors import (
    EnvironmentFault,
    SettingsError,
    UnknownNameError,
    UnsupportedSpaceError,
)

from .conftest import Target, same, weights

ACTION_SPACES = [
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(np.array([-3.0, 0.0]), np.array([0.5, 1e-3]), dtype=np.float64),
    spaces.Box(np.array([-1e6, 0.3, -1e-8]), np.array([2e6, 0.3, 1e-8]), dtype=np.float64),
    spaces.Box(-3, 2, (2,), np.int64),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(2),
    spaces.Discrete(3),
    spaces.Discrete(2, start=5),
]
OBSERVATION_SPACES = [
    spaces.Box(-1, 1, (2,), np.float64),
    spaces.Discrete(4, start=-1),
    spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "mode": spaces.Discrete(3)}),
]


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=str)
def test_every_supported_action_space_is_learned_in_and_acted_in(action_space, small):
    agent = JEPAAgent(lambda: Target(action_space), **small).learn(40)
    assert agent.num_timesteps == 40
    assert agent.learner.optimization.updates > 0
    env = agent.get_env()
    actions, _ = agent.predict(env.reset(), deterministic=True)
    assert all(action_space.contains(action) for action in actions)


@pytest.mark.parametrize("observation_space", OBSERVATION_SPACES, ids=str)
def test_every_supported_observation_space_is_learned_from(observation_space, small):
    env = Target(observation_space=observation_space)
    agent = JEPAAgent(env, **small).learn(40)
    action, _ = agent.predict(env.reset(seed=0)[0])
    assert env.action_space.contains(action)


@pytest.mark.parametrize("action_space", [ACTION_SPACES[0], spaces.MultiDiscrete([3, 2])], ids=str)
def test_model_steps_may_span_several_environment_steps(action_space, small):
    small["model"]["block"] = 2
    agent = JEPAAgent(lambda: Target(action_space), **small, num_envs=2).learn(60)
    assert agent.model.action_dims == 2 * agent.action_codec.dims
    evaluate_policy(agent, DummyVecEnv([lambda: Monitor(Target(action_space))] * 2), n_eval_episodes=2)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "infinite"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "Dict"),
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple"),
        (spaces.Box(-1, 1, (0,)), "no dimensions"),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused_with_advice(space, message, small):
    with pytest.raises(UnsupportedSpaceError, match=message):
        JEPAAgent(lambda: Target(space), **small)


def test_images_are_learned_from(small, tmp_path):
    def make():
        return Target(observation_space=spaces.Box(0, 255, (3, 8, 8), np.uint8))

    vision = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 16}
    transformer = {"depth": 1, "heads": 2, "head_dims": 8, "hidden": 16, "projector_hidden": 16}
    model = {"vision": {**vision, "projector_hidden": 16}, "transformer": transformer, "context": 3}
    agent = JEPAAgent(make, **small | {"model": small["model"] | model}).learn(40)
    assert agent.learner.optimization.updates > 0
    observation = make().reset(seed=0)[0]
    action, state = agent.predict(observation)
    again = JEPAAgent.load(agent.save(tmp_path / "agent") or tmp_path / "agent")
    np.testing.assert_array_equal(again.predict(observation)[0], action)
    assert agent.predict(observation, state)[0].shape == (2,)
    assert len(agent.predict(np.stack([observation] * 3))[0]) == 3
    seen, actions = torch.from_numpy(observation).movedim(0, -1)[None], torch.zeros(1, 2)
    begun, fresh = (
        agent.model.observe(agent.model.initial(1), seen, actions, torch.tensor([reset])) for reset in (True, False)
    )
    assert all(torch.equal(a, b) for a, b in zip(begun.tensors(), fresh.tensors(), strict=True))  # either way the first


def test_observations_that_are_not_finite_are_named(small):
    agent = JEPAAgent(Target, **small)
    with pytest.raises(EnvironmentFault, match=r"not finite: those at \[1\]"):
        agent.predict(np.array([[0.1, 0.2], [np.nan, 0.0], [0.3, 0.4]], np.float32))
    with pytest.raises(SettingsError, match="call learn first"):
        agent.checkpoint()


def test_observation_statistics_do_not_come_from_vec_normalize(small):
    with pytest.raises(SettingsError, match="VecNormalize"):
        JEPAAgent(VecNormalize(DummyVecEnv([Target])), **small)


def test_sb3s_evaluate_policy_runs_unchanged(small):
    agent = JEPAAgent(Target, **small).learn(30)
    mean, _ = evaluate_policy(agent, DummyVecEnv([lambda: Monitor(Target())] * 3), n_eval_episodes=5)
    assert -2 * 10 <= mean <= 0


def test_sb3s_callbacks_run_unchanged(small, tmp_path):
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1000.0)
    evaluation = EvalCallback(
        Monitor(Target()), callback_on_new_best=stop, eval_freq=30, n_eval_episodes=2, log_path=str(tmp_path / "eval"),
        best_model_save_path=str(tmp_path / "best"), verbose=0,
    )  # fmt: skip
    checkpoints = CheckpointCallback(save_freq=10, save_path=str(tmp_path / "checkpoints"))
    agent = JEPAAgent(Target, **small)
    agent.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    agent.learn(100, callback=[checkpoints, LogEveryNTimesteps(10), evaluation])
    assert agent.num_timesteps == 30  # the threshold was reached at the first evaluation
    assert (tmp_path / "eval" / "evaluations.npz").exists()
    assert len(list((tmp_path / "checkpoints").glob("*.zip"))) == 3
    assert JEPAAgent.load(tmp_path / "checkpoints" / "rl_model_30_steps").num_timesteps == 30
    agent.logger.close()
    header = (tmp_path / "log" / "progress.csv").read_text().splitlines()[0]
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/total_timesteps", "train/prediction"} <= set(
        header.split(",")
    )


def test_sb3s_episode_limit_stops_training(small):
    agent = JEPAAgent(Target, **small).learn(100, callback=StopTrainingOnMaxEpisodes(max_episodes=3))
    assert agent.num_timesteps == 30


def test_a_function_is_a_callback_too_and_sees_sb3s_locals(small):
    seen, names = [], ("dones", "infos", "env", "actions")
    JEPAAgent(Target, **small).learn(12, callback=lambda local, _: seen.append([local[name] for name in names]) or True)
    assert len(seen) == 12
    assert seen[9][0].tolist() == [True]
    assert seen[9][1][0]["episode"]["l"] == 10
    assert all(env.num_envs == 1 and actions.shape == (1, 2) for *_, env, actions in seen)


def test_it_learns_in_vector_environments_of_both_libraries(small):
    first = JEPAAgent(make_vec_env(Target, 3), **small).learn(60)
    second = JEPAAgent(gym.vector.SyncVectorEnv([Target] * 3), **small).learn(60)
    for agent in (first, second):
        assert agent.num_timesteps >= 60
        assert agent.learner.optimization.updates >= 30
        evaluate_policy(agent, make_vec_env(Target, 2), n_eval_episodes=2)


def test_it_learns_the_same_in_environments_in_processes_of_their_own(small):
    here, there = (JEPAAgent("Pendulum-v1", num_envs=2, async_envs=kind, **small).learn(40) for kind in (False, True))
    assert same(here, there)
    with pytest.raises(SettingsError, match="async_envs needs an id or a factory"):
        JEPAAgent(Target(), async_envs=True, **small)


def test_environments_that_had_to_be_built_anew_are_counted_in_the_log(small, tmp_path):
    class Breaks(Target):
        def step(self, action):
            if self.np_random.random() < 0.1:
                raise RuntimeError("the gearbox broke")
            return super().step(action)

    agent = JEPAAgent(Breaks, supervision={"restarts": 2}, **small)
    agent.set_logger(configure(str(tmp_path), ["json"]))
    with pytest.raises(EnvironmentFault, match=r"gearbox broke.*built anew 2 times"):
        agent.learn(200, log_interval=1)
    agent.dump_logs()
    agent.logger.close()
    assert agent.restarts == 2
    assert '"env/restarts": 2' in (tmp_path / "progress.json").read_text()


def test_learning_goes_on_where_it_stopped(small):
    agent = JEPAAgent(Target, **small).learn(15)
    agent.learn(10, reset_num_timesteps=False)
    assert agent.num_timesteps == 25
    assert agent._require_training().store.episodes == 3  # the open episode was continued
    agent.learn(5)
    assert agent.num_timesteps == 5
    assert agent._require_training().store.rows == 30


def test_the_same_seed_learns_the_same_and_another_does_not(small):
    first, again, other = (JEPAAgent(Target, seed=seed, **small).learn(45) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


def test_user_code_on_global_generators_and_ours_do_not_disturb_each_other(small):
    quiet = JEPAAgent(Target, **small).learn(45)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.random.get_rng_state()
    noisy = JEPAAgent(Target, **small).learn(45)
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(quiet, noisy)


def test_predict_takes_one_observation_or_many_and_carries_its_state(small):
    agent = JEPAAgent(Target, **small).learn(30)
    observations = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
    action, state = agent.predict(observations[0], deterministic=True)
    assert action.shape == (2,)
    batch, state = agent.predict(observations, deterministic=True)
    assert batch.shape == (3, 2)
    again, _ = agent.predict(observations, state, np.array([False, True, False]), deterministic=True)
    assert again.shape == (3, 2)
    np.testing.assert_array_equal(batch, agent.predict(observations, deterministic=True)[0])
    with pytest.raises(SettingsError, match="belongs to 3 environments"):
        agent.predict(observations[:2], state)


def test_predictions_are_disturbed_only_when_not_deterministic(small):
    agent = JEPAAgent(Target, planner="policy", **{**small, "planning": {}}).learn(30)
    observation = np.zeros(2, np.float32)
    calm, noisy = (agent.predict(observation, deterministic=kind)[0] for kind in (True, False))
    assert not np.array_equal(calm, noisy)
    np.testing.assert_array_equal(noisy, agent.predict(observation)[0])  # from the state's own seed


def test_planners_are_swapped_by_name_without_training(small):
    agent = JEPAAgent(Target, **small).learn(30)
    before = weights(agent)
    observations = np.zeros((2, 2), np.float32)
    for name in ("policy", "random", "cem", "icem", "mppi", "gradient", "hybrid"):
        view = agent.planning_with(name, budget=60)
        assert view.planner.budget + 2 * view.planner.gradients <= 60
        actions, _ = view.predict(observations, view.initial_state([1, 2]), deterministic=True)
        assert agent.action_space.contains(actions[0].astype(np.float32))
    assert all(torch.equal(before[name], value) for name, value in weights(agent).items())
    with pytest.raises(UnknownNameError, match="icem"):
        agent.planning_with("icme")
    with pytest.raises(SettingsError, match=r"Planning by icem has no setting 'horzon'\. Did you mean 'horizon'"):
        agent.planning_with("icem", horzon=4)
    with pytest.raises(SettingsError, match=r"'elite'\. Did you mean 'elites'.* doubt, elites, "):
        agent.planning_with("icem", elite=4)


def test_planners_that_do_not_fit_the_actions_are_refused(small):
    with pytest.raises(UnsupportedSpaceError, match="categorical_cem"):
        JEPAAgent(lambda: Target(spaces.Discrete(3)), planner="mppi", **small)


def test_an_environment_of_other_spaces_is_refused(small):
    agent = JEPAAgent(Target, **small)
    with pytest.raises(SettingsError, match="made for"):
        agent.set_env(lambda: Target(spaces.Discrete(2)))


@pytest.mark.parametrize("make", [Target, lambda: make_vec_env(Target, 1)], ids=["environment", "VecEnv"])
@pytest.mark.parametrize("through", ["get_env", "the object"])
def test_an_object_that_somebody_moved_does_not_corrupt_the_experience(make, through, small):
    env = make()
    agent = JEPAAgent(env, **small).learn(15)
    evaluate_policy(agent, agent.get_env() if through == "get_env" else env, n_eval_episodes=1, warn=False)
    agent.learn(10, reset_num_timesteps=False)
    store = agent._require_training().store
    lengths = [len(store.episode(index)["actions"]) for index in range(store.episodes)]
    assert lengths == [10, 5, 10]


def test_another_environment_keeps_the_experience(small):
    agent = JEPAAgent(Target(), **small).learn(40)
    agent.set_env(Target())
    agent.learn(20, reset_num_timesteps=False)
    training = agent._require_training()
    assert agent.num_timesteps == training.store.rows == 60
    assert agent.learner.optimization.updates > 40  # it went on learning at once
    agent.set_env(make_vec_env(Target, 3))
    agent.learn(30, reset_num_timesteps=False)
    assert training.store.rows == 90


def test_copies_of_environments_are_made_when_they_are_asked_for(small):
    made = []

    def factory():
        made.append(Target())
        return made[-1]

    agent = JEPAAgent(factory, **small, num_envs=2).learn(30)
    env = agent.get_env()
    assert (len(made), env.num_envs, env.observation_space) == (2, 2, agent.observation_space)
    env.seed(3)
    env.reset()
    assert len(made) == 4
    assert [one.np_random_seed for one in made[2:]] == [3, 4]
    env.step(np.zeros((2, 2), np.float32))
    assert evaluate_policy(agent, env, n_eval_episodes=2, warn=False)[0] < 0
    env.close()


def test_a_seed_of_none_is_drawn_anew(small):
    assert JEPAAgent(Target, seed=None, **small).seed != JEPAAgent(Target, seed=None, **small).seed


def test_logs_can_be_dumped_before_learning(small):
    JEPAAgent(Target, **small).dump_logs()


def test_a_gymnasium_vector_is_not_for_others_to_step(small):
    agent = JEPAAgent(gym.vector.SyncVectorEnv([Target] * 2), **small)
    with pytest.raises(SettingsError, match="Only the agent steps"):
        evaluate_policy(agent, agent.get_env(), warn=False)


def test_the_policy_planner_can_choose_among_several_proposals(small):
    agent = JEPAAgent(Target, **small)
    assert agent.planning_with("policy").controller.proposals == 1
    assert agent.planning_with("policy", proposals=8).controller.proposals == 8


@pytest.mark.parametrize(
    ("own", "searched"),
    [
        ({"planner": "policy", "horizon": 1, "proposals": 1, "budget": None, "doubt": 7.0}, (3, 16, 64, 7.0)),
        ({"planner": "policy", "horizon": 8, "proposals": 1, "budget": 96}, (8, 16, 96, 2.0)),
        ({"planner": "policy", "horizon": 5, "proposals": 8}, (5, 8, 64, 2.0)),
        ({"planner": "cem", "horizon": 5, "proposals": 1, "budget": 96}, (5, 1, 96, 2.0)),
    ],
)
def test_what_the_bare_actor_does_without_is_the_usual_where_another_planner_searches(small, own, searched):
    small["planning"] = own
    agent = JEPAAgent(Target, **small)
    planning = agent.settings.planning_by("icem")
    assert planning.planner == "icem"
    assert (planning.horizon, planning.proposals, planning.budget, planning.doubt) == searched
    controller = agent.planning_with("icem").controller
    assert (controller.planner.horizon, controller.proposals) == searched[:2]
    assert agent.planning_with("icem", horizon=2).planner.horizon == 2
    assert agent.planning_with("policy").controller.proposals == 1


def test_an_agent_can_explore_for_its_own_sake(small):
    small["model"]["ensemble"] = 3
    scales, kept_apart_by = {}, {}
    for reward in ("task", "disagreement"):
        small["behaviour"]["reward"] = reward
        agent = JEPAAgent("Pendulum-v1", **small).learn(60)
        scales[reward] = float(agent.behaviour.reward_scale)
        kept_apart_by[reward] = agent.model.settings.regularize
        assert np.isfinite(agent.predict(np.zeros(3, np.float32))[0]).all()
    assert kept_apart_by == {"task": "nothing", "disagreement": "latent"}
    assert scales["disagreement"] < 0.5 < scales["task"]  # Pendulum's own rewards are of the size of 5
    small["model"]["ensemble"] = 0
    with pytest.raises(SettingsError, match=r"model.ensemble = 5"):
        JEPAAgent("Pendulum-v1", **small)


def test_misspelt_settings_name_the_nearest(small):
    with pytest.raises(SettingsError, match="latent_dims"):
        JEPAAgent(Target, model={"latent_dim": 8})
    with pytest.raises(SettingsError, match="learning_starts"):
        JEPAAgent(Target, learning_start=8)
    with pytest.raises(SettingsError, match="exploration"):
        JEPAAgent(Target, exploration=-1.0)
    with pytest.raises(UnknownNameError, match="icem"):
        JEPAAgent(Target, planner="iceem")


def test_a_model_is_given_vision_that_fits_the_images(small):
    def agent(*shape):
        return JEPAAgent(lambda: Target(observation_space=spaces.Box(0, 255, shape, np.uint8)), **small)

    vision = agent(84, 84, 3).settings.model.vision
    assert (vision.image_size, vision.patch_size) == (84, 21)
    assert agent(64, 64).settings.model.vision.patch_size == 16
    assert agent(64, 64).settings.model.regularize == "latent", "normalised latents are a form of plain networks"
    with pytest.raises(SettingsError, match=r"square, not 64 x 48.*ResizeObservation"):
        agent(64, 48, 3)
