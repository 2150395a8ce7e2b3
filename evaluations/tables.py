"""Tables that read the same on a terminal, in Markdown and in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns; the first column names the row, the others are figures.

    Attributes:
        columns: heads of the columns.
        rows: one cell per column each.
        title: what the table shows.
        notes: what a reader must know to read it rightly.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()

    def to_markdown(self) -> str:
        """Return the table in Markdown, its title as bold text above and its notes below."""
        widths = [max(2, *map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]  # 2 for a rule
        lines = [self._line(self.columns, widths), self._line(self._rule(widths), widths)]
        lines += [self._line(row, widths) for row in self.rows]
        title = [f"**{self.title}**", ""] if self.title else []
        notes = [part for note in self.notes for part in ("", note)]
        return "\n".join([*title, *lines, *notes]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        rows = [list(row) for row in self.rows]
        return {"columns": list(self.columns), "rows": rows, "title": self.title, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Table:
        """Return what :meth:`to_dict` described."""
        return cls(data["columns"], data["rows"], data["title"], data["notes"])

    def to_rich(self) -> RichTable:
        """Return the table for a rich console."""
        from rich import box
        from rich.table import Table as RichTable

        table = RichTable(title=self.title or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=not index)
        for row in self.rows:
            table.add_row(*row)
        if self.notes:
            table.caption, table.caption_justify = "\n".join(self.notes), "left"
        return table

    @staticmethod
    def _rule(widths: Sequence[int]) -> list[str]:
        return ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    @staticmethod
    def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
        first, *others = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join([first, *others])} |"
