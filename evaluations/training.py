"""train: one agent learns one task in one run folder, judged on the same held-out episodes all the way.

Whatever happens beside learning (evaluating, saving, reporting) uses environments and generators of its own and is
not counted as training time, so a run learns the same with many evaluations as with one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..agents import make_agent
from ..agents.registry import agents
from ..core.errors import RunFolderError
from ..core.files import Archive
from ..core.runs import Run
from ..core.settings import Settings
from .evaluate import Evaluation, evaluate
from .milestones import PROGRESS_EVERY_S, Clock, Interruption, MetricsWriter, MilestoneCallback, latest_losses
from .planner_table import bare_policy
from .settings import Progress, TrainingResult, TrainSettings, command_line, settings_of

AGENT_FILE = "agent.zip"
OnProgress = Callable[[Progress], None]


def train(
    settings: TrainSettings, folder: str | os.PathLike[str], on_progress: OnProgress | None = None
) -> TrainingResult:
    """Train one agent from the start.

    Ctrl-C or SIGTERM ends the training after the current step: everything is saved, and the result says
    "interrupted". :func:`resume` goes on from there.

    Args:
        settings: what to learn and how to judge it.
        folder: run folder to make; see :class:`~forethought.core.runs.Run`.
        on_progress: called about twice a second.

    Raises:
        ForethoughtError: for a task, agent or setting that does not exist, and a folder that holds a run already.
    """
    with _threads(settings.threads):
        agent = _make_agent(settings, Path(folder))  # before the folder: what was misspelt leaves nothing behind
        with Run.create(folder, settings.to_dict()) as run:
            run.note(command=command_line(), agent_settings=_resolved_settings(agent))
            return _Session(run, settings, agent, on_progress).go()


def resume(folder: str | os.PathLike[str], on_progress: OnProgress | None = None) -> TrainingResult:
    """Continue an interrupted run from its newest checkpoint, with the settings that it was begun with.

    Raises:
        RunFolderError: no run, one that is finished or in use, or one whose agent cannot be resumed.
        CheckpointError: no valid checkpoint.
    """
    run = Run.open(folder)
    settings = settings_of(run)
    if run.status == "finished":
        raise RunFolderError(f"{folder} is finished: it has taken all of its {settings.steps:,} steps.")
    with _threads(settings.threads):
        agent = _make_agent(settings, run.folder)
        if not hasattr(agent, "restore"):
            raise RunFolderError(
                f"{folder} cannot be resumed, because the agent {settings.agent!r} cannot save its experience: "
                "train it again in another folder."
            )
        with run:
            archive = run.latest_checkpoint()
            return _Session(run, settings, agent, on_progress, archive).go()


def load_trained(folder: str | os.PathLike[str]) -> tuple[Any, TrainSettings]:
    """Return the agent that a run saved, ready to act, and the settings that it was trained with.

    Raises:
        RunFolderError: no run, or one that has saved no agent yet.
        CheckpointError: a damaged or foreign agent file; nothing in it is executed.
    """
    run = Run.open(folder)
    settings = settings_of(run)
    path = run.folder / AGENT_FILE
    if not path.exists():
        raise RunFolderError(f"{folder} holds no {AGENT_FILE} yet: the run is {run.status}; finish or resume it first.")
    return agents.get(settings.agent).load(path), settings


class _Session:
    """One process's part of a run: the agent, and what is done with it."""

    def __init__(
        self,
        run: Run,
        settings: TrainSettings,
        agent: Any,
        on_progress: OnProgress | None,
        archive: Archive | None = None,
    ) -> None:
        self.run, self.settings, self.agent = run, settings, agent
        self._on_progress = on_progress or (lambda progress: None)
        self._resumable = hasattr(agent, "checkpoint")
        self._last: Evaluation | None = None
        self._activity = "learning"
        self._interruption = Interruption()
        self._writer = MetricsWriter(run)
        spent = {}
        if archive is not None:
            spent = archive.documents["run"]
            exact = agent.restore(archive.documents, archive.tensors)
            run.note(resume="exact" if exact else "inexact")
            run.rewind_metrics(agent.num_timesteps)
        self._clock = Clock(spent.get("cpu_seconds", 0.0), spent.get("wall_seconds", 0.0))
        # Pace over the last minute or so, because the first steps, before learning starts, are far quicker.
        self._trail: deque[tuple[float, float]] = deque(maxlen=round(60 / PROGRESS_EVERY_S))

    def go(self) -> TrainingResult:
        """Learn to the end or until interrupted."""
        with self._interruption.listening():
            # Broken off, it is made up for when the run is resumed; learning then stops after one step, with which
            # there is a checkpoint to resume from.
            with self._clock.paused(), self._interruption.breaking_off():
                self._measure_random()
            self._learn()
            reason = self._interruption.requested
            self.agent.save(self.run.folder / AGENT_FILE)
            if reason:
                self._save_checkpoint()
        step = self.agent.num_timesteps
        if reason:
            self.run.set_status("interrupted", reason=f"{reason} at step {step}")
        else:
            self.run.set_status("finished")
        mean = self._last.return_mean if self._last else None
        resumable = bool(reason) and self._resumable
        return TrainingResult(self.run.folder, self.run.status, step, mean, resumable, self._faults)

    @property
    def _faults(self) -> int:
        """Training episodes cut so far, by the agent's own count if it has one."""
        return int(getattr(self.agent, "faults", 0))

    def _measure_random(self) -> None:
        """Log, once, what acting at random brings on the held-out episodes: the zero of every comparison."""
        if any("reference/random_returns" in row for row in self.run.read_metrics()):
            return
        s = self.settings
        random = make_agent("random", s.task, seed=s.evaluation_seed)
        returns = _with_gaps(evaluate(random, s.task, s.episodes, s.evaluation_seed))
        random.get_env().close()
        self.run.log({"reference/random_returns": returns}, step=0)

    def _learn(self) -> None:
        """Bring the agent from milestone to milestone.

        An agent that can resume stops at each, so that its checkpoint falls between two steps. SB3's models need a
        single call, over which their schedules run, and are evaluated from inside it.
        """
        judged = max((row["step"] for row in self.run.read_metrics() if "evaluation/returns" in row), default=0)
        milestones = [step for step in self.settings.milestones if step > judged]
        inside = [] if self._resumable else milestones[:-1]
        callback = MilestoneCallback(inside, self._milestone, self._report, self._interruption, self._writer)
        for milestone in milestones if self._resumable else milestones[-1:]:
            if (taken := self.agent.num_timesteps) < milestone:  # not where an evaluation was broken off
                self.agent.learn(milestone - taken, callback, reset_num_timesteps=taken == 0)
            if self._interruption.requested is None:
                self._milestone()
            if self._interruption.requested is not None:
                return

    def _milestone(self) -> None:
        """Evaluate, log and save; an interruption meanwhile drops the evaluation, never a file."""
        with self._clock.paused():
            self._activity = "evaluating"
            self._report()
            metrics: dict[str, Any] = {}
            with self._interruption.breaking_off():
                metrics = self._evaluate()
            self._activity = "learning"
            if not metrics:
                return
            metrics |= {"time/cpu_seconds": self._clock.cpu_seconds, "time/wall_seconds": self._clock.wall_seconds}
            # The agent's own log may wait for episodes that are never whole.
            metrics["env/faults"], metrics["env/restarts"] = self._faults, int(getattr(self.agent, "restarts", 0))
            step = self.agent.num_timesteps
            self.run.log(metrics, step)
            for name in ("evaluation/return_mean", "evaluation/policy_return_mean"):
                if name in metrics:
                    self.agent.logger.record(name, metrics[name])
            self.agent.logger.dump(step)
            self.agent.save(self.run.folder / AGENT_FILE)  # so that a killed run too can be evaluated
            self._save_checkpoint()
            self._report()

    def _evaluate(self) -> dict[str, Any]:
        s = self.settings
        film = self.run.folder / "videos" / "final" if s.video and self.agent.num_timesteps >= s.steps else None
        acting = evaluate(self.agent, s.task, s.episodes, s.evaluation_seed, video=film)
        metrics = {
            "evaluation/return_mean": acting.return_mean,
            "evaluation/returns": _with_gaps(acting),
            "evaluation/lengths": acting.lengths,
            "evaluation/decision_ms": acting.decision_ms,
        }
        if hasattr(self.agent, "planning_with"):
            bare = evaluate(bare_policy(self.agent), s.task, s.episodes, s.evaluation_seed)
            metrics["evaluation/policy_return_mean"] = bare.return_mean
            metrics["evaluation/policy_returns"] = _with_gaps(bare)
        self._last = acting
        return metrics

    def _save_checkpoint(self) -> None:
        if not self._resumable or not self.agent.num_timesteps:
            return
        documents, tensors = self.agent.checkpoint()
        documents["run"] = {"cpu_seconds": self._clock.cpu_seconds, "wall_seconds": self._clock.wall_seconds}
        self.run.save_checkpoint(self.agent.num_timesteps, documents, tensors)

    def _report(self) -> None:
        step = self.agent.num_timesteps
        self._trail.append((step, self._clock.wall_seconds))
        steps, seconds = (end - start for start, end in zip(self._trail[0], self._trail[-1], strict=True))
        latest = self._writer.latest
        last = self._last.return_mean if self._last else latest.get("rollout/ep_rew_mean")
        pace = steps / seconds if seconds > 0 else 0.0
        self._on_progress(Progress(step, self.settings.steps, pace, last, latest_losses(latest), self._activity))


def _make_agent(settings: TrainSettings, folder: Path) -> Any:
    return make_agent(
        settings.agent,
        settings.task,
        seed=settings.seed,
        device=settings.device,
        tensorboard_log=str(folder / "tensorboard"),
        **settings.agent_settings,
    )


def _resolved_settings(agent: Any) -> dict[str, Any]:
    """Return all settings that the agent works with, defaults included."""
    settings = getattr(agent, "settings", {})
    return settings.to_dict() if isinstance(settings, Settings) else dict(settings)


def _with_gaps(evaluation: Evaluation) -> np.ndarray:
    """Return the returns with NaN, which JSON shows as null, for the episodes that were cut as faulty."""
    return np.where(evaluation.faulty, np.nan, evaluation.returns)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
