"""Every planner keeps every promise on all actions that it supports, and a planner that breaks one is caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from forethought.core.settings import Range
from forethought.planners import (
    ActionSpec,
    BrokenPromise,
    Plan,
    Planner,
    PlannerSettings,
    Search,
    available_planners,
    check_planner,
    example_specs,
    make_planner,
    planner_summary,
    register_planner,
)
from forethought.planners.base import _REGISTRY
from forethought.planners.instruments import Bowl, NoHostSync, Watched

SPECS = example_specs()
CASES = [(name, i) for name in available_planners() for i, spec in enumerate(SPECS) if name in available_planners(spec)]
SPEC = SPECS[0]

# The smallest sizes at which each planner can work at all.
SMALLEST: dict[str, dict[str, Any]] = {
    "random": {"samples": 1},
    "cem": {"samples": 1, "iterations": 1},
    "icem": {"samples": 1, "iterations": 1, "elites": 1},
    "mppi": {"samples": 1, "iterations": 1},
    "gradient": {"samples": 1, "starts": 1, "steps": 1},
    "hybrid": {"samples": 1, "iterations": 1, "starts": 1, "steps": 1, "memory": 1},
    "policy": {},
    "categorical_cem": {"samples": 1, "iterations": 1},
}
SMALL: dict[str, dict[str, Any]] = {
    "random": {"samples": 2},
    "cem": {"samples": 5, "iterations": 2, "elite_fraction": 0.01},
    "icem": {"samples": 5, "iterations": 3, "elites": 1},
    "mppi": {"samples": 5, "iterations": 2, "effective_fraction": 0.01, "noise_colour": 2.0},
    "gradient": {"samples": 2, "starts": 4, "steps": 2},
    "hybrid": {"samples": 3, "iterations": 2, "starts": 3, "steps": 2},
    "policy": {"proposals": 3},
    "categorical_cem": {"samples": 5, "iterations": 2, "elite_fraction": 0.01},
}


@pytest.mark.parametrize(("name", "spec"), CASES)
def test_every_promise_is_kept(name: str, spec: int) -> None:
    check_planner(name, SPECS[spec])


@pytest.mark.parametrize("sizes", [SMALLEST, SMALL], ids=["smallest", "small"])
@pytest.mark.parametrize("name", available_planners())
def test_promises_hold_at_the_smallest_sizes(name: str, sizes: dict[str, dict[str, Any]]) -> None:
    spec = ActionSpec.from_space(spaces.Discrete(1) if name == "categorical_cem" else spaces.Box(-1, 1, (1,)))
    check_planner(name, spec, horizon=1, **sizes[name])


@pytest.mark.parametrize("name", available_planners())
def test_the_declared_budget_is_what_a_plan_costs_exactly(name: str) -> None:
    for spec in (SPECS[0], SPECS[-1]):
        if name not in available_planners(spec):
            continue
        for budget in (None, 100, 777):
            planner = make_planner(name, spec, 3, budget=budget)
            watched = Watched(Bowl.make(planner, 2))
            planner.plan(watched, planner.initial_state([0, 1]))
            assert watched.evaluated == planner.budget
            assert watched.differentiated == planner.gradients


@pytest.mark.parametrize("name", available_planners())
def test_proposals_take_the_place_of_samples_and_are_evaluated_as_they_are(name: str) -> None:
    spec = SPECS[-1] if name == "categorical_cem" else SPECS[1]
    planner = make_planner(name, spec, 3)
    count = min(5, planner.max_proposals)
    noise = torch.randn(2, count, 3, spec.dims, generator=torch.Generator().manual_seed(3))
    proposals = spec.project(spec.rest + spec.scale * noise)
    watched = Watched(Bowl.make(planner, 2))
    planner.plan(watched, planner.initial_state([0, 1]), proposals)
    assert watched.evaluated == planner.budget
    first = 1 if planner.searches else 0
    assert torch.equal(watched.actions[0][:, first : first + count], proposals)


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "random", "gradient", "hybrid"])
def test_another_seed_and_another_tick_give_another_search(name: str) -> None:
    planner = make_planner(name, SPEC, 3)
    bowl = Bowl.make(planner, 1)
    first = planner.initial_state(0)
    later = replace(first, ticks=(1,))
    plans = [planner.plan(bowl, state, trace=True) for state in (first, later, planner.initial_state(1))]
    openings = [plan.trace.mean[0, 0].item() for plan in plans if plan.trace is not None]
    assert len(set(openings)) == 3


@pytest.mark.parametrize("name", available_planners())
def test_no_problem_at_all_is_planned_too(name: str) -> None:
    planner = make_planner(name, SPECS[-1] if name == "categorical_cem" else SPEC, 3)
    plan = planner.plan(Bowl.make(planner, 0), planner.initial_state([]))
    assert plan.actions.shape == (0, 3, planner.spec.dims)


@pytest.mark.parametrize("name", sorted(set(available_planners()) - {"policy"}))
@pytest.mark.parametrize("cost", [-2.0, 0.0, 1e30])
def test_where_all_costs_are_equal_the_plan_stays_what_it_was(name: str, cost: float) -> None:
    planner = make_planner(name, SPECS[-1] if name == "categorical_cem" else SPEC, 3)
    state = planner.plan(Bowl.make(planner, 2), planner.initial_state([0, 1])).state
    plan = planner.plan(lambda actions: actions.sum((2, 3)) * 0 + cost, state)
    assert torch.equal(plan.actions, state.actions)
    assert torch.equal(plan.cost, torch.full((2,), cost))
    assert not plan.failed.any()


@pytest.mark.parametrize(("name", "elites"), [("icem", {"elites": 50}), ("cem", {"elite_fraction": 1.0})])
def test_all_samples_may_be_elites_and_no_more_than_there_are(name: str, elites: dict[str, Any]) -> None:
    check_planner(name, SPEC, horizon=1, samples=3, iterations=2, **elites)


def test_a_policy_acts_as_its_only_proposal_even_where_the_warm_start_is_better() -> None:
    planner = make_planner("policy", SPEC, 2)
    proposal = torch.full((1, 1, 2, 2), 0.9)
    plan = planner.plan(lambda actions: actions.square().sum((2, 3)), planner.initial_state(0), proposal)
    assert torch.equal(plan.actions, proposal[:, 0])
    without = planner.plan(lambda actions: actions.square().sum((2, 3)), plan.state)
    assert torch.equal(without.actions, plan.state.actions)


def test_a_policy_whose_only_proposal_has_no_finite_cost_falls_back_to_the_warm_start() -> None:
    planner = make_planner("policy", SPEC, 2)
    plan = planner.plan(lambda actions: actions.sum((2, 3)).log(), planner.initial_state(0), -torch.ones(1, 1, 2, 2))
    assert plan.failed.all()
    assert torch.equal(plan.actions, torch.zeros(1, 2, 2))


# Planners that break one promise each.


@dataclass(frozen=True)
class GuessSettings(PlannerSettings):
    samples: Annotated[int, Range(ge=1)] = 16

    @property
    def budget(self) -> int:
        return self.samples

    @property
    def max_proposals(self) -> int:
        return self.samples - 1


class Guess(Planner):
    """The smallest honest planner."""

    Settings = GuessSettings
    settings: GuessSettings

    def search(self, search: Search) -> Tensor | None:
        noise = self.noise(search.state, self.settings.samples - 1)
        search.opening(self.spec.clip(search.warm_start[:, None] + noise))
        return None


class Flatterer(Guess):
    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        plan = super().plan(*args, **kwargs)
        return replace(plan, cost=plan.cost - 0.5)


class Rebel(Guess):
    def search(self, search: Search) -> None:
        search.score(search.given + 5 * search.spec.scale)


class Forgetful(Guess):
    def search(self, search: Search) -> None:
        samples = self.spec.clip(self.noise(search.state, self.settings.samples))
        search.evaluate(samples)


class Gambler(Guess):
    def search(self, search: Search) -> None:
        size = (len(search.state), self.settings.samples - 1, self.horizon, self.spec.dims)
        search.opening(self.spec.clip(torch.randn(size)))


class Gossip(Guess):
    def search(self, search: Search) -> None:
        noise = self.noise(search.state, self.settings.samples - 1)
        search.opening(self.spec.clip(noise + noise.mean(0, keepdim=True)))


class Hoarder(Guess):
    """Remembers its last plan in itself."""

    last: Tensor | None = None

    def search(self, search: Search) -> None:
        search.opening(self.spec.clip(self.noise(search.state, self.settings.samples - 2)))
        last = self.last if self.last is not None and len(self.last) == len(search.state) else search.warm_start
        search.evaluate(last[:, None])
        self.last = self.spec.to_units(search.best_actions) * 0.9


class Accountant(Guess):
    """Has a temperature in units of cost."""

    def search(self, search: Search) -> None:
        noise = self.noise(search.state, self.settings.samples - 2)
        candidates, costs = search.opening(self.spec.clip(noise))
        weights = (-costs).exp() / (1e-9 + (-costs).exp().sum(1, keepdim=True))
        search.evaluate((weights[:, :, None, None] * candidates).sum(1, keepdim=True))


class Idle(Guess):
    def search(self, search: Search) -> None:
        pass


class Clumsy(Guess):
    def search(self, search: Search) -> None:
        raise LookupError("lost")


class Spendthrift(Guess):
    def search(self, search: Search) -> None:
        candidates, _ = search.opening(self.noise(search.state, self.settings.samples).clamp(-1, 1))
        search.evaluate(candidates)


class Impatient(Guess):
    def search(self, search: Search) -> None:
        candidates, costs = search.opening(self.noise(search.state, self.settings.samples - 2).clamp(-1, 1))
        if costs.min().item() > -100:
            search.evaluate(candidates[:, :1])


class Masked(Guess):
    def search(self, search: Search) -> None:
        candidates, costs = search.opening(self.noise(search.state, self.settings.samples - 2).clamp(-1, 1))
        search.evaluate(torch.zeros_like(candidates[:, :1]) + candidates[costs > 1e6].sum())


class Credulous(Guess):
    """Believes that a cost of minus infinity is the best of all."""

    def plan(self, objective: Any, state: Any, *args: Any, **kwargs: Any) -> Plan:
        return super().plan(lambda actions: objective(actions).clamp(min=-1e6), state, *args, **kwargs)


class Vandal(Guess):
    def search(self, search: Search) -> None:
        super().search(search)
        search.state.actions.zero_()


class Diary(Guess):
    """Invents what happened."""

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        plan = super().plan(*args, **kwargs)
        return plan if plan.trace is None else replace(plan, trace=replace(plan.trace, best=plan.trace.best + 1))


BROKEN = {
    Idle: "evaluates candidates, for a box .*: its search evaluated none",
    Clumsy: "for a box .*: LookupError: lost",
    Flatterer: "the objective at the returned actions",
    Rebel: "inside the bounds|never worse",
    Forgetful: "never worse",
    Gambler: "no global generator",
    Gossip: "does not depend on the others",
    Hoarder: "the same seeds give the same plan",
    Accountant: "the unit of the cost",
    Spendthrift: "the budget is kept",
    Impatient: "never waits",
    Masked: "never waits",
    Credulous: "non-finite cost",
    Vandal: "changes nothing that it is given|the same seeds",
    Diary: "the trace tells",
}


@pytest.mark.parametrize("planner", BROKEN)
def test_a_broken_promise_is_named(planner: type[Planner]) -> None:
    with pytest.raises(BrokenPromise, match=BROKEN[planner]):
        check_planner(planner, SPEC)


def test_a_planner_of_ones_own_is_one_class() -> None:
    check_planner(Guess)
    check_planner(Guess(SPEC, 3, GuessSettings(samples=8)))


@pytest.fixture
def guess() -> Iterator[str]:
    register_planner("guess")(Guess)
    yield "guess"
    del _REGISTRY._entries["guess"]


def test_a_registered_planner_is_built_fitted_listed_and_checked_by_name(guess: str) -> None:
    assert guess in available_planners(SPEC)
    assert guess not in available_planners(SPECS[-1])
    assert make_planner(guess, SPEC, 3, budget=40).budget == 40
    check_planner(guess, SPEC)
    check_planner(f"forethought.planners.base:{guess}", SPEC)
    assert planner_summary(f"forethought.planners.base:{guess}") == planner_summary(guess)


def test_a_budget_is_filled_as_far_as_a_setting_goes() -> None:
    @dataclass(frozen=True)
    class FewSettings(GuessSettings):
        samples: Annotated[int, Range(ge=2, le=64)] = 8

    assert FewSettings().fit(300).samples == 64
    assert FewSettings().fit(40).samples < 64


def test_reading_a_value_back_is_noticed_wherever_it_happens() -> None:
    values = torch.rand(4)
    for read in (
        lambda: values.sum().item(),
        lambda: bool((values > 0).all()),
        lambda: values[values > 0.5],
        values.tolist,
        values.numpy,
        values.cpu,
        lambda: np.asarray(values),
        lambda: np.from_dlpack(values),
        lambda: values.to("cpu"),
        lambda: repr(values),
    ):
        with NoHostSync(), pytest.raises(BrokenPromise):
            read()
    with NoHostSync():
        assert torch.where(values > 0.5, values, 0.0).shape == (4,)


def test_numpy_stays_out_of_a_plan_too() -> None:
    class Converter(Guess):
        def search(self, search: Search) -> None:
            _, costs = search.opening(self.noise(search.state, self.settings.samples - 1).clamp(-1, 1))
            np.argsort(costs.numpy())

    with pytest.raises(BrokenPromise, match="waits"):
        check_planner(Converter, SPEC)
