"""Noise: drawn on the host before a search starts, from each problem's own seed and tick.

A plan is then a deterministic function of objective, state and noise; it does not depend on how many problems are
planned at once, on the device, or on the global generator.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..core.seeding import torch_generator


def draw_noise(
    seeds: tuple[int, ...],
    ticks: tuple[int, ...],
    shape: tuple[int, int, int],
    device: torch.device,
    colour: float = 0.0,
) -> Tensor:
    """Return standard normal noise for B problems, drawn on the host and copied to ``device`` once.

    Args:
        seeds: B seeds.
        ticks: B counts of the plans made so far.
        shape: (N, H, A), sequences and their size, per problem.
        device: where planning happens.
        colour: exponent beta of the noise along time, whose power falls like 1/f^beta; 0 is white.

    Returns:
        (B, N, H, A) float32; every entry has variance 1, whatever the colour.
    """
    count, horizon, dims = shape
    noise = torch.empty(len(seeds), *shape)
    for problem, (seed, tick) in enumerate(zip(seeds, ticks, strict=True)):
        generator = torch_generator("plan", seed, tick)
        if colour == 0:
            torch.randn(shape, generator=generator, out=noise[problem])
        else:  # mixed here, one problem at a time, so that rounding cannot depend on the batch
            white = torch.randn(horizon, count * dims, generator=generator)
            mixed = colouring(horizon, colour) @ white
            noise[problem] = mixed.view(horizon, count, dims).transpose(0, 1)
    return noise.to(device, non_blocking=True)


@cache
def colouring(horizon: int, colour: float) -> Tensor:
    """Return the lower triangular (H, H) matrix that colours white noise along time.

    The usual recipe draws a spectrum of H frequencies and transforms it back, which makes the sequence circular:
    its last entry is as close to its first as to its neighbour, and for H = 3 it is white whatever the exponent.
    Here the autocovariance is that of a sequence eight times as long, with the power levelled below the
    frequency 1 / (2 H), and the matrix is its Cholesky factor, so correlations are right at every horizon.

    Source: power-law noise after Timmer and Koenig (1995), as used by iCEM (arXiv 2008.06389, section 3.1).
    """
    length = 8 * horizon
    frequencies = torch.fft.fftfreq(length, dtype=torch.float64).abs()
    power = frequencies.clamp(min=1 / (2 * horizon)) ** -colour
    lags = torch.arange(horizon, dtype=torch.float64)
    covariance = (power * torch.cos(2 * torch.pi * lags[:, None] * frequencies)).sum(1)
    correlation = covariance / covariance[0]
    steps = torch.arange(horizon)
    toeplitz = correlation[(steps[:, None] - steps).abs()]
    factor: Tensor = torch.linalg.cholesky(toeplitz)
    return factor.float()


def normal_to_uniform(noise: Tensor) -> Tensor:
    """Return the uniform numbers in [0, 1] of the same shape that the normal ones stand for."""
    uniform: Tensor = torch.special.ndtr(noise)
    return uniform
