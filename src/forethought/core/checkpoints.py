"""Checkpoints: what a run goes on from. What only ever grows, such as experience, is written once, in segments.

::

    checkpoints/step_000012000.zip                      what changes, and the sizes and digests of its segments
                rows_000000000_000012000.safetensors    a segment: rows that stay as they are
                LATEST                                  names the newest checkpoint and is replaced last

A checkpoint is its archive and the segments that it names; rows that came later do not matter to it. A segment is
there before the first checkpoint that names it, and goes when no kept one does.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, WriteError
from .files import damage_reported, load_archive, read_tensors, save_archive, write_atomically, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

KEPT_CHECKPOINTS = 2
_LATEST = "LATEST"
_SEGMENTS = "segments"
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Segment:
    """Rows ``first`` to ``last``, which is not among them, of what only ever grows; as named tensors."""

    first: int
    last: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that an agent goes on from.

    Attributes:
        documents: JSON values by name.
        tensors: by name, a flat dictionary of tensors.
        segments: rows that follow each other: when saving, those that no checkpoint holds yet; when loaded, all.
    """

    documents: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    segments: Sequence[Segment] = ()


class CheckpointFolder:
    """The checkpoints of one run, of which the last two are kept.

    What is saved continues what was loaded or saved before. All other checkpoints, such as those of a future that was
    abandoned by going on from an earlier one, are removed by the next :meth:`save`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._line: list[Path] = []
        self._segments: list[_SegmentFile] = []

    @property
    def rows(self) -> int:
        """Rows in the segments of the checkpoint that was loaded or saved last."""
        return self._segments[-1].last if self._segments else 0

    def paths(self) -> list[Path]:
        """Return the checkpoint files, newest first."""
        return sorted(self._folder.glob("step_*.zip"), key=_step, reverse=True)

    def save(self, step: int, checkpoint: Checkpoint) -> Path:
        """Write the new segments, then the archive, then ``LATEST``; then remove what is no longer needed.

        Raises:
            WriteError: where it could not be written; the previous checkpoint stays and stays the latest.
        """
        segments = list(self._segments)
        try:
            segments += map(self._write, checkpoint.segments)
            entries = [dataclasses.asdict(segment) for segment in segments]
            archive = self._folder / f"step_{step:09d}.zip"
            path = save_archive(archive, {**checkpoint.documents, _SEGMENTS: entries}, checkpoint.tensors)
        except WriteError:
            for segment in checkpoint.segments:  # where room is short, nothing useless may take it
                (self._folder / _segment_name(segment.first, segment.last)).unlink(missing_ok=True)
            raise
        write_atomically(self._folder / _LATEST, f"{path.name}\n".encode())
        self._segments = segments
        self._line = [*(other for other in self._line if other != path), path][-KEPT_CHECKPOINTS:]
        self._remove_all_but({*self._line, *(self._folder / segment.name for segment in segments)})
        return path

    def load_latest(self) -> Checkpoint:
        """Load the newest valid checkpoint, with a warning that names any damaged one that was skipped.

        Raises:
            CheckpointError: where there is none, or none is valid.
        """
        paths = self.paths()
        if not paths:
            raise CheckpointError(f"{self._folder.parent} holds no checkpoint yet: delete it to begin anew.")
        named = self._named_latest()
        paths.sort(key=lambda path: path.name != named)  # stable: the named one first, the others newest first
        skipped: list[str] = []
        for path in paths:
            try:
                checkpoint = self._load(path)
            except CheckpointError as error:
                skipped.append(str(error))
                continue
            if skipped:
                warnings.warn(f"{' '.join(skipped)} Using {path.name} instead.", stacklevel=3)
            return checkpoint
        raise CheckpointError(f"{self._folder.parent} holds no valid checkpoint. {' '.join(skipped)}")

    def _named_latest(self) -> str | None:
        latest = self._folder / _LATEST
        if not latest.is_file():
            return None
        with open(latest, encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_NAME).strip()

    def _load(self, path: Path) -> Checkpoint:
        archive = load_archive(path)
        with damage_reported(path):
            files = [_SegmentFile(**entry) for entry in archive.documents.pop(_SEGMENTS)]
            if [file.first for file in files] != [0, *(file.last for file in files)][: len(files)]:
                raise ValueError("its segments do not follow each other")
            segments = [
                Segment(file.first, file.last, read_tensors(self._folder / file.name, file.size, file.sha256))
                for file in files
            ]
        self._line, self._segments = [path], files
        return Checkpoint(archive.documents, archive.tensors, segments)

    def _write(self, segment: Segment) -> _SegmentFile:
        name = _segment_name(segment.first, segment.last)
        return _SegmentFile(segment.first, segment.last, *write_tensors(self._folder / name, segment.tensors))

    def _remove_all_but(self, kept: set[Path]) -> None:
        for other in {*self.paths(), *self._folder.glob("rows_*.safetensors")} - kept:
            other.unlink(missing_ok=True)


@dataclass(frozen=True)
class _SegmentFile:
    """What a checkpoint knows of a segment. Its file's name follows from its rows, so none is ever read from a file."""

    first: int
    last: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return _segment_name(self.first, self.last)


def _segment_name(first: int, last: int) -> str:
    return f"rows_{first:09d}_{last:09d}.safetensors"


def _step(checkpoint: Path) -> int:
    number = checkpoint.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else -1
