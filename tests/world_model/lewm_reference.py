"""LeWorldModel, written a second time, slowly and from its description alone, under the names of its released files.

Nothing here is shared with the package: layers are those of torch.nn, attention is spelled out, and a rollout predicts
from its whole window anew at every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class _Attention(nn.Module):
    """Self-attention of the encoder, its weights where transformers 4 keeps them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {"attention": nn.ModuleDict({part: nn.Linear(width, width) for part in ("query", "key", "value")})}
        )
        self.attention["output"] = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attention["attention"]
        q, k, v = (_by_head(parts[part](x), self.heads) for part in ("query", "key", "value"))
        return self.attention["output"]["dense"](_together(_attend(q, k, v)))


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _together(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ v


class _EncoderLayer(_Attention):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__(width, heads)
        self.layernorm_before, self.layernorm_after = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + super().forward(self.layernorm_before(x))
        hidden = self.intermediate["dense"](self.layernorm_after(x))
        return x + self.output["dense"](0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))


class _Encoder(nn.Module):
    def __init__(self, image: int, patch: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {"patch_embeddings": nn.ModuleDict({"projection": nn.Conv2d(3, width, patch, patch)})}
        )
        self.embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, width))
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(_EncoderLayer(width, heads, hidden) for _ in range(depth))}
        )
        self.layernorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token (B, width) of normalised images (B, 3, height, width)."""
        x = self.embeddings["patch_embeddings"]["projection"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.embeddings.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.embeddings.position_embeddings
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.layernorm(x)[:, 0]


class _Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def _projection(width: int, hidden: int) -> _Net:
    return _Net(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, width))


class _PredictorAttention(nn.Module):
    def __init__(self, width: int, heads: int, head_dims: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_dims, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dims, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_by_head(part, self.heads) for part in self.to_qkv(self.norm(x)).chunk(3, -1))
        return self.to_out(_together(_attend(q, k, v, causal=True)))


class _PredictorLayer(nn.Module):
    def __init__(self, width: int, heads: int, head_dims: int, hidden: int) -> None:
        super().__init__()
        self.attn = _PredictorAttention(width, heads, head_dims)
        self.mlp = _Net(
            *(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(hidden, width), nn.Dropout(0.1)),
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, -1)
        plain = nn.LayerNorm(x.shape[-1], eps=1e-6, elementwise_affine=False)
        x = x + gate_a * self.attn(plain(x) * (1 + scale_a) + shift_a)
        return x + gate_m * self.mlp(plain(x) * (1 + scale_m) + shift_m)


class _Predictor(nn.Module):
    def __init__(self, frames: int, width: int, depth: int, heads: int, head_dims: int, hidden: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, frames, width))
        layers = nn.ModuleList(_PredictorLayer(width, heads, head_dims, hidden) for _ in range(depth))
        self.transformer = nn.ModuleDict({"norm": nn.LayerNorm(width), "layers": layers})

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = x + self.pos_embedding[:, : x.shape[1]]
        for layer in self.transformer["layers"]:
            x = layer(x, c)
        return self.transformer["norm"](x)


class _ActionEncoder(nn.Module):
    def __init__(self, action_dims: int, width: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(action_dims, 10, 1)
        self.embed = nn.Sequential(nn.Linear(10, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, actions: Tensor) -> Tensor:
        return self.embed(self.patch_embed(actions.transpose(1, 2)).transpose(1, 2))


class ReferenceLeWM(nn.Module):
    """The whole model; sizes as in a release's ``config.json``."""

    def __init__(
        self,
        image: int = 224,
        patch: int = 14,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        action_dims: int = 10,
        frames: int = 3,
        predictor_depth: int = 6,
        predictor_heads: int = 16,
        head_dims: int = 64,
        hidden: int = 2048,
        projection: int = 2048,
    ) -> None:
        super().__init__()
        self.frames = frames
        self.encoder = _Encoder(image, patch, width, depth, heads, 4 * width)
        self.predictor = _Predictor(frames, width, predictor_depth, predictor_heads, head_dims, hidden)
        self.action_encoder = _ActionEncoder(action_dims, width)
        self.projector, self.pred_proj = _projection(width, projection), _projection(width, projection)

    def embed(self, images: Tensor) -> Tensor:
        """Return embeddings (B, T, width) of images (B, T, height, width, 3), uint8."""
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        normal = ((images / 255 - mean) / deviation).permute(0, 1, 4, 2, 3)
        return self.projector(self.encoder(normal.flatten(0, 1))).reshape(*images.shape[:2], -1)

    def predict(self, embeddings: Tensor, actions: Tensor) -> Tensor:
        """Return the embedding after each of at most ``frames`` steps, (B, T, width)."""
        read = self.predictor(embeddings, self.action_encoder(actions))
        return self.pred_proj(read.flatten(0, 1)).reshape(embeddings.shape)

    def roll_out(self, embeddings: Tensor, actions: Tensor) -> Tensor:
        """Return the embeddings (B, H, width) of a rollout.

        Args:
            embeddings: (B, T, width), those that were seen.
            actions: (B, T - 1 + H, A), those that were done between them and those that are to be imagined.
        """
        seen = embeddings.shape[1]
        for step in range(seen, actions.shape[1] + 1):
            first = max(step - self.frames, 0)
            following = self.predict(embeddings[:, first:], actions[:, first:step])[:, -1:]
            embeddings = torch.cat([embeddings, following], 1)
        return embeddings[:, seen:]
