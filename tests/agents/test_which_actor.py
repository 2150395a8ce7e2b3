"""Which state of the actor proposes plans: its average, the copy that targets follow, or the latest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forethought import JEPAAgent
from forethought.agents.objective import RewardObjective
from forethought.agents.wish import reward
from forethought.core.errors import SettingsError
from forethought.world_model import LatentState

from .conftest import Target

STATES = {"average": "mean_actor", "copy": "target_actor", "latest": "actor"}


@pytest.fixture
def agent(small):
    """An agent whose three states of the actor push by 0.5, 0 and -0.5, wherever they are."""
    agent = JEPAAgent(Target, seed=0, **small)
    for push, name in zip((0.5, 0.0, -0.5), STATES.values(), strict=True):
        last = getattr(agent.behaviour, name).layers[-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, float(np.arctanh(push)))
    torch.nn.init.normal_(agent.behaviour.target_critic.weights[-1], generator=torch.Generator().manual_seed(0))
    return agent


def pushes(policy):
    observation = np.zeros(policy.observation_space.shape, np.float32)
    return policy.predict(observation, deterministic=True)[0]


@pytest.mark.parametrize(("which", "push"), [("average", 0.5), ("copy", 0.0), ("latest", -0.5), ("auto", 0.5)])
def test_the_bare_actor_acts_in_the_state_that_is_asked_for(agent, which, push):
    low, high = agent.action_space.low, agent.action_space.high
    expected = low + (push + 1) / 2 * (high - low)
    np.testing.assert_allclose(pushes(agent.planning_with("policy", actor=which)), expected, atol=1e-6)


@pytest.mark.parametrize("which", STATES)
def test_plans_end_with_the_value_of_the_actor_that_proposes_them(agent, which):
    state = LatentState(torch.randn(2, 8, generator=torch.Generator().manual_seed(1)))
    actions = torch.rand(2, 5, 3, agent.spec.dims, generator=torch.Generator().manual_seed(2)) * 2 - 1
    actor = getattr(agent.behaviour, STATES[which])

    def value(latents):
        return agent.behaviour.action_value(latents, actor(latents))

    view = agent.planning_with("icem", actor=which, doubt=0.0, bootstrap="last")
    assert view.controller.actor is actor
    torch.testing.assert_close(
        view.controller.objective(state)(actions), RewardObjective(agent.model, state, value, 0.99)(actions)
    )


@pytest.mark.parametrize("which", STATES)
def test_doubt_makes_that_state_of_the_actor_dear_to_leave(agent, which):
    bare, doubtful = agent.planning_with("policy", actor=which), agent.planning_with("icem", actor=which, doubt=1e6)
    np.testing.assert_allclose(pushes(doubtful), pushes(bare), atol=2e-2)
    assert doubtful.controller.actor is bare.controller.actor


@pytest.mark.parametrize("which", STATES)
def test_wishes_are_planned_for_near_it_too(agent, which):
    view = agent.planning_for(reward(), actor=which, doubt=1e6)
    assert view.controller.actor is getattr(agent.behaviour, STATES[which])
    np.testing.assert_allclose(pushes(view), pushes(agent.planning_with("policy", actor=which)), atol=2e-2)


def test_while_learning_the_latest_acts_unless_another_is_asked_for(small):
    usual, cautious = JEPAAgent(Target, **small), JEPAAgent(Target, **small, acting={"actor": "average"})
    assert usual.acting_policy.controller.actor is usual.behaviour.actor
    assert usual.planning_policy.controller.actor is usual.behaviour.mean_actor
    assert cautious.acting_policy.controller.actor is cautious.behaviour.mean_actor


def test_a_state_that_there_is_not_is_refused(agent):
    with pytest.raises(SettingsError, match="actor"):
        agent.planning_with("policy", actor="newest")
