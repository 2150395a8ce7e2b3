"""The critic: an ensemble of action values on latents, evaluated as one batched product."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CriticEnsemble(nn.Module):
    """E independent MLPs of (latent, action), in units of the reward scale.

    Args:
        latent_dims, action_dims: D and A.
        hidden: width of the two hidden layers.
        members: E.
    """

    def __init__(self, latent_dims: int, action_dims: int, hidden: int, members: int) -> None:
        super().__init__()
        widths = [latent_dims + action_dims, hidden, hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in itertools.pairwise(widths):
            bound = 1 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, outputs)))
        nn.init.zeros_(self.weights[-1])

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Return values (E, ...) of ``actions`` (..., A) in ``latents`` (..., D)."""
        inputs = torch.cat([latents, actions], -1)
        members = self.weights[0].shape[0]
        hidden = inputs.reshape(1, -1, inputs.shape[-1]).expand(members, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:]))
        return hidden.float().reshape(members, *inputs.shape[:-1])

    def rescale(self, factor: Tensor) -> None:
        """Multiply all values by ``factor``, a scalar, from now on."""
        self.weights[-1].mul_(factor)
        self.biases[-1].mul_(factor)
