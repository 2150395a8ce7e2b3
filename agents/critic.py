"""The critic: an ensemble of action values on latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..world_model import EnsembleMLP


class CriticEnsemble(EnsembleMLP):
    """E independent MLPs of (latent, action), in units of the reward scale.

    Args:
        latent_dims, action_dims: D and A.
        hidden: width of the two hidden layers.
        members: E.
    """

    def __init__(self, latent_dims: int, action_dims: int, hidden: int, members: int) -> None:
        super().__init__(latent_dims + action_dims, [hidden, hidden], 1, members)
        nn.init.zeros_(self.weights[-1])

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:  # type: ignore[override]
        """Return values (E, ...) of ``actions`` (..., A) in ``latents`` (..., D)."""
        return super().forward(torch.cat([latents, actions], -1)).squeeze(-1)

    def rescale(self, factor: Tensor) -> None:
        """Multiply all values by ``factor``, a scalar, from now on."""
        self.weights[-1].mul_(factor)
        self.biases[-1].mul_(factor)
