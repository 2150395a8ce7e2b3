"""Probes: what is read off frozen latents, in units.

A probe maps latents to physical quantities, differentiably, and knows how well it did on episodes that it was not
fitted to. An angle is read as its sine and cosine, two *coordinates*, so that nothing breaks where it turns.
"""

from __future__ import annotations

import copy
import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..core.errors import CheckpointError, DivergedError, SettingsError, UnknownNameError, did_you_mean
from ..core.files import damage_reported, load_archive, save_archive
from ..core.quantity import Quantity
from ..core.seeding import derive_seed, torch_generator
from ..core.settings import Range, Settings, Width
from .networks import mlp
from .optimization import Optimization, OptimizationSettings

KIND = "forethought.probes"
PENALTIES = tuple(10.0**power for power in range(-8, 2))
"""Of the squared weights in units of the samples' number, of which a ridge regression takes the best."""
CONSTANT_SHARE, CONSTANT = 1e-6, 1e-9
"""A spread below this share of the largest value, or below this in any unit, is rounding."""


@dataclass(frozen=True)
class ProbeSamples:
    """What a probe is fitted to, or judged by.

    Attributes:
        latents: (B, D).
        values: (B, Q), the quantities then; angles in radians.
    """

    latents: Tensor
    values: Tensor


class Probe(nn.Module):
    """Reads quantities (..., Q) off latents (..., D).

    Args:
        latent_dims: D.
        quantities: Q of them.

    Attributes:
        r: (Q,) correlation with the truth on held-out episodes; NaN for what is constant, or was not measured yet.
    """

    kind: ClassVar[str]
    r: Tensor
    _first: Tensor
    _second: Tensor
    _angle: Tensor
    center: Tensor
    scale: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, latent_dims: int, quantities: Sequence[Quantity]) -> None:
        super().__init__()
        if not quantities:
            raise SettingsError("A probe reads at least one quantity.")
        self.latent_dims, self.quantities = latent_dims, tuple(quantities)
        angles = torch.tensor([quantity.angle for quantity in self.quantities])
        width = 1 + angles.long()
        self.coordinates = int(width.sum())
        first = width.cumsum(0) - width
        self.register_buffer("_first", first, persistent=False)
        self.register_buffer("_second", (first + 1).clamp(max=self.coordinates - 1), persistent=False)
        self.register_buffer("_angle", angles, persistent=False)
        self.register_buffer("r", torch.full((len(self.quantities),), math.nan))
        for name, dims, value in (("center", latent_dims, 0.0), ("scale", latent_dims, 1.0)):
            self.register_buffer(name, torch.full((dims,), value))
        for name, value in (("offset", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((self.coordinates,), value))

    @abstractmethod
    def standard(self, latents: Tensor) -> Tensor:
        """Return coordinates (..., C) of mean 0 and spread 1 for latents (..., D) of mean 0 and spread 1."""

    def read_coordinates(self, latents: Tensor) -> Tensor:
        """Return (..., C): each quantity, or the sine and cosine of each angle, in the quantities' order."""
        return self.offset + self.spread * self.standard((latents - self.center) * self.scale)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the quantities (..., Q) in their units, angles in (-pi, pi], for latents (..., D)."""
        read = self.read_coordinates(latents)
        if self.coordinates == len(self.quantities):
            return read
        first, second = read[..., self._first], read[..., self._second]
        return torch.where(self._angle, torch.atan2(first, second), first)

    def coordinates_of(self, values: Tensor) -> Tensor:
        """Return the coordinates (..., C) that say the same as quantities (..., Q)."""
        parts = []
        for index, quantity in enumerate(self.quantities):
            value = values[..., index]
            parts += [value.sin(), value.cos()] if quantity.angle else [value]
        return torch.stack(parts, -1)

    def index(self, name: str) -> int:
        """Return the place of a quantity among those that are read.

        Raises:
            UnknownNameError: it is not read; the closest is named, and all that are.
        """
        names = [quantity.name for quantity in self.quantities]
        if name not in names:
            raise UnknownNameError(f"No quantity {name!r} is read off these latents.{did_you_mean(name, names)}")
        return names.index(name)

    @property
    def usual_spread(self) -> Tensor:
        """() the standard deviation of all quantities together where it was fitted; an angle's is that of its point."""
        return self.spread.square().sum().sqrt()

    def only(self, names: Sequence[str]) -> Probe:
        """Return a probe that reads just these quantities, in this order, and as well."""
        indices = [self.index(name) for name in names]
        kept = self._like([self.quantities[index] for index in indices])
        rows = [row for index in indices for row in self._rows(index)]
        kept.r, kept.center, kept.scale = self.r[indices], self.center.clone(), self.scale.clone()
        kept.offset, kept.spread = self.offset[rows], self.spread[rows]
        kept._take(self, rows)
        return kept.to(self.center.device).train(self.training)

    def _rows(self, index: int) -> range:
        first = int(self._first[index])
        return range(first, first + 1 + int(self.quantities[index].angle))

    @abstractmethod
    def _like(self, quantities: Sequence[Quantity]) -> Probe:
        """Return an unfitted probe of the same form that reads other quantities."""

    @abstractmethod
    def _take(self, other: Any, rows: Sequence[int]) -> None:
        """Take over what ``other`` learned of the coordinates in ``rows``."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return plain data of what this kind of probe is built with, beside latents and quantities."""

    def _standardize(self, samples: ProbeSamples) -> tuple[Tensor, Tensor]:
        """Take over the statistics of samples, and return their latents and coordinates, standardised, in float64."""
        self._require(samples, 2, "fitted to")
        latents, values = samples.latents.double(), samples.values.double()
        coordinates = self.coordinates_of(values)
        deviation = latents.std(0)
        scale = torch.where(deviation > CONSTANT_SHARE * latents.abs().amax(0), 1 / deviation, 0.0)
        spread = coordinates.std(0)
        least = (CONSTANT_SHARE * coordinates.abs().amax(0)).clamp(min=CONSTANT)
        spread = torch.where(spread > least, spread, 0.0)
        for buffer, value in ((self.center, latents.mean(0)), (self.scale, scale)):
            buffer.copy_(value)
        for buffer, value in ((self.offset, coordinates.mean(0)), (self.spread, spread)):
            buffer.copy_(value)
        return self._normal(ProbeSamples(latents, values))

    def _require(self, samples: ProbeSamples, least: int, use: str) -> None:
        latents, values = samples.latents, samples.values
        expected = (len(latents), self.latent_dims), (len(latents), len(self.quantities))
        if (latents.shape, values.shape) != expected or len(latents) < least:
            raise SettingsError(
                f"A probe of {self.latent_dims} latent dimensions for {len(self.quantities)} quantities is {use} at "
                f"least {least} samples of these, not latents {tuple(latents.shape)} and values {tuple(values.shape)}."
            )

    def _normal(self, samples: ProbeSamples) -> tuple[Tensor, Tensor]:
        """Return latents and coordinates in the units of :meth:`standard`; what is constant is 0."""
        self._require(samples, 1, "judged on")
        if not (samples.latents.isfinite().all() and samples.values.isfinite().all()):
            raise DivergedError("Some latents or quantities are not finite, so that no probe can be fitted to them.")
        spread = self.spread.double()
        coordinates = (self.coordinates_of(samples.values.double()) - self.offset.double()) / spread.clamp(min=1e-300)
        latents = (samples.latents.double() - self.center.double()) * self.scale.double()
        return latents, torch.where(spread > 0, coordinates, 0.0)


class LinearProbe(Probe):
    """Reads each coordinate by a linear map of the latents, fitted by ridge regression in closed form."""

    kind = "linear"
    weight: Tensor

    def __init__(self, latent_dims: int, quantities: Sequence[Quantity]) -> None:
        super().__init__(latent_dims, quantities)
        self.register_buffer("weight", torch.zeros(latent_dims, self.coordinates))

    def standard(self, latents: Tensor) -> Tensor:
        """Return coordinates (..., C); see :class:`Probe`."""
        return latents @ self.weight

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        fitting: ProbeSamples,
        validation: ProbeSamples,
        quantities: Sequence[Quantity],
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """Return the probe that reads ``quantities`` best.

        Args:
            fitting: latents and values; where they and the validation's are few, D may be more than B.
            validation: of other episodes; for each quantity, the penalty with the least squared error there is taken.
            quantities: what the values are.
            penalties: of the squared weights, in units of the samples' number; a single one is taken as it is.

        Raises:
            SettingsError: shapes that do not fit each other.
            DivergedError: samples that are not finite.
        """
        probe = cls(fitting.latents.shape[1], quantities)
        latents, wanted = probe._standardize(fitting)
        values, vectors = torch.linalg.eigh(latents.T @ latents / len(latents))
        turned = vectors.T @ (latents.T @ wanted) / len(latents)
        seen, true = probe._normal(validation)
        seen = seen @ vectors
        candidates = torch.stack([turned / (values.clamp(min=0) + penalty).unsqueeze(1) for penalty in penalties])
        errors = (seen @ candidates - true).square().mean(1)  # (penalties, C)
        chosen = torch.cat(
            [
                errors[:, rows].mean(1).argmin().expand(len(rows))
                for rows in (list(probe._rows(index)) for index in range(len(probe.quantities)))
            ]
        )
        best = candidates[chosen, :, torch.arange(probe.coordinates)].T
        probe.weight.copy_(vectors @ best)
        return probe.eval()

    def _like(self, quantities: Sequence[Quantity]) -> Probe:
        return LinearProbe(self.latent_dims, quantities)

    def _take(self, other: LinearProbe, rows: Sequence[int]) -> None:
        self.weight = other.weight[:, list(rows)]

    def config(self) -> dict[str, Any]:
        """Return plain data; see :class:`Probe`."""
        return {}


@dataclass(frozen=True)
class MLPProbeSettings(Settings):
    """Settings of an :class:`MLPProbe`."""

    hidden: Width = 128
    """Width of its two hidden layers."""
    updates: Annotated[int, Range(ge=1)] = 1500
    """Updates in all; the learning rate falls to zero along a cosine."""
    batch_size: Annotated[int, Range(ge=2)] = 256
    """Samples per update."""
    learner: OptimizationSettings = field(
        default_factory=lambda: OptimizationSettings(learning_rate=2e-3, weight_decay=1e-3)
    )
    """How it is optimised."""
    looks: Annotated[int, Range(ge=1)] = 15
    """How often it is judged on the validation samples while it learns, evenly spread; the best is kept."""


class MLPProbe(Probe):
    """Reads coordinates by a small network of two hidden layers.

    Args:
        latent_dims: D.
        quantities: Q of them.
        settings: see :class:`MLPProbeSettings`.
    """

    kind = "mlp"

    def __init__(
        self, latent_dims: int, quantities: Sequence[Quantity], settings: MLPProbeSettings | None = None
    ) -> None:
        super().__init__(latent_dims, quantities)
        self.settings = settings or MLPProbeSettings()
        self.layers = mlp(latent_dims, [self.settings.hidden] * 2, self.coordinates)

    def standard(self, latents: Tensor) -> Tensor:
        """Return coordinates (..., C); see :class:`Probe`."""
        read: Tensor = self.layers(latents)
        return read

    @classmethod
    def fit(
        cls,
        fitting: ProbeSamples,
        validation: ProbeSamples,
        quantities: Sequence[Quantity],
        settings: MLPProbeSettings | None = None,
        seed: int = 0,
    ) -> Self:
        """Return a probe that learned from samples; arguments and errors are those of :meth:`LinearProbe.fit`.

        Torch's global generator is left alone. The network is the best that was met on the validation samples.
        """
        s = settings or MLPProbeSettings()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "probe"))
            probe = cls(fitting.latents.shape[1], quantities, s)
        latents, wanted = (part.float() for part in probe._standardize(fitting))
        seen, true = (part.float() for part in probe._normal(validation))
        optimization = Optimization(probe.parameters(), s.learner, torch_generator(seed, "probe"))
        batch, least = min(s.batch_size, len(latents)), math.inf
        looks = {math.ceil(s.updates * look / s.looks) for look in range(1, s.looks + 1)}
        kept = copy.deepcopy(probe.layers.state_dict())
        for update in range(s.updates):
            optimization.pace(0.5 * (1 + math.cos(math.pi * update / s.updates)))
            drawn = torch.randint(len(latents), (batch,), generator=optimization.generator)
            optimization.step((probe.layers(latents[drawn]) - wanted[drawn]).square().mean())
            if update + 1 in looks:
                with torch.no_grad():
                    error = float((probe.layers(seen) - true).square().mean())
                if error < least:
                    least, kept = error, copy.deepcopy(probe.layers.state_dict())
        probe.layers.load_state_dict(kept)
        return probe.requires_grad_(False).eval()

    def _like(self, quantities: Sequence[Quantity]) -> Probe:
        with torch.random.fork_rng(devices=[]):  # weights that are overwritten take nothing from the user's stream
            return MLPProbe(self.latent_dims, quantities, self.settings).requires_grad_(False)

    def _take(self, other: MLPProbe, rows: Sequence[int]) -> None:
        state = other.layers.state_dict()
        last = list(state)[-2:]
        self.layers.load_state_dict(
            {name: value[list(rows)] if name in last else value for name, value in state.items()}
        )

    def config(self) -> dict[str, Any]:
        """Return plain data; see :class:`Probe`."""
        return {"settings": self.settings.to_dict()}


def save_probes(
    probes: Mapping[str, Probe], path: str | os.PathLike[str], source: Mapping[str, Any] | None = None
) -> Path:
    """Write probes by name as one archive of safetensors and JSON, and return the file.

    Args:
        probes: what is saved, on whichever device.
        path: the file, which is replaced at once; ``.zip`` is added where it is missing.
        source: what they were fitted to, as plain JSON data, for whoever loads them.

    Raises:
        WriteError: it could not be written; what stood in its place is unchanged.
    """
    described = {
        name: {
            "kind": probe.kind,
            "latent_dims": probe.latent_dims,
            "quantities": [vars(quantity) for quantity in probe.quantities],
            **probe.config(),
        }
        for name, probe in probes.items()
    }
    document = {"kind": KIND, "probes": described, "source": dict(source or {})}
    return save_archive(Path(path), {"probes": document}, {name: probe.state_dict() for name, probe in probes.items()})


def load_probes(path: str | os.PathLike[str]) -> tuple[dict[str, Probe], dict[str, Any]]:
    """Return the probes that :func:`save_probes` wrote, by name, on the CPU and frozen, and their source.

    Raises:
        CheckpointError: the file holds none, or is damaged.
    """
    path = Path(path)
    archive = load_archive(path)
    document = archive.documents.get("probes")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CheckpointError(f"{path} holds no probes.")
    with damage_reported(path), torch.random.fork_rng(devices=[]):
        probes: dict[str, Probe] = {}
        for name, described in document["probes"].items():
            quantities = [Quantity(**quantity) for quantity in described["quantities"]]
            dims = int(described["latent_dims"])
            probe: Probe
            if described["kind"] == LinearProbe.kind:
                probe = LinearProbe(dims, quantities)
            elif described["kind"] == MLPProbe.kind:
                probe = MLPProbe(dims, quantities, MLPProbeSettings.from_dict(described["settings"]))
            else:
                raise CheckpointError(f"{path} holds a probe of the unknown kind {described['kind']!r}.")
            probe.load_state_dict(archive.tensors[name])
            probes[name] = probe.requires_grad_(False).eval()
        source = dict(document["source"])
    return probes, source
