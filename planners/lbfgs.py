"""Limited-memory BFGS for many points at once and inside bounds, without a step that waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class InverseHessian:
    """What the last steps tell of the curvature, for every point separately.

    Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4, restricted to the entries that are free
    to move. Steps along which the gradient did not rise are left out, so the estimate stays positive definite and
    its directions descend.

    Args:
        memory: steps remembered.
        first_step: largest change of any entry while nothing is known of the curvature.
    """

    def __init__(self, memory: int, first_step: float) -> None:
        self._memory = memory
        self._first_step = first_step
        self._changes: Tensor | None = None
        self._differences: Tensor | None = None

    def add(self, change: Tensor, difference: Tensor) -> None:
        """Remember that ``change`` (..., D) of the point made its gradient differ by ``difference`` (..., D)."""
        self._changes = self._remember(self._changes, change)
        self._differences = self._remember(self._differences, difference)

    def direction(self, gradient: Tensor, free: Tensor) -> Tensor:
        """Return the direction (..., D) in which to step down.

        Args:
            gradient: (..., D).
            free: (..., D) 1 for the entries that may move, 0 for those that a bound stops.
        """
        rest = gradient * free
        largest = rest.abs().amax(-1, keepdim=True)
        scale = self._first_step / torch.where(largest > 0, largest, 1.0)
        if self._changes is None or self._differences is None:
            return -scale * rest
        changes, differences = self._changes * free[..., None, :], self._differences * free[..., None, :]
        product, steepness = _dot(changes, differences), _dot(differences, differences)
        usable = product > 1e-6 * (_dot(changes, changes) * steepness).sqrt()
        inverse = torch.where(usable, 1 / product, 0.0)
        factors = []
        for i in reversed(range(changes.shape[-2])):
            factor = inverse[..., i, :] * _dot(changes[..., i, :], rest)
            rest = rest - factor * differences[..., i, :]
            factors.append(factor)
        for i in range(changes.shape[-2]):  # ends with the latest usable step
            scale = torch.where(usable[..., i, :], product[..., i, :] / steepness[..., i, :], scale)
        step = scale * rest
        for i, factor in enumerate(reversed(factors)):
            correction = factor - inverse[..., i, :] * _dot(differences[..., i, :], step)
            step = step + correction * changes[..., i, :]
        return -step

    def _remember(self, past: Tensor | None, new: Tensor) -> Tensor:
        if past is None:
            return new[..., None, :]
        return torch.cat([past, new[..., None, :]], -2)[..., -self._memory :, :]


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(-1, keepdim=True)
