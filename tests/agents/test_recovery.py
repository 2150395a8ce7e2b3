"""What is not finite, collapsed or all alike is skipped, gone back from, reported, or does no harm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from forethought import JEPAAgent
from forethought.agents.recovery import PATIENCE, SLOWDOWN
from forethought.core.errors import DivergedError
from forethought.world_model import Optimization, OptimizationSettings

from .conftest import Target, same, weights


def finite(agent):
    return all(weight.isfinite().all() for weight in weights(agent).values())


def blow_up(agent):
    """Leave weights from which every loss overflows, as a step that was far too long would."""
    with torch.no_grad():
        for parameter in agent.model.encoder.parameters():
            parameter.fill_(1e30)


def learning_rate(agent):
    return agent.learner.optimization.state()["optimizer"]["param_groups"][0]["lr"]


def test_weights_that_lead_nowhere_are_replaced_by_the_last_good_ones_and_learning_goes_on_slower(small):
    agent = JEPAAgent(Target, **small).learn(60)
    training, healthy = agent._require_training(), {name: value.clone() for name, value in weights(agent).items()}
    training.recovery.keep()
    blow_up(agent)
    training.learn(PATIENCE - 1)
    with pytest.warns(UserWarning, match=r"5 updates in a row were skipped, because the loss 'prediction' .*0\.1 time"):
        training.learn(1)
    assert all(torch.equal(value, healthy[name]) for name, value in weights(agent).items() if "normalizer" not in name)
    assert learning_rate(agent) == pytest.approx(SLOWDOWN * OptimizationSettings().learning_rate)
    agent.learn(30, reset_num_timesteps=False)
    assert finite(agent)
    assert agent.learner.optimization.skipped == PATIENCE
    assert agent.learner.optimization.skipped_in_a_row == 0


def test_statistics_that_a_forward_pass_has_spoilt_are_taken_back_too(small):
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "hidden": 16}
    small["model"]["vision"] = {**vision, "projector_hidden": 16}
    image = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    agent = JEPAAgent(lambda: Target(observation_space=image), **small).learn(40)
    training = agent._require_training()
    training.recovery.keep()
    usual = {name: value.clone() for name, value in weights(agent).items()}
    clip, _, _ = training._draw()
    agent.learner.update(replace(clip, rewards=clip.rewards * np.nan))  # which encodes, before it is skipped
    assert agent.learner.optimization.skipped == 1
    assert all(torch.equal(value, usual[name]) for name, value in weights(agent).items())
    agent.learner.update(clip)
    blow_up(agent)
    with pytest.warns(UserWarning, match="5 updates in a row were skipped"):
        agent._require_training().learn(PATIENCE)
    assert finite(agent)
    agent.learn(10, reset_num_timesteps=False)


def test_the_second_time_learning_stops_and_names_the_first_tensor_that_is_not_finite(small):
    agent = JEPAAgent(Target, **small).learn(40)
    training = agent._require_training()
    training.store.arrays()["rewards"][:] = np.nan
    with pytest.warns(UserWarning, match=r"because the clip's rewards \(24 of 24 entries\) is not finite"):
        training.learn(2 * PATIENCE - 1)
    with pytest.raises(DivergedError, match=r"first tensor that is not finite is the clip's rewards \(24 of 24"):
        training.learn(1)
    assert finite(agent)


def test_trouble_of_the_critic_alone_is_called_its_own(small):
    agent = JEPAAgent(Target, **small).learn(40)
    training = agent._require_training()
    training.recovery.keep()
    with torch.no_grad():
        agent.behaviour.critic.weights[1].fill_(1e30)
    with pytest.warns(UserWarning, match="because the loss 'critic'"):
        training.learn(PATIENCE)


def test_finite_gradients_stay_themselves_beside_those_that_are_not():
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimization = Optimization(parameters, OptimizationSettings(), torch.Generator())
    first, second, third = parameters
    assert not optimization.step((first * 2 + (second - 1).sqrt() + third * 3).sum())
    assert [parameter.grad.isfinite().all().item() for parameter in parameters] == [True, False, True]
    assert torch.equal(torch.stack(parameters), torch.ones(3, 2))


def test_a_run_that_goes_on_takes_the_learning_rate_and_decay_that_are_asked_for_now():
    def make(**settings):
        return Optimization([nn.Parameter(torch.ones(1))], OptimizationSettings(**settings), torch.Generator())

    before, after = make(), make(learning_rate=1e-5, weight_decay=0.0)
    before.restart(SLOWDOWN)
    after.load_state(before.state())
    [group] = after.state()["optimizer"]["param_groups"]
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (1e-5 * SLOWDOWN, 1e-5 * SLOWDOWN, 0.0)
    after.pace(0.5)
    assert after.state()["optimizer"]["param_groups"][0]["lr"] == 0.5e-5 * SLOWDOWN


def test_weights_during_whose_trouble_they_are_kept_are_not_the_good_ones(small):
    agent = JEPAAgent(Target, **small).learn(40)
    training = agent._require_training()
    blow_up(agent)
    training.learn(1)
    training.recovery.keep()
    with pytest.warns(UserWarning, match="going back"):
        training.learn(PATIENCE - 1)
    assert agent.model.encoder.layers[0].weight.abs().max() < 10


def test_a_resumed_run_goes_back_to_the_same_weights_as_the_unbroken_one(small):
    def make():
        return JEPAAgent(Target, seed=1, **small)

    unbroken, resumed = make().learn(80), make()
    assert resumed.restore(unbroken.checkpoint())
    for agent in (unbroken, resumed):
        blow_up(agent)
        with pytest.warns(UserWarning, match="going back"):
            agent.learn(30, reset_num_timesteps=False)
    assert finite(unbroken)
    assert same(unbroken, resumed)
    again = make()
    assert again.restore(unbroken.checkpoint())
    assert learning_rate(again) == learning_rate(unbroken) < OptimizationSettings().learning_rate
    assert again._require_training().recovery.rollbacks == 1


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_collapsed_latents_are_warned_of_or_end_the_training(on_collapse, small):
    """Nothing but prediction, of observations that cannot be predicted: a constant latent is the best of all."""
    small["model"] |= {"regularize": "nothing", "reward_weight": 0.0, "continue_weight": 0.0}
    agent = JEPAAgent(Target, on_collapse=on_collapse, learner={"learning_rate": 1e-2}, **small)
    if on_collapse == "stop":
        with pytest.raises(DivergedError, match=r"The latents have collapsed: their mean spread is .* Raise regul"):
            agent.learn(60)
        assert agent.num_timesteps < 60
    else:
        with pytest.warns(UserWarning, match="The latents have collapsed"):
            agent.learn(60)


def test_an_alarm_between_two_lines_of_the_log_is_not_lost(small, monkeypatch):
    agent = JEPAAgent(Target, **small).learn(40)
    agent.logger.dump()
    alarms = iter(["collapsed", None, None])
    monkeypatch.setattr("forethought.agents.online.collapse_alarm", lambda health, samples: next(alarms))
    check = agent._require_training()._check_health
    with pytest.warns(UserWarning, match="collapsed"):
        check(slice(0, 20))
    check(slice(0, 20))
    assert agent.logger.name_to_value["health/collapsed"] == 1.0
    agent.logger.dump()
    check(slice(0, 20))
    assert agent.logger.name_to_value["health/collapsed"] == 0.0


@pytest.mark.parametrize("value", [0.0, 0.7, 1e30])
def test_observations_that_are_all_alike_do_no_harm(value, small):
    class Constant(Target):
        def _observe(self):
            return np.full(2, value, np.float32)

    kind = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    agent = JEPAAgent(lambda: Constant(observation_space=kind), **small).learn(120)
    assert finite(agent)
    assert agent.learner.optimization.skipped == agent.behaviour.optimization.skipped == 0
    assert all(value.isfinite() for value in agent._require_training().metrics.values())


def test_one_reward_of_1e30_does_not_outweigh_all_others(small):
    class Lottery(Target):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            self.wins = getattr(self, "wins", 0) + (self.steps == 3)
            return observation, 1e30 if self.wins == 4 and self.steps == 3 else reward, *rest

    agent = JEPAAgent(Lottery, **small).learn(150)
    assert agent._require_training().environments.clipped_rewards == 1
    assert finite(agent)
    assert agent.learner.optimization.skipped == agent.behaviour.optimization.skipped == 0
    assert agent.behaviour.reward_scale < 1e3


@pytest.mark.parametrize("terminal", [False, True])
def test_episodes_shorter_than_clips_and_plans_are_learned_from(terminal, small):
    agent = JEPAAgent(lambda: Target(length=1, terminal=terminal), **small).learn(90)
    training = agent._require_training()
    assert finite(agent)
    assert agent.learner.optimization.skipped == agent.behaviour.optimization.skipped == 0
    assert training.store.episodes == training.episodes_done == 90
    clip = training.store.sample(32, agent.model.clip_spec, np.random.default_rng(0))
    assert clip.valid.sum(1).max() == 1


def test_an_environment_that_never_ends_costs_the_same_at_every_step(small):
    uncut = {"updates_per_step": 0.1, "learning_starts": 100, "episode_share": None}
    agent = JEPAAgent(lambda: Target(length=10**9), **small | uncut)
    stored = []
    for _ in range(3):
        agent.learn(150, reset_num_timesteps=False, log_interval=1)
        stored.append(sum(array.nbytes for array in agent._require_training().store.arrays().values()))
    assert stored[2] - stored[1] == stored[1] - stored[0] < 150 * 100
    assert agent._require_training().store.episodes == 1


def test_learning_waits_for_experience_however_early_it_is_asked_to_start(small):
    agent = JEPAAgent(Target, **small | {"learning_starts": 1, "batch_size": 512, "num_envs": 3})
    agent.learn(9)
    assert agent.learner.optimization.updates == 0
    agent.learn(9, reset_num_timesteps=False)
    assert agent.learner.optimization.updates == 18, "from 18 rows, of which batches of 512 are drawn"
