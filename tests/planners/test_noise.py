"""Noise is each problem's own, and its colour is right at every horizon."""

from __future__ import annotations

import pytest
import torch

from forethought.planners.noise import colouring, draw_noise, normal_to_uniform

CPU = torch.device("cpu")

# Correlation with the next step, with the one after, and with the last of H steps.
CORRELATIONS = [
    (5, 1.0, 0.382, 0.115, -0.022),
    (5, 2.0, 0.649, 0.295, -0.031),
    (5, 3.0, 0.787, 0.442, -0.022),
    (10, 2.0, 0.817, 0.601, -0.054),
    (30, 2.0, 0.937, 0.857, -0.062),
]


@pytest.mark.parametrize(("horizon", "colour", "next_step", "second", "last"), CORRELATIONS)
def test_coloured_noise_has_the_autocorrelation_of_a_long_sequence(
    horizon: int, colour: float, next_step: float, second: float, last: float
) -> None:
    factor = colouring(horizon, colour)
    correlation = factor @ factor.T
    assert correlation.diagonal().tolist() == pytest.approx([1.0] * horizon, abs=1e-5)
    for lag, wanted in ((1, next_step), (2, second), (horizon - 1, last)):
        assert correlation.diagonal(lag).tolist() == pytest.approx([wanted] * (horizon - lag), abs=6e-4)


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 12])
def test_drawn_noise_has_unit_variance_and_that_autocorrelation(horizon: int, colour: float) -> None:
    count = 20_000
    noise = draw_noise((0,), (0,), (count, horizon, 2), CPU, colour)[0]
    samples = noise.transpose(1, 2).reshape(-1, horizon)
    covariance = samples.T @ samples / len(samples)
    factor = colouring(horizon, colour) if colour else torch.eye(horizon)
    assert (covariance - factor @ factor.T).abs().max() < 5 * (2 / len(samples)) ** 0.5
    dimensions = (noise[..., 0] * noise[..., 1]).mean(0)
    assert dimensions.abs().max() < 5 / count**0.5


@pytest.mark.parametrize("colour", [0.0, 2.0])
def test_a_problems_noise_depends_on_its_seed_and_tick_only(colour: float) -> None:
    shape = (7, 5, 3)
    together = draw_noise((4, 9, 4), (0, 0, 1), shape, CPU, colour)
    for problem, (seed, tick) in enumerate([(4, 0), (9, 0), (4, 1)]):
        assert torch.equal(draw_noise((seed,), (tick,), shape, CPU, colour)[0], together[problem])
    assert len({noise.sum().item() for noise in together}) == 3


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    draw_noise((1, 2), (0, 0), (4, 4, 4), CPU, 1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_uniform_numbers_are_uniform_and_stay_between_0_and_1() -> None:
    uniform = normal_to_uniform(draw_noise((0,), (0,), (10_000, 1, 1), CPU).flatten())
    ranks = (torch.arange(10_000) + 0.5) / 10_000
    assert (uniform.sort().values - ranks).abs().max() < 1.95 / 100  # Kolmogorov-Smirnov, p = 0.001
    assert normal_to_uniform(torch.tensor([-50.0, 50.0])).tolist() == [0, 1]
