"""ErrorModel: what errors a world model usually makes, where it is and with what it does.

A world model is exact in free flight and wrong at every contact. With one covariance for all places the errors of
contacts hide all others. So mean and scale are functions of the latent and the action, learned on usual episodes; what
is left is whitened. The loss is that of Student's t-distribution, because the largest errors are far larger than those
of a Gaussian.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn

from ..core.seeding import derive_seed, torch_generator
from ..core.settings import Range, Settings, Width
from .networks import mlp
from .optimization import Optimization, OptimizationSettings
from .surprise import Whitening

FREEDOM = 5.0
"""Degrees of freedom of the t-distribution: tails as heavy as a fourth moment still allows."""
LARGEST_LOG_SCALE = 6.0
LARGEST_RESIDUAL = 10.0
"""Usual residuals beyond count as that large for the last whitening, which a few of them would govern otherwise."""
_VALIDATED = 4096


@dataclass(frozen=True)
class ErrorModelSettings(Settings):
    """Settings of an :class:`ErrorModel`."""

    hidden: Width = 512
    """Width of the two hidden layers."""
    learner: OptimizationSettings = field(
        default_factory=lambda: OptimizationSettings(learning_rate=1e-3, weight_decay=1e-3)
    )
    """How it is optimised; the learning rate falls to zero along a cosine."""
    batch_size: Annotated[int, Range(ge=2, le=1_000_000)] = 256
    """Steps per update."""
    passes: Annotated[int, Range(ge=0, le=10_000)] = 50
    """How often each step is learned from; 0 for one covariance everywhere."""
    updates: Annotated[int, Range(ge=1, le=10**9)] = 4000
    """Updates at most."""
    validate_every: Annotated[int, Range(ge=1)] = 200
    """Updates after which it is judged on other episodes; the best is kept, or nothing learned if that is best."""


@dataclass(frozen=True)
class Expected:
    """What is usual of an error: ``mean``, ``log_scale`` and ``precision``, one by the scale, all (..., E)."""

    mean: Tensor
    log_scale: Tensor
    precision: Tensor


class ErrorModel(nn.Module):
    """Makes errors into residuals that look alike wherever the model errs as usual.

    Args:
        latent_dims: D.
        action_dims: A.
        error_dims: E, D for the latent, and one more where rewards are predicted.
        settings: see :class:`ErrorModelSettings`.
    """

    input_mean: Tensor
    input_scale: Tensor
    error_mean: Tensor
    error_projection: Tensor
    residual_mean: Tensor
    residual_projection: Tensor

    def __init__(
        self, latent_dims: int, action_dims: int, error_dims: int, settings: ErrorModelSettings | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or ErrorModelSettings()
        self.latent_dims, self.error_dims = latent_dims, error_dims
        inputs = latent_dims + action_dims
        with torch.random.fork_rng(devices=[]):  # weights that are drawn anew take nothing from the user's stream
            self.network = mlp(inputs, [self.settings.hidden] * 2, 2 * error_dims)
        nn.init.zeros_(self.network[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network[-1].bias)  # type: ignore[arg-type]
        for name in ("input", "error", "residual"):
            size = inputs if name == "input" else error_dims
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            if name != "input":
                self.register_buffer(f"{name}_projection", torch.eye(size))
        self.register_buffer("input_scale", torch.ones(inputs))

    def forward(self, latents: Tensor, actions: Tensor) -> Expected:
        """Return what errors are usual from ``latents`` (..., D) with ``actions`` (..., A)."""
        inputs = (torch.cat([latents, actions], -1) - self.input_mean) * self.input_scale
        mean, log_scale = self.network(inputs.clamp(-10, 10)).chunk(2, -1)
        log_scale = log_scale.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
        return Expected(mean, log_scale, (-log_scale).exp())

    def residuals(self, errors: Tensor, expected: Expected) -> Tensor:
        """Return residuals (..., E) of ``errors`` (..., E): about independent and of unit variance, if all is usual."""
        return (self._scaled(errors, expected) - self.residual_mean) @ self.residual_projection

    def shifts(self, changes: Tensor, expected: Expected) -> Tensor:
        """Return by how much the latent's residuals (B, N, D) change where its errors change by ``changes`` (B, N, D).

        Args:
            changes: N for each of B errors.
            expected: of the B errors, (B, E).
        """
        kept = slice(0, self.latent_dims)
        scaled = changes @ self.error_projection[kept, kept] * expected.precision[:, None, kept]
        shifted: Tensor = scaled @ self.residual_projection[kept, kept]
        return shifted

    def _scaled(self, errors: Tensor, expected: Expected) -> Tensor:
        whitened: Tensor = (errors - self.error_mean) @ self.error_projection
        return (whitened - expected.mean) * expected.precision

    def fit(self, latents: Tensor, actions: Tensor, errors: Tensor, held_out: Tensor, seed: int = 0) -> None:
        """Learn from usual steps.

        Args:
            latents: (n, D), before each step.
            actions: (n, A).
            errors: (n, E), of what was predicted.
            held_out: (n,) bool, those of other episodes, which are not learned from but tell when to stop.
            seed: of everything random.
        """
        learned = ~held_out
        inputs = torch.cat([latents, actions], -1)[learned]
        self.input_mean.copy_(inputs.mean(0))
        self.input_scale.copy_(1 / inputs.std(0).clamp(min=1e-4))
        self._set("error", self._by_part(errors[learned]))
        with torch.random.fork_rng(devices=[]):  # the host's generator only, so that weights are drawn there
            torch.default_generator.manual_seed(derive_seed(seed, "error model"))
            for layer in list(self.network)[:-1]:
                if isinstance(layer, nn.Linear):
                    drawn = nn.Linear(layer.in_features, layer.out_features)
                    layer.load_state_dict(drawn.state_dict())
        self._learn(latents, actions, errors, held_out, seed)
        with torch.no_grad():
            scaled = self._scaled(errors, self(latents, actions)).clamp(-LARGEST_RESIDUAL, LARGEST_RESIDUAL)
            self._set("residual", self._by_part(scaled))

    def _learn(self, latents: Tensor, actions: Tensor, errors: Tensor, held_out: Tensor, seed: int) -> None:
        s, rng = self.settings, torch_generator(seed, "error model")
        rows, judged = (torch.nonzero(mask)[:, 0] for mask in (~held_out, held_out))
        updates = min(s.updates, math.ceil(s.passes * len(rows) / s.batch_size))
        judged = judged[torch.randperm(len(judged), generator=rng)[:_VALIDATED].to(judged.device)]
        self.network.requires_grad_(True)
        optimization = Optimization(self.network.parameters(), s.learner, rng)
        best, kept = math.inf, self._weights()
        for update in range(updates + 1):
            if update % s.validate_every == 0 or update == updates:
                with torch.no_grad():
                    loss = float(self._loss(latents[judged], actions[judged], errors[judged]))
                if loss < best:
                    best, kept = loss, self._weights()
            if update < updates:
                chosen = rows[torch.randint(len(rows), (s.batch_size,), generator=rng).to(rows.device)]
                optimization.pace(0.5 * (1 + math.cos(math.pi * update / updates)))
                optimization.step(self._loss(latents[chosen], actions[chosen], errors[chosen]))
        self.network.load_state_dict(kept)
        self.network.requires_grad_(False)

    def _weights(self) -> dict[str, Tensor]:
        return copy.deepcopy(self.network.state_dict())

    def _loss(self, latents: Tensor, actions: Tensor, errors: Tensor) -> Tensor:
        expected = self(latents, actions)
        scaled = self._scaled(errors, expected)
        return (expected.log_scale + (FREEDOM + 1) / 2 * torch.log1p(scaled.square() / FREEDOM)).mean()

    def _by_part(self, errors: Tensor) -> Whitening:
        """Return the whitening of the latent's errors, and of the reward's apart from them."""
        parts = [Whitening.fit(part) for part in errors.split(self.latent_dims, 1)]
        return Whitening(
            torch.cat([part.mean for part in parts]), torch.block_diag(*(part.projection for part in parts))
        )

    def _set(self, name: str, whitening: Whitening) -> None:
        getattr(self, f"{name}_mean").copy_(whitening.mean)
        getattr(self, f"{name}_projection").copy_(whitening.projection)
