"""Search: evaluates one plan's candidates and remembers the best, so that every planner keeps the same promises."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..core.errors import ForethoughtError
from .spec import ActionSpec
from .state import Plan, PlanState, Trace


class Objective(Protocol):
    """What a planner minimises."""

    def __call__(self, actions: Tensor, /) -> Tensor:
        """Return the costs (B, N) of the candidates (B, N, H, A); lower is better.

        It may be called several times per plan, with different N. Non-finite costs are allowed and never chosen.
        """


class ObjectiveError(ForethoughtError, ValueError):
    """An objective that returns something other than costs, or lacks what the planner needs."""


class Search:
    """The candidates of one plan, in units (see :class:`ActionSpec`), and the best of them so far.

    Args:
        spec: the actions.
        objective: their cost.
        state: warm start, seeds and ticks of B problems.
        proposals: (B, P, H, A) candidates from elsewhere, or ``None``.
        trace: record how the search goes.
    """

    def __init__(
        self, spec: ActionSpec, objective: Objective, state: PlanState, proposals: Tensor | None, trace: bool
    ) -> None:
        self.spec = spec
        self.state = state
        self.warm_start = spec.to_units(state.actions)
        self.best_actions = state.actions
        self.best_cost = state.actions.new_full((len(state),), torch.inf)
        self.given = state.actions[:, None]
        self.proposals = 0
        if proposals is not None:
            # An entry that is no number, or infinite for want of a bound, would poison every average that it enters.
            numbers = torch.where(proposals.isnan(), self.given, proposals.to(self.given.dtype))
            valid = spec.project(numbers)
            self.given = torch.cat([self.given, torch.where(valid.isfinite(), valid, self.given)], 1)
            self.proposals = proposals.shape[1]
        self._objective = objective
        self._records: list[tuple[Tensor, Tensor, Tensor, int]] | None = [] if trace else None

    def opening(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the warm start, the proposals and ``samples`` (B, N - 1, H, A) less as many as there are proposals.

        Returns:
            The N candidates (B, N, H, A) in units and their costs (B, N).
        """
        samples = samples[:, self.proposals :]
        actions = torch.cat([self.given, self.spec.to_actions(samples)], 1)
        candidates = torch.cat([self.spec.to_units(self.given), samples], 1)
        self._opening_costs = self.score(actions)
        return candidates, self._opening_costs

    def evaluate(self, candidates: Tensor) -> Tensor:
        """Return the costs (B, N) of ``candidates`` (B, N, H, A); ``inf`` where they are not finite."""
        return self.score(self.spec.to_actions(candidates))

    def differentiate(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Return the costs (B, N) of ``candidates`` (B, N, H, A), and their gradients by the candidates.

        The gradients (B, N, H, A) are divided by a power of two near the spread of the opening's costs, so that they
        have a size that optimisers can count on; they are zero where not finite.
        """
        with torch.enable_grad():
            variables = candidates.detach().requires_grad_()
            actions = self.spec.to_actions(variables)
            costs = self._costs(actions)
            if not costs.requires_grad:
                raise ObjectiveError(
                    "The objective's costs do not depend differentiably on the actions, which a planner that follows "
                    "gradients needs: remove no_grad, inference_mode and detach from it, or choose a planner that only "
                    "samples."
                )
            (gradients,) = torch.autograd.grad(costs, variables, (1 / self._scale).expand_as(costs))
        costs = self._record(actions.detach(), costs.detach())
        return costs, gradients.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def score(self, actions: Tensor) -> Tensor:
        """Return the costs (B, N) of valid ``actions`` (B, N, H, A), which are not in units."""
        return self._record(actions, self._costs(actions))

    def finish(self, elites: Tensor | None = None) -> Plan:
        """Return the best plan, with ``elites`` (B, K, H, A), in units, carried to the next one."""
        state = replace(
            self.state,
            actions=self.best_actions,
            elites=self.state.elites if elites is None else self.spec.to_actions(elites),
            ticks=tuple(tick + 1 for tick in self.state.ticks),
        )
        trace = None
        if self._records is not None:
            best, mean, spread, evaluations = zip(*self._records, strict=True)
            trace = Trace(torch.stack(best, 1), torch.stack(mean, 1), torch.stack(spread, 1), evaluations)
        return Plan(self.best_actions, self.best_cost, self.best_cost.isinf(), state, trace)

    def settle(self, candidate: Tensor) -> None:
        """Take ``candidate`` (B, H, A), the only one evaluated last, for the plan, though others may have cost less.

        Where its cost is not finite, the best one stays.
        """
        cost = self._last_costs[:, 0]
        finite = cost.isfinite()
        self.best_actions = torch.where(finite[:, None, None], self.spec.to_actions(candidate), self.best_actions)
        self.best_cost = torch.where(finite, cost, self.best_cost)

    @cached_property
    def _scale(self) -> Tensor:
        """(B, 1) the power of two: by it, a cost in other units leads to the same plan bit for bit."""
        costs = self._opening_costs
        finite = costs.isfinite()
        spread = costs.masked_fill(~finite, -torch.inf).amax(1) - costs.amin(1)
        size = costs.masked_fill(~finite, 0.0).abs().amax(1)  # stands in where all costs agree
        size = torch.where(size > 0, size, 1.0)
        spread = torch.where(spread.isfinite() & (spread > 0), spread, size)
        return (spread / torch.frexp(spread).mantissa)[:, None]

    def _costs(self, actions: Tensor) -> Tensor:
        costs = self._objective(actions)
        if not isinstance(costs, Tensor) or costs.shape != actions.shape[:2]:
            shape = tuple(costs.shape) if isinstance(costs, Tensor) else type(costs).__name__
            raise ObjectiveError(
                f"The objective must return costs of shape (B, N) = {tuple(actions.shape[:2])} for actions of shape "
                f"(B, N, H, A) = {tuple(actions.shape)}, not {shape}."
            )
        return costs.float()

    def _record(self, actions: Tensor, costs: Tensor) -> Tensor:
        costs = costs.detach().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        self._last_costs = costs
        cost, index = costs.min(1)
        better = cost < self.best_cost
        best = actions.gather(1, index[:, None, None, None].expand(-1, 1, *actions.shape[2:]))[:, 0]
        self.best_actions = torch.where(better[:, None, None], best, self.best_actions)
        self.best_cost = torch.where(better, cost, self.best_cost)
        if self._records is not None:
            mean = costs.where(costs.isfinite(), torch.nan).nanmean(1)
            spread = self.spec.to_units(actions).std(1, correction=0).mean((1, 2))
            self._records.append((self.best_cost, mean, spread, costs.shape[1]))
        return costs
