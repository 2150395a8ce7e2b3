"""The cost of supervision: environments in processes of their own, beside Gymnasium's asynchronous vector."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ..core.errors import SettingsError
from ..core.settings import Range, Settings
from .clock import cpu_seconds
from .statistics import Estimate, estimate, mean
from .tables import Table

Step = Callable[[Any], Any]


@dataclass(frozen=True)
class EnvironmentSpeedSettings(Settings):
    """What is measured."""

    task: str
    """Task by name."""
    num_envs: Annotated[int, Range(ge=1, le=256)] = 4
    """Environments stepped together, each in a process of its own."""
    rounds: Annotated[int, Range(ge=2, le=10_000)] = 25
    """Rounds, in each of which all vectors take their turn."""
    steps: Annotated[int, Range(ge=1, le=10**6)] = 200
    """Steps of each vector per round."""


@dataclass(frozen=True)
class EnvironmentSpeed:
    """What one step of one vector costs.

    Attributes:
        name: of the vector.
        wall_us: microseconds on the clock.
        cpu_us: CPU microseconds of this process and of all beneath it.
        ratio: wall time in units of Gymnasium's, paired by round.
    """

    name: str
    wall_us: Estimate
    cpu_us: Estimate
    ratio: Estimate


def measure_environments(settings: EnvironmentSpeedSettings) -> list[EnvironmentSpeed]:
    """Step vectors in turns: Gymnasium's, ours with supervision, and each as agents use it.

    Raises:
        UnknownNameError: a task that does not exist.
        SettingsError: on systems that do not tell the CPU time of other processes.
    """
    import gymnasium as gym

    from ..envs import make_env, make_environments

    if not Path("/proc/self/schedstat").exists():
        raise SettingsError("This system does not tell the CPU time of other processes.")
    s = settings
    with ExitStack() as stack:

        def closing(vector: Any) -> Any:
            stack.callback(vector.close)
            return vector

        def theirs() -> Any:
            return gym.vector.AsyncVectorEnv([partial(make_env, s.task)] * s.num_envs)

        ours = closing(make_environments(s.task, s.num_envs, async_envs=True))
        raw, adapted = closing(theirs()), closing(make_environments(theirs()))
        for vector in (ours, raw, adapted):
            vector.reset()
        draws = np.random.default_rng(0)
        coded = [ours.action_codec.sample(draws, s.num_envs) for _ in range(s.steps)]
        native = [ours.action_codec.decode(actions) for actions in coded]
        sides: dict[str, tuple[Step, Sequence[Any]]] = {
            "Gymnasium's AsyncVectorEnv": (raw.step, native),
            "supervised": (partial(ours.vector.step, last=np.zeros(s.num_envs, bool)), native),
            "Gymnasium's AsyncVectorEnv, checked and coded": (adapted.step, coded),
            "supervised, checked and coded": (ours.step, coded),
        }
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(s.rounds):
            for name, (step, actions) in sides.items():
                costs[name].append(_cost(step, actions))
    wall, cpu = ({name: np.array(cost)[:, part] for name, cost in costs.items()} for part in (0, 1))
    reference = wall["Gymnasium's AsyncVectorEnv"]
    return [
        EnvironmentSpeed(
            name,
            estimate([wall[name]], mean),
            estimate([cpu[name]], mean),
            estimate([wall[name] / reference], mean),
        )
        for name in sides
    ]


def environment_table(settings: EnvironmentSpeedSettings, rows: Sequence[EnvironmentSpeed]) -> Table:
    """Return the figures as text."""
    return Table(
        ("vector", "us/step", "CPU us/step", "time / Gymnasium's"),
        [(row.name, str(row.wall_us), str(row.cpu_us), str(row.ratio)) for row in rows],
        title=f"{settings.task}: a step of {settings.num_envs} environments in processes of their own",
        notes=(
            f"Mean over {settings.rounds} rounds of {settings.steps} steps, vectors taking turns, with 95 % bootstrap "
            "intervals; CPU time of all processes. Checked and coded: as agents use it, values that are not finite "
            "kept out, actions and observations in the form that models take.",
        ),
    )


def _cost(step: Step, actions: Sequence[Any]) -> tuple[float, float]:
    """Return wall and CPU microseconds per step."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    for action in actions:
        step(action)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return 1e6 * wall / len(actions), 1e6 * cpu / len(actions)
