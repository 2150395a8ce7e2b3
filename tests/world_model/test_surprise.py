"""Statistics of surprise: whitening, tails, thresholds over episodes, and errors that depend on where the model is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forethought.core.errors import SettingsError
from forethought.world_model import SIGReg, unit_directions
from forethought.world_model.error_model import ErrorModel, ErrorModelSettings
from forethought.world_model.sigreg import SlidingSIGReg
from forethought.world_model.surprise import (
    Tails,
    Whitening,
    _shrunk_correlation,
    alarm_starts,
    alarm_threshold,
    least_steps,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_whitened_errors_have_unit_covariance_whatever_their_units():
    mixing = torch.diag(torch.tensor([1e-3, 1.0, 1e3])) @ torch.randn(3, 3, generator=generator(1))
    errors = torch.randn(20_000, 3, generator=generator(2)) @ mixing.T + torch.tensor([5.0, -1.0, 300.0])
    whitened = Whitening.fit(errors)(errors)
    assert torch.allclose(whitened.mean(0), torch.zeros(3), atol=0.02)
    assert torch.allclose(torch.cov(whitened.T), torch.eye(3), atol=0.1)


def test_a_direction_that_never_varied_does_not_decide_alone():
    errors = torch.randn(5000, 1, generator=generator()).repeat(1, 2)  # both dimensions always the same
    whitening = Whitening.fit(errors)
    rounding = whitening(torch.tensor([[1e-3, -1e-3]])).norm()
    assert rounding < 0.1
    assert whitening(torch.tensor([[1.0, -1.0]])).norm() > 10


def test_correlations_are_shrunk_by_what_chance_makes_of_them_and_not_of_the_diagonal():
    """The share is that of Schaefer and Strimmer (2005), which speaks of the other entries alone."""
    samples = torch.randn(400, 4, generator=generator(3), dtype=torch.float64)
    samples[:, 1] += samples[:, 0]
    standard = (samples - samples.mean(0)) / samples.std(0, correction=0)
    products = standard[:, :, None] * standard[:, None, :]
    correlation, chance = products.mean(0), products.var(0, correction=0) / len(samples)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    share = sum(float(chance[pair]) for pair in pairs) / sum(float(correlation[pair]) ** 2 for pair in pairs)
    shrunk = _shrunk_correlation(standard)
    assert 0.001 < share < 1
    assert torch.allclose(shrunk, (1 - share) * correlation + share * torch.eye(4, dtype=torch.float64))


def test_a_dimension_without_variation_and_few_samples_stay_finite():
    errors = torch.cat([torch.randn(5, 3, generator=generator()), torch.zeros(5, 2)], 1)
    assert Whitening.fit(errors)(errors).isfinite().all()


def test_levels_are_how_rare_scores_are():
    scores = torch.randn(100_000, generator=generator())
    tails = Tails.fit([scores], [1.0])
    fresh = torch.randn(200_000, generator=generator(1)).unsqueeze(1)
    for level in (0.5, 1.0, 2.0, 3.0):
        found = float((tails(fresh) > level).float().mean())
        assert found == pytest.approx(10**-level, rel=0.4), level


def test_levels_rise_with_scores_without_end_and_keep_what_is_unknown():
    tails = Tails.fit([torch.randn(1000, generator=generator())], [1.0])
    levels = tails(torch.tensor([[-100.0], [0.0], [3.0], [10.0], [100.0], [torch.nan]]))[:, 0]
    assert (levels[:-1].diff() > 0).all()
    assert levels[0] == 0
    assert levels[-1].isnan()


def test_a_channel_with_a_smaller_share_needs_rarer_scores():
    scores = torch.randn(1000, generator=generator())
    levels = Tails.fit([scores, scores], [3.0, 1.0])(torch.full((1, 2), 2.0))[0]
    assert float(levels[0] - levels[1]) == pytest.approx(np.log10(3), abs=1e-5)


def test_one_alarm_is_a_run_after_ten_quiet_steps():
    alarmed = np.zeros(60, bool)
    alarmed[[0, 1, 5, 16, 27, 38, 49]] = True  # 5 to 16: ten quiet steps between
    assert np.flatnonzero(alarm_starts(alarmed)).tolist() == [0, 16, 27, 38, 49]
    alarmed[10] = True
    assert np.flatnonzero(alarm_starts(alarmed)).tolist() == [0, 27, 38, 49]
    assert not alarm_starts(np.zeros(5, bool)).any()


def test_the_threshold_keeps_the_rate_it_was_asked_for():
    rng = np.random.default_rng(0)
    calibrated = [rng.standard_normal(500) for _ in range(20)]
    threshold = alarm_threshold(calibrated, 4.0)
    fresh = [rng.standard_normal(500) for _ in range(400)]
    rate = 1000 * sum(alarm_starts(episode > threshold.level).sum() for episode in fresh) / (400 * 500)
    assert 2.0 < rate < 8.0
    assert threshold.per_1000 <= 4.0 * 21 / 20


def test_the_rate_that_is_guaranteed_holds_on_average_over_draws_of_few_episodes_with_outliers():
    rng = np.random.default_rng(1)

    def episode() -> np.ndarray:  # one in ten has scores of its own
        return rng.standard_normal(100) + 5 * (rng.random() < 0.1)

    alarms, guaranteed = 0, 0.0
    for _ in range(300):
        threshold = alarm_threshold([episode() for _ in range(10)], 5.0)
        alarms += alarm_starts(episode() > threshold.level).sum()
        guaranteed += threshold.guaranteed_per_1000
    assert 1000 * alarms / (300 * 100) <= guaranteed / 300


def test_more_episodes_are_guaranteed_more():
    rng = np.random.default_rng(0)
    few, many = (alarm_threshold([rng.standard_normal(1000) for _ in range(count)], 1.0) for count in (10, 200))
    assert 1 < many.guaranteed_per_1000 < few.guaranteed_per_1000


def test_too_few_steps_are_refused_with_what_is_needed():
    with pytest.raises(SettingsError, match="1,000 are needed"):
        alarm_threshold([np.zeros(100)] * 3, 1.0)
    assert least_steps(1.0) == 1000
    alarm_threshold([np.zeros(500)] * 2, 1.0)


def test_steps_that_cannot_tell_are_never_alarmed():
    levels = [np.where(np.arange(600) < 5, np.nan, np.linspace(0, 1, 600)) for _ in range(4)]
    assert np.isfinite(alarm_threshold(levels, 1.0).level)


def test_the_sliding_statistic_is_that_of_the_window():
    directions = unit_directions(6, 16, generator())
    sliding, exact = SlidingSIGReg(directions, 8), SIGReg()
    latents = torch.randn(30, 3, 6, generator=generator(1))
    window, sums = sliding.empty(3)
    for step in range(30):
        window, sums = sliding.push(window, sums, latents[step], torch.full((3,), step >= 8))
        if step >= 7:
            expected = exact.per_step(latents[step - 7 : step + 1].transpose(0, 1), directions)
            assert torch.allclose(sliding.statistic(sums), expected, atol=1e-4)


def steps(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Errors that are ten times as large, and shifted, where the first latent is positive."""
    latents = torch.randn(count, 3, generator=generator(seed))
    actions = torch.randn(count, 2, generator=generator(seed + 1))
    rough = (latents[:, :1] > 0).float()
    errors = torch.randn(count, 3, generator=generator(seed + 2)) * (0.1 + 0.9 * rough) + 2 * rough
    return latents, actions, errors


def fitted(passes: int) -> ErrorModel:
    model = ErrorModel(3, 2, 3, ErrorModelSettings(hidden=32, passes=passes, validate_every=50))
    model.fit(*steps(4000, 0), held_out=torch.arange(4000) % 4 == 0)
    return model


def test_errors_are_measured_by_what_is_usual_where_they_are_made():
    fresh_latents, fresh_actions, fresh_errors = steps(4000, 10)
    sizes = {}
    for passes in (0, 50):
        model = fitted(passes)
        residuals = model.residuals(fresh_errors, model(fresh_latents, fresh_actions))
        smooth = fresh_latents[:, 0] < -0.3
        sizes[passes] = float(residuals[smooth].square().mean()), float(residuals.square().mean())
    assert sizes[0][0] < 0.6  # one covariance for all: errors hide where the model is exact
    assert sizes[50][0] == pytest.approx(1, abs=0.25)
    assert sizes[50][1] == pytest.approx(1, abs=0.25)


def test_what_cannot_be_learned_is_not():
    """Errors that depend on nothing: the network is stopped early, and stays close to plain whitening."""
    latents, actions, _ = steps(600, 0)
    errors = torch.randn(600, 3, generator=generator(7))
    model = ErrorModel(3, 2, 3, ErrorModelSettings(hidden=64, passes=400, validate_every=20))
    model.fit(latents, actions, errors, held_out=torch.arange(600) % 4 == 0)
    fresh_latents, fresh_actions, _ = steps(2000, 20)
    residuals = model.residuals(torch.randn(2000, 3, generator=generator(8)), model(fresh_latents, fresh_actions))
    assert float(residuals.square().mean()) == pytest.approx(1, abs=0.25)


def test_fitting_is_repeatable_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second = fitted(5).state_dict(), fitted(5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


def test_shifts_are_how_residuals_change_with_errors():
    model = fitted(10)
    latents, actions, errors = steps(50, 30)
    expected = model(latents, actions)
    changes = torch.randn(50, 4, 3, generator=generator(3))
    shifted = model.residuals(errors.unsqueeze(1) + changes, _each(expected)) - model.residuals(
        errors, expected
    ).unsqueeze(1)
    assert torch.allclose(model.shifts(changes, expected), shifted, atol=1e-3)


def _each(expected):
    return type(expected)(*(part.unsqueeze(1) for part in (expected.mean, expected.log_scale, expected.precision)))
