"""Jobs: the runs of a comparison, each in a folder and a process of its own, several at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from ..core.errors import ForethoughtError, RunFolderError
from ..core.files import as_json
from ..core.locks import FolderLock
from ..core.runs import Run, holds_run
from .results import noted_settings
from .settings import TrainSettings, differences, list_changes, settings_of

WORKER = "forethought.evaluations.worker"
LOG_FILE = "log.txt"
POLL_S = 0.5
GRACE_S = 120
"""How long a run that was asked to stop may take to save what it has."""

State = Literal["waiting", "running", "finished", "skipped", "interrupted", "failed"]


BuiltSettings = Callable[[TrainSettings], Mapping[str, Any] | None]
"""Returns all settings that an agent would be built with today; ``None`` if it cannot be built."""


@dataclass(frozen=True)
class Relation:
    """How what is asked for stands to a run that was kept.

    Attributes:
        changes: a phrase for each setting that differs, by its name; none where the run will do or can go on.
        by_default: whether the agent differs though it was asked for in the same words: by its defaults.
        extends: whether more steps are asked for, judged at the same ones.
    """

    changes: Mapping[str, str]
    by_default: bool
    extends: bool


def compare_with_kept(run: Run, asked: TrainSettings, built: BuiltSettings) -> Relation:
    """Return how ``asked`` stands to ``run``, a kept one.

    The agent has to be the same with all its settings, in whatever words it was asked for: one whose defaults have
    changed is another. Where the arithmetic is left to the machine, any will do. Words alone decide where the run has
    not noted all settings, or the agent cannot be built.

    Raises:
        RunFolderError: the run is not one of a training.
    """
    kept = settings_of(run)
    same_words = as_json(asked.agent_settings) == kept.agent_settings
    changes: dict[str, str] = {}
    if "agent_settings" in run.manifest and kept.agent == asked.agent and (today := built(asked)) is not None:
        noted = noted_settings(kept, run.manifest)
        changes = differences(as_json(noted), as_json(today), "agent_settings.")
        if today.get("compute", {}).get("precision") == "auto":
            changes.pop("agent_settings.compute.precision", None)
        asked = asked.replace(agent_settings=kept.agent_settings)  # what is left to compare
    by_default = bool(changes) and same_words
    extends = kept.is_beginning_of(asked)
    if not extends and not asked.is_beginning_of(kept):
        changes |= list_changes(kept, asked)
    return Relation(changes, by_default, extends)


@dataclass
class Job:
    """One run to make.

    Attributes:
        settings: what to train.
        folder: where; its ``log.txt`` takes what the process prints.
        state: how the job stands; "skipped" if the run was finished before.
        reason: why it failed, in a line.
        step: environment steps taken so far, as far as the run has logged them.
        last_return: of its last evaluation.
    """

    settings: TrainSettings
    folder: Path
    state: State = "waiting"
    reason: str = ""
    step: int = 0
    last_return: float | None = None
    _extends: bool = field(default=False, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _read_to: int = field(default=0, repr=False)

    @property
    def name(self) -> str:
        """What the job is called."""
        return f"{self.settings.task}  {self.settings.name}  seed {self.settings.seed}"

    @property
    def began(self) -> bool:
        """Whether its process was started."""
        return self._process is not None

    def prepare(self, built: BuiltSettings) -> None:
        """Find out what an earlier call left, and change nothing: no run, a finished one, or one to go on with.

        A longer run that is judged at the same steps will do, once it has come to its own end; a shorter one goes on.

        Args:
            built: see :func:`compare_with_kept`.

        Raises:
            RunFolderError: the folder holds a run with other settings, or one that another process is working on.
        """
        if not holds_run(self.folder):
            return
        run = Run.open(self.folder)
        relation = compare_with_kept(run, self.settings, built)
        if relation.changes:
            since = ", because defaults have changed since" if relation.by_default else ""
            listed = "; ".join(relation.changes.values())
            raise RunFolderError(
                f"{self.folder} holds a run with other settings{since} ({listed}): choose another folder, or these "
                "settings."
            )
        self._extends = relation.extends
        if not self._extends:  # as long as it is, and asked for in today's words, in case that it has to begin again
            self.settings = settings_of(run).replace(agent_settings=self.settings.agent_settings)
        if run.status == "finished" and not self._extends:
            self.state = "skipped"
            self.look()
            return
        FolderLock(self.folder).release()  # refuses, by name, a folder in use

    def make_way(self) -> None:
        """Let what an earlier call left go on to what is asked for; what cannot go on is moved aside, as it is."""
        if not holds_run(self.folder):
            return
        run = Run.open(self.folder)
        if not run.checkpoints():
            aside = (self.folder.with_name(f".{self.folder.name}.abandoned_{number}") for number in range(1, 1000))
            self.folder.rename(next(path for path in aside if not path.exists()))
        elif self._extends:
            with run.locked():
                run.extend(self.settings.to_dict())

    def start(self) -> None:
        """Begin the run, or go on with it.

        Raises:
            ForethoughtError, OSError: the folder cannot be worked in.
        """
        self.make_way()
        self.folder.mkdir(parents=True, exist_ok=True)
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        command = [sys.executable, "-m", WORKER, json.dumps(self.settings.to_dict()), str(self.folder)]
        with open(self.folder / LOG_FILE, "ab") as log:
            # A session of its own: Ctrl-C reaches the comparison alone, which then asks each run once to stop.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **single},
                start_new_session=True,
            )
        self.state = "running"

    def look(self) -> bool:
        """Read what the run has logged since the last look; return whether its process has ended."""
        ended = self._process is not None and self._process.poll() is not None
        path = self.folder / "metrics.jsonl"
        if path.exists():
            if path.stat().st_size < self._read_to:
                self._read_to = 0  # a resumed run forgets what it will log again
            with open(path, "rb") as file:
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read_to += len(line)
                    with suppress(ValueError, TypeError, KeyError):  # a damaged line is told of by the summary
                        row = json.loads(line)
                        self.step = int(row["step"])
                        self.last_return = row.get("evaluation/return_mean", self.last_return)
        return ended

    def conclude(self) -> None:
        """Set the state by how the process ended, and leave word in the run's manifest where it could not."""
        assert self._process is not None
        code = self._process.wait()
        if code in (0, 130, -signal.SIGTERM):  # SIGTERM as such: asked to stop before there was anything to save
            self.state = "finished" if code == 0 else "interrupted"
            return
        self.state = "failed"
        log = (self.folder / LOG_FILE).read_text(errors="replace").strip().splitlines()
        self.reason = f"killed by {signal.Signals(-code).name}" if code < 0 else log[-1] if log else f"exit code {code}"
        with suppress(ForethoughtError, OSError):  # the disk that it could not write to may still be full
            if holds_run(self.folder) and (run := Run.open(self.folder)).status == "running":
                with run.locked():
                    run.set_status("failed", self.reason)

    def ask_to_stop(self) -> None:
        """Ask the run to save what it has and to end."""
        assert self._process is not None
        self._process.terminate()

    def wait(self) -> None:
        """Wait until a run that was asked to stop has ended."""
        assert self._process is not None
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.conclude()


def folder_of(root: Path, settings: TrainSettings) -> Path:
    """Return where a comparison keeps a run: ``root/task/agent/seed_k``."""
    task, agent = (re.sub(r"[^\w.-]+", "_", name) for name in (settings.task, settings.name))
    return root / task / agent / f"seed_{settings.seed}"


def run_jobs(jobs: Sequence[Job], at_once: int, on_change: Callable[[Job | None], None]) -> None:
    """Run the waiting ``jobs``, ``at_once`` at a time; one that crashes or cannot begin costs only itself.

    Args:
        jobs: prepared.
        at_once: processes at the same time.
        on_change: called with a job that begins or ends, and with ``None`` at every look at those that run.

    Raises:
        KeyboardInterrupt: after the runs in progress have saved what they have.
    """
    waiting = deque(job for job in jobs if job.state == "waiting")
    running: list[Job] = []
    with _terminable():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.popleft()
                    running.append(job)  # first, so that what is interrupted just now is not forgotten
                    try:
                        job.start()
                    except (ForethoughtError, OSError) as error:
                        running.remove(job)
                        job.state, job.reason = "failed", str(error)
                    on_change(job)
                time.sleep(POLL_S)
                for job in [job for job in running if job.look()]:
                    running.remove(job)
                    job.conclude()
                    on_change(job)
                on_change(None)
        finally:
            begun = [job for job in running if job.began]
            for job in begun:
                job.ask_to_stop()
            for job in begun:
                job.wait()
                on_change(job)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
