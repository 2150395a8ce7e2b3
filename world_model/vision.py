"""Vision: a small transformer that encodes an image as one vector.

Images arrive as they are stored, uint8 with the channels last. The layers are those of a pre-norm Vision Transformer,
read out at its class token; a projection with batch normalisation follows, because the transformer ends in a LayerNorm,
which fixes the length of every vector and would fight a Gaussian regularizer.

Sources: ViT (arXiv 2010.11929); its place here, sizes and projection: LeWorldModel (arXiv 2603.19312).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import SettingsError
from ..core.parallel import ALONE
from ..core.settings import Range, Settings, Width
from .networks import RunningNormalizer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, by custom."""
LIGHTNESS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in how light a colour looks (ITU-R BT.601)."""
OUT_OF_PLACE = 0.5
"""Share of its squared distance to the mean image that remains, at most, of an image that is moved back."""
NORM_EPS = 1e-12
MOST_PATCHES = 4
"""Along each side of an image, where the settings are chosen for it."""


@dataclass(frozen=True)
class VisionSettings(Settings):
    """Settings of a vision encoder."""

    image_size: Annotated[int, Range(ge=8, le=1024)] = 64
    """Height and width of the images, in pixels."""
    patch_size: Annotated[int, Range(ge=1, le=1024)] = 16
    """Height and width of a patch; divides the size of the image."""
    width: Width = 128
    """Width of a token."""
    depth: Annotated[int, Range(ge=1, le=64)] = 4
    """Layers."""
    heads: Annotated[int, Range(ge=1, le=64)] = 4
    """Attention heads; divides the width."""
    hidden: Width = 512
    """Width of the layers' hidden layer."""
    projector_hidden: Width = 512
    """Width of the projection's hidden layer."""
    normalize: Literal["mean_image", "lightness", "imagenet"] = "mean_image"
    """What the encoder sees: how images differ from the mean of those that were seen, scaled to unit spread; the same
    of their lightness alone, as a share of its own mean, so that hues and the strength of the light make no difference;
    or images scaled by the statistics of ImageNet's channels, as in LeWorldModel."""
    steady: bool = False
    """Whether an image that is out of place as a whole, by up to an eighth of its side, because the camera was pushed,
    is moved back before it is encoded, to where it is most like the mean image. Images that are learned from are taken
    to be in place."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for whole, part in (("image_size", "patch_size"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise SettingsError(
                    f"VisionSettings.{part} = {getattr(self, part)} must divide {whole} = {getattr(self, whole)}."
                )
        if self.steady and self.normalize == "imagenet":
            raise SettingsError(
                "VisionSettings.steady = True needs a mean image to tell what is out of place: normalize = "
                "'mean_image' or 'lightness'."
            )

    @classmethod
    def fitting(cls, shape: tuple[int, ...]) -> Self:
        """Return settings for images of ``shape`` (height, width, 3), with at most 4 patches along each side.

        Raises:
            SettingsError: if the images are not square, or of a size that the encoder does not take.
        """
        height, width, _ = shape
        if height != width:
            raise SettingsError(
                f"Images must be square, not {height} x {width}; gymnasium.wrappers.ResizeObservation(env, (64, 64)) "
                "makes them so."
            )
        patches = max(count for count in range(1, MOST_PATCHES + 1) if height % count == 0)
        return cls(image_size=height, patch_size=height // patches)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, 3) of an image."""
        return self.image_size, self.image_size, 3


class ImageNetNormalizer(nn.Module):
    """Images (..., height, width, 3) of uint8, scaled by the statistics of ImageNet's channels, by custom."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION), persistent=False)

    def update(self, images: Tensor) -> None:
        """Do nothing: the statistics are given."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (..., height, width, 3) float32."""
        return (images.float() / 255 - self.mean) / self.deviation


class MeanImageNormalizer(RunningNormalizer):
    """Images (..., height, width, 3) of uint8, as what sets them apart from the mean of all that were seen.

    Their differences are scaled to unit spread in each channel, over all of its pixels. What stands still in front of
    a fixed camera is nothing then, and a small thing that moves is far from it; before, its place was lost in the
    walls, because patches with and without it were nearly the same.

    Args:
        image_shape: height, width and channels of what is compared.
        steady: see :class:`VisionSettings`.
    """

    def __init__(self, image_shape: tuple[int, int, int], steady: bool = False) -> None:
        super().__init__(*image_shape, limit=100.0, floor=0.5 / 255)  # half of the smallest difference that there is
        self.steady = steady

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Take ``images`` (B, height, width, 3) into the statistics, a few at a time: they are large in float64."""
        for some in images.split(256):
            super().update(self._measured(some))

    def variance(self) -> Tensor:
        """Return the variance of each channel (3,)."""
        return super().variance().mean((0, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return (..., height, width, 3) float32."""
        return super().forward(self._in_place(self._measured(images)))

    def _measured(self, images: Tensor) -> Tensor:
        """Return what is compared of ``images``, between 0 and about 1."""
        return images.float() / 255

    def _in_place(self, measured: Tensor) -> Tensor:
        """Return images (..., height, width, C), those that are out of place moved back, the edges drawn out."""
        if not self.steady or self.training:
            return measured
        images = measured.reshape(-1, *measured.shape[-3:])
        height, width = images.shape[1:3]
        reach = height // 8
        with torch.autocast(images.device.type, enabled=False):
            ours = images.permute(0, 3, 1, 2)
            mean = F.pad(self._center.permute(2, 0, 1).unsqueeze(0), [reach] * 4, mode="replicate")
            # Squared distances (B, K) to the mean image, seen through windows that are shifted down and to the right.
            alike = F.conv2d(mean, ours)[0].flatten(1)
            norm = F.conv2d(mean.square(), torch.ones_like(ours[:1]))[0].flatten(1)
            distance = ours.square().sum((1, 2, 3)).unsqueeze(1) - 2 * alike + norm
        at_rest = distance.shape[1] // 2
        least, shift = distance.min(1)
        shift = torch.where(least < OUT_OF_PLACE * distance[:, at_rest], shift, at_rest).view(-1, 1)
        down, right = shift // (2 * reach + 1) - reach, shift % (2 * reach + 1) - reach
        rows = (torch.arange(height, device=images.device) - down).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) - right).clamp(0, width - 1)
        here = torch.arange(len(images), device=images.device).view(-1, 1, 1)
        return images[here, rows.unsqueeze(2), columns.unsqueeze(1)].view(measured.shape)


class LightnessNormalizer(MeanImageNormalizer):
    """Images as :class:`MeanImageNormalizer` has them, but of their lightness alone, as a share of its own mean.

    How strong the light is and which hue things have makes no difference then. Nor do differences from the mean image
    that are no more than one level of 256, which rounding makes: all over an image they would add up. The three
    channels are equal.
    """

    weights: Tensor

    def __init__(self, image_shape: tuple[int, int, int], steady: bool = False) -> None:
        super().__init__((*image_shape[:2], 1), steady)
        self.register_buffer("weights", torch.tensor(LIGHTNESS), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return (..., height, width, 3) float32."""
        shares, level = self._shares(images)
        shares = self._in_place(shares)
        shares = torch.where((shares - self._center).abs() > level, shares, self._center)
        return RunningNormalizer.forward(self, shares).expand(images.shape)

    def _measured(self, images: Tensor) -> Tensor:
        return self._shares(images)[0]

    def _shares(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return lightness (..., height, width, 1) as a share of its mean, 1 at least of 255, and what a level is."""
        lightness = (images.float() * self.weights).sum(-1, keepdim=True)  # a product of matrices would be autocast
        mean = lightness.mean((-3, -2), keepdim=True).clamp(min=1)
        return lightness / mean, 1 / mean


def image_normalizer(settings: VisionSettings) -> ImageNetNormalizer | MeanImageNormalizer:
    """Return what the encoder of ``settings`` sees images through."""
    if settings.normalize == "imagenet":
        return ImageNetNormalizer()
    seen = LightnessNormalizer if settings.normalize == "lightness" else MeanImageNormalizer
    return seen(settings.image_shape, settings.steady)


class VisionEncoder(nn.Module):
    """Encodes normalised images (..., height, width, 3) into latents (..., D).

    Args:
        latent_dims: D.
        settings: see :class:`VisionSettings`.
    """

    def __init__(self, latent_dims: int, settings: VisionSettings | None = None) -> None:
        super().__init__()
        s = self.settings = settings or VisionSettings()
        patches = (s.image_size // s.patch_size) ** 2
        self.patch = nn.Linear(3 * s.patch_size**2, s.width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, s.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + patches, s.width))
        self.layers = nn.ModuleList(VisionLayer(s.width, s.heads, s.hidden) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width, eps=NORM_EPS)
        self.apply(_initialise)
        for table in (self.class_token, self.positions):
            nn.init.trunc_normal_(table, std=0.02)
        self.projector = Projector(s.width, s.projector_hidden, latent_dims)

    def forward(self, images: Tensor) -> Tensor:
        """Return latents (..., D)."""
        shape = images.shape[:-3]
        tokens = self.patch(self._patches(images.reshape(-1, *images.shape[-3:])))
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        *inner, last = self.layers
        for layer in inner:
            tokens = layer(tokens)
        latents: Tensor = self.projector(self.norm(last(tokens, class_only=True)[:, 0]))
        return latents.reshape(*shape, latents.shape[-1])

    def _patches(self, images: Tensor) -> Tensor:
        """Return patches (B, patches, 3 x patch_size^2), channel by channel, of ``images`` (B, height, width, 3)."""
        size = self.settings.patch_size
        side = self.settings.image_size // size
        grid = images.reshape(-1, side, size, side, size, 3)
        return grid.permute(0, 1, 3, 5, 2, 4).reshape(-1, side * side, 3 * size * size)


class VisionLayer(nn.Module):
    """One pre-norm layer: attention among all tokens, then a two-layer network on each."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_hidden = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, class_only: bool = False) -> Tensor:
        """Return tokens (B, n, width), or only the class token (B, 1, width), after seeing all."""
        q, k, v = self.qkv(self.norm_attention(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if class_only:
            q, tokens = q[:, :, :1], tokens[:, :1]
        tokens = tokens + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        return tokens + self.outer(F.gelu(self.inner(self.norm_hidden(tokens))))


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors (B, dims); where several processes learn together, over the batches of all.

    torch's own for several processes (SyncBatchNorm) has no implementation for CPUs.
    """

    ranks = ALONE

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors (B, dims)."""
        if not self.training or self.ranks.count == 1:
            return super().forward(vectors)
        values, count = vectors.float(), len(vectors) * self.ranks.count
        mean = self.ranks.total(values.sum(0)) / count
        centred = values - mean
        variance = self.ranks.total(centred.square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(vectors.dtype)


class Projector(nn.Module):
    """Linear, batch normalisation, GELU, Linear, on vectors (..., inputs) in any arrangement.

    While learning, the statistics are those of all vectors of the batch; afterwards the running ones.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = (
            nn.Linear(inputs, hidden),
            BatchNorm(hidden),
            nn.Linear(hidden, outputs),
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors (..., outputs)."""
        hidden = self.inner(vectors)
        normal = self.norm(hidden.flatten(0, -2)).view_as(hidden)
        projected: Tensor = self.outer(F.gelu(normal))
        return projected


def attend(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None, dropout: float = 0.0, causal: bool = False
) -> Tensor:
    """Return what queries (B, heads, n, dims) find, as torch's ``scaled_dot_product_attention`` does.

    On CPUs the fused one takes several times as long in half precision as its parts, forward and backward.
    """
    if k.shape[-2] == 1 and seen is None and not dropout:  # there is but one thing to find
        return v.expand(q.shape)
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, seen, dropout, causal)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = F.dropout(scores.softmax(-1).to(v.dtype), dropout)
    return weights @ v


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
