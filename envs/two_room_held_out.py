"""The start-goal pairs that "two-room" is evaluated on: walks that no recorded data hold, and where they led.

They are stored beside this file, and :func:`document` makes them again::

    two_room_held_out.FILE.write_text(two_room_held_out.document())

A pair's start is a uniformly random step of a walk, among those with ``offset`` more steps, and its goal is where the
same walk was ``offset`` steps later; or, for ``ANY_GOAL``, a uniformly random step of the next walk. A pair whose start
is within reach of its goal is left out and counted. The walks' seeds are derived from a name instead of a run's seed,
so that no data collection, whatever its seed, takes the same ones.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import SettingsError
from ..core.seeding import derive_seed, numpy_generator
from .goals import GOALS, GoalPairs, GoalTask
from .two_room import TwoRoomEnv
from .two_room_walker import EPISODE_STEPS, noisy_walker

PAIRS = 200
"""Of each offset."""
ANY_GOAL = 0
"""In place of an offset: start and goal are from different walks."""
STEP_BUDGETS = {25: 50, 50: 100, 100: 200, ANY_GOAL: 200}
"""How many steps an agent has to reach a goal, by offset: twice as many as lie between start and goal, and where they
are from different walks, 200."""
FILE = resources.files(__package__) / "two_room_held_out.json"
_NAME = "two-room held-out"

Positions = NDArray[np.float64]


def held_out_pairs(offset: int) -> GoalPairs:
    """Return the 200 pairs of one offset: 25, 50 or 100 steps between start and goal, or ``ANY_GOAL``.

    Raises:
        SettingsError: for another offset.
    """
    stored = _stored(offset)
    pairs = np.array(stored["pairs"])
    return GoalPairs(pairs[:, :2], pairs[:, 2:], STEP_BUDGETS[offset], int(stored["excluded"]))


GOALS.register("two-room")(GoalTask(tuple(STEP_BUDGETS), held_out_pairs))


def _stored(offset: int) -> dict[str, Any]:
    if offset not in STEP_BUDGETS:
        known = ", ".join(str(known) for known in STEP_BUDGETS)
        raise SettingsError(f"There are no held-out pairs of offset {offset!r}; there are of {known} (any goal).")
    stored: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))[str(offset)]
    return stored


def document() -> str:
    """Return the text of the file: by offset, how many pairs were left out, and x and y of starts and goals."""
    walk = functools.cache(_walk)
    tables = []
    for offset in STEP_BUDGETS:
        excluded, pairs = 0, []
        for index in range(2 * PAIRS):
            start, goal = _draw(walk(index), walk(index + 1), offset, index)
            if TwoRoomEnv.is_success(start, goal):
                excluded += 1
            else:
                pairs.append(json.dumps([*start.tolist(), *goal.tolist()]))
            if len(pairs) == PAIRS:
                break
        rows = ",\n".join(pairs)
        tables.append(f'"{offset}": {{"excluded": {excluded}, "pairs": [\n{rows}\n]}}')
    return "{" + ",\n".join(tables) + "}\n"


def _walk(index: int) -> Positions:
    """Return the positions of one walk (151, 2)."""
    env = TwoRoomEnv(observation="state")
    walker = noisy_walker(derive_seed(_NAME, "walker", index))
    _, info = env.reset(seed=derive_seed(_NAME, "start", index))
    positions = [info["state"]]
    for _ in range(EPISODE_STEPS):
        *_, info = env.step(walker(info))
        positions.append(info["state"])
    return np.array(positions)


def _draw(walk: Positions, following: Positions, offset: int, index: int) -> tuple[Positions, Positions]:
    """Return a start (2,) and a goal (2,)."""
    rng = numpy_generator(_NAME, "pair", offset, index)
    start = int(rng.integers(len(walk) - offset))
    goal = following[rng.integers(len(following))] if offset == ANY_GOAL else walk[start + offset]
    return walk[start], goal
