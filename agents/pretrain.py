"""Pretraining: a world model learns from a recorded store, and nothing acts.

The clips of the episodes that are learned from are gone through in random order, epoch after epoch; other episodes are
held out, and tell how well the model predicts what it has not seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import numpy as np
import torch

from ..core.checkpoints import Checkpoint
from ..core.errors import CheckpointError, DivergedError, SettingsError
from ..core.parallel import ALONE, Ranks
from ..core.seeding import derive_seed, numpy_generator, torch_generator
from ..core.settings import Range, Settings
from ..core.trees import flatten_tree, unflatten_tree
from ..envs import EpisodeStore
from ..world_model import (
    JEPA,
    ActionEncoder,
    ComputeSettings,
    JEPASettings,
    Learner,
    OptimizationSettings,
    measure_health,
    preset_for,
)
from .devices import choose_device, memory_explained

HELD_OUT_CLIPS = 256
"""Clips of held-out episodes on which the model is judged, always the same."""
STATISTICS_IMAGES = 4096
"""Of how many images, spread evenly over the store, the mean is taken, at most."""
KIND = "forethought.pretraining"


@dataclass(frozen=True)
class PretrainingSettings(Settings):
    """Settings of a :class:`Pretraining`."""

    model: JEPASettings = field(default_factory=JEPASettings)
    """The world model."""
    learner: OptimizationSettings = field(default_factory=OptimizationSettings)
    """How it is optimised."""
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    """How its updates are computed."""
    updates: Annotated[int, Range(ge=1, le=10**9)] = 10_000
    """Updates in all; the learning rate falls to zero over them, along a cosine."""
    warm_up: Annotated[float, Range(ge=0, lt=1)] = 0.01
    """Share of the updates over which the learning rate rises to its full height."""
    batch_size: Annotated[int, Range(ge=2, le=65_536)] = 128
    """Clips per update."""
    held_out: Annotated[float, Range(gt=0, lt=1)] = 0.05
    """Share of the episodes that are not learned from; at least one."""

    @classmethod
    def fitting(cls, observation_shape: tuple[int, ...], preset: str = "") -> Self:
        """Return how a world model by name, or the one that fits the observations, is learned where this runs.

        For "lewm", optimiser and batches are those of its paper, whose ten epochs are 57,000 updates of its two-room.

        Raises:
            UnknownNameError: there is no such preset.
            SettingsError: it takes other observations.
        """
        model = preset_for(observation_shape, preset)
        if model.vision is None:
            return cls(model=model)
        compute = ComputeSettings(precision="auto")
        if preset == "lewm":
            paper = OptimizationSettings(learning_rate=5e-5, weight_decay=1e-3, gradient_clip=1.0)
            return cls(model=model, learner=paper, compute=compute, updates=57_000)
        return cls(model=model, learner=OptimizationSettings(learning_rate=1e-3), compute=compute, updates=2_000)

    def pace(self, update: int) -> float:
        """Return the share of the full learning rate at ``update``, counted from 0."""
        rising = max(round(self.warm_up * self.updates), 1)
        if update < rising:
            return (update + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (update - rising) / max(self.updates - rising, 1)))


def take_statistics(model: JEPA, store: EpisodeStore, rows: np.ndarray) -> None:
    """Let ``model`` know how observations and actions are spread in the rows of ``store`` where ``rows`` (N,) holds."""
    data, seen = store.arrays(), np.flatnonzero(rows)
    if len(store.observation_shape) == 3 and len(seen) > STATISTICS_IMAGES:
        seen = seen[np.linspace(0, len(seen) - 1, STATISTICS_IMAGES).astype(np.int64)]
    model.normalizer.update(torch.from_numpy(data["observations"][seen]))
    encoder = model.predictor.action_encoder
    if isinstance(encoder, ActionEncoder):
        actions = torch.from_numpy(data["actions"][rows]).double()
        encoder.normalize(actions.mean(0).float(), actions.std(0, unbiased=False).float())


class Pretraining:
    """One world model learning from one store.

    Args:
        store: where the experience is; it is only read.
        settings: see :class:`PretrainingSettings`.
        seed: of everything random.
        device: where to compute: auto, cpu or cuda.
        ranks: the processes that learn together, from :func:`~forethought.core.parallel.joined`; all make and restore
            their own, alike. By default this one alone.

    Attributes:
        model: what learns.
        learned, held_out: numbers of the episodes that are learned from, and of those that are not.
        short: episodes from which no clip can be cut, because they are shorter than one.

    Raises:
        SettingsError: if too few episodes are long enough for a clip, a batch does not divide among the ranks, or
            they see different stores.
        LostRankError: another rank has failed, or is gone.
    """

    def __init__(
        self,
        store: EpisodeStore,
        settings: PretrainingSettings | None = None,
        seed: int = 0,
        device: str = "auto",
        ranks: Ranks = ALONE,
    ) -> None:
        s = self.settings = settings or PretrainingSettings()
        self.store, self.seed, self.device, self.ranks = store, seed, choose_device(device, ranks), ranks
        action_dims = store.action_dims * s.model.block
        with memory_explained("the world model", "model.hidden"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "weights"))
            self.model = JEPA(store.observation_shape, action_dims, s.model).to(self.device)
        self.learner = Learner(self.model, s.learner, s.compute, derive_seed(seed, "learner"), ranks)
        self.learned, self.held_out = self._split()
        self._starts = store.starts(self.model.clip_spec, self.learned)
        self._held_out = store.starts(self.model.clip_spec, self.held_out)
        if min(len(self._starts), len(self._held_out)) < 2:
            raise SettingsError(
                f"Too few clips of {s.model.unroll} x {s.model.block} steps: {len(self._starts)} to learn from and "
                f"{len(self._held_out)} held out, with held_out = {s.held_out:g}; of {store.episodes} episodes, "
                f"{self.short} are shorter than that. Two longer ones are the least, one for each part."
            )
        self._batch_size = min(s.batch_size, len(self._starts))
        if self._batch_size % ranks.count:
            raise SettingsError(
                f"A batch of {self._batch_size:,} clips does not divide among {ranks.count} processes: set batch_size "
                f"to a multiple of {ranks.count}, at most the {len(self._starts):,} clips to learn from."
            )
        self._take_statistics(self.learned)
        self._align()

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.learner.optimization.updates

    @property
    def finished(self) -> bool:
        """Whether all updates were taken."""
        return self.updates >= self.settings.updates

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return self.settings.learner.learning_rate * self.settings.pace(self.updates)

    @property
    def held_out_clips(self) -> int:
        """Clips on which :meth:`health` is measured."""
        return min(HELD_OUT_CLIPS, len(self._held_out))

    def _align(self) -> None:
        """Let all ranks go on from the weights and statistics of the first."""
        if not self.ranks.agree(len(self._starts), len(self._held_out), self.updates):
            raise SettingsError(
                "The processes that learn together see different stores or checkpoints: give them the same folders."
            )
        if self.ranks.count > 1:
            state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.ranks.copy_first(state.values())
            self.model.load_state_dict(state)

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the episodes to learn from and of those held out, among those that are long enough."""
        rows = self.store.starts(self.model.clip_spec)
        long = np.unique(self.store.arrays()["episode_of_row"][rows])
        self.short = self.store.episodes - len(long)
        shuffled = numpy_generator(self.seed, "split").permutation(long)
        count = max(math.ceil(self.settings.held_out * len(long)), 1)
        return np.sort(shuffled[count:]), np.sort(shuffled[:count])

    def _take_statistics(self, episodes: np.ndarray) -> None:
        """Let the model know how observations and actions are spread where it learns."""
        take_statistics(self.model, self.store, np.isin(self.store.arrays()["episode_of_row"], episodes))

    def learn(self) -> dict[str, torch.Tensor]:
        """Take one update, and return its losses, which are the same on every rank.

        Raises:
            DivergedError: a loss or gradient was not finite.
        """
        optimization = self.learner.optimization
        optimization.pace(self.settings.pace(self.updates))
        with memory_explained("an update", f"batch_size, which is {self.settings.batch_size:,}"):
            starts = self.ranks.share(self._batch(self.updates))
            clip = self.store.cut(starts, self.model.clip_spec).to(self.device)
            losses = self.learner.update(clip)
        if optimization.skipped:
            raise DivergedError(
                f"Update {self.updates:,} had a loss or gradient that is not finite. Learn with a smaller "
                "learner.learning_rate, or look for values in the store that are far too large."
            )
        return losses.metrics()

    def _batch(self, update: int) -> np.ndarray:
        """Return where the clips of ``update`` begin, for all ranks: a function of seed and update alone."""
        size, clips = self._batch_size, len(self._starts)
        batches = clips // size  # the clips that are left over are others in every epoch
        epoch, index = divmod(update, batches)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._order = epoch, numpy_generator(self.seed, "epoch", epoch).permutation(clips)
        return self._starts[self._order[index * size : (index + 1) * size]]

    def health(self) -> dict[str, float]:
        """Return how the model does on held-out episodes; see :func:`~forethought.world_model.measure_health`."""
        rng = numpy_generator(self.seed, "held out")
        chosen = np.sort(rng.choice(self._held_out, self.held_out_clips, replace=False))
        clip = self.store.cut(chosen, self.model.clip_spec).to(self.device)
        return measure_health(self.model, clip, torch_generator(self.seed, "health"))

    def checkpoint(self) -> Checkpoint:
        """Return everything that :meth:`restore` needs to go on, beside the store."""
        optimization, tensors = flatten_tree(self.learner.optimization.state())
        document = {"kind": KIND, "settings": self.settings.to_dict(), "seed": self.seed, "model": self.model.config()}
        parts = {"model": self.model.state_dict(), "learner": tensors}
        copies = {part: {name: value.clone() for name, value in group.items()} for part, group in parts.items()}
        return Checkpoint({"pretraining": document, "learner": optimization}, copies)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from :meth:`checkpoint`'s output, whatever the number of ranks then was.

        Raises:
            CheckpointError: it is of another model, or damaged.
        """
        try:
            self.model.load_state_dict(dict(checkpoint.tensors["model"]))
            state: Any = unflatten_tree(checkpoint.documents["learner"], dict(checkpoint.tensors["learner"]))
            self.learner.optimization.load_state(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"The checkpoint does not fit this model: {error}.") from error
        self._align()
