"""``forethought speed``: what a step costs, of several agents in training or of environments in processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..core.settings import field_names
from ..evaluations.environment_speed import EnvironmentSpeedSettings, environment_table, measure_environments
from ..evaluations.speed import SpeedSettings, measure_speed
from .console import console, is_live, print_table
from .options import parse


@dataclass(frozen=True)
class SpeedOptions(SpeedSettings):
    """Measure CPU and wall time per environment step of training, of agents that learn in turns on this machine.

    Or of environments in processes of their own, beside Gymnasium's asynchronous vector.
    """

    task: Positional[str] = "HalfCheetah-v5"
    """Task by name."""
    environments: int | None = None
    """Measure not agents, but this many environments that are stepped together."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File to which the figures are written, with versions and settings."""


def run(arguments: Sequence[str]) -> int:
    """Measure and print."""
    options = parse(SpeedOptions, "speed", arguments)
    if options.environments is not None:
        environments = EnvironmentSpeedSettings(options.task, options.environments)
        print_table(environment_table(environments, measure_environments(environments)))
        return 0
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
