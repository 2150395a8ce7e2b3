"""Goal tasks: environments that are to reach a state, and the starts and goals that they are judged on.

A goal task takes ``reset(options={"state": ..., "goal": ...})``, tells "is_success" in its infos, and has
``observe(state)``, what is seen in a state, so that a goal can be shown as an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..core.clip import ClipSpec
from ..core.errors import SettingsError
from ..core.registry import Registry
from .store import EpisodeStore


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


def recorded_pairs(store: EpisodeStore, offset: int, count: int, seed: int) -> GoalPairs:
    """Return starts, and where the same recorded episodes were ``offset`` steps later; none is left out.

    This is how LeWorldModel was evaluated by its authors (arXiv 2603.19312). If a model has learned from these
    episodes, it has seen every one of these starts, goals and ways between them.

    Raises:
        SettingsError: the store records no true states, or no episode has as many steps.
    """
    if not store.state_dims or offset < 1:
        raise SettingsError("Goals from recorded episodes lie at least 1 step away, in stores that hold true states.")
    starts = store.starts(ClipSpec(offset, 1))
    if not len(starts):
        raise SettingsError(f"No recorded episode has {offset} steps.")
    data, rows = store.arrays(), np.random.default_rng(seed).choice(starts, count)
    goals = rows
    for _ in range(offset - 1):
        goals = data["successors"][goals]
    last = data["successors"][goals]  # of an episode's last row, the number of the episode, inverted
    ends = np.where((last < 0)[:, None], data["latest_states"][~np.minimum(last, -1)], data["states"][last])
    return GoalPairs(data["states"][rows], ends, 2 * offset, 0)


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
