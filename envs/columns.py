"""The columns of an :class:`EpisodeStore`: growing arrays, in memory or in files that are mapped into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError
from ..core.files import write_atomically

Array = NDArray[Any]
PER_ROW = ("observations", "actions", "rewards", "terminated", "successors", "episode_of_row")
PER_EPISODE = ("latest", "closed")
OBSERVATION_DTYPES = ("float32", "uint8")
_FORMAT = 2
_HEADER = "store.json"
_LEAST_CAPACITY = 1024


class Columns:
    """Named arrays that grow together.

    Args:
        observation_shape: of one observation, coded.
        observation_dtype: of its values.
        action_dims: A.
        folder: where one raw file per column and ``store.json`` with the counts are kept, or ``None`` for memory.

    Attributes:
        rows: rows in use.
        episodes: episodes in use.
        data: the columns, with room beyond what is in use; replaced when they grow, so look them up every time.
            Per row: observations (of any shape), actions (A,), rewards, terminated, episode_of_row, and successors: the
            next row of the episode, or ``~episode`` after its last. Per episode: latest, what was observed last, and
            closed, whether it ended.

    Raises:
        CheckpointError: if what ``folder`` holds is damaged, of another version or of other dimensions.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        observation_dtype: np.dtype[Any],
        action_dims: int,
        folder: Path | None = None,
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
        self._kind = {
            "observation_shape": list(observation_shape),
            "observation_dtype": observation_dtype.name,
            "action_dims": action_dims,
        }
        self._folder = folder
        self._maps: dict[str, np.memmap[Any, Any]] = {}
        self.rows, self.episodes = self._counts_in_folder()
        self.data = {name: self._allocate(name, self._used(name)) for name in self._types}
        self._mend()
        self.flush()

    def add_rows(self, count: int) -> NDArray[np.int64]:
        """Make room for ``count`` more rows and return their numbers."""
        self.rows += count
        self._reserve(PER_ROW)
        return np.arange(self.rows - count, self.rows)

    def add_episodes(self, count: int) -> NDArray[np.int64]:
        """Make room for ``count`` more episodes and return their numbers."""
        self.episodes += count
        self._reserve(PER_EPISODE)
        return np.arange(self.episodes - count, self.episodes)

    def used(self) -> dict[str, Array]:
        """Return views of what is in use."""
        return {name: self.data[name][: self._used(name)] for name in self._types}

    def flush(self) -> None:
        """Bring the files up to date, so that opening the folder finds everything added so far."""
        if self._folder is None:
            return
        for mapped in self._maps.values():
            mapped.flush()
        header = {"format": _FORMAT, **self._kind, "rows": self.rows, "episodes": self.episodes}
        write_atomically(self._folder / _HEADER, json.dumps(header, indent=1).encode())

    def _used(self, name: str) -> int:
        return self.episodes if name in PER_EPISODE else self.rows

    def _reserve(self, names: tuple[str, ...]) -> None:
        for name in names:
            old, used = self.data[name], self._used(name)
            if used > len(old):
                self.data[name] = self._allocate(name, max(used, 2 * len(old)))
                if self._folder is None:
                    self.data[name][: len(old)] = old

    def _allocate(self, name: str, capacity: int) -> Array:
        shape, dtype = self._types[name]
        shape = (max(capacity, _LEAST_CAPACITY), *shape)
        if self._folder is None:
            return np.zeros(shape, dtype)
        path = self._folder / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with open(path, "ab") as file:  # append mode creates the file and keeps what it holds
            if file.tell() < needed:
                file.truncate(needed)
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
        for name, (shape, dtype) in self._types.items():
            path = self._folder / f"{name}.bin"
            used = counts[name in PER_EPISODE] * int(np.prod(shape)) * np.dtype(dtype).itemsize
            if not path.exists() or path.stat().st_size < used:
                raise CheckpointError(f"{path} is damaged: missing or shorter than the {used:,} bytes it should hold.")
        return counts

    def _mend(self) -> None:
        """Cut links to rows that were added after the last flush; their episodes are unfinished."""
        beyond = np.flatnonzero(self.used()["successors"] >= self.rows)
        episodes = self.data["episode_of_row"][beyond]
        self.data["latest"][episodes] = self.data["observations"][self.data["successors"][beyond]]
        self.data["successors"][beyond] = ~episodes
        self.data["closed"][episodes] = False


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
        kind = {"observation_shape": shape, "observation_dtype": str(header["observation_dtype"]), "action_dims": dims}
        if kind["observation_dtype"] not in OBSERVATION_DTYPES or not shape or min(*shape, dims) < 1:
            raise ValueError(f"there are no such observations and actions: {kind}")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    return {**numbers, **kind}
