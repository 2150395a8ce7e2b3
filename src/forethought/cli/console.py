"""What the commands print: tables and lines that read well on a terminal, in a pipe and in a log."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from ..evaluations.tables import Table


def console(stderr: bool = False) -> Console:
    """Return a console on standard output or standard error, as it is now."""
    return Console(stderr=stderr, highlight=False, emoji=False, markup=False)


def is_live(target: Console) -> bool:
    """Whether a display may redraw itself: on a capable terminal that is not a log."""
    return target.is_terminal and not target.is_dumb_terminal and not os.environ.get("CI")


def print_table(table: Table) -> None:
    """Print a table: fitted to a terminal, and as Markdown, which no width breaks, anywhere else."""
    target = console()
    if target.is_terminal:
        target.print(table.to_rich())
    else:
        print(table.to_markdown())


def print_entries(title: str, entries: Sequence[tuple[str, str]]) -> None:
    """Print names, each with a sentence; on a terminal, long sentences are broken beside the names."""
    target, width = console(), max(len(name) for name, _ in entries) + 2
    room = target.width - width - 2 if target.is_terminal else 0
    print(title)
    for name, sentence in entries:
        lines = textwrap.wrap(sentence, room, break_long_words=False) if room > 0 else [sentence]
        print(f"  {name:{width}}" + f"\n{' ' * (width + 2)}".join(lines))


def duration(seconds: float) -> str:
    """Return a time span as ``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
