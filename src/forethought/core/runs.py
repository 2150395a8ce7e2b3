"""Run: the folder in which a training run lives, and from which it is resumed, evaluated and reported.

::

    RUN/config.json      what was asked for; written once
        manifest.json    what it ran on (versions, threads, git state), each start of it, its status, digests
        metrics.jsonl    one line per logged step
        checkpoints/     see :mod:`.checkpoints`
        .lock            the process that is writing here

Reading needs no lock, so a report can be made of a run in progress. Writing needs it: ``with run: ...``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from .checkpoints import Checkpoint, CheckpointFolder
from .errors import CheckpointError, RunFolderError, WriteError
from .files import damage_reported, read_json, read_json_lines, write_atomically, write_json
from .locks import FolderLock
from .provenance import describe_process, list_changes

Status = Literal["running", "finished", "interrupted", "failed"]


FILES = ("config.json", "manifest.json")
"""What makes a folder a run; one of them alone is what a crash left of a beginning."""
_TOLD: set[tuple[Path, str]] = set()
"""Folders and digests of changed configurations that were warned of."""


def holds_run(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a run in ``folder``."""
    return all((Path(folder) / name).is_file() for name in FILES)


def kind_of(folder: str | os.PathLike[str]) -> str | None:
    """Return what kind of run is in ``folder``, if there is one, without a word about its settings.

    Raises:
        CheckpointError: its manifest is damaged.
    """
    return _read_manifest(Path(folder)).get("kind") if holds_run(folder) else None


class Run:
    """One run folder. Build it with :meth:`create` or :meth:`open`.

    As a context manager it holds the folder's lock, and at the end sets a status that is still "running" to
    "finished", or to "interrupted" or "failed" where an exception ended the block.

    Attributes:
        folder: where the run lives.
        config: what was asked for, as plain JSON data.
        manifest: what it ran on, its starts and its status; changed by :meth:`note` and :meth:`set_status`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.manifest = manifest
        self._lock: FolderLock | None = None
        self._goes_on = False
        self._unwritten = b""
        self._checkpoints = CheckpointFolder(folder / "checkpoints")

    @classmethod
    def create(cls, folder: str | os.PathLike[str], config: Mapping[str, Any], kind: str = "train") -> Run:
        """Make a new run, already locked; use it in a ``with`` block.

        Args:
            folder: made where missing; may not hold a run already.
            config: everything needed to repeat the run, as plain JSON data.
            kind: what the run does, for the reader of its manifest.

        Raises:
            RunFolderError: where the folder holds a run, is in use, or cannot be written.
        """
        folder = Path(folder)
        try:
            os.path.abspath(folder).encode()
        except UnicodeEncodeError:
            raise RunFolderError(f"The path {str(folder)!a} is no Unicode text, which TensorBoard needs.") from None
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"Could not make the run folder {folder}: {error.strerror}.") from error
        lock = FolderLock(folder)
        try:
            begun = (folder / "metrics.jsonl").exists() or any((folder / "checkpoints").iterdir())
            if begun or holds_run(folder):  # a beginning that was cut off left neither
                raise RunFolderError(
                    f"{folder} holds a run already: go on with it (--resume), choose another folder, or delete it."
                )
            manifest: dict[str, Any] = {"kind": kind, "status": "running", "reason": None, "starts": [], "digests": {}}
            run = cls(folder, dict(config), manifest)
            run._lock = lock
            write_json(folder / "config.json", run.config)
            run.note(digests={"config.json": _digest(folder / "config.json")})
            run._start()
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Run:
        """Open an existing run to read it; to go on writing, use the result in a ``with`` block.

        Raises:
            RunFolderError: where there is no run, or its files are damaged.
        """
        folder = Path(folder)
        for name in FILES:
            if not (folder / name).is_file():
                raise RunFolderError(f"{folder} is not a run folder: it has no {name}.")
        try:
            config, manifest = read_json(folder / "config.json"), _read_manifest(folder)
        except CheckpointError as error:
            raise RunFolderError(str(error)) from error
        if not isinstance(config, dict):
            raise RunFolderError(f"{folder} is not a run folder: its configuration is foreign.")
        digest = _digest(folder / "config.json")
        told = folder.resolve(), digest
        if manifest["digests"].get("config.json") != digest and told not in _TOLD:
            _TOLD.add(told)
            warnings.warn(f"{folder / 'config.json'} was changed after the run was created.", stacklevel=2)
        return cls(folder, config, manifest)

    def __enter__(self) -> Self:
        if self._lock is None:
            self._take_lock()
        if not self._goes_on:
            try:
                self._start()
            except BaseException:
                self.release()
                raise
        return self

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock inside the block, without going on with the run unless it is entered there.

        Raises:
            RunFolderError: another process works on the run.
        """
        self._take_lock()
        try:
            yield
        finally:
            self.release()

    def _take_lock(self) -> None:
        self._lock = FolderLock(self.folder)
        try:  # another process may have written between our reading and our locking
            self.manifest = _read_manifest(self.folder)
        except BaseException:
            self.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.status == "running":
                if kind is None:
                    self.set_status("finished")
                elif issubclass(kind, KeyboardInterrupt | SystemExit):
                    self.set_status("interrupted", reason=kind.__name__)
                else:
                    self.set_status("failed", reason=f"{kind.__name__}: {error}")
        except WriteError:
            if kind is None:  # a full disk is often why the block failed: its own error says more
                raise
        finally:
            self.release()

    def release(self) -> None:
        """Give the folder's lock back; a ``with`` block does it by itself."""
        if self._lock is not None:
            self._lock.release()
            self._lock, self._goes_on = None, False

    @property
    def status(self) -> Status:
        """How the run stands; one that was killed still says "running"."""
        status: Status = self.manifest["status"]
        return status

    def set_status(self, status: Status, reason: str | None = None) -> None:
        """Record how the run stands, and why."""
        try:
            self._write_log()
        finally:
            self.note(status=status, reason=reason)

    def extend(self, config: Mapping[str, Any]) -> None:
        """Let the run go on to what ``config`` asks for, whether it was finished or not."""
        self._require_lock()
        self.config = dict(config)
        write_json(self.folder / "config.json", self.config)
        digests = {**self.manifest["digests"], "config.json": _digest(self.folder / "config.json")}
        self.note(digests=digests)
        self.set_status("interrupted", "more is asked of it")

    def note(self, **fields: Any) -> None:
        """Add or replace fields of the manifest, such as ``resume="inexact"``."""
        self._require_lock()
        self.manifest.update(fields)
        write_json(self.folder / "manifest.json", self.manifest)

    # Metrics

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append one line to ``metrics.jsonl``; numbers that are not finite, which JSON lacks, become null.

        On a full disk it waits, with a warning, for the next line, checkpoint or status.
        """
        self._require_lock()
        line = json.dumps({"step": int(step), **_plain(metrics)}, allow_nan=False) + "\n"
        others_wait = bool(self._unwritten)
        self._unwritten += line.encode()
        try:
            self._write_log()
        except WriteError as error:
            if not others_wait:
                warnings.warn(f"{error} What is logged waits until there is room.", stacklevel=2)

    def _write_log(self) -> None:
        """Append the lines that wait; one that cannot be written whole is not written at all."""
        if not self._unwritten:
            return
        path = self.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "ab") as file:
                file.write(self._unwritten)
        except OSError as error:
            if path.exists():
                os.truncate(path, size)
            raise WriteError(f"Could not write {path} ({len(self._unwritten):,} bytes): {error.strerror}.") from error
        self._unwritten = b""

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the logged lines in order; a last line cut short by a crash is left out."""
        path = self.folder / "metrics.jsonl"
        metrics: list[dict[str, Any]] = []
        for number, line in enumerate(read_json_lines(path) if path.exists() else (), start=1):
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                metrics.append(line)
            else:
                warnings.warn(f"{path}, line {number}, is damaged and was left out.", stacklevel=2)
        return metrics

    def rewind_metrics(self, step: int) -> None:
        """Forget what was logged after ``step``, which a run resumed from that step will log again."""
        self._require_lock()
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept)
        write_atomically(self.folder / "metrics.jsonl", text.encode())

    # Checkpoints

    @property
    def saved_rows(self) -> int:
        """Rows in the segments of the checkpoint that was loaded or saved last: those that need no more saving."""
        return self._checkpoints.rows

    def save_checkpoint(self, step: int, checkpoint: Checkpoint) -> Path:
        """Save a checkpoint named by its step; see :meth:`CheckpointFolder.save`."""
        self._require_lock()
        self._write_log()  # or going on from it would leave a gap in the log
        return self._checkpoints.save(step, checkpoint)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoint files, newest first."""
        return self._checkpoints.paths()

    def latest_checkpoint(self) -> Checkpoint:
        """Load the newest valid checkpoint, to go on from; see :meth:`CheckpointFolder.load_latest`."""
        return self._checkpoints.load_latest()

    # The start of a process

    def _start(self) -> None:
        """Record this process in the manifest, warn where it differs from the last, and clear what a crash left."""
        for folder in (self.folder, self.folder / "checkpoints"):
            if not os.access(folder, os.W_OK):
                raise RunFolderError(f"{folder} is missing or not writable, so nothing could be saved in it.")
            for litter in folder.glob(".*.tmp"):
                litter.unlink(missing_ok=True)
        if _is_cut_short(self.folder / "metrics.jsonl"):
            self.rewind_metrics(sys.maxsize)  # drops the line that a crash cut short
        start, starts = describe_process(), self.manifest["starts"]
        if starts and (changes := list_changes(starts[-1], start)):
            warnings.warn(
                f"{self.folder} goes on under other conditions, so it may not equal the unbroken run bit for bit: "
                f"{'; '.join(changes)}.",
                stacklevel=3,
            )
        self.note(status="running", reason=None, starts=[*starts, start])
        self._goes_on = True

    def _require_lock(self) -> None:
        if self._lock is None:
            raise RunFolderError(f"{self.folder} is open for reading only: write to it inside ``with run:``.")


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = read_json(folder / "manifest.json")
    with damage_reported(folder / "manifest.json"):
        if manifest["status"] not in get_args(Status):
            raise ValueError(f"no run has the status {manifest['status']!r}")
        starts, digests = manifest["starts"], manifest["digests"]
        if not isinstance(digests, dict) or not isinstance(starts, list):
            raise TypeError("its starts or digests are foreign")
        for start in starts:
            list_changes(start, start)
    return manifest


def _is_cut_short(path: Path) -> bool:
    """Whether the last line of a file does not end."""
    if not path.exists() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON data; NumPy and torch scalars become numbers, non-finite ones None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
