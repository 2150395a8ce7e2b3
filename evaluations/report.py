"""report: one self-contained HTML page, its plots and a Markdown table, made of nothing but run folders."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import CheckpointError
from ..core.files import read_json, write_atomically, write_json
from . import page, plots
from .cells import Cell
from .compare import read_comparison, summarise_folders
from .results import PLANNERS_FILE, RunResult
from .statistics import number
from .summary import Summary, TaskSummary
from .tables import Table

_FILM_SUFFIXES = (".gif", ".mp4")


@dataclass(frozen=True)
class Report:
    """Where a report was written.

    Attributes:
        html: the page; it holds everything and can be sent around alone.
        markdown: tables and links to the plots beside it.
        results: the figures as JSON, scores as arrays over seeds.
        plots: PNG files.
    """

    html: Path
    markdown: Path
    results: Path
    plots: Sequence[Path]


def report(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    title: str | None = None,
    anchors: Mapping[str, float] | None = None,
    first: str | None = None,
    tasks: Sequence[str] | None = None,
    steps: int | None = None,
) -> Report:
    """Write what the runs in ``folders`` show; a run in progress is shown as far as it has come.

    Args:
        folders: run folders, or folders that hold some at any depth, such as a comparison's.
        output: folder for the report; by default ``report`` inside the first of ``folders``.
        title: headline; by default the agents and tasks.
        anchors: returns that count as 1 in normalised scores, by task, instead of what the comparisons have noted.
        first: the agent that comes first, whose leads over the others are told.
        tasks: only these, in this order; all by default.
        steps: only what was seen until then, as if no run had gone on.

    Raises:
        RunFolderError: a folder that does not exist or holds no run.
        UnknownNameError: there is no run of the agent that is to come first, or of one of the tasks.
        SettingsError: an anchor of a task that there is no run of.
        WriteError: where the report cannot be written.
    """
    roots = [Path(folder) for folder in ([folders] if isinstance(folders, str | os.PathLike) else folders)]
    summary = summarise_folders(roots, anchors=anchors, first=first, tasks=tasks, steps=steps)
    target = Path(output) if output is not None else roots[0] / "report"
    drawn = {name: (light, dark) for name, light, dark in _draw(summary)}
    for name, (light, _) in drawn.items():
        write_atomically(target / f"{name}.png", light)
    written = Report(
        target / "report.html", target / "report.md", target / "results.json", [target / f"{n}.png" for n in drawn]
    )
    headline = title or _headline(summary)
    body = [page.notes("Before believing it", summary.notes)]
    body += [_task_section(summary, task, drawn) for task in summary.tasks]
    if overall := summary.overall_tables():
        picture = [page.picture(*drawn["all_tasks"], "normalised scores")] if "all_tasks" in drawn else []
        body.append(page.section("All tasks", [*picture, *(page.table(table) for table in overall)]))
    body.append(_provenance(summary, roots))
    write_atomically(written.html, page.page(headline, _subtitle(summary), body).encode())
    links = "\n".join(f"![{name.replace('_', ' ')}]({name}.png)\n" for name in drawn)
    runs = [run for task in summary.tasks for cell in task.cells for run in cell.runs]
    swapped = "\n".join(table.to_markdown() for run in runs for table in _planner_tables(run))
    write_atomically(written.markdown, f"# {headline}\n\n{summary.to_markdown()}\n{swapped}\n{links}".encode())
    write_json(written.results, summary.to_dict())
    return written


_FIGURES = (
    ("learning_curve", plots.learning_curves, "returns"),
    ("cpu_time", plots.return_against_cpu, "returns"),
    ("memory", plots.memory, "memory_mb"),
)


def _draw(summary: Summary) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield each plot's name, and the plot on light and on dark ground."""
    for task in summary.tasks:
        name = _file_name(task.task)
        for kind, draw, of in _FIGURES:
            if any(cell.curve(of=of) for cell in task.cells):
                light, dark = (plots.to_png(draw(summary, task, theme)) for theme in (plots.LIGHT, plots.DARK))
                yield f"{kind}_{name}", light, dark
    if summary.overall:
        light, dark = (plots.to_png(plots.overall_scores(summary, theme)) for theme in (plots.LIGHT, plots.DARK))
        yield "all_tasks", light, dark


def _task_section(summary: Summary, task: TaskSummary, drawn: dict[str, tuple[bytes, bytes]]) -> str:
    colour_of, name = plots.colours(summary), _file_name(task.task)
    parts = [page.cards([_card(cell, colour_of[cell.label]) for cell in task.cells])]
    if f"learning_curve_{name}" in drawn:
        parts.append(page.picture(*drawn[f"learning_curve_{name}"], f"learning curves on {task.task}"))
    parts.append(page.table(task.table(), heading=False))
    parts.append(page.films([film for cell in task.cells for film in _films(cell)[:1]]))
    if f"cpu_time_{name}" in drawn:
        parts.append(page.picture(*drawn[f"cpu_time_{name}"], f"return against CPU time on {task.task}"))
    if f"memory_{name}" in drawn:
        parts.append(page.picture(*drawn[f"memory_{name}"], f"memory of training on {task.task}"))
    parts += [page.table(table) for table in task.tables()[1:]]
    parts += [page.table(table) for cell in task.cells for run in cell.runs for table in _planner_tables(run)]
    horizon = f" at {task.horizon:,.0f} steps" if task.horizon else ""
    return page.section(f"{task.task}{horizon}", parts)


def _card(cell: Cell, colour: str) -> tuple[str, str, str, str]:
    score = cell.score()
    if score is None:
        return cell.label, colour, "no claim", cell.refusal or ""
    spread = f"{number(score.low)} to {number(score.high)}" if score.low is not None and score.high is not None else ""
    seeds = f"{score.n} seeds" if score.n > 1 else "a single seed, no interval"
    return cell.label, colour, number(score.value), f"{spread}{', ' if spread else ''}{seeds}"


def _films(cell: Cell) -> list[tuple[Path, str]]:
    return [
        (path, f"{cell.label}, seed {run.settings.seed}")
        for run in cell.runs
        if run.whole
        for path in sorted((run.folder / "videos").glob("*"))
        if path.suffix in _FILM_SUFFIXES and not path.name.startswith(".")
    ]


def _planner_tables(run: RunResult) -> list[Table]:
    path = run.folder / PLANNERS_FILE
    if not run.whole or not path.exists():
        return []
    try:
        kept = Table.from_dict(read_json(path)["table"])
    except (CheckpointError, KeyError, TypeError):
        return []  # written by hand or by another version: the rest of the report does not depend on it
    return [Table(kept.columns, kept.rows, f"Swapping the planner of {run.name}", kept.notes)]


def _provenance(summary: Summary, roots: Sequence[Path]) -> str:
    runs = [run for task in summary.tasks for cell in task.cells for run in cell.runs]
    commands = [noted["command"] for noted in map(read_comparison, roots) if "command" in noted]
    commands = commands or list(dict.fromkeys(_command(run) for run in runs))
    starts = [start for run in runs for start in run.manifest.get("starts", [])]
    versions = {
        f"{name} {version}" for start in starts for name, version in start.get("versions", {}).items() if version
    }
    machines = {f"{start.get('platform')}, {start.get('cores')} cores" for start in starts}
    commits = {commit for run in runs for commit in run.commits}
    facts = [
        ("versions", ", ".join(sorted(versions))),
        ("machine", "; ".join(sorted(machines))),
        *([("commit", "; ".join(sorted(commits)))] if commits else []),
    ]
    listed = Table(
        ("run", "status", "steps", "return at the end", "CPU time", "folder"),
        [
            (
                run.name,
                run.status,
                f"{run.steps[-1]:,.0f}" if len(run.steps) else "0",
                number(run.returns[-1]) if len(run.returns) else "",
                f"{run.cpu_seconds[-1]:,.0f} s" if len(run.cpu_seconds) else "",
                str(run.folder),
            )
            for run in runs
        ],
    )
    settings = {
        run.variant: json.dumps(run.settings.to_dict() | {"agent_settings": run.agent_settings}, indent=2)
        for run in reversed(runs)  # the first of each stays
    }
    parts = [page.code(commands), page.facts(facts), page.details(f"All {len(runs)} runs", page.table(listed))]
    parts.append(
        page.details(
            "Settings of each agent, as in its first run", "".join(page.code([s]) for s in reversed(settings.values()))
        )
    )
    return page.section("How it was made", parts)


def _command(run: RunResult) -> str:
    s = run.settings
    if "command" in run.manifest:
        return str(run.manifest["command"])
    return f"forethought train {s.task} --agent {s.agent} --steps {s.steps} --seed {s.seed}"


def _headline(summary: Summary) -> str:
    agents = list(dict.fromkeys(cell.label for task in summary.tasks for cell in task.cells))
    tasks = [task.task for task in summary.tasks]
    return f"{_listed(agents)} on {_listed(tasks) if len(tasks) <= 3 else f'{len(tasks)} tasks'}"


def _subtitle(summary: Summary) -> str:
    runs = [run for task in summary.tasks for cell in task.cells for run in cell.runs]
    finished = sum(run.status == "finished" for run in runs)
    written = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime())
    return f"{finished} of {len(runs)} runs finished  ·  written {written.lstrip('0')}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "_", task)
