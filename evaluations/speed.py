"""The cost of learning: CPU time per environment step, of several agents side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ..core.errors import SettingsError
from ..core.files import write_json
from ..core.provenance import describe_process
from ..core.settings import Range, Settings, field_names
from .settings import command_line
from .stage import isolated_generators, limited_threads
from .statistics import Estimate, estimate, mean
from .tables import Table

COMPUTE: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "compiled": {"compile": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}
RANDOM_STEPS = 100


@dataclass(frozen=True)
class SpeedSettings(Settings):
    """What is measured."""

    task: str
    """Task by name."""
    agents: tuple[str, ...] = ("jepa", "sac")
    """Agents by name, with their defaults; the others are measured against the last."""
    variants: bool = True
    """Show an agent whose updates can be computed in bf16 or compiled so, too; in bf16 if the processor has units for
    it."""
    rounds: Annotated[int, Range(ge=2)] = 20
    """Rounds; in each, every agent learns once, so that what slows the machine slows all of them."""
    steps: Annotated[int, Range(ge=1)] = 50
    """Environment steps of each agent per round."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Seed of the agents."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.agents or len(set(self.agents)) < len(self.agents):
            raise SettingsError(f"SpeedSettings.agents = {self.agents!r} must name at least one, and none twice.")


@dataclass(frozen=True)
class Speed:
    """What one environment step costs one agent, its updates included.

    Attributes:
        name: of the agent, with how it computes if that is not its default.
        cpu_ms: CPU milliseconds, of all threads of the process.
        wall_ms: milliseconds on the clock.
        ratio: CPU time in units of the reference's, paired by round; ``None`` for the reference itself.
        ready_s: seconds on the clock from building the agent to its first updates, compilation included.
    """

    name: str
    cpu_ms: Estimate
    wall_ms: Estimate
    ratio: Estimate | None
    ready_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "name": self.name,
            "cpu_ms": self.cpu_ms.to_dict(),
            "wall_ms": self.wall_ms.to_dict(),
            "ratio": self.ratio.to_dict() if self.ratio else None,
            "ready_s": self.ready_s,
        }


@dataclass(frozen=True)
class SpeedTable:
    """What :func:`measure_speed` found.

    Attributes:
        settings: what was measured.
        rows: one per agent, the reference last.
        process: what it was measured on.
    """

    settings: SpeedSettings
    rows: Sequence[Speed]
    process: Mapping[str, Any]

    def table(self) -> Table:
        """Return the figures as text."""
        reference, names = self.rows[-1].name, [row.name for row in self.rows]
        spared = any("compiled" in name for name in names) and not any("bf16" in name for name in names)
        return Table(
            ("agent", "CPU ms/step", "ms/step", f"CPU time / {reference}'s", "ready after"),
            [
                (row.name, str(row.cpu_ms), str(row.wall_ms), str(row.ratio or ""), f"{row.ready_s:.0f} s")
                for row in self.rows
            ],
            title=f"{self.settings.task}: what an environment step costs in training",
            notes=(
                f"Mean over {self.settings.rounds} rounds of {self.settings.steps} steps, agents taking turns, one "
                "thread, with 95 % bootstrap intervals; updates are included, evaluation is not."
                + (" Not in bf16, which this processor has no units for." if spared else ""),
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {"settings": self.settings.to_dict(), "rows": [row.to_dict() for row in self.rows]}

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON, with the command and what it ran on."""
        write_json(path, {"command": command_line(), "process": dict(self.process), **self.to_dict()})


def measure_speed(settings: SpeedSettings, on_round: Callable[[int], None] | None = None) -> SpeedTable:
    """Let agents learn a little, in turns, and say what a step costs each.

    All learn from their 100th step on, so that every measured step has its updates.

    Args:
        settings: what is measured.
        on_round: called with the number of rounds made.

    Raises:
        ForethoughtError: a task or agent that does not exist, or that do not fit.
    """
    from ..agents import make_agent

    learners, ready = {}, {}
    with limited_threads(1), isolated_generators(settings.seed):
        for label, name, own in _variants(settings):
            began = time.perf_counter()
            learners[label] = make_agent(name, settings.task, seed=settings.seed, device="cpu", **own)
            learners[label].learn(2 * RANDOM_STEPS)
            ready[label] = time.perf_counter() - began
        costs: dict[str, list[tuple[float, float]]] = {label: [] for label in learners}
        for number in range(settings.rounds):
            for label, learner in learners.items():
                costs[label].append(_cost(learner, settings.steps))
            if on_round:
                on_round(number + 1)
        process = describe_process()
    cpu, wall = ({label: np.array(cost)[:, part] for label, cost in costs.items()} for part in (0, 1))
    *_, reference = learners
    return SpeedTable(
        settings,
        [
            Speed(
                label,
                estimate([cpu[label]], mean),
                estimate([wall[label]], mean),
                estimate([cpu[label] / cpu[reference]], mean) if label != reference else None,
                ready[label],
            )
            for label in learners
        ],
        process,
    )


def _cost(learner: Any, steps: int) -> tuple[float, float]:
    """Return CPU and wall milliseconds per environment step of learning for ``steps`` more."""
    before, cpu, wall = learner.num_timesteps, time.process_time(), time.perf_counter()
    learner.learn(steps, reset_num_timesteps=False)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    taken = learner.num_timesteps - before  # some algorithms learn in larger portions
    return 1000 * cpu / taken, 1000 * wall / taken


def _variants(settings: SpeedSettings) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield label, registered name and settings of each agent that is measured."""
    import torch

    from ..agents.registry import agents
    from ..world_model import bf16_helps

    half = bf16_helps(torch.device("cpu"))
    for name in settings.agents:
        known = getattr(agents.get(name), "Settings", None)
        fields = field_names(known) if known else []
        own: dict[str, Any] = {}
        if "learning_starts" in fields:  # of SB3's algorithms it is the default
            own["learning_starts"] = RANDOM_STEPS
        yield name, name, own
        if settings.variants and "compute" in fields:
            for label, compute in COMPUTE.items():
                if half or compute.get("precision") != "bf16":
                    yield f"{name}, {label}", name, own | {"compute": compute}
