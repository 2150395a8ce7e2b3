"""Scenes: environments drawn in any state, and states told by few numbers that a probe can read.

MuJoCo environments are drawn as they render themselves. Any other environment can be if its class has
``picture(state (S,)) -> uint8 (height, width, 3)``, for states that need not be reachable.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault
from ..core.quantity import Quantity
from .states import is_mujoco

Values = NDArray[np.float64]
Image = NDArray[np.uint8]


class Scene(Protocol):
    """Draws states of an environment.

    Attributes:
        coordinates: P of them, from which a state that is drawn follows.
    """

    coordinates: tuple[Quantity, ...]

    def read(self, states: Values) -> Values:
        """Return the coordinates (N, P) of states (N, S)."""
        ...

    def state(self, coordinates: Values, known: NDArray[np.bool_], before: Values, seconds: float) -> Values:
        """Return a state (S,) that has some coordinates.

        Args:
            coordinates: (P,).
            known: (P,), which of them to believe; the others stay as they are in ``before``.
            before: (S,), the state a while before.
            seconds: how long before, for what is only known by its velocity.
        """
        ...

    def draw(self, state: Values) -> Image:
        """Return a picture of a state (S,)."""
        ...


def scene_of(env: gym.Env[Any, Any]) -> Scene:
    """Return the scene of an environment, made with ``render_mode="rgb_array"`` and left to the scene.

    Raises:
        EnvironmentFault: it cannot be drawn in a given state.
    """
    bare: Any = env.unwrapped
    if is_mujoco(bare):
        from .mujoco_scene import MujocoScene

        return MujocoScene(env)
    if hasattr(bare, "picture") and hasattr(bare, "quantities"):
        return _Pictured(bare)
    raise EnvironmentFault(
        f"{env.spec.id if env.spec is not None else type(bare).__name__} cannot be drawn in a given state: it is no "
        "MuJoCo environment, and its class has no 'picture'."
    )


class _Pictured:
    """An environment whose quantities are its state."""

    def __init__(self, bare: Any) -> None:
        self._bare, self.coordinates = bare, tuple(bare.quantities)

    def read(self, states: Values) -> Values:
        return np.asarray(states, np.float64)

    def state(self, coordinates: Values, known: NDArray[np.bool_], before: Values, seconds: float) -> Values:
        return np.where(known, coordinates, before)

    def draw(self, state: Values) -> Image:
        return np.asarray(self._bare.picture(state), np.uint8)
