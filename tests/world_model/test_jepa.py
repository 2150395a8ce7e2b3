"""JEPA: its contract, its masks, its targets, and the point of the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forethought.core.clip import Clip
from forethought.core.errors import SettingsError
from forethought.envs import EpisodeStore, make_env, make_environments
from forethought.world_model import (
    JEPA,
    ComputeSettings,
    DisagreementHead,
    JEPASettings,
    LatentState,
    Learner,
    OptimizationSettings,
    TransformerSettings,
    VisionSettings,
    collapse_alarm,
    measure_health,
    save_model,
)
from forethought.world_model.networks import MLPEncoder

SMALL = {"latent_dims": 8, "hidden": 32, "directions": 16}


def make_clip(batch: int = 6, steps: int = 3, observation_dims: int = 4, action_dims: int = 2, seed: int = 0) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    return Clip(
        torch.randn(batch, steps + 1, observation_dims, generator=generator),
        torch.rand(batch, steps, action_dims, generator=generator) * 2 - 1,
        torch.randn(batch, steps, generator=generator),
        torch.zeros(batch, steps),
        torch.ones(batch, steps),
    )


def make_model(seed: int = 0, **settings) -> JEPA:
    torch.manual_seed(seed)
    model = JEPA(4, 2, JEPASettings(**{**SMALL, **settings}))
    torch.nn.init.normal_(model.predictor.change.weight, std=0.1)  # so that predictions depend on their inputs
    return model


@pytest.fixture(scope="module")
def recorded() -> EpisodeStore:
    """250 short episodes of a randomly driven pendulum."""
    environments = make_environments(lambda: make_env("Pendulum-v1", max_episode_steps=12), seed=0)
    store, rng = EpisodeStore(3, 1), np.random.default_rng(0)
    store.begin(environments.reset())
    for _ in range(3000):
        actions = environments.action_codec.sample(rng, 1)
        store.append(actions, environments.step(actions))
    environments.close()
    return store


def test_imagining_is_stepping_repeatedly():
    model = make_model(ensemble=3)
    state = LatentState(torch.randn(3, 8))
    actions = torch.rand(3, 5, 4, 2) * 2 - 1
    imagined = model.imagine(state, actions)
    for h in range(4):
        step = model.step(state, actions[:, :, h])
        torch.testing.assert_close(imagined.latents[:, :, h], step.state.latents)
        torch.testing.assert_close(imagined.rewards[:, :, h], step.reward)
        torch.testing.assert_close(imagined.continues[:, :, h], step.continues)
        torch.testing.assert_close(imagined.disagreement[:, :, h], step.disagreement)
        state = step.state
    assert imagined.latents.shape == (3, 5, 4, 8)
    assert imagined.rewards.shape == imagined.continues.shape == (3, 5, 4)


def test_imagination_is_differentiable_in_the_actions():
    model = make_model()
    actions = torch.zeros(2, 3, 4, 2, requires_grad=True)
    model.imagine(LatentState(torch.randn(2, 8)), actions).latents[:, :, -1].sum().backward()
    assert (actions.grad.abs().sum((0, 1, 3)) > 0).all()


def test_one_environment_is_imagined_alike_alone_and_in_a_batch():
    model = make_model()
    latents, actions = torch.randn(4, 8), torch.rand(4, 3, 2, 2)
    together = model.imagine(LatentState(latents), actions)
    alone = model.imagine(LatentState(latents[2:3]), actions[2:3])
    torch.testing.assert_close(together.latents[2:3], alone.latents)


def test_observing_forgets_nothing_it_needs_and_encodes_only_what_is_seen():
    model = make_model()
    observations = torch.randn(3, 4)
    state = model.observe(model.initial(3), observations, torch.zeros(3, 2), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(state.latents, model.encode(observations))


def test_what_follows_an_episodes_end_does_not_count():
    model, directions = make_model(), None
    clip = make_clip()
    directions = model.draw_directions(torch.Generator().manual_seed(0))
    clip.valid[:3, 1:] = 0
    expected = model(clip, directions).metrics()
    clip.observations[:3, 2:] += 100
    clip.rewards[:3, 1:] = -50
    clip.terminated[:3, 1:] = 1
    clip.actions[:3, 1:] = 0.5
    for name, value in model(clip, directions).metrics().items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize(("target", "reaches"), [("both", True), ("stop", False), ("copy", False)])
def test_the_target_side_passes_gradient_only_where_asked(target, reaches):
    model = make_model(target=target, regularize="nothing", heads=False, unroll=1)
    observations = torch.randn(5, 2, 4, requires_grad=True)
    clip = make_clip(5, 1)
    clip = Clip(observations, clip.actions, clip.rewards, clip.terminated, clip.valid)
    model(clip, model.draw_directions(torch.Generator())).total.backward()
    assert observations.grad[:, 0].abs().sum() > 0
    assert (observations.grad[:, 1].abs().sum() > 0) == reaches


@pytest.mark.parametrize(
    ("changes", "learned_from"),
    [({}, 1), ({"target": "stop"}, 1), ({"target": "both"}, 4), ({"prediction": "one_step"}, 4)]
    + [({"regularize": where}, 4) for where in ("latent", "projector")],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_encodings_without_gradient_are_those_that_no_loss_asks_for(changes, learned_from, precision):
    """What is spared by them changes nothing: a wrapped encoder, of which nothing is known, is spared nothing."""
    model, clip = (
        make_model(**{"latent_form": "layer", "target": "copy", "regularize": "nothing"} | changes),
        make_clip(),
    )
    directions = model.draw_directions(torch.Generator().manual_seed(0))

    def losses():
        model.zero_grad()
        with ComputeSettings(precision=precision).autocast(model.device):
            found = model(clip, directions)
        found.total.backward()
        return [found.total, found.latents, *(p.grad.clone() for p in model.parameters() if p.requires_grad)]

    steps = []
    model.encoder.register_forward_hook(lambda _, __, found: steps.append(found.shape[1] * found.requires_grad))
    spared = losses()
    assert sum(steps) == learned_from
    model.encoder = torch.nn.Sequential(model.encoder)
    for ours, whole in zip(spared, losses(), strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-5)


def test_the_target_copy_is_refreshed_on_schedule():
    model = make_model(target="copy", target_refresh=3)
    learner = Learner(model, OptimizationSettings(learning_rate=1e-2))

    def differs() -> bool:
        pairs = zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True)
        return any(not torch.equal(ours, copied) for ours, copied in pairs)

    states = []
    for _ in range(4):
        learner.update(make_clip())
        states.append(differs())
    assert states == [True, True, False, True]


@pytest.mark.parametrize("form", ["layer", "simplicial"])
def test_encoded_and_predicted_latents_have_the_same_form(form):
    model = make_model(latent_form=form)
    encoded = model.encode(torch.randn(3, 4))
    imagined = model.imagine(LatentState(encoded), torch.rand(3, 2, 4, 2)).latents
    for latents in (encoded, imagined):
        if form == "layer":
            torch.testing.assert_close(latents.square().mean(-1), torch.ones(latents.shape[:-1]), rtol=1e-3, atol=0)
        else:
            torch.testing.assert_close(latents.sum(-1), torch.ones(latents.shape[:-1]))


def test_forms_of_latents_are_for_plain_networks():
    for part in ({"vision": VisionSettings()}, {"transformer": TransformerSettings()}):
        with pytest.raises(SettingsError, match=r"latent_form = 'layer' .* does not go with"):
            JEPASettings(latent_form="layer", **part)


def kept_apart_by(settings):
    return settings.latent_form, settings.target, settings.regularize


def test_what_keeps_latents_apart_is_decided_together_and_by_whether_rewards_shape_them():
    assert kept_apart_by(JEPASettings().settled(rewarded=True)) == ("layer", "copy", "nothing")
    assert kept_apart_by(JEPASettings().settled()) == ("free", "both", "latent")
    assert kept_apart_by(JEPASettings(latent_form="free").settled(rewarded=True)) == ("free", "both", "latent")
    assert kept_apart_by(JEPASettings(target="copy").settled(rewarded=True)) == ("free", "copy", "latent")
    assert kept_apart_by(JEPASettings(regularize="nothing").settled(rewarded=True)) == ("free", "both", "nothing")
    unshaped = {"heads": False}, {"reward_weight": 0.0}
    for part in ({"vision": VisionSettings()}, {"transformer": TransformerSettings()}, *unshaped):
        assert kept_apart_by(JEPASettings(**part).settled(rewarded=True)) == ("free", "both", "latent")
    assert kept_apart_by(JEPA(4, 2).settings) == ("free", "both", "latent")
    chosen = JEPASettings(latent_form="layer", target="stop", regularize="nothing")
    assert chosen.settled(rewarded=True) == chosen.settled() == chosen


@pytest.mark.parametrize("asked", [{"regularizer_weight": 0.05}, {"regularize_mean": False}])
def test_settings_of_sigreg_are_refused_where_the_default_leaves_it_out(asked):
    with pytest.raises(SettingsError, match=rf"{next(iter(asked))} = .* ask for regularize = 'latent', too"):
        JEPASettings(**asked).settled(rewarded=True)
    for applied in (JEPASettings(**asked).settled(), JEPASettings(regularize="latent", **asked).settled(rewarded=True)):
        assert kept_apart_by(applied) == ("free", "both", "latent")


def test_a_model_with_parts_of_ones_own_is_not_saved_as_another(tmp_path):
    model = JEPA(4, 2, encoder=MLPEncoder(4, 64, [256] * 2, "layer"))
    with pytest.raises(SettingsError, match="The encoder of this world model cannot be built from settings"):
        save_model(model, tmp_path / "model.zip")
    assert not list(tmp_path.iterdir())


def test_simplicial_latents_come_in_groups():
    with pytest.raises(SettingsError, match="latent_dims = 12 must be a multiple of 8"):
        JEPASettings(latent_dims=12, latent_form="simplicial")


@pytest.mark.parametrize("held", [True, False])
def test_the_mean_is_free_where_sigreg_does_not_hold_it(held):
    model, clip = make_model(regularize_mean=held), make_clip(64)
    clip.valid[:5, 1:] = 0
    directions = model.draw_directions(torch.Generator().manual_seed(0))
    before = model(clip, directions).regularization
    torch.nn.init.constant_(model.encoder.layers[-1].bias, 0.7)
    assert torch.isclose(model(clip, directions).regularization, before, rtol=1e-3) == (not held)


def test_sigreg_can_be_moved_to_a_projector():
    model = make_model(regularize="projector", projector_dims=5)
    directions = model.draw_directions(torch.Generator().manual_seed(0))
    assert directions.shape[0] == 5
    model(make_clip(), directions).regularization.backward()
    assert any(parameter.grad is not None for parameter in model.projector.parameters())


def test_a_model_without_heads_imagines_latents_only():
    imagined = make_model(heads=False).imagine(LatentState(torch.randn(1, 8)), torch.zeros(1, 2, 3, 2))
    assert imagined.rewards is None
    assert imagined.continues is None


def test_an_ensemble_leaves_the_rest_of_the_model_as_it_is():
    clip, gradients = make_clip(), []
    alone = make_model()
    for members in (0, 4):
        model = make_model(ensemble=members)
        model.load_state_dict(alone.state_dict(), strict=False)
        model(clip, model.draw_directions(torch.Generator().manual_seed(0))).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if not name.startswith("disagreement")})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_an_ensemble_agrees_on_what_it_has_learned_and_on_nothing_else():
    torch.manual_seed(0)
    head = DisagreementHead(latent_dims=4, action_dims=1, hidden=32, members=5)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    seen = torch.randn(256, 4), torch.rand(256, 1) - 1  # actions below zero only
    for _ in range(500):
        optimizer.zero_grad()
        head.loss(*seen, seen[0] + seen[1] * seen[0].flip(-1)).mean().backward()
        optimizer.step()
    fresh = torch.randn(256, 4)
    known, unknown = (head(fresh, torch.rand(256, 1) + low).mean() for low in (-1, 1))
    assert unknown > 3 * known


def test_what_disagrees_must_be_several():
    assert make_model().imagine(LatentState(torch.randn(2, 8)), torch.zeros(2, 1, 3, 2)).disagreement is None
    with pytest.raises(SettingsError, match="cannot disagree"):
        JEPASettings(ensemble=1)


def test_a_non_finite_loss_changes_no_weight_and_is_counted():
    model = make_model()
    learner = Learner(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clip = make_clip()
    clip.rewards[0, 0] = torch.nan
    learner.update(clip)
    assert learner.optimization.skipped == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("other", [{"observation_dims": 5}, {"action_dims": 3}])
def test_clips_of_another_task_are_refused_in_words(other):
    with pytest.raises(
        SettingsError, match=r"observations of the shape \(4,\) and actions of width 2; those of the clips"
    ):
        Learner(make_model()).update(make_clip(**other))


def test_the_same_seed_learns_the_same_weights_and_touches_no_global_generator():
    def learned() -> dict[str, torch.Tensor]:
        model = make_model()
        state = torch.random.get_rng_state()
        learner = Learner(model, seed=3)
        for seed in range(5):
            learner.update(make_clip(seed=seed))
        assert torch.equal(state, torch.random.get_rng_state())
        return model.state_dict()

    first, second = learned(), learned()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_learner_continues_from_its_state_bit_for_bit():
    def run(split: bool) -> dict[str, torch.Tensor]:
        model = make_model()
        learner = Learner(model, seed=1)
        for seed in range(6):
            if split and seed == 3:
                weights, state = model.state_dict(), learner.optimization.state()
                model = make_model(seed=5)
                model.load_state_dict(weights)
                learner = Learner(model, seed=7)
                learner.optimization.load_state(state)
            learner.update(make_clip(seed=seed))
        return model.state_dict()

    whole, resumed = run(False), run(True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_settings_out_of_range_name_the_field():
    with pytest.raises(SettingsError, match="latent_dims"):
        JEPASettings(latent_dims=0)
    with pytest.raises(SettingsError, match="target"):
        JEPASettings(target="bth")


def test_config_rebuilds_a_model_of_the_same_shape():
    model = make_model(target="copy", regularize="projector")
    twin = JEPA.from_config(model.config())
    twin.load_state_dict(model.state_dict())
    probe = torch.randn(2, 4)
    assert torch.equal(model.encode(probe), twin.encode(probe))


@pytest.mark.parametrize("regularize", ["nothing", "latent"])
def test_the_point_of_the_method(regularize, recorded):
    """Gradient through both sides, no reward: without SIGReg the latent collapses, with it it is a unit Gaussian."""
    torch.manual_seed(0)
    settings = JEPASettings(
        latent_dims=3, hidden=32, heads=False, target="both", regularize=regularize, regularizer_weight=1.0
    )
    model, rng = JEPA(3, 1, settings), np.random.default_rng(1)
    train, rest = slice(0, 2400), slice(2400, None)
    model.normalizer.update(torch.from_numpy(recorded.arrays()["observations"][train]))
    learner = Learner(model, OptimizationSettings(learning_rate=3e-3))
    held_out = recorded.sample(256, model.clip_spec, np.random.default_rng(2), rest)
    start = measure_health(model, held_out, torch.Generator().manual_seed(0))
    for _ in range(600):
        learner.update(recorded.sample(128, model.clip_spec, rng, train))
    end = measure_health(model, held_out, torch.Generator().manual_seed(0))
    alarm = collapse_alarm(end, held_out.batch)
    if regularize == "nothing":
        assert end["spread_mean"] < 0.05 * start["spread_mean"]
        assert alarm is not None
        assert "collapsed" in alarm
    else:
        assert 0.8 <= end["spread_mean"] <= 1.2
        assert end["sigreg"] < 5
        assert end["open_loop_error_3"] < 0.1 * end["no_change_error_3"]
        assert alarm is None


def test_the_alarm_is_silent_where_observations_are_all_alike():
    model = make_model()
    clip = make_clip(64)
    model.normalizer.update(clip.observations.flatten(0, 1))
    clip.observations[:] = clip.observations[:1, :1]
    health = measure_health(model, clip, torch.Generator().manual_seed(0))
    assert health["spread_mean"] < 1e-4
    assert collapse_alarm(health, 64) is None
