"""What goes into a plan and what comes out: PlanState, Plan and Trace."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.errors import SettingsError

Seeds = int | Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class PlanState:
    """Everything that B problems carry from one plan to the next.

    Attributes:
        actions: (B, H, A) the warm start.
        elites: (B, K, H, A) good candidates of the last plan, K = 0 for planners that keep none; NaN where nothing
            is known, as in a new episode or beyond a shifted plan's end.
        rest: (A,) what a warm start holds where nothing is known.
        seeds: B seeds, one per problem, on the host.
        ticks: B counts of the plans made since the seed was set, on the host.
    """

    actions: Tensor
    elites: Tensor
    rest: Tensor
    seeds: tuple[int, ...]
    ticks: tuple[int, ...]

    def __len__(self) -> int:
        """Number of problems B."""
        return len(self.seeds)

    def shift(self, steps: int | Sequence[int] | np.ndarray | Tensor = 1) -> PlanState:
        """Return the state ``steps`` planned steps later: a number for all problems or (B,), one for each.

        The warm start's last step is repeated at the end; the elites' ends are unknown.
        """
        if isinstance(steps, int | np.integer):
            amount = torch.full((len(self), 1), int(steps), device=self.actions.device)
        else:
            amount = torch.as_tensor(steps, device=self.actions.device).reshape(len(self), 1)
        last = self.actions.shape[1] - 1
        source = torch.arange(last + 1, device=self.actions.device) + amount
        beyond = (source > last)[:, None, :, None]
        source = source.clamp(max=last)[:, :, None]
        actions = self.actions.gather(1, source.expand_as(self.actions))
        elites = self.elites.gather(2, source[:, None].expand_as(self.elites)).masked_fill(beyond, torch.nan)
        return replace(self, actions=actions, elites=elites)

    def reset(self, mask: Sequence[bool] | np.ndarray | Tensor, seeds: Seeds | None = None) -> PlanState:
        """Forget the warm start of the problems in ``mask`` (B,); the others stay bit for bit the same.

        Args:
            mask: (B,) which problems begin anew.
            seeds: (B,) new seeds, read where ``mask`` is set; their ticks start at 0. Without them a problem keeps
                its seed and goes on ticking, so that no two of its episodes see the same noise.
        """
        chosen = torch.as_tensor(mask, dtype=torch.bool).reshape(len(self))
        own_seeds, ticks = self.seeds, self.ticks
        if seeds is not None:
            new = as_seeds(seeds)
            if len(new) != len(self):
                raise SettingsError(f"reset of {len(self)} problems needs as many seeds, not {len(new)}.")
            picks = chosen.tolist()
            own_seeds = tuple(b if pick else a for a, b, pick in zip(own_seeds, new, picks, strict=True))
            ticks = tuple(0 if pick else tick for tick, pick in zip(ticks, picks, strict=True))
        chosen = chosen.to(self.actions.device)
        return replace(
            self,
            actions=torch.where(chosen[:, None, None], self.rest, self.actions),
            elites=self.elites.masked_fill(chosen[:, None, None, None], torch.nan),
            seeds=own_seeds,
            ticks=ticks,
        )

    def select(self, index: Sequence[int] | np.ndarray | Tensor) -> PlanState:
        """Return the state of the problems at ``index`` (any number of integers, repeats allowed), in that order."""
        rows = torch.as_tensor(index, dtype=torch.long).reshape(-1)
        positions = rows.tolist()
        rows = rows.to(self.actions.device)
        return replace(
            self,
            actions=self.actions[rows],
            elites=self.elites[rows],
            seeds=tuple(self.seeds[position] for position in positions),
            ticks=tuple(self.ticks[position] for position in positions),
        )

    def put(self, index: Sequence[int] | np.ndarray | Tensor, other: PlanState) -> PlanState:
        """Return the state with the problems at ``index`` replaced by those of ``other``, in that order."""
        rows = torch.as_tensor(index, dtype=torch.long).reshape(-1)
        seeds, ticks = list(self.seeds), list(self.ticks)
        for position, seed, tick in zip(rows.tolist(), other.seeds, other.ticks, strict=True):
            seeds[position], ticks[position] = seed, tick
        rows = rows.to(self.actions.device)
        return replace(
            self,
            actions=self.actions.index_copy(0, rows, other.actions),
            elites=self.elites.index_copy(0, rows, other.elites),
            seeds=tuple(seeds),
            ticks=tuple(ticks),
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """How a search went, one entry for each of its I calls of the objective; kept on the device.

    Attributes:
        best: (B, I) lowest cost seen so far.
        mean: (B, I) mean of the finite costs of this call.
        spread: (B, I) standard deviation of this call's candidates, in halves of the action range, averaged over steps
            and dimensions.
        evaluations: (I,) candidates per problem evaluated in this call; integers on the host.
    """

    best: Tensor
    mean: Tensor
    spread: Tensor
    evaluations: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """The outcome of planning for B problems.

    Attributes:
        actions: (B, H, A) the best actions evaluated, inside the bounds.
        cost: (B,) the objective at exactly these actions; ``inf`` where it failed.
        failed: (B,) bool, every candidate had a non-finite cost and ``actions`` is the warm start.
        state: the warm start for the next plan; ``state.shift(1)`` once the first action has been executed.
        trace: how the search went, if asked for.
    """

    actions: Tensor
    cost: Tensor
    failed: Tensor
    state: PlanState
    trace: Trace | None = None


def as_seeds(seeds: Seeds) -> tuple[int, ...]:
    """Return seeds as host integers, one per problem."""
    if isinstance(seeds, int | np.integer):
        return (int(seeds),)
    try:
        return tuple(operator.index(seed) for seed in seeds)
    except TypeError as error:
        raise SettingsError(f"Seeds must be whole numbers, one per problem, not {seeds!r}.") from error
