"""Perturbations of where things are and of how they move: a teleport, a kick, a wall that is none."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from . import two_room_map as rooms
from .perturbations import PERTURBATIONS, Floats, Perturbation
from .states import is_mujoco
from .two_room import TwoRoomEnv


@PERTURBATIONS.register("teleport")
class Teleport(Perturbation):
    """Everything is suddenly elsewhere: each position is displaced, up or down by chance, within its limits."""

    name = "teleport"
    meaning = "displacement of each coordinate in its nominal standard deviations"
    standard = 3.0
    at_once = True
    needs_scale = True

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only simulators whose state can be set."""
        suited = is_mujoco(env.unwrapped) or isinstance(env.unwrapped, TwoRoomEnv)
        return "" if suited else "its state cannot be set"

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to ten deviations."""
        return 0.0, 10.0

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the direction."""
        assert self._scale is not None
        assert self._scale.positions is not None
        self._signs = rng.choice([-1.0, 1.0], len(self._scale.positions))

    def begin(self) -> None:
        """Displace everything."""
        assert self._scale is not None
        assert self._scale.positions is not None
        bare: Any = self.unwrapped
        way = self.strength * self._scale.positions
        if isinstance(bare, TwoRoomEnv):
            bare.move_to(_free_nearby(bare.state, way, self._signs))
            return
        import mujoco

        model, data = bare.model, bare.data
        way = np.where(_leaves_range(model, data.qpos, way * self._signs), -self._signs, self._signs) * way
        mujoco.mj_integratePos(model, data.qpos, way, 1.0)
        for joint in np.flatnonzero(model.jnt_limited):
            address = model.jnt_qposadr[joint]
            if _is_simple(model, joint):
                data.qpos[address] = data.qpos[address].clip(*model.jnt_range[joint])
        mujoco.mj_forward(model, data)


@PERTURBATIONS.register("velocity_kick")
class VelocityKick(Perturbation):
    """Everything suddenly moves otherwise: each velocity is changed, up or down by chance."""

    name = "velocity_kick"
    meaning = "change of each velocity in its nominal standard deviations"
    standard = 3.0
    at_once = True
    needs_scale = True

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only simulators with velocities."""
        return "" if is_mujoco(env.unwrapped) else "it has no velocities that could be set"

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to ten deviations."""
        return 0.0, 10.0

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the direction."""
        assert self._scale is not None
        assert self._scale.velocities is not None
        self._kick: Floats = rng.choice([-1.0, 1.0], len(self._scale.velocities)) * self._scale.velocities

    def begin(self) -> None:
        """Change all velocities."""
        import mujoco

        bare: Any = self.unwrapped
        bare.data.qvel[:] += self.strength * self._kick
        mujoco.mj_forward(bare.model, bare.data)


@PERTURBATIONS.register("wall_passed")
class WallPassed(Perturbation):
    """The wall between the rooms stops nothing: the event is when the agent first enters it."""

    name = "wall_passed"
    meaning = "always 1"
    allowed: ClassVar[tuple[float, float]] = (1.0, 1.0)
    whole = True

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only where there is a wall."""
        return "" if isinstance(env.unwrapped, TwoRoomEnv) else "it has no wall between two rooms"

    def begin(self) -> None:
        """Open the wall."""
        bare: Any = self.unwrapped
        bare.wall_is_solid = False

        def back() -> None:
            bare.wall_is_solid = True

        self._undo.append(back)

    def watch(self, observation: Any) -> None:
        """Note where the agent was before the coming step."""
        bare: Any = self.unwrapped
        self._before = getattr(self, "_now", bare.state)
        self._now = bare.state

    def was_perturbed(self) -> bool:
        """Whether the agent was where the wall is, or came through it."""
        start, end = self._before.tolist(), self._now.tolist()
        way = end[0] - start[0], end[1] - start[1]
        if not (rooms.is_free(*start) and rooms.is_free(*end)):
            return True
        stopped = rooms.travel(start[0], start[1], way[0], way[1])
        return not np.allclose(stopped, end, rtol=0.0, atol=1e-6)


def _leaves_range(model: Any, positions: Floats, way: Floats) -> Floats:
    """Return (V,), whether a displacement along a degree of freedom leaves the range of its joint."""
    leaves = np.zeros(model.nv, bool)
    for joint in np.flatnonzero(model.jnt_limited):
        if _is_simple(model, joint):
            low, high = model.jnt_range[joint]
            dof = model.jnt_dofadr[joint]
            leaves[dof] = not low <= positions[model.jnt_qposadr[joint]] + way[dof] <= high
    return leaves


def _is_simple(model: Any, joint: Any) -> bool:
    """Whether a joint has one position and one velocity: slides and hinges do."""
    import mujoco

    return int(model.jnt_type[joint]) in map(int, (mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE))


def _free_nearby(start: Floats, way: Floats, signs: Floats) -> Floats:
    """Return a free position as far from ``start`` as asked, in the direction ``signs`` if it is free there.

    Where no direction is, the map's border cuts the way short.
    """
    directions = sorted(itertools.product((-1.0, 1.0), repeat=2), key=lambda pair: tuple(pair) != tuple(signs))
    ends = [start + np.array(pair) * way for pair in directions]
    inside = [end.clip(rooms.LOW, rooms.HIGH) for end in ends]
    free = [end for end in [*ends, *inside] if rooms.is_free(*end.tolist())]
    return free[0] if free else start
