"""``forethought pretrain``: a world model learns from recorded episodes, and goes on from there when it was stopped.

Under ``torchrun --nproc-per-node 2 -m forethought pretrain``, several processes learn together, and the first speaks.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, Suppress

from ..agents.pretrain import PretrainingSettings
from ..core.errors import LostRankError, SettingsError, UnknownNameError, did_you_mean
from ..core.parallel import Ranks, joined
from ..core.runs import Run
from ..core.settings import field_names
from ..envs.goals import GOALS
from ..evaluations.pretraining import (
    PretrainSettings,
    default_training,
    load_pretrained,
    pretrain,
    pretrain_settings_of,
    resume_pretraining,
)
from ..evaluations.settings import TrainingResult
from ..world_model import LEWM_SMALL
from ..world_model.presets import PRESETS
from .main import USAGE_ERROR, stopped_by
from .options import parse
from .progress import TrainingProgress


@dataclass(frozen=True)
class PretrainOptions(PretrainSettings):
    """What every pretraining has."""

    store: Annotated[Positional[str], tyro.conf.arg(metavar="STORE")] = ""
    """Folder of the store (forethought collect or import makes one)."""
    model: Annotated[str, tyro.conf.arg(name="preset", aliases=("--model",), metavar="NAME")] = ""
    """World model by name: lewm, lewm-small or state; by default the one that fits the observations. The options below
    change it."""
    training: Suppress[dict[str, Any]] = field(default_factory=dict)
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Run folder to make; by default runs/STORE-pretrained-SEED."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Go on with an interrupted run instead, to the end and with the settings that it was begun with."""


@dataclass(frozen=True)
class PretrainCommand:
    """Learn a world model from recorded episodes, without acting: a LeWorldModel from images, or one of state vectors.

    The defaults of the options below are those of the world model that fits STORE.
    """

    run: Annotated[PretrainOptions, tyro.conf.arg(name="")] = field(default_factory=PretrainOptions)
    settings: Annotated[PretrainingSettings, tyro.conf.arg(name="")] = field(
        default_factory=lambda: PretrainingSettings(model=LEWM_SMALL)
    )


def run(arguments: Sequence[str]) -> int:
    """Pretrain, or resume."""
    try:
        with joined() as ranks, _silence() if ranks.rank else nullcontext():
            return _run(_read_options(arguments), ranks)
    except LostRankError as error:
        if error.explained:
            return USAGE_ERROR
        raise


def _run(options: PretrainCommand, ranks: Ranks) -> int:
    asked = options.run
    with ExitStack() as stack:
        progress = None if ranks.rank else stack.enter_context(TrainingProgress())
        if asked.resume is not None:
            result = resume_pretraining(asked.resume, progress, ranks)
        else:
            shared = {name: getattr(asked, name) for name in field_names(PretrainSettings)}
            settings = PretrainSettings(**shared | {"training": options.settings.to_dict()})
            result = pretrain(settings, asked.out or _default_folder(settings), progress, ranks)
    return _conclude(result)


@contextmanager
def _silence() -> Iterator[None]:
    """Print nothing and warn of nothing, because the first rank does."""
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), warnings.catch_warnings(action="ignore"):
        yield


def _read_options(arguments: Sequence[str]) -> PretrainCommand:
    """Parse the arguments; which defaults they have depends on the store and the preset."""
    asked = PretrainOptions(store=_store(arguments), model=_preset(arguments))
    resuming = any(argument.partition("=")[0] == "--resume" for argument in arguments)
    helping = any(argument in ("-h", "--help") for argument in arguments)
    if asked.store:
        training = default_training(asked.store, asked.model)
    elif resuming or helping:
        training = PretrainCommand().settings if not asked.model else PretrainingSettings(model=PRESETS[asked.model])
    else:
        raise SettingsError(
            f"Which store? No argument is the folder of one, seen from {Path.cwd()}; such as: forethought pretrain "
            "data/two-room, which collect has made."
        )
    options = parse(PretrainCommand, "pretrain", arguments, default=PretrainCommand(asked, training))
    if resuming and (options.run.replace(resume=None) != PretrainOptions() or options.settings != training):
        raise SettingsError("--resume goes on with the settings that the run was begun with: leave out the others.")
    return options


def _store(arguments: Sequence[str]) -> str:
    """Find the store among the arguments: the one that is such a folder."""
    return next((argument for argument in arguments if (Path(argument) / "store.json").is_file()), "")


def _preset(arguments: Sequence[str]) -> str:
    name = PretrainSettings.model
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        option, equals, assigned = argument.partition("=")
        if option in ("--preset", "--model"):
            name = assigned if equals else following or name
    if name and name not in PRESETS:
        raise UnknownNameError(f"Unknown world model {name!r}.{did_you_mean(name, PRESETS)}")
    return name


def _default_folder(settings: PretrainSettings) -> Path:
    return Path("runs") / f"{Path(settings.store).resolve().name}-pretrained-{settings.seed}"


def _conclude(result: TrainingResult) -> int:
    run, folder = Run.open(result.folder), shlex.quote(str(result.folder))
    if result.status == "interrupted":
        print(f"Stopped at update {result.step:,}; everything is saved in {folder}.")
        print(f"Go on with: forethought pretrain --resume {folder}")
        return stopped_by((run.manifest["reason"] or "").partition(" ")[0])
    print(f"Finished {result.step:,} updates; the run is in {folder}.")
    print(f"Try: {_what_next(run, folder)}")
    return 0


def _what_next(run: Run, folder: str) -> str:
    """Return a command that acts by the model: it plans to goals, or in a task without them an agent takes it up."""
    task = load_pretrained(run.folder)[1].get("task")
    if task in GOALS:
        return f"forethought evaluate {folder}"
    store = shlex.quote(pretrain_settings_of(run).store)
    return f"forethought train {shlex.quote(task or 'TASK')} --world-model {folder} --store {store}"
