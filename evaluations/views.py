"""How a comparison stands: one view that redraws itself on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .jobs import Job
from .statistics import number

_STYLES = {"running": "cyan", "finished": "green", "skipped": "dim", "interrupted": "yellow", "failed": "bold red"}
_SHOWN_WAITING = 3


class ComparisonView:
    """Shows all runs of a comparison; pass it as ``on_change`` to :func:`~.compare.compare`, inside a ``with`` block.

    Args:
        console: where to show it; standard error by default.
        live: redraw in place; by default where the console is a terminal that can.

    Attributes:
        all_done: whether all runs were finished when it was last called.
    """

    def __init__(self, console: Console | None = None, live: bool | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        redraws = self._console.is_terminal and not self._console.is_dumb_terminal if live is None else live
        self._live = Live(console=self._console, refresh_per_second=4) if redraws else None
        self._began = time.monotonic()
        self.all_done = False
        self._told: dict[str, float | None] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, jobs: Sequence[Job], changed: Job | None) -> None:
        """Show how ``jobs`` stand; ``changed`` has just begun or ended."""
        self.all_done = all(job.state in ("finished", "skipped") for job in jobs)
        if self._live is not None:
            self._live.update(self._picture(jobs))
            return
        if changed is not None:
            self._say(changed, f"{changed.state}{f': {changed.reason}' if changed.reason else ''}")
        for job in jobs:
            if job.state == "running" and job.last_return != self._told.get(job.name):
                self._say(job, f"step {job.step:,} of {job.settings.steps:,}, return {_return(job)}")
                self._told[job.name] = job.last_return

    def _say(self, job: Job, what: str) -> None:
        self._console.print(
            f"[{_clock(time.monotonic() - self._began)}] {job.name}: {what}", markup=False, soft_wrap=True
        )

    def _picture(self, jobs: Sequence[Job]) -> Group:
        ended = [job for job in jobs if job.state not in ("waiting", "running")]
        waiting = [job for job in jobs if job.state == "waiting"]
        table = Table.grid(padding=(0, 2))
        for job in [job for job in jobs if job.state != "waiting"] + waiting[:_SHOWN_WAITING]:
            bar = ProgressBar(total=job.settings.steps, completed=job.step, width=24)
            state = Text(job.state, style=_STYLES.get(job.state, "dim"))
            table.add_row(job.name, bar, f"{job.step:>9,}", f"return {_return(job)}" if job.last_return else "", state)
        more = f", {len(waiting)} waiting" if waiting else ""
        head = f"{len(ended)} of {len(jobs)} runs done{more}, {_clock(time.monotonic() - self._began)}"
        return Group(Text(head, style="bold"), table)


def _return(job: Job) -> str:
    return "unknown" if job.last_return is None else number(job.last_return)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
