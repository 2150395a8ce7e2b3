"""Promises: the discounted return that plans predict when they are chosen, beside what follows in fact.

A search that seeks out what flatters the model promises more than it keeps; where promises do not even go along with
what is kept, planning chooses at random.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..agents.policy import PlanningPolicy
from ..planners import Plan, Planner, PlanState

LATE = 0.05
"""What follows a plan counts as known where the rewards that were not awaited weigh less than this."""


class _Noting:
    """A planner that notes what its plans promise."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self.promised: dict[tuple[int, int], float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planner, name)

    def plan(self, objective: Any, state: PlanState, proposals: Tensor | None = None) -> Plan:
        plan = self._planner.plan(objective, state, proposals)
        promises = (-plan.cost).tolist()
        self.promised.update(zip(zip(state.seeds, state.ticks, strict=True), promises, strict=True))
        return plan


@dataclass(frozen=True)
class Promises:
    """What plans promised and kept, over all decisions after which enough was seen.

    Attributes:
        promised, kept: mean discounted returns.
        correlation: between the two; NaN where one of them does not vary.
        decisions: how many there are.
    """

    promised: float
    kept: float
    correlation: float
    decisions: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        correlation = self.correlation if np.isfinite(self.correlation) else None
        return {"promised": self.promised, "kept": self.kept, "correlation": correlation, "decisions": self.decisions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`to_dict`'s output."""
        correlation = float("nan") if data["correlation"] is None else float(data["correlation"])
        return cls(float(data["promised"]), float(data["kept"]), correlation, int(data["decisions"]))


@dataclass
class Promising:
    """Acts as a planning policy does, and remembers what it promised.

    Args:
        policy: what plans.
        discount: per model step, by which plans are judged.
    """

    policy: PlanningPolicy
    discount: float
    _planner: _Noting = field(init=False)

    def __post_init__(self) -> None:
        controller = copy.copy(self.policy.controller)
        self._planner = _Noting(controller.planner)
        controller.planner = self._planner  # type: ignore[assignment]
        self.policy = copy.copy(self.policy)
        self.policy.controller = controller

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["policy"], name)

    def kept(
        self, seeds: Sequence[int], rewards: Sequence[NDArray[np.float64]], terminated: Sequence[bool]
    ) -> Promises | None:
        """Compare promises with what followed; ``None`` where no decision was followed for long enough.

        Args:
            seeds: of acting, of E episodes.
            rewards: of the steps of each.
            terminated: whether what follows its end is known: nothing.
        """
        controller = self.policy.controller
        block, every = controller.block, controller.execute
        awaited = int(np.ceil(np.log(LATE) / np.log(self.discount))) if 0 < self.discount < 1 else 1
        pairs = []
        for seed, steps, ended in zip(seeds, rewards, terminated, strict=True):
            sums = [float(steps[begin : begin + block].sum()) for begin in range(0, len(steps), block)]
            follows = np.zeros(len(sums) + 1)
            for index in range(len(sums) - 1, -1, -1):
                follows[index] = sums[index] + self.discount * follows[index + 1]
            last = len(sums) if ended else len(sums) - awaited
            for tick, index in enumerate(range(0, max(last, 0), every)):
                if np.isfinite(promise := self._planner.promised.get((seed, tick), np.nan)):
                    pairs.append((promise, follows[index]))
        if not pairs:
            return None
        promised, kept = np.array(pairs).T
        varies = promised.std() > 0 and kept.std() > 0
        correlation = float(np.corrcoef(promised, kept)[0, 1]) if varies else float("nan")
        return Promises(float(promised.mean()), float(kept.mean()), correlation, len(pairs))
