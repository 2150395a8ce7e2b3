"""``forethought speed``: what it costs to learn a step, to step environments, to plan, to load clips, to watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..core.errors import SettingsError
from ..core.settings import field_names
from ..evaluations.environment_speed import EnvironmentSpeedSettings, environment_table, measure_environments
from ..evaluations.loading_speed import LoadingSpeed, LoadingSpeedSettings, measure_loading
from ..evaluations.monitor_speed import MonitorSpeed, MonitorSpeedSettings, measure_monitor
from ..evaluations.planning_speed import PlanningSpeedSettings, PlanningSpeedTable, measure_planning
from ..evaluations.speed import SpeedSettings, SpeedTable, measure_speed
from .console import console, is_live, print_table
from .options import parse


@dataclass(frozen=True)
class SpeedOptions(SpeedSettings):
    """Measure CPU and wall time per environment step of training, of agents that learn in turns on this machine.

    Or of environments in processes of their own, beside Gymnasium's asynchronous vector (--environments). Also:
    forethought speed planning, how long a plan takes in a LeWorldModel; forethought speed loading STORE, how many clips
    a store gives in a second, and how many pretraining takes; forethought speed monitor RUN, what a surprise monitor
    adds to a step.
    """

    task: Positional[str] = "HalfCheetah-v5"
    """Task by name."""
    environments: int | None = None
    """Measure not agents, but this many environments that are stepped together."""
    rounds: int | None = None  # type: ignore[assignment]
    """Rounds, in each of which all take their turn; by default 20 of agents, 25 of environments."""
    steps: int | None = None  # type: ignore[assignment]
    """Environment steps per round; by default 50 of each agent, 200 of environments."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File to which the figures are written, with versions and settings."""


@dataclass(frozen=True)
class PlanningSpeedOptions(PlanningSpeedSettings):
    """Measure how long a plan takes in a LeWorldModel of random weights, beside a plain implementation.

    Everything in it takes the same time as with trained weights. With the defaults it takes some 15 minutes.
    """

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File to which the figures are written, with versions and settings."""


@dataclass(frozen=True)
class LoadingSpeedOptions(LoadingSpeedSettings):
    """Measure how many clips per second a store gives, and how many pretraining takes from it."""

    store: Annotated[Positional[str], tyro.conf.arg(metavar="STORE")] = ""
    """Folder of the store (forethought collect makes one)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File to which the figures are written, with versions and settings."""


@dataclass(frozen=True)
class MonitorSpeedOptions(MonitorSpeedSettings):
    """Measure what a surprise monitor adds to each step of the environment that it watches, compiled and not."""

    run: Annotated[Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of the run whose world model watches."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File to which the figures are written, with versions and settings."""


def run(arguments: Sequence[str]) -> int:
    """Measure and print."""
    if arguments and arguments[0] in OTHERS:
        return OTHERS[arguments[0]](arguments[1:])
    options = parse(SpeedOptions, "speed", arguments)
    given = {name: value for name in ("rounds", "steps") if (value := getattr(options, name)) is not None}
    if options.environments is not None:
        for name in ("agents", "variants", "seed", "out"):
            if getattr(options, name) != getattr(SpeedOptions, name):
                raise SettingsError(f"--{name} is for agents, and does not go with --environments.")
        environments = EnvironmentSpeedSettings(options.task, options.environments, **given)
        print_table(environment_table(environments, measure_environments(environments)))
        return 0
    shared = {name: getattr(options, name) for name in ("task", "agents", "variants", "seed")}
    settings = SpeedSettings(**shared, **given)
    with _status() as show:
        measured = measure_speed(settings, lambda made: show(f"{made} of {settings.rounds} rounds are made."))
    return _tell(measured, options.out)


def _planning(arguments: Sequence[str]) -> int:
    options = parse(PlanningSpeedOptions, "speed planning", arguments)
    shared = {name: getattr(options, name) for name in field_names(PlanningSpeedSettings)}
    with _status() as show:
        measured = measure_planning(PlanningSpeedSettings(**shared), show)
    return _tell(measured, options.out)


def _loading(arguments: Sequence[str]) -> int:
    options = parse(LoadingSpeedOptions, "speed loading", arguments)
    if not options.store:
        raise SettingsError("Which store? Such as: forethought speed loading data/two-room.")
    settings = LoadingSpeedSettings(**{name: getattr(options, name) for name in field_names(LoadingSpeedSettings)})
    with _status() as show:
        measured = measure_loading(settings, lambda made: show(f"{made} of {settings.rounds} rounds are made."))
    return _tell(measured, options.out)


def _monitor(arguments: Sequence[str]) -> int:
    options = parse(MonitorSpeedOptions, "speed monitor", arguments)
    if not options.run:
        raise SettingsError("Which run? Such as: forethought speed monitor runs/HalfCheetah-v5-jepa-0.")
    shared = {name: getattr(options, name) for name in field_names(MonitorSpeedSettings)}
    with _status() as show:
        measured = measure_monitor(MonitorSpeedSettings(**shared), show)
    return _tell(measured, options.out)


OTHERS = {"planning": _planning, "loading": _loading, "monitor": _monitor}
"""What can be measured beside agents and environments, by the word that follows ``speed``."""


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Yield what shows a line on the terminal, if there is one."""
    target = console(stderr=True)
    with target.status("Getting ready ...") if is_live(target) else nullcontext() as status:
        yield status.update if status else lambda line: None


def _tell(measured: SpeedTable | PlanningSpeedTable | LoadingSpeed | MonitorSpeed, out: Path | None) -> int:
    print_table(measured.table())
    if out:
        measured.save(out)
        print(f"The figures are in {out}.")
    return 0
