"""The columns of an :class:`EpisodeStore`: growing arrays, in memory or in files that are mapped into it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError, SettingsError, WriteError
from ..core.files import write_atomically

Array = NDArray[Any]
PER_EPISODE = ("latest", "latest_states", "closed")
OBSERVATION_DTYPES = ("float32", "uint8")
_FORMAT = 3
_HEADER = "store.json"
_LEAST_CAPACITY = 1024


class Columns:
    """Named arrays that grow together.

    Args:
        observation_shape: of one observation, coded.
        observation_dtype: of its values.
        action_dims: A.
        state_dims: S, or 0 for no states.
        folder: where one raw file per column and ``store.json`` with the counts are kept, or ``None`` for memory.
        read_only: leave the files in ``folder`` as they are; what is changed here, changes in memory only.

    Attributes:
        rows: rows in use.
        episodes: episodes in use.
        data: the columns, with room beyond what is in use; replaced when they grow, so look them up every time.
            Per row: observations (of any shape), actions (A,), rewards, terminated, episode_of_row, and successors: the
            next row of the episode, or ``~episode`` after its last; states (S,) where there are any. Per episode:
            latest and latest_states, what was observed last, and closed, whether it ended.

    Raises:
        CheckpointError: if what ``folder`` holds is damaged, of another version or of other dimensions.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        observation_dtype: np.dtype[Any],
        action_dims: int,
        state_dims: int = 0,
        folder: Path | None = None,
        read_only: bool = False,
    ) -> None:
        observation = observation_shape, observation_dtype
        self._types: dict[str, tuple[tuple[int, ...], Any]] = {
            "observations": observation,
            "actions": ((action_dims,), np.float32),
            "rewards": ((), np.float32),
            "terminated": ((), np.bool_),
            "successors": ((), np.int64),
            "episode_of_row": ((), np.int64),
            "latest": observation,
            "closed": ((), np.bool_),
        }
        if state_dims:
            self._types |= dict.fromkeys(("states", "latest_states"), ((state_dims,), np.float64))
        self._kind = {
            "observation_shape": list(observation_shape),
            "observation_dtype": observation_dtype.name,
            "action_dims": action_dims,
            "state_dims": state_dims,
        }
        self._folder, self._read_only = folder, read_only
        self._maps: dict[str, np.memmap[Any, Any]] = {}
        self.rows, self.episodes = self._counts_in_folder()
        self.data = {name: self._allocate(name, self._used(name)) for name in self._types}
        self._mend()
        self.flush()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self._types)

    def look_back(self, rows: int, episodes: int) -> None:
        """Show only the first ``rows`` and ``episodes``."""
        if not self._read_only:
            raise SettingsError("Only a store that is read only can be seen as it was before.")
        if rows > self.rows or episodes > self.episodes:
            raise SettingsError(
                f"The store in {self._folder} holds {self.rows:,} steps of {self.episodes:,} episodes, not "
                f"{rows:,} of {episodes:,}."
            )
        self.rows, self.episodes = rows, episodes

    def make_room(self, rows: int, episodes: int) -> None:
        """Make room for that many more, so that adding them cannot fail.

        Raises:
            WriteError: there is none on the disk.
            SettingsError: the folder was opened to be read only.
        """
        if self._read_only:
            raise SettingsError(f"The store in {self._folder} was opened to be read only.")
        for name in self._types:
            self._reserve(name, self.episodes + episodes if name in PER_EPISODE else self.rows + rows)

    def add_rows(self, count: int) -> NDArray[np.int64]:
        """Add rows, making room where there is none, and return their numbers."""
        self.make_room(count, 0)
        self.rows += count
        return np.arange(self.rows - count, self.rows)

    def add_episodes(self, count: int) -> NDArray[np.int64]:
        """Add episodes, making room where there is none, and return their numbers."""
        self.make_room(0, count)
        self.episodes += count
        new = np.arange(self.episodes - count, self.episodes)
        self.data["closed"][new] = False  # whatever a crash has left there
        return new

    def used(self) -> dict[str, Array]:
        """Return views of what is in use."""
        return {name: self.data[name][: self._used(name)] for name in self._types}

    def flush(self) -> None:
        """Bring the files up to date, so that opening the folder finds everything added so far."""
        if self._folder is None or self._read_only:
            return
        for mapped in self._maps.values():
            mapped.flush()
        header = {"format": _FORMAT, **self._kind, "rows": self.rows, "episodes": self.episodes}
        write_atomically(self._folder / _HEADER, json.dumps(header, indent=1).encode())

    def _used(self, name: str) -> int:
        return self.episodes if name in PER_EPISODE else self.rows

    def _reserve(self, name: str, count: int) -> None:
        old = self.data[name]
        if count <= len(old):
            return
        if self._folder is None:
            self.data[name] = self._allocate(name, max(count, 2 * len(old)))
            self.data[name][: len(old)] = old
        else:
            self.data[name] = self._allocate(name, count + count // 8)  # room on the disk is dear, growing it is not

    def _bytes(self, name: str, count: int) -> int:
        shape, dtype = self._types[name]
        return count * int(np.prod(shape)) * np.dtype(dtype).itemsize

    def _allocate(self, name: str, capacity: int) -> Array:
        shape, dtype = self._types[name]
        if self._read_only and self._folder is not None:
            path = self._folder / f"{name}.bin"
            held = path.stat().st_size // self._bytes(name, 1)  # all, because links may lead beyond the count
            return np.asarray(np.memmap(path, dtype, "c", shape=(held, *shape)))
        shape = (max(capacity, _LEAST_CAPACITY), *shape)
        if self._folder is None:
            return np.zeros(shape, dtype)
        path = self._folder / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        _grow(path, self._bytes(name, shape[0]))
        self._maps[name] = np.memmap(path, dtype, "r+", shape=shape)
        return np.asarray(self._maps[name])  # a plain view of it: indexing a memmap costs several times as much

    def _counts_in_folder(self) -> tuple[int, int]:
        header = None if self._folder is None else read_header(self._folder)
        if self._folder is None or header is None:
            return 0, 0
        found = {name: header[name] for name in self._kind}
        if found != self._kind:
            raise CheckpointError(f"The store in {self._folder} has {found}, not {self._kind}.")
        counts = header["rows"], header["episodes"]
        for name in self._types:
            path = self._folder / f"{name}.bin"
            used = self._bytes(name, counts[name in PER_EPISODE])
            if not path.exists() or path.stat().st_size < used:
                raise CheckpointError(f"{path} is damaged: missing or shorter than the {used:,} bytes it should hold.")
        return counts

    def _mend(self) -> None:
        """Cut links to rows that were added after the last flush; their episodes are unfinished."""
        beyond = np.flatnonzero(self.used()["successors"] >= self.rows)
        episodes = self.data["episode_of_row"][beyond]
        for kept, latest in (("observations", "latest"), ("states", "latest_states")):
            if kept in self._types:
                self.data[latest][episodes] = self.data[kept][self.data["successors"][beyond]]
        self.data["successors"][beyond] = ~episodes
        self.data["closed"][episodes] = False


def _grow(path: Path, size: int) -> None:
    """Make a file at least as large, on the disk too: where it lacked room, writing to the map would kill the process.

    Raises:
        WriteError: there is no room.
    """
    try:
        with open(path, "ab") as file:  # append mode creates the file and keeps what it holds
            if file.tell() >= size:
                return
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        raise WriteError(f"Could not write {path} ({size:,} bytes): {error.strerror}.") from error


def read_header(folder: Path) -> dict[str, Any] | None:
    """Return the kind of observations and actions and the counts of the store in ``folder``, if there is one."""
    path = folder / _HEADER
    if not path.exists():
        return None
    try:
        header = json.loads(path.read_bytes())
        numbers = {name: int(header[name]) for name in ("format", "rows", "episodes")}
        if numbers["format"] != _FORMAT or min(numbers.values()) < 0:
            raise CheckpointError(f"{path} is of format {numbers['format']}, or damaged; this version reads {_FORMAT}.")
        shape, dims = [int(size) for size in header["observation_shape"]], int(header["action_dims"])
        dtype, states = str(header["observation_dtype"]), int(header["state_dims"])
        kind = {"observation_shape": shape, "observation_dtype": dtype, "action_dims": dims, "state_dims": states}
        if dtype not in OBSERVATION_DTYPES or not shape or min(*shape, dims) < 1 or states < 0:
            raise ValueError(f"there are no such observations and actions: {kind}")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    return {**numbers, **kind}
