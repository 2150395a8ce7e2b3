"""collect: record episodes of a task into a store, from which a world model can then be learned.

Every episode is a function of the seed and its number in the store, however many processes play at a time, and the
store is added to in that order: recording again, or going on after an interruption, never repeats an episode.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault, RunFolderError, SettingsError
from ..core.files import as_json, read_json, write_json
from ..core.locks import FolderLock
from ..core.provenance import describe_process
from ..core.seeding import derive_seed
from ..core.settings import Range, Settings
from ..envs import EpisodeStore, make_env
from ..envs.columns import read_header
from ..envs.experts import ExpertPolicy, RandomPolicy
from ..envs.recording import RecordedEpisode, Recorder, RecordingPolicy
from ..envs.store import SOURCE_FILE as SOURCE_FILE
from .episodes import check_spaces, stack_observations
from .milestones import Interruption
from .training import load_trained

AT_ONCE = 8
"""Episodes that one process plays at a time."""
FLUSH_EVERY_S = 5.0
LONGEST = 10_000
"""Steps after which an episode is cut where nothing else ends it."""


@dataclass(frozen=True)
class CollectSettings(Settings):
    """What is recorded."""

    task: str
    """Task by name, any Gymnasium id, or module:Name-v0."""
    policy: str = "random"
    """Who acts: random, expert (where the task has one), or the run folder of a trained agent."""
    episodes: Annotated[int, Range(ge=1, le=10**9)] = 100
    """Episodes to add."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of the episodes and of who acts in them."""
    jobs: Annotated[int, Range(ge=1, le=1024)] | None = None
    """Processes that play; by default one per core."""
    max_steps: Annotated[int, Range(ge=1)] | None = None
    """Steps after which an episode is cut, beside the task's own limit."""
    env: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment."""


@dataclass(frozen=True)
class Collected:
    """What a recording or an import left behind, or how it stands.

    Attributes:
        folder: of the store.
        added: episodes added.
        left_out: episodes left out, because something in them was not finite; or, imported, damaged or without a step.
        asked: episodes that were asked for.
        rows: steps in the store.
        episodes: episodes in the store.
        seconds: wall time so far.
        interrupted: the signal that ended it before its time, or nothing.
    """

    folder: Path
    added: int
    left_out: int
    asked: int
    rows: int
    episodes: int
    seconds: float
    interrupted: str | None = None


def collect(
    settings: CollectSettings, folder: str | os.PathLike[str], on_progress: Callable[[Collected], None] | None = None
) -> Collected:
    """Record episodes and add them to the store in ``folder``.

    Ctrl-C or SIGTERM ends the recording; what was recorded stays.

    Args:
        settings: what to record.
        folder: of the store; made where there is none.
        on_progress: called after every episode.

    Raises:
        UnknownNameError: for a task that does not exist, and an expert where the task has none.
        SettingsError: for a store of another task, or of other observations or actions.
        EnvironmentFault: an environment fails; what was recorded stays.
        RunFolderError: the folder is in use, or its store is not one that was collected.
        WriteError: the disk is full; what was recorded stays.
    """
    folder = Path(folder)
    recorder = _recorder(settings)
    [probe] = recorder.record(
        recording_policy(settings.task, settings.policy), [0], [0]
    )  # before the folder: a misspelt name leaves nothing behind
    with locked(folder):
        store = _open(folder, settings, recorder, probe)
        recorder.close()
        source = _take_up(folder, settings, store)
        began, flushed, left_out = time.perf_counter(), time.perf_counter(), 0
        first = store.episodes
        interruption = Interruption()

        def standing() -> Collected:
            counts = store.episodes - first, left_out, settings.episodes, store.rows, store.episodes
            return Collected(folder, *counts, time.perf_counter() - began, interruption.requested)

        try:
            with interruption.listening():
                for episode in _episodes(settings, source["drawn"], interruption):
                    source["drawn"] += 1
                    if episode is None:
                        left_out += 1
                    else:
                        store.add_episode(**vars(episode))
                    if time.perf_counter() - flushed > FLUSH_EVERY_S:
                        flushed = time.perf_counter()
                        _keep(folder, store, source, settings, first)
                    if on_progress is not None:
                        on_progress(standing())
        finally:
            _keep(folder, store, source, settings, first)
    return standing()


def read_source(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a collected store is of: task, env (its arguments), drawn (episodes played so far), and parts.

    Raises:
        RunFolderError: there is no such folder, or the store in it was not collected.
    """
    path = Path(folder) / SOURCE_FILE
    if not path.parent.is_dir():
        raise RunFolderError(f"There is no folder {path.parent}, seen from {Path.cwd()}.")
    if not path.exists():
        raise RunFolderError(f"{folder} does not say what task its episodes are of: it has no {SOURCE_FILE}.")
    source: dict[str, Any] = read_json(path)
    return source


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder of a store, and keep others from writing to it inside the block.

    Raises:
        RunFolderError: it is in use, cannot be made, or is that of a run.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"Could not make the folder {folder}: {error.strerror}.") from error
    if (folder / "config.json").exists():
        raise RunFolderError(f"{folder} is the folder of a run; give the store another one.")
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path, settings: CollectSettings, recorder: Recorder, probe: RecordedEpisode | None) -> EpisodeStore:
    """Open the store for what ``recorder`` records, or make it."""
    if probe is None:
        raise EnvironmentFault(f"{settings.task} gives values that are not finite in the very first episode.")
    states = 0 if probe.states is None else probe.states.shape[1]
    shape, dims = recorder.observation_codec.shape, recorder.action_codec.dims
    header = read_header(folder)
    if header is not None:
        source = read_source(folder)
        if "drawn" not in source:
            raise SettingsError(f"{folder} holds episodes that were imported: give another folder.")
        if (source["task"], source["env"]) != (settings.task, as_json(settings.env)):
            raise SettingsError(
                f"{folder} holds episodes of {source['task']} with the arguments {source['env']}, "
                f"not of {settings.task} with {settings.env}: give another folder."
            )
        found = tuple(header["observation_shape"]), header["action_dims"], header["state_dims"]
        if found != (shape, dims, states):
            raise SettingsError(
                f"{folder} holds observations, actions and states of the sizes {found}, not {(shape, dims, states)}: "
                "give the environment the same arguments, or another folder."
            )
    return EpisodeStore(shape, dims, folder=folder, state_dims=states)


def _take_up(folder: Path, settings: CollectSettings, store: EpisodeStore) -> dict[str, Any]:
    if (folder / SOURCE_FILE).exists():
        return read_source(folder)
    if store.episodes:
        raise RunFolderError(f"{folder} holds episodes, but not what task they are of: give another folder.")
    source = {"task": settings.task, "env": settings.env, "drawn": 0, "parts": []}
    write_json(folder / SOURCE_FILE, source)
    return source


def _keep(folder: Path, store: EpisodeStore, source: dict[str, Any], settings: CollectSettings, first: int) -> None:
    """Bring everything on disk up to date: first what was played, so that a kill in between repeats no episode."""
    part = {
        **{name: getattr(settings, name) for name in ("policy", "seed", "max_steps")},
        "first_episode": first,
        "episodes": store.episodes - first,
        "process": describe_process(),
    }
    write_json(folder / SOURCE_FILE, {**source, "parts": [*source["parts"], *([part] if part["episodes"] else [])]})
    store.flush()


def _episodes(settings: CollectSettings, first: int, interruption: Interruption) -> Iterator[RecordedEpisode | None]:
    """Yield the episodes from number ``first`` on, in order, until enough are sound or a stop is asked for."""
    sound, next_number = 0, first
    jobs = settings.jobs or os.cpu_count() or 1
    with players(jobs) as submit:
        pending: list[Future[list[RecordedEpisode | None]]] = []
        while sound < settings.episodes and interruption.requested is None:
            missing = settings.episodes - sound - AT_ONCE * len(pending)
            while missing > 0 and len(pending) < 2 * jobs:
                count = min(AT_ONCE, missing)
                pending.append(submit(_play, settings, range(next_number, next_number + count)))
                next_number, missing = next_number + count, missing - count
            for episode in pending.pop(0).result():
                sound += episode is not None
                yield episode
                if sound == settings.episodes:
                    return
            if next_number - first > 10 * (sound + AT_ONCE * 10):
                raise EnvironmentFault(
                    f"Of {next_number - first} episodes of {settings.task}, only {sound} had no values that are not "
                    "finite: forethought doctor tells what is wrong with it."
                )


@contextmanager
def players(jobs: int, prepare: Callable[[], None] | None = None) -> Iterator[Callable[..., Future[Any]]]:
    """Yield what submits work to so many processes, or for one job does it here.

    Args:
        jobs: processes.
        prepare: called in each of them first; it must be such as can be sent there.

    Raises:
        EnvironmentFault: a process has died.
    """
    if jobs == 1:
        if prepare is not None:
            prepare()

        def here(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(function(*arguments))
            return done

        yield here
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin_player, initargs=(prepare,))
    try:
        yield pool.submit
    except BrokenProcessPool as error:
        raise EnvironmentFault("A process that played episodes has died; what was recorded before stays.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_player(prepare: Callable[[], None] | None) -> None:
    """Leave signals to the process that waits for this one, end with it, and get ready."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


_PLAYERS: dict[str, tuple[Recorder, RecordingPolicy]] = {}
"""Kept between batches: building environments, and loading an agent, takes longer than playing."""


def _play(settings: CollectSettings, numbers: range) -> list[RecordedEpisode | None]:
    key = repr(settings)
    if key not in _PLAYERS:
        import torch

        torch.set_num_threads(1)
        _PLAYERS.clear()
        _PLAYERS[key] = _recorder(settings), recording_policy(settings.task, settings.policy)
    recorder, policy = _PLAYERS[key]
    worlds = [derive_seed(settings.seed, "recorded episode", number) % 2**31 for number in numbers]
    acting = [derive_seed(settings.seed, "recording policy", number) for number in numbers]
    return recorder.record(policy, worlds, acting)


def _recorder(settings: CollectSettings) -> Recorder:
    def make() -> Any:
        return make_env(settings.task, **settings.env)

    return Recorder(make, settings.max_steps or LONGEST)


def recording_policy(task: str, name: str) -> RecordingPolicy:
    """Return who acts in ``task``: chance, the task's expert, or the trained agent in the run folder ``name``.

    Raises:
        UnknownNameError: an expert where the task has none.
        SettingsError: there is no such run folder.
    """
    if name == "random":
        return RandomPolicy()
    if name == "expert":
        return ExpertPolicy(task)
    if not Path(name).is_dir():
        raise SettingsError(f"policy = {name!r} is neither 'random' nor 'expert', nor the folder of a run.")
    return AgentPolicy(load_trained(name)[0])


class AgentPolicy:
    """A trained agent that acts, by default as in training, explorations apart: not deterministically."""

    def __init__(self, agent: Any, deterministic: bool = False) -> None:
        self._agent, self._deterministic = agent, deterministic

    def begin(self, env: Any, seeds: Sequence[int]) -> None:
        """Take up the seeds."""
        check_spaces(self._agent, env)
        self._running = np.arange(len(seeds))
        self._start = True
        self._state = self._agent.initial_state(list(seeds)) if hasattr(self._agent, "initial_state") else None

    def act(
        self, observations: Sequence[Any], infos: Sequence[Mapping[str, Any]], running: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return native actions (R, ...)."""
        if len(running) < len(self._running):
            if self._state is not None:
                self._state = self._state.select(np.searchsorted(self._running, running))
            self._running = running
        starts = np.full(len(running), self._start)
        batch = stack_observations(observations)
        actions, self._state = self._agent.predict(batch, self._state, starts, deterministic=self._deterministic)
        self._start = False
        return np.asarray(actions)
