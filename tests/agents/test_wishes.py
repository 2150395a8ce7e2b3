"""Wishes: what is asked, what it costs, and that planners bring it about in a world that is known exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from forethought import JEPAAgent, available_planners, quantity
from forethought.agents.wish import Term, Wish, effort, reward
from forethought.agents.wish_objective import ENDED, WishObjective
from forethought.agents.wish_policy import WISH_PLANNING, wish_policy
from forethought.core.errors import SettingsError, UnknownNameError
from forethought.core.quantity import Quantity
from forethought.envs import ActionCodec, ObservationCodec
from forethought.planners import ActionSpec
from forethought.world_model import Imagination, LatentState, LinearProbe, MLPProbe, ProbeSamples

PLACE, HEADING = Quantity("place", "m"), Quantity("heading", "rad", True)


class PointWorld(torch.nn.Module):
    """Latents are two coordinates; the first two action dimensions move them by a tenth of a unit."""

    device, latent_dims, action_dims, observation_shape = torch.device("cpu"), 2, 3, (2,)

    def __init__(self, lasts=None):
        super().__init__()
        self.settings, self.lasts = SimpleNamespace(context=1, block=1, latent_dims=2), lasts

    def initial(self, batch):
        return LatentState(torch.zeros(batch, 2))

    def observe(self, state, observations, previous_actions, reset):
        return LatentState(observations)

    def imagine(self, state, actions, disagreement=True):
        latents = state.latents[:, None, None] + 0.1 * actions[..., :2].cumsum(2)
        lasts = None if self.lasts is None else torch.tensor(self.lasts).expand(latents.shape[:3])
        return Imagination(latents, None, lasts, None)


def reader(known=PLACE):
    """Return a probe that reads the first coordinate, or the angle of both; its usual spread is 2 (or 1 rad)."""
    probe = LinearProbe(2, [known])
    probe.weight.copy_(torch.eye(2)[:, : probe.coordinates])
    probe.spread.fill_(2.0 if not known.angle else 0.5**0.5)
    probe.scale.fill_(0.5 if not known.angle else 1.0)
    return probe


def cost(wish, place, model=None, probe=None, actions=None, **how):
    probes = {"place": reader(), "heading": reader(HEADING)} if probe is None else {"place": probe}
    state = LatentState(torch.tensor([[float(place), 0.5]]))
    objective = WishObjective(model or PointWorld(), state, wish, probes, **how)
    return objective(torch.zeros(1, 1, 2, 3) if actions is None else actions).item()


def test_a_wish_is_said_in_python_as_on_the_command_line():
    said = 2 * quantity("x_velocity", target=2.0) + quantity("height", at_least=0.6, at_most=0.9) + 0.01 * effort()
    text = "2*x_velocity=2, height>=0.6, height<=0.9, 0.01*effort"
    assert Wish.parse(text) == said
    assert str(said) == text
    assert Wish.parse(" x=max,y = min , reward,3e-1 * z >= -.5") == (
        quantity("x", maximize=True) + quantity("y", minimize=True) + reward() + 0.3 * quantity("z", at_least=-0.5)
    )
    assert Wish.parse(str(said)) == said
    assert said.quantities == ("x_velocity", "height")
    assert not said.needs_reward
    assert (said + reward()).needs_reward


@pytest.mark.parametrize(
    "text",
    ["", "x_velocity", "x_velocity=", "=2", "x_velocity=fast", "x>=max", "x==2", "a=1 b=2", "-1*x=2", "0*x=1", "x=1,,"],
)
def test_what_is_no_wish_is_refused_in_words(text):
    with pytest.raises(SettingsError, match=r"is no wish|What is .* to be|must be a positive number"):
        Wish.parse(text)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"target": 1.0, "at_least": 0.0},
        {"maximize": True, "minimize": True},
        {"at_least": 2.0, "at_most": 1.0},
        {"target": math.nan},
        {"at_least": math.inf},
    ],
)
def test_a_quantity_is_asked_for_one_thing(asked):
    with pytest.raises(SettingsError, match=r"asks for one of|cannot be"):
        quantity("x", **asked)


def test_what_is_missed_costs_in_units_of_what_is_usual():
    assert cost(quantity("place", target=3.0), 3.0) == pytest.approx(0, abs=1e-6)
    far = [cost(quantity("place", target=3.0), place) for place in (1.0, 5.0, 7.0)]
    assert far == pytest.approx([math.hypot(1, 0.1) - 0.1] * 2 + [math.hypot(2, 0.1) - 0.1], abs=1e-5)
    assert cost(3 * quantity("place", target=3.0), 5.0) == pytest.approx(3 * far[0], abs=1e-5)
    for wish, free, paid in (
        (quantity("place", at_least=3.0), 4.0, 1.0),
        (quantity("place", at_most=3.0), 2.0, 5.0),
        (quantity("place", at_least=2.0, at_most=3.0), 2.5, 5.0),
    ):
        assert cost(wish, free) == pytest.approx(0, abs=1e-6)
        assert cost(wish, paid) == pytest.approx(far[0], abs=1e-5)
    assert cost(quantity("place", maximize=True), 3.0) == pytest.approx(-1.5)
    assert cost(quantity("place", minimize=True), 3.0) == pytest.approx(1.5)
    assert cost(2 * effort(), 0.0, actions=torch.full((1, 1, 2, 3), 0.5)) == pytest.approx(2 * 0.25)


def test_angles_take_the_shorter_way_round():
    state = LatentState(torch.tensor([[math.sin(3.1), math.cos(3.1)]]))
    probes = {"heading": reader(HEADING)}
    probes["heading"].spread.fill_(1.0)
    objective = WishObjective(PointWorld(), state, quantity("heading", target=-3.1), probes)
    away = (2 * math.pi - 6.2) / 2**0.5
    assert objective(torch.zeros(1, 1, 1, 3)).item() == pytest.approx(math.hypot(away, 0.1) - 0.1, abs=1e-4)


def test_what_has_ended_fulfils_no_wish():
    wish = quantity("place", target=3.0)
    assert cost(wish, 3.0, PointWorld([1.0, 0.5])) == pytest.approx(0.5 * 0.5 * ENDED)
    assert cost(wish, 3.0, PointWorld([0.0, 1.0])) == pytest.approx(ENDED)


def test_leaving_the_actor_and_rewards_count_per_step():
    def deviation(latents, actions):
        return 10 * latents[..., 0] + actions[..., 0]

    actions = torch.full((1, 1, 2, 3), 1.0)
    wish = quantity("place", maximize=True)
    mean = -(0.1 + 0.2) / 2 / 2
    assert cost(wish, 0.0, actions=actions) == pytest.approx(mean)
    assert cost(wish, 0.0, actions=actions, deviation=deviation) == pytest.approx(mean + (1 + 2) / 2)
    paid = cost(wish + 3 * reward(), 0.0, actions=actions, returns=lambda imagined, actions: torch.full((1, 1), -8.0))
    assert paid == pytest.approx(mean - 3 * 8.0 / 2)


def policy(wish, planner="icem", limits=None, probes=None, **changes):
    box = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)
    codecs = ObservationCodec(gym.spaces.Box(-9.0, 9.0, (2,), np.float32)), ActionCodec(box)
    planning = WISH_PLANNING.replace(planner=planner, **changes)
    return wish_policy(PointWorld(), codecs, wish, probes or reader(), planning, limits=limits)


def follow(acting, steps=25):
    """Return where the point is after each step, and what was done."""
    place, state, places, actions = np.zeros(2, np.float32), None, [], []
    for _ in range(steps):
        action, state = acting.predict(place, state, deterministic=True)
        place = place + 0.05 * action[:2]  # native actions are twice the internal ones
        places.append(place)
        actions.append(action)
    return np.stack(places), np.stack(actions)


SPEC = ActionSpec.from_space(gym.spaces.Box(-1.0, 1.0, (3,), np.float32))
SEARCHING = [name for name in available_planners(SPEC) if name not in ("policy", "random")]


@pytest.mark.parametrize("planner", SEARCHING)
def test_every_planner_brings_it_about_and_keeps_to_the_limits(planner):
    low, high = np.array([-0.5, -2, 0], np.float32), np.array([1.0, 2, 0], np.float32)
    limits = gym.spaces.Box(low, high)
    places, actions = follow(policy(quantity("place", target=0.7), planner, limits))
    assert (actions >= low).all()
    assert (actions <= high).all()
    assert places[13, 0] >= 0.55  # at full speed it takes 14 steps
    assert np.abs(places[-5:, 0] - 0.7).mean() < 0.05
    assert not actions[:, 2].any()


def test_limits_must_fit_the_actions():
    box = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)
    for limits, said in (
        (gym.spaces.Box(-1.0, 1.0, (2,)), "do not fit"),
        (gym.spaces.Box(-3.0, 1.0, (3,)), "not within"),
    ):
        with pytest.raises(SettingsError, match=said):
            policy(quantity("place", target=1.0), limits=limits)
    codecs = ObservationCodec(box), ActionCodec(gym.spaces.Discrete(3))
    narrow = gym.spaces.Box(-1.0, 1.0, (3,))
    with pytest.raises(SettingsError, match="not for"):
        wish_policy(PointWorld(), codecs, quantity("place", target=1.0), reader(), limits=narrow)


def test_what_cannot_be_read_is_refused():
    wish = quantity("plaec", target=1.0)
    with pytest.raises(UnknownNameError, match="Did you mean 'place'"):
        policy(wish, probes={"place": reader()})
    with pytest.raises(UnknownNameError, match="Did you mean 'place'"):
        policy(wish, probes=reader())
    constant = reader()
    constant.spread.zero_()
    with pytest.raises(SettingsError, match="never varied"):
        policy(quantity("place", target=1.0), probes=constant)
    with pytest.raises(SettingsError, match="needs probes that read place"):
        WishObjective(PointWorld(), LatentState(torch.zeros(1, 2)), quantity("place", target=1.0), {})
    with pytest.raises(SettingsError, match="no agent here"):
        policy(reward())


def test_an_agent_acts_on_wishes_without_learning_anything():
    agent = JEPAAgent("InvertedPendulum-v5", model={"latent_dims": 4, "hidden": 16})
    generator = torch.Generator().manual_seed(0)
    samples = ProbeSamples(torch.randn(64, 4, generator=generator), torch.randn(64, 1, generator=generator))
    probe = MLPProbe.fit(samples, samples, [Quantity("hinge_angle", "rad")])
    before = {name: value.clone() for name, value in agent.model.state_dict().items()}
    limits = gym.spaces.Box(-0.25, 0.5, (1,), np.float32)
    seen = np.random.default_rng(0).normal(size=(2, 4))
    wishes = {
        "alone": (quantity("hinge_angle", target=0.3), probe),
        "by name": (quantity("hinge_angle", target=0.3), {"hinge_angle": probe}),
        "reward": (reward(), {}),
        "both": (quantity("hinge_angle", at_most=0.0) + 0.5 * reward() + 0.1 * effort(), probe),
    }
    done = {}
    for name, (wish, probes) in wishes.items():
        acting = agent.planning_for(wish, probes, limits=limits, budget=40)
        done[name], state = acting.predict(seen, None, np.array([True, True]), deterministic=False)
        assert (done[name] >= -0.25).all()
        assert (done[name] <= 0.5).all()
        acting.predict(seen, state, np.array([False, False]))
    assert np.array_equal(done["alone"], done["by name"])
    assert agent.planning_for(wishes["both"][0], probe, "mppi", horizon=4, initial_std=0.7).planner.horizon == 4
    assert agent.planning_for(reward()).planner.horizon == agent.settings.planning.horizon
    begun = seen, None, np.array([True, True]), True
    torch.nn.init.normal_(agent.behaviour.target_critic.weights[-1], generator=generator)
    doubtful = agent.planning_for(wishes["both"][0], probe, prior_weight=0.0, doubt=1e6, budget=40).predict(*begun)
    carefree = agent.planning_for(wishes["both"][0], probe, prior_weight=0.0, budget=40).predict(*begun)
    assert np.allclose(doubtful[0], agent.planning_with("policy").predict(*begun)[0], atol=1e-3)
    assert not np.allclose(carefree[0], doubtful[0], atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in agent.model.state_dict().items())


@pytest.mark.parametrize(("own", "acts"), [("policy", "icem"), ("mppi", "mppi"), ("auto", "icem")])
def test_a_wish_for_reward_is_planned_for_though_the_bare_actor_is_the_agents_own_planner(own, acts):
    planning = {"planner": own, "proposals": 1, "horizon": 1 if own == "policy" else 2}
    agent = JEPAAgent("Pendulum-v1", model={"latent_dims": 4, "hidden": 16}, planning=planning)
    planner = agent.planning_for(reward()).planner
    assert (type(planner).__name__.lower(), planner.horizon) == (acts, 3 if own == "policy" else 2)


def test_choices_are_planned_for_wishes_too():
    agent = JEPAAgent("CartPole-v1", model={"latent_dims": 4, "hidden": 16})
    generator = torch.Generator().manual_seed(0)
    samples = ProbeSamples(torch.randn(64, 4, generator=generator), torch.randn(64, 1, generator=generator))
    probe = LinearProbe.fit(samples, samples, [Quantity("pole", "rad")])
    acting = agent.planning_for(quantity("pole", target=0.0) + effort(), probe, budget=40)
    actions, _ = acting.predict(np.zeros((3, 4), np.float32), None, np.ones(3, bool))
    assert set(actions.tolist()) <= {0, 1}


def test_terms_read_as_they_are_typed():
    assert str(Term("effort", "effort", weight=0.25)) == "0.25*effort"
    assert str(quantity("x", minimize=True)) == "x=min"
