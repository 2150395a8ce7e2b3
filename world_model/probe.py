"""Probes: what can be read off frozen latents."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def linear_probe(
    latents: Tensor, targets: Tensor, held_out_latents: Tensor, held_out_targets: Tensor, penalty: float = 1e-3
) -> Tensor:
    """Return Pearson's r (Q,) between targets and what a linear map of the latents makes of them, on held-out samples.

    The map is that of ridge regression, in closed form, on standardised latents.

    Args:
        latents: (B, D), to fit on.
        targets: (B, Q), what is to be read off them.
        held_out_latents: (E, D), of other episodes.
        held_out_targets: (E, Q).
        penalty: of the squared weights, in units of the samples' number.

    Returns:
        r, NaN where a target does not vary.
    """
    latents, targets, seen, wanted = (
        values.double() for values in (latents, targets, held_out_latents, held_out_targets)
    )
    mean, deviation = latents.mean(0), latents.std(0).clamp(min=1e-12)
    inputs = (latents - mean) / deviation
    gram = inputs.T @ inputs + penalty * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.double)
    weights = torch.linalg.solve(gram, inputs.T @ (targets - targets.mean(0)))
    read = (seen - mean) / deviation @ weights
    read, wanted = read - read.mean(0), wanted - wanted.mean(0)
    r: Tensor = (read * wanted).sum(0) / (read.norm(dim=0) * wanted.norm(dim=0))
    return r
