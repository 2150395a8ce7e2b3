"""Building blocks shared by encoder, predictor and heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .state import LatentState


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Return Linear-LayerNorm-SiLU blocks of the given widths followed by a Linear layer without normalisation."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class EnsembleMLP(nn.Module):
    """E independent networks of the same inputs, each :func:`mlp` in kind, evaluated as one batched product.

    Args:
        inputs, outputs: I and O.
        hidden: widths of the hidden layers.
        members: E.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, members: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in itertools.pairwise([inputs, *hidden, outputs]):
            bound = 1 / math.sqrt(before)
            self.weights.append(nn.Parameter(torch.empty(members, before, after).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, after)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (E, ..., O) for ``inputs`` (..., I)."""
        members = self.weights[0].shape[0]
        hidden = inputs.reshape(1, -1, inputs.shape[-1]).expand(members, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = F.silu(F.layer_norm(hidden, hidden.shape[-1:]))
        return hidden.float().reshape(members, *inputs.shape[:-1], -1)


LatentForm = Literal["free", "layer", "simplicial"]
SIMPLEX = 8
"""Dimensions of one simplex of a simplicial latent."""


class LatentNorm(nn.Module):
    """Gives latents (..., D) the form that all of them have, whether encoded or predicted.

    Args:
        form: "free" leaves them as they are, so that an isotropic Gaussian is within reach of the regularizer; "layer"
            gives each mean 0 and variance 1 over its dimensions; "simplicial" makes probabilities of every 8
            dimensions (TD-MPC2, arXiv 2310.16828, section 3.1).
    """

    def __init__(self, form: LatentForm) -> None:
        super().__init__()
        self.form = form

    def forward(self, values: Tensor) -> Tensor:
        """Return latents (..., D) made of any ``values`` (..., D)."""
        if self.form == "layer":
            return F.layer_norm(values, values.shape[-1:])
        if self.form == "simplicial":
            return values.unflatten(-1, (-1, SIMPLEX)).softmax(-1).flatten(-2)
        return values

    def move(self, latents: Tensor, change: Tensor) -> Tensor:
        """Return ``latents`` (..., D) after ``change`` (..., D), in the same form; no change leaves them alone."""
        return self(latents.clamp(min=1e-6).log() + change if self.form == "simplicial" else latents + change)


class MLPEncoder(nn.Module):
    """Encodes normalised observations (..., O) into latents (..., D) of one form."""

    def __init__(
        self, observation_dims: int, latent_dims: int, hidden: Sequence[int], form: LatentForm = "free"
    ) -> None:
        super().__init__()
        self.layers, self.norm = mlp(observation_dims, hidden, latent_dims), LatentNorm(form)

    def forward(self, observations: Tensor) -> Tensor:
        """Return latents (..., D)."""
        latents: Tensor = self.norm(self.layers(observations))
        return latents


class ResidualPredictor(nn.Module):
    """Predicts the change of the latent, and features (..., F) that the reward and continue heads read.

    It does not look back: the latent is all that it knows of what came before. The action encoder is the action's half
    of the first layer. It is kept apart so that the actions of a whole plan are encoded in one product before the
    latents are unrolled.
    """

    def __init__(self, latent_dims: int, action_dims: int, hidden: int, form: LatentForm = "free") -> None:
        super().__init__()
        self.history, self.features, self.norm = 1, hidden, LatentNorm(form)
        self.action_encoder = nn.Linear(action_dims, hidden, bias=False)
        self.latent_layer = nn.Linear(latent_dims, hidden)
        self.trunk = nn.Sequential(
            nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()
        )
        self.change = nn.Linear(hidden, latent_dims)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, latents: Tensor, encoded_actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next latents (..., D) and features (..., F).

        Args:
            latents: (..., D).
            encoded_actions: (..., F), the output of ``action_encoder``.
        """
        features = self.trunk(self.latent_layer(latents) + encoded_actions)
        return self.norm.move(latents, self.change(features)), features

    def unroll(self, state: LatentState, encoded_actions: Tensor) -> tuple[Tensor, Tensor, LatentState]:
        """Return the latents (..., H, D) and features (..., H, F) of H steps, predicted open loop, and the last state.

        Args:
            state: with latents (..., D), or with ones where ``encoded_actions`` has an axis N of candidates.
            encoded_actions: (..., H, F).
        """
        latents, rollout, read = state.latents, [], []
        for encoded in encoded_actions.unbind(-2):
            latents, features = self(latents, encoded)
            rollout.append(latents)
            read.append(features)
        return torch.stack(rollout, -2), torch.stack(read, -2), LatentState(latents)


class RunningNormalizer(nn.Module):
    """Observation statistics, gathered as experience arrives, that travel with the model.

    A dimension that never varies is left at zero rather than divided by nothing, and values are clamped to
    ``limit`` standard deviations, so that a dimension that wakes up late does no harm.
    """

    mean: Tensor
    square_sum: Tensor
    count: Tensor

    def __init__(self, *shape: int, limit: float = 10.0, floor: float = 1e-4) -> None:
        super().__init__()
        self.limit, self.floor = limit, floor
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("square_sum", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self._refresh()

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Take ``observations`` (B, ...) into the statistics (Chan, Golub and LeVeque's pairwise update)."""
        if not len(observations):
            return
        batch = observations.to(self.mean)
        total = self.count + len(batch)
        shift = batch.mean(0) - self.mean
        self.square_sum += (batch - batch.mean(0)).square().sum(0)
        self.square_sum += shift.square() * self.count * len(batch) / total
        self.mean += shift * len(batch) / total
        self.count.copy_(total)
        self._refresh()

    def forward(self, observations: Tensor) -> Tensor:
        """Return ``observations`` with mean zero and unit spread over what was seen so far."""
        return ((observations - self._center) * self._scale).clamp(-self.limit, self.limit)

    def variance(self) -> Tensor:
        """Return the variance by which observations are scaled, of their shape or one that broadcasts to it."""
        return self.square_sum / self.count.clamp(min=1)

    def _refresh(self) -> None:
        deviation = self.variance().sqrt()
        few = self.count < 2  # before there is any spread to speak of, observations pass as they are
        scale = torch.where(few, torch.ones_like(deviation), 1 / deviation.clamp(min=self.floor))
        self._center, self._scale = self.mean.float(), scale.float()

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()

    def _apply(self, fn: object, recurse: bool = True) -> RunningNormalizer:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._refresh()
        return self
