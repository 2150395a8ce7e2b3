"""check_planner: every promise of a planner, verified; for planners of your own as for the ones that come along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Planner, available_planners, make_planner, planner_class
from .instruments import Bowl, BrokenPromise, NoHostSync, Watched
from .search import Objective
from .spec import ActionSpec
from .state import Plan, PlanState

_PROBLEMS = 64


def check_planner(
    planner: str | type[Planner] | Planner, spec: ActionSpec | None = None, horizon: int = 4, **settings: Any
) -> None:
    """Verify every promise of a planner; takes a second or a few for each kind of actions.

    Args:
        planner: a registered name, a class derived from :class:`Planner`, or a planner ready to plan.
        spec: the actions to check it on; by default a selection of all that it supports: narrow, wide, lopsided,
            fixed and unbounded ones, and categories.
        horizon: planned steps; ignored, as ``spec`` is, where a planner is given that has them.
        **settings: for building the planner, as in :func:`make_planner`.

    Raises:
        BrokenPromise: naming the promise, the planner and the actions.
    """
    if isinstance(planner, Planner):
        _check(planner)
        return
    kind = planner_class(planner) if isinstance(planner, str) else planner
    supported = [spec] if spec is not None else [each for each in example_specs() if kind.supports(each)]
    if not supported:
        raise BrokenPromise(f"{kind.__name__} supports none of the usual actions: give the spec to check it on.")
    for each in supported:
        if isinstance(planner, str):
            _check_listing(planner, each)
            _check(make_planner(planner, each, horizon, **settings))
        else:
            _check(planner(each, horizon, planner.Settings.from_dict(settings)))


def example_specs() -> list[ActionSpec]:
    """Return actions of every kind that planners meet."""
    from gymnasium import spaces

    def box(low: list[float], high: list[float]) -> spaces.Box:
        return spaces.Box(np.array(low, np.float32), np.array(high, np.float32))

    return [
        ActionSpec.from_space(box([-1, -1], [1, 1])),
        ActionSpec.from_space(box([-1, 2, 0.3, 0], [0.5, 2.5, 0.3, 1e-6])),
        ActionSpec.from_space(box([-3e38], [3e38])),
        ActionSpec.from_space(box([-np.inf, 0], [np.inf, np.inf]), scale=[2.0, 0.5]),
        ActionSpec.from_space(box([-1], [1]), block=3),
        ActionSpec.from_space(spaces.Discrete(4, start=2)),
        ActionSpec.from_space(spaces.MultiDiscrete([3, 2, 5]), block=2),
    ]


def _check(planner: Planner) -> None:
    for promise, check in _PROMISES.items():
        try:
            check(planner)
        except Exception as error:  # a planner may raise anything
            told = str(error) if isinstance(error, BrokenPromise) else f"{type(error).__name__}: {error}"
            where = f"categories {planner.spec.groups}" if planner.spec.discrete else _sides(planner.spec)
            raise BrokenPromise(
                f"{type(planner).__name__} breaks the promise that {promise}, for {where}: {told.rstrip('.')}."
            ) from error


def _check_listing(name: str, spec: ActionSpec) -> None:
    if name.rpartition(":")[2] not in available_planners(spec):
        raise BrokenPromise(f"{name!r} is not listed for actions that its class supports.")
    for preset in ("cpu", "gpu"):
        make_planner(name, spec, 3, preset=preset)
        fitted = make_planner(name, spec, 3, preset=preset, budget=300)
        if fitted.budget + 2 * fitted.gradients > 300:
            raise BrokenPromise(f"{name!r} with the preset {preset!r}, fitted to a budget of 300, takes more.")


def _sides(spec: ActionSpec) -> str:
    return f"a box from {spec.low.tolist()} to {spec.high.tolist()}"


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise BrokenPromise(otherwise)


def _same(left: Plan, right: Plan, what: str) -> None:
    for name in ("actions", "cost", "failed"):
        _expect(torch.equal(getattr(left, name), getattr(right, name)), f"{what} changes plan.{name}")
    _same_state(left.state, right.state, what)


def _same_state(left: PlanState, right: PlanState, what: str) -> None:
    _expect(torch.equal(left.actions, right.actions), f"{what} changes the warm start")
    _expect(_equal_with_nan(left.elites, right.elites), f"{what} changes the elites")
    _expect((left.seeds, left.ticks) == (right.seeds, right.ticks), f"{what} changes seeds or ticks")


def _equal_with_nan(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.isnan(), right.isnan()) and torch.equal(left.nan_to_num(), right.nan_to_num())


def _rows(plan: Plan, index: list[int]) -> Plan:
    return Plan(plan.actions[index], plan.cost[index], plan.failed[index], plan.state.select(index))


def _warmed_up(planner: Planner, objective: Objective, problems: int) -> PlanState:
    """Return a state with a warm start worth something, shifted differently for every problem."""
    state = planner.initial_state([3 * problem + 1 for problem in range(problems)])
    return planner.plan(objective, state).state.shift([problem % 3 for problem in range(problems)])


def _proposals(planner: Planner, problems: int) -> Tensor | None:
    """Return as many random proposals as the planner takes, at most 3."""
    count = min(3, planner.max_proposals)
    if count == 0:
        return None
    generator = torch.Generator().manual_seed(5)
    size = (problems, count, planner.horizon, planner.spec.dims)
    noise = torch.randn(size, generator=generator).to(planner.spec.device)
    return planner.spec.project(planner.spec.rest + planner.spec.scale * noise)


def _situations(planner: Planner, problems: int = 6) -> Iterator[tuple[Bowl, PlanState, Tensor | None]]:
    """Yield a cold start, and a warm one with proposals."""
    bowl = Bowl.make(planner, problems)
    yield bowl, planner.initial_state(list(range(problems))), None
    yield bowl, _warmed_up(planner, bowl, problems), _proposals(planner, problems)


def _cost_is_the_objective(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        plan = planner.plan(bowl, state, proposals)
        _expect(torch.equal(bowl(plan.actions[:, None])[:, 0], plan.cost), "it reports another cost")
        _expect(not plan.failed.any(), "it reports a failure where every cost is finite")
        _expect(not plan.actions.requires_grad, "its actions drag a graph along")


def _never_worse(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        plan = planner.plan(bowl, state, proposals)
        if planner.searches or proposals is None:
            warm = bowl(state.actions[:, None])[:, 0]
            _expect(bool((plan.cost <= warm).all()), "the warm start was better")
        if proposals is not None:
            _expect(bool((plan.cost <= bowl(proposals).amin(1)).all()), "a proposal was better")


def _inside_the_bounds(planner: Planner) -> None:
    spec = planner.spec
    steep = Bowl.make(planner, 6).beyond_the_bounds()
    for bowl, state, proposals in [*_situations(planner), (steep, planner.initial_state(list(range(6))), None)]:
        if proposals is not None:  # a policy may propose what is out of bounds, or no number at all
            proposals = proposals * 3
            proposals[0, 0, 0, 0] = torch.nan
            proposals[1, 0, 0, 0] = torch.inf
        watched = Watched(bowl)
        plan = planner.plan(watched, state, proposals)
        for actions in [*watched.actions, plan.actions, plan.state.actions]:
            inside = (actions >= spec.low) & (actions <= spec.high)
            _expect(bool((inside & actions.isfinite()).all()), "an action lies outside")
            if spec.discrete:
                _expect(torch.equal(spec.project(actions), actions), "an action is not made of one-hots")


def _reproducible(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        before = torch.get_rng_state()
        plan = planner.plan(bowl, state, proposals)
        _expect(torch.equal(before, torch.get_rng_state()), "the global generator was used")
        torch.manual_seed(12)
        again = planner.plan(bowl, state, proposals, trace=True)
        torch.set_rng_state(before)
        _same(plan, again, "planning again, with a trace,")
        _expect(plan.state.ticks == tuple(tick + 1 for tick in state.ticks), "the tick does not advance by 1")


def _independent_of_the_batch(planner: Planner) -> None:
    orders = ([7], [_PROBLEMS - 1, 0], [int(i) for i in np.random.default_rng(0).permutation(_PROBLEMS)])
    for bowl, state, proposals in _situations(planner, _PROBLEMS):
        together = planner.plan(bowl, state, proposals)
        for index in orders:
            part = None if proposals is None else proposals[index]
            alone = planner.plan(bowl.select(index), state.select(index), part)
            _same(alone, _rows(together, index), f"planning {len(index)} of {_PROBLEMS} problems, in another order,")


def _reset_touches_nothing_else(planner: Planner) -> None:
    bowl = Bowl.make(planner, 4)
    state = _warmed_up(planner, bowl, 4)
    fresh = planner.initial_state([0, 0, 77, 0])
    reset = state.reset([False, False, True, False], seeds=[5, 5, 77, 5])
    _same_state(reset.select([0, 1, 3]), state.select([0, 1, 3]), "resetting one problem")
    _same_state(reset.select([2]), fresh.select([2]), "resetting instead of beginning")
    plan, undisturbed = planner.plan(bowl, reset), planner.plan(bowl, state)
    _same(_rows(plan, [0, 1, 3]), _rows(undisturbed, [0, 1, 3]), "resetting another problem")
    kept = state.reset([True] * 4)
    _expect((kept.seeds, kept.ticks) == (state.seeds, state.ticks), "a reset without seeds changes seeds or ticks")


def _non_finite_is_never_chosen(planner: Planner) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        for bowl, state, proposals in _situations(planner):

            def patchy(actions: Tensor, bowl: Bowl = bowl, bad: float = bad) -> Tensor:
                costs = bowl(actions)
                digits = (costs.detach() * 1024).round().remainder(2)  # about every other candidate
                return torch.where((digits == 0) & (costs.detach() < 1e6), costs, bad)

            watched = Watched(patchy)
            plan = planner.plan(watched, state, proposals)
            chosen = patchy(plan.actions[:, None])[:, 0]
            nothing = ~torch.cat(watched.costs, 1).isfinite().any(1)
            _expect(torch.equal(plan.failed, nothing), f"costs of {bad} spoil the report of failure")
            fine = ~plan.failed
            _expect(torch.equal(plan.cost[fine], chosen[fine]), f"costs of {bad} spoil the reported cost")
            _expect(bool(plan.actions.isfinite().all()), f"costs of {bad} spoil the actions")

            def hopeless(actions: Tensor, bowl: Bowl = bowl, bad: float = bad) -> Tensor:
                first = torch.arange(actions.shape[0], device=actions.device)[:, None] == 0
                return torch.where(first, bad, bowl(actions))

            plan, whole = planner.plan(hopeless, state, proposals), planner.plan(bowl, state, proposals)
            _expect(plan.failed.tolist() == [True] + [False] * (len(state) - 1), "failure is not reported")
            _expect(torch.equal(plan.actions[0], state.actions[0]), "a failed plan is not the warm start")
            others = list(range(1, len(state)))
            _same(_rows(plan, others), _rows(whole, others), "another problem's failure")


def _scale_does_not_matter(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        plan = planner.plan(bowl, state, proposals)
        for factor in (2.0**10, 2.0**-10):
            scaled = planner.plan(lambda a, f=factor, b=bowl: f * b(a), state, proposals)
            _expect(torch.equal(plan.actions, scaled.actions), f"a cost {factor:g} times as large changes the plan")
            _expect(torch.equal(plan.cost * factor, scaled.cost), f"a cost {factor:g} times as large is misreported")


def _evaluates(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        watched = Watched(bowl)
        planner.plan(watched, state, proposals)
        _expect(watched.evaluated > 0, "its search evaluated none")


def _budget_is_kept(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        watched = Watched(bowl)
        planner.plan(watched, state, proposals)
        _expect(watched.evaluated <= planner.budget, f"{watched.evaluated} evaluations, declared {planner.budget}")
        _expect(
            watched.differentiated <= planner.gradients,
            f"{watched.differentiated} candidates differentiated, declared {planner.gradients}",
        )


def _no_host_sync(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        with NoHostSync(), _forbid_device_sync(planner.spec.device):
            planner.plan(bowl, state, proposals, trace=True)


@contextmanager
def _forbid_device_sync(device: torch.device) -> Iterator[None]:
    """Let CUDA itself raise as well, where planning happens there."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        raise BrokenPromise(str(error)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _pure(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        untouched = PlanState(state.actions.clone(), state.elites.clone(), state.rest, state.seeds, state.ticks)
        given = None if proposals is None else proposals.clone()
        planner.plan(bowl, state, proposals)
        _same_state(state, untouched, "planning")
        _expect(given is None or torch.equal(given, proposals), "planning changes the proposals")  # type: ignore[arg-type]


def _trace_tells_the_search(planner: Planner) -> None:
    for bowl, state, proposals in _situations(planner):
        watched = Watched(bowl)
        plan = planner.plan(watched, state, proposals, trace=True)
        trace = plan.trace
        _expect(trace is not None, "there is none")
        assert trace is not None
        calls = tuple(actions.shape[1] for actions in watched.actions)
        _expect(trace.evaluations == calls, f"it reports {trace.evaluations} evaluations of {calls}")
        for name in ("best", "mean", "spread"):
            values = getattr(trace, name)
            _expect(values.shape == (len(state), len(calls)), f"{name} has shape {tuple(values.shape)}")
            _expect(bool(values.isfinite().all()), f"{name} is not finite")
        _expect(bool((trace.best.diff(dim=1) <= 0).all()), "the best cost rises")
        _expect(torch.equal(trace.best[:, -1], plan.cost), "its last best cost is not the plan's")


_PROMISES: dict[str, Callable[[Planner], None]] = {
    "it evaluates candidates": _evaluates,
    "the host never waits for the device": _no_host_sync,
    "the returned cost is the objective at the returned actions": _cost_is_the_objective,
    "a plan is never worse than the warm start or the best proposal": _never_worse,
    "all actions are inside the bounds": _inside_the_bounds,
    "the same seeds give the same plan, and no global generator is used": _reproducible,
    "a problem's plan does not depend on the others planned with it": _independent_of_the_batch,
    "resetting one problem leaves the others alone": _reset_touches_nothing_else,
    "candidates of non-finite cost are never chosen": _non_finite_is_never_chosen,
    "the unit of the cost does not matter": _scale_does_not_matter,
    "the budget is kept": _budget_is_kept,
    "planning changes nothing that it is given": _pure,
    "the trace tells how the search went": _trace_tells_the_search,
}
