"""Transformer: a predictor that looks back over the last few steps.

Each step is one token, a latent; the action that follows it modulates the layers (AdaLN-zero). Attention is causal,
so that one pass over a window gives the prediction after each of its steps.

Source: LeWorldModel (arXiv 2603.19312), its normalisations included: every layer first normalises without weights and
modulates, then normalises again with weights, so that of scale and shift only the direction has an effect. AdaLN-zero:
DiT (arXiv 2212.09748).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import SettingsError
from ..core.settings import Range, Settings, Width
from .state import LatentState, Past
from .vision import Projector, attend

KeysValues = tuple[Tensor, Tensor]
"""Of a layer's attention, each (M, heads, T, dims)."""
MODULATIONS = 6
"""Shift, scale and gate of the attention, and of the hidden layer."""
MODULATED_NORM_EPS = 1e-6
ROWS_AT_ONCE = 800
"""Rows of a rollout that processors take at a time where nothing is learned: more no longer fit into their caches."""


@dataclass(frozen=True)
class TransformerSettings(Settings):
    """Settings of a transformer predictor."""

    history: Annotated[int, Range(ge=1, le=64)] = 3
    """Steps that a prediction looks back over, the present one included."""
    depth: Annotated[int, Range(ge=1, le=64)] = 4
    """Layers."""
    heads: Annotated[int, Range(ge=1, le=64)] = 4
    """Attention heads."""
    head_dims: Width = 32
    """Width of a head."""
    hidden: Width = 512
    """Width of the layers' hidden layer."""
    projector_hidden: Width = 512
    """Width of the hidden layer of the projection into the latent space."""
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.1
    """Share of attention weights and activations that are dropped while learning."""
    action_smoothing: Width = 10
    """Width to which a step's actions are reduced before they are encoded."""
    action_expansion: Annotated[int, Range(ge=1, le=64)] = 4
    """Width of the action encoder's hidden layer, in latents."""


class ActionEncoder(nn.Module):
    """Encodes normalised actions (..., A) of one model step: reduced, then expanded, then as wide as a latent.

    Attributes:
        mean, deviation: (A,), of the actions that the model was trained on; what is encoded is (a - mean) / deviation.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, action_dims: int, reduced: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(action_dims, reduced)
        self.inner, self.outer = nn.Linear(reduced, hidden), nn.Linear(hidden, outputs)
        self.register_buffer("mean", torch.zeros(action_dims))
        self.register_buffer("deviation", torch.ones(action_dims))

    @torch.no_grad()
    def normalize(self, mean: Tensor, deviation: Tensor) -> None:
        """Adopt the statistics of the actions that are learned from.

        Args:
            mean: (A,), or that of one environment step, to be repeated for each in a model step.
            deviation: the same of the standard deviation; where it is 0, 1 takes its place.

        Raises:
            SettingsError: if they are not finite, or of another width.
        """
        for values, buffer in ((mean, self.mean), (deviation, self.deviation)):
            if values.dim() != 1 or not len(values) or len(buffer) % len(values) or not values.isfinite().all():
                raise SettingsError(
                    f"The statistics of {len(buffer)} action dimensions must be finite and of a width that divides "
                    f"that number, not {values}."
                )
        self.mean.copy_(mean.repeat(len(self.mean) // len(mean)))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0).repeat(len(self.deviation) // len(deviation)))

    def forward(self, actions: Tensor) -> Tensor:
        """Return (..., outputs)."""
        encoded: Tensor = self.outer(F.silu(self.inner(self.reduce((actions - self.mean) / self.deviation))))
        return encoded


class TransformerPredictor(nn.Module):
    """Predicts the next latent after each step of a window, and features (..., D) that heads read.

    Args:
        latent_dims: D.
        action_dims: A.
        settings: see :class:`TransformerSettings`.

    Attributes:
        history: steps W of the longest window.
        features: width of the features.
        action_encoder: actions (..., A) to what :meth:`forward` takes.
    """

    def __init__(self, latent_dims: int, action_dims: int, settings: TransformerSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or TransformerSettings()
        self.history, self.features = s.history, latent_dims
        self.action_encoder = ActionEncoder(
            action_dims, s.action_smoothing, s.action_expansion * latent_dims, latent_dims
        )
        self.positions = nn.Parameter(torch.randn(1, s.history, latent_dims))
        self.layers = nn.ModuleList(TransformerLayer(latent_dims, s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(latent_dims)
        self.projector = Projector(latent_dims, s.projector_hidden, latent_dims)

    def forward(self, latents: Tensor, encoded_actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents after each step and features, both (..., T, D).

        Args:
            latents: (..., T, D) of at most W steps in a row.
            encoded_actions: (..., T, D), the output of ``action_encoder`` for what was done in each.
        """
        shape = latents.shape
        tokens = latents.flatten(0, -3) + self.positions[:, : shape[-2]]
        features = self._transformed(tokens, encoded_actions.flatten(0, -3)).view(shape)
        return self.projector(features), features

    def unroll(self, state: LatentState, encoded_actions: Tensor) -> tuple[Tensor, Tensor, LatentState]:
        """Return the latents and features (..., H, D) of H steps, predicted open loop, and the last state.

        Args:
            state: with latents (..., D), or with ones where ``encoded_actions`` has an axis N of candidates.
            encoded_actions: (..., H, D).
        """
        *lead, steps, dims = encoded_actions.shape
        state = state.map(lambda tensor: tensor.expand(*lead, *tensor.shape[len(lead) :]).flatten(0, len(lead) - 1))
        encoded_actions = encoded_actions.reshape(-1, steps, dims)
        rows = len(encoded_actions)
        if rows <= ROWS_AT_ONCE or encoded_actions.is_cuda or self.training or torch.is_grad_enabled():
            rollout, features, state = self._unrolled(state, encoded_actions)
        else:
            groups = torch.arange(rows).tensor_split(-(-rows // ROWS_AT_ONCE))
            parts = [self._unrolled(state.select(group), encoded_actions[group]) for group in groups]
            rollouts, read, states = zip(*parts, strict=True)
            rollout, features, state = torch.cat(rollouts), torch.cat(read), LatentState.joined(states)
        last = state.map(lambda tensor: tensor.unflatten(0, lead))
        return rollout.unflatten(0, lead), features.unflatten(0, lead), last

    def _unrolled(self, state: LatentState, encoded_actions: Tensor) -> tuple[Tensor, Tensor, LatentState]:
        """Do what :meth:`unroll` does for M rows: latents (M, D), actions (M, H, D)."""
        remembered = _Remembered(self, encoded_actions) if state.past is None and not self.training else None
        rollout, read = [], []
        for encoded in encoded_actions.unbind(1):
            window = Past.of(state, encoded)
            features = self._newest(window) if remembered is None else remembered.newest(window)
            after = self.projector(features)
            rollout.append(after)
            read.append(features)
            state = LatentState(after, window.newest(self.history - 1))
        return torch.stack(rollout, 1), torch.stack(read, 1), state

    def _newest(self, window: Past) -> Tensor:
        """Return the features (M, D) after the newest step of ``window``, of M rows."""
        steps = window.latents.shape[1]
        if window.padding is None:
            return self._transformed(window.latents + self.positions[:, :steps], window.actions, newest=True)[:, 0]
        place, padding = torch.arange(steps, device=window.padding.device), window.padding.unsqueeze(1)
        real, earlier = (place >= padding).unsqueeze(1), place < place.unsqueeze(1)  # (M, 1, T), (T, T)
        seen = (real & earlier) | (place == place.unsqueeze(1))  # padding sees itself alone, so that it stays finite
        tokens = window.latents + self.positions[0, (place - padding).clamp(min=0)]
        return self._transformed(tokens, window.actions, seen.unsqueeze(1), newest=True)[:, 0]

    def _transformed(
        self, tokens: Tensor, encoded_actions: Tensor, seen: Tensor | None = None, newest: bool = False
    ) -> Tensor:
        """Return features (M, T, D), or (M, 1, D) of the newest step alone."""
        condition = F.silu(encoded_actions)
        *inner, last = self.layers
        for layer in inner:
            tokens = layer(tokens, condition, seen)
        return self.norm(last(tokens, condition, seen, newest))


class _Remembered:
    """Predicts step after step of one rollout, and computes nothing twice that stays as it was.

    What an action does to the layers is the same wherever it stands in the window, and is computed for all steps at
    once. As long as the window grows, the steps in it keep their positions, so that what the layers made of them
    remains; once it slides, it does not.

    Args:
        predictor: in evaluation mode; the rollout begins without a past.
        encoded_actions: (M, H, D), of all steps.
    """

    def __init__(self, predictor: TransformerPredictor, encoded_actions: Tensor) -> None:
        self._predictor = predictor
        condition = F.silu(encoded_actions)
        self._layers = [layer for layer in predictor.layers if isinstance(layer, TransformerLayer)]
        self._modulations = [layer.modulation(condition) for layer in self._layers]  # each (M, H, 6 D)
        self._keys_values: list[KeysValues | None] = [None] * len(self._layers)
        self._steps = 0

    def newest(self, window: Past) -> Tensor:
        """Return the features (M, D) after the newest step of ``window``, which has grown by a step, or slid by one."""
        predictor, self._steps = self._predictor, self._steps + 1
        length = window.latents.shape[1]
        slides = self._steps > length
        tokens = window.latents + predictor.positions[:, :length]
        now = slice(self._steps - length if slides else self._steps - 1, self._steps)
        if not slides:
            tokens = tokens[:, -1:]
        for index, layer in enumerate(self._layers):
            modulation = self._modulations[index][:, now]
            if slides:
                tokens, _ = layer.modulated(tokens, modulation, newest=index == len(self._layers) - 1)
            else:
                earlier = self._keys_values[index]
                tokens, self._keys_values[index] = layer.modulated(tokens, modulation, newest=True, earlier=earlier)
        features: Tensor = predictor.norm(tokens)[:, 0]
        return features


class TransformerLayer(nn.Module):
    """One layer: causal attention, then a two-layer network, each modulated and gated by the action."""

    def __init__(self, width: int, settings: TransformerSettings) -> None:
        super().__init__()
        s = settings
        self.heads, inner = s.heads, s.heads * s.head_dims
        self.modulation = nn.Linear(width, MODULATIONS * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm_attention, self.norm_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * inner, bias=False), nn.Linear(inner, width)
        self.inner, self.outer = nn.Linear(width, s.hidden), nn.Linear(s.hidden, width)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, tokens: Tensor, condition: Tensor, seen: Tensor | None = None, newest: bool = False) -> Tensor:
        """Return tokens (M, T, width), or only the newest (M, 1, width).

        Args:
            tokens: (M, T, width).
            condition: (M, T, width), the activated encodings of the actions.
            seen: (M, 1, T, T), where a step (rows) sees another (columns); by default itself and those before it.
            newest: whether only the newest is asked for.
        """
        return self.modulated(tokens, self.modulation(condition), seen, newest)[0]

    def modulated(
        self,
        tokens: Tensor,
        modulation: Tensor,
        seen: Tensor | None = None,
        newest: bool = False,
        earlier: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Return what :meth:`forward` does, and keys and values of all steps.

        Args:
            tokens: (M, T, width).
            modulation: (M, T, 6 x width), made of the condition.
            seen: see :meth:`forward`.
            newest: see :meth:`forward`.
            earlier: keys and values of steps before these, which are seen, too.
        """
        shift, scale, gate, shift_h, scale_h, gate_h = modulation.chunk(MODULATIONS, -1)
        normal = self.norm_attention(_modulated(tokens, shift, scale))
        if newest and tokens.shape[1] > 1:
            tokens, gate, shift_h, scale_h, gate_h = (part[:, -1:] for part in (tokens, gate, shift_h, scale_h, gate_h))
        attended, kept = self._attended(normal, seen, newest, earlier)
        tokens = torch.addcmul(tokens, gate, self.dropout(attended))
        hidden = self.inner(self.norm_hidden(_modulated(tokens, shift_h, scale_h)))
        return torch.addcmul(tokens, gate_h, self.dropout(self.outer(self.dropout(F.gelu(hidden))))), kept

    def _attended(
        self, tokens: Tensor, seen: Tensor | None, newest: bool, earlier: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        inner = self.qkv.out_features // 3
        if newest and tokens.shape[1] > 1:
            q = F.linear(tokens[:, -1:], self.qkv.weight[:inner])
            k, v = F.linear(tokens, self.qkv.weight[inner:]).chunk(2, -1)
        else:
            q, k, v = self.qkv(tokens).chunk(3, -1)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        if earlier is not None:
            k, v = torch.cat([earlier[0], k], 2), torch.cat([earlier[1], v], 2)
        if newest:  # it sees all that is not padding
            seen = None if seen is None else seen[:, :, -1:]
        dropout = self.dropout.p if self.training else 0.0
        found = attend(q, k, v, seen, dropout, causal=seen is None and not newest)
        projected: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return projected, (k, v)

    def _heads(self, values: Tensor) -> Tensor:
        """Return (M, heads, T, dims) of values (M, T, heads x dims)."""
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=MODULATED_NORM_EPS), 1 + scale)
