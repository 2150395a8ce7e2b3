"""The cost of planning: how long a plan takes in a LeWorldModel, beside a plain implementation of the same search.

The weights are random, which changes no time. The plain one is what one writes first: every step runs the predictor
over the whole window, one environment is planned for after the other, and everything is in fp32.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..agents.objective import GoalObjective
from ..core.files import write_json
from ..core.provenance import describe_process
from ..core.settings import Range, Settings
from ..planners import ActionSpec, Planner, make_planner
from ..world_model import JEPA, LEWM, LEWM_SMALL, LatentState, Precision, bf16_helps
from .settings import command_line
from .stage import isolated_generators, limited_threads
from .tables import Table

MODELS = {"lewm": LEWM, "lewm-small": LEWM_SMALL}
ACTION_DIMS = 2
HORIZON = 5
SPREAD_OF_WEIGHTS = 0.02
PLAIN = "plain"


@dataclass(frozen=True)
class PlanningSpeedSettings(Settings):
    """What is measured."""

    model: Literal["lewm", "lewm-small"] = "lewm"
    """Architecture, with random weights."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of torch; more than there are cores are left out."""
    environments: tuple[int, ...] = (1, 8)
    """Environments that are planned for at once."""
    iterations: Annotated[int, Range(ge=1, le=30)] = 30
    """Of the paper's 30 iterations with 300 candidates: all of them take as long, so fewer tell as much."""
    rounds: Annotated[int, Range(ge=1, le=1000)] = 3
    """How often each plan is made, in turns; the fastest counts, because others only ever slow it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""


@dataclass(frozen=True)
class PlanningSpeed:
    """How long one plan takes.

    Attributes:
        name: of the way to plan.
        threads: of torch.
        environments: planned for at once.
        seconds: on the clock, for all of them.
        ratio: how many times as long the plain implementation takes; ``None`` where it searches for something else.
    """

    name: str
    threads: int
    environments: int
    seconds: float
    ratio: float | None


@dataclass(frozen=True)
class PlanningSpeedTable:
    """What :func:`measure_planning` found.

    Attributes:
        settings: what was measured.
        rows: the plain implementation first, for each number of threads and environments.
        difference: largest difference between the latents that are predicted here and plainly, in units of their
            spread.
        cost_ratio: fp32 cost of the plan that was found in bf16, in units of that of the plan found in fp32; ``None``
            where no plan is made in bf16, because the device has no units for it.
        process: what it was measured on.
    """

    settings: PlanningSpeedSettings
    rows: Sequence[PlanningSpeed]
    difference: float
    cost_ratio: float | None
    process: dict[str, Any]

    def table(self) -> Table:
        """Return the figures as text."""
        s = self.settings
        share = "" if s.iterations == 30 else f", of which {s.iterations} iterations were made and timed"
        return Table(
            ("plan", "threads", "environments", "seconds", "times as fast"),
            [
                (row.name, str(row.threads), str(row.environments), f"{row.seconds:.3f}", _times(row.ratio))
                for row in self.rows
            ],
            title=f"{s.model} on {s.device}: how long a plan takes",
            notes=(
                f"The fastest of {s.rounds} rounds. plain: 300 candidates, 30 iterations, in fp32, one environment "
                f"after the other, the predictor run over the whole window at every step{share}; 300 x 30: the same "
                "search here. Predictions of both differ by at most "
                f"{self.difference:.1e} of their spread. {self._about_bf16()}",
            ),
        )

    def _about_bf16(self) -> str:
        if self.cost_ratio is None:
            return f"Not in bf16, which the {self.settings.device} here has no units for."
        return f"The plan found in bf16 costs {self.cost_ratio:.4f} times that found in fp32, both judged in fp32."

    def save(self, path: str | Path) -> None:
        """Write everything as JSON, with the command and what it ran on."""
        figures = {"difference": self.difference, "cost_ratio": self.cost_ratio}
        rows = [vars(row) for row in self.rows]
        shared = {"command": command_line(), "process": self.process, "settings": self.settings.to_dict()}
        write_json(path, {**shared, **figures, "rows": rows})


def measure_planning(
    settings: PlanningSpeedSettings | None = None, on_plan: Callable[[str], None] | None = None
) -> PlanningSpeedTable:
    """Make plans to random goals with a model of random weights, and say how long each takes.

    Args:
        settings: what is measured.
        on_plan: called before each plan with what it is.
    """
    s = settings or PlanningSpeedSettings()
    device, cores = torch.device(s.device), len(os.sched_getaffinity(0))
    with isolated_generators(0), torch.no_grad():
        model = _random_model(s.model).to(device)
        ways = dict(_ways(s, model))
        rows: list[PlanningSpeed] = []
        for threads in [count for count in s.threads if count <= cores] or [1]:
            with limited_threads(threads):
                for count in s.environments:
                    rows += _measure(s, model, ways, threads, count, on_plan)
        difference, cost_ratio = _difference(model), _cost_ratio(model, ways) if bf16_helps(device) else None
    return PlanningSpeedTable(s, rows, difference, cost_ratio, describe_process())


Way = tuple[Planner | None, Precision]


def _ways(settings: PlanningSpeedSettings, model: JEPA) -> Iterator[tuple[str, Way]]:
    side = torch.full((model.action_dims,), torch.inf, device=model.device)
    free = ActionSpec(-side, side, torch.ones_like(side), block=model.settings.block)
    paper = make_planner("cem", free, HORIZON, preset="lewm-paper", iterations=settings.iterations)
    bounded = ActionSpec(-torch.ones_like(side), torch.ones_like(side), torch.ones_like(side), block=free.block)
    presets = {"cpu": "cpu preset"} if settings.device == "cpu" else {"gpu": "gpu preset"}
    planners = {"300 x 30": paper}
    for preset, name in presets.items():
        planner = make_planner("cem", bounded, HORIZON, preset=preset)
        planners[f"{name}, {planner.budget} evaluations"] = planner
    yield PLAIN, (None, "fp32")
    for name, planner in planners.items():
        yield name, (planner, "fp32")
        if bf16_helps(model.device):
            yield f"{name}, bf16", (planner, "bf16")


def _measure(
    settings: PlanningSpeedSettings,
    model: JEPA,
    ways: dict[str, Way],
    threads: int,
    count: int,
    on_plan: Callable[[str], None] | None,
) -> list[PlanningSpeed]:
    start, goal = _somewhere(model, count), _somewhere(model, count)
    fastest = dict.fromkeys(ways, float("inf"))
    for _ in range(settings.rounds):
        for name, way in ways.items():
            if on_plan is not None:
                on_plan(f"{name}, {threads} threads, {count} environments")
            began = time.perf_counter()
            _plan(settings, model, way, start, goal)
            if settings.device == "cuda":
                torch.cuda.synchronize()
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    whole = 30 / settings.iterations
    seconds = {name: taken * (whole if "preset" not in name else 1) for name, taken in fastest.items()}
    ratios = {name: seconds[PLAIN] / taken for name, taken in seconds.items() if "preset" not in name}
    return [PlanningSpeed(name, threads, count, seconds[name], ratios.get(name)) for name in ways]


def _plan(settings: PlanningSpeedSettings, model: JEPA, way: Way, start: Tensor, goal: Tensor) -> Tensor:
    """Return plans (B, H, A)."""
    planner, precision = way
    if planner is not None:
        objective = GoalObjective(model, LatentState(start), goal, precision=precision)
        return planner.plan(objective, planner.initial_state(range(len(start)))).actions
    return torch.stack([_plain_plan(settings, model, *pair) for pair in zip(start, goal, strict=True)])


def _plain_plan(settings: PlanningSpeedSettings, model: JEPA, start: Tensor, goal: Tensor) -> Tensor:
    """Return the mean (H, A) of the last elites, as LeWorldModel's planner does."""
    mean = torch.zeros(HORIZON, model.action_dims, device=model.device)
    std = torch.ones_like(mean)
    for _ in range(settings.iterations):
        candidates = mean + std * torch.randn(300, *mean.shape, device=model.device)
        candidates[0] = mean
        costs = (_plain_rollout(model, start, candidates)[:, -1] - goal).square().sum(-1)
        elites = candidates[costs.topk(30, largest=False).indices]
        mean, std = elites.mean(0), elites.std(0)
    return mean


def _plain_rollout(model: JEPA, start: Tensor, candidates: Tensor) -> Tensor:
    """Return latents (N, H, D), each predicted from the whole window before it."""
    latents = start.expand(len(candidates), 1, -1)
    for step in range(candidates.shape[1]):
        first = max(0, step + 1 - model.predictor.history)
        encoded = model.predictor.action_encoder(candidates[:, first : step + 1])
        predicted, _ = model.predictor(latents[:, first:], encoded)
        latents = torch.cat([latents, predicted[:, -1:]], 1)
    return latents[:, 1:]


def _random_model(name: str) -> JEPA:
    settings = MODELS[name]
    assert settings.vision is not None
    model = JEPA(settings.vision.image_shape, ACTION_DIMS * settings.block, settings).eval()
    for parameter in model.predictor.parameters():
        if parameter.dim() == 2:  # a fresh one begins with layers that do nothing
            torch.nn.init.normal_(parameter, std=SPREAD_OF_WEIGHTS)
    return model


def _somewhere(model: JEPA, count: int) -> Tensor:
    return torch.randn(count, model.latent_dims, device=model.device)


def _difference(model: JEPA) -> float:
    start, actions = _somewhere(model, 1), torch.randn(64, HORIZON, model.action_dims, device=model.device)
    plain = _plain_rollout(model, start[0], actions)
    ours = model.imagine(LatentState(start), actions[None]).latents[0]
    return float((ours - plain).abs().max() / plain.std())


def _cost_ratio(model: JEPA, ways: dict[str, Way]) -> float:
    planner, _ = ways["300 x 30"]
    assert planner is not None
    start, goal = _somewhere(model, 4), _somewhere(model, 4)
    judge = GoalObjective(model, LatentState(start), goal)
    objectives = [partial(GoalObjective, precision=precision) for precision in ("bf16", "fp32")]
    costs = []
    for make in objectives:
        objective = make(model, LatentState(start), goal)
        plan = planner.plan(objective, planner.initial_state(range(4))).actions
        costs.append(judge(plan[:, None])[:, 0])
    return float((costs[0] / costs[1]).mean())


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
