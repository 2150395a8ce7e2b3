"""What a training run is asked for, what it tells while it runs, and what it leaves behind."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from ..core.errors import RunFolderError, SettingsError
from ..core.files import as_json
from ..core.runs import Run, Status
from ..core.settings import Range, Settings

Steps = Annotated[int, Range(ge=1, le=10**12)]
Evaluations = Annotated[int, Range(ge=1, le=10_000)]
Episodes = Annotated[int, Range(ge=1, le=10_000)]


class JudgedByPlanners(Protocol):
    """Settings that say when agents are judged by which planners."""

    @property
    def planners_at(self) -> tuple[int, ...]:
        """At which steps."""

    @property
    def planners(self) -> tuple[str, ...]:
        """By which planners; by the usual ones if none is named."""

    @property
    def simulator_at(self) -> tuple[int, ...]:
        """At which of these steps in the true simulator, too."""


def judged_until(last: int, asked: JudgedByPlanners) -> dict[str, Any]:
    """Return when and by which planners agents are judged if nothing beyond the step ``last`` is asked for."""
    when, looked = (tuple(step for step in steps if step <= last) for steps in (asked.planners_at, asked.simulator_at))
    return {"planners_at": when, "planners": asked.planners if when else (), "simulator_at": looked}


def require_steps_for_planners(asked: JudgedByPlanners) -> None:
    """Raise :class:`SettingsError` where planners are named, and no steps at which they are to judge."""
    if asked.planners and not asked.planners_at:
        raise SettingsError(
            f"{type(asked).__name__}.planners = {asked.planners!r} are never asked: name the steps of evaluations at "
            "which agents are judged by them (planners_at)."
        )


@dataclass(frozen=True)
class TrainSettings(Settings):
    """One agent learning one task: everything that decides the result, and what a run folder's config holds."""

    task: str
    """Task by name, any Gymnasium id, or module:Name-v0."""
    agent: str = "jepa"
    """Agent by name."""
    label: str = ""
    """What results call it, where several variants of one agent are compared; by default the agent's name."""
    steps: Steps = 10_000
    """Environment steps to learn for."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of everything random in training."""
    evaluations: Evaluations = 10
    """Evaluations, evenly spread over the run, the last one at its end."""
    episodes: Episodes = 10
    """Held-out episodes per evaluation, the same every time."""
    evaluation_seed: Annotated[int, Range(ge=0)] = 0
    """Names the set of held-out episodes; the same for all agents and seeds that are to be compared."""
    planners_at: tuple[Steps, ...] = ()
    """Steps of evaluations at which an agent that plans is judged by each planner in turn, too."""
    planners: tuple[str, ...] = ()
    """Which planners these are, each alone or with settings of its own, as in icem+horizon=5; by default all of
    Forethought's own. The bare actor is always among them."""
    simulator_at: tuple[Steps, ...] = ()
    """Those of them at which the usual planner also tries its plans out in the true simulator of a MuJoCo task: the
    ceiling of what planning could bring."""
    device: str = "auto"
    """Where to compute: auto, cpu or cuda."""
    threads: Annotated[int, Range(ge=1, le=1024)] = 1
    """Threads of torch; small networks learn fastest on one."""
    video: bool = False
    """Film the first held-out episode of the last evaluation."""
    world_model: str = ""
    """Pretrained world model that the agent goes on from: the folder of a run of forethought pretrain."""
    store: str = ""
    """Folder of recorded episodes of the task (forethought collect or import makes one) that stay in the mix of what
    the agent learns from; they are only read."""
    agent_settings: dict[str, Any] = field(default_factory=dict)
    """The agent's own settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_steps_for_planners(self)
        for step in self.planners_at:
            if step not in self.milestones:
                evaluated = ", ".join(f"{milestone:,}" for milestone in self.milestones)
                raise SettingsError(
                    f"{type(self).__name__}.planners_at = {step:,} is not one of the evaluations, which are after "
                    f"{evaluated} steps."
                )
        for step in self.simulator_at:
            if step not in self.planners_at:
                raise SettingsError(
                    f"{type(self).__name__}.simulator_at = {step:,} is not one of the steps at which planners are "
                    "judged (planners_at)."
                )

    @property
    def name(self) -> str:
        """What results call the agent."""
        return self.label or self.agent

    @property
    def milestones(self) -> list[int]:
        """Steps after which the agent is evaluated; the last one is ``steps``."""
        return sorted({math.ceil(self.steps * part / self.evaluations) for part in range(1, self.evaluations + 1)})

    def is_beginning_of(self, longer: TrainSettings) -> bool:
        """Return whether ``longer`` asks for the same and then for more, judged at the same steps."""
        begun = longer.beginning(self.steps, self.evaluations) if longer.steps > self.steps else None
        return begun is not None and bool(as_json(self.to_dict()) == as_json(begun.to_dict()))

    def beginning(self, steps: int, evaluations: int) -> TrainSettings | None:
        """Return what asks for the first ``steps`` steps alone; ``None`` where that would be judged at others."""
        begun = self.replace(steps=steps, evaluations=evaluations, **judged_until(0, self))
        if begun.milestones != [step for step in self.milestones if step <= steps]:
            return None
        return begun.replace(**judged_until(steps, self))


@dataclass(frozen=True)
class Progress:
    """How a training stands.

    Attributes:
        step, steps: environment steps taken and asked for.
        steps_per_second: taken per second of wall time, evaluations not counted; 0 until known.
        last_return: of the last evaluation, or of the latest training episodes before the first one; ``None`` so far.
        losses: latest training losses by name.
        activity: "learning" or "evaluating".
        unit: what is counted, if not environment steps.
    """

    step: int
    steps: int
    steps_per_second: float
    last_return: float | None
    losses: dict[str, float]
    activity: str
    unit: str = "step"

    @property
    def seconds_left(self) -> float | None:
        """Wall time that the remaining steps take at this pace, evaluations not counted."""
        return max(0, self.steps - self.step) / self.steps_per_second if self.steps_per_second else None


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Attributes:
        folder: the run folder; ``agent.zip`` in it is the agent.
        status: "finished" or "interrupted".
        step: environment steps taken.
        return_mean: of the last evaluation, if there was one.
        resumable: whether the run can be continued where it stopped.
        faults: training episodes that were cut because something in them was not finite.
    """

    folder: Path
    status: Status
    step: int
    return_mean: float | None
    resumable: bool
    faults: int = 0


def settings_of(run: Run) -> TrainSettings:
    """Return what a run was asked for; settings that it is too old to know have their defaults.

    Raises:
        RunFolderError: it is not a training run.
    """
    if (kind := run.manifest.get("kind", "train")) != "train":
        raise RunFolderError(f"{run.folder} is a run of forethought {kind}, not of forethought train.")
    try:
        return TrainSettings.from_dict(run.config)
    except SettingsError as error:
        raise RunFolderError(f"{run.folder / 'config.json'} does not describe a training run: {error}") from error


def list_changes(before: TrainSettings, after: TrainSettings) -> dict[str, str]:
    """Return a phrase for each setting that differs, by its dotted name, such as ``agent_settings.model.hidden``."""
    return differences(*(as_json(settings.to_dict()) for settings in (before, after)))


def resolved_settings(agent: Any) -> dict[str, Any]:
    """Return all settings that an agent works with.

    Defaults are among them, but for those of Stable-Baselines3's algorithms, which belong to its version.
    """
    settings = getattr(agent, "settings", {})
    return settings.to_dict() if isinstance(settings, Settings) else dict(settings)


def differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a phrase for each value that differs between nested settings, by its dotted name."""
    found: dict[str, str] = {}
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found[prefix + name] = f"{prefix}{name} was {old!r}, is {new!r}"
    return found


def command_line() -> str:
    """Return how this process was called, for whoever wants to repeat what it did."""
    program = Path(sys.argv[0])
    if "forethought" in (program.name, program.parent.name):  # the script, and python -m forethought
        return shlex.join(["forethought", *sys.argv[1:]])
    return shlex.join(["python", *sys.orig_argv[1:]])
