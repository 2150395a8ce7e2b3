"""Health of a representation: is it alive, is it Gaussian, does it predict?

The collapse alarm watches the spread of the latents and the SIGReg statistic. It does not watch the effective
rank, because a latent that shrinks towards a point can keep its rank all the way.
"""

from __future__ import annotations

import torch
from torch import Generator

from ..core.clip import Clip
from .jepa import JEPA
from .sigreg import SIGReg, effective_rank, unit_directions
from .state import LatentState

COLLAPSED_SPREAD = 0.05
COLLAPSED_SHARE = 0.5


@torch.no_grad()
def measure_health(model: JEPA, clip: Clip, generator: Generator) -> dict[str, float]:
    """Measure the representation on clips that the model was not trained on.

    Args:
        model: the world model.
        clip: B held-out clips of T steps.
        generator: for the directions of the statistic.

    Returns:
        ``spread_mean`` and ``spread_min``, standard deviations over the latent's dimensions;
        ``observation_spread``, the mean one of the normalised observations; ``sigreg``, the statistic (1.05 for a
        Gaussian); ``effective_rank``; ``open_loop_error_k``, the mean squared error of the k-th open-loop
        prediction, beside ``no_change_error_k``, that of predicting that nothing changes.
    """
    latents = model.encode(clip.observations)  # (B, T + 1, D)
    first = latents[:, 0]
    spread = first.std(0, unbiased=False)
    directions = unit_directions(model.latent_dims, model.settings.directions, generator, model.device)
    health = {
        "spread_mean": float(spread.mean()),
        "spread_min": float(spread.min()),
        "observation_spread": float(model.normalizer(clip.observations[:, 0]).std(0, unbiased=False).mean()),
        "sigreg": float(SIGReg().to(model.device)(first.unsqueeze(0), directions)),
        "effective_rank": effective_rank(first),
    }
    predicted = model.imagine(LatentState(first), clip.actions.unsqueeze(1)).latents[:, 0]
    for k in range(1, clip.length + 1):
        valid = clip.valid[:, k - 1]
        total = valid.sum()  # where no clip lasts that long, the error is not known: 0 / 0
        target = latents[:, k]
        health[f"open_loop_error_{k}"] = float(((predicted[:, k - 1] - target).square().mean(-1) * valid).sum() / total)
        health[f"no_change_error_{k}"] = float(((first - target).square().mean(-1) * valid).sum() / total)
    return health


def collapse_alarm(health: dict[str, float], samples: int) -> str | None:
    """Return a sentence if the latents have collapsed, else ``None``.

    They have if they hardly vary where observations do, and the statistic is nearer to that of a single point than
    to that of a Gaussian. Both must hold: held-out states that are all alike make the statistic large by themselves,
    and a small latent that is otherwise Gaussian is out of scale, not collapsed.

    Args:
        health: from :func:`measure_health`.
        samples: number B of clips that it was measured on, which scales the statistic.
    """
    point = float(SIGReg()(torch.zeros(1, samples, 1), torch.ones(1, 1)))
    small = health["spread_mean"] < COLLAPSED_SPREAD * health["observation_spread"]
    if small and health["sigreg"] > COLLAPSED_SHARE * point:
        return (
            f"The latents have collapsed: their mean spread is {health['spread_mean']:.3g} where that of the "
            f"observations is {health['observation_spread']:.3g}, and the SIGReg statistic {health['sigreg']:.3g} "
            f"(1.05 is Gaussian, {point:.3g} a single point). Raise regularizer_weight, or use target='copy'."
        )
    return None
