"""Actor and critic: targets at every kind of episode end, gradients, discrete expectations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from forethought.agents.actor import JOINT_ACTIONS_LIMIT, CategoricalActor, DeterministicActor
from forethought.agents.behaviour import Behaviour, BehaviourSettings
from forethought.agents.critic import CriticEnsemble
from forethought.agents.objective import RewardObjective
from forethought.core.clip import Clip
from forethought.core.errors import SettingsError, UnsupportedSpaceError
from forethought.world_model import JEPA, JEPASettings, LatentState

from .behaviours import MODEL, ConstantCritic, make_behaviour, make_clip


@pytest.mark.parametrize(
    ("valid", "terminated", "expected"),
    [
        ([1, 1, 1], [0, 0, 0], 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 30),  # goes on: bootstrap after the last step
        ([1, 1, 1], [0, 0, 1], 1 + 0.5 * 2 + 0.25 * 4),  # terminates: nothing follows
        ([1, 1, 0], [0, 0, 0], 1 + 0.5 * 2 + 0.25 * 20),  # cut by a time limit: bootstrap where it was cut
        ([1, 0, 0], [1, 0, 0], 1.0),  # terminates at once
    ],
)
def test_targets_tell_termination_from_truncation(valid, terminated, expected):
    behaviour = make_behaviour()
    behaviour.target_critic = ConstantCritic()
    clip = make_clip([float(v) for v in valid], [float(t) for t in terminated], [1.0, 2.0, 4.0])
    latents = torch.tensor([[[5.0], [10.0], [20.0], [30.0]]]).expand(1, 4, 4)
    assert behaviour._recorded_targets(clip, latents, torch.zeros(1, 2)).item() == pytest.approx(expected)


def test_targets_are_in_units_of_the_reward_scale():
    behaviour = make_behaviour()
    behaviour.target_critic = ConstantCritic()
    behaviour.reward_scale.fill_(2.0)
    clip, latents = make_clip([1.0], [0.0], [8.0]), torch.full((1, 2, 4), 3.0)
    assert behaviour._recorded_targets(clip, latents, torch.zeros(1, 2)).item() == pytest.approx(8 / 2 + 0.5 * 3)


def test_disagreement_can_be_what_is_collected():
    model = JEPA(3, 2, JEPASettings(latent_dims=4, hidden=16, ensemble=3))
    behaviour, clip = make_behaviour(reward="disagreement"), make_clip([1.0, 1.0], [0.0, 0.0], [7.0, 7.0])
    latents = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = model.disagreement(latents[:, :-1], clip.actions)
    seen = []
    behaviour._losses = lambda clip, *rest: seen.append(clip.rewards) or Behaviour._objective(behaviour, clip, *rest)
    behaviour.update(clip, latents, 7.0, model)
    assert torch.equal(seen[0], expected)
    assert behaviour.reward_scale == pytest.approx(expected.mean().item(), rel=1e-4)  # the first tells it all
    state = LatentState(latents[:, 0])
    plans = torch.rand(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    cost = RewardObjective(model, state, None, 0.5, reward="disagreement")(plans)
    imagined = model.imagine(state, plans)
    alive = torch.cat([torch.ones(1, 5, 1), imagined.continues[..., :1]], 2)
    torch.testing.assert_close(cost, -(imagined.disagreement * alive * torch.tensor([1.0, 0.5])).sum(2))


def test_values_stay_the_same_in_reward_units_when_the_reward_scale_changes():
    behaviour = make_behaviour(learning_rate=1e-9, actor_learning_rate=1e-9, target_rate=1.0)
    torch.nn.init.normal_(behaviour.critic.weights[-1])
    behaviour.target_critic.load_state_dict(behaviour.critic.state_dict())
    clip, latents = make_clip([1.0], [0.0], [8.0]), torch.randn(1, 2, 4)
    before = behaviour.value(latents)
    for size, scale in ((4.0, 4.0), (0.5, 0.5), (0.0, 0.5)):  # nothing can be measured by no reward at all
        behaviour.update(clip, latents, size, MODEL)
        assert behaviour.reward_scale.item() == scale
        torch.testing.assert_close(behaviour.value(latents), before)
        copied = behaviour.target_critic(latents, torch.zeros(1, 2, 2))
        torch.testing.assert_close(copied, behaviour.critic(latents, torch.zeros(1, 2, 2)))


def test_target_copies_follow_at_their_rate():
    behaviour = make_behaviour(target_rate=0.25, learning_rate=1e-2, actor_learning_rate=1e-2)
    torch.nn.init.normal_(behaviour.critic.weights[-1])
    before = [parameter.clone() for parameter in behaviour.target_critic.parameters()]
    behaviour.update(make_clip([1.0], [0.0], [8.0]), torch.randn(1, 2, 4), 1.0, MODEL)
    now = zip(before, behaviour.critic.parameters(), behaviour.target_critic.parameters(), strict=True)
    for old, learned, copied in now:
        torch.testing.assert_close(copied, 0.75 * old + 0.25 * learned)


@pytest.mark.parametrize("rate", [0.003, 0.4, 1.0])
def test_the_acting_copy_is_the_mean_of_the_actor_until_its_rate_is_reached(rate):
    behaviour = make_behaviour(averaging_rate=rate, actor_learning_rate=1e-2)
    torch.nn.init.normal_(behaviour.target_critic.weights[-1])

    def numbers(actor):
        return torch.nn.utils.parameters_to_vector(actor.parameters()).detach()

    actors, clip = [numbers(behaviour.actor)], make_clip([1.0], [0.0], [8.0])
    for _ in range(3):
        behaviour.update(clip, torch.randn(1, 2, 4), 1.0, MODEL)
        actors.append(numbers(behaviour.actor))
    expected = actors[0]
    for update, actor in enumerate(actors[1:], start=1):
        expected = expected + max(rate, 1 / (1 + update)) * (actor - expected)
    torch.testing.assert_close(numbers(behaviour.mean_actor), expected)
    if rate < 0.25:
        torch.testing.assert_close(expected, torch.stack(actors).mean(0))
    assert not torch.equal(actors[-1], actors[-2])


def test_a_smoothed_actor_climbs_the_hill_and_not_its_ripples():
    actor, latents = DeterministicActor(4, 1, 8), torch.zeros(4096, 4)
    with torch.no_grad():
        actor.layers[-1].bias.fill_(math.atanh(math.pi / 50))  # where a ripple falls most steeply
        actor.layers[-1].weight.zero_()
    noise = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))

    def rippled(latents, actions):
        return (0.1 * (50 * actions).sin() - (actions - 0.5).square()).sum(-1)[None]

    def slope(spread):
        gain, _ = actor.objective(latents, rippled, noise, spread)
        return torch.autograd.grad(gain.mean(), actor.layers[-1].bias)[0].item()

    squashed = 1 - (math.pi / 50) ** 2  # the slope of tanh there
    hill = 2 * (0.5 - math.pi / 50)
    assert slope(0.0) == pytest.approx(squashed * (hill - 5), abs=1e-3)
    assert slope(0.2) == pytest.approx(squashed * hill, abs=0.2)


def test_smoothing_the_actor_changes_what_the_actor_learns_alone():
    def learned(smoothing):
        behaviour = make_behaviour(actor_smoothing=smoothing)
        torch.nn.init.normal_(behaviour.target_critic.weights[-1], generator=torch.Generator().manual_seed(1))
        behaviour.update(make_clip([1.0], [0.0], [8.0]), torch.ones(1, 2, 4), 1.0, MODEL)
        return [torch.cat([p.flatten() for p in part.parameters()]) for part in (behaviour.critic, behaviour.actor)]

    (critic, actor), (same_critic, other_actor) = learned(0.0), learned(0.5)
    assert torch.equal(critic, same_critic)
    assert not torch.equal(actor, other_actor)


def test_the_actor_climbs_the_critics_copy_and_leaves_both_alone():
    behaviour = make_behaviour(learning_rate=1e-9, actor_learning_rate=1e-2)
    torch.nn.init.normal_(behaviour.target_critic.weights[-1])
    latents = torch.randn(1, 2, 4)

    def valued():
        return behaviour.actor.objective(latents[:, 0], behaviour.target_critic, torch.zeros(1, 2), 0.0)[0].item()

    before, low = [parameter.clone() for parameter in behaviour.critic.parameters()], valued()
    for _ in range(3):
        behaviour.update(make_clip([1.0], [0.0], [8.0]), latents, 1.0, MODEL)
        assert valued() > low
        low = valued()
    assert all(parameter.grad is None for parameter in behaviour.target_critic.parameters())
    for old, now in zip(before, behaviour.critic.parameters(), strict=True):
        torch.testing.assert_close(old, now)


@pytest.mark.parametrize(("bins", "mean"), [(0, "symlog"), (65, "symlog"), (65, "values")])
def test_what_is_learned_does_not_depend_on_the_scale_of_rewards(bins, mean):
    clip, latents, found = make_clip([1.0], [1.0], [3.0]), torch.randn(1, 2, 4), []
    for scale in (1e-4, 1.0, 1e4):
        behaviour = make_behaviour(critic_bins=bins, critic_mean=mean, target_rate=1.0, learning_rate=1e-2)
        for _ in range(30):
            behaviour.update(replace(clip, rewards=clip.rewards * scale), latents, 2 * scale, MODEL)
        found.append(behaviour.action_value(latents[:, 0], clip.actions[:, 0]) / scale)
    assert found[0].item() > 0.3
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize(("bins", "mean"), [(0, "symlog"), (65, "symlog"), (65, "values")])
def test_a_critic_learns_targets_whether_it_regresses_or_predicts_distributions(bins, mean):
    torch.manual_seed(0)
    critic = CriticEnsemble(3, 2, 16, 2, bins, mean)
    latents, actions, targets = torch.randn(3, 3), torch.randn(3, 2), torch.tensor([-3.0, 0.0, 40.0])
    torch.testing.assert_close(critic(latents, actions), torch.zeros(2, 3), rtol=0, atol=1e-6)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        critic.judged(latents, actions, targets)[1].mean().backward()
        optimizer.step()
    values, losses = critic.judged(latents, actions, targets)
    assert values.shape == losses.shape == (2, 3)
    assert torch.equal(values, critic(latents, actions))
    torch.testing.assert_close(values, targets.expand(2, 3), rtol=0.1, atol=0.5)


@pytest.mark.parametrize(("bound", "expected"), [(1.0, [0.0, 0.125, 0.5, 6.5]), (10.0, [0.0, 0.0125, 0.05, 2.45])])
def test_a_regressing_critics_loss_is_hubers(bound, expected):
    critic = make_behaviour(critic_bound=bound).critic
    _, losses = critic.judged(torch.randn(4, 4), torch.randn(4, 2), torch.tensor([0.0, 0.5, -1.0, 7.0]))
    torch.testing.assert_close(losses, torch.tensor(expected).expand(2, 4))


@pytest.mark.parametrize(("bound", "low", "high"), [(0.01, 9.8, 10.0), (100.0, 7.4, 7.6)])
def test_small_bounds_lead_to_medians_and_large_ones_to_means(bound, low, high):
    """Of four outcomes that look alike, three bring ten and one brings nothing."""
    behaviour = make_behaviour(critic_bound=bound, learning_rate=1e-2, target_rate=1.0)
    clips = make_clip([1.0], [1.0], [10.0])
    clips = Clip(
        *(part.repeat(4, *[1] * (part.dim() - 1)) for part in (clips.observations, clips.actions)),
        torch.tensor([[10.0], [10.0], [10.0], [0.0]]),
        torch.ones(4, 1),
        torch.ones(4, 1),
    )
    latents = torch.ones(4, 2, 4)
    for _ in range(600):
        behaviour.update(clips, latents, 1.0, MODEL)
    behaviour.optimization.pace(0.03)
    for _ in range(300):
        behaviour.update(clips, latents, 1.0, MODEL)
    assert low < behaviour.action_value(latents[0, 0], clips.actions[0, 0]).item() < high


@pytest.mark.parametrize("bins", [1, 2, 64])
def test_bins_of_which_none_is_zero_are_refused(bins):
    with pytest.raises(SettingsError, match=f"critic_bins = {bins} must be 0, or odd"):
        BehaviourSettings(critic_bins=bins)


def test_the_ensembles_members_are_independent_networks():
    torch.manual_seed(0)
    critic = CriticEnsemble(3, 2, 8, 3)
    torch.nn.init.normal_(critic.weights[-1])
    latents, actions = torch.randn(5, 3), torch.randn(5, 2)
    together = critic(latents, actions)
    assert together.shape == (3, 5)
    for member in range(3):
        alone = CriticEnsemble(3, 2, 8, 1)
        pairs = [*zip(alone.weights, critic.weights, strict=True), *zip(alone.biases, critic.biases, strict=True)]
        for single, all_members in pairs:
            single.data = all_members[member : member + 1].detach()
        torch.testing.assert_close(alone(latents, actions)[0], together[member])


def test_learning_solves_a_bandit_with_continuous_actions():
    behaviour = make_behaviour(learning_rate=3e-3, actor_learning_rate=3e-3, discount=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        latents = torch.randn(64, 2, 4, generator=generator)
        actions = torch.rand(64, 1, 2, generator=generator) * 2 - 1
        reward = -(actions[:, 0] - torch.tensor([0.5, -0.3])).square().sum(1, keepdim=True)
        clip = Clip(torch.zeros(64, 2, 3), actions, reward, torch.ones(64, 1), torch.ones(64, 1))
        behaviour.update(clip, latents, 0.5, MODEL)
    chosen = behaviour.actor(torch.randn(50, 4, generator=generator)).mean(0)
    torch.testing.assert_close(chosen, torch.tensor([0.5, -0.3]), atol=0.15, rtol=0)


def test_learning_solves_a_bandit_with_several_discrete_actions():
    torch.manual_seed(0)
    groups = (3, 2)
    model = JEPA(3, 5, JEPASettings(latent_dims=4, hidden=16))
    behaviour = Behaviour(
        4, 5, groups, BehaviourSettings(hidden=16, learning_rate=3e-3, actor_learning_rate=3e-3, discount=0.0)
    )
    generator = torch.Generator().manual_seed(0)
    best = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    for _ in range(300):
        latents = torch.randn(64, 2, 4, generator=generator)
        choices = [torch.randint(size, (64,), generator=generator) for size in groups]
        hot = [torch.nn.functional.one_hot(c, size) for c, size in zip(choices, groups, strict=True)]
        actions = torch.cat(hot, 1).float()
        reward = (actions * best).sum(1, keepdim=True)
        clip = Clip(torch.zeros(64, 2, 3), actions.unsqueeze(1), reward, torch.ones(64, 1), torch.ones(64, 1))
        behaviour.update(clip, latents, 1.0, model)
    assert torch.equal(behaviour.actor(torch.randn(20, 4, generator=generator)), best.expand(20, 5))


def test_expected_values_of_discrete_actions_are_exact():
    torch.manual_seed(1)
    actor, critic = CategoricalActor(4, (3, 2), 8, entropy=0.0), CriticEnsemble(4, 5, 8, 2)
    torch.nn.init.normal_(actor.layers[-1].weight)
    torch.nn.init.normal_(critic.weights[-1])
    latents = torch.randn(7, 4)
    first, second = (part.softmax(-1) for part in actor.layers(latents).split((3, 2), -1))
    expected = 0.0
    for i in range(3):
        for j in range(2):
            action = torch.zeros(7, 5)
            action[:, i], action[:, 3 + j] = 1, 1
            expected = expected + first[:, i] * second[:, j] * critic(latents, action)
    torch.testing.assert_close(actor.expected_value(latents, critic, torch.zeros(()), 0.0), expected)


def test_expectations_over_discrete_actions_are_means_where_learning_is_in_half_precision():
    torch.manual_seed(0)
    actor = CategoricalActor(4, (4, 4, 4), 16, entropy=0.0)
    torch.nn.init.normal_(actor.layers[-1].weight)
    with torch.autocast("cpu", torch.bfloat16):
        total = actor.expected_value(
            torch.randn(500, 4), lambda s, a: torch.ones(1, *a.shape[:-1]), torch.zeros(()), 0.0
        )
    torch.testing.assert_close(total, torch.ones(1, 500))


def test_large_joint_spaces_are_estimated_from_actions_that_hold_every_choice():
    joint = CategoricalActor(4, (20, 200, 3), 8, entropy=0.0).joint_actions
    assert JOINT_ACTIONS_LIMIT / 2 < len(joint) <= JOINT_ACTIONS_LIMIT
    assert len(joint.unique(dim=0)) == len(joint)
    assert torch.equal(joint.sum(1), torch.full((len(joint),), 3.0))
    assert (joint.sum(0) > 0).all()


def test_a_dimension_with_more_choices_than_the_actor_can_weigh_is_refused():
    with pytest.raises(UnsupportedSpaceError, match="1000 choices"):
        CategoricalActor(4, (1000,), 8, entropy=0.0)


def test_sampling_actions_follows_the_policy_mixed_with_uniform_choices():
    torch.manual_seed(0)
    actor = CategoricalActor(2, (3,), 8, entropy=0.0)
    latents = torch.zeros(20000, 2)
    with torch.no_grad():
        actor.layers[-1].bias.copy_(torch.tensor([2.0, 0.0, -1.0]))
    noise = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0))
    frequencies = actor.explore(latents, noise, 0.3).mean(0)
    expected = 0.7 * torch.tensor([2.0, 0.0, -1.0]).softmax(0) + 0.1
    torch.testing.assert_close(frequencies, expected, atol=0.02, rtol=0)


def test_surprise_is_the_loss_of_log_likelihood_against_the_preferred_action():
    behaviour = make_behaviour()
    latents = torch.randn(5, 4)
    preferred = behaviour.actor(latents)
    actions = preferred + torch.tensor([0.1, -0.2])
    gaussian = torch.distributions.Normal(preferred, 0.25)
    lost = (gaussian.log_prob(preferred) - gaussian.log_prob(actions)).sum(-1)
    torch.testing.assert_close(behaviour.actor.surprise(latents, actions, 0.25), lost)

    actor = CategoricalActor(4, (3, 2), 8, entropy=0.0)
    torch.nn.init.normal_(actor.layers[-1].weight)
    chosen = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).expand(5, 5)
    parts = [(0.8 * part.softmax(-1) + 0.2 / part.shape[-1]).log() for part in actor.layers(latents).split((3, 2), -1)]
    lost = sum(part.amax(-1) - part[:, index] for part, index in zip(parts, (1, 0), strict=True))
    torch.testing.assert_close(actor.surprise(latents, chosen, 0.2), lost)
    assert torch.equal(actor.surprise(latents, actor(latents), 0.2), torch.zeros(5))
