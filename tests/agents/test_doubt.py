"""Doubt: a critic that contradicts itself makes it dear to leave the actor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forethought import JEPAAgent
from forethought.agents.actor import CategoricalActor
from forethought.agents.objective import RewardObjective, latents_before
from forethought.agents.wish import effort, reward
from forethought.core.errors import SettingsError
from forethought.world_model import LatentState, Step

from .conftest import Target


class CountingModel:
    """Each step brings 1 and counts the latent up by 1; ``lasts`` is the probability of going on after it."""

    reward_head = object()

    def __init__(self, lasts: float | None) -> None:
        self.lasts = lasts

    def step(self, state, actions, disagreement=True):
        one = torch.ones(actions.shape[:2])
        return Step(LatentState(state.latents + 1), one, None if self.lasts is None else self.lasts * one, None)


def test_a_critic_contradicts_itself_by_how_much_its_estimates_differ():
    state = LatentState(torch.tensor([[0.0], [100.0]]))
    acted = []

    def act(latents):
        acted.append(latents.clone())
        return latents

    def consistent(latents):
        return torch.full_like(latents[..., 0], 1 / (1 - 0.5 * 0.8))  # 1 a step, discounted by 0.5, lasting with 0.8

    def flattering(latents):
        return consistent(latents) + torch.where(latents[..., 0] == 102, 8.0, 0.0)

    def contradiction(value, lasts):
        objective = RewardObjective(CountingModel(lasts), state, value, 0.5)
        return objective.contradiction(act, lambda latents, actions: value(latents), 3)

    torch.testing.assert_close(contradiction(consistent, 0.8), torch.zeros(2), atol=1e-6, rtol=0)
    assert [latents[:, 0, 0].tolist() for latents in acted] == [[0, 100], [1, 101], [2, 102]]
    off = torch.tensor([0, 0, 8 * (0.5 * 0.8) ** 2, 0]).std()
    torch.testing.assert_close(
        contradiction(flattering, 0.8), torch.stack([torch.zeros(()), off]), atol=1e-6, rtol=1e-5
    )
    endless = torch.tensor([sum(0.5**step for step in range(steps)) + 0.5**steps * 5 / 3 for steps in range(4)])
    torch.testing.assert_close(contradiction(consistent, None), endless.std().expand(2), atol=1e-6, rtol=1e-5)
    with pytest.raises(SettingsError, match="Without a critic"):
        RewardObjective(CountingModel(0.8), state, None, 0.5).contradiction(act, consistent, 3)


def test_an_undecided_actor_is_no_contradiction():
    """Of two actions one brings 1 and one 2; the critic knows that, and what an actor that mixes them brings later."""
    actor = CategoricalActor(1, (2,), 8, 0.0)
    actor.layers[-1].bias.data = torch.tensor([0.0, 0.1])
    odds = actor.layers[-1].bias.softmax(0)
    later = (odds @ torch.tensor([1.0, 2.0])).item() / (1 - 0.5)

    class Choices:
        reward_head = object()

        def step(self, state, actions, disagreement=True):
            return Step(LatentState(state.latents), actions @ torch.tensor([1.0, 2.0]), None, None)

    def action_value(latents, actions):
        return actions @ torch.tensor([1.0, 2.0]) + 0.5 * later

    def value(latents):
        return torch.full_like(latents[..., 0], later)

    objective = RewardObjective(Choices(), LatentState(torch.zeros(1, 1)), value, 0.5)
    torch.testing.assert_close(objective.contradiction(actor, action_value, 3), torch.zeros(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("task", ["Pendulum-v1", "CartPole-v1"])
def test_who_doubts_enough_does_as_the_actor_does(task, small):
    agent = JEPAAgent(task, seed=0, **small)
    torch.nn.init.normal_(agent.behaviour.target_critic.weights[-1], generator=torch.Generator().manual_seed(0))
    seen = np.random.default_rng(0).normal(size=(64, *agent.observation_space.shape))
    planner = agent.settings.planning.planner_for(agent.spec)

    def differs(**changes):
        views = agent.planning_with("policy"), agent.planning_with(planner, **changes)
        actor, plan = (view.predict(seen, None, np.ones(64, bool), deterministic=True)[0] for view in views)
        return float(np.mean(~np.isclose(actor, plan, atol=2e-2)))

    assert differs(doubt=0.0) > 0.2
    assert differs(doubt=1e6) == 0


def test_doubt_is_in_rewards_and_each_environment_s_own(small):
    small["planning"] = {"prior_weight": 0.25, "doubt": 0.5, "proposal_noise": 0.3, "bootstrap": "mean"}
    agent = JEPAAgent(Target, seed=0, **small)
    behaviour, generator = agent.behaviour, torch.Generator().manual_seed(0)
    torch.nn.init.normal_(behaviour.target_critic.weights[-1], generator=generator)
    behaviour.reward_scale.fill_(3.0)
    state = LatentState(torch.randn(2, 8, generator=generator))
    actions = torch.rand(2, 5, 3, agent.spec.dims, generator=generator) * 2 - 1
    objective = agent.planning_policy.controller.objective

    free = RewardObjective(agent.model, state, behaviour.value, 0.99, bootstrap="mean")
    doubts = free.contradiction(behaviour.mean_actor, behaviour.action_value, 3)
    assert doubts[0] != doubts[1]
    price = 0.25 * 3.0 + 0.5 * doubts

    def left(latents, actions):
        return price[:, None, None] * behaviour.mean_actor.surprise(latents, actions, 0.3)

    cost = objective(state)(actions)
    torch.testing.assert_close(cost, replace(free, deviation=left)(actions))
    torch.testing.assert_close(objective(state.select(torch.tensor([1])))(actions[1:]), cost[1:])


def test_the_bare_actor_has_nothing_to_doubt(small, monkeypatch):
    agent = JEPAAgent(Target, **small)
    monkeypatch.setattr(RewardObjective, "contradiction", None)
    assert agent.planning_with("policy", doubt=2.0).predict(agent.observation_space.sample())
    with pytest.raises(TypeError):
        agent.planning_with("policy", doubt=2.0, proposals=2).predict(agent.observation_space.sample())


def test_a_wish_is_doubted_as_much_as_it_asks_for_reward():
    agent = JEPAAgent("InvertedPendulum-v5", seed=0, model={"latent_dims": 4, "hidden": 16})
    behaviour, generator = agent.behaviour, torch.Generator().manual_seed(0)
    torch.nn.init.normal_(behaviour.target_critic.weights[-1], generator=generator)
    behaviour.reward_scale.fill_(3.0)
    state = LatentState(torch.randn(2, 4, generator=generator))
    actions = torch.rand(2, 5, 10, 1, generator=generator) * 2 - 1

    def costs(wish, doubt):
        acting = agent.planning_for(wish, prior_weight=0.0, doubt=doubt, horizon=10, proposal_noise=0.3)
        return acting.controller.objective(state)(actions)

    free = RewardObjective(agent.model, state, behaviour.value, 0.99)
    doubts = free.contradiction(behaviour.mean_actor, behaviour.action_value, 10)
    imagined = agent.model.imagine(state, actions, False)
    left = behaviour.mean_actor.surprise(latents_before(state, imagined), actions, 0.3).mean(2)
    wish = 0.25 * reward() + effort()
    more = costs(wish, 2.0) - costs(wish, 0.0)
    torch.testing.assert_close(more, 2 * 0.25 * doubts[:, None] / 3 * left, rtol=1e-3, atol=1e-5)
    assert torch.equal(costs(effort(), 2.0), costs(effort(), 0.0)), "whoever asks for no reward asks no critic"
