"""Planners reach the known optima of known problems, within a stated effort."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from forethought.planners import ActionSpec, make_planner


def double_integrator(actions: Tensor) -> Tensor:
    """Sum of (x'x + u^2) / 2 over the steps and x'x / 2 at the end, from position 5 at rest."""
    control = actions[..., 0]
    position = torch.full_like(control[..., 0], 5.0)
    velocity, cost = torch.zeros_like(position), torch.zeros_like(position)
    for step in range(control.shape[-1]):
        u = control[..., step]
        cost = cost + (position**2 + velocity**2 + u**2) / 2
        position, velocity = position + velocity, velocity + u
    return cost + (position**2 + velocity**2) / 2


class Pendulum:
    """Pendulum-v1 for B problems: its true dynamics and cost, from the hanging start."""

    def __init__(self, problems: int) -> None:
        self.angle = torch.full((problems,), math.pi)
        self.speed = torch.zeros(problems)

    @staticmethod
    def dynamics(angle: Tensor, speed: Tensor, torque: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = (speed + (15 * angle.sin() + 3 * torque) * 0.05).clamp(-8, 8)
        return angle + 0.05 * speed, speed, cost

    def objective(self, actions: Tensor) -> Tensor:
        angle, speed = (value[:, None].expand(actions.shape[:2]) for value in (self.angle, self.speed))
        total = torch.zeros(actions.shape[:2])
        for step in range(actions.shape[2]):
            angle, speed, cost = self.dynamics(angle, speed, actions[:, :, step, 0])
            total = total + cost
        return total

    def step(self, torque: Tensor) -> Tensor:
        self.angle, self.speed, cost = self.dynamics(self.angle, self.speed, torque)
        return cost


def ripples(actions: Tensor) -> Tensor:
    """Rastrigin's function with its minimum, 0, at 0.3 everywhere: a bowl full of smaller ones."""
    offset = (actions - 0.3).flatten(2)
    return (offset**2 + 0.1 * (1 - torch.cos(20 * offset))).sum(2)


EXCESS_COLUMNS = {  # steps, bound: the optimal cost (Riccati; with bounds, a quadratic program)
    (10, 4): 36.839034878737,
    (10, 1): 40.299568846980,
    (5, 4): 36.829324699352,
}
BARS = [  # planner, effort, steps, bound, {quantile: largest excess over the optimum}
    ("cem", 9000, 10, 4, {0.5: 0.02, 0.95: 0.08}),
    ("cem", 9000, 10, 1, {0.95: 0.02}),
    ("cem", 9000, 5, 4, {0.95: 0.003}),
    ("mppi", 9000, 10, 4, {0.5: 0.02, 0.95: 0.08}),
    ("mppi", 9000, 10, 1, {0.95: 0.02}),
    ("mppi", 9000, 5, 4, {0.95: 0.003}),
    ("icem", 9000, 10, 4, {0.5: 0.005, 0.95: 0.02}),
    ("icem", 9000, 10, 1, {0.95: 0.02}),
    ("icem", 9000, 5, 4, {0.95: 0.003}),
    ("hybrid", 500, 10, 4, {0.95: 0.001}),
    ("hybrid", 500, 10, 1, {0.95: 0.01}),
    ("hybrid", 500, 5, 4, {0.95: 0.001}),
    ("gradient", 6000, 10, 4, {0.5: 0.001}),
    ("gradient", 6000, 10, 1, {0.95: 0.02}),
    ("gradient", 2000, 5, 4, {0.5: 0.001}),
]


@pytest.mark.parametrize(("name", "effort", "steps", "bound", "limits"), BARS)
def test_the_double_integrator_is_driven_to_rest_near_optimally(
    name: str, effort: int, steps: int, bound: int, limits: dict[float, float]
) -> None:
    spec = ActionSpec.from_space(spaces.Box(-bound, bound, (1,)))
    planner = make_planner(name, spec, steps, budget=effort)
    assert planner.budget + 2 * planner.gradients <= effort
    plan = planner.plan(double_integrator, planner.initial_state(range(64)))
    excess = plan.cost.double() / EXCESS_COLUMNS[steps, bound] - 1
    assert excess.min() > -1e-6  # float32 cannot do better than the optimum
    for quantile, limit in limits.items():
        assert excess.quantile(quantile) <= limit


@pytest.mark.parametrize("name", ["icem", "mppi"])
def test_the_pendulum_is_swung_up(name: str) -> None:
    pendulum, total = Pendulum(20), torch.zeros(20)
    spec = ActionSpec.from_space(spaces.Box(-2, 2, (1,)))
    planner = make_planner(name, spec, horizon=25, budget=300, noise_colour=3.0)
    assert planner.budget <= 300
    state = planner.initial_state(range(20))
    for _ in range(200):
        plan = planner.plan(pendulum.objective, state)
        total += pendulum.step(plan.actions[:, 0, 0])
        state = plan.state.shift(1)
    assert total.median() <= 360


def test_the_pendulum_of_these_tests_is_gymnasiums() -> None:
    import gymnasium as gym

    env = gym.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    pendulum = Pendulum(1)
    env.state = torch.tensor([math.pi, 0.0]).double().numpy()
    for step in range(50):
        torque = 2 * math.sin(0.4 * step)
        _, reward, *_ = env.step(torch.tensor([torque]).numpy())
        assert pendulum.step(torch.tensor([torque])).item() == pytest.approx(-reward, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["gradient", "hybrid"])
def test_gradients_lead_away_from_a_bound(name: str) -> None:
    spec = ActionSpec.from_space(spaces.Box(-0.46042657, 0.27392337, (1,)))  # of those that rounding would exceed
    planner = make_planner(name, spec, 1, samples=1)
    state = planner.initial_state([0])
    state = replace(state, actions=spec.high.expand_as(state.actions))
    plan = planner.plan(lambda actions: (actions + 0.1).square().sum((2, 3)), state)
    assert plan.cost.item() < 1e-3


def test_second_order_descent_never_loses_what_sampling_found() -> None:
    spec = ActionSpec.from_space(spaces.Box(-1, 1, (4,)))
    hybrid = make_planner("hybrid", spec, 5)
    sampling = make_planner("icem", spec, 5, **hybrid.settings.sampling.to_dict())
    state = hybrid.initial_state(range(64))
    refined, sampled = hybrid.plan(ripples, state).cost, sampling.plan(ripples, state).cost
    assert (refined <= sampled).all()
    assert refined.median() < 0.9 * sampled.median()


def test_more_starts_find_better_valleys() -> None:
    spec = ActionSpec.from_space(spaces.Box(-1, 1, (2,)))
    settings = {"samples": 128, "steps": 20}
    state = make_planner("gradient", spec, 2).initial_state(range(64))
    one, many = (
        make_planner("gradient", spec, 2, starts=starts, **settings).plan(ripples, state).cost for starts in (1, 32)
    )
    assert (many <= one).all()
    assert many.mean() < 0.7 * one.mean()


class Couplings:
    """A categorical cost with couplings between neighbouring steps, for B problems; few enough plans to try all."""

    def __init__(self, problems: int, steps: int, categories: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.single = torch.randn(problems, 1, steps, categories, generator=generator)
        self.pair = torch.randn(problems, 1, steps - 1, categories, categories, generator=generator)
        choices = torch.cartesian_prod(*[torch.arange(categories)] * steps)
        self.optimum = self(torch.eye(categories)[choices].expand(problems, -1, -1, -1)).amin(1)

    def __call__(self, actions: Tensor) -> Tensor:
        pairs = actions[:, :, :-1, :, None] * actions[:, :, 1:, None, :]
        return (self.single * actions).sum((2, 3)) + (self.pair * pairs).sum((2, 3, 4))


def test_categorical_plans_are_optimal_more_often_than_random_ones() -> None:
    cost = Couplings(problems=64, steps=5, categories=4)  # 1,024 plans each
    spec = ActionSpec.from_space(spaces.Discrete(4))
    found = {}
    for name in ("categorical_cem", "random"):
        planner = make_planner(name, spec, 5, budget=300)
        plan = planner.plan(cost, planner.initial_state(range(64)))
        assert (plan.cost >= cost.optimum - 1e-4).all()
        found[name] = (plan.cost < cost.optimum + 1e-4).float().mean()
    assert found["random"] < 0.5  # 300 of 1,024
    assert found["categorical_cem"] > 0.65


def test_a_warm_start_continues_the_search() -> None:
    for name, settings in {"cem": {}, "icem": {}, "mppi": {}, "hybrid": {}, "random": {}}.items():
        spec = ActionSpec.from_space(spaces.Box(-4, 4, (1,)))
        planner = make_planner(name, spec, 10, budget=200, **settings)
        first = planner.plan(double_integrator, planner.initial_state(range(64)))
        second = planner.plan(double_integrator, first.state)
        assert (second.cost <= first.cost).all()
        assert second.cost.sum() < first.cost.sum()
