"""Segments of a store: rows never change, so a run writes each of them once, and its checkpoints name what they need.

The functions work on the store's columns (see :mod:`.store`). Segments that follow each other hold all of its rows.
Which row follows which is left out, because the episodes of the rows say it already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError
from .columns import PER_EPISODE, Columns

Array = NDArray[Any]


def cut_segment(columns: Columns, first: int) -> dict[str, Array]:
    """Return a copy of the rows from ``first`` on, and of what their E episodes showed last (E, ...), in order."""
    data, (per_row, per_episode) = columns.used(), _names(columns)
    rows = {name: data[name][first:].copy() for name in per_row}
    episodes = np.unique(rows["episode_of_row"])
    return {**rows, **{name: data[name][episodes] for name in per_episode}}


def add_segment(columns: Columns, segment: Mapping[str, Array]) -> None:
    """Append the rows of ``segment``, which the next :func:`link_rows` then connects.

    Raises:
        CheckpointError: if arrays are missing, of other dimensions, or do not fit each other or the rows before them.
    """
    per_row, per_episode = _names(columns)
    require_like(segment, {name: columns.data[name][:0] for name in per_row + per_episode})
    episodes = np.unique(segment["episode_of_row"])
    began = episodes[episodes >= columns.episodes]
    lengths = {len(segment[name]) for name in per_row}
    if (
        len(lengths) > 1
        or any(len(episodes) != len(segment[name]) for name in per_episode)
        or (episodes < 0).any()
        or (began != np.arange(columns.episodes, columns.episodes + len(began))).any()  # numbered as they began
    ):
        raise CheckpointError("The stored experience is inconsistent: its rows and episodes do not fit each other.")
    columns.add_episodes(len(began))
    rows = columns.add_rows(lengths.pop())
    for name in per_row:
        columns.data[name][rows] = segment[name]
    for name in per_episode:
        columns.data[name][episodes] = segment[name]


def _names(columns: Columns) -> tuple[list[str], list[str]]:
    """Return the columns that a segment holds, per row and per episode."""
    held = [name for name in columns.names if name not in ("successors", "closed")]
    return [name for name in held if name not in PER_EPISODE], [name for name in held if name in PER_EPISODE]


def link_rows(columns: Columns) -> NDArray[np.int64]:
    """Point each row to the next one of its episode, and return the last row of every episode."""
    data = columns.used()
    order = np.argsort(data["episode_of_row"], kind="stable")
    episodes = data["episode_of_row"][order]
    ends = np.diff(episodes, append=-1) != 0
    data["successors"][order] = np.where(ends, ~episodes, np.roll(order, -1))
    last: NDArray[np.int64] = order[ends]
    return last


def require_like(arrays: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Raise :class:`CheckpointError` unless ``arrays`` are like those ``expected``; empty ones stand for any length."""
    if missing := [name for name in expected if name not in arrays]:
        raise CheckpointError(f"The stored experience lacks {', '.join(missing)}.")
    for name, like in expected.items():
        found = arrays[name]
        shape = like.shape if len(like) else (*found.shape[:1], *like.shape[1:])
        if found.shape != shape or found.dtype != like.dtype:
            raise CheckpointError(
                f"The stored experience does not fit: {name} is {found.dtype}{found.shape}, not {like.dtype}{shape}."
            )
