"""The cost of loading: clips per second that a store gives, beside those that pretraining takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ..core.files import write_json
from ..core.provenance import describe_process
from ..core.seeding import numpy_generator
from ..core.settings import Range, Settings
from ..envs import EpisodeStore
from .pretraining import PretrainSettings, begin_training
from .settings import command_line
from .stage import limited_threads
from .statistics import Estimate, estimate, mean
from .tables import Table


@dataclass(frozen=True)
class LoadingSpeedSettings(Settings):
    """What is measured."""

    store: str
    """Folder of the store."""
    preset: str = ""
    """World model by name; by default the one that fits the store."""
    rounds: Annotated[int, Range(ge=2, le=100_000)] = 20
    """Rounds, in each of which as many clips are loaded as an update takes, and an update is made."""
    device: str = "auto"
    """Where to compute: auto, cpu or cuda."""


@dataclass(frozen=True)
class LoadingSpeed:
    """What :func:`measure_loading` found.

    Attributes:
        settings: what was measured.
        loaded: clips per second of time on the clock that one process loads.
        consumed: clips per second that one training process consumes, loading included.
        ratio: of the two, paired by round.
        batch: clips in an update.
        process: what it was measured on.
    """

    settings: LoadingSpeedSettings
    loaded: Estimate
    consumed: Estimate
    ratio: Estimate
    batch: int
    process: dict[str, Any]

    def table(self) -> Table:
        """Return the figures as text."""
        return Table(
            ("clips/s loaded", "clips/s consumed", "ratio"),
            [(str(self.loaded), str(self.consumed), str(self.ratio))],
            title=f"{self.settings.store}: loading beside pretraining",
            notes=(
                f"Mean over {self.settings.rounds} rounds, in which a batch of {self.batch} clips from everywhere in "
                "the store is loaded and another one learned from, with 95 % bootstrap intervals; one thread.",
            ),
        )

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, with the command and what it ran on."""
        figures = {name: getattr(self, name).to_dict() for name in ("loaded", "consumed", "ratio")}
        shared = {"command": command_line(), "process": self.process, "settings": self.settings.to_dict()}
        write_json(path, {**shared, "batch": self.batch, **figures})


def measure_loading(settings: LoadingSpeedSettings, on_round: Callable[[int], None] | None = None) -> LoadingSpeed:
    """Load clips and learn from clips, in turns.

    Args:
        settings: what is measured.
        on_round: called with the number of rounds made.

    Raises:
        ForethoughtError: for a store or preset that does not exist or does not fit.
    """
    with limited_threads(1):
        training = begin_training(PretrainSettings(settings.store, settings.preset, device=settings.device))
        spec, store = training.model.clip_spec, EpisodeStore.open(settings.store, read_only=True)
        starts, batch = store.starts(spec), training.settings.batch_size
        rng, seconds = numpy_generator(0, "loading"), []
        for number in range(settings.rounds + 1):
            chosen, began = rng.choice(starts, batch), time.perf_counter()
            store.cut(chosen, spec).to(training.device)
            between = time.perf_counter()
            training.learn()["total"].item()  # waits for the device
            seconds.append((between - began, time.perf_counter() - between))
            if on_round is not None:
                on_round(number)
        process = describe_process()
    loading, learning = batch / np.array(seconds[1:]).T  # the first ones warm up
    loaded, consumed, ratio = (estimate([values], mean) for values in (loading, learning, loading / learning))
    return LoadingSpeed(settings, loaded, consumed, ratio, batch, process)
