"""``forethought time-to-goal``: how many steps lie between observations, learned for a pretrained world model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..agents.time_to_goal import TimeToGoalSettings
from ..core.errors import SettingsError
from ..core.settings import field_names
from .options import parse
from .progress import TrainingProgress


@dataclass(frozen=True)
class TimeToGoalOptions(TimeToGoalSettings):
    """Learn how many steps lie between two observations, from the recordings and on the latents of a pretrained run.

    Latents of places on two sides of a wall may be close; with this, plans lead around it. It takes a few minutes, and
    the world model stays as it is.
    """

    run: Annotated[Positional[Path | None], tyro.conf.arg(metavar="RUN")] = None
    """Run folder of forethought pretrain."""


def run(arguments: Sequence[str]) -> int:
    """Learn."""
    import time

    options = parse(TimeToGoalOptions, "time-to-goal", arguments)
    if options.run is None:
        raise SettingsError("Which run? Such as: forethought time-to-goal runs/two-room-pretrained-0.")
    settings = TimeToGoalSettings(**{name: getattr(options, name) for name in field_names(TimeToGoalSettings)})
    from ..envs.goals import GOALS
    from ..evaluations.pretraining import load_pretrained
    from ..evaluations.settings import Progress
    from ..evaluations.time_to_goal import add_time_to_goal

    began = time.perf_counter()
    with TrainingProgress() as progress:

        def show(update: int, measures: dict[str, float]) -> None:
            pace = update / (time.perf_counter() - began)
            if update % 20 == 0 or update == settings.updates:
                progress(Progress(update, settings.updates, pace, None, measures, "learning", unit="update"))

        file, source = add_time_to_goal(options.run, settings, show)
    too_long, slack = source["measures"]["too_long"], settings.quasimetric.slack
    print(f"Learned in {source['cpu_seconds']:.0f} CPU seconds: {file}")
    print(f"Recorded steps look {100 * too_long:.0f} % too long (root mean square; allowed were {100 * slack:.0f} %).")
    if load_pretrained(options.run)[1].get("task") in GOALS:
        print(f"Try: forethought evaluate {shlex.quote(str(options.run))} --distance time")
    return 0
