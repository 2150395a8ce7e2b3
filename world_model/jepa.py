"""JEPA: encode, predict in latent space, and be kept from collapse by SIGReg.

An observation becomes a latent; the predictor carries latents forward under actions; heads read reward and
continuation off the prediction. Nothing is ever reconstructed. Letters: B clips or environments, N candidates,
H planned steps, T observed steps, A action, D latent, O observation, F feature dimensions.

Sources: LeWorldModel (arXiv 2603.19312) for prediction plus SIGReg; TD-MPC2 (arXiv 2310.16828) for multi-step
unrolling with reward and termination heads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

import torch
from torch import Generator, Tensor, nn

from ..core.clip import Clip, ClipSpec
from ..core.errors import SettingsError
from ..core.settings import Range, Settings, Width
from .heads import ContinueHead, TwoHotHead
from .networks import SIMPLEX, LatentForm, MLPEncoder, ResidualPredictor, RunningNormalizer, mlp
from .sigreg import SIGReg, unit_directions
from .state import Imagination, LatentState, Step

LossWeight = Annotated[float, Range(ge=0, le=1e6)]


@dataclass(frozen=True)
class JEPASettings(Settings):
    """Settings of a :class:`JEPA` for state vectors."""

    latent_dims: Width = 64
    """Width D of the latent."""
    latent_form: LatentForm = "free"
    """Form of every latent, encoded or predicted: free; layer, normalised over its dimensions; simplicial,
    probabilities within groups of 8."""
    hidden: Width = 256
    """Width of the hidden layers of encoder and predictor."""
    unroll: Annotated[int, Range(ge=1, le=64)] = 3
    """Steps T over which the predictor is unrolled in training."""
    block: Annotated[int, Range(ge=1, le=64)] = 1
    """Environment steps per model step."""
    target: Literal["both", "stop", "copy"] = "both"
    """Target of the prediction: the encoder with gradient, without gradient, or a copy refreshed now and then."""
    target_refresh: Annotated[int, Range(ge=1)] = 250
    """Updates between two refreshes of the copy."""
    regularize: Literal["latent", "projector", "nothing"] = "latent"
    """What SIGReg is applied to: the latent, a learned projection of it, or nothing at all."""
    regularizer_weight: LossWeight = 0.05
    """Weight of SIGReg beside the prediction error (mean over dimensions)."""
    regularize_mean: bool = True
    """Whether SIGReg holds the mean at zero, too; if not, only the shape of the distribution around it."""
    directions: Width = 64
    """Random directions per SIGReg evaluation."""
    projector_dims: Width = 32
    """Width of the projection, where one is regularized."""
    heads: bool = True
    """Whether reward and continuation are predicted."""
    reward_bins: Annotated[int, Range(ge=3, le=4095)] = 65
    """Bins of the two-hot reward head; odd."""
    reward_weight: LossWeight = 0.1
    """Weight of the reward head's cross-entropy."""
    continue_weight: LossWeight = 0.1
    """Weight of the continue head's cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_bins % 2 == 0:
            raise SettingsError(f"JEPASettings.reward_bins = {self.reward_bins} must be odd, so that zero is a bin.")
        if self.latent_form == "simplicial" and self.latent_dims % SIMPLEX:
            raise SettingsError(
                f"JEPASettings.latent_dims = {self.latent_dims} must be a multiple of {SIMPLEX} for simplicial latents."
            )


@dataclass(frozen=True)
class Losses:
    """The training objective and its parts.

    Attributes:
        total: the scalar to minimise.
        prediction, regularization, reward, continuation: unweighted parts, scalars.
        latents: (B, T + 1, D) encodings of the clip, detached, for those who learn behaviour on top.
    """

    total: Tensor
    prediction: Tensor
    regularization: Tensor
    reward: Tensor
    continuation: Tensor
    latents: Tensor

    def metrics(self) -> dict[str, Tensor]:
        """Return the scalar parts by name, detached."""
        names = [field.name for field in fields(self) if field.name != "latents"]
        return {name: getattr(self, name).detach() for name in names}


class JEPA(nn.Module):
    """A world model that predicts in representation space.

    Args:
        observation_dims: O, width of the observation vector.
        action_dims: A, width of one model step's action (``block`` environment actions side by side).
        settings: see :class:`JEPASettings`.
        encoder, predictor, reward_head, continue_head: replacements for the parts that the settings would build.
    """

    def __init__(
        self,
        observation_dims: int,
        action_dims: int,
        settings: JEPASettings | None = None,
        *,
        encoder: nn.Module | None = None,
        predictor: ResidualPredictor | None = None,
        reward_head: TwoHotHead | None = None,
        continue_head: ContinueHead | None = None,
    ) -> None:
        super().__init__()
        s = settings or JEPASettings()
        self.settings, self.observation_dims, self.action_dims = s, observation_dims, action_dims
        self.normalizer = RunningNormalizer(observation_dims)
        self.encoder = encoder or MLPEncoder(observation_dims, s.latent_dims, [s.hidden] * 2, s.latent_form)
        self.predictor = predictor or ResidualPredictor(s.latent_dims, action_dims, s.hidden, s.latent_form)
        self.reward_head = reward_head or (TwoHotHead(self.predictor.features, s.reward_bins) if s.heads else None)
        self.continue_head = continue_head or (ContinueHead(self.predictor.features) if s.heads else None)
        self.projector = mlp(s.latent_dims, [s.hidden], s.projector_dims) if s.regularize == "projector" else None
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False) if s.target == "copy" else None
        self.regularizer = SIGReg()

    @property
    def latent_dims(self) -> int:
        """Width D of the latent."""
        return self.settings.latent_dims

    @property
    def clip_spec(self) -> ClipSpec:
        """The clips that :meth:`forward` wants."""
        return ClipSpec(length=self.settings.unroll, block=self.settings.block)

    def encode(self, observations: Tensor) -> Tensor:
        """Return latents (..., D) of raw observations (..., O)."""
        latents: Tensor = self.encoder(self.normalizer(observations))
        return latents

    # Acting: where we are, and what would happen.

    def initial(self, batch: int) -> LatentState:
        """Return the state of B environments before anything was observed."""
        return LatentState(torch.zeros(batch, self.latent_dims, device=self.device))

    def observe(
        self, state: LatentState, observations: Tensor, previous_actions: Tensor | None, reset: Tensor
    ) -> LatentState:
        """Advance by one real step.

        Args:
            state: of B environments.
            observations: (B, O).
            previous_actions: (B, A) that led here; a predictor without history needs none.
            reset: (B,) bool, where a new episode began.
        """
        return LatentState(self.encode(observations))

    def step(self, state: LatentState, actions: Tensor) -> Step:
        """Imagine one step of ``actions`` (B, N, A) from ``state``."""
        latents = state.latents if state.latents.dim() == 3 else state.latents.unsqueeze(1)
        after, features = self.predictor(latents, self.predictor.action_encoder(actions))
        return Step(
            LatentState(after),
            reward=self.reward_head(features) if self.reward_head else None,
            continues=self.continue_head(features) if self.continue_head else None,
            disagreement=None,
        )

    def imagine(self, state: LatentState, actions: Tensor) -> Imagination:
        """Imagine ``actions`` (B, N, H, A): :meth:`step` repeated, with actions and heads each in one product."""
        latents, features = self._unroll(state.latents.unsqueeze(1), self.predictor.action_encoder(actions), dim=2)
        return Imagination(
            latents,
            rewards=self.reward_head(features) if self.reward_head else None,
            continues=self.continue_head(features) if self.continue_head else None,
            disagreement=None,
        )

    def _unroll(self, latents: Tensor, encoded_actions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return latents (..., H, D) and features (..., H, F) along ``dim``, predicted open loop."""
        rollout, read = [], []
        for encoded in encoded_actions.unbind(dim):
            latents, features = self.predictor(latents, encoded)
            rollout.append(latents)
            read.append(features)
        return torch.stack(rollout, dim), torch.stack(read, dim)

    # Learning.

    def draw_directions(self, generator: Generator) -> Tensor:
        """Return fresh directions for one call of :meth:`forward`, drawn on the host."""
        projected = self.settings.regularize == "projector"
        dims = self.settings.projector_dims if projected else self.latent_dims
        return unit_directions(dims, self.settings.directions, generator, self.device)

    def forward(self, clip: Clip, directions: Tensor) -> Losses:
        """Return the whole training objective on ``clip``.

        Args:
            clip: B clips of T = ``unroll`` steps; what follows an episode's end is masked.
            directions: from :meth:`draw_directions`.
        """
        s, valid = self.settings, clip.valid
        normal = self.normalizer(clip.observations)
        latents = self.encoder(normal)  # (B, T + 1, D)
        predicted, features = self._unroll(latents[:, 0], self.predictor.action_encoder(clip.actions), dim=1)
        if self.target_encoder is not None:
            with torch.no_grad():
                targets = self.target_encoder(normal[:, 1:])
        else:
            targets = latents[:, 1:] if s.target == "both" else latents[:, 1:].detach()

        def masked_mean(values: Tensor) -> Tensor:
            return (values * valid).sum() / valid.sum().clamp(min=1)

        zero = latents.new_zeros(())
        prediction = masked_mean((predicted - targets).float().square().mean(-1))
        reward = masked_mean(self.reward_head.loss(features, clip.rewards)) if self.reward_head else zero
        ends = masked_mean(self.continue_head.loss(features, clip.terminated)) if self.continue_head else zero
        regularization = self._regularization(latents, valid, directions) if s.regularize != "nothing" else zero
        total = prediction + s.regularizer_weight * regularization + s.reward_weight * reward + s.continue_weight * ends
        return Losses(total, prediction, regularization, reward, ends, latents.detach().float())

    def _regularization(self, latents: Tensor, valid: Tensor, directions: Tensor) -> Tensor:
        seen = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)  # the first observation is always real
        subject = self.projector(latents) if self.projector else latents
        if not self.settings.regularize_mean:
            share = (seen / seen.sum(0)).nan_to_num().unsqueeze(-1)  # (B, T + 1, 1); no clip may reach the last steps
            subject = subject - (share * subject).sum(0)
        statistic: Tensor = self.regularizer(subject.transpose(0, 1), directions, seen.T)
        return statistic

    def refresh_target(self) -> None:
        """Copy the encoder into the target encoder, where there is one."""
        if self.target_encoder is not None:
            self.target_encoder.load_state_dict(self.encoder.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    # Files.

    def config(self) -> dict[str, Any]:
        """Return plain data from which :meth:`from_config` builds a model of the same shape."""
        dims = {"observation_dims": self.observation_dims, "action_dims": self.action_dims}
        return {**dims, "settings": self.settings.to_dict()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build an untrained model from :meth:`config`'s output."""
        settings = JEPASettings.from_dict(config["settings"])
        return cls(int(config["observation_dims"]), int(config["action_dims"]), settings)
