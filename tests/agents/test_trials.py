"""Trials: what does best while undisturbed is known, kept, and acts when it counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought import JEPAAgent
from forethought.agents.trials import EPISODES
from forethought.core.settings import SettingsError
from forethought.envs import Transition

from .conftest import Target


def make(small, **settings):
    return JEPAAgent(lambda: Target(length=5, terminal=True), **small | {"trial_share": 0.5} | settings)


def push(agent, amount):
    """Let the agent's average push by ``amount``, wherever it is."""
    last = agent.behaviour.mean_actor.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(math.atanh(amount))


def pushed(policy):
    low, high = policy.action_space.low, policy.action_space.high
    action = policy.predict(np.zeros(2, np.float32), deterministic=True)[0]
    return ((action - low) / (high - low) * 2 - 1).tolist()


def transition(rewards, ended=False, valid=True):
    ends = np.full(1, ended)
    observations = np.zeros((1, 2), np.float32)
    return Transition(
        observations, np.full(1, rewards, np.float32), ends, ~ends & False, np.full(1, valid), observations, ends, [{}]
    )


def tried(agent, trials, amount, returns):
    """Try the agent as it pushes by ``amount`` in one episode of two steps for each of ``returns``."""
    push(agent, amount)
    for collected in returns:
        for step, ended in enumerate((False, True)):
            started = np.full(1, step == 0)
            actions = trials.act(torch.zeros(1, 2), torch.zeros(1, 2), started, 10**6, whole=True)
            assert trials.row == 0
            torch.testing.assert_close(actions, torch.full((1, 2), pushes(trials)))
            trials.note(transition(collected / 2, ended))


def pushes(trials):
    return trials.candidate.behaviour.mean_actor.layers[-1].bias[0].tanh().item()


def test_the_best_is_kept_and_acts(small):
    agent = make(small)
    trials = agent._require_training().trials
    push(agent, 0.1)
    assert pushed(agent.planning_with("policy")) == pytest.approx([0.1, 0.1], abs=1e-6)
    tried(agent, trials, 0.2, [5.0])
    assert agent.proven is None  # once is not enough
    push(agent, 0.9)  # what learns on is another now, and the candidate is not
    tried(agent, trials, 0.9, [7.0])
    assert (agent.proven.worst_return, pushes(trials)) == (5.0, pytest.approx(0.2))
    for amount, returns, kept in [
        (0.3, [4.0], 0.2),  # worse at once
        (0.4, [8.0, 4.9], 0.2),  # worse the second time
        (0.5, [5.0, 5.0], 0.5),  # as good
        (0.6, [9.0, 6.0], 0.6),
    ]:
        tried(agent, trials, amount, returns)
        push(agent, -0.9)
        for view in (agent.planning_with("policy"), agent.planning_with("policy", actor="proven")):
            assert pushed(view) == pytest.approx([kept, kept], abs=1e-6)
        for name in ("average", "latest"):
            assert pushed(agent.planning_with("policy", actor=name)) != pytest.approx([kept, kept], abs=0.1)
    assert agent.proven.worst_return == 6.0
    assert trials.metrics() == {"trials/steps": 18, "trials/worst_return": 6.0, "trials/proven_at": 0}


def test_what_plans_is_the_model_critic_and_actor_that_were_proven(small):
    agent = make(small)
    tried(agent, agent._require_training().trials, 0.2, [1.0] * EPISODES)
    controller = agent.planning_policy.controller
    assert controller.model is agent.proven.model is not agent.model
    assert controller.actor is agent.proven.behaviour.mean_actor
    learning = agent.acting_policy.controller
    assert (learning.model, learning.actor) == (agent.model, agent.behaviour.actor)


def test_an_episode_that_the_environment_breaks_off_says_nothing(small):
    agent = make(small)
    trials = agent._require_training().trials
    trials.act(torch.zeros(1, 2), torch.zeros(1, 2), np.ones(1, bool), 10**6, whole=True)
    trials.note(transition(100.0))
    trials.note(transition(0.0, valid=False))
    assert (trials.row, trials.returns, trials.steps) == (None, [], 1)
    tried(agent, trials, 0.1, [3.0, 3.0])
    assert agent.proven.worst_return == 3.0


def test_a_candidate_that_did_well_is_tried_again_at_once(small):
    agent = make(small, trial_share=0.1)
    trials = agent._require_training().trials
    rows = []
    for returns in (4.0, 4.0, 4.0):
        trials.act(torch.zeros(1, 2), torch.zeros(1, 2), np.ones(1, bool), taken=5, whole=True)
        rows.append(trials.row)
        trials.note(transition(returns, ended=True))
    assert rows == [0, 0, None]  # the third would be another candidate's, and two of five steps are more than a tenth


def test_in_other_environments_states_are_proven_anew(small):
    agent = make(small)
    trials = agent._require_training().trials
    tried(agent, trials, 0.1, [9.0, 9.0, 9.5])
    agent.set_env(lambda: Target(length=5, terminal=True))
    assert (agent.proven.worst_return, trials.returns) == (-math.inf, [])
    tried(agent, trials, 0.2, [1.0, 2.0])
    assert agent.proven.worst_return == 1.0


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("count", [1, 3])
def test_trials_take_their_share_of_the_steps(share, count, small):
    agent = make(small, trial_share=share, num_envs=count, updates_per_step=0.01).learn(1_000)
    trials = agent._require_training().trials
    assert trials.steps == pytest.approx(min(share, 1 / count) * agent.num_timesteps, abs=40)  # one at a time
    assert agent.proven is not None
    assert agent.proven.step > 20
    recorded = []
    agent.logger.record = lambda name, value, *_, **__: recorded.append(name)
    agent._require_training().record()
    assert {"trials/steps", "trials/worst_return", "trials/proven_at"} <= set(recorded)


def test_nothing_is_disturbed_in_a_trial_and_everything_elsewhere(small):
    agent = make(small, num_envs=2, updates_per_step=0.01, exploration=0.5)
    seen, last = [], []

    def note(local, _):
        training = agent._require_training()
        if training.in_control and (row := training.trials.row) is not None:
            latents = training.trials.candidate.model.encode(torch.from_numpy(last[-1]))
            wanted = training.trials.candidate.behaviour.mean_actor(latents).detach().numpy()
            seen.append((np.allclose(local["actions"][row], wanted[row], atol=1e-5),
                         np.allclose(local["actions"][1 - row], wanted[1 - row], atol=1e-5)))  # fmt: skip
        last.append(training.environments.observations.copy())
        return True

    agent.learn(300, note)
    assert len(seen) > 20
    assert set(seen) == {(True, False)}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("settings", [{}, {"cut_if_terminating": True}, {"episode_share": None}])
def test_only_whole_episodes_are_trials(terminal, settings, small):
    agent = JEPAAgent(lambda: Target(length=5, terminal=terminal), **small, trial_share=0.5, **settings).learn(100)
    whole = settings == {"episode_share": None} or (terminal and not settings)
    assert (agent.proven is not None) == whole


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=str)
def test_files_hold_what_was_proven(space, small, tmp_path):
    agent = JEPAAgent(lambda: Target(space, 5, True), **small, trial_share=0.5).learn(120)
    assert agent.proven is not None
    agent.save(tmp_path / "agent")
    loaded = JEPAAgent.load(tmp_path / "agent")
    assert (loaded.proven.worst_return, loaded.proven.step) == (agent.proven.worst_return, agent.proven.step)
    observations = np.random.default_rng(0).uniform(-1, 1, (16, 2)).astype(np.float32)
    for name in ("proven", "average"):
        ours, theirs = (one.planning_with("policy", actor=name) for one in (agent, loaded))
        np.testing.assert_array_equal(ours.predict(observations)[0], theirs.predict(observations)[0])
    assert loaded.planning_policy.controller.model is loaded.proven.model
    going_on = JEPAAgent.load(tmp_path / "agent", env=lambda: Target(space, 5, True))
    assert going_on.proven.worst_return == -math.inf  # it has to be proven anew in what may be another environment
    assert going_on.learn(60).proven.worst_return > -math.inf


def test_a_checkpoint_from_before_anything_was_proven_brings_that_back(small):
    agent = make(small)
    agent.learn(22)
    checkpoint = agent.checkpoint()
    agent.learn(100, reset_num_timesteps=False)
    assert agent.proven is not None
    agent.restore(checkpoint)
    assert agent.proven is None
    assert agent.planning_policy.controller.model is agent.model


def test_without_trials_the_average_is_what_is_proven(small):
    agent = make(small, trial_share=0.0).learn(60)
    assert agent._require_training().trials is None
    assert agent.planning_with("policy", actor="proven").controller.actor is agent.behaviour.mean_actor


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(share, small):
    with pytest.raises(SettingsError, match="trial_share"):
        make(small, trial_share=share)
