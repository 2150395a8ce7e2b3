"""``forethought train``: one agent learns one task in one run folder, and goes on from there when it was stopped."""

from __future__ import annotations

import dataclasses
import math
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction

from ..core.errors import SettingsError
from ..core.runs import Run
from ..core.settings import Settings, field_names
from ..evaluations.settings import TrainingResult, TrainSettings, differences
from .main import stopped_by
from .options import assignment, file_name, parse, written
from .progress import TrainingProgress

AgentSettings = TypeVar("AgentSettings", bound=Settings)


@dataclass(frozen=True)
class TrainOptions(TrainSettings):
    """What every training has."""

    task: Annotated[Positional[str], tyro.conf.arg(metavar="TASK")] = ""
    """Task by name (forethought list tasks), any Gymnasium id, or module:Name-v0."""
    agent_settings: Suppress[dict[str, Any]] = field(default_factory=dict)
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Run folder to make; by default runs/TASK-AGENT-SEED."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with an interrupted run instead, to the end and with the settings that it was begun with."""


@dataclass(frozen=True)
class TrainWithSettings(Generic[AgentSettings]):
    """An agent whose settings are a dataclass: each is an option."""

    training: Annotated[TrainOptions, tyro.conf.arg(name="")]
    settings: Annotated[AgentSettings, tyro.conf.arg(name="")]
    planner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Planner by name; short for --planning.planner, but that policy is the actor alone, unless --planning.proposals
    says of how many proposals it is to do the best."""

    def agent_settings(self) -> dict[str, Any]:
        """Return the agent's settings as plain data."""
        data = self.settings.to_dict()
        if self.planner is not None:
            data["planning"]["planner"] = self.planner
        return data


@dataclass(frozen=True)
class TrainWithKeywords:
    """An agent that takes keywords, as Stable-Baselines3's algorithms do."""

    training: Annotated[TrainOptions, tyro.conf.arg(name="")]
    set: Annotated[UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """A setting of the agent as NAME=VALUE, such as learning_rate=1e-3; may be repeated."""

    def agent_settings(self) -> dict[str, Any]:
        """Return the agent's settings as plain data."""
        return dict(map(assignment, self.set))


def run(arguments: Sequence[str]) -> int:
    """Train, or resume."""
    options = read_options(arguments)
    training = options.training
    with TrainingProgress() as progress:
        if training.resume is not None:
            _refuse_changes(options)
            from ..evaluations.training import resume

            result = resume(training.resume, progress)
        else:
            if not training.task:
                raise SettingsError("Which task? Such as: forethought train InvertedPendulum-v5.")
            if not training.store and (idle := written(arguments) & {"--recorded-share", "--recorded-rewards"}):
                raise SettingsError(f"{idle.pop()} is for an agent that has recordings: --store names them.")
            shared = {name: getattr(training, name) for name in field_names(TrainSettings)}
            settings = TrainSettings(**shared | {"agent_settings": options.agent_settings()})
            _mention_late_learning(settings)
            from ..evaluations.training import train

            result = train(settings, training.out or _default_folder(settings), progress)
    return _conclude(result)


def read_options(arguments: Sequence[str]) -> TrainWithSettings[Any] | TrainWithKeywords:
    """Parse the arguments; which options there are depends on the agent."""
    from ..agents.registry import agents

    name = _option(arguments, "--agent", TrainSettings.agent)
    settings = getattr(agents.get(name), "Settings", None)
    description = (
        f"Train one agent on one task. Below are the options of the agent {name}; "
        "--agent NAME --help shows those of another."
    )
    if settings is None:
        try:
            return parse(TrainWithKeywords, "train", arguments, description)
        except SettingsError as error:
            if not str(error).startswith("Unrecognized options"):
                raise
            raise SettingsError(f"{error} Settings of {name} itself are given as --set NAME=VALUE.") from error
    default = None
    if (world_model := _option(arguments, "--world-model")) and hasattr(agents.get(name), "set_store"):
        from ..agents.pretrained import pretrained_model, settings_from

        with warnings.catch_warnings(action="ignore"):  # the agent will say it
            model = settings_from(pretrained_model(world_model))
        default = TrainWithSettings(TrainOptions(), settings().replace(model=model))
    options = parse(TrainWithSettings[settings], "train", arguments, description, default)  # type: ignore[valid-type]
    new = options.training.resume is None
    if new and options.planner == "policy" and not _option(arguments, "--planning.proposals"):
        bare = options.settings.planning.replace(proposals=1)
        return dataclasses.replace(options, settings=options.settings.replace(planning=bare))
    return options


def _option(arguments: Sequence[str], option: str, default: str = "") -> str:
    """Find the value of an option on which depends what the other arguments mean."""
    value = default
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        name, equals, assigned = argument.partition("=")
        if name.replace("_", "-") == option and (equals or following is not None):
            value = assigned if equals else following or ""
    return value


def _refuse_changes(options: TrainWithSettings[Any] | TrainWithKeywords) -> None:
    training = options.training
    changed = [
        f"--{option.name.replace('_', '-')}" if option.name != "task" else "the task"
        for option in dataclasses.fields(training)
        if option.name not in ("resume", "agent_settings") and getattr(training, option.name) != option.default
    ]
    if isinstance(options, TrainWithKeywords):
        changed += ["--set"] if options.set else []
    else:
        changed += ["--planner"] if options.planner is not None else []
        if not training.world_model:  # whose settings would be the usual ones
            usual, given = type(options.settings)().to_dict(), options.settings.to_dict()
            changed += [f"--{name.replace('_', '-')}" for name in differences(usual, given)]
    if changed:
        raise SettingsError(
            f"--resume goes on with the settings that the run was begun with: leave out {', '.join(changed)}."
        )


def _mention_late_learning(settings: TrainSettings) -> None:
    starts = settings.agent_settings.get("learning_starts", 0)
    if isinstance(starts, int) and settings.steps < starts:  # what is no number, the agent refuses
        warnings.warn(
            f"learning starts after {starts:,} steps, so these {settings.steps:,} gather experience and nothing is "
            "learned: give more --steps, or fewer --learning-starts.",
            stacklevel=2,
        )


def _default_folder(settings: TrainSettings) -> Path:
    return Path("runs") / f"{file_name(settings.task)}-{settings.agent}-{settings.seed}"


def _conclude(result: TrainingResult) -> int:
    run, folder = Run.open(result.folder), shlex.quote(str(result.folder))
    if result.faults:
        episodes = "1 episode was" if result.faults == 1 else f"{result.faults} episodes were"
        print(f"{episodes} cut because of non-finite values; none of those was stored.")
    if heads := run.manifest.get("built_anew"):
        print(f"The pretrained world model had no {' and no '.join(heads)}: built anew.")
    if result.status == "interrupted":
        print(f"Stopped at step {result.step:,}; everything is saved in {folder}.")
        if result.resumable:
            print(f"Go on with: forethought train --resume {folder}")
        else:
            print("This agent cannot go on from here; evaluate what it has learned, or train it again.")
        return stopped_by((run.manifest["reason"] or "").partition(" ")[0])
    if result.return_mean is None:
        outcome = ""
    elif math.isnan(result.return_mean):
        outcome = ", return unknown because every held-out episode was cut"
    else:
        outcome = f", return {result.return_mean:,.1f} on held-out episodes"
    print(f"Finished {result.step:,} steps{outcome}; the run is in {folder}.")
    print(f"Try: forethought evaluate {folder}")
    return 0
