"""The cost of watching: what a surprise monitor adds to each step of the environment that it watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np

from ..agents.surprise_wrappers import SurpriseWrapper
from ..core.files import write_json
from ..core.provenance import describe_process
from ..core.settings import Range, Settings
from .monitoring import calibrated_monitor
from .settings import Episodes, command_line
from .stage import limited_threads
from .statistics import Estimate, estimate, mean
from .subject import load_subject
from .tables import Table


@dataclass(frozen=True)
class MonitorSpeedSettings(Settings):
    """What is measured."""

    run: str
    """Folder of the run whose world model watches."""
    calibration_episodes: Episodes = 100
    """Episodes that are played to calibrate the monitor, unless the run keeps one that was."""
    compile: bool = True
    """Measure the monitor compiled, too; that needs a C++ compiler, and half a minute."""
    rounds: Annotated[int, Range(ge=2, le=100_000)] = 20
    """Rounds, in each of which the environment is stepped by itself and watched."""
    steps: Annotated[int, Range(ge=1, le=100_000)] = 100
    """Model steps per round, each of as many environment steps as the model takes at once."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of the environment and of the actions, which are drawn at random."""


@dataclass(frozen=True)
class MonitorSpeed:
    """What :func:`measure_monitor` found.

    Attributes:
        settings: what was measured.
        task: that is watched.
        block: environment steps per model step.
        rows: milliseconds per model step by name: of the environment alone, and added by the monitor; CPU time, and
            time on the clock.
        process: what it was measured on.
    """

    settings: MonitorSpeedSettings
    task: str
    block: int
    rows: dict[str, tuple[Estimate, Estimate]]
    process: dict[str, Any]

    def table(self) -> Table:
        """Return the figures as text."""
        return Table(
            ("", "CPU ms/model step", "ms/model step"),
            [(name, str(cpu), str(wall)) for name, (cpu, wall) in self.rows.items()],
            title=f"{self.task}: what watching costs",
            notes=(
                f"Mean over {self.settings.rounds} rounds of {self.settings.steps} model steps (of {self.block} in the "
                "environment), alone and watched in turns with the same actions, one thread, with 95 % bootstrap "
                "intervals. What a monitor adds is what its wrapper takes: coding, comparing, info.",
            ),
        )

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, with the command and what it ran on."""
        rows = {name: {"cpu_ms": cpu.to_dict(), "ms": wall.to_dict()} for name, (cpu, wall) in self.rows.items()}
        shared = {"command": command_line(), "process": self.process, "settings": self.settings.to_dict()}
        write_json(path, {**shared, "task": self.task, "block": self.block, "rows": rows})


def measure_monitor(settings: MonitorSpeedSettings, tell: Callable[[str], None] = lambda line: None) -> MonitorSpeed:
    """Step an environment by itself and watched, in turns.

    Args:
        settings: what is measured.
        tell: called with a line when something begins.

    Raises:
        RunFolderError: no such run, or one that has saved nothing yet.
        SettingsError: it has no world model, or the episodes are too few to calibrate with.
        CheckpointError: a damaged file.
    """
    with limited_threads(1):
        subject = load_subject(settings.run)
        tell("Calibrating the monitor ...")
        monitor = calibrated_monitor(settings.run, settings.calibration_episodes)
        alone = "environment alone"
        paces = {alone: _Pace(subject.make(), settings.seed)}
        paces["monitor"] = _Pace(SurpriseWrapper(subject.make(), monitor, trace=False), settings.seed)
        if settings.compile:
            watched = SurpriseWrapper(subject.make(), monitor.compiled(1), trace=False)
            paces["monitor, compiled"] = _Pace(watched, settings.seed)
        steps = settings.steps * subject.block
        for name, pace in paces.items():
            tell(f"Warming up: {name} ...")
            pace.take(steps)
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in paces}
        for number in range(settings.rounds):
            tell(f"{number} of {settings.rounds} rounds are made.")
            for name, pace in paces.items():
                costs[name].append(pace.take(steps))
        for pace in paces.values():
            pace.env.close()
        process = describe_process()
    found = {name: 1000 * np.array(cost).T / settings.steps for name, cost in costs.items()}  # (CPU and clock, rounds)
    rows = {}
    for name, spent in found.items():
        cpu, wall = spent if name == alone else spent - found[alone]
        rows[name] = estimate([cpu], mean), estimate([wall], mean)
    return MonitorSpeed(settings, subject.task, subject.block, rows, process)


class _Pace:
    """An environment that is stepped by chance, the same one whoever watches."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        self.env = env
        env.action_space.seed(seed)
        env.reset(seed=seed)

    def take(self, steps: int) -> tuple[float, float]:
        """Take ``steps``, and return seconds of CPU time and on the clock that they took, resets left out."""
        cpu = wall = 0.0
        for _ in range(steps):
            action = self.env.action_space.sample()
            cpu_before, wall_before = time.process_time(), time.perf_counter()
            *_, terminated, truncated, _ = self.env.step(action)
            cpu += time.process_time() - cpu_before
            wall += time.perf_counter() - wall_before
            if terminated or truncated:
                self.env.reset()
        return cpu, wall
