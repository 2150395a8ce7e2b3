"""Probes read what is there, and nothing else."""

from __future__ import annotations

import torch

from forethought.world_model import linear_probe


def samples(count, seed):
    """Return latents, and targets of which they hold the first two, half of the third, and nothing of the fourth."""
    generator = torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(count, 8, generator=generator), torch.randn(count, 2, generator=generator)
    shared = (latents[:, 2] + noise[:, 0]) / 2**0.5
    constant = torch.ones(count)
    return latents * 100 + 7, torch.stack([latents[:, 0], 3 * latents[:, 1] + 5, shared, noise[:, 1], constant], 1)


def test_a_probe_reads_what_the_latents_hold():
    r = linear_probe(*samples(4000, 0), *samples(4000, 1))
    assert (r[:2] > 0.999).all()
    torch.testing.assert_close(r[2], torch.tensor(0.5**0.5, dtype=torch.double), atol=0.03, rtol=0)
    assert r[3].abs() < 0.06
    assert r[4].isnan()


def test_more_dimensions_than_samples_are_no_obstacle():
    latents, targets = samples(6, 0)
    held_out, wanted = samples(50, 1)
    assert linear_probe(latents, targets[:, :2], held_out, wanted[:, :2]).isfinite().all()
