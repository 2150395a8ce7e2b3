"""Actor and critic in imagination: what they climb and regress is what the model says, and no more than it may say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from forethought.agents.behaviour import Behaviour, BehaviourSettings
from forethought.core.clip import Clip
from forethought.core.errors import SettingsError
from forethought.world_model import JEPA, JEPASettings, LatentState, Step

from .behaviours import MODEL, ConstantCritic, make_behaviour, make_clip


class Countdown:
    """Imagines that the first entry of the latent falls by one, is the reward before it does, and that half survive.

    The first entry of an action is added to the reward, and so is an error.
    """

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def step(self, state: LatentState, actions: torch.Tensor, disagreement: bool = True) -> Step:
        before = state.latents.unsqueeze(1)
        assert actions.shape == (*before.shape[:2], 2)
        reward = before[..., 0] + actions[..., 0] + self.error
        return Step(LatentState(before - 1), reward, torch.full(before.shape[:2], 0.5), None)


def imagined_target(
    clip: Clip,
    imagined: int,
    error: float = 0.0,
    action: float = 0.0,
    reward_scale: float = 1.0,
    limit: float | None = None,
    noise: float = 0.0,
    spread: float = 0.0,
) -> float:
    """Return the target of latents 5, 10, 20 and 30 for an actor that takes one action everywhere.

    It is disturbed by ``spread`` times ``noise``.
    """
    behaviour = make_behaviour(value_expansion=imagined, expansion_limit=limit, imagined_noise=spread)
    behaviour.target_critic = ConstantCritic()
    behaviour.reward_scale.fill_(reward_scale)
    behaviour.target_actor.layers[-1].weight.data.zero_()
    behaviour.target_actor.layers[-1].bias.data.fill_(math.atanh(action))
    latents = torch.tensor([[[5.0], [10.0], [20.0], [30.0]]]).expand(1, 4, 4)[:, : clip.length + 1]
    disturbances = torch.full((1, imagined + 1, 2), noise)
    return behaviour._imagined_targets(clip, latents, disturbances, Countdown(error))[1].item()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (0, 5.0),  # the critic alone
        (1, (5 + 0.1) / 2 + 0.25 * 4),
        (2, (5 + 0.1) / 2 + 0.25 * (4 + 0.1) / 2 + 0.25**2 * 3),
    ],
)
def test_the_actor_climbs_imagined_rewards_and_then_the_critic(steps, expected):
    behaviour = make_behaviour(actor_expansion=steps)
    behaviour.target_critic = ConstantCritic()
    behaviour.reward_scale.fill_(2.0)
    behaviour.actor.layers[-1].weight.data.zero_()
    behaviour.actor.layers[-1].bias.data.fill_(math.atanh(0.1))
    gain, penalty = behaviour._climbed(torch.full((3, 4), 5.0), torch.zeros(3, 2), Countdown())
    assert gain.tolist() == pytest.approx([expected] * 3)
    assert penalty.tolist() == pytest.approx([math.atanh(0.1) ** 2] * 3)


def test_climbing_through_the_model_moves_the_actor_otherwise_and_leaves_the_model_alone():
    clip, latents, moved = make_clip([1.0, 1.0, 1.0], [0.0] * 3, [1.0, 2.0, 4.0]), torch.randn(1, 4, 4), []
    for steps in (0, 3):
        model = JEPA(3, 2, JEPASettings(latent_dims=4, hidden=16))
        model.load_state_dict(MODEL.state_dict())
        torch.nn.init.normal_(model.reward_head.logits.weight)
        behaviour = make_behaviour(actor_expansion=steps)
        behaviour.update(clip, latents, 1.0, model)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        moved.append(behaviour.actor.layers[0].weight.grad.clone())
    assert not torch.allclose(moved[0], moved[1], atol=1e-4)


def test_discrete_actions_pass_no_gradient_through_the_model():
    with pytest.raises(SettingsError, match="actor_expansion = 2 needs continuous actions"):
        Behaviour(4, 5, (2, 3), BehaviourSettings(actor_expansion=2))


@pytest.mark.parametrize(
    ("imagined", "terminated", "expected"),
    [
        (0, 0.0, 1 + 0.5 * 10),  # no imagined reward: bootstrap where the recorded step led
        (1, 0.0, 1 + 0.5 * 10 + 0.25 * 0.5 * 9),
        (2, 0.0, 1 + 0.5 * 10 + 0.25 * 0.5 * 9 + 0.125 * 0.25 * 8),
        (2, 1.0, 1.0),  # terminates at once: nothing is imagined
    ],
)
def test_targets_go_on_in_imagination_after_the_first_recorded_step(imagined, terminated, expected):
    assert imagined_target(make_clip([1.0], [terminated], [1.0]), imagined) == pytest.approx(expected)


@pytest.mark.parametrize("error", [0.0, 7.0])
@pytest.mark.parametrize(
    ("valid", "terminated", "later"),
    [
        ([1, 1, 1], [0, 0, 0], 2 + 0.5 * 4 + 0.25 * 30),
        ([1, 1, 1], [0, 0, 1], 2 + 0.5 * 4),
        ([1, 1, 0], [0, 1, 0], 2),
    ],
)
def test_recorded_returns_remain_where_the_actor_acts_as_recorded_however_wrong_the_model(
    valid, terminated, later, error
):
    clip = make_clip([float(v) for v in valid], [float(t) for t in terminated], [1.0, 2.0, 4.0])
    assert imagined_target(clip, 2, error) == pytest.approx(1 + 0.5 * later)


@pytest.mark.parametrize("error", [0.0, 7.0])
def test_of_the_model_only_what_other_actions_change_counts_beside_recorded_steps(error):
    clip = make_clip([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0])
    recorded = 1 + 0.5 * (2 + 0.5 * 4 + 0.25 * 30)
    other = 0.5 * (0.8 + 0.5 * 0.5 * 0.8)  # two steps, the second reached with probability one half
    assert imagined_target(clip, 2, error, action=0.8) == pytest.approx(recorded + other)


@pytest.mark.parametrize(
    ("noise", "spread", "done"), [(2.0, 0.0, 0.0), (2.0, 0.4, 0.8), (-1.0, 0.3, -0.3), (9.0, 0.2, 1.0)]
)
def test_imagined_actions_are_disturbed_as_far_as_they_are_to_be(noise, spread, done):
    clip = make_clip([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0])
    recorded = 1 + 0.5 * (2 + 0.5 * 4 + 0.25 * 30)
    other = 0.5 * (done + 0.5 * 0.5 * done)
    assert imagined_target(clip, 2, noise=noise, spread=spread) == pytest.approx(recorded + other)


@pytest.mark.parametrize(("limit", "believed"), [(0.2, 0.4), (0.49, 0.98), (0.51, 1.0), (None, 1.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_other_actions_change_is_believed_up_to_a_limit_per_imagined_step(limit, believed, sign):
    clip = make_clip([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 4.0])
    recorded = 1 + 0.5 * (2 + 0.5 * 4 + 0.25 * 30)
    target = imagined_target(clip, 2, action=0.8 * sign, limit=limit)
    assert target == pytest.approx(recorded + 0.5 * believed * sign)


def test_no_limit_holds_where_nothing_was_recorded_to_the_end():
    cut = make_clip([1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 200.0, 400.0])
    assert imagined_target(cut, 2, limit=0.1) == imagined_target(cut, 2)


def test_after_a_recorded_end_both_imaginations_go_on_alike():
    clip = make_clip([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 2.0, 0.0])
    clip.actions[:] = 0.8  # as the actor acts, but for the padding
    clip.actions[:, 2] = 0.0
    assert imagined_target(clip, 2, action=0.8) == pytest.approx(1 + 0.5 * 2)


def test_recorded_steps_correct_as_many_imagined_ones_as_there_are():
    clip = make_clip([1.0, 1.0], [0.0, 0.0], [1.0, 2.0])
    imagined, repeated = 10 + 0.25 * 9 + 0.0625 * 8, 10 + 0.25 * 9
    assert imagined_target(clip, 2) == pytest.approx(1 + 0.5 * (imagined + (2 + 0.5 * 20) - repeated))


def test_recorded_steps_that_a_time_limit_cut_correct_nothing():
    clip = make_clip([1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 200.0, 400.0])
    assert imagined_target(clip, 1) == pytest.approx(1 + 0.5 * 200 + 0.25 * 20)  # whole as far as one step goes
    assert imagined_target(clip, 2) == pytest.approx(1 + 0.5 * (10 + 0.25 * 9 + 0.0625 * 8))


def test_imagined_targets_are_in_units_of_the_reward_scale():
    alone = imagined_target(make_clip([1.0], [0.0], [8.0]), 1, reward_scale=2.0)
    assert alone == pytest.approx((8 + 0.5 * 10) / 2 + 0.25 * 0.5 * 9)
    corrected = imagined_target(make_clip([1.0] * 2, [0.0] * 2, [8.0, 6.0]), 1, action=0.8, reward_scale=2.0)
    assert corrected == pytest.approx((8 + 0.5 * (6 + 0.8)) / 2 + 0.25 * 20)


def test_learning_behaviour_in_imagination_leaves_the_model_alone():
    behaviour = make_behaviour(value_expansion=2)
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    behaviour.update(make_clip([1.0], [0.0], [8.0]), torch.randn(1, 2, 4), 1.0, MODEL)
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())
    assert all(parameter.grad is None for parameter in MODEL.parameters())


class ActionCritic(torch.nn.Module):
    """Values an action by ``slope`` times the first entry of the latent, and its own first entry."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return (self.slope * latents[..., 0] + actions[..., 0]).expand(2, *latents.shape[:-1])

    def judged(self, latents, actions, targets):
        values = self(latents, actions)
        return values, torch.nn.functional.smooth_l1_loss(values, targets.expand_as(values), reduction="none")


class Mirror(torch.nn.Module):
    """Does a hundredth of the latent's first entry."""

    def forward(self, latents):
        return 0.01 * latents[..., :2]

    def explore(self, latents, noise, amount):
        return self(latents)

    def expected_value(self, latents, critic, noise, spread):
        return critic(latents, self(latents))


def test_the_critic_can_learn_on_imagined_steps_too():
    clip = make_clip([1.0, 1.0], [0.0, 0.0], [1.0, 2.0])
    latents = torch.tensor([[[5.0], [10.0], [20.0]]]).expand(1, 3, 4)

    def losses(terminated=0.0, **settings):
        behaviour = make_behaviour(discount=0.8, **settings)
        behaviour.target_critic, behaviour.critic, behaviour.target_actor = (
            ActionCritic(1.0),
            ActionCritic(2.0),
            Mirror(),
        )
        behaviour.reward_scale.fill_(4.0)
        clip.terminated[0, 0] = terminated
        loss = behaviour._objective(clip, latents, torch.zeros(1, settings["value_expansion"] + 1, 2), Countdown())[0]
        loss.backward()
        assert behaviour.target_critic.slope.grad is None
        return loss.item(), behaviour.critic.slope.grad.item()

    # From 10 the latent falls by one a step, brings itself and a hundredth, over 4, and lasts with 1/2.
    one = 1.01 * 8 / 4 + 0.8 * 0.5 * 1.01 * 7  # from 8 on, with the target critic's value of 7
    two = 1.01 * 9 / 4 + 0.8 * 0.5 * one
    three = 1.01 * 10 / 4 + 0.8 * 0.5 * two  # in the recorded state, what it would do itself
    missed = (2.01 * 10 - three - 0.5) + 0.5 * (2.01 * 9 - two - 0.5) + 0.25 * (2.01 * 8 - one - 0.5)
    loss, slope = losses(value_expansion=3)
    both, both_slope = losses(value_expansion=3, imagined_starts=True)
    assert both - loss == pytest.approx(missed / 3, rel=1e-5)
    assert both_slope - slope == pytest.approx((10 + 0.5 * 9 + 0.25 * 8) / 3, rel=1e-5)
    ended = losses(terminated=1.0, value_expansion=3, imagined_starts=True)
    assert ended == losses(terminated=1.0, value_expansion=3), "nothing is imagined after an end"
    for expansion in (None, 0):
        with pytest.raises(SettingsError, match="imagined_starts needs"):
            make_behaviour(value_expansion=expansion, imagined_starts=True)


@pytest.mark.parametrize("groups", [(), (2, 3)])
def test_learning_on_imagined_steps_compiles(groups):
    settings = BehaviourSettings(hidden=8, value_expansion=3, imagined_starts=True)
    model = JEPA(3, 5 if groups else 2, JEPASettings(latent_dims=4, hidden=8))
    clip = make_clip([1.0, 1.0], [0.0, 0.0], [1.0, 2.0])
    if groups:
        clip = replace(clip, actions=torch.eye(5)[torch.tensor([[0, 1]])] + torch.eye(5)[torch.tensor([[2, 4]])])
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        behaviour = Behaviour(4, clip.actions.shape[-1], groups, settings)
        step = (
            torch.compile(behaviour._objective, backend="aot_eager", fullgraph=True)
            if compiled
            else behaviour._objective
        )
        losses.append(step(clip, torch.ones(1, 3, 4), torch.zeros(1, 4, clip.actions.shape[-1]), model)[0])
    torch.testing.assert_close(*losses)
