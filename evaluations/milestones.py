"""What happens beside learning: metrics into the run folder, evaluations at milestones, stopping when asked to."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from ..core.runs import Run

PROGRESS_EVERY_S = 0.5


class Interruption:
    """Turns Ctrl-C and SIGTERM into a request to stop after the current step; a second one stops at once."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self._may_break_off = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Let a signal end the block at once: what is done in it, such as an evaluation, leaves no trace."""
        self._may_break_off = True
        try:
            yield
        except KeyboardInterrupt:
            if self.requested is None:
                raise
        finally:
            self._may_break_off = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.requested is not None
        self.requested = signal.Signals(number).name
        if again or self._may_break_off:
            raise KeyboardInterrupt(self.requested)


class MetricsWriter(KVWriter):
    """Writes what an agent logs, under SB3's keys, into the run's ``metrics.jsonl`` too."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.latest: dict[str, float] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log the numbers; evaluations are left out, because the training logs them in full."""
        numbers = {
            key: float(value)
            for key, value in key_values.items()
            if not key.startswith("evaluation/") and not isinstance(value, str) and _is_number(value)
        }
        self.latest.update(numbers)
        if numbers:
            self._run.log(numbers, step)

    def close(self) -> None:
        """Nothing to close: every line is written at once."""


class DispensableWriter(KVWriter):
    """Passes on to a writer that training can do without, such as TensorBoard's, until its disk is full."""

    def __init__(self, writer: KVWriter) -> None:
        self._writer = writer
        self._failed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write, or give up for good with a warning."""
        if self._failed:
            return
        try:
            self._writer.write(key_values, key_excluded, step)
        except OSError as error:
            self._failed = True
            warnings.warn(f"No more {type(self._writer).__name__}: {error}. Training goes on.", stacklevel=2)

    def close(self) -> None:
        """Close the writer."""
        self._writer.close()


class MilestoneCallback(BaseCallback):
    """Runs beside ``learn``: reports progress, stops when asked to, and evaluates on the way where it must.

    Args:
        milestones: steps at which ``on_milestone`` is called from inside ``learn``; none for an agent whose ``learn``
            is called once per milestone.
        on_milestone: evaluates and saves.
        on_progress: called about twice a second.
        interruption: tells whether to stop.
        writer: takes what the agent logs.
        last: step at which to stop ``learn``; ``None`` for an agent that stops at what it was asked for.
    """

    def __init__(
        self,
        milestones: list[int],
        on_milestone: Callable[[], None],
        on_progress: Callable[[], None],
        interruption: Interruption,
        writer: MetricsWriter,
        last: int | None = None,
    ) -> None:
        super().__init__()
        self._last = math.inf if last is None else last
        self._milestones, self._on_milestone, self._report = list(milestones), on_milestone, on_progress
        self._interruption, self._writer = interruption, writer
        self._reported = 0.0

    def _on_training_start(self) -> None:
        formats = self.logger.output_formats
        if self._writer not in formats:
            formats[:] = [
                *(DispensableWriter(one) if isinstance(one, KVWriter) else one for one in formats),
                self._writer,
            ]

    def _on_step(self) -> bool:
        if self._milestones and self.num_timesteps >= self._milestones[0]:
            while self._milestones and self.num_timesteps >= self._milestones[0]:
                del self._milestones[0]
            self._on_milestone()
        if time.perf_counter() - self._reported > PROGRESS_EVERY_S:
            self._reported = time.perf_counter()
            self._report()
        return self._interruption.requested is None and self.num_timesteps < self._last


def latest_losses(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the latest ``train/`` metrics that learning moves, without their prefix."""
    trained = {key.removeprefix("train/"): value for key, value in metrics.items() if key.startswith("train/")}
    return {key: value for key, value in trained.items() if not key.endswith(("_updates", "learning_rate"))}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
