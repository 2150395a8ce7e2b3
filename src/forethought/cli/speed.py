"""``forethought speed``: what a step of training costs, of several agents side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..core.settings import field_names
from ..evaluations.speed import SpeedSettings, measure_speed
from .console import console, is_live, print_table
from .options import parse


@dataclass(frozen=True)
class SpeedOptions(SpeedSettings):
    """Measure CPU and wall time per environment step of training, of agents that learn in turns on this machine."""

    task: Positional[str] = "HalfCheetah-v5"
    """Task by name."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File to which the figures are written, with versions and settings."""


def run(arguments: Sequence[str]) -> int:
    """Measure and print."""
    options = parse(SpeedOptions, "speed", arguments)
    settings = SpeedSettings(**{name: getattr(options, name) for name in field_names(SpeedSettings)})
    target = console(stderr=True)
    with target.status("Getting ready ...") if is_live(target) else nullcontext() as status:

        def show(made: int) -> None:
            if status:
                status.update(f"{made} of {settings.rounds} rounds are made.")

        measured = measure_speed(settings, show)
    print_table(measured.table())
    if options.out:
        measured.save(options.out)
        print(f"The figures are in {options.out}.")
    return 0
