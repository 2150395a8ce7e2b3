"""Goal tasks: environments that are to reach a state, and the starts and goals that they are judged on.

A goal task takes ``reset(options={"state": ..., "goal": ...})``, tells "is_success" in its infos, and has
``observe(state)``, what is seen in a state, so that a goal can be shown as an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..core.registry import Registry


@dataclass(frozen=True)
class GoalPairs:
    """Starts and goals that are held out for evaluation.

    Attributes:
        starts: (E, S), states.
        goals: (E, S), states to reach.
        step_budget: environment steps in which to reach them.
        excluded: pairs that were left out, because their start was at the goal already.
    """

    starts: NDArray[np.float64]
    goals: NDArray[np.float64]
    step_budget: int
    excluded: int

    def __len__(self) -> int:
        return len(self.starts)

    def first(self, count: int | None) -> GoalPairs:
        """Return the first ``count`` pairs, or all."""
        return replace(self, starts=self.starts[:count], goals=self.goals[:count])

    @property
    def excluded_share(self) -> float:
        """Which share of the pairs that were drawn was left out."""
        return self.excluded / (self.excluded + len(self))


@dataclass(frozen=True)
class GoalTask:
    """What a goal task is judged on.

    Attributes:
        offsets: recorded steps between start and goal, for which there are pairs; 0 for goals from other episodes.
        pairs: returns those of one offset.
    """

    offsets: tuple[int, ...]
    pairs: Callable[[int], GoalPairs]


GOALS: Registry[GoalTask] = Registry("goal task", __package__)
"""By the task's name."""
