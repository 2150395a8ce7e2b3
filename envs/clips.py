"""Cutting clips out of stored rows: vectorised over clips, one small step per environment step.

The functions work on the store's columns (see :mod:`.store`). A *place* is a row, or ``~episode`` for the latest
observation of an episode, where its rows end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.clip import Clip, ClipSpec
from ..core.errors import SettingsError

Columns = Mapping[str, NDArray[Any]]
Places = NDArray[np.int64]
FADED = 0.1
"""How often experience that has faded is drawn, beside the newest."""
_DRAWS = 16
_RECENCY = 3


def draw_rows(rng: np.random.Generator, count: int, first: int, last: int, fading: float = 0.0) -> Places:
    """Return ``count`` rows in [first, last), each drawn by a share ``fading`` more rarely than the next newer one.

    Down to FADED: rows as old as that, or older, are drawn equally often. Without fading all are.
    """
    rows = last - first
    if not fading:
        return rng.integers(first, last, count)
    newer = min(rows, math.ceil(math.log(FADED) / math.log1p(-fading)))  # rows that still fade
    weight = -math.expm1(newer * math.log1p(-fading)) / fading, FADED * (rows - newer)  # of these, and of the others
    place = rng.random(count) * sum(weight)
    with np.errstate(invalid="ignore", divide="ignore"):  # of what belongs to the older ones
        age = np.log1p(-fading * place) / math.log1p(-fading)
    age = np.where(place < weight[0], age, newer + (place - weight[0]) / FADED)
    return last - 1 - np.minimum(age.astype(np.int64), rows - 1)


def draw_starts(
    columns: Columns, batch: int, block: int, rng: np.random.Generator, first: int, last: int, fading: float = 0.0
) -> Places:
    """Return ``batch`` rows in [first, last) among those whose first block is complete; see :func:`draw_rows`.

    Incomplete are only the newest ``block - 1`` rows of running episodes, so drawing again is cheap.

    Raises:
        SettingsError: if no block is complete yet.
    """
    starts = draw_rows(rng, batch, first, last, fading)
    if block == 1:
        return starts
    for _ in range(_DRAWS):
        bad = np.flatnonzero(~_complete(columns, starts, block, last))
        if not len(bad):
            return starts
        starts[bad] = draw_rows(rng, len(bad), first, last, fading)
    whole = whole_blocks(columns, block, first, last)
    if not len(whole):
        raise SettingsError(f"No block of {block} steps is complete in rows {first} to {last} yet.")
    bad = np.flatnonzero(~_complete(columns, starts, block, last))
    starts[bad] = rng.choice(whole, len(bad))
    return starts


def farthest(rows: Places, successors: Places) -> int:
    """Return by how many rows a successor is after its row at most, 1 where there is none."""
    return int((successors - rows).max(where=successors >= 0, initial=1))


def draw_endings(
    columns: Columns, count: int, steps: int, reach: int, rng: np.random.Generator, first: int, last: int
) -> Places:
    """Return ``count`` rows in [first, last) from which a terminal state is reached within ``steps``, or none at all.

    The end that a row belongs to is mostly a recent one: half of them are among the newest eighth. An agent that hardly
    ever fails any more has to remember how it failed last, beside the many failures of its first steps.

    Args:
        columns: of the store.
        count: how many.
        steps: environment steps; how far each row is from its end is uniform, as far as the episode goes back.
        reach: by how many rows a row's successor is at most after it; see :func:`farthest`.
        rng: where the draws come from.
        first: where the rows to use begin.
        last: where they end.
    """
    ends = first + np.flatnonzero(columns["terminated"][first:last])
    if not len(ends):
        return ends
    age = len(ends) * rng.random(count) ** _RECENCY
    places = ends[len(ends) - 1 - age.astype(np.int64)]
    left = rng.integers(0, steps, count)
    episode_of_row, nearest = columns["episode_of_row"], np.arange(1, reach + 1)
    for step in range(steps - 1):
        before = places[:, None] - nearest
        same = (before >= first) & (episode_of_row[np.maximum(before, 0)] == episode_of_row[places][:, None])
        predecessors = before[np.arange(count), same.argmax(1)]
        places = np.where(same.any(1) & (step < left), predecessors, places)
    return places


def whole_blocks(columns: Columns, block: int, first: int, last: int) -> Places:
    """Return all rows in [first, last) whose first block is complete."""
    return first + np.flatnonzero(_complete(columns, np.arange(first, last), block, last))


def whole_clips(columns: Columns, spec: ClipSpec, last: int) -> Places:
    """Return all rows before ``last`` from which every environment step of a clip was taken, in order."""
    _, taken = _follow(columns["successors"], np.arange(last), spec.length * spec.block, last)
    return np.flatnonzero(taken.all(axis=0))


def cut_clips(columns: Columns, starts: Places, spec: ClipSpec, last: int) -> Clip:
    """Return the clips (see :class:`Clip`) that begin at ``starts`` (B,); rows from ``last`` on do not exist."""
    batch, block = len(starts), spec.block
    path, taken = _follow(columns["successors"], starts, spec.length * block, last)
    valid = _valid(columns, path, taken, block)
    taken = taken.reshape(spec.length, block, batch) & valid[:, None]
    used = taken.reshape(-1, batch).T
    rows = np.where(used, path[:-1].T, 0)
    blocks = (batch, spec.length, block)
    actions = columns["actions"][rows] * used[..., None]
    rewards = (columns["rewards"][rows] * used).reshape(blocks).sum(axis=2)
    terminated = (columns["terminated"][rows] & used).reshape(blocks).any(axis=2)
    return Clip(
        observations=torch.from_numpy(_observations(columns, path[::block].T)),
        actions=torch.from_numpy(actions.reshape(batch, spec.length, -1)),
        rewards=torch.from_numpy(rewards),
        terminated=torch.from_numpy(terminated.astype(np.float32)),
        valid=torch.from_numpy(valid.T.astype(np.float32)),
    )


def _follow(successors: Places, starts: Places, steps: int, last: int) -> tuple[Places, NDArray[np.bool_]]:
    """Return the place before each step and after the last (steps + 1, B), and which steps were taken (steps, B).

    Where the recording ends, at an episode's end or at row ``last``, the path stays.
    """
    path = np.empty((steps + 1, len(starts)), np.int64)
    taken = np.empty((steps, len(starts)), bool)
    path[0] = starts
    for step in range(steps):
        place = path[step]
        taken[step] = (place >= 0) & (place < last)
        path[step + 1] = np.where(taken[step], successors[np.where(taken[step], place, 0)], place)
    return path, taken


def _valid(columns: Columns, path: Places, taken: NDArray[np.bool_], block: int) -> NDArray[np.bool_]:
    """Return (T, B): blocks that began and were completed, or were begun and saw their episode end."""
    if block == 1:
        return taken
    after = path[block::block]
    ended = (after < 0) & columns["closed"][np.where(after < 0, ~after, 0)]
    valid: NDArray[np.bool_] = taken[::block] & (taken[block - 1 :: block] | ended)
    return valid


def _complete(columns: Columns, starts: Places, block: int, last: int) -> NDArray[np.bool_]:
    path, taken = _follow(columns["successors"], starts, block, last)
    first: NDArray[np.bool_] = _valid(columns, path, taken, block)[0]
    return first


def _observations(columns: Columns, places: Places) -> NDArray[np.float32]:
    ended = places < 0
    observations: NDArray[np.float32] = columns["observations"][np.where(ended, 0, places)]
    if ended.any():
        observations[ended] = columns["latest"][~places[ended]]
    return observations
