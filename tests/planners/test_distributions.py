"""Sampling planners move their distributions as theory says; an update that is merely good enough is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from forethought.planners import ActionSpec, make_planner
from forethought.planners.gaussian import moments
from forethought.planners.instruments import Watched
from forethought.planners.mppi import boltzmann_weights

LINE = ActionSpec.from_space(spaces.Box(-math.inf, math.inf, (1,)), scale=1.0)
GENERATOR = torch.Generator().manual_seed(0)


def test_random_shooting_is_uniform_wherever_there_is_a_range() -> None:
    spec = ActionSpec.from_space(spaces.Box(np.float32([-1, -np.inf]), np.float32([1, np.inf])), scale=1.0)
    planner = make_planner("random", spec, 1, samples=2001)
    watched = Watched(lambda actions: actions.sum((2, 3)))
    planner.plan(watched, planner.initial_state([0]))
    ranged, free = watched.actions[0][0, 1:, 0].T
    assert ranged.abs().max() < 1  # nothing is cut off
    assert ranged.std().item() == pytest.approx(3**-0.5, abs=0.03)
    assert free.std().item() == pytest.approx(1, abs=0.06)


def linear(actions: Tensor) -> Tensor:
    return actions.sum((2, 3))


def means(name: str, iterations: int, **settings: float) -> list[float]:
    """Return the mean after 0, 1, 2, ... iterations of a linear cost, over 2,000 problems."""
    planner = make_planner(name, LINE, 1, iterations=iterations, initial_std=1.0, **settings)
    watched = Watched(linear)
    planner.plan(watched, planner.initial_state(range(2000)))
    return [actions[:, 0].mean().item() for actions in watched.actions]


def test_the_cross_entropy_method_travels_as_far_as_its_elites_allow() -> None:
    # The mean of the lowest 30 of 300 normal samples is 1.745 deviations down, and their deviation, about their own
    # mean, 0.407 x sqrt(29 / 30) = 0.400; so the steps are a geometric series (that of the limit: 1.755 and 0.41).
    travelled = means("cem", iterations=5, samples=300)
    for iteration in range(6):
        wanted = -1.745 * (1 - 0.400**iteration) / (1 - 0.400)
        assert travelled[iteration] == pytest.approx(wanted, abs=0.03)


def test_the_mean_is_returned_where_it_is_asked_for_though_samples_cost_less() -> None:
    def cliff(actions: Tensor) -> Tensor:
        return torch.where(actions.sum((2, 3)) < -1, 10.0, linear(actions))  # the lowest samples lie beside disaster

    planner = make_planner("cem", LINE, 1, preset="lewm-paper", samples=50, iterations=2)
    watched = Watched(cliff)
    plan = planner.plan(watched, planner.initial_state(range(20)))
    mean = watched.actions[-1][:, 0]
    assert torch.equal(plan.actions, mean)
    assert torch.equal(plan.cost, cliff(mean[:, None])[:, 0])
    lowest = torch.stack([cliff(actions).amin(1) for actions in watched.actions]).amin(0)
    assert (plan.cost > lowest).all()


def test_a_mean_of_no_finite_cost_gives_way_to_the_best_that_was_found() -> None:
    def hole(actions: Tensor) -> Tensor:
        return torch.where(actions.abs().amax((2, 3)) < 0.3, torch.nan, actions.square().sum((2, 3)))

    planner = make_planner("cem", LINE, 1, preset="lewm-paper", samples=50, iterations=2)
    watched = Watched(hole)
    plan = planner.plan(watched, planner.initial_state(range(20)))
    spoilt = watched.costs[-1][:, 0].isnan()
    assert spoilt.any()
    assert not plan.failed.any()
    best = torch.cat(watched.costs, 1).nan_to_num(nan=torch.inf).amin(1)
    assert torch.equal(plan.cost[spoilt], best[spoilt])
    assert torch.equal(hole(plan.actions[:, None])[:, 0], plan.cost)


def test_elites_of_one_leave_no_spread_and_no_nan() -> None:
    travelled = means("cem", iterations=3, samples=50, elite_fraction=0.01)
    assert travelled[1] == pytest.approx(-2.25, abs=0.05)  # expected minimum of 49 normal samples
    assert travelled[2] == pytest.approx(travelled[1], abs=1e-4)


def test_momentum_keeps_a_share_of_the_mean() -> None:
    planner = make_planner("icem", LINE, 1, samples=200, iterations=1, initial_std=1.0, momentum=0.0)
    slow = make_planner("icem", LINE, 1, samples=200, iterations=1, initial_std=1.0, momentum=0.4)
    ends = []
    for each in (planner, slow):
        watched = Watched(linear)
        each.plan(watched, each.initial_state(range(50)))
        ends.append(watched.actions[-1])
    assert torch.allclose(ends[1], 0.6 * ends[0], atol=1e-5)


def test_the_population_decays_but_not_below_twice_the_elites() -> None:
    planner = make_planner("icem", LINE, 1, samples=100, iterations=8, decay=1.5, elites=6)
    plan = planner.plan(linear, planner.initial_state(0), trace=True)
    assert plan.trace is not None
    assert plan.trace.evaluations == (100, 67, 44, 30, 20, 13, 12, 12, 1)


def test_elites_are_carried_to_the_next_plan_with_a_new_last_action() -> None:
    spec = ActionSpec.from_space(spaces.Box(-1, 1, (2,)))
    planner = make_planner("icem", spec, 6, samples=40)
    first = planner.plan(linear, planner.initial_state([0, 1]))
    watched = Watched(linear)
    planner.plan(watched, first.state.shift(2).reset([False, True]))
    kept = first.state.elites[0, :, 2:]
    opening = watched.actions[0]
    assert planner.carried == 3
    assert torch.equal(opening[0, -3:, :4], kept)
    assert len(opening[0, -3:, 4:].unique(dim=0)) == 3  # unknown, so sampled
    known_costs = linear(first.state.elites)
    assert (known_costs.diff(dim=1) >= 0).all()
    cold = Watched(linear)
    planner.plan(cold, planner.initial_state([0, 1]).reset([True, True]))
    assert not torch.equal(opening[1], cold.actions[0][1])  # another tick, other samples
    assert opening[1].isfinite().all()


@pytest.mark.parametrize("count", [16, 64, 300, 2000])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize(
    "shape", ["normal", "squared", "skewed", "cauchy", "offset", "tiny", "huge", "partly infinite"]
)
def test_the_temperature_hits_the_effective_sample_size(shape: str, share: float, count: int) -> None:
    normal = torch.randn(50, count, generator=GENERATOR)
    other = torch.randn(50, count, generator=GENERATOR)
    costs = {
        "normal": normal,
        "squared": normal.square(),
        "skewed": (3 * normal).exp(),
        "cauchy": normal / other,
        "offset": normal + 100,
        "tiny": normal * 1e-30,
        "huge": normal * 1e30,
        "partly infinite": torch.where(other < 0.2, normal, torch.inf),
    }[shape]
    target = max(1.5, share * count)
    weights = boltzmann_weights(costs, target)
    assert weights.isfinite().all()
    reachable = costs.isfinite().sum(1) > 1.2 * target
    size = weights.sum(1).square() / weights.square().sum(1)
    assert reachable.any()
    assert size[reachable].tolist() == pytest.approx([target] * int(reachable.sum()), rel=0.01)
    assert weights[~costs.isfinite()].eq(0).all()


def test_weights_of_equal_costs_are_equal_and_hopeless_ones_zero() -> None:
    costs = torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 5.0, math.inf], [math.inf] * 4])
    weights = boltzmann_weights(costs, 1.5)
    assert torch.equal(weights[0], torch.ones(4))
    assert weights[1, 0] == weights[1, 1] == 1
    assert weights[1, 2] < 1e-3
    assert weights[1:, 3].eq(0).all()
    assert torch.equal(weights[2], torch.zeros(4))


@pytest.mark.parametrize("quadratic", [False, True])
def test_path_integral_weights_give_the_posterior_mean(quadratic: bool) -> None:
    # Samples from N(mu, s^2) weighted by exp(-S / T): a linear S = g u moves the mean by -s^2 g / T; a quadratic
    # S = k (u - u0)^2 / 2 gives (mu / s^2 + k u0 / T) / (1 / s^2 + k / T).
    mu, s, g, k, u0 = 0.3, 0.5, 2.0, 3.0, 1.0
    u = mu + s * torch.randn(1, 200_000, generator=GENERATOR)
    costs = k * (u - u0).square() / 2 if quadratic else g * u
    weights = boltzmann_weights(costs, 20_000)
    low, high = costs.argmin(), weights.log().isfinite().nonzero()[:, 1][0]
    temperature = ((costs[0, high] - costs[0, low]) / (weights[0, low].log() - weights[0, high].log())).item()
    assert torch.allclose(weights, (-(costs - costs.min()) / temperature).exp(), rtol=1e-3, atol=1e-5)
    zero = torch.zeros(1, 1, 1)
    mean, std = moments(u[:, :, None, None], weights, zero, zero)
    precision = 1 / s**2 + (k / temperature if quadratic else 0)
    wanted = (mu / s**2 + (k * u0 if quadratic else -g) / temperature) / precision
    assert mean.item() == pytest.approx(wanted, abs=5 * precision**-0.5 / 20_000**0.5)
    assert std.item() == pytest.approx(precision**-0.5, rel=0.03)
    if not quadratic:  # Gaussian costs: N_eff / N = exp(-(std(S) / T)^2)
        assert temperature == pytest.approx(g * s / math.sqrt(math.log(10)), rel=0.03)


def test_annealing_ends_at_the_initial_spread_over_the_iterations() -> None:
    for annealing, last in ((0.0, 0.5), (1.0, 0.1), (2.0, 0.02)):
        planner = make_planner("mppi", LINE, 1, samples=2000, iterations=5, annealing=annealing)
        plan = planner.plan(linear, planner.initial_state(0), trace=True)
        assert plan.trace is not None
        spread = plan.trace.spread[0]
        assert spread[0].item() == pytest.approx(0.5, rel=0.1)
        assert spread[4].item() == pytest.approx(last, rel=0.1)


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "hybrid", "gradient"])
def test_where_all_costs_are_non_finite_the_search_goes_on_from_where_it_was(name: str) -> None:
    planner = make_planner(name, ActionSpec.from_space(spaces.Box(-1, 1, (1,))), 2)
    calls = 0

    def recovers(actions: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (actions - 0.5).square().sum((2, 3)) * (math.nan if calls == 1 else 1.0)

    plan = planner.plan(recovers, planner.initial_state([0, 1]))
    assert not plan.failed.any()
    assert plan.actions.isfinite().all()
    assert plan.cost.max() < 0.4
