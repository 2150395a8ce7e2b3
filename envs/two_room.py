"""The task "two-room": a disc in a map of two rooms, seen from above, that is to reach a position.

The task of PLDM and of LeWorldModel (arXiv 2603.19312), where moves were tested at their ends only; here they are
tested along the whole segment, so that nothing passes a wall or cuts a corner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import EnvironmentFault, SettingsError, did_you_mean
from . import two_room_map as rooms
from .quantities import Quantity
from .tasks import register_task
from .two_room_picture import draw

Array = NDArray[Any]
Position = NDArray[np.float64]

STEP = 5.0
"""Map units that the agent moves along an axis by an action of 1."""
SUCCESS_DISTANCE = 16.0
"""From the goal at which it counts as reached, in map units."""
RENDER_SIZE = 224
_OPTIONS = ("state", "goal")


class TwoRoomEnv(gym.Env[Array, NDArray[np.float32]]):
    """A disc of radius 7 moves in a square of 224 units, which a wall with one door divides.

    Border walls are 14 thick. The wall between the rooms stands at x = 112 and is 10 thick; its door is centred at
    y = 112 and reaches 14 to both sides. An action is in Box(-1, 1, (2,)) and moves the agent by 5 times as many units
    in x (right) and y (down); beyond the bounds it is clipped. The agent stops where it first touches a wall.

    ``reset(options={"state": (x, y), "goal": (x, y)})`` sets either: without a state it is drawn uniformly from all
    that are free, without a goal there is none. With a goal, a step that ends within 16 units of it, centre to centre,
    is rewarded by 1 and terminates the episode; every other reward is 0. There is no time limit.

    The info of ``reset`` and ``step`` holds "state", float64 (2,), and with a goal also "goal", float64 (2,),
    "distance" in map units, and "is_success". Reset to a recorded state, the environment shows and does the same bit
    for bit; a state that was rounded to float32 may lie a hair inside a wall and be refused.

    Args:
        observation: "pixels", uint8 (size, size, 3), red, green, blue; or "state", the position as float32 (2,).
        size: pixels along a side, at least 32.
        render_mode: "rgb_array" or nothing.

    Attributes:
        wall_is_solid: whether the wall between the rooms stops the agent, as it does unless a perturbation opens it.

    Raises:
        SettingsError: for arguments, options, states, goals and actions that are not allowed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    quantities = (Quantity("x", "map units"), Quantity("y", "map units"))

    def __init__(
        self,
        observation: Literal["pixels", "state"] = "pixels",
        size: int = 64,
        render_mode: str | None = None,
    ) -> None:
        if observation not in ("pixels", "state"):
            raise SettingsError(f"observation = {observation!r} is unknown: it must be 'pixels' or 'state'.")
        if size < 32:
            raise SettingsError(f"size = {size} is out of range: it must be at least 32 pixels.")
        if render_mode not in (None, "rgb_array"):
            raise SettingsError(f"render_mode = {render_mode!r} is unknown: it must be 'rgb_array' or None.")
        self.render_mode = render_mode
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space: gym.spaces.Box = (
            gym.spaces.Box(0, 255, (size, size, 3), np.uint8)
            if observation == "pixels"
            else gym.spaces.Box(rooms.LOW, rooms.HIGH, (2,), np.float32)
        )
        self._size = size if observation == "pixels" else None
        self._state: Position | None = None
        self._goal: Position | None = None
        self.wall_is_solid = True

    @property
    def state(self) -> Position:
        """The agent's position (2,) in map units, a copy."""
        return self._current().copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode; see the class for the options."""
        options = options or {}
        for key in options:
            if key not in _OPTIONS:
                raise SettingsError(f"Unknown reset option {key!r}.{did_you_mean(str(key), _OPTIONS)}")
        state = _position(options, "state")
        goal = _position(options, "goal")
        super().reset(seed=seed)
        self._state = np.array(rooms.random_position(self.np_random)) if state is None else state
        self._goal = goal
        return self._observation(self._state), self._info()

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move by an action (2,)."""
        x, y = self._current().tolist()
        dx, dy = _displacement(action)
        self._state = np.array(rooms.travel(x, y, dx, dy, self.wall_is_solid))
        info = self._info()
        reached = info.get("is_success", False)
        return self._observation(self._state), float(reached), reached, False, info

    def move_to(self, state: ArrayLike) -> None:
        """Put the agent at a free position (2,) in the midst of an episode."""
        self._current()
        self._state = _free_position(state, "state")

    def observe(self, state: ArrayLike) -> Array:
        """Return the observation at a state (2,), such as a goal's image; the episode is not disturbed."""
        return self._observation(_free_position(state, "state"))

    @staticmethod
    def is_success(state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Return (...), whether states (..., 2) are within reach of goals (..., 2)."""
        return np.asarray(rooms.distance(np.asarray(state), np.asarray(goal)) <= SUCCESS_DISTANCE)

    @staticmethod
    def measure(states: ArrayLike) -> Array:
        """Return the values (N, 2) of the quantities in states (N, 2), which are just these."""
        return np.asarray(states, np.float64)

    @staticmethod
    def picture(state: ArrayLike) -> Array:
        """Return a picture uint8 (224, 224, 3) of the agent at a position (2,), which may be inside a wall."""
        return draw(RENDER_SIZE, np.clip(np.asarray(state, np.float64), rooms.LOW, rooms.HIGH))

    def render(self) -> Any:
        """Return a picture uint8 (224, 224, 3), in which the goal has a ring: inside it, the agent's centre is there.

        Raises:
            SettingsError: without ``render_mode="rgb_array"``.
        """
        if self.render_mode is None:
            raise SettingsError("render() needs an environment made with render_mode='rgb_array'.")
        return draw(RENDER_SIZE, self._current(), self._goal, SUCCESS_DISTANCE)

    def _current(self) -> Position:
        if self._state is None:
            raise EnvironmentFault("The environment has no state yet: call reset() first.")
        return self._state

    def _observation(self, state: Position) -> Array:
        return state.astype(np.float32) if self._size is None else draw(self._size, state)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"state": self.state}
        if self._goal is not None:
            distance = float(rooms.distance(info["state"], self._goal))
            info |= {"goal": self._goal.copy(), "distance": distance, "is_success": distance <= SUCCESS_DISTANCE}
        return info


def _displacement(action: ArrayLike) -> tuple[float, float]:
    """Return by how many map units an action moves in x and y."""
    values = np.asarray(action, np.float32)
    if values.shape != (2,):
        raise SettingsError(f"The action {action!r} has shape {values.shape}; two numbers are needed.")
    dx, dy = values.tolist()
    if dx != dx or dy != dy:
        raise SettingsError(f"The action {action!r} holds NaN; two numbers in [-1, 1] are needed.")
    return STEP * min(max(dx, -1.0), 1.0), STEP * min(max(dy, -1.0), 1.0)


def _position(options: Mapping[str, Any], key: str) -> Position | None:
    return None if options.get(key) is None else _free_position(options[key], key)


def _free_position(value: ArrayLike, what: str) -> Position:
    """Return a position (2,) of its own memory, or say why it is none."""
    try:
        position = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The {what} {value!r} is not a position (x, y).") from error
    if position.shape != (2,) or not np.isfinite(position).all():
        raise SettingsError(f"The {what} {value!r} is not a position: it must be two finite numbers (x, y).")
    if not rooms.is_free(*position.tolist()):
        raise SettingsError(
            f"The {what} {value!r} is inside a wall. Both coordinates must be in [{rooms.LOW:g}, {rooms.HIGH:g}], and "
            f"x not between {rooms.ENTRY_LEFT:g} and {rooms.ENTRY_RIGHT:g} unless it is in the door, y from "
            f"{rooms.DOOR_TOP + rooms.RADIUS:g} to {rooms.DOOR_BOTTOM - rooms.RADIUS:g}."
        )
    return position


@register_task("two-room", "Steer a disc through the door of a two-room map to a goal, from pixels; 150 steps.")
def two_room(render_mode: str | None = None, max_episode_steps: int | None = 150, **kwargs: Any) -> gym.Env[Any, Any]:
    """Make :class:`TwoRoomEnv` with a time limit, or ``None``; the other arguments are its own."""
    spec = gym.envs.registration.EnvSpec(
        "two-room", f"{__name__}:TwoRoomEnv", max_episode_steps=max_episode_steps, kwargs=kwargs
    )
    return gym.make(spec, render_mode=render_mode, disable_env_checker=True)
