"""Planning to goals: plans end where they should, and every environment has a goal of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought.agents.goals import GOAL_PRESETS, GoalPlanningSettings, GoalPolicy
from forethought.agents.objective import GoalObjective
from forethought.core.errors import SettingsError
from forethought.world_model import JEPA, LEWM_SMALL, Imagination, JEPASettings, LatentState
from forethought.world_model.transformer import ActionEncoder

BOX, ACTIONS = spaces.Box(-10, 10, (2,)), spaces.Box(-2, 2, (2,))


class Plane(torch.nn.Module):
    """A world whose latents are positions and whose actions, in [-1, 1], move by as much."""

    settings, observation_shape, action_dims, device = JEPASettings(latent_dims=2), (2,), 2, torch.device("cpu")
    latent_dims = 2

    def encode(self, observations):
        return observations

    def initial(self, batch):
        return LatentState(torch.zeros(batch, 2))

    def observe(self, state, observations, previous_actions, reset):
        return LatentState(observations)

    def imagine(self, state, actions, disagreement=True):
        return Imagination(state.latents[:, None, None] + actions.cumsum(2), None, None, None)


def costs(form, path, goal=(3.0, 0.0), **more):
    """Return what the objective says of paths of positions from the origin."""
    steps = torch.diff(torch.tensor([[[0.0, 0.0], *path]]), dim=1)
    objective = GoalObjective(Plane(), LatentState(torch.zeros(1, 2)), torch.tensor([goal]), form, **more)
    return objective(steps[None]).item()


@pytest.mark.parametrize(("form", "expected"), [("last", 4.0), ("sum", 4 + 1 + 4), ("best", 1.0)])
def test_a_plan_costs_its_distance_from_the_goal(form, expected):
    assert costs(form, [[1.0, 0.0], [2.0, 0.0], [5.0, 0.0]]) == pytest.approx(expected)


def test_another_distance_may_be_asked_for():
    def steps_left(latents, goals):
        assert latents.shape == goals.shape
        return (latents - goals).abs().sum(-1)

    assert costs("sum", [[1.0, 1.0], [2.0, 0.0]], distance=steps_left) == pytest.approx(3 + 1)


def test_goals_must_fit_the_latents():
    with pytest.raises(SettingsError, match=r"1 environments with latents of 2 dimensions.*\(1, 3\)"):
        GoalObjective(Plane(), LatentState(torch.zeros(1, 2)), torch.zeros(1, 3))


def walk(policy, starts, goals, steps, narrow=None):
    """Return the positions after some steps, of those that are kept after the first."""
    places, state = np.array(starts, np.float32), policy.initial_state(range(len(starts)), np.array(goals, np.float32))
    begun = np.ones(len(places), bool)
    for step in range(steps):
        actions, state = policy.predict(places, state, begun, True)
        places, begun = places + actions / 2, np.zeros(len(places), bool)
        if step == 0 and narrow is not None:
            places, state, begun = places[narrow], state.select(np.array(narrow)), begun[narrow]
    return places


@pytest.mark.parametrize("planner", ["cem", "icem", "mppi", "gradient"])
def test_every_environment_walks_to_its_own_goal(planner):
    policy = GoalPolicy(Plane(), BOX, ACTIONS, GoalPlanningSettings(planner, budget=400, horizon=3, form="sum"))
    goals = [[3.0, -2.0], [-4.0, 1.0], [0.0, 4.0]]
    np.testing.assert_allclose(walk(policy, [[0, 0], [0, 0], [1, 1]], goals, 8), goals, atol=0.4)


def test_goals_stay_with_their_environments_when_others_are_done():
    policy = GoalPolicy(Plane(), BOX, ACTIONS, GoalPlanningSettings(horizon=3, execute=2, form="sum"))
    goals = [[3.0, -2.0], [-4.0, 1.0], [0.0, 4.0]]
    np.testing.assert_allclose(walk(policy, [[0, 0]] * 3, goals, 8, narrow=[2, 0]), [goals[2], goals[0]], atol=0.4)


def test_a_model_is_told_of_the_actions_that_were_taken_where_plans_know_no_bounds():
    world = Plane()
    world.predictor = torch.nn.Module()
    world.predictor.action_encoder = ActionEncoder(2, 2, 2, 2)  # which knows the spread of the recorded actions
    policy = GoalPolicy(world, BOX, ACTIONS, GoalPlanningSettings(horizon=2, bounded=False))
    start, goal = np.zeros((1, 2), np.float32), np.array([[90.0, -90.0]], np.float32)
    actions, state = policy.predict(start, policy.initial_state([0], goal), np.ones(1, bool), True)
    assert state.plan.actions.abs().max() > 1
    assert torch.equal(state.executed[0, -1], torch.tensor([1.0, -1.0]))
    assert np.array_equal(actions, [[ACTIONS.high[0], ACTIONS.low[1]]])


def test_a_state_with_goals_survives_being_written_down():
    policy = GoalPolicy(Plane(), BOX, ACTIONS)
    state = policy.initial_state([1, 2], np.ones((2, 2), np.float32))
    restored = policy.controller.restore_state(state.to_tree())
    assert torch.equal(restored.goal, torch.ones(2, 2))
    assert policy.controller.restore_state(policy.controller.initial_state([3]).to_tree()).goal is None


def test_what_is_missing_or_does_not_fit_is_named():
    policy = GoalPolicy(Plane(), BOX, ACTIONS)
    with pytest.raises(SettingsError, match="needs them"):
        policy.initial_state([1])
    with pytest.raises(SettingsError, match="2 seeds and 1 goals"):
        policy.initial_state([1, 2], np.zeros((1, 2)))
    with pytest.raises(SettingsError, match=r"blocks of 10 action dimensions, and the environment has \(2,\) and 5"):
        GoalPolicy(JEPA(2, 10, JEPASettings(latent_dims=4, hidden=8, block=5)), BOX, spaces.Box(-1, 1, (1,)))


def test_the_time_to_goal_takes_the_place_of_the_latent_distance():
    def from_the_left(latents, goals):
        """Only what lies to the left of the goal is near it."""
        return torch.where(latents[..., 0] > goals[..., 0], 100.0, (latents - goals).abs().sum(-1))

    settings = GoalPlanningSettings(horizon=3, distance="time")
    policy = GoalPolicy(Plane(), BOX, ACTIONS, settings, time_to_goal=from_the_left)
    assert (walk(policy, [[0, 0]], [[3.0, 1.0]], 8)[:, 0] <= 3.0).all()
    with pytest.raises(SettingsError, match="forethought time-to-goal"):
        GoalPolicy(Plane(), BOX, ACTIONS, settings)


def lewm(deviation):
    """Return a small model whose recorded actions had this deviation."""
    sizes = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "hidden": 16}
    small = LEWM_SMALL.replace(latent_dims=8, vision=LEWM_SMALL.vision.replace(**sizes), block=2)
    model = JEPA((8, 8, 3), 4, small).eval()
    model.predictor.action_encoder.normalize(torch.zeros(2), torch.tensor(deviation))
    return model


def test_the_papers_planner_has_no_bounds_and_spreads_as_the_recorded_actions_do():
    images = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    policy = GoalPolicy(lewm([0.5, 2.0]), images, spaces.Box(-3, 3, (2,)), GOAL_PRESETS["lewm-paper"])
    planner, settings = policy.planner, policy.planner.settings
    assert (planner.budget, settings.samples, settings.iterations, planner.horizon) == (9001, 300, 30, 5)
    assert round(settings.elite_fraction * settings.samples) == 30
    assert policy.controller.execute == 5
    assert planner.spec.low.isinf().all()
    assert planner.spec.scale.tolist() == [0.5, 2.0, 0.5, 2.0]
    with pytest.raises(SettingsError, match="transformer predictor"):
        GoalPolicy(JEPA(2, 2, JEPASettings(latent_dims=4, hidden=8)), BOX, ACTIONS, GOAL_PRESETS["lewm-paper"])
