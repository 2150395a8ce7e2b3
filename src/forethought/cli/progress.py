"""How a training stands: a display that redraws itself on a terminal, and now and then a line anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .console import console, duration, is_live

if TYPE_CHECKING:
    from ..evaluations.settings import Progress

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Shows steps, pace, time left, last return and losses; called with each :class:`~forethought.evaluations` report.

    It writes to standard error, so that standard output holds results only.
    """

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if is_live(self._console) else None
        self._printed = float("-inf")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``."""
        if self._live is not None:
            self._live.update(_panel(progress), refresh=True)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES or progress.step >= progress.steps:
            self._printed = time.monotonic()
            self._console.print(_line(progress), soft_wrap=True)


def _line(progress: Progress) -> str:
    """Return everything in one line."""
    return " · ".join([f"{progress.unit} {progress.step:,}/{progress.steps:,}", *_facts(progress)])


def _panel(progress: Progress) -> Table:
    """Return everything as a bar, and below it the facts, broken to the terminal's width."""
    table = Table.grid()
    table.add_row(ProgressBar(total=progress.steps, completed=progress.step, width=40))
    table.add_row(Text(_line(progress)))
    return table


def _facts(progress: Progress) -> list[str]:
    facts = []
    if progress.steps_per_second:
        facts.append(f"{progress.steps_per_second:.3g} {progress.unit}s/s")
    if progress.activity != "learning":
        facts.append(progress.activity)
    elif progress.seconds_left is not None:
        facts.append(f"{duration(progress.seconds_left)} left")
    if progress.last_return is not None:
        facts.append(f"return {progress.last_return:,.1f}")
    short = {name: name.removesuffix("_loss") for name in progress.losses}
    shown = {name: name if short[name] in progress.losses else short[name] for name in short}  # SAC has both
    losses = [f"{shown[name]} {value:.3g}" for name, value in progress.losses.items()]
    return [*facts, *(["losses: " + ", ".join(losses)] if losses else [])]
