"""Detectors find what is planted, and areas are those computed by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from forethought.core.errors import SettingsError
from forethought.envs.recording import RecordedEpisode
from forethought.evaluations.auroc import auroc
from forethought.evaluations.detectors import (
    Detector,
    MeanKernel,
    ModelSteps,
    NearestNeighbour,
    SuccessiveDistance,
    Whitening,
)
from forethought.evaluations.ensemble_detector import EnsembleDynamics, EnsembleSettings
from forethought.evaluations.latent_detector import LatentError
from forethought.world_model import JEPA, JEPASettings, TransformerSettings

QUICK = EnsembleSettings(members=3, hidden=32, layers=2, updates=300, batch_size=64, particles=20)


def linear(seed: int, steps: int = 60, jump: int | None = None, images: bool = False) -> RecordedEpisode:
    """Return an episode of a linear system with a little noise, in which a jump may be planted."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
    state, seen = rng.normal(size=2), []
    for step in range(steps + 1):
        seen.append(state.copy())
        if step < steps:
            push = np.array([0.3, -0.2]) * actions[step, 0]
            state = np.array([[0.9, 0.2], [-0.2, 0.9]]) @ state + push + 0.01 * rng.normal(size=2)
            state += 8.0 * (step == jump)
    observations = np.array(seen, np.float32)
    if images:
        pixels = (128 + 30 * observations).clip(0, 255).astype(np.uint8)
        observations = np.broadcast_to(pixels[:, None, None, [0, 1, 0]], (steps + 1, 32, 32, 3)).copy()
    return RecordedEpisode(observations, actions, np.zeros(steps, np.float32), False, True, None)


def model(**settings: Any) -> JEPA:
    torch.manual_seed(0)
    return JEPA(2, 1, JEPASettings(latent_dims=4, hidden=16, **settings)).eval()


def all_detectors(block: int = 1) -> list[Detector]:
    return [
        EnsembleDynamics(block, settings=QUICK),
        EnsembleDynamics(block, 0, "nearest", QUICK),
        NearestNeighbour(block),
        MeanKernel(block),
        SuccessiveDistance(block),
    ]


@pytest.mark.parametrize("detector", [*all_detectors(), LatentError(model())], ids=lambda detector: detector.name)
def test_a_detector_finds_a_planted_jump_at_its_very_step(detector: Detector) -> None:
    detector.fit([linear(seed) for seed in range(20)])
    lone, longer = linear(100, jump=30), linear(101, steps=70)
    [scores] = detector.scores([lone])
    assert scores.shape == (60,)
    assert np.isfinite(scores).all()
    within = 10 if detector.name == "mean-kernel" else 0  # a mean takes some steps to move
    assert 30 <= scores.argmax() <= 30 + within
    together = detector.scores([longer, lone])
    assert [len(part) for part in together] == [70, 60]
    np.testing.assert_allclose(together[1], scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("detector", all_detectors(block=3), ids=lambda detector: detector.name)
def test_steps_are_blocks_and_images_are_seen(detector: Detector) -> None:
    detector.fit([linear(seed, steps=62, images=True) for seed in range(20)])
    [scores] = detector.scores([linear(100, steps=62, jump=31, images=True)])
    assert scores.shape == (20,)  # a rest of two steps is left out
    assert np.isfinite(scores).all()
    assert 10 <= scores.argmax() <= (19 if detector.name == "mean-kernel" else 12)


def test_a_score_does_not_depend_on_what_comes_after_it() -> None:
    for detector in all_detectors():
        detector.fit([linear(seed) for seed in range(10)])
        episode = linear(100, jump=50)
        cut = RecordedEpisode(episode.observations[:31], episode.actions[:30], episode.rewards[:30], False, True, None)
        [whole], [part] = detector.scores([episode]), detector.scores([cut])
        np.testing.assert_allclose(whole[:30], part, rtol=1e-4, atol=1e-6)


def test_an_ensemble_learns_the_noise_there_is() -> None:
    detector = EnsembleDynamics(settings=QUICK.replace(updates=1500))
    detector.fit([linear(seed) for seed in range(40)])
    scores = np.concatenate(detector.scores([linear(seed) for seed in range(100, 110)]))
    assert 0.5 < scores.mean() < 2.0  # squared errors in their predicted variance


def test_whitened_samples_vary_by_one_in_every_direction() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) * [1, 100, 0.01] + 5
    np.testing.assert_allclose(np.cov(Whitening(samples)(samples), rowvar=False), np.eye(3), atol=1e-6)
    constant = np.column_stack([samples, np.full(500, 7.0)])
    assert np.isfinite(Whitening(constant)(constant)).all()


@pytest.mark.parametrize("context", [1, 3])
def test_latent_errors_are_those_that_the_model_makes_step_by_step(context: int) -> None:
    transformer = TransformerSettings(history=3, depth=1, heads=2, head_dims=4, hidden=16, projector_hidden=16)
    watched = model(context=context, transformer=transformer, prediction="one_step", unroll=2)
    detector = LatentError(watched)
    detector.fit([linear(seed, 40) for seed in range(5)])
    episodes = [linear(10, 12), linear(11, 20), linear(12, 7)]
    scored = detector.scores(episodes)
    for episode, scores in zip(episodes, scored, strict=True):
        state, previous, errors = watched.initial(1), torch.zeros(1, 1), []
        for step in range(len(episode.actions)):
            with torch.no_grad():
                seen = torch.from_numpy(episode.observations[step : step + 1])
                state = watched.observe(state, seen, previous, torch.tensor([step == 0]))
                previous = torch.from_numpy(episode.actions[step : step + 1])
                predicted = watched.step(state, previous.unsqueeze(1)).state.latents[0, 0]
                found = watched.encode(torch.from_numpy(episode.observations[step + 1]))
            errors.append((found - predicted).double().numpy())
        expected = np.square(detector._whiten(np.array(errors))).mean(1)
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-5)


def test_a_model_refuses_episodes_of_another_shape() -> None:
    wrong = RecordedEpisode(np.zeros((9, 3), np.float32), np.zeros((8, 1)), np.zeros(8), False, True, None)
    with pytest.raises(SettingsError, match=r"have the shape \(3,\), and it takes \(2,\)"):
        LatentError(model()).fit([wrong] * 3)
    blocks = model(block=1)
    blocks.settings = blocks.settings.replace(block=2)
    with pytest.raises(SettingsError, match="2 to a step, have 2 dimensions, and it takes 1"):
        LatentError(blocks).fit([linear(0)] * 3)


@pytest.mark.parametrize("detector", [*all_detectors(), LatentError(model())], ids=lambda detector: detector.name)
def test_too_few_nominal_steps_are_refused_with_how_many_are_needed(detector: Detector) -> None:
    if detector.name == "successive":
        detector.fit([linear(0, 2)])
        return
    with pytest.raises(SettingsError, match=r"1 nominal episodes, 3 steps in all, are too few .* at least \d+ steps"):
        detector.fit([linear(0, 3)])


def test_model_steps_pair_the_observations_around_each_block() -> None:
    steps = ModelSteps.of([linear(0, 7), linear(1, 4)], 2)
    assert steps.lengths == [3, 2]
    np.testing.assert_array_equal(steps.before[1], linear(0, 7).observations[2])
    np.testing.assert_array_equal(steps.after[2], linear(0, 7).observations[6])
    np.testing.assert_array_equal(steps.actions[3], linear(1, 4).actions[:2].reshape(-1))
    assert [len(part) for part in steps.per_episode(np.arange(5))] == [3, 2]
    short = ModelSteps.of([linear(0, 7), linear(1, 1)], 2)  # which ends within its first block
    assert short.lengths == [3, 0]
    assert np.array_equal(short.actions, steps.actions[:3])


def test_areas_are_those_computed_by_hand_ties_included() -> None:
    perturbed, nominal = [np.array([3.0, 1.0]), np.array([2.0])], [np.array([1.0, 2.0]), np.array([0.0, np.nan])]
    pairs = itertools.product([3.0, 1.0, 2.0], [1.0, 2.0, 0.0])
    by_hand = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in pairs]
    assert auroc(perturbed, nominal).value == pytest.approx(np.mean(by_hand)) == pytest.approx(7 / 9)
    assert auroc([np.ones(3)], [np.ones(4)]).value == 0.5
    assert auroc([np.ones(3)], [np.zeros(4)]).value == 1.0
    assert auroc([np.zeros(3)], [np.ones(4)]).value == 0.0
    lone = auroc([np.ones(3)], [np.zeros(4), np.zeros(2)])
    assert (lone.low, lone.high, lone.n) == (None, None, 1)
    with pytest.raises(ValueError, match="no step"):
        auroc([np.array([np.nan])], nominal)


def test_an_area_has_an_interval_between_episodes_not_steps() -> None:
    rng = np.random.default_rng(0)
    nominal = [rng.normal(size=200) for _ in range(20)]
    apart = [np.full(200, 5.0 * (index % 2) - 2.5) + rng.normal(size=200) for index in range(10)]  # all or nothing
    alike = [rng.normal(size=200) for _ in range(10)]
    wide, narrow = auroc(apart, nominal), auroc(alike, nominal)
    for area in (wide, narrow):
        assert area.low is not None
        assert area.high is not None
        assert area.low < area.value < area.high
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)  # type: ignore[operator]
    assert auroc(apart, nominal) == wide
