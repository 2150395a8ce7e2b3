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
from ..evaluations.compare import CompareSettings, compare
from ..evaluations.summary import Summary
from ..evaluations.views import ComparisonView
from .console import console, is_live, print_table
from .main import INTERRUPTED
from .options import assignment, parse


@dataclass(frozen=True)
class CompareOptions(CompareSettings):
    """Train agents x tasks x seeds, each run in a process and folder of its own, and judge them with intervals.

    Called again with the same settings and folder, it goes on: finished runs are skipped.
    """

    agent_settings: Suppress[dict[str, dict[str, Any]]] = field(default_factory=dict)
    set: Annotated[UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="AGENT.NAME=VALUE")] = ()
    """A setting of one agent, such as jepa.planning.planner=cem or sac.learning_rate=1e-3; may be repeated."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/comparison")
    """Folder of the runs."""


def run(arguments: Sequence[str]) -> int:
    """Compare."""
    options = parse(CompareOptions, "compare", arguments)
    shared = {name: getattr(options, name) for name in field_names(CompareSettings)}
    settings = CompareSettings(**shared | {"agent_settings": _by_agent(options.set)})
    target = console(stderr=True)
    try:
        with ComparisonView(target, is_live(target)) as view:
            summary = compare(settings, options.out, view)
    except KeyboardInterrupt:
        print("Stopped; each run has saved what it has. The same command goes on from there.")
        return INTERRUPTED
    print_summary(summary)
    folder = shlex.quote(str(options.out))
    print(f"The runs are in {folder}; a page with plots and films: forethought report {folder}")
    return 0


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
        place[name] = value
    return settings
