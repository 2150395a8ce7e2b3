"""JEPA: encode, predict in latent space, and be kept from collapse by SIGReg or by targets that follow slowly.

An observation becomes a latent; the predictor carries latents forward under actions; heads read reward and
continuation off the prediction. Nothing is ever reconstructed. Letters: B clips or environments, N candidates,
H planned steps, T observed steps, A action, D latent, O observation, F feature dimensions.

Sources: LeWorldModel (arXiv 2603.19312) for prediction plus SIGReg; TD-MPC2 (arXiv 2310.16828) for multi-step
unrolling with reward and termination heads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import torch
from torch import Generator, Tensor, nn

from ..core.clip import Clip, ClipSpec
from ..core.errors import SettingsError
from ..core.parallel import ALONE, Ranks
from .heads import ContinueHead, DisagreementHead, TwoHotHead
from .networks import LatentForm, MLPEncoder, ResidualPredictor, RunningNormalizer, mlp
from .settings import JEPASettings
from .sigreg import SIGReg, unit_directions
from .state import Imagination, LatentState, Past, Step
from .transformer import TransformerPredictor
from .vision import BatchNorm, ImageNetNormalizer, VisionEncoder, image_normalizer


@dataclass(frozen=True)
class Losses:
    """The training objective and its parts.

    Attributes:
        total: the scalar to minimise.
        prediction, regularization, reward, continuation: unweighted parts, scalars.
        ensemble: the error of the networks that disagree, a scalar; ``None`` where there are none.
        latents: (B, T + 1, D) encodings of the clip, detached, for those who learn behaviour on top.
    """

    total: Tensor
    prediction: Tensor
    regularization: Tensor
    reward: Tensor
    continuation: Tensor
    ensemble: Tensor | None
    latents: Tensor

    def metrics(self) -> dict[str, Tensor]:
        """Return the scalar parts by name, detached."""
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "latents"}
        return {name: part.detach() for name, part in parts.items() if part is not None}


class JEPA(nn.Module):
    """A world model that predicts in representation space.

    Args:
        observation_shape: of one observation: the width O of a vector, or (height, width, 3) of an image.
        action_dims: A, width of one model step's action (``block`` environment actions side by side).
        settings: see :class:`JEPASettings`.
        encoder, predictor, reward_head, continue_head: replacements for the parts that the settings would build.

    Attributes:
        replaced: names of the parts that were replaced.
    """

    ranks = ALONE

    def __init__(
        self,
        observation_shape: int | tuple[int, ...],
        action_dims: int,
        settings: JEPASettings | Mapping[str, Any] | None = None,
        *,
        encoder: nn.Module | None = None,
        predictor: ResidualPredictor | TransformerPredictor | None = None,
        reward_head: TwoHotHead | None = None,
        continue_head: ContinueHead | None = None,
    ) -> None:
        super().__init__()
        asked = settings if isinstance(settings, JEPASettings) else JEPASettings.from_dict(settings or {})
        s = asked.settled()
        form = cast(LatentForm, s.latent_form)
        given = {"encoder": encoder, "predictor": predictor, "reward head": reward_head, "continue head": continue_head}
        self.replaced = [name for name, part in given.items() if part is not None]
        self.settings, self.action_dims = s, action_dims
        self.observation_shape = (observation_shape,) if isinstance(observation_shape, int) else observation_shape
        self.normalizer: RunningNormalizer | ImageNetNormalizer
        if s.vision:
            if self.observation_shape != s.vision.image_shape:
                raise SettingsError(
                    f"This model encodes images of shape {s.vision.image_shape}, not observations of shape "
                    f"{self.observation_shape} (vision.image_size)."
                )
            self.normalizer = image_normalizer(s.vision)
            self.encoder = encoder or VisionEncoder(s.latent_dims, s.vision)
        else:
            if len(self.observation_shape) != 1:
                raise SettingsError(
                    f"Observations of shape {self.observation_shape} are images, which this model does not encode: "
                    "give it vision, such as VisionSettings(image_size=64)."
                )
            (dims,) = self.observation_shape
            self.normalizer = RunningNormalizer(dims)
            self.encoder = encoder or MLPEncoder(dims, s.latent_dims, [s.hidden] * 2, form)
        self.predictor = predictor or (
            TransformerPredictor(s.latent_dims, action_dims, s.transformer)
            if s.transformer
            else ResidualPredictor(s.latent_dims, action_dims, s.hidden, form)
        )
        self.reward_head = reward_head or (TwoHotHead(self.predictor.features, s.reward_bins) if s.heads else None)
        self.continue_head = continue_head or (ContinueHead(self.predictor.features) if s.heads else None)
        self.projector = mlp(s.latent_dims, [s.hidden], s.projector_dims) if s.regularize == "projector" else None
        self.disagreement_head = (
            DisagreementHead(s.latent_dims, action_dims, s.hidden, s.ensemble) if s.ensemble else None
        )
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

    @property
    def draws(self) -> bool:
        """Whether :meth:`forward` draws on torch's generator while learning, for dropout."""
        transformer = self.settings.transformer
        return transformer is not None and transformer.dropout > 0

    def encode(self, observations: Tensor) -> Tensor:
        """Return latents (..., D) of raw observations (..., O)."""
        latents: Tensor = self.encoder(self.normalizer(observations))
        return latents

    # Acting: where we are, and what would happen.

    def initial(self, batch: int) -> LatentState:
        """Return the state of B environments before anything was observed."""
        latents = torch.zeros(batch, self.latent_dims, device=self.device)
        if self.settings.context == 1:
            return LatentState(latents)
        steps = self.settings.context - 1
        nothing = latents.unsqueeze(1).expand(-1, steps, -1)
        padding = torch.full((batch,), steps + 1, device=self.device)  # nor was a step taken from these latents
        return LatentState(latents, Past(nothing, nothing, padding))

    def observe(
        self, state: LatentState, observations: Tensor, previous_actions: Tensor | None, reset: Tensor
    ) -> LatentState:
        """Advance by one real step.

        Args:
            state: of B environments.
            observations: (B, O), or (B, height, width, 3).
            previous_actions: (B, A) that led here; a model of ``context`` 1 needs none.
            reset: (B,) bool, where a new episode began.
        """
        latents = self.encode(observations)
        if state.past is None:
            return LatentState(latents)
        assert previous_actions is not None
        steps = self.settings.context - 1
        past = Past.of(state, self.predictor.action_encoder(previous_actions)).newest(steps)
        assert past is not None
        assert past.padding is not None
        return LatentState(latents, replace(past, padding=past.padding.masked_fill(reset, steps)))

    def step(self, state: LatentState, actions: Tensor, disagreement: bool = True) -> Step:
        """Imagine one step of ``actions`` (B, N, A) from ``state``, with the ensemble's ``disagreement`` if wanted."""
        if state.latents.dim() == 2:
            state = state.candidates(1)
        encoded = self.predictor.action_encoder(actions)
        _, features, after = self.predictor.unroll(state, encoded.unsqueeze(-2))
        features = features.squeeze(-2)
        return Step(
            after,
            reward=self.reward_head(features) if self.reward_head else None,
            continues=self.continue_head(features) if self.continue_head else None,
            disagreement=self.disagreement(state.latents.expand_as(after.latents), actions) if disagreement else None,
        )

    def imagine(self, state: LatentState, actions: Tensor, disagreement: bool = True) -> Imagination:
        """Imagine ``actions`` (B, N, H, A): :meth:`step` repeated, with actions and heads each in one product."""
        state = state.candidates(1)
        latents, features, _ = self.predictor.unroll(state, self.predictor.action_encoder(actions))
        doubts = None
        if disagreement:
            before = state.latents.unsqueeze(-2).expand_as(latents[:, :, :1])
            doubts = self.disagreement(torch.cat([before, latents[:, :, :-1]], 2), actions)
        return Imagination(
            latents,
            rewards=self.reward_head(features) if self.reward_head else None,
            continues=self.continue_head(features) if self.continue_head else None,
            disagreement=doubts,
        )

    def disagreement(self, latents: Tensor, actions: Tensor) -> Tensor | None:
        """Return by how much the ensemble disagrees (...) on what follows ``latents`` (..., D) and ``actions``.

        ``None`` for a model without an ensemble.
        """
        return None if self.disagreement_head is None else self.disagreement_head(latents, actions)

    # Learning.

    def draw_directions(self, generator: Generator) -> Tensor:
        """Return fresh directions for one call of :meth:`forward`, drawn on the host."""
        projected = self.settings.regularize == "projector"
        dims = self.settings.projector_dims if projected else self.latent_dims
        return unit_directions(dims, self.settings.directions, generator, self.device)

    def forward(self, clip: Clip, directions: Tensor) -> Losses:
        """Return the whole training objective on ``clip``.

        Args:
            clip: B clips of T = ``unroll`` steps; what follows an episode's end is masked, though batch normalisation,
                which vision and transformers have, takes it into its statistics. Where several processes learn
                together, this one's share of the batch; the losses are those of the whole.
            directions: from :meth:`draw_directions`; the same in every process.
        """
        s, valid = self.settings, clip.valid
        normal = self.normalizer(clip.observations)
        latents = self._encodings(normal)
        if self.target_encoder is not None:
            with torch.no_grad():
                targets = self.target_encoder(normal[:, 1:])
        else:
            targets = latents[:, 1:] if s.target == "both" else latents[:, 1:].detach()

        def masked_mean(values: Tensor, mask: Tensor = valid) -> Tensor:
            return self.ranks.total((values * mask).sum()) / self.ranks.total(mask.sum()).clamp(min=1)

        def error(predicted: Tensor) -> Tensor:
            return masked_mean((predicted - targets).float().square().mean(-1))

        actions, first = self.predictor.action_encoder(clip.actions), LatentState(latents[:, 0])
        if s.prediction == "open_loop":
            predicted, features, _ = self.predictor.unroll(first, actions)
            prediction = error(predicted)
        else:
            predicted, features = self.predictor(latents[:, :-1], actions)
            prediction = error(predicted)
            if s.rollout_weight:
                prediction = prediction + s.rollout_weight * error(self.predictor.unroll(first, actions)[0])
        zero = latents.new_zeros(())
        told = valid if clip.rewarded is None else valid * clip.rewarded.unsqueeze(1)
        reward = masked_mean(self.reward_head.loss(features, clip.rewards), told) if self.reward_head else zero
        ends = masked_mean(self.continue_head.loss(features, clip.terminated), told) if self.continue_head else zero
        regularization = self._regularization(latents, valid, directions) if s.regularize != "nothing" else zero
        seen = latents.detach().float()
        others = self.disagreement_head
        ensemble = None
        if (
            others is not None
        ):  # it learns from the first steps alone, which are drawn from all, for a fifth of the cost
            disagreeing = others.loss(seen[:, :1], clip.actions[:, :1], seen[:, 1:2])
            ensemble = masked_mean(disagreeing, valid[:, :1])
        total = prediction + s.regularizer_weight * regularization + s.reward_weight * reward + s.continue_weight * ends
        if ensemble is not None:
            total = total + ensemble
        return Losses(total, prediction, regularization, reward, ends, ensemble, seen)

    def _encodings(self, normal: Tensor) -> Tensor:
        """Return latents (B, T + 1, D) of normalised observations, with gradients where the losses have any for them.

        Targets without gradient, predicted open loop and without SIGReg, leave them to the first step alone.
        """
        s = self.settings
        plain = isinstance(self.encoder, MLPEncoder)  # which encodes each step for itself
        if not plain or s.target == "both" or s.regularize != "nothing" or s.prediction != "open_loop":
            latents: Tensor = self.encoder(normal)
            return latents
        # This one first: autocast keeps the weights that it has cast, with gradients or without.
        first = self.encoder(normal[:, :1])
        with torch.no_grad():
            later = self.encoder(normal[:, 1:])
        return torch.cat([first, later], 1)

    def _regularization(self, latents: Tensor, valid: Tensor, directions: Tensor) -> Tensor:
        seen = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)  # the first observation is always real
        subject = self.projector(latents) if self.projector else latents
        if not self.settings.regularize_mean:
            samples = self.ranks.total(seen.sum(0))  # (T + 1,); no clip may reach the last steps
            share = (seen / samples).nan_to_num().unsqueeze(-1)  # (B, T + 1, 1)
            subject = subject - self.ranks.total((share * subject).sum(0))
        statistic: Tensor = self.regularizer(subject.transpose(0, 1), directions, seen.T)
        return statistic

    def learn_among(self, ranks: Ranks) -> None:
        """Take whatever :meth:`forward` takes over a batch over the batches of ``ranks``, in training mode."""
        for module in self.modules():
            if isinstance(module, JEPA | SIGReg | BatchNorm):
                module.ranks = ranks

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
        shape = list(self.observation_shape)
        return {"observation_shape": shape, "action_dims": self.action_dims, "settings": self.settings.to_dict()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build an untrained model from :meth:`config`'s output."""
        settings = JEPASettings.from_dict(config["settings"])  # what they are too old to say is what is usual here
        return cls(tuple(map(int, config["observation_shape"])), int(config["action_dims"]), settings)
