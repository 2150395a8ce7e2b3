"""The controller: pure, per environment, and faithful to its planner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought.agents.behaviour import Behaviour
from forethought.agents.controller import FAILURES_IN_A_ROW, Controller
from forethought.agents.objective import RewardObjective
from forethought.core.errors import DivergedError, SettingsError
from forethought.planners import ActionSpec, make_planner
from forethought.world_model import JEPA, JEPASettings, LatentState


class ScriptedModel:
    """Predicts rewards and continuation given by hand, from latents that count the steps."""

    def __init__(self, rewards: list[float], continues: list[float] | None) -> None:
        self.rewards, self.continues, self.reward_head = rewards, continues, object()

    def imagine(self, state, actions, disagreement=True):
        batch, count, horizon, _ = actions.shape

        def repeat(values):
            return None if values is None else torch.tensor(values[:horizon]).expand(batch, count, horizon)

        steps = torch.arange(1.0, horizon + 1).reshape(1, 1, horizon, 1).expand(batch, count, horizon, 1)

        class Imagined:
            latents, rewards, continues = steps, repeat(self.rewards), repeat(self.continues)

        return Imagined


def test_the_objective_is_minus_reward_plus_value_masked_after_termination():
    state, actions = LatentState(torch.zeros(1, 1)), torch.zeros(1, 1, 3, 2)

    def value(latents):
        return 100 * latents[..., 0]

    goes_on = RewardObjective(ScriptedModel([1.0, 2.0, 4.0], None), state, value, 0.5)(actions)
    assert goes_on.item() == pytest.approx(-(1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 300))
    ends = RewardObjective(ScriptedModel([1.0, 2.0, 4.0], [1.0, 0.0, 1.0]), state, value, 0.5)(actions)
    assert ends.item() == pytest.approx(-(1 + 0.5 * 2))
    maybe = RewardObjective(ScriptedModel([1.0, 2.0, 4.0], [0.5, 1.0, 1.0]), state, None, 0.5)(actions)
    assert maybe.item() == pytest.approx(-(1 + 0.5 * 0.5 * 2 + 0.25 * 0.5 * 4))


def test_leaving_the_actor_costs_at_every_step_that_is_lived_to_see():
    state, actions = LatentState(torch.zeros(1, 1)), torch.full((1, 1, 3, 2), 7.0)

    def deviation(latents, actions):
        return 10 * latents[..., 0] + actions[..., 0]  # the latents before each step are 0, 1, 2

    model = ScriptedModel([1.0, 2.0, 4.0], [1.0, 0.5, 1.0])
    cost = RewardObjective(model, state, None, 0.5, deviation)(actions)
    assert cost.item() == pytest.approx(-((1 - 7) + 0.5 * (2 - 17) + 0.25 * 0.5 * (4 - 27)))


def test_the_mean_bootstrap_averages_what_would_be_estimated_after_each_step():
    state, actions = LatentState(torch.zeros(1, 1)), torch.full((1, 1, 3, 2), 7.0)

    def value(latents):
        return 100 * latents[..., 0]

    def deviation(latents, actions):
        return 10 * latents[..., 0] + actions[..., 0]

    def last_of(steps):
        objective = RewardObjective(ScriptedModel([1.0, 2.0, 4.0], [1.0, 0.5, 1.0]), state, value, 0.5, deviation)
        return objective(actions[:, :, :steps]).item()

    objective = RewardObjective(ScriptedModel([1.0, 2.0, 4.0], [1.0, 0.5, 1.0]), state, value, 0.5, deviation)
    mean = replace(objective, bootstrap="mean")(actions).item()
    assert mean == pytest.approx((last_of(1) + last_of(2) + last_of(3)) / 3)
    no_critic = replace(objective, value=None)
    assert replace(no_critic, bootstrap="mean")(actions).item() == no_critic(actions).item()


def test_a_model_without_rewards_cannot_be_planned_in_by_reward():
    model = JEPA(3, 2, JEPASettings(latent_dims=4, hidden=8, heads=False))
    with pytest.raises(SettingsError, match="heads=True"):
        RewardObjective(model, model.initial(1), None, 0.9)


def make_controller(planner="icem", block: int = 1, execute: int = 1, discrete: bool = False, horizon=3, **settings):
    torch.manual_seed(0)
    space = spaces.MultiDiscrete([3, 2]) if discrete else spaces.Box(-1, 1, (2,))
    spec = ActionSpec.from_space(space, block=block)
    model = JEPA(3, spec.dims, JEPASettings(latent_dims=6, hidden=16, block=block))
    behaviour = Behaviour(6, spec.dims, spec.groups)
    for weight in (model.predictor.change.weight, model.reward_head.logits.weight, behaviour.critic.weights[-1]):
        torch.nn.init.normal_(weight, std=0.5)
    planner = make_planner(planner, spec, horizon, budget=None if planner == "policy" else 30, **settings)

    def objective(state):
        return RewardObjective(model, state, behaviour.value, 0.9)

    return Controller(model, planner, objective, behaviour.actor, proposals=3, execute=execute)


def run(controller, seeds, steps=6, resets=(), order=None, explore=None):
    """Act in ``len(seeds)`` environments whose observations depend on seed and step only; return (steps, B, a)."""
    order = list(range(len(seeds))) if order is None else order
    seeds = [seeds[i] for i in order]
    state, chosen = controller.initial_state(seeds), []
    for step in range(steps):
        observations = torch.stack(
            [torch.randn(3, generator=torch.Generator().manual_seed(s * 99 + step)) for s in seeds]
        )
        reset = np.array([step == 0 or (s, step) in resets for s in seeds])
        actions, state = controller.act(state, observations, reset, explore)
        chosen.append(actions)
    return torch.stack(chosen)[:, np.argsort(order)]


@pytest.mark.parametrize(("planner", "discrete"), [("icem", False), ("mppi", False), ("categorical_cem", True)])
def test_an_environments_actions_are_the_same_alone_together_and_in_any_order(planner, discrete):
    controller = make_controller(planner, discrete=discrete)
    together = run(controller, [5, 6, 7])
    torch.testing.assert_close(run(controller, [5, 6, 7], order=[2, 0, 1]), together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(controller, [6])[:, 0], together[:, 1], rtol=1e-4, atol=1e-4)


def test_resetting_one_environment_leaves_the_others_as_they_are():
    controller = make_controller()
    plain, disturbed = run(controller, [1, 2]), run(controller, [1, 2], resets={(2, 3)})
    assert torch.equal(plain[:, 0], disturbed[:, 0])
    assert torch.equal(plain[:3, 1], disturbed[:3, 1])
    assert not torch.equal(plain[3:, 1], disturbed[3:, 1])


def test_a_plan_is_executed_for_as_many_steps_as_asked_and_planning_waits():
    controller = make_controller(execute=3)
    calls = []
    plan = controller.planner.plan

    def counted(objective, state, proposals=None):
        calls.append(len(state))
        result = plan(objective, state, proposals)
        counted.actions = result.actions
        return result

    controller.planner.plan = counted
    chosen = run(controller, [3, 4], steps=3)
    assert calls == [2]
    assert torch.equal(chosen.transpose(0, 1), counted.actions)
    run(controller, [3, 4], steps=7, resets={(4, 2)})
    assert calls[1:] == [2, 1, 1, 1, 1]  # at 0 both; at 2 the reset one; at 3 the other; at 5 and 6 again


def test_blocks_spread_one_planned_step_over_several_environment_steps():
    controller = make_controller(block=2)
    seen = []
    observe = controller.model.observe

    def recorded(state, observations, previous, reset):
        seen.append((len(observations), previous.clone()))
        return observe(state, observations, previous, reset)

    controller.model.observe = recorded
    chosen = run(controller, [3], steps=4)
    assert chosen.shape == (4, 1, 2)
    assert len(seen) == 2  # the middle of a model step is not observed
    torch.testing.assert_close(seen[1][1][0], chosen[:2, 0].reshape(-1))  # the block that was executed before


@pytest.mark.parametrize(("execute", "explore"), [(1, None), (3, None), (1, 0.5), (3, 0.5)])
def test_the_model_is_told_the_actions_that_were_really_taken(execute, explore):
    controller = make_controller(execute=execute)
    told = []
    observe = controller.model.observe

    def recorded(state, observations, previous, reset):
        told.append(previous.clone())
        return observe(state, observations, previous, reset)

    controller.model.observe = recorded
    chosen = run(controller, [3, 4], steps=6, explore=explore)
    torch.testing.assert_close(torch.stack(told[1:]), chosen[:-1])


@pytest.mark.parametrize("wrong", ["actions", "costs"])
def test_a_failed_plan_is_replaced_by_what_is_left_of_the_last_and_counted(wrong):
    controller = make_controller(horizon=4)
    plan, objective = controller.planner.plan, controller.objective
    broken = np.array([False, True])  # the second environment only

    def spoil(values):
        return values.masked_fill(torch.tensor(broken[-len(values) :]).view(-1, *[1] * (values.dim() - 1)), torch.nan)

    state = controller.initial_state([1, 2])
    _, state = controller.act(state, torch.ones(2, 3), np.ones(2, bool))
    last = state.plan.actions[1]
    if wrong == "actions":
        controller.planner.plan = lambda *rest: replace(plan(*rest), actions=spoil(plan(*rest).actions))
    else:
        controller.objective = lambda latent: lambda actions: spoil(objective(latent)(actions))
    for step in range(FAILURES_IN_A_ROW):
        actions, state = controller.act(state, torch.ones(2, 3), np.zeros(2, bool))
        assert torch.equal(actions[1], last[min(step, 3)])
        assert state.failed_in_a_row.tolist() == [0, step + 1]
    with pytest.raises(DivergedError, match="11 plans in a row failed in environment 1"):
        controller.act(state, torch.ones(2, 3), np.zeros(2, bool))
    broken[:] = False
    _, state = controller.act(state, torch.ones(2, 3), np.zeros(2, bool))
    assert (state.failed.tolist(), state.failed_in_a_row.tolist()) == ([0, 10], [0, 0])


def test_where_nothing_was_planned_before_a_failed_plan_is_to_rest():
    controller = make_controller()
    controller.objective = lambda latent: lambda actions: torch.full(actions.shape[:2], torch.nan)
    actions, state = controller.act(controller.initial_state([1]), torch.ones(1, 3), np.ones(1, bool))
    assert torch.equal(actions, torch.zeros(1, 2))
    assert controller.restore_state(state.to_tree()).select([0]).failed.tolist() == [1]


@pytest.mark.parametrize("discrete", [False, True])
def test_exploration_draws_from_each_environments_own_seed(discrete):
    controller = make_controller("policy", discrete=discrete)
    first = run(controller, [8, 9], explore=0.5, steps=30)
    torch.testing.assert_close(run(controller, [9], explore=0.5, steps=30)[:, 0], first[:, 1], rtol=1e-4, atol=1e-4)
    assert not torch.equal(first, run(controller, [8, 9], steps=30))
    if discrete:
        assert torch.equal(first.split([3, 2], -1)[0].sum(-1), torch.ones(30, 2))
    else:
        assert first.abs().max() <= 1


@pytest.mark.parametrize(("planner", "discrete"), [("policy", False), ("icem", False), ("categorical_cem", True)])
def test_each_environment_explores_by_an_amount_of_its_own(planner, discrete):
    controller = make_controller(planner, discrete=discrete)
    mixed = run(controller, [8, 9], explore=np.array([0.0, 0.5]), steps=30)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(mixed[:, 0], run(controller, [8, 9], explore=None, steps=30)[:, 0], **close)
    torch.testing.assert_close(mixed[:, 1], run(controller, [8, 9], explore=0.5, steps=30)[:, 1], **close)


@pytest.mark.parametrize(("amount", "expected"), [(0.0, 0.0), (0.6, 0.6 * 2 / 3), (1.0, 2 / 3)])
def test_discrete_exploration_replaces_as_often_as_asked(amount, expected):
    torch.manual_seed(0)
    spec = ActionSpec.from_space(spaces.Discrete(3))
    model = JEPA(3, 3, JEPASettings(latent_dims=4, hidden=8))
    controller = Controller(model, make_planner("policy", spec, horizon=1), lambda state: lambda a: a.sum((2, 3)))
    state = controller.initial_state(list(range(4000)))
    actions, _ = controller.act(state, torch.zeros(4000, 3), np.ones(4000, bool), explore=amount)
    assert torch.equal(actions.sum(1), torch.ones(4000))
    assert 1 - actions[:, 0].mean().item() == pytest.approx(expected, abs=0.03)


def test_state_survives_being_written_down():
    controller = make_controller(execute=2)
    state = controller.initial_state([1, 2])
    _, state = controller.act(state, torch.randn(2, 3), np.ones(2, bool))
    restored = controller.restore_state(state.to_tree())
    observations = torch.randn(2, 3)
    none = np.zeros(2, bool)
    for _ in range(3):
        expected, state = controller.act(state, observations, none)
        actions, restored = controller.act(restored, observations, none)
        assert torch.equal(actions, expected)


@pytest.mark.parametrize("before", [{"execute": 2}, {"planner": "cem"}, {"horizon": 5}], ids=str)
def test_another_way_of_planning_goes_on_with_a_plan_of_its_own(before):
    _, state = make_controller(**before).act(
        make_controller(**before).initial_state([1, 2]), torch.randn(2, 3), np.ones(2, bool)
    )
    controller = make_controller()
    restored = controller.restore_state(state.to_tree())
    assert restored.plan.ticks == state.plan.ticks
    for _ in range(2):
        actions, restored = controller.act(restored, torch.randn(2, 3), np.zeros(2, bool))
        assert actions.isfinite().all()
    assert not restored.failed.any()


def test_the_bare_policy_is_the_actor():
    controller = make_controller("policy")
    observations = torch.randn(4, 3)
    actions, _ = controller.act(controller.initial_state([0, 1, 2, 3]), observations, np.ones(4, bool))
    torch.testing.assert_close(actions, controller.actor(controller.model.encode(observations)).detach())
