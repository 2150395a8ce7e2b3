"""Results: run folders read back as learning curves, with whatever speaks against believing them."""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..agents.registry import agents
from ..core.errors import CheckpointError, ForethoughtError, RunFolderError, SettingsError
from ..core.files import damage_reported, read_json
from ..core.runs import Run, Status
from ..core.settings import completed, merged
from .promises import Promises
from .settings import TrainSettings, settings_of

Array = NDArray[np.float64]

CHANGED = " and changes"
"""Follows a commit where there was more than that."""
PLANNERS_FILE = "planners.json"
"""In a run's folder, how its agent acts by several planners, where that was asked for after training."""


@dataclass(frozen=True, eq=False)
class Swapped:
    """One agent acting by one planner on the held-out episodes.

    Attributes:
        returns: (E,), NaN for an episode that was cut as faulty.
        decision_ms: wall time per decision, all episodes decided at once.
        rows: evaluated and differentiated per decision; ``None`` where that was not noted.
        promises: what its plans promised and kept; ``None`` where nothing is known of that.
        effort: by what settings of its own the agent plans and, where it was not judged while learning, evaluations a
            decision that were allowed, and planned steps, if the agent's own were not.
    """

    returns: Array
    decision_ms: float
    rows: tuple[int, int] | None = None
    promises: Promises | None = None
    effort: tuple[Any, ...] = ()

    def is_like(self, other: Swapped) -> bool:
        """Whether both acted with the same effort, and in as many episodes."""
        return (self.effort, len(self.returns)) == (other.effort, len(other.returns))

    @classmethod
    def read(cls, record: Mapping[str, Any], effort: tuple[Any, ...]) -> Swapped:
        """Return what a run logged."""
        returns = _column([{"return": value} for value in record["returns"]], "return")
        return cls._of(returns, record["decision_ms"], record, effort)

    @classmethod
    def of_row(cls, record: Mapping[str, Any], effort: tuple[Any, ...]) -> Swapped:
        """Return what a planner table holds, in which a cut episode still has what it returned until then."""
        found = record["evaluation"]
        returns = np.where(np.asarray(found["faulty"], np.bool_), np.nan, np.asarray(found["returns"], np.float64))
        return cls._of(returns, found["decision_ms"], record, effort)

    @classmethod
    def _of(cls, returns: Array, decision_ms: float, record: Mapping[str, Any], effort: tuple[Any, ...]) -> Swapped:
        rows = (int(record["budget"]), int(record["gradients"])) if "budget" in record else None
        kept = record.get("promises")
        return cls(returns, float(decision_ms), rows, Promises.from_dict(kept) if kept else None, effort)


@dataclass(frozen=True, eq=False)
class RunResult:
    """One run: P evaluations of one agent that learned one task from one seed.

    Attributes:
        folder: where it lives.
        settings: what it was asked for.
        status, reason: how it ended, and why if not well.
        manifest: what it ran on.
        steps: (P,) environment steps taken at each evaluation.
        returns: (P,) mean return over the sound held-out episodes; NaN where no episode was sound.
        policy_returns: (P,) of the bare actor beside a planning agent; ``None`` for other agents.
        cpu_seconds, wall_seconds: (P,) training time until then, evaluations not counted.
        memory_mb: (P,) megabytes that the process held beyond the agent's experience; NaN where they were not logged.
        swapped: by step and planner, how the agent was judged by each planner in turn, while it learned or, where
            nothing is known of that step, afterwards, in the same set of held-out episodes.
        health: by figure, what the checks of the latents found that were logged, for agents that check theirs, and by
            "step" when.
        cut: (P,) held-out episodes that were cut as faulty.
        random_return: mean return of acting at random on the same episodes; ``None`` if it was not measured.
        whole: whether that is all there is of it, and not what was known at some step on the way.
    """

    folder: Path
    settings: TrainSettings
    status: Status
    reason: str | None
    manifest: dict[str, Any]
    steps: Array
    returns: Array
    policy_returns: Array | None
    cpu_seconds: Array
    wall_seconds: Array
    memory_mb: Array
    swapped: Mapping[int, Mapping[str, Swapped]]
    health: Mapping[str, Array]
    cut: Array
    random_return: float | None
    whole: bool = True

    def until(self, steps: int) -> RunResult:
        """Return what was known of the run once it had taken ``steps`` steps, finished if it was evaluated then.

        What an agent was judged by later is left out, and so are evaluations beyond; settings are those of a run that
        was to end there, if that is one of its evaluations.
        """
        kept = self.steps <= steps
        if not len(self.steps) or self.steps[-1] < steps:
            return self  # it has not come so far
        known = {
            name: getattr(self, name)[kept]
            for name in ("steps", "returns", "cpu_seconds", "wall_seconds", "memory_mb", "policy_returns", "cut")
            if getattr(self, name) is not None
        }
        checks = self.health["step"] <= steps if "step" in self.health else None
        evaluations = sum(step <= steps for step in self.settings.milestones)
        asked = self.settings.beginning(steps, evaluations) if evaluations else None
        finished = steps in self.steps
        return replace(
            self,
            settings=asked or self.settings,
            status="finished" if finished else self.status,
            reason=None if finished else self.reason,
            swapped={step: judged for step, judged in self.swapped.items() if step <= steps},
            health={name: values[checks] for name, values in self.health.items()},
            whole=bool(kept.all()),
            **known,
        )

    @property
    def faults(self) -> int:
        """Held-out episodes that were cut as faulty, in all evaluations together."""
        return int(self.cut.sum())

    @property
    def agent_settings(self) -> dict[str, Any]:
        """All settings that the agent worked with; see :func:`noted_settings`."""
        return noted_settings(self.settings, self.manifest)

    @property
    def variant(self) -> str:
        """What tells agents apart beside the seed, as text that sorts.

        That is what they are called, their settings, and, where they were not given a name of their own, what they knew
        before they began.
        """
        return json.dumps([self.settings.name, self.agent_settings | self._began_from], sort_keys=True)

    @property
    def asked(self) -> dict[str, Any]:
        """The settings that were asked for, without the defaults, and what the agent knew; see :attr:`variant`."""
        return self.settings.agent_settings | self._began_from

    @property
    def _began_from(self) -> dict[str, str]:
        sources = () if self.settings.label else ("store", "world_model")
        return {name: Path(folder).name for name in sources if (folder := getattr(self.settings, name))}

    @property
    def conditions(self) -> dict[str, frozenset[str]]:
        """Versions of libraries, processor and device that the run has seen, by name, as far as it has noted them."""
        starts: list[dict[str, Any]] = self.manifest.get("starts", [])
        known = [start.get("versions", {}) | {"processor": start.get("processor")} for start in starts]
        known.append({"device": self.manifest.get("device")})
        return {
            name: frozenset(str(found) for one in known if (found := one.get(name)) is not None)
            for name in sorted({name for one in known for name in one})
        }

    @property
    def commits(self) -> frozenset[str]:
        """Commits of Forethought that the run has seen, shortened, as far as it was run from a clone."""
        noted = [git for start in self.manifest.get("starts", []) if (git := start.get("git"))]
        return frozenset(f"{git['commit'][:7]}{CHANGED if git['modified'] else ''}" for git in noted)

    @property
    def name(self) -> str:
        """How notes call the run."""
        return f"{self.settings.name} on {self.settings.task}, seed {self.settings.seed}"


def noted_settings(settings: TrainSettings, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings that a run's agent worked with, defaults included where the run has noted them.

    Settings that the run is too old to know are what they were before they could be set, as when such a run goes on,
    as far as one value can say it: otherwise each new setting would make another agent of all that were measured
    before. Nobody else's module is imported for it: an agent called ``module:name`` that nothing has imported yet has
    what was noted, unless it is one of this package.

    Args:
        settings: what was asked for.
        manifest: of the run.
    """
    noted: dict[str, Any] = manifest.get("agent_settings", settings.agent_settings)
    module, _, name = settings.agent.rpartition(":")
    if module.startswith(f"{__package__}."):
        with suppress(ModuleNotFoundError):  # it was another version's
            importlib.import_module(module)
    known = getattr(agents.get(name), "Settings", None) if name in agents else None
    if "agent_settings" not in manifest or known is None or not isinstance(noted, Mapping):
        return noted
    try:
        filled = merged(known().to_dict(), completed(known, noted))
        return dict(known.from_dict(filled).to_dict())
    except SettingsError:  # settings that there are no more
        return filled
    except TypeError:  # somebody's settings without defaults
        return noted


def read_run(folder: str | os.PathLike[str]) -> RunResult:
    """Read one run folder; the run may still be going on.

    Raises:
        RunFolderError: no run, or one that was not made by :func:`~.training.train`.
        CheckpointError: what it logged are not its returns.
    """
    run = Run.open(folder)
    settings = settings_of(run)
    rows = run.read_metrics()
    judged = list({row["step"]: row for row in rows if "evaluation/returns" in row}.values())  # the last of each step
    checks = [row for row in rows if "health/spread_mean" in row]
    random = next((row["reference/random_returns"] for row in rows if "reference/random_returns" in row), None)
    plans = bool(judged) and all("evaluation/policy_returns" in row for row in judged)
    planning = _own_planning(noted_settings(settings, run.manifest))
    with damage_reported(run.folder / "metrics.jsonl"):  # numbers that are none, written by somebody else
        return RunResult(
            folder=Path(folder),
            settings=settings,
            status=run.status,
            reason=run.manifest.get("reason"),
            manifest=run.manifest,
            steps=_column(judged, "step"),
            returns=_mean_returns(judged, "evaluation/returns"),
            policy_returns=_mean_returns(judged, "evaluation/policy_returns") if plans else None,
            cpu_seconds=_column(judged, "time/cpu_seconds"),
            wall_seconds=_column(judged, "time/wall_seconds"),
            memory_mb=_column(judged, "memory/process_mb") - _column(judged, "memory/experience_mb"),
            swapped=_swapped_afterwards(run.folder, settings, judged, planning)
            | {
                int(row["step"]): {name: Swapped.read(record, (planning,)) for name, record in row["planners"].items()}
                for row in judged
                if "planners" in row
            },
            health={
                name.removeprefix("health/"): _column(checks, name)
                for name in sorted({name for row in checks for name in row})
                if name == "step" or name.startswith("health/")
            },
            cut=np.array([sum(value is None for value in row["evaluation/returns"]) for row in judged]),
            random_return=_sound_mean(random) if random else None,
        )


def read_results(folders: Iterable[str | os.PathLike[str]]) -> tuple[list[RunResult], list[str]]:
    """Read all runs in ``folders``, each a run folder or a folder that holds some at any depth.

    Returns:
        The runs, and a note for each that could not be read or that repeats another.

    Raises:
        RunFolderError: a folder that does not exist or holds no run.
    """
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise RunFolderError(f"There is no folder {folder}.")
        inside = [path.parent for path in sorted(folder.rglob("config.json")) if _is_run(path.parent, folder)]
        if not inside:
            raise RunFolderError(f"{folder} holds no run: `forethought train` and `forethought compare` make them.")
        found.update(dict.fromkeys(inside))
    runs: dict[tuple[str, str, int], RunResult] = {}
    notes = []
    for path in found:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                run = read_run(path)
            except ForethoughtError as error:
                notes.append(f"Left out: {error}")
                continue
        notes += [str(warning.message) for warning in caught]
        key = run.settings.task, run.variant, run.settings.seed
        if key in runs:
            kept, left = sorted((runs[key], run), key=lambda one: (one.status != "finished", -len(one.steps)))
            notes.append(f"{run.name} is there twice: {kept.folder} counts, {left.folder} is left out.")
            run = kept
        runs[key] = run
    return list(runs.values()), notes


def _own_planning(noted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings that any planner of an agent has from it; ``None`` for agents without such."""
    planning = noted.get("planning")
    return (
        {name: value for name, value in planning.items() if name != "planner"} if isinstance(planning, dict) else None
    )


def _swapped_afterwards(
    folder: Path, settings: TrainSettings, judged: Sequence[Mapping[str, Any]], planning: dict[str, Any] | None
) -> dict[int, dict[str, Swapped]]:
    """Return by step what ``planners.json`` says, if there is one of ours that is about the run's held-out episodes."""
    try:
        kept = read_json(folder / PLANNERS_FILE)
        if (kept["task"], kept["seed"]) != (settings.task, settings.evaluation_seed):
            return {}
        step = kept["steps"] if "steps" in kept else judged[-1]["step"]  # files that do not say are older
        effort = planning, kept["budget"], kept.get("horizon")
        rows = [row for row in kept["rows"] if row["evaluation"] is not None]
        return {int(step): {str(row["planner"]): Swapped.of_row(row, effort) for row in rows}}
    except (CheckpointError, LookupError, TypeError, ValueError):
        return {}  # none, or written by hand or by another version: the curve does not depend on it


def _is_run(folder: Path, root: Path) -> bool:
    """Whether ``folder`` is a run that counts; a comparison hides abandoned ones behind a dot."""
    hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
    return not hidden and (folder / "manifest.json").exists()


def _column(rows: list[dict[str, Any]], key: str) -> Array:
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=np.float64)


def _mean_returns(rows: list[dict[str, Any]], key: str) -> Array:
    return np.array([_sound_mean(row[key]) for row in rows], dtype=np.float64)


def _sound_mean(returns: list[float | None]) -> float:
    sound = [value for value in returns if value is not None]
    return float(np.mean(sound)) if sound else float("nan")
