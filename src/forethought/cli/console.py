"""What the commands print: tables and lines that read well on a terminal, in a pipe and in a log."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleDimensions
from rich.measure import Measurement

if TYPE_CHECKING:
    from ..evaluations.tables import Table

MIN_WIDTH = 24
"""Fewest columns in which a sentence can be read."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fall silent where rich would end the program: training is not done for those who watch it."""
        self.quiet = True


def console(stderr: bool = False) -> Console:
    """Return a console on standard output or standard error, as it is now."""
    target = _Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if target.is_dumb_terminal:  # for which rich assumes 80 columns
        target.size = ConsoleDimensions(*shutil.get_terminal_size())
    return target


def is_live(target: Console) -> bool:
    """Whether a display may redraw itself: on a capable terminal that is not a log."""
    return target.is_terminal and not target.is_dumb_terminal and not os.environ.get("CI")


def print_table(table: Table) -> None:
    """Print a table: as Markdown, which no width breaks, in a pipe; row by row on a terminal too narrow for it."""
    target = console()
    if not target.is_terminal:
        print(table.to_markdown())
        return
    fitted = table.to_rich()
    if Measurement.get(target, target.options.update(max_width=10_000), fitted).minimum <= target.width:
        target.print(fitted)
        return
    target.print(table.title)
    for first, *others in table.rows:
        target.print(first)
        for column, cell in zip(table.columns[1:], others, strict=True):
            if cell:
                target.print(f"  {column}: {cell}")
    for note in table.notes:
        target.print(note)


def print_entries(title: str, entries: Sequence[tuple[str, str]]) -> None:
    """Print names, each with a sentence beside it, or below it on a terminal that has no room beside."""
    target, indent = console(), max(len(name) for name, _ in entries) + 4
    print(title)
    for name, sentence in entries:
        if not target.is_terminal:
            print(f"  {name:{indent - 4}}  {sentence}")
        elif target.width - indent < MIN_WIDTH:
            print("\n".join([f"  {name}", *textwrap.wrap(sentence, target.width - 4)]).replace("\n", "\n    "))
        else:
            lines = textwrap.wrap(sentence, target.width - indent)
            print(f"  {name:{indent - 4}}  " + f"\n{' ' * indent}".join(lines))


def duration(seconds: float) -> str:
    """Return a time span as ``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
