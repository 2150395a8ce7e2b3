"""Perturbations of pictures: something vanishes; and controls, in which the picture changes and the world does not."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from .perturbations import PERTURBATIONS, Array, Perturbation
from .perturbed_sensors import is_image
from .two_room import TwoRoomEnv
from .two_room_picture import draw_empty

_GREY = np.array([0.299, 0.587, 0.114])
"""How bright red, green and blue look."""


@PERTURBATIONS.register("object_vanished")
class ObjectVanished(Perturbation):
    """The agent is not seen any more."""

    name = "object_vanished"
    meaning = "how transparent it is, at most 1"
    allowed: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only where it is known how the picture would look without."""
        suited = isinstance(env.unwrapped, TwoRoomEnv) and is_image(env)
        return "" if suited else "it is not known how its observations would look without the agent"

    def observe(self, observation: Any) -> Any:
        """Show what is behind."""
        empty = draw_empty(len(observation))
        return (observation + self.strength * (empty.astype(np.float64) - observation)).round().astype(np.uint8)


class _Control(Perturbation):
    """What a physical model should not call impossible."""

    control = True

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only images."""
        return "" if is_image(env) and _has_colours(env) else "its observations are not images in colour"


@PERTURBATIONS.register("colour")
class Colour(_Control):
    """All colours are turned around the colour wheel, brightness apart; where there is no such colour, it is paler."""

    name = "colour"
    meaning = "turn of every hue in degrees"
    standard = 60.0
    allowed: ClassVar[tuple[float, float]] = (0.0, 360.0)

    def observe(self, observation: Any) -> Any:
        """Turn them: within the plane of equal brightness, about grey."""
        angle = np.radians(self.strength)
        axis = np.ones(3) / np.sqrt(3.0)
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
        colours = observation.astype(np.float64)
        grey = (colours @ _GREY)[..., None]
        turned = (colours - grey) @ turn.T
        turned -= (turned @ _GREY)[..., None]
        room = np.where(turned > 0, 255 - grey, grey) / np.maximum(np.abs(turned), 1e-9)
        share = np.minimum(room.min(-1, keepdims=True), 1)  # of the colour for which there is room
        return (grey + share * turned).round().astype(np.uint8)


@PERTURBATIONS.register("brightness")
class Brightness(_Control):
    """It gets darker."""

    name = "brightness"
    meaning = "share of its brightness that every pixel loses"
    standard = 0.2
    allowed: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def observe(self, observation: Any) -> Any:
        """Darken everything."""
        return ((1.0 - self.strength) * observation).round().astype(np.uint8)


@PERTURBATIONS.register("camera")
class Camera(_Control):
    """The camera points elsewhere; what comes into view at the edge looks like the edge."""

    name = "camera"
    meaning = "shift of the picture in shares of its width, to the right and down"
    standard = 0.05
    allowed: ClassVar[tuple[float, float]] = (0.0, 0.5)

    def observe(self, observation: Any) -> Any:
        """Shift the picture by whole pixels."""
        height, width = observation.shape[:2]
        shift = round(self.strength * width)
        rows, columns = ((np.arange(side) - shift).clip(0) for side in (height, width))
        shifted: Array = observation[rows][:, columns]
        return shifted


def _has_colours(env: gym.Env[Any, Any]) -> bool:
    shape = env.observation_space.shape or ()
    return len(shape) == 3 and shape[-1] == 3
