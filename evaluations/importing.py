"""import: fill a store with recorded episodes of others, from which a world model can then be learned.

The episodes of a source are added whole, in their order, and never twice: importing it again goes on where the last
time ended, whatever ended it, because how many of them there are is told by the store itself.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import FaultyEpisodeError, SettingsError, WriteError
from ..core.files import as_json, write_json
from ..core.provenance import describe_process
from ..core.settings import Range, Settings
from ..envs import EpisodeStore, ObservationCodec, make_env
from ..envs.columns import read_header
from ..envs.source_reader import SourceReader
from ..envs.sources import Source, open_source
from ..envs.space_documents import describe_space
from .collect import FLUSH_EVERY_S, SOURCE_FILE, Collected, locked, read_source
from .milestones import Interruption


@dataclass(frozen=True)
class ImportSettings(Settings):
    """What is imported, and how it is understood."""

    source: str
    """HDF5 file in LeWorldModel's layout, Minari dataset (folder or id), or Lance table of stable-worldmodel."""
    observations: tuple[str, ...] = ()
    """Columns that make up an observation: one of images, or vectors; by default pixels, else all that was observed."""
    states: tuple[str, ...] = ()
    """Columns that make up the true state, which is kept beside the observations and never learned from."""
    size: Annotated[int, Range(ge=8, le=1024)] | None = None
    """Height and width to which images are brought, each new pixel an average over its area; by default their own."""
    episodes: Annotated[int, Range(ge=1)] | None = None
    """Most episodes to add; by default all that the source has."""
    action_bounds: tuple[float, float] | None = None
    """Bounds of all actions; by default those of the task, those that the source tells, or -1 and 1."""
    action_choices: Annotated[int, Range(ge=2, le=10**6)] | None = None
    """For discrete actions, counted from 0, of a source that does not tell: how many there are."""
    clip_actions: bool = False
    """Clip actions beyond the bounds instead of stopping there."""
    leave_out_faulty: bool = False
    """Leave out episodes that are damaged or not finite, and count them, instead of stopping there."""
    task: str = ""
    """Task that the episodes are of, for a later evaluation; its actions must be these, and its observations, too."""
    env: dict[str, Any] = field(default_factory=dict)
    """Arguments of the task's environment."""


def import_episodes(
    settings: ImportSettings, folder: str | os.PathLike[str], on_progress: Callable[[Collected], None] | None = None
) -> Collected:
    """Add the episodes of a source to the store in ``folder``, as far as they are not in it.

    Ctrl-C or SIGTERM ends the import after the current episode; what was imported stays. One episode at a time is
    held in memory. Episodes without a step are left out and counted.

    Args:
        settings: what to import.
        folder: of the store; made where there is none.
        on_progress: called after every episode.

    Raises:
        SettingsError: no such source or column, actions that do not fit their bounds, or a store of other episodes.
        UnsupportedSpaceError: images or actions of kinds that are not understood.
        MissingExtraError: the libraries for this kind of source are not installed.
        CheckpointError: the source is damaged, locked, or of another layout.
        FaultyEpisodeError: an episode is damaged or not finite; what was imported before stays.
        RunFolderError: the folder is in use, or its store is not one that was imported.
        WriteError: the disk is full; what was imported stays.
    """
    folder = Path(folder)
    with closing(open_source(settings.source)) as source:
        if not (source.lengths > 1).any():
            raise SettingsError(f"{source.path} holds no episode of two observations or more.")
        with closing(_reader(settings, source)) as reader:
            plan = _Plan(folder, settings, source, reader)  # before the folder: mistakes leave nothing behind
            _check_room(folder, source.lengths[plan.pending[: settings.episodes]] - 1, reader)
            if not plan.taken:
                reader.check_action_range()
            with locked(folder):
                plan = _Plan(folder, settings, source, reader)  # as it is, now that nobody else can add
                return _Import(folder, settings, source, reader, plan).run(on_progress)


def _reader(settings: ImportSettings, source: Source) -> SourceReader:
    env = make_env(settings.task, **settings.env) if settings.task else None
    try:
        space = _action_space(settings, source, None if env is None else env.action_space)
        columns = settings.observations, settings.states
        reader = SourceReader(source, *columns, settings.size, space, settings.clip_actions)
        if env is not None:
            shows, holds = ObservationCodec(env.observation_space).shape, reader.observation_shape
            if shows != holds:
                raise SettingsError(
                    f"{settings.task} shows observations of the shape {shows}, and those of {source.path} are {holds}: "
                    "bring images to size (--size), or give the environment other arguments (--set NAME=VALUE)."
                )
        return reader
    finally:
        if env is not None:
            env.close()


def _action_space(settings: ImportSettings, source: Source, of_task: gym.Space[Any] | None) -> gym.Space[Any]:
    if settings.action_choices is not None and settings.action_bounds is not None:
        raise SettingsError("Actions have bounds or are choices: give --action-bounds or --action-choices, not both.")
    if settings.action_choices is not None:
        return gym.spaces.Discrete(settings.action_choices)
    if settings.action_bounds is not None:
        low, high = settings.action_bounds
        if not low < high:
            raise SettingsError(f"The actions' lower bound, {low:g}, must lie below the upper one, {high:g}.")
        return gym.spaces.Box(low, high, source.action_shape, np.float64)
    told = of_task or source.action_space
    if told is None and source.action_dtype.kind in "biu":
        raise SettingsError(
            f"The actions of {source.path} are whole numbers. If they are choices, say how many there are "
            "(--action-choices 4), or of which task they are (--task NAME); else give their --action-bounds."
        )
    return told or gym.spaces.Box(-1.0, 1.0, source.action_shape, np.float64)


class _Plan:
    """What of a source is in a store, and what is to be added.

    Attributes:
        document: of the store, as ``source.json`` holds it.
        taken: numbers of the source's episodes that are in the store, in order.
        left_out: numbers of those that were left out because they are faulty.
        pending: numbers of the others, in order, without those that have no step.
    """

    def __init__(self, folder: Path, settings: ImportSettings, source: Source, reader: SourceReader) -> None:
        kind = {
            "task": settings.task or source.task,
            "env": settings.env,
            "observations": list(reader.observations),
            "states": list(settings.states),
            "actions": describe_space(reader.action_codec.space),
        }
        self.document: dict[str, Any] = {**kind, "parts": []}
        header = read_header(folder)
        if header is not None:
            self.document = read_source(folder)
            self._require_same(folder, kind, header, reader)
            if self.document["parts"]:  # what the store holds counts, whatever was written about it
                last = self.document["parts"][-1]
                last["episodes"] = header["episodes"] - last["first_episode"]
        parts = [part for part in self.document["parts"] if part["source"] == str(source.path)]
        self.left_out = {number for part in parts for number in part["left_out"]}
        whole = [number for number in np.flatnonzero(source.lengths > 1).tolist() if number not in self.left_out]
        self._stored = [part["first_episode"] + index for part in parts for index in range(part["episodes"])]
        self.taken, self.pending = whole[: len(self._stored)], whole[len(self._stored) :]

    def _require_same(self, folder: Path, kind: dict[str, Any], header: dict[str, Any], reader: SourceReader) -> None:
        if "drawn" in self.document:
            raise SettingsError(f"{folder} holds episodes that were collected: give another folder.")
        for name, value in kind.items():
            if self.document[name] != as_json(value):
                raise SettingsError(
                    f"{folder} holds episodes imported with {name} {self.document[name]}, not {value}: import with the "
                    "same options, or to another folder."
                )
        held = tuple(header["observation_shape"]), header["action_dims"], header["state_dims"]
        sizes = reader.observation_shape, reader.action_codec.dims, reader.state_dims
        if held != sizes:
            raise SettingsError(
                f"{folder} holds observations, actions and states of the sizes {held}, not {sizes}: import with the "
                "same options, or to another folder."
            )

    def check(self, store: EpisodeStore, source: Source) -> None:
        """Raise :class:`SettingsError` where the source's episodes are not those that were imported."""
        steps = np.bincount(store.arrays()["episode_of_row"], minlength=store.episodes)[self._stored]
        if not np.array_equal(steps, source.lengths[self.taken] - 1):
            raise SettingsError(
                f"{source.path} has changed since episodes of it were imported: import it anew, to another folder."
            )


def _check_room(folder: Path, steps: NDArray[np.int64], reader: SourceReader) -> None:
    """Raise :class:`WriteError` where the disk cannot hold episodes of so many steps."""
    observation = int(np.prod(reader.observation_shape)) * (1 if len(reader.observation_shape) == 3 else 4)
    step = observation + 4 * reader.action_codec.dims + 8 * reader.state_dims
    needed = step * int(steps.sum()) + observation * len(steps)
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise WriteError(
            f"These episodes take {needed / 1e9:,.1f} GB, and there are {free / 1e9:,.1f} GB left in {place}: take "
            "fewer (--episodes), or bring images to a smaller size (--size 64)."
        )


class _Import:
    """Adds what is pending to the store, bringing the files up to date on the way."""

    def __init__(
        self, folder: Path, settings: ImportSettings, source: Source, reader: SourceReader, plan: _Plan
    ) -> None:
        self._folder, self._settings, self._source, self._reader, self._plan = folder, settings, source, reader, plan
        write_json(folder / SOURCE_FILE, plan.document)  # first, so that no store is without
        dims = reader.action_codec.dims
        self._store = EpisodeStore(reader.observation_shape, dims, folder=folder, state_dims=reader.state_dims)
        plan.check(self._store, source)
        self._first, self._left_out = self._store.episodes, 0
        self._asked = min(settings.episodes or len(plan.pending), len(plan.pending))
        self._part: dict[str, Any] = {
            "source": str(source.path),
            "kind": source.kind,
            "size": settings.size,
            "first_episode": self._first,
            "episodes": 0,
            "left_out": [],
            "process": describe_process(),
        }
        if plan.pending:
            plan.document["parts"].append(self._part)
        self._interruption, self._began = Interruption(), time.perf_counter()

    @property
    def _added(self) -> int:
        return self._store.episodes - self._first

    def run(self, on_progress: Callable[[Collected], None] | None) -> Collected:
        """Add until as many as were asked for are in the store, or a stop is asked for."""
        flushed = time.perf_counter()
        numbers = iter(range(self._plan.taken[-1] + 1 if self._plan.taken else 0, len(self._source.lengths)))
        try:
            with self._interruption.listening():
                while self._added < self._asked and self._interruption.requested is None:
                    number = next(numbers, None)
                    if number is None:  # some were faulty
                        break
                    self._take(number)
                    if time.perf_counter() - flushed > FLUSH_EVERY_S:
                        flushed = time.perf_counter()
                        self._keep()
                    if on_progress is not None:
                        on_progress(self._standing())
        finally:
            self._keep()
        return self._standing()

    def _take(self, number: int) -> None:
        """Add an episode of the source, or leave it out."""
        if number in self._plan.left_out:
            return
        if self._source.lengths[number] < 2:
            self._left_out += 1
            return
        try:
            episode = self._reader.read(number)
        except FaultyEpisodeError as error:
            if not self._settings.leave_out_faulty:
                raise FaultyEpisodeError(f"{error} To go on without such episodes: --leave-out-faulty.") from error
            self._part["left_out"].append(number)
            self._left_out += 1
        else:
            self._store.add_episode(**vars(episode))

    def _standing(self) -> Collected:
        counts = self._added, self._left_out, self._asked, self._store.rows, self._store.episodes
        return Collected(self._folder, *counts, time.perf_counter() - self._began, self._interruption.requested)

    def _keep(self) -> None:
        """Bring everything on disk up to date."""
        self._part["episodes"] = self._added
        write_json(self._folder / SOURCE_FILE, self._plan.document)
        self._store.flush()
