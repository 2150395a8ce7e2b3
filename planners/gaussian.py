"""The sampling distribution that cem, icem, mppi and hybrid share: an independent Gaussian for every action."""

from __future__ import annotations

from torch import Tensor


def cheapest(candidates: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` candidates (B, count, H, A) of lowest cost, best first, and their costs (B, count)."""
    lowest, index = costs.topk(count, dim=1, largest=False)
    return candidates.gather(1, index[:, :, None, None].expand(-1, -1, *candidates.shape[2:])), lowest


def moments(candidates: Tensor, weights: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation (B, H, A) of weighted candidates.

    Args:
        candidates: (B, N, H, A).
        weights: (B, N), not negative.
        mean: (B, H, A) returned where all weights are zero.
        std: (B, H, A) returned where all weights are zero.
    """
    # Products and sums along N only: their rounding, unlike a matrix product's, does not depend on B.
    weights = weights[:, :, None, None]
    total = weights.sum(1)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    new_mean = (weights * candidates).sum(1) / total
    variance = (weights * (candidates - new_mean[:, None]).square()).sum(1) / total
    return mean.where(empty, new_mean), std.where(empty, variance.sqrt())
