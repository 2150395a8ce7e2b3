"""``forethought report``: what run folders show, as one HTML page, plots and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..core.errors import SettingsError
from .options import parse


@dataclass(frozen=True)
class ReportOptions:
    """Write one self-contained HTML page, its plots and a Markdown table; runs in progress are shown as they stand."""

    folders: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER")]
    """Run folders, or folders that hold some, such as a comparison's."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for the report; by default "report" inside the first folder."""
    title: str | None = None
    """Headline; by default the agents and tasks."""
    anchors: Annotated[dict[str, float], tyro.conf.arg(metavar="TASK RETURN ...")] = field(default_factory=dict)
    """Returns that count as 1 where scores are normalised, such as Hopper-v5 2550; by default those of the comparison,
    or what the best agent returns."""
    first: Annotated[str | None, tyro.conf.arg(metavar="AGENT")] = None
    """Agent that comes first, whose leads over the others are told; by default the first that was compared."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")] = ()
    """Only these tasks; by default all that there are runs of."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="STEPS")] = None
    """Only what was seen until then: a run that has gone on since counts as finished there."""


def run(arguments: Sequence[str]) -> int:
    """Write the report and say where it is."""
    options = parse(ReportOptions, "report", arguments)
    if not options.folders:
        raise SettingsError("Report on what? Such as: forethought report runs.")
    from ..evaluations.report import report

    tasks = options.tasks or None
    written = report(options.folders, options.out, options.title, options.anchors, options.first, tasks, options.steps)
    print(f"page      {written.html}")
    print(f"table     {written.markdown}")
    print(f"figures   {written.results}")
    for plot in written.plots:
        print(f"plot      {plot}")
    return 0
