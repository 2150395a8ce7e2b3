"""train: one agent learns one task in one run folder, judged on the same held-out episodes all the way.

Whatever happens beside learning (evaluating, saving, reporting) uses environments and generators of its own and is
not counted as training time, so a run learns the same with many evaluations as with one.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..agents import make_agent
from ..agents.registry import agents
from ..core.checkpoints import Checkpoint
from ..core.errors import RunFolderError, SettingsError, UnknownNameError, WriteError
from ..core.provenance import resident_bytes
from ..core.runs import Run
from ..envs import make_env
from .clock import Clock
from .evaluate import Evaluation, evaluate
from .going_on import check_changes, has_been_exact, settings_to_go_on_with
from .milestones import PROGRESS_EVERY_S, Interruption, MetricsWriter, MilestoneCallback, latest_losses
from .planner_table import CEILING, acts_bare, bare_policy, check_planners, evaluate_planners
from .settings import Progress, TrainingResult, TrainSettings, command_line, resolved_settings, settings_of
from .stage import limited_threads
from .true_simulator import TrueSimulator

AGENT_FILE = "agent.zip"
FAILED_SAVES = 3
"""Milestones in a row at which nothing can be saved, before training that would be lost stops."""
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
        ForethoughtError: for a task, agent, setting, world model or store that does not exist or does not fit, and a
            folder that holds a run already.
    """
    settings = _with_absolute_paths(settings)
    with limited_threads(settings.threads):
        agent = _make_agent(settings, Path(folder), settings.world_model)  # before the folder: see to what is misspelt
        if settings.planners and hasattr(agent, "planning_with"):
            check_planners(agent, settings.planners)
        if settings.simulator_at and hasattr(agent, "planning_with"):
            TrueSimulator(partial(make_env, settings.task)).close()
        if settings.world_model:  # what was taken over from it stands in the run, which needs it no more
            model = {"model": agent.settings.model.to_dict()}
            settings = settings.replace(agent_settings=settings.agent_settings | model)
        with Run.create(folder, settings.to_dict()) as run:
            run.note(command=command_line(), built_anew=getattr(agent, "built_anew", []))
            return _Session(run, settings, agent, on_progress).go()


def resume(folder: str | os.PathLike[str], on_progress: OnProgress | None = None) -> TrainingResult:
    """Continue an interrupted run from its newest checkpoint, with the settings that it was begun with.

    They are those that its agent had, whatever the defaults are today, but for what its ``config.json`` was changed to;
    one that was finished goes on where it asks for more steps by now.

    Raises:
        RunFolderError: no run, one that is finished or in use, or one whose agent cannot be resumed.
        CheckpointError: no valid checkpoint, or the recorded episodes that it learned from are gone or have changed.
    """
    run = Run.open(folder)
    settings = settings_of(run)
    if run.status == "finished" and settings.steps <= (taken := _judged_at(run)):
        raise RunFolderError(
            f"{folder} is finished: it has taken all of its {taken:,} steps. To let it learn for longer, raise 'steps' "
            "in its config.json and resume it again; its 'evaluations' are spread over all steps."
        )
    with limited_threads(settings.threads), run.locked():
        checkpoint, agent = _brought_back(run, settings)
        with run:
            session = _Session(run, settings, agent, on_progress, checkpoint)
            del checkpoint  # its experience is the agent's by now, and need not be held twice
            return session.go()


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
    with _blaming_config(run):
        agent = agents.get(settings.agent)
    return agent.load(path), settings


def _brought_back(run: Run, settings: TrainSettings) -> tuple[Checkpoint, Any]:
    """Return the checkpoint from which a run goes on, and the agent that does, as it was before it learned."""
    checkpoint = run.latest_checkpoint() if run.checkpoints() else None
    with _blaming_config(run):
        chosen = settings if checkpoint is None else settings_to_go_on_with(run, checkpoint, settings)
        agent = _make_agent(chosen, run.folder)
    if not hasattr(agent, "restore"):
        raise RunFolderError(
            f"{run.folder} cannot be resumed, because the agent {settings.agent!r} cannot save its experience: train "
            "it again in another folder."
        )
    return checkpoint or run.latest_checkpoint(), agent


@contextmanager
def _blaming_config(run: Run) -> Iterator[None]:
    """Say of settings and names that there are not, that it is a run's ``config.json`` that asks for them."""
    try:
        yield
    except (SettingsError, UnknownNameError) as error:
        raise RunFolderError(f"{run.folder / 'config.json'} asks for what there is not: {error}") from error


class _Session:
    """One process's part of a run: the agent, and what is done with it."""

    def __init__(
        self,
        run: Run,
        settings: TrainSettings,
        agent: Any,
        on_progress: OnProgress | None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.run, self.settings, self.agent = run, settings, agent
        self._on_progress = on_progress or (lambda progress: None)
        self._resumable = hasattr(agent, "checkpoint")
        self._last: Evaluation | None = None
        self._activity = "learning"
        self._interruption = Interruption()
        self._failed_saves = 0  # in a row
        self._writer = MetricsWriter(run)
        spent = {}
        if checkpoint is not None:
            spent = checkpoint.documents["run"]
            same = check_changes(run, checkpoint, settings, resolved_settings(agent))
            came_back = agent.restore(checkpoint)
            exact = same and came_back and not _compiles(agent) and has_been_exact(run)
            run.note(resume="exact" if exact else "inexact")
            if not came_back:
                warnings.warn(
                    f"{settings.task} did not come back to where it had been, so fresh episodes were begun and this "
                    f"run is not the one that it would have been; forethought doctor {settings.task} tells why.",
                    stacklevel=4,
                )
            run.rewind_metrics(agent.num_timesteps)
        device = str(getattr(agent, "device", "cpu"))
        if (before := run.manifest.get("device", device)) != device:
            warnings.warn(f"{run.folder} goes on on {device}, and was on {before}: results may differ.", stacklevel=3)
            run.note(resume="inexact")
        run.note(agent_settings=resolved_settings(agent), device=device)
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
            if reason or self._failed_saves:
                self._save(final=True)
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
        judged = _judged_at(self.run)
        milestones = [step for step in self.settings.milestones if step > judged]
        inside = [] if self._resumable else milestones[:-1]
        rollout = getattr(self.agent, "rollout_steps", 0)
        last = self.settings.steps if rollout and self.settings.steps % rollout else None  # not the whole of a rollout
        callback = MilestoneCallback(inside, self._milestone, self._report, self._interruption, self._writer, last)
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
            try:
                with self._interruption.breaking_off():
                    metrics = self._evaluate()
            except Exception:
                self._save()  # what was learned is not to be lost for an environment that fails where it is judged
                raise
            self._activity = "learning"
            if not metrics:
                return
            metrics |= {"time/cpu_seconds": self._clock.cpu_seconds, "time/wall_seconds": self._clock.wall_seconds}
            metrics |= {
                "memory/process_mb": resident_bytes() / 1e6,
                "memory/experience_mb": getattr(self.agent, "experience_bytes", 0) / 1e6,
            }
            # The agent's own log may wait for episodes that are never whole.
            metrics["env/faults"], metrics["env/restarts"] = self._faults, int(getattr(self.agent, "restarts", 0))
            step = self.agent.num_timesteps
            self.run.log(metrics, step)
            if (logger := getattr(self.agent, "logger", None)) is not None:
                for name in ("evaluation/return_mean", "evaluation/policy_return_mean"):
                    if name in metrics:
                        logger.record(name, metrics[name])
                logger.dump(step)
            self._save()
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
            bare = acting
            if not acts_bare(self.agent):
                bare = evaluate(bare_policy(self.agent), s.task, s.episodes, s.evaluation_seed)
            metrics["evaluation/policy_return_mean"] = bare.return_mean
            metrics["evaluation/policy_returns"] = _with_gaps(bare)
            milestone = max(step for step in s.milestones if step <= self.agent.num_timesteps)
            if milestone in s.planners_at:
                metrics["planners"] = self._swapped(milestone)
        self._last = acting
        return metrics

    def _swapped(self, milestone: int) -> dict[str, Any]:
        """Return what the agent does by each planner in turn."""
        s = self.settings
        ceiling = CEILING if milestone in s.simulator_at else False
        table = evaluate_planners(
            self.agent,
            s.task,
            planners=s.planners or None,
            episodes=s.episodes,
            seed=s.evaluation_seed,
            simulator=ceiling,
        )
        return {
            row.name: {
                "returns": _with_gaps(row.evaluation),
                "decision_ms": row.evaluation.decision_ms,
                "budget": row.budget,
                "gradients": row.gradients,
                "promises": row.promises.to_dict() if row.promises else None,
            }
            for row in table.rows
            if row.evaluation is not None
        }

    def _save(self, final: bool = False) -> None:
        """Save the agent, so that a killed run too can be evaluated, and a checkpoint to go on from.

        What cannot be written, such as on a full disk, is tried once more; then what was saved before stays, and
        training goes on, but not beyond the third milestone in a row at which nothing could be saved.

        Raises:
            WriteError: then, or where this was the ``final`` chance.
        """
        failures: list[WriteError] = []
        while len(failures) < 2:
            try:
                self.agent.save(self.run.folder / AGENT_FILE)
                self._save_checkpoint()
                self._failed_saves = 0
                return
            except WriteError as error:
                failures.append(error)
        self._failed_saves += 1
        if final or self._failed_saves == FAILED_SAVES:
            raise WriteError(
                f"{failures[-1]} Step {self.agent.num_timesteps:,} could not be saved, so training stopped; make room, "
                "and go on from the last checkpoint with --resume."
            ) from failures[-1]
        warnings.warn(f"{failures[-1]} Training goes on, and saves again at its next milestone.", stacklevel=2)

    def _save_checkpoint(self) -> None:
        if not self._resumable or not self.agent.num_timesteps:
            return
        checkpoint = self.agent.checkpoint(self.run.saved_rows)
        checkpoint.documents["run"] = {
            "cpu_seconds": self._clock.cpu_seconds,
            "wall_seconds": self._clock.wall_seconds,
            "settings": self.settings.to_dict(),
        }
        self.run.save_checkpoint(self.agent.num_timesteps, checkpoint)

    def _report(self) -> None:
        step = self.agent.num_timesteps
        self._trail.append((step, self._clock.wall_seconds))
        steps, seconds = (end - start for start, end in zip(self._trail[0], self._trail[-1], strict=True))
        latest = self._writer.latest
        last = self._last.return_mean if self._last else latest.get("rollout/ep_rew_mean")
        pace = steps / seconds if seconds > 0 else 0.0
        self._on_progress(Progress(step, self.settings.steps, pace, last, latest_losses(latest), self._activity))


def _judged_at(run: Run) -> int:
    """Return the step of the last evaluation, 0 where there is none."""
    return max((row["step"] for row in run.read_metrics() if "evaluation/returns" in row), default=0)


def _with_absolute_paths(settings: TrainSettings) -> TrainSettings:
    """Return the settings with which the run is resumed from wherever it is called."""
    paths = {name: getattr(settings, name) for name in ("world_model", "store")}
    return settings.replace(**{name: os.path.abspath(path) for name, path in paths.items() if path})


def _make_agent(settings: TrainSettings, folder: Path, world_model: str = "") -> Any:
    given = {name: path for name, path in (("world_model", world_model), ("store", settings.store)) if path}
    if given and not hasattr(agents.get(settings.agent), "set_store"):
        raise SettingsError(f"The agent {settings.agent!r} learns without {' and '.join(given)}: leave it out.")
    return make_agent(
        settings.agent,
        settings.task,
        seed=settings.seed,
        device=settings.device,
        tensorboard_log=str(folder / "tensorboard"),
        **given,
        **settings.agent_settings,
    )


def _compiles(agent: Any) -> bool:
    """Whether updates are compiled, after which no two processes need agree to the bit."""
    return bool(resolved_settings(agent).get("compute", {}).get("compile"))


def _with_gaps(evaluation: Evaluation) -> np.ndarray:
    """Return the returns with NaN, which JSON shows as null, for the episodes that were cut as faulty."""
    return np.where(evaluation.faulty, np.nan, evaluation.returns)
