"""Fitting probes to a world model's latents, and judging them on other episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.quantity import Quantity
from ..core.seeding import derive_seed, numpy_generator
from ..world_model import JEPA, LinearProbe, MLPProbe, MLPProbeSettings, Probe, ProbeSamples
from .latent_grid import LatentGrid, Rows, goal_rank_correlation, imagined, straightness
from .probe_report import AHEAD, HISTORY, KINDS, LATENT, MEAN, OBSERVATION, UNTRAINED, Growth, Motion, Reading
from .probe_scores import score
from .statistics import Array, estimate, estimate_of_sums, mean

VALIDATION = 0.2
"""Share of the episodes to fit to by which penalties, and when to stop learning, are chosen."""
PICTURE = 16
"""Pixels along a side to which images are shrunk where raw observations are read."""
GOAL_WINDOW, GOALS = 25, 10
"""Model steps before a goal in which distance is compared with time, and goals per episode."""
LEAST_SAMPLES = 2
SOURCES = (LATENT, HISTORY, OBSERVATION, UNTRAINED)


@dataclass(frozen=True, eq=False)
class Part:
    """Episodes on the grid of model steps, with the values (M, Q) of the quantities there."""

    grid: LatentGrid
    values: Array


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Where probes are fitted, chosen between and judged: inputs (N, I), and the values (N, Q) to read off them."""

    fitting: ProbeSamples
    validation: ProbeSamples
    held_out: ProbeSamples
    episodes: Rows


class Probing:
    """Fits probes and judges them.

    Args:
        model: the world model.
        quantities: Q of them.
        fitting: episodes to fit to; every fifth, at least one, is kept for choosing.
        held_out: others, to judge with.
        counts: observations to fit to and to judge with, at most; half as many where latents are predicted.
        history: latents in a row that are read together.
        mlp: settings of the nonlinear probe.
        seed: of samples, probes and intervals.

    Attributes:
        probes: those of the present latent, by kind, once :meth:`read_now` has fitted them.
    """

    def __init__(
        self,
        model: JEPA,
        quantities: Sequence[Quantity],
        fitting: Part,
        held_out: Part,
        counts: tuple[int, int] = (5000, 2000),
        history: int = 3,
        mlp: MLPProbeSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.quantities, self.fitting, self.held_out = model, tuple(quantities), fitting, held_out
        self._counts, self._history, self._mlp, self._seed = counts, history, mlp, seed
        self._validation = validation_episodes(fitting.grid, seed)
        self.probes: dict[str, Probe] = {}
        self._fitted: dict[str, int] = {}  # to how many samples each of them

    @property
    def enough(self) -> bool:
        """Whether there is anything to fit to, to choose by and to judge with."""
        rows, held = self._rows("now", self._history - 1, 0)
        return self._splits(rows) and len(held) >= LEAST_SAMPLES

    # Reading the present.

    def read_now(self, kinds: Iterable[str] = KINDS, sources: Sequence[str] = SOURCES) -> list[Reading]:
        """Return how well the present is read off each source, all of them at the same samples."""
        before = self._history - 1
        rows, held = self._rows("now", before, 0)
        readings = []
        for source in sources:
            inputs = [self._inputs(source, part.grid) for part in (self.fitting, self.held_out)]
            sampled = self._sampled(inputs[0](rows), self.fitting.values[rows], rows, inputs[1](held), held, held)
            for kind in kinds:
                probe, reading = self._read(sampled, kind, source)
                readings.append(reading)
                if source == LATENT:
                    probe.r.copy_(torch.tensor([math.nan if s.r is None else s.r.value for s in reading.scores]))
                    self.probes[kind], self._fitted[kind] = probe, reading.fitted
        return readings

    def read_mean(self) -> Reading:
        """Return how well the mean of the samples that were fitted to does, an angle's being its mean direction."""
        rows, held = self._rows("now", self._history - 1, 0)
        constant = LinearProbe(1, self.quantities)
        points = constant.coordinates_of(torch.from_numpy(self.fitting.values[rows])).mean(0)
        constant.offset.copy_(points)
        read = constant(torch.zeros(len(held), 1)).numpy()
        scores = score(read, self.held_out.values[held], self.held_out.grid.episode[held], self.quantities, self._seed)
        return Reading(MEAN, None, None, scores, len(rows), len(held))

    def _inputs(self, source: str, grid: LatentGrid) -> Callable[[Rows], Tensor]:
        """Return what is read from ``source`` at rows."""
        if source == LATENT:
            return lambda rows: grid.latents[rows]
        if source == HISTORY:
            return lambda rows: grid.history(rows, self._history)
        if source == OBSERVATION:
            return lambda rows: _numbers(grid.observations[rows])
        latents = grid.encoded_by(untrained(self.model, self._seed)).latents
        return lambda rows: latents[rows]

    # Reading what is to come.

    def read_ahead(self, depth: int, kinds: Iterable[str] = KINDS) -> tuple[list[Reading], Growth] | None:
        """Return how well quantities ``depth`` model steps on are read off predicted latents, and how wrong these are.

        Probes are fitted to predicted latents; beside them stand the probes of the present latent, which planners use.
        Nothing where episodes are too short.
        """
        rows, held = self._rows(f"ahead {depth}", 0, depth, share=0.5)
        if min(len(rows), len(held)) < LEAST_SAMPLES or not self._splits(rows):
            return None
        predicted = [
            imagined(self.model, part.grid, chosen, depth)[:, depth - 1]
            for part, chosen in ((self.fitting, rows), (self.held_out, held))
        ]
        sampled = self._sampled(predicted[0], self.fitting.values[rows + depth], rows, predicted[1], held, held + depth)
        readings = [self._read(sampled, kind, AHEAD, depth)[1] for kind in kinds]
        for kind, probe in self.probes.items():
            readings.append(self._judge(probe, sampled, AHEAD, kind, depth, self._fitted[kind]))
        latents = self.held_out.grid.latents
        missed = (predicted[1] - latents[held + depth]).square().sum(1)
        moved = (latents[held] - latents[held + depth]).square().sum(1)
        _, episode = np.unique(self.held_out.grid.episode[held], return_inverse=True)
        sums = np.stack([np.bincount(episode, squares.double().numpy()) for squares in (missed, moved)], 1)
        dims = latents.shape[1] * len(held)
        with np.errstate(divide="ignore", invalid="ignore"):
            [relative] = estimate_of_sums(sums, lambda s: np.sqrt(s[..., :1] / s[..., 1:]), self._seed)
        return readings, Growth(depth, relative, *(math.sqrt(float(total) / dims) for total in sums.sum(0)))

    # How latents move.

    def motion(self) -> list[Motion]:
        """Return how straight paths are, and how well distance ranks time, of latents and what stands beside them."""
        grid, moved = self.held_out.grid, []
        for source in (LATENT, OBSERVATION, UNTRAINED):
            points = self._inputs(source, grid)(np.arange(len(grid)))
            measured = straightness(grid, points), goal_rank_correlation(grid, points, GOAL_WINDOW, GOALS, self._seed)
            estimates = [estimate([values], mean, self._seed) if len(values) else None for values in measured]
            moved.append(Motion(source, *estimates))
        return moved

    # Samples, and probes on them.

    def _rows(self, name: str, before: int, after: int, share: float = 1.0) -> tuple[Rows, Rows]:
        parts = zip(("fitting", "held out"), (self.fitting, self.held_out), self._counts, strict=True)
        fitting, held = (
            part.grid.sample(max(round(share * count), 1), numpy_generator(self._seed, name, which), before, after)
            for which, part, count in parts
        )
        return fitting, held

    def _chosen_by(self, rows: Rows) -> NDArray[np.bool_]:
        return np.isin(self.fitting.grid.episode[rows], self._validation)

    def _splits(self, rows: Rows) -> bool:
        """Whether there are samples to fit to and to choose by."""
        chosen = self._chosen_by(rows)
        return bool(chosen.any()) and int((~chosen).sum()) >= LEAST_SAMPLES

    def _sampled(
        self, inputs: Tensor, values: Array, rows: Rows, held_inputs: Tensor, held: Rows, targets: Rows
    ) -> _Sampled:
        chosen = torch.from_numpy(self._chosen_by(rows))
        wanted, judged = torch.from_numpy(values), torch.from_numpy(self.held_out.values[targets])
        return _Sampled(
            ProbeSamples(inputs[~chosen], wanted[~chosen]),
            ProbeSamples(inputs[chosen], wanted[chosen]),
            ProbeSamples(held_inputs, judged),
            self.held_out.grid.episode[held],
        )

    def _read(self, sampled: _Sampled, kind: str, source: str, depth: int | None = None) -> tuple[Probe, Reading]:
        probe: Probe
        if kind == LinearProbe.kind:
            probe = LinearProbe.fit(sampled.fitting, sampled.validation, self.quantities)
        else:
            probe = MLPProbe.fit(sampled.fitting, sampled.validation, self.quantities, self._mlp, self._seed)
        return probe, self._judge(probe, sampled, source, kind, depth)

    def _judge(
        self, probe: Probe, sampled: _Sampled, source: str, kind: str, depth: int | None, present: int | None = None
    ) -> Reading:
        """Judge a probe that was fitted to ``sampled``, or else to ``present`` samples of present latents."""
        with torch.no_grad():
            read = probe(sampled.held_out.latents.float()).numpy()
        scores = score(read, sampled.held_out.values.numpy(), sampled.episodes, self.quantities, self._seed)
        fitted = len(sampled.fitting.latents) + len(sampled.validation.latents) if present is None else present
        return Reading(source, depth, kind, scores, fitted, len(read), by_present=present is not None)


def validation_episodes(fitting: LatentGrid, seed: int) -> Rows:
    """Return the numbers of the episodes to choose by: every fifth, drawn at random, and at least one."""
    numbers = numpy_generator(seed, "validation").permutation(np.unique(fitting.episode))
    return numbers[: max(1, round(VALIDATION * len(numbers)))]


def untrained(model: JEPA, seed: int) -> JEPA:
    """Return a model of the same settings that has learned nothing but how observations are spread."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "untrained encoder"))
        fresh = type(model).from_config(model.config())
    fresh.normalizer.load_state_dict(model.normalizer.state_dict())
    return fresh.to(model.device).eval()


def _numbers(observations: NDArray[np.generic]) -> Tensor:
    """Return observations (N, I) as numbers; images are shrunk, because a map of all pixels has too many weights."""
    values = torch.from_numpy(observations).float()
    if values.dim() == 4:
        values = nn.functional.adaptive_avg_pool2d(values.movedim(-1, 1), min(PICTURE, *values.shape[1:3]))
    return values.flatten(1)
