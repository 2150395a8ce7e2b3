"""What computing costs: CPU time, that of other processes beneath this one included, and wall time."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """CPU and wall time of learning alone; whatever happens inside :meth:`paused` does not count.

    Args:
        cpu_seconds, wall_seconds: what earlier processes of the same run took.
    """

    def __init__(self, cpu_seconds: float = 0.0, wall_seconds: float = 0.0) -> None:
        cpu, wall = _now()
        self._start = cpu - cpu_seconds, wall - wall_seconds
        self._paused_at: tuple[float, float] | None = None

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process and of all beneath it."""
        return (self._paused_at or _now())[0] - self._start[0]

    @property
    def wall_seconds(self) -> float:
        """Wall time."""
        return (self._paused_at or _now())[1] - self._start[1]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside the block."""
        self._paused_at = before = _now()
        try:
            yield
        finally:
            self._paused_at, after = None, _now()
            self._start = self._start[0] + after[0] - before[0], self._start[1] + after[1] - before[1]


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all beneath it, such as compilers and environments.

    Those that have ended count too; those that have not, where the system tells of them (Linux).
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total, found = time.process_time() + ended.ru_utime + ended.ru_stime, [os.getpid()]
    for pid in found:
        with suppress(OSError):  # it has just ended
            process = Path("/proc") / str(pid)
            if pid != found[0]:
                total += sum(map(int, process.joinpath("stat").read_text().rpartition(")")[2].split()[13:15])) / _TICKS
            for thread in (process / "task").iterdir():
                if pid != found[0]:
                    total += int((thread / "schedstat").read_text().split()[0]) / 1e9
                found += map(int, (thread / "children").read_text().split())
    return total


def _now() -> tuple[float, float]:
    return cpu_seconds(), time.perf_counter()
