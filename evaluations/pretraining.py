"""pretrain: a world model learns from a store in one run folder, and goes on from there when it was stopped."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from ..agents.pretrain import Pretraining, PretrainingSettings
from ..agents.recordings import identity_of, seen_again
from ..core.checkpoints import Checkpoint
from ..core.errors import RunFolderError, WriteError
from ..core.parallel import ALONE, Ranks
from ..core.runs import Run, Status
from ..core.settings import Range, Settings, merged
from ..envs import EpisodeStore
from ..world_model import JEPA, collapse_alarm, load_model, save_model
from ..world_model.saving import MODEL_FILE as MODEL_FILE
from .clock import Clock
from .collect import read_source
from .milestones import PROGRESS_EVERY_S, DispensableWriter, Interruption, MetricsWriter, latest_losses
from .settings import Progress, TrainingResult
from .stage import limited_threads

KIND = "pretrain"
LOG_EVERY = 100
"""Updates over which losses are averaged for the log."""


@dataclass(frozen=True)
class PretrainSettings(Settings):
    """One world model learning from one store: everything that decides the result, and what a run's config holds."""

    store: str
    """Folder of the store (forethought collect or import makes one)."""
    model: str = ""
    """Preset of the world model; by default the one that fits the store's observations."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of everything random in training."""
    checkpoints: Annotated[int, Range(ge=1, le=10_000)] = 10
    """Checkpoints and measurements on held-out episodes, evenly spread over the run, the last at its end."""
    device: str = "auto"
    """Where to compute: auto, cpu or cuda."""
    threads: Annotated[int, Range(ge=1, le=1024)] = 1
    """Threads of torch."""
    training: dict[str, Any] = field(default_factory=dict)
    """The settings of the training that differ from the preset's; see :class:`PretrainingSettings`."""


def default_training(store: str | os.PathLike[str], model: str = "") -> PretrainingSettings:
    """Return the settings with which a preset, or the one that fits, learns from the store in ``store``.

    Raises:
        CheckpointError: there is no store.
        UnknownNameError: no such preset.
    """
    return PretrainingSettings.fitting(EpisodeStore.open(store, read_only=True).observation_shape, model)


def pretrain(
    settings: PretrainSettings,
    folder: str | os.PathLike[str],
    on_progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Learn a world model from the start.

    Ctrl-C or SIGTERM ends the training after the current update: everything is saved, and the result says
    "interrupted". :func:`resume_pretraining` goes on from there.

    Args:
        settings: what to learn from, and how.
        folder: run folder to make; see :class:`~forethought.core.runs.Run`.
        on_progress: called about twice a second.
        ranks: the processes that learn together, from :func:`~forethought.core.parallel.joined`, each of which calls
            this alike; the first alone measures, reports and writes. A signal to one of them stops all.

    Raises:
        ForethoughtError: for a store, preset or setting that does not exist or does not fit, and a folder that holds
            a run already.
    """
    with limited_threads(settings.threads):
        training = begin_training(settings, ranks)  # before the folder: what was misspelt leaves nothing behind
        if ranks.rank:
            return _follow(training, Path(folder))
        config = {**settings.to_dict(), "training": training.settings.to_dict()}
        with Run.create(folder, config, KIND) as run:
            return _Session(run, settings, training, on_progress).go()


def resume_pretraining(
    folder: str | os.PathLike[str],
    on_progress: Callable[[Progress], None] | None = None,
    ranks: Ranks = ALONE,
) -> TrainingResult:
    """Continue an interrupted run from its newest checkpoint, bit for bit on the CPU if with as many processes.

    Args:
        folder: of the run.
        on_progress: as for :func:`pretrain`.
        ranks: likewise; they need not be as many as before.

    Raises:
        RunFolderError: no such run, or one that is finished or in use.
        CheckpointError: no valid checkpoint, or the store has lost episodes that were learned from.
    """
    run = Run.open(folder)
    settings = pretrain_settings_of(run)
    if run.status == "finished":
        raise RunFolderError(
            f"{folder} is finished: it has taken all of its updates. The schedule of its learning has ended with them; "
            "more of them are those of a new pretraining."
        )
    with limited_threads(settings.threads):
        training = training_of(run, ranks)
        if ranks.rank:
            training.restore(run.latest_checkpoint())
            return _follow(training, run.folder)
        with run:
            return _Session(run, settings, training, on_progress, run.latest_checkpoint()).go()


def pretrain_settings_of(run: Run) -> PretrainSettings:
    """Return what a run was asked for.

    Raises:
        RunFolderError: it is not a pretraining run.
    """
    if run.manifest.get("kind") != KIND:
        raise RunFolderError(f"{run.folder} does not hold the run of a world model that learned from a store.")
    return PretrainSettings.from_dict(run.config)


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[JEPA, dict[str, Any]]:
    """Return the world model that a run saved, and what it learned from: task, and the arguments of its environment.

    Raises:
        RunFolderError: no such run, or one that has saved no model yet.
        CheckpointError: a damaged file.
    """
    run = Run.open(folder)
    pretrain_settings_of(run)
    if run.status != "finished":
        warnings.warn(f"{folder} is {run.status}: its world model has learned for part of its updates.", stacklevel=2)
    path = run.folder / MODEL_FILE
    if not path.exists():
        raise RunFolderError(f"{folder} holds no {MODEL_FILE} yet: the run is {run.status}; finish or resume it first.")
    return load_model(path)


def store_of(run: Run) -> EpisodeStore:
    """Return the store that a run learned from, with the episodes that were in it when the run began.

    Raises:
        RunFolderError: it is not a pretraining run, or the store is gone.
        CheckpointError: the store is damaged, or not the one that it was.
    """
    folder, identity = pretrain_settings_of(run).store, run.manifest.get("learned_from")
    if not os.path.isdir(folder):
        raise RunFolderError(
            f"The store that {run.folder} learned from is not there: {folder} (as seen from {os.getcwd()})."
        )
    return EpisodeStore.open(folder, read_only=True) if identity is None else seen_again(folder, identity)


def training_of(run: Run, ranks: Ranks = ALONE) -> Pretraining:
    """Return the training that a run made, before its first update; see :func:`store_of`."""
    return begin_training(pretrain_settings_of(run), ranks, store_of(run))


def begin_training(settings: PretrainSettings, ranks: Ranks = ALONE, store: EpisodeStore | None = None) -> Pretraining:
    """Return the training that ``settings`` ask for, before its first update; by default from all of their store.

    Raises:
        ForethoughtError: for a store, preset or setting that does not exist or does not fit.
    """
    store = EpisodeStore.open(settings.store, read_only=True) if store is None else store
    given = PretrainingSettings.fitting(store.observation_shape, settings.model).to_dict()
    asked = PretrainingSettings.from_dict(merged(given, settings.training))
    return Pretraining(store, asked, settings.seed, settings.device, ranks)


def _follow(training: Pretraining, folder: Path) -> TrainingResult:
    """Learn along with the first rank, whose run is in ``folder``."""
    interruption = Interruption()
    with interruption.listening():
        while (reason := _stop_asked(interruption, training.ranks)) is None and not training.finished:
            training.learn()
    training.ranks.wait()  # until everything is saved
    return TrainingResult(folder, _status(training, reason), training.updates, None, reason is not None)


def _stop_asked(interruption: Interruption, ranks: Ranks) -> str | None:
    """Return the signal that has asked one of the ranks to stop, if any."""
    number = ranks.largest(signal.Signals[interruption.requested] if interruption.requested else 0)
    return signal.Signals(number).name if number else None


def _status(training: Pretraining, reason: str | None) -> Status:
    return "interrupted" if reason and not training.finished else "finished"


class _Session:
    """One process's part of a run."""

    def __init__(
        self,
        run: Run,
        settings: PretrainSettings,
        training: Pretraining,
        on_progress: Callable[[Progress], None] | None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.run, self.settings, self.training = run, settings, training
        self._on_progress = on_progress or (lambda progress: None)
        self._interruption = Interruption()
        spent: dict[str, Any] = {}
        if checkpoint is not None:
            training.restore(checkpoint)
            spent = checkpoint.documents["run"]
            run.rewind_metrics(training.updates)
        run.note(
            device=str(training.device),
            ranks=training.ranks.count,
            episodes_too_short=training.short,
            learned_from=identity_of(training.store),
        )
        self._writer = MetricsWriter(run)
        board: KVWriter = DispensableWriter(TensorBoardOutputFormat(str(run.folder / "tensorboard")))
        self._logger = Logger(None, [board, self._writer])
        self._clock = Clock(spent.get("cpu_seconds", 0.0), spent.get("wall_seconds", 0.0))
        self._trail: deque[tuple[int, float]] = deque(maxlen=round(60 / PROGRESS_EVERY_S))
        self._losses: list[dict[str, Any]] = spent.get("losses", [])  # since they were logged last
        try:
            self._source = read_source(settings.store)
        except RunFolderError:
            self._source = {}  # a store that was not collected: the model does not know its task

    def go(self) -> TrainingResult:
        """Learn to the end or until interrupted."""
        training, updates = self.training, self.training.settings.updates
        count = self.settings.checkpoints
        milestones = {int(np.ceil(updates * part / count)) for part in range(1, count + 1)}
        reported = 0.0
        if training.short:
            warnings.warn(
                f"{training.short:,} of {training.store.episodes:,} episodes are too short for a clip and were left "
                "out.",
                stacklevel=4,
            )
        with self._interruption.listening():
            while (reason := _stop_asked(self._interruption, training.ranks)) is None and not training.finished:
                self._losses.append(training.learn())
                if training.updates % LOG_EVERY == 0 or training.updates in milestones:
                    self._log()
                if training.updates in milestones:
                    self._milestone()
                if time.perf_counter() - reported > PROGRESS_EVERY_S:
                    reported = time.perf_counter()
                    self._report("learning")
            if reason and training.updates not in milestones:
                self._save()
        self._report("learning")
        self._logger.close()
        status = _status(training, reason)
        self.run.set_status(status, f"{reason} at update {training.updates}" if status == "interrupted" else None)
        training.ranks.wait()
        return TrainingResult(self.run.folder, self.run.status, training.updates, None, bool(reason))

    def _log(self) -> None:
        for name in self._losses[0]:
            self._logger.record(f"train/{name}", float(np.mean([float(losses[name]) for losses in self._losses])))
        self._losses.clear()
        self._logger.record("train/learning_rate", self.training.learning_rate)
        self._logger.record("time/cpu_seconds", self._clock.cpu_seconds)
        self._logger.record("time/wall_seconds", self._clock.wall_seconds)
        self._logger.dump(self.training.updates)

    def _milestone(self) -> None:
        with self._clock.paused():
            self._report("measuring")
            health, clips = self.training.health(), self.training.held_out_clips
            alarm = collapse_alarm(health, clips)
            for name, value in {**health, "collapsed": float(alarm is not None)}.items():
                self._logger.record(f"health/{name}", value)
            self._logger.dump(self.training.updates)
            if alarm:
                warnings.warn(alarm, stacklevel=2)
            self._save()

    def _save(self) -> None:
        """Save the model and a checkpoint; what cannot be written leaves what was saved before, and stops the run."""
        updates = self.training.updates
        checkpoint = self.training.checkpoint()
        checkpoint.documents["run"] = {
            "cpu_seconds": self._clock.cpu_seconds,
            "wall_seconds": self._clock.wall_seconds,
            "losses": [{name: float(value) for name, value in losses.items()} for losses in self._losses],
        }
        try:
            save_model(self.training.model, self.run.folder / MODEL_FILE, self._source)
            self.run.save_checkpoint(updates, checkpoint)
        except WriteError as error:
            raise WriteError(
                f"{error} Update {updates:,} could not be saved, so training stopped; make room, and go on from the "
                "last checkpoint with --resume."
            ) from error

    def _report(self, activity: str) -> None:
        update = self.training.updates
        self._trail.append((update, self._clock.wall_seconds))
        (first, began), (last, now) = self._trail[0], self._trail[-1]
        pace = (last - first) / (now - began) if now > began else 0.0
        losses = latest_losses(self._writer.latest)
        self._on_progress(Progress(update, self.training.settings.updates, pace, None, losses, activity, unit="update"))
