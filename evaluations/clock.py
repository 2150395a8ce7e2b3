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
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_spent, _beneath(os.getpid())))


def _beneath(pid: int) -> Iterator[int]:
    """Yield the processes that were begun by ``pid``, and by these."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has just ended
            for child in map(int, path.read_text().split()):
                yield child
                yield from _beneath(child)


def _spent(pid: int) -> float:
    """Return the CPU time of a process that lives, and of those that it has waited for."""
    process = Path(f"/proc/{pid}")
    try:
        own, own_system, waited, waited_system = map(
            int, process.joinpath("stat").read_text().rpartition(")")[2].split()[11:15]
        )
    except OSError:  # it has just ended
        return 0.0
    precise = 0  # but of threads that live alone
    for path in process.glob("task/*/schedstat"):
        with suppress(OSError):
            precise += int(path.read_text().split()[0])
    return max((own + own_system) / _TICKS, precise / 1e9) + (waited + waited_system) / _TICKS


def _now() -> tuple[float, float]:
    return cpu_seconds(), time.perf_counter()
