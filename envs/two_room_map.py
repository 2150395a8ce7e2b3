"""The map of "two-room", and how a disc moves in it: along whole segments, and never into a wall.

The disc's centre moves as a point among walls grown by the disc's radius. That is their Minkowski sum with the disc: a
wall piece becomes two boxes, one widened and one lengthened, and a quarter of a disc around each corner, which rounds
the door's edges. Where a segment first enters one of these is known in closed form.

Lengths are in map units, x points right and y down. Only additions, products, quotients and square roots are used,
which every machine rounds alike, so that a walk is the same bit for bit everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SIZE = 224.0
BORDER = 14.0
"""Thickness of the walls around the map."""
WALL_LEFT, WALL_RIGHT = 107.0, 117.0
"""Sides of the wall between the rooms."""
DOOR_TOP, DOOR_BOTTOM = 98.0, 126.0
"""Ends of the door, a gap in that wall."""
RADIUS = 7.0
"""Of the agent, a disc."""

MIDDLE = SIZE / 2
"""Where the wall and the door have their centres: the x of the one, and the y of the other."""
LOW, HIGH = BORDER + RADIUS, SIZE - BORDER - RADIUS
"""Least and greatest coordinate that the agent's centre can have, in x and in y."""
ENTRY_LEFT, ENTRY_RIGHT = WALL_LEFT - RADIUS, WALL_RIGHT + RADIUS
"""Where the rooms end for the agent's centre; between the two it is in the door."""

_BOXES = (
    (ENTRY_LEFT, 0.0, ENTRY_RIGHT, DOOR_TOP),
    (WALL_LEFT, 0.0, WALL_RIGHT, DOOR_TOP + RADIUS),
    (ENTRY_LEFT, DOOR_BOTTOM, ENTRY_RIGHT, SIZE),
    (WALL_LEFT, DOOR_BOTTOM - RADIUS, WALL_RIGHT, SIZE),
)
"""Left, top, right and bottom; their edges are free."""
_CORNERS = tuple((x, y) for x in (WALL_LEFT, WALL_RIGHT) for y in (DOOR_TOP, DOOR_BOTTOM))
"""Centres of discs of the agent's radius; their rims are free."""


def is_free(x: float, y: float) -> bool:
    """Whether the agent may be there: touching a wall it may, overlapping one it may not."""
    if not (LOW <= x <= HIGH and LOW <= y <= HIGH):
        return False
    if any(left < x < right and top < y < bottom for left, top, right, bottom in _BOXES):
        return False
    return not any((x - cx) * (x - cx) + (y - cy) * (y - cy) < RADIUS * RADIUS for cx, cy in _CORNERS)


def random_position(rng: np.random.Generator) -> tuple[float, float]:
    """Return a free position, all of them equally likely."""
    while True:
        x, y = rng.uniform(LOW, HIGH, 2).tolist()
        if is_free(x, y):
            return x, y


def travel(x: float, y: float, dx: float, dy: float, solid: bool = True) -> tuple[float, float]:
    """Return where the agent is after moving by (dx, dy) from (x, y), which is free: there, or at the first contact.

    It does not slide along what it meets. The result is free, and from there it can move away from the wall and along
    it. If the wall between the rooms is not ``solid``, only the border stops it.
    """
    if not solid:
        share = min(1.0, max(0.0, _to_border(x, y, dx, dy)))
        return min(max(x + share * dx, LOW), HIGH), min(max(y + share * dy, LOW), HIGH)
    share = min(1.0, _to_border(x, y, dx, dy), _to_boxes(x, y, dx, dy), _to_corners(x, y, dx, dy))
    back = 2.0**-52
    while share > 0.0:
        end = x + share * dx, y + share * dy
        if is_free(*end):
            return end
        # Rounding has put the contact a hair into the wall: a little less then, and soon a lot less, because nearly
        # along a wall a hair is far.
        share, back = share - back, 2 * back
    return x, y


# Each of the following returns which share of the way (dx, dy) from a free (x, y) is free, or infinity.


def _to_border(x: float, y: float, dx: float, dy: float) -> float:
    share = math.inf
    for position, way in ((x, dx), (y, dy)):
        if way:
            share = min(share, ((HIGH if way > 0 else LOW) - position) / way)
    return share


def _to_boxes(x: float, y: float, dx: float, dy: float) -> float:
    share = math.inf
    for left, top, right, bottom in _BOXES:
        enters_x, leaves_x = _between(left, right, x, dx)
        enters_y, leaves_y = _between(top, bottom, y, dy)
        enters, leaves = max(enters_x, enters_y), min(leaves_x, leaves_y)
        if 0.0 <= enters < leaves:
            share = min(share, enters)
    return share


def _between(low: float, high: float, position: float, way: float) -> tuple[float, float]:
    """Return between which shares of the way a coordinate is inside (low, high)."""
    if not way:
        return (-math.inf, math.inf) if low < position < high else (math.inf, -math.inf)
    one, other = (low - position) / way, (high - position) / way
    return (one, other) if one < other else (other, one)


def _to_corners(x: float, y: float, dx: float, dy: float) -> float:
    share = math.inf
    reach = RADIUS * math.sqrt(dx * dx + dy * dy)
    for cx, cy in _CORNERS:
        rx, ry = x - cx, y - cy
        towards = -(rx * dx + ry * dy)
        past = abs(rx * dy - ry * dx)  # at which distance it would pass the centre, times the length of the way
        if towards > 0.0 and past < reach:
            # The smaller root of |r + share d|^2 = RADIUS^2, in the form that keeps its digits near contact.
            gap = rx * rx + ry * ry - RADIUS * RADIUS
            share = min(share, gap / (towards + math.sqrt((reach - past) * (reach + past))))
    return share


def distance(states: NDArray[np.float64], goals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the straight distances (...) between positions (..., 2), walls disregarded."""
    x, y = np.moveaxis(np.asarray(states, np.float64) - np.asarray(goals, np.float64), -1, 0)
    return np.asarray(np.sqrt(x * x + y * y))
