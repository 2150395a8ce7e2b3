"""Held-out starts and goals: where walks led that no recorded data hold.

A pair's start is a uniformly random step of a walk, among those with ``offset`` more steps, and its goal is where the
same walk was ``offset`` steps later; or, for ``ANY_GOAL``, a uniformly random step of the next walk. A pair whose start
is at its goal already is left out and counted. The walks' seeds are derived from a name instead of a run's seed, so
that no data collection, whatever its seed, takes the same ones.

The pairs are stored in a file, so that they are the same everywhere and for ever.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import SettingsError
from ..core.seeding import numpy_generator
from .goals import GoalPairs, GoalTask

PAIRS = 200
"""Of each offset."""
ANY_GOAL = 0
"""In place of an offset: start and goal are from different walks."""

States = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out pairs of one task.

    Attributes:
        name: from which their chance is derived.
        step_budgets: how many steps an agent has to reach a goal, by offset.
        walk: by its number, the states (T + 1, S) that it went through; T is above every offset.
        is_success: whether a state (S,) is at a goal (S,).
        file: where they are stored.
        goal_at: makes a goal of a state in which a walk was.
    """

    name: str
    step_budgets: Mapping[int, int]
    walk: Callable[[int], States]
    is_success: Callable[[ArrayLike, ArrayLike], Any]
    file: Traversable
    goal_at: Callable[[States], States] = lambda state: state

    def pairs(self, offset: int) -> GoalPairs:
        """Return the 200 pairs of one offset.

        Raises:
            SettingsError: for an offset that there are none of.
        """
        if offset not in self.step_budgets:
            known = ", ".join(str(known) for known in self.step_budgets)
            raise SettingsError(f"There are no held-out pairs of offset {offset!r}; there are of {known} (any goal).")
        stored: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))[str(offset)]
        starts, goals = np.split(np.array(stored["pairs"]), 2, axis=1)
        return GoalPairs(starts, goals, self.step_budgets[offset], int(stored["excluded"]))

    @property
    def task(self) -> GoalTask:
        """What the task is registered as."""
        return GoalTask(tuple(self.step_budgets), self.pairs)

    def document(self) -> str:
        """Return the text of the file: by offset, how many pairs were left out, and each one's start and goal."""
        walk = functools.cache(self.walk)
        tables = []
        for offset in self.step_budgets:
            excluded, pairs = 0, []
            for index in range(2 * PAIRS):
                start, goal = self._draw(walk(index), walk(index + 1), offset, index)
                if self.is_success(start, goal):
                    excluded += 1
                else:
                    pairs.append(json.dumps([*start.tolist(), *goal.tolist()]))
                if len(pairs) == PAIRS:
                    break
            rows = ",\n".join(pairs)
            tables.append(f'"{offset}": {{"excluded": {excluded}, "pairs": [\n{rows}\n]}}')
        return "{" + ",\n".join(tables) + "}\n"

    def _draw(self, walk: States, following: States, offset: int, index: int) -> tuple[States, States]:
        """Return a start (S,) and a goal (S,)."""
        rng = numpy_generator(self.name, "pair", offset, index)
        start = int(rng.integers(len(walk) - offset))
        goal = following[rng.integers(len(following))] if offset == ANY_GOAL else walk[start + offset]
        return walk[start], self.goal_at(goal)
