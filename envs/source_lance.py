"""Lance tables as stable-worldmodel writes them: rows in the order of the episodes, images as JPEG."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..core.errors import CheckpointError, missing_extra
from ..core.files import damage_reported
from .sources import INDEX_COLUMNS, FlatSource, SourceColumn, episodes_of

Array = NDArray[Any]


class LanceSource(FlatSource):
    """The episodes in one table.

    Numbers are columns of their own, or lists of a fixed size; binary columns are images in a format that Pillow reads.

    Args:
        path: of the table, a folder.

    Raises:
        MissingExtraError: pylance is not installed.
        CheckpointError: the table is damaged, or of another layout.
    """

    kind = "lance"

    def __init__(self, path: Path) -> None:
        try:
            import lance
            import pyarrow
        except ImportError as error:
            raise missing_extra("Reading Lance tables", "lance") from error
        self._arrow: Any = pyarrow
        self._threads = ThreadPoolExecutor(os.cpu_count())  # Pillow works without Python's lock
        self.path = path.resolve()
        with damage_reported(path):
            self._table = lance.dataset(str(self.path))
            names = self._table.schema.names
            index = next((name for name in INDEX_COLUMNS if name in names), None)
            if index is None:
                raise CheckpointError(
                    f"{path} is not laid out as stable-worldmodel's tables are: it has no column {INDEX_COLUMNS[0]}. "
                    f"It has: {', '.join(names)}."
                )
            batches = self._table.to_batches(columns=[index])
            numbers = [np.zeros(0, np.int64), *(batch.column(0).to_numpy(zero_copy_only=False) for batch in batches)]
            self.lengths, self.offsets = episodes_of(np.concatenate(numbers), path)
            described = [self._column(field) for field in self._table.schema if field.name not in (index, "step_idx")]
        self._describe({column.name: column for column in described if column is not None})

    def close(self) -> None:
        """End the threads that decode images."""
        self._threads.shutdown()

    def _column(self, field: Any) -> SourceColumn | None:
        types, kind = self._arrow.types, field.type
        shape: tuple[int, ...] = ()
        if types.is_binary(kind) or types.is_large_binary(kind):
            if not len(self.lengths):
                return None
            try:
                return SourceColumn(field.name, self._slice(field.name, 0, 1).shape[1:], np.dtype(np.uint8))
            except UnidentifiedImageError:
                return None
        if types.is_fixed_size_list(kind):
            kind, shape = kind.value_type, (kind.list_size,)
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
            return None
        return SourceColumn(field.name, shape, np.dtype(kind.to_pandas_dtype()))

    def _slice(self, column: str, first: int, last: int) -> Array:
        values = self._table.take(np.arange(first, last), columns=[column]).column(column)
        if values.null_count:
            raise ValueError(f"column {column} lacks values")
        values = self._arrow.concat_arrays(values.chunks) if values.num_chunks else values.combine_chunks()
        types, kind = self._arrow.types, values.type
        if types.is_binary(kind) or types.is_large_binary(kind):
            return np.stack(list(self._threads.map(_decoded, values.to_pylist())))
        if types.is_fixed_size_list(kind):
            return np.asarray(values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), kind.list_size))
        return np.asarray(values.to_numpy(zero_copy_only=False))


def _decoded(image: bytes) -> Array:
    with Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"))
