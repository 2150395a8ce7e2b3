"""SIGReg: its published values, its gradient, and what it does not depend on."""

from __future__ import annotations

import pytest
import torch

from forethought.world_model import SIGReg, effective_rank, unit_directions

BATCH, DIMS, DIRECTIONS = 128, 192, 1024


def naive_sigreg(latents: torch.Tensor, directions: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The definition, written out: all sines and cosines, and the integral by the trapezoid rule."""
    knots = torch.linspace(0, 3, 17, dtype=torch.float64)
    window = torch.exp(-knots.square() / 2)
    weights = torch.full_like(knots, 2 * 3 / 16)
    weights[[0, -1]] /= 2
    share = (valid / valid.sum(1, keepdim=True)).double()[:, :, None, None]
    angles = (latents.double() @ directions.double()).unsqueeze(-1) * knots
    real, imaginary = (angles.cos() * share).sum(1), (angles.sin() * share).sum(1)
    distance = ((real - window).square() + imaginary.square()) @ (weights * window)
    return (distance.mean(1) * valid.sum(1)).mean()


@pytest.mark.parametrize(
    ("scale", "expected", "tolerance"),
    [(1.0, 1.052, 0.05), (0.5, 19.81, 0.02), (2.0, 31.88, 0.03)],
)
def test_gaussians_of_known_spread_have_the_published_statistic(scale, expected, tolerance):
    generator, sigreg = torch.Generator().manual_seed(0), SIGReg()
    values = [
        sigreg(
            scale * torch.randn(1, BATCH, DIMS, generator=generator),
            unit_directions(DIMS, DIRECTIONS, generator),
        )
        for _ in range(20)
    ]
    assert torch.stack(values).mean().item() == pytest.approx(expected, rel=tolerance)


def test_a_collapsed_latent_has_the_published_statistic():
    directions = unit_directions(DIMS, DIRECTIONS, torch.Generator().manual_seed(0))
    assert SIGReg()(torch.zeros(1, BATCH, DIMS), directions).item() == pytest.approx(51.462, abs=1e-3)


def test_the_expected_value_for_gaussians_is_known_in_closed_form():
    assert SIGReg().expected_for_gaussian() == pytest.approx(1.0525, abs=1e-3)


def test_value_and_gradient_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(4, 50, 7, generator=generator, requires_grad=True)
    directions = unit_directions(7, 16, generator)
    valid = (torch.rand(4, 50, generator=generator) > 0.3).float()
    ours, naive = SIGReg()(latents, directions, valid), naive_sigreg(latents, directions, valid)
    assert ours.item() == pytest.approx(naive.item(), rel=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(value, latents)[0] for value in (ours, naive)))


def test_masked_samples_count_for_nothing():
    generator = torch.Generator().manual_seed(2)
    latents, directions = torch.randn(3, 40, 5, generator=generator), unit_directions(5, 16, generator)
    valid = torch.ones(3, 40)
    valid[:, 30:] = 0
    disturbed = latents.clone()
    disturbed[:, 30:] = 1e3
    expected = SIGReg()(latents[:, :30], directions)
    torch.testing.assert_close(SIGReg()(disturbed, directions, valid), expected)


def test_each_time_step_is_tested_on_its_own():
    generator = torch.Generator().manual_seed(3)
    latents, directions = torch.randn(2, 64, 5, generator=generator), unit_directions(5, 16, generator)
    apart = torch.stack([SIGReg()(step.unsqueeze(0), directions) for step in latents]).mean()
    torch.testing.assert_close(SIGReg()(latents, directions), apart)


def test_directions_come_from_the_given_generator_only():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = unit_directions(8, 4, torch.Generator().manual_seed(5))
    again = unit_directions(8, 4, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close(first.norm(dim=0), torch.ones(4))


def test_effective_rank_counts_the_directions_that_vary():
    latents = torch.zeros(500, 6)
    latents[:, :2] = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    assert effective_rank(latents) == pytest.approx(2, abs=0.05)
    assert effective_rank(1e-6 * latents) == pytest.approx(2, abs=0.05)  # which is why no alarm watches it
