"""The online loop: updates, noise, health, and a checkpoint at any step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure

from forethought import JEPAAgent
from forethought.agents.controller import Controller
from forethought.agents.online import CATCH_UP, OnlineTraining
from forethought.world_model import measure_health

from .conftest import Target, Toy, same


def test_updates_of_the_random_steps_are_made_up_for_step_by_step(small):
    made = []

    def count(local, _):
        made.append(local["self"].learner.optimization.updates)
        return True

    JEPAAgent(lambda: Target(), **small | {"updates_per_step": 0.5, "learning_starts": 30}).learn(60, count)
    per_step = np.diff(made)
    assert made[29] == 0  # the callback comes before the step's updates
    assert per_step[29] == CATCH_UP * 0.5
    assert max(per_step) == CATCH_UP * 0.5
    assert made[-1] == 59 // 2  # as if learning had started at once


def test_rare_updates_are_made_all_the_same(small):
    agent = JEPAAgent(lambda: Target(), **small | {"updates_per_step": 0.05}).learn(60)
    assert agent.learner.optimization.updates == 3


def test_no_episode_takes_more_than_its_share_of_the_experience(small):
    def lengths(**settings):
        taken = []

        def note(local, _):
            taken.extend(info["episode"]["l"] for info in local["infos"] if "episode" in info)
            return True

        agent = JEPAAgent(lambda: Target(length=160), **small | {"updates_per_step": 0.01, **settings})
        agent.learn(700, note)
        assert not agent._require_training().store.arrays()["terminated"].any()
        return taken

    # A cut comes with the step from which on the episode would take more than a quarter of all.
    assert lengths(episode_share=0.25) == [100, 100, 100, 100, 133, 160]
    assert lengths(episode_share=None) == [160] * 4


class Trips(Target):
    """Some episodes end after two steps, in a terminal state, and the others are broken off after ten."""

    def reset(self, **kwargs):
        outcome = super().reset(**kwargs)
        self.terminal = bool(self.np_random.random() < 0.3)
        self.length = 2 if self.terminal else 10
        return outcome


def test_where_episodes_end_they_need_not_be_cut(small, monkeypatch):
    monkeypatch.setattr("forethought.agents.online.SHORTEST_CUT", 3)

    def lengths(agent):
        return [int(episode["l"]) for episode in agent._require_training().episodes]

    settings = {**small, "episode_share": 0.01}
    assert set(lengths(JEPAAgent(Trips, **settings, cut_if_terminating=True).learn(60))) == {2, 3}
    unbroken = JEPAAgent(Trips, **settings).learn(60)
    first = lengths(unbroken).index(2)
    before, after = lengths(unbroken)[:first], lengths(unbroken)[first + 1 :]
    assert set(before) == {3}
    assert set(after) == {2, 10}
    resumed = JEPAAgent(Trips, **settings)
    assert resumed.restore(unbroken.checkpoint())
    for agent in (unbroken, resumed):
        agent.learn(30, reset_num_timesteps=False)
    assert same(unbroken, resumed)
    assert 3 not in lengths(resumed)[first:]


def test_where_nothing_terminates_agents_that_cut_and_agents_that_need_not_are_the_same(small):
    settings = {**small, "episode_share": 0.25}
    cut, uncut = (JEPAAgent(lambda: Target(length=160), **settings, cut_if_terminating=cut) for cut in (True, False))
    for agent in (cut, uncut):
        agent.learn(150)
    assert len(cut._require_training().episodes) == 1  # which was cut
    assert same(cut, uncut)


def test_truncation_is_never_taken_for_termination(small):
    for terminal in (False, True):
        agent = JEPAAgent(lambda terminal=terminal: Target(terminal=terminal), **small).learn(40)
        assert agent._require_training().store.arrays()["terminated"].any() == terminal


def test_noise_goes_on_from_one_learn_to_the_next(small):
    agent = JEPAAgent(Target, **small).learn(40)
    ticks = agent._require_training().control.plan.ticks[0]
    agent.learn(10)
    assert agent._require_training().control.plan.ticks[0] == ticks + 10


def amounts_of(small, space, **settings):
    """Return by how much each of two environments explored at each step, and where their episodes began."""
    agent, drawn, begun = JEPAAgent(lambda: Target(space, length=5), **small | {"num_envs": 2} | settings), [], []

    def note(local, _):
        training = local["self"]._require_training()
        if training.in_control:
            drawn.append(training.amounts.copy())
            begun.append(training.environments.started.copy())
        return True

    agent.learn(600, note)
    return np.array(drawn), np.array(begun)


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=str)
@pytest.mark.parametrize(("exploration", "low", "high"), [(0.2, 0.1, 0.3), (0.8, 0.4, 1.0)])
def test_each_episode_draws_by_how_much_it_is_disturbed(space, exploration, low, high, small):
    updates = {"updates_per_step": 0.01, "exploration": exploration}
    drawn, begun = amounts_of(small, space, exploration_spread=0.5, **updates)
    changed = drawn[1:] != drawn[:-1]
    assert changed.any(0).all()
    assert not (changed & ~begun[:-1]).any()  # only where an episode begins
    assert drawn.min() == pytest.approx(low, abs=0.03)
    assert drawn.max() == pytest.approx(high, abs=0.03)
    assert (drawn[:, 0] != drawn[:, 1]).any()
    assert (amounts_of(small, space, exploration_spread=0.0, **updates)[0] == exploration).all()


@pytest.mark.parametrize("planner", ["policy", "icem"])
def test_exploring_pauses_by_spells(planner, small, monkeypatch):
    acted = []
    act = Controller.act

    def noted(self, state, observations, reset, explore=None):
        acted.append((explore.copy(), self.planner.searches))
        return act(self, state, observations, reset, explore)

    monkeypatch.setattr(Controller, "act", noted)
    acting = {"planner": planner, "horizon": 1, "proposals": 1, "budget": 8 if planner == "icem" else None}
    frugal = {"num_envs": 4, "updates_per_step": 0.01, "acting": acting}
    JEPAAgent(lambda: Target(length=5), **small | frugal, exploration=0.2, exploration_spell=4).learn(4_000)
    amounts = np.array([explore for explore, _ in acted])
    assert all(searches == (planner == "icem") for _, searches in acted)
    assert set(np.unique(amounts)) == {0.0, 0.2}
    assert (amounts == 0).mean() == pytest.approx(0.5, abs=0.1)
    turns = amounts[1:] != amounts[:-1]
    assert turns.mean(0) == pytest.approx(1 / 4, abs=0.06)
    assert (amounts[:, 0] != amounts[:, 1]).any()


def test_while_exploring_pauses_the_actor_is_followed_exactly(small):
    agent, followed, observations = JEPAAgent(Target, **small, exploration=0.5, exploration_spell=3), [], []

    def note(local, _):
        training = agent._require_training()
        if training.in_control:
            latents = agent.model.encode(torch.from_numpy(observations[-1]))
            exact = np.allclose(local["actions"], agent.behaviour.actor(latents).detach(), atol=1e-5)
            followed.append((bool(training.paused[0]), exact))
        observations.append(training.environments.observations.copy())
        return True

    agent.learn(120, note)
    assert set(followed) == {(True, True), (False, False)}


def test_a_checkpoint_from_before_amounts_were_drawn_goes_on(small, monkeypatch):
    small["exploration_spread"] = 0.0  # as runs have it that were begun before
    agent, whole = JEPAAgent(Target, **small).learn(34), OnlineTraining.state
    older = {name: part for name, part in whole(agent._require_training()).items() if name not in {"amounts", "paused"}}
    monkeypatch.setattr(OnlineTraining, "state", lambda _: older)
    checkpoint = agent.checkpoint()
    resumed = JEPAAgent(Target, **small)
    assert resumed.restore(checkpoint)
    for one in (agent, resumed):
        one.learn(20, reset_num_timesteps=False)
    assert same(agent, resumed)


def test_one_skipped_update_does_not_spoil_the_logged_losses(small):
    agent = JEPAAgent(Target, **small).learn(40)
    training = agent._require_training()
    training.store.arrays()["rewards"][:] = np.nan
    training.learn(1)
    assert agent.learner.optimization.skipped == 1
    assert all(value.isfinite() for value in training.metrics.values())


def test_the_log_leaves_learning_as_it_was(small, tmp_path, capsys):
    quiet = JEPAAgent(Target, **small).learn(60, log_interval=None)
    loud = JEPAAgent(Target, verbose=1, tensorboard_log=str(tmp_path), **small).learn(60, log_interval=1)
    assert "ep_rew_mean" in capsys.readouterr().out
    assert list(tmp_path.rglob("events*"))
    assert same(quiet, loud)


@pytest.mark.filterwarnings("ignore:Updates in bf16 are slow here")
@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_envs": 2},
        {"acting": {"planner": "auto", "horizon": 3, "budget": 24, "execute": 2}},
        {"num_envs": 2, "model": {"latent_dims": 8, "hidden": 16, "block": 2, "target": "copy"}},
        {"compute": {"precision": "bf16"}, "model": {"latent_dims": 8, "hidden": 16, "regularize": "projector"}},
        {"behaviour": {"hidden": 16, "value_expansion": None}, "episode_share": None},
        {"num_envs": 2, "episode_share": 0.125, "model": {"latent_dims": 8, "hidden": 16, "block": 2}}
        | {"behaviour": {"hidden": 16, "value_expansion": 4}},
        {"behaviour": {"hidden": 16, "critic_bins": 21}, "fading": 0.1},
        {"num_envs": 2, "exploration_spread": 1.0, "exploration_spell": 3},
        {"num_envs": 2, "trial_share": 0.5, "episode_share": None},
    ],
    ids=[
        *("one", "two environments", "acting by planning", "blocks and target copy", "bf16 and projector"),
        *("recorded targets and whole episodes", "two environments, blocks, longer imagination and episodes"),
        *(
            "distributions of values and experience that fades",
            "two environments, disturbed by amounts and spells of their own",
            "trials in two environments",
        ),
    ],
)
def test_a_checkpoint_continues_the_run_bit_for_bit(space, changes, small, monkeypatch):
    monkeypatch.setattr("forethought.agents.online.SHORTEST_CUT", 3)
    settings = {**small, **changes}

    def make() -> JEPAAgent:
        return JEPAAgent(lambda: Target(space), seed=1, **settings)

    unbroken = make().learn(34)
    checkpoint = unbroken.checkpoint()
    unbroken.learn(30, reset_num_timesteps=False)
    resumed = make()
    assert resumed.restore(checkpoint)
    resumed.learn(30, reset_num_timesteps=False)
    assert same(unbroken, resumed)
    if changes.get("trial_share"):
        assert same(unbroken.proven, resumed.proven)
        assert unbroken.proven.worst_return == resumed.proven.worst_return
    cut = [episode["l"] < 10 for episode in unbroken._require_training().episodes]
    assert any(cut) == (changes.get("episode_share", True) is not None)


def test_a_checkpoint_after_a_move_to_other_environments_continues_bit_for_bit(small):
    unbroken = JEPAAgent(Target, **small).learn(40)
    unbroken.set_env(Target)
    checkpoint = unbroken.learn(15, reset_num_timesteps=False).checkpoint()
    resumed = JEPAAgent(Target, **small)
    assert resumed.restore(checkpoint)
    for agent in (unbroken, resumed):
        agent.learn(30, reset_num_timesteps=False)
    assert same(unbroken, resumed)


def test_more_environments_after_a_move_are_waited_for(small):
    small["model"]["block"] = 4
    agent = JEPAAgent(Target, **small).learn(60)
    agent.set_env(gym.vector.SyncVectorEnv([Target] * 32))
    agent.learn(200, reset_num_timesteps=False)
    assert agent.learner.optimization.skipped == 0


def test_rewards_are_measured_by_the_size_of_those_of_a_model_step(small):
    scales = []
    for block in (1, 4):
        small["model"]["block"] = block
        agent = JEPAAgent(lambda: Toy(), **small, updates_per_step=0.5).learn(60)
        scales.append(float(agent.behaviour.reward_scale))
    assert scales == pytest.approx([1.0, 4.0])


def test_health_is_measured_on_distinct_states_that_were_not_learned_from(small, monkeypatch):
    seen = []

    def recorded(model, clip, generator):
        training = agent._require_training()
        seen.append((training.frontier, training.store.rows, clip))
        return measure_health(model, clip, generator)

    monkeypatch.setattr("forethought.agents.online.measure_health", recorded)
    agent = JEPAAgent(Target, **small)
    agent.learn(150)
    assert len(seen) >= 4
    for frontier, rows, clip in seen:
        assert clip.batch == rows - frontier == 12  # half of the interval of 25
        stored = agent._require_training().store.arrays()["observations"][frontier:rows]
        np.testing.assert_array_equal(clip.observations[:, 0].numpy(), stored)


def test_health_is_always_logged(small, tmp_path):
    agent = JEPAAgent(Target, **small)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(120, log_interval=1)
    agent.logger.close()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    expected = {"spread_mean", "spread_min", "sigreg", "effective_rank", "open_loop_error_3", "no_change_error_3"}
    assert {f"health/{name}" for name in expected} <= set(header)
