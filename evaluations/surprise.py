"""surprise: who notices what is impossible, how surely and how soon, on the same episodes.

Detectors are fitted to nominal episodes, and their thresholds calibrated on others; false alarms are counted on fresh
ones. Each of these fresh ones is also played with every perturbation, from an onset that is drawn uniformly over those
steps of the nominal episode that have something before them and 10 model steps after them. What is found in a cell, a
perturbation at one strength, is written as soon as it is known, so that a benchmark that was broken off goes on there.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import EnvironmentFault
from ..core.files import as_json, read_json, write_json
from ..core.locks import FolderLock
from ..core.provenance import describe_process
from ..core.seeding import numpy_generator
from ..envs.perturbations import NominalScale, perturbation, perturbations_for
from ..envs.recording import RecordedEpisode
from ..world_model.surprise import alarm_starts, alarm_threshold
from .collect import players
from .detectors import Detector, Floats, ModelSteps
from .settings import command_line
from .stage import limited_threads
from .strengths import LEVELS, Strength, calibrate_strengths, levels_by_strength
from .subject import MOVED_WITHIN, Subject, load_subject
from .surprise_cells import CellPlan, NominalScores, judge_cell
from .surprise_settings import DETECTORS, SurpriseSettings, check_names, given_strengths
from .surprise_table import SurpriseTable

FOLDER = "surprise"
"""In the run's folder: the cells, one file each."""
RESULT_FILE = "surprise.json"
EXPECTED_FALSE_ALARMS = 30
"""Enough to compare their rate with the stated one."""
NOMINAL_AT_ONCE = 25
TIMED_CALLS = 30


@dataclass(frozen=True)
class Progress:
    """How a benchmark stands.

    Attributes:
        doing: in words.
        done, cells: cells that are known, and all of them.
    """

    doing: str
    done: int = 0
    cells: int = 0


def benchmark_surprise(
    folder: str | os.PathLike[str],
    settings: SurpriseSettings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SurpriseTable:
    """Let detectors judge nominal and perturbed episodes of a run's task, and write what they were worth into it.

    Args:
        folder: of a run that was trained or pretrained.
        settings: see :class:`SurpriseSettings`.
        on_progress: called as things are done.

    Returns:
        The table that is in the run's ``surprise.json``.

    Raises:
        RunFolderError: no such run, one that has saved nothing, or one whose benchmark another process is at.
        UnknownNameError: for a perturbation or detector that does not exist.
        SettingsError: a perturbation that the task cannot have, or too few nominal episodes.
        CheckpointError: a damaged file.
        WriteError: no room.
    """
    settings, tell = settings or SurpriseSettings(), on_progress or (lambda progress: None)
    subject = load_subject(folder, settings.acting, settings.policy)
    check_names(subject, settings)
    cells_folder = Path(folder) / FOLDER
    cells_folder.mkdir(exist_ok=True)
    lock = FolderLock(cells_folder)
    try:
        with limited_threads(1):
            return _Benchmark(subject, settings, cells_folder, tell).go()
    finally:
        lock.release()
        for used in (subject, *(ready for _, ready in _READY)):
            used.close()
        _READY.clear()


class _Benchmark:
    """One benchmark, from fitting to the table."""

    def __init__(
        self, subject: Subject, settings: SurpriseSettings, folder: Path, tell: Callable[[Progress], None]
    ) -> None:
        self._subject, self._settings, self._folder, self._tell = subject, settings, folder, tell
        shared = settings.to_dict()
        for apart in ("perturbations", "strengths", "jobs"):  # which have no influence on what is in a cell
            del shared[apart]
        self._fingerprint = {**shared, "run": subject.fingerprint, "versions": describe_process()["versions"]}

    def go(self) -> SurpriseTable:
        s, began = self._settings, time.perf_counter()
        self._tell(Progress("fitting detectors"))
        fit = self._episodes("fit", range(s.fit_episodes))
        if not fit:
            raise EnvironmentFault(f"{self._subject.task} gives values that are not finite in every nominal episode.")
        env = self._subject.make()
        scale = NominalScale.of(env, fit)
        env.close()
        detectors = [DETECTORS[name](self._subject, s.seed) for name in s.detectors]
        fitting = []
        for detector in detectors:
            start = time.perf_counter()
            detector.fit(fit)
            fitting.append(time.perf_counter() - start)
        costs = [_milliseconds(detector, fit[0], self._subject.block) for detector in detectors]
        state = _State(self._subject.folder, s, detectors, scale)
        with players(s.jobs, functools.partial(_prepare, state)) as submit:
            calibration = self._nominal(submit, "calibration", s.calibration_episodes)
            thresholds = {name: alarm_threshold(calibration.scores[name], s.false_alarms).level for name in s.detectors}
            fresh = self._nominal(submit, "fresh", self._fresh_count(fit))
            plans, strengths = self._plans(submit)
            cells = self._cells(submit, plans, fresh, thresholds)
        random = list(self._random())
        table = SurpriseTable(
            task=self._subject.task,
            acting=self._subject.acting,
            settings=s.to_dict(),
            block=self._subject.block,
            nominal={
                name: {
                    "threshold": thresholds[name],
                    "false_alarms": sum(_alarms(some, thresholds[name]) for some in fresh.scores[name]),
                    "steps": sum(map(len, fresh.scores[name])),
                    "fit_seconds": seconds,
                    "ms_per_step": cost,
                }
                for name, seconds, cost in zip(s.detectors, fitting, costs, strict=True)
            },
            nominal_return=float(np.mean([value for value in fresh.returns if value is not None])),
            random_return=float(np.mean(random)) if random else None,
            cells=cells,
            strengths={name: [found.to_dict() for found in some] for name, some in strengths.items()},
        )
        made = {"command": command_line(), "process": describe_process(), "seconds": time.perf_counter() - began}
        path = self._subject.folder / RESULT_FILE
        _set_aside(path, s.to_dict())
        write_json(path, {**made, **table.to_dict()})
        return table

    def _random(self) -> Iterator[float]:
        seeds = self._subject.seeds("fresh", self._settings.seed, range(10))
        for watched in self._subject.watch(*seeds, self._settings.steps, random=True):
            if watched is not None:
                yield float(watched.episode.rewards.sum())

    def _episodes(self, role: str, indices: range) -> list[RecordedEpisode]:
        seeds = self._subject.seeds(role, self._settings.seed, indices)
        return [watched.episode for watched in self._subject.watch(*seeds, self._settings.steps) if watched is not None]

    def _fresh_count(self, fit: Sequence[RecordedEpisode]) -> int:
        s = self._settings
        if s.fresh_episodes is not None:
            return max(s.fresh_episodes, s.episodes)
        steps = np.mean(ModelSteps.of(fit, self._subject.block).lengths)
        return max(s.episodes, int(np.ceil(1000 * EXPECTED_FALSE_ALARMS / s.false_alarms / steps)))

    def _nominal(self, submit: Callable[..., Future[Any]], role: str, count: int) -> NominalScores:
        chunks = [range(start, min(start + NOMINAL_AT_ONCE, count)) for start in range(0, count, NOMINAL_AT_ONCE)]
        whole = NominalScores({name: [] for name in self._settings.detectors}, [], [])
        for number, future in enumerate([submit(_judge_nominal, role, chunk) for chunk in chunks]):
            self._tell(Progress(f"playing {role} episodes, {number * NOMINAL_AT_ONCE} of {count}"))
            whole.extend(future.result())
        return whole

    def _plans(self, submit: Callable[..., Future[Any]]) -> tuple[list[CellPlan], dict[str, list[Strength]]]:
        """Return the cells to fill; where strengths are calibrated, also what their search found."""
        s, env = self._settings, self._subject.make()
        names = s.perturbations or tuple(perturbations_for(env))
        kinds = {name: perturbation(name, env) for name in names}
        env.close()
        if s.strengths == "standard":
            return [CellPlan(name, kind.standard) for name, kind in kinds.items()], {}
        if s.strengths != "calibrated":
            return [CellPlan(name, strength) for name in names for strength in given_strengths(s.strengths)], {}
        plans: list[CellPlan] = []
        found: dict[str, list[Strength]] = {}
        pending = {name: submit(_find_strengths, name, self._folder, self._fingerprint) for name in names}
        for number, (name, future) in enumerate(pending.items()):
            self._tell(Progress(f"searching strengths of {name}, {number + 1} of {len(names)}"))
            found[name] = [Strength(**strength) for strength in future.result()]
            plans += [CellPlan(name, strength, level) for strength, level in levels_by_strength(found[name]).items()]
        return plans, found

    def _cells(
        self,
        submit: Callable[..., Future[Any]],
        plans: Sequence[CellPlan],
        fresh: NominalScores,
        thresholds: dict[str, float],
    ) -> list[dict[str, Any]]:
        self._tell(Progress("judging", 0, len(plans)))
        count = self._settings.episodes
        twins = list(zip(fresh.lengths[:count], fresh.returns[:count], strict=True))
        known: dict[str, dict[str, Any]] = {}
        pending: dict[str, Future[Any]] = {}
        for plan in plans:
            path = self._folder / f"{plan.key}.json"
            saved = read_json(path) if path.exists() else {}
            if saved.get("of") == self._fingerprint:
                known[plan.key] = {**saved["cell"], "level": plan.level}
            elif plan.key not in pending:
                arguments = plan, twins, fresh.scores, thresholds, path, self._fingerprint
                pending[plan.key] = submit(_judge_cell, *arguments)
        for plan in plans:
            if plan.key in pending:
                known[plan.key] = pending[plan.key].result()
            self._tell(Progress(f"judged {plan.name}", len(known), len(plans)))
        return [known[plan.key] for plan in plans]


def _set_aside(path: Path, settings: dict[str, Any]) -> None:
    """Give the result in ``path`` another name, if it was measured by other settings than these."""
    before = read_json(path).get("settings") if path.exists() else None
    if before is None or {**before, "jobs": 0} == {**as_json(settings), "jobs": 0}:
        return
    aside = next(
        name for number in itertools.count(1) if not (name := path.with_stem(f"{path.stem}_{number}")).exists()
    )
    path.rename(aside)
    warnings.warn(f"What {path.name} held was measured by other settings, and is in {aside.name} now.", stacklevel=2)


@dataclass(frozen=True, eq=False)
class _State:
    """What a process that plays and judges needs."""

    folder: Path
    settings: SurpriseSettings
    detectors: Sequence[Detector]
    scale: NominalScale


_READY: list[tuple[_State, Subject]] = []
"""What this process works with."""


def _prepare(state: _State) -> None:
    torch.set_num_threads(1)
    _READY[:] = [(state, load_subject(state.folder, state.settings.acting, state.settings.policy))]


def _judge_nominal(role: str, indices: range) -> NominalScores:
    [(state, subject)] = _READY
    seeds = subject.seeds(role, state.settings.seed, indices)
    watched = subject.watch(*seeds, state.settings.steps)
    episodes = [None if played is None else played.episode for played in watched]
    return NominalScores.of(state.detectors, episodes)


def _find_strengths(name: str, folder: Path, fingerprint: dict[str, Any]) -> list[dict[str, Any]]:
    [(state, subject)] = _READY
    path = folder / f"strengths-{name}.json"
    saved = read_json(path) if path.exists() else {}
    if saved.get("of") != fingerprint:
        s = state.settings
        found = calibrate_strengths(subject, name, state.scale, LEVELS, steps=s.steps, seed=s.seed)
        saved = {"of": fingerprint, "strengths": [strength.to_dict() for strength in found]}
        write_json(path, saved)
    return list(saved["strengths"])


def _judge_cell(
    plan: CellPlan,
    twins: Sequence[tuple[int, float | None]],
    nominal: dict[str, list[Floats]],
    thresholds: dict[str, float],
    path: Path,
    fingerprint: dict[str, Any],
) -> dict[str, Any]:
    """Fill a cell; ``twins`` are lengths and returns of the same episodes without perturbation."""
    [(state, subject)] = _READY
    s = state.settings
    worlds, acting = subject.seeds("fresh", s.seed, range(len(twins)))
    onsets = {world: _onset(world, length, subject.block) for world, (length, _) in zip(worlds, twins, strict=True)}
    env = subject.make()
    kind = perturbation(plan.name, env)
    env.close()
    watched = subject.watch(
        worlds,
        acting,
        s.steps,
        lambda env: kind(env, plan.strength, onsets.__getitem__, scale=state.scale),
        state.scale,
    )
    returns = [earned for _, earned in twins]
    cell = judge_cell(plan, kind, state.detectors, watched, returns, nominal, thresholds, subject.block)
    write_json(path, {"of": fingerprint, "cell": cell})
    return cell


def _onset(seed: int, length: int, block: int) -> int:
    """Return an environment step, uniform over those of an episode that have a model step before and 10 after them."""
    first, last = block, length - MOVED_WITHIN * block
    if last <= first:
        first, last = 0, max(length, 1)
    return int(numpy_generator(seed, "onset").integers(first, last))


def _milliseconds(detector: Detector, episode: RecordedEpisode, block: int) -> float:
    """Return the median wall time of scoring a single step of a single episode."""
    step = RecordedEpisode(
        episode.observations[: block + 1], episode.actions[:block], episode.rewards[:block], False, True, None
    )
    times = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        detector.scores([step])
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def _alarms(scores: Floats, threshold: float) -> int:
    return int(alarm_starts(scores > threshold).sum())
