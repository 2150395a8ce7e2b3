"""The start-goal pairs that "two-room" is evaluated on, stored beside this file, which :mod:`.held_out` explains.

This makes them again::

    two_room_held_out.HELD_OUT.file.write_text(two_room_held_out.HELD_OUT.document())
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ..core.seeding import derive_seed
from .goals import GOALS
from .held_out import ANY_GOAL, HeldOut
from .two_room import TwoRoomEnv
from .two_room_walker import EPISODE_STEPS, noisy_walker

_NAME = "two-room held-out"


def _walk(index: int) -> NDArray[np.float64]:
    """Return the positions of one walk (151, 2)."""
    env = TwoRoomEnv(observation="state")
    walker = noisy_walker(derive_seed(_NAME, "walker", index))
    _, info = env.reset(seed=derive_seed(_NAME, "start", index))
    positions = [info["state"]]
    for _ in range(EPISODE_STEPS):
        *_, info = env.step(walker(info))
        positions.append(info["state"])
    return np.array(positions)


HELD_OUT = HeldOut(
    _NAME,
    {25: 50, 50: 100, 100: 200, ANY_GOAL: 200},
    _walk,
    TwoRoomEnv.is_success,
    resources.files(__package__) / "two_room_held_out.json",
)
"""For each offset twice as many steps as lie between start and goal; for goals of other walks, 200."""
GOALS.register("two-room")(HELD_OUT.task)
