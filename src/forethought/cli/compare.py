"""``forethought compare``: agents x tasks x seeds, several runs at a time, and one summary with intervals."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Suppress, UseAppendAction

from ..core.errors import SettingsError
from ..core.settings import field_names
from ..evaluations.benchmark import read_benchmark
from ..evaluations.compare import CompareSettings, compare
from ..evaluations.published import Published
from ..evaluations.summary import Summary
from ..evaluations.views import ComparisonView
from .console import console, is_live, print_table
from .main import stopped_by
from .options import assignment, parse, written

PARTS = ("tasks", "agents", "seeds", "steps", "jobs", "device")
"""What may be asked of a part of a benchmark without making another benchmark of it."""


@dataclass(frozen=True)
class CompareOptions(CompareSettings):
    """Train agents x tasks x seeds, each run in a process and folder of its own, and judge them with intervals.

    Called again with the same settings and folder, it goes on: finished runs are skipped.
    """

    tasks: tuple[str, ...] = ()
    """Tasks by name."""
    agent_settings: Suppress[dict[str, dict[str, Any]]] = field(default_factory=dict)
    task_steps: Suppress[dict[str, int]] = field(default_factory=dict)
    variants: Suppress[dict[str, str]] = field(default_factory=dict)
    anchors: Suppress[dict[str, float]] = field(default_factory=dict)
    published: Suppress[tuple[Published, ...]] = ()
    rivals: Suppress[dict[str, tuple[str, ...]]] = field(default_factory=dict)
    benchmark: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.toml")] = None
    """A comparison that is written down; --tasks, --agents and --steps then name the part of it to make, and --seeds
    more or fewer seeds than it asks for. What was made of it goes on when more is asked for."""
    set: Annotated[UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="AGENT.NAME=VALUE")] = ()
    """A setting of one agent, such as jepa.planning.planner=cem or sac.learning_rate=1e-3; may be repeated."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the runs; by default runs/comparison, or runs/NAME for a benchmark."""

    def __post_init__(self) -> None:
        """Leave checking to the settings that are made of these options."""


def run(arguments: Sequence[str]) -> int:
    """Compare."""
    options = parse(CompareOptions, "compare", arguments)
    options = options.replace(tasks=_separated(options.tasks), agents=_separated(options.agents))
    settings, out = _settings(options, arguments), _folder(options)
    target = console(stderr=True)
    try:
        with ComparisonView(target, is_live(target)) as view:
            summary = compare(settings, out, view)
    except KeyboardInterrupt as stop:
        print("Stopped; each run has saved what it has. The same command goes on from there.")
        return stopped_by(str(stop))
    print_summary(summary)
    folder = shlex.quote(str(out))
    print(f"The runs are in {folder}; a page with plots and films: forethought report {folder}")
    return 0 if view.all_done else 1


def _separated(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return names that may have been separated by commas, too, as planners are."""
    return tuple(name for text in given for name in text.split(",") if name)


def _settings(options: CompareOptions, arguments: Sequence[str]) -> CompareSettings:
    """Return what the options ask for, or the part of a benchmark that they name."""
    if options.benchmark is None:
        if not options.tasks:
            raise SettingsError("Which tasks? Such as: forethought compare --tasks InvertedPendulum-v5.")
        shared = {name: getattr(options, name) for name in field_names(CompareSettings)}
        return CompareSettings(**shared | {"agent_settings": _by_agent(options.set)})
    asked = read_benchmark(options.benchmark)
    asked_for = written(arguments)
    for name in ("set", *field_names(CompareSettings)):
        if name not in PARTS and f"--{name.replace('_', '-')}" in asked_for:
            raise SettingsError(f"The benchmark {options.benchmark} has its own --{name.replace('_', '-')}.")
    given = {name: getattr(options, name) for name in PARTS if f"--{name}" in asked_for}
    try:
        part = asked.part(given.pop("tasks", None), given.pop("agents", None))
        part = part.up_to(given.pop("steps")) if "steps" in given else part
    except SettingsError as error:
        raise SettingsError(f"{options.benchmark}: {error}") from error
    return part.replace(**given)


def _folder(options: CompareOptions) -> Path:
    return options.out or Path("runs") / ("comparison" if options.benchmark is None else Path(options.benchmark).stem)


def print_summary(summary: Summary) -> None:
    """Print the tables, and what must be known before believing them."""
    for table in summary.tables():
        print_table(table)
    for note in summary.notes:
        print(f"Note: {note}")


def _by_agent(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return ``("jepa.planning.planner=cem",)`` as ``{"jepa": {"planning": {"planner": "cem"}}}``."""
    settings: dict[str, dict[str, Any]] = {}
    for text in assignments:
        path, value = assignment(text)
        *parents, name = path.split(".")
        if not parents:
            raise SettingsError(f"--set {text!r} must begin with an agent: --set sac.{text}.")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise SettingsError(f"--set {text!r} is about part of {parent}, which another --set gives as a whole.")
        place[name] = value
    return settings
