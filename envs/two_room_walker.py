"""Whose walks the recorded data of "two-room" are: drawn towards random targets, and jostled a lot on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.seeding import numpy_generator
from . import two_room_map as rooms
from .experts import EXPERTS
from .two_room import SUCCESS_DISTANCE

NOISE = 2.0
"""Standard deviation of what is added to each of a unit vector's components."""
REPEAT = 0.05
"""Probability that the last action is taken again."""
EPISODE_STEPS = 150


class NoisyWalker:
    """Walks towards one random free position after another, with the noise that LeWorldModel's data have.

    An action is the unit vector towards the target, or towards the door's centre while the target is in the other room,
    plus Gaussian noise, clipped to [-1, 1]; now and then it is the last one again. Once within 16 units of the target,
    the distance at which the task counts a goal as reached, it chooses another. It knows nothing of the task's goals.

    Args:
        rng: all its chance, drawn from as it goes.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._target = rooms.random_position(rng)
        self._last: NDArray[np.float32] | None = None

    def act(self, state: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the action (2,) for a position (2,) in map units."""
        x, y = state.tolist()
        while _length(self._target[0] - x, self._target[1] - y) <= SUCCESS_DISTANCE:
            self._target = rooms.random_position(self._rng)
        if self._last is None or self._rng.random() >= REPEAT:
            self._last = self._towards_target(x, y)
        return self._last.copy()

    def __call__(self, info: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the action (2,) for the state in an ``info``; see :class:`.experts.Expert`."""
        return self.act(info["state"])

    def _towards_target(self, x: float, y: float) -> NDArray[np.float32]:
        same_room = (x < rooms.MIDDLE) == (self._target[0] < rooms.MIDDLE)
        to_x, to_y = self._target if same_room else (rooms.MIDDLE, rooms.MIDDLE)
        dx, dy = to_x - x, to_y - y
        length = _length(dx, dy) or 1.0  # at the door's very centre there is no direction
        action = np.array([dx, dy]) / length + self._rng.normal(0.0, NOISE, 2)
        return action.clip(-1.0, 1.0).astype(np.float32)


def _length(dx: float, dy: float) -> float:
    return math.sqrt(dx * dx + dy * dy)  # unlike math.hypot, rounded alike everywhere


@EXPERTS.register("two-room")
def noisy_walker(seed: int) -> NoisyWalker:
    """Make a walker for one episode."""
    return NoisyWalker(numpy_generator(seed, "two-room walker"))
