"""Pictures of "two-room": antialiased by how much of each pixel a shape covers, so that the slightest motion shows."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from . import two_room_map as rooms

Image = NDArray[np.uint8]

FLOOR, WALL, AGENT, GOAL = (236, 236, 228), (52, 58, 70), (214, 48, 49), (9, 132, 96)
"""Colours, red, green and blue of 255."""
_RING = 2.0
"""Thickness of the ring around the goal, in map units."""


def draw(size: int, state: NDArray[np.float64], goal: NDArray[np.float64] | None = None, reach: float = 0.0) -> Image:
    """Draw the map with the agent on it.

    Args:
        size: pixels along a side, at least 32.
        state: (2,), the agent's position in map units, free.
        goal: (2,), a position that gets a ring around it.
        reach: outer radius of that ring in map units.

    Returns:
        (size, size, 3); rows run along y, columns along x.
    """
    image = draw_empty(size).copy()
    if goal is not None:
        _paint(image, goal, reach, GOAL, hole=reach - _RING)
    _paint(image, state, rooms.RADIUS, AGENT)
    return image


@functools.lru_cache(maxsize=8)
def draw_empty(size: int) -> Image:
    """Draw the map without the agent (size, size, 3), read-only: the two rooms and the door between them."""
    edge = rooms.SIZE - rooms.BORDER
    whole = _covered(size, rooms.BORDER, edge)
    door = np.outer(
        _covered(size, rooms.DOOR_TOP, rooms.DOOR_BOTTOM), _covered(size, rooms.WALL_LEFT, rooms.WALL_RIGHT)
    )
    halves = _covered(size, rooms.BORDER, rooms.WALL_LEFT) + _covered(size, rooms.WALL_RIGHT, edge)
    floor = (np.outer(whole, halves) + door)[..., None]
    image = (np.array(WALL) + floor * np.subtract(FLOOR, WALL) + 0.5).astype(np.uint8)
    image.setflags(write=False)
    return image


def _covered(size: int, start: float, end: float) -> NDArray[np.float64]:
    """Return which share of each of ``size`` pixels in a row lies between two coordinates (size,)."""
    first, last = start * size / rooms.SIZE, end * size / rooms.SIZE
    left = np.arange(size)
    return np.clip(np.minimum(left + 1, last) - np.maximum(left, first), 0.0, 1.0)


def _paint(
    image: Image, centre: NDArray[np.float64], radius: float, colour: tuple[int, int, int], hole: float = 0.0
) -> None:
    """Paint a disc, or a ring if it has a hole; radii in map units. Only the square around it is touched.

    A pixel's share is that of one whose edge the rim crosses straight: half, plus the distance of its centre from the
    rim in pixels.
    """
    scale = len(image) / rooms.SIZE
    x, y = (centre * scale).tolist()
    reach = radius * scale + 1.0
    left, right, top, bottom = int(x - reach), int(x + reach) + 1, int(y - reach), int(y + reach) + 1
    across, down = np.arange(left, right) + (0.5 - x), np.arange(top, bottom) + (0.5 - y)
    distance = np.sqrt(across * across + (down * down)[:, None])
    share = np.clip(radius * scale + 0.5 - distance, 0.0, 1.0)
    if hole:
        share -= np.clip(hole * scale + 0.5 - distance, 0.0, 1.0)
    patch = image[top:bottom, left:right]
    patch[...] = patch + share[..., None] * (np.array(colour) - patch) + 0.5
