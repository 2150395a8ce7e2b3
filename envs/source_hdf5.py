"""HDF5 files in the layout of LeWorldModel: a dataset per column, and where each episode begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError, missing_extra
from .sources import INDEX_COLUMNS, FlatSource, SourceColumn, episodes_of

_CACHE_BYTES = 64 * 2**20
"""For decompressed chunks, which may be longer than what is read at a time."""


class HDF5Source(FlatSource):
    """The episodes in one file: columns of rows, ``ep_len`` and ``ep_offset``, or the number of each row's episode.

    Args:
        path: of the file.

    Raises:
        MissingExtraError: h5py or hdf5plugin, which decompresses Blosc, is not installed.
        CheckpointError: the file is damaged, locked, or of another layout.
    """

    kind = "hdf5"

    def __init__(self, path: Path) -> None:
        try:
            import h5py
            import hdf5plugin  # noqa: F401  makes its filters known to h5py
        except ImportError as error:
            raise missing_extra("Reading HDF5", "hdf5") from error
        self.path = path.resolve()
        with _opening(path):
            self._file = h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES)
        try:
            with _opening(path):
                self._look({name: item for name, item in self._file.items() if isinstance(item, h5py.Dataset)})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _look(self, tables: dict[str, Any]) -> None:
        self.lengths, self.offsets = self._episodes(tables)
        rows = int((self.offsets + self.lengths).max(initial=0))
        if "action" in tables and len(tables["action"]) < rows:
            raise CheckpointError(
                f"{self.path} is incomplete: its episodes have {rows:,} rows, and only {len(tables['action']):,} "
                "actions were written."
            )
        index = ("ep_len", "ep_offset", "step_idx", *INDEX_COLUMNS)
        self._describe(
            {
                name: SourceColumn(name, table.shape[1:], table.dtype)
                for name, table in tables.items()
                if name not in index and table.ndim and len(table) >= rows and table.dtype.kind in "biuf"
            }
        )

    def _episodes(self, tables: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if "ep_len" in tables and "ep_offset" in tables:
            lengths, offsets = (np.asarray(tables[name][()], np.int64) for name in ("ep_len", "ep_offset"))
            if (
                lengths.shape != offsets.shape
                or lengths.ndim != 1
                or min(lengths.min(initial=0), offsets.min(initial=0)) < 0
            ):
                raise CheckpointError(f"{self.path} is damaged: ep_len and ep_offset do not fit each other.")
            return lengths, offsets
        for name in INDEX_COLUMNS:
            if name in tables:
                return episodes_of(tables[name][()], self.path)
        raise CheckpointError(
            f"{self.path} is not laid out as LeWorldModel's files are: it says where no episode begins, by ep_len and "
            f"ep_offset or by {INDEX_COLUMNS[0]}. It holds: {', '.join(self._file) or 'nothing'}."
        )

    def _slice(self, column: str, first: int, last: int) -> NDArray[Any]:
        return np.asarray(self._file[column][first:last])


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Say in a sentence why a file cannot be opened."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())
        if "truncated" in said:
            reason = "is truncated: it is shorter than it says. Fetch it again"
        elif isinstance(error, BlockingIOError) or "unable to lock" in said:
            reason = (
                "is locked: another process is writing it. Wait for it; on file systems without locks, set "
                "HDF5_USE_FILE_LOCKING=FALSE"
            )
        elif isinstance(error, PermissionError):
            reason = "may not be read: permission denied"
        else:
            reason = f"is damaged: {said[:200].rstrip('.')}"
        raise CheckpointError(f"{path} {reason}.") from error
