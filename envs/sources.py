"""Sources: recorded episodes in the files of others, from which a store can be filled.

Three kinds are known: HDF5 files in the layout of LeWorldModel, Minari datasets, and Lance tables as stable-worldmodel
writes them. Which one it is shows in the files. Nothing in them is executed, and one episode at a time is read.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError, FaultyEpisodeError, SettingsError, did_you_mean

Array = NDArray[Any]
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
INDEX_COLUMNS = ("episode_idx", "ep_idx")
"""Names of the column that says to which episode a row belongs."""
_HDF5_SUFFIXES = (".h5", ".hdf5")
_PACKED_SUFFIXES = (".zst", ".tar", ".tgz", ".gz", ".zip", ".xz")
_MINARI_ID = re.compile(r"([\w-]+/)*[\w-]+-v\d+")
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class SourceColumn:
    """What is recorded at every observation.

    Attributes:
        name: of the column.
        shape: of one row.
        dtype: of its values.
        space: from which a row comes, where the source says it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    space: gym.Space[Any] | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {self.dtype}"


@dataclass(frozen=True)
class Outcome:
    """What was done in an episode of T steps, and what came of it.

    Attributes:
        actions: (T, ...), native ones.
        rewards: (T,); zeros where there are none.
        terminated: whether it reached a terminal state.
        truncated: whether it was cut.
    """

    actions: Array
    rewards: Array
    terminated: bool
    truncated: bool


class Source(ABC):
    """Recorded episodes, numbered from 0.

    Attributes:
        kind: hdf5, minari or lance.
        path: where it is.
        lengths: observations of each episode; an episode of L observations has L - 1 steps.
        columns: what can be observed, or be the true state, by name.
        action_shape: of a native action.
        action_dtype: of its values.
        action_space: of the environment, where the source says it.
        task: Gymnasium id of the environment, where the source says it.
        default_observations: columns that hold what is observed by default; none where that is not clear.
    """

    kind: str
    path: Path
    lengths: NDArray[np.int64]
    columns: dict[str, SourceColumn]
    action_shape: tuple[int, ...]
    action_dtype: np.dtype[Any]
    action_space: gym.Space[Any] | None = None
    task: str | None = None
    default_observations: tuple[str, ...] = ()

    def column(self, name: str) -> SourceColumn:
        """Return the column ``name``.

        Raises:
            SettingsError: there is none; the message lists them.
        """
        if name not in self.columns:
            raise SettingsError(f"{self.path} has no column {name!r}.{did_you_mean(name, self.columns)}")
        return self.columns[name]

    def list_columns(self) -> str:
        """Return all columns, with shapes and types, in one line."""
        return ", ".join(map(str, self.columns.values())) or "none"

    @abstractmethod
    def rows(self, episode: int, column: str, first: int, last: int) -> Array:
        """Return (last - first, ...), a column at the observations ``first`` to ``last`` of an episode.

        Raises:
            FaultyEpisodeError: they cannot be read.
        """

    @abstractmethod
    def outcome(self, episode: int) -> Outcome:
        """Return what was done in an episode; raises as :meth:`rows` does."""

    def action_range(self) -> tuple[float, float] | None:
        """Return the lowest and the highest action of all, where finding out takes no more than reading them."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    @contextmanager
    def reading(self, episode: int) -> Iterator[None]:
        """Turn whatever a library raises on an episode that it cannot read into one :class:`FaultyEpisodeError`."""
        try:
            yield
        except (CheckpointError, MemoryError):
            raise
        except Exception as error:
            detail = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise FaultyEpisodeError(f"Episode {episode} of {self.path} cannot be read: {detail}.") from error


class FlatSource(Source):
    """Columns of rows, one per observation, the episodes one after the other.

    The action of a row is taken at its observation, and that of an episode's last row, often NaN, never was. Reward and
    ending of a row came with its observation, so the first reward of an episode is nobody's.
    """

    offsets: NDArray[np.int64]
    """Row at which each episode begins."""

    @abstractmethod
    def _slice(self, column: str, first: int, last: int) -> Array:
        """Return the rows ``first`` to ``last`` of a column."""

    def rows(self, episode: int, column: str, first: int, last: int) -> Array:
        """Return a column at the observations ``first`` to ``last`` of an episode."""
        offset = int(self.offsets[episode])
        with self.reading(episode):
            return self._slice(column, offset + first, offset + last)

    def outcome(self, episode: int) -> Outcome:
        """Return what was done in an episode."""
        length = int(self.lengths[episode])
        ended = {name: self._flag(episode, name) for name in ("terminated", "truncated")}
        rewards = np.zeros(length - 1)
        if self._is_number("reward"):
            rewards = self.rows(episode, "reward", 1, length).reshape(-1)
        return Outcome(self.rows(episode, "action", 0, length - 1), rewards, **ended)

    def action_range(self) -> tuple[float, float] | None:
        """Return the lowest and the highest action of all."""
        lowest, highest = np.inf, -np.inf
        never_taken = self.offsets + self.lengths - 1
        end = int((self.offsets + self.lengths).max(initial=0))
        for first in range(0, end, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, end)
            try:
                actions = self._slice("action", first, last)
            except Exception:  # noqa: S112  told when its episode is read
                continue
            taken = np.ones(len(actions), bool)
            taken[never_taken[(never_taken >= first) & (never_taken < last)] - first] = False
            actions = actions[taken]
            actions = actions[np.isfinite(actions)].astype(np.float64)
            lowest, highest = min(lowest, actions.min(initial=np.inf)), max(highest, actions.max(initial=-np.inf))
        return (float(lowest), float(highest)) if lowest <= highest else None

    def _flag(self, episode: int, name: str) -> bool:
        if not self._is_number(name):
            return False
        last = int(self.lengths[episode])
        return bool(self.rows(episode, name, last - 1, last).reshape(-1)[0] > 0)  # NaN says no

    def _is_number(self, name: str) -> bool:
        return name in self.columns and int(np.prod(self.columns[name].shape)) == 1

    def _describe(self, columns: dict[str, SourceColumn]) -> None:
        """Take up the columns, the action's among them.

        Raises:
            CheckpointError: there are no actions.
        """
        self.columns = columns
        if "action" not in columns:
            raise CheckpointError(
                f"{self.path} has no column 'action', and without actions there is nothing to learn. Its columns: "
                f"{self.list_columns()}."
            )
        self.action_shape, self.action_dtype = columns["action"].shape, columns["action"].dtype
        views = [name for name in columns if name.startswith("pixels_")]
        for candidates in (["pixels"], views, ["observation"]):
            if any(name in columns for name in candidates):  # of several views, none is the obvious one
                self.default_observations = tuple(candidates) if len(candidates) == 1 else ()
                break


def episodes_of(index: Array, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths and offsets of the episodes whose rows carry the numbers ``index`` (rows,).

    Raises:
        CheckpointError: an episode's rows do not follow each other.
    """
    index = np.asarray(index).reshape(-1)
    offsets = np.flatnonzero(np.diff(index, prepend=index[:1] - 1)).astype(np.int64)
    if len(np.unique(index[offsets])) < len(offsets):
        raise CheckpointError(f"{path} is not in order: the rows of some episode do not follow each other.")
    return np.diff(offsets, append=len(index)), offsets


def open_source(source: str | os.PathLike[str]) -> Source:
    """Open recorded episodes, of whichever kind they are.

    Args:
        source: an HDF5 file; the folder of a Minari dataset, or its id where it has been downloaded; a Lance table or
            the folder of a database that holds one.

    Raises:
        SettingsError: there is nothing, or nothing of a known kind.
        MissingExtraError: the libraries for this kind are not installed.
        CheckpointError: it is damaged, locked, or of another layout.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _open_file(path)
    if path.is_dir():
        return _open_folder(path)
    if _MINARI_ID.fullmatch(str(source)):
        root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
        if (root / source / "data").is_dir():
            return _open_folder(root / source)
        raise SettingsError(f"There is no {source}, in {root} neither. Fetch it first: minari download {source}")
    raise SettingsError(f"There is no {source}.")


def _open_file(path: Path) -> Source:
    if path.parent.joinpath("metadata.json").is_file():  # a Minari dataset's data
        return _open_folder(path.parent)
    if path.suffix.lower() in _PACKED_SUFFIXES:
        raise SettingsError(f"{path} is packed; unpack it first, with zstd -d (.zst), tar -xf (.tar) or unzip (.zip).")
    try:
        with open(path, "rb") as file:
            signature = file.read(len(HDF5_SIGNATURE))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if signature == HDF5_SIGNATURE:
        from .source_hdf5 import HDF5Source

        return HDF5Source(path)
    if path.suffix.lower() in _HDF5_SUFFIXES:
        raise CheckpointError(f"{path} is damaged: it does not begin as an HDF5 file does.")
    raise SettingsError(f"{path} is no HDF5 file, the one kind of file that can be imported.")


def _open_folder(path: Path) -> Source:
    for data in (path, path / "data"):
        if (data / "metadata.json").is_file():
            from .source_minari import MinariSource

            return MinariSource(data)
    if (path / "_versions").is_dir():
        from .source_lance import LanceSource

        return LanceSource(path)
    if (path / "store.json").is_file():
        raise SettingsError(f"{path} is a store already: forethought pretrain {path}")
    inside = sorted(path.iterdir())
    tables = [item for item in inside if item.suffix == ".lance" and not item.stem.endswith("_episodes")]
    found = tables + [item for item in inside if item.suffix.lower() in _HDF5_SUFFIXES]
    if len(found) == 1:
        return open_source(found[0])
    if found:
        raise SettingsError(f"{path} holds several: choose one of {', '.join(map(str, found))}.")
    raise SettingsError(f"{path} holds nothing that can be imported: no HDF5 file, Minari dataset or Lance table.")
