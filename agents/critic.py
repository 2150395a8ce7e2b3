"""The critic: an ensemble of action values on latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..world_model import EnsembleMLP, MeanKind, TwoHot


class CriticEnsemble(EnsembleMLP):
    """E independent MLPs of (latent, action), in units of the reward scale.

    They regress values, or predict how they are distributed over bins, which are in these units, too.

    Args:
        latent_dims, action_dims: D and A.
        hidden: width of the two hidden layers.
        members: E.
        bins: of the distributions; 0 to regress.
        mean: what the mean of the distributions is taken of.
        bound: error beyond which the loss of regressing grows as the error does, and no longer as its square.
    """

    def __init__(
        self,
        latent_dims: int,
        action_dims: int,
        hidden: int,
        members: int,
        bins: int = 0,
        mean: MeanKind = "symlog",
        bound: float = 1.0,
    ) -> None:
        super().__init__(latent_dims + action_dims, [hidden, hidden], bins or 1, members)
        nn.init.zeros_(self.weights[-1])
        self.coding, self.bound = TwoHot(bins, mean=mean) if bins else None, bound

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:  # type: ignore[override]
        """Return values (E, ...) of ``actions`` (..., A) in ``latents`` (..., D)."""
        return self._values(super().forward(torch.cat([latents, actions], -1)))

    def judged(self, latents: Tensor, actions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (E, ...), and the losses (E, ...) of having missed ``targets`` (...): Huber's, or entropies."""
        outputs = super().forward(torch.cat([latents, actions], -1))
        values = self._values(outputs)
        targets = targets.expand_as(values)
        if self.coding is None:
            return values, F.smooth_l1_loss(values, targets, reduction="none", beta=self.bound)
        return values, self.coding.loss(outputs, targets)

    def rescale(self, factor: Tensor) -> None:
        """Multiply all values by ``factor``, a scalar, from now on.

        Distributions cannot follow: they have to be learned anew, and their bins stay fit for rewards of any scale.
        """
        if self.coding is None:
            self.weights[-1].mul_(factor)
            self.biases[-1].mul_(factor)

    def _values(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1) if self.coding is None else self.coding(outputs)
