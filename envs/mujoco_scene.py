"""Scenes of MuJoCo environments: every joint by coordinates that have no jumps, rotations by two axes of their frame.

Where the robot is on the ground is mostly left out of observations, so that no latent can tell it. It is followed from
the velocity.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault
from ..core.quantity import Quantity
from .mujoco_quantities import joint_name, root_of

Values = NDArray[np.float64]
_AXES = ("forward_x", "forward_y", "forward_z", "left_x", "left_y", "left_z")


class MujocoScene:
    """See :class:`.scenes.Scene`; coordinates are in the order of joints.

    Args:
        env: made with ``render_mode="rgb_array"``.

    Raises:
        EnvironmentFault: it has another render mode.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        if env.render_mode != "rgb_array":
            raise EnvironmentFault(f"Pictures need the render mode 'rgb_array', not {env.render_mode!r}.")
        self._env, self._bare = env, env.unwrapped
        env.reset(seed=0)
        self._model: Any = self._bare.model  # type: ignore[attr-defined]
        self._parts: list[_Part] = []
        for joint in range(self._model.njnt):
            self._add(joint)
        self.coordinates = tuple(quantity for part in self._parts for quantity in part.quantities)

    def _add(self, joint: int) -> None:
        model, name = self._model, joint_name(self._model, joint)
        q, v = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
        kind, followed = model.jnt_type[joint], model.jnt_bodyid[joint] == root_of(model)
        if kind == mujoco.mjtJoint.mjJNT_HINGE:
            self._parts.append(_Number(Quantity(name, "rad", True), q))
        elif kind == mujoco.mjtJoint.mjJNT_SLIDE:
            along = followed and abs(model.jnt_axis[joint][2]) < 1e-6
            self._parts.append(
                _Followed(Quantity(name, "m/s"), q, model.nq + v) if along else _Number(Quantity(name, "m"), q)
            )
        else:
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                for offset, axis in enumerate("xyz"):
                    label = f"{name}_{axis}"
                    if followed and axis != "z":
                        self._parts.append(_Followed(Quantity(label, "m/s"), q + offset, model.nq + v + offset))
                    else:
                        self._parts.append(_Number(Quantity(label, "m"), q + offset))
                q += 3
            self._parts.append(_Rotation(name, q))

    def read(self, states: Values) -> Values:
        """Return the coordinates (N, P) of states (N, S)."""
        return np.concatenate([part.read(states) for part in self._parts], 1)

    def state(self, coordinates: Values, known: NDArray[np.bool_], before: Values, seconds: float) -> Values:
        """Return a state (S,); see :class:`.scenes.Scene`. Its velocities are not drawn, and zero where not needed."""
        state = before.copy()
        first = 0
        for part in self._parts:
            last = first + len(part.quantities)
            if known[first:last].all():
                part.write(state, coordinates[first:last], seconds)
            first = last
        return state

    def draw(self, state: Values) -> NDArray[np.uint8]:
        """Return a picture of a state (S,)."""
        bare: Any = self._bare
        bare.set_state(*np.split(state, [self._model.nq]))
        return np.asarray(self._env.render(), np.uint8)


class _Number:
    """A position along or around a joint's axis."""

    def __init__(self, quantity: Quantity, position: int) -> None:
        self.quantities, self._position = [quantity], position

    def read(self, states: Values) -> Values:
        return states[:, [self._position]]

    def write(self, state: Values, values: Values, seconds: float) -> None:
        state[self._position] = values[0]


class _Followed:
    """A position that is known by its velocity."""

    def __init__(self, quantity: Quantity, position: int, velocity: int) -> None:
        self.quantities, self._position, self._velocity = [quantity], position, velocity

    def read(self, states: Values) -> Values:
        return states[:, [self._velocity]]

    def write(self, state: Values, values: Values, seconds: float) -> None:
        state[self._position] += seconds * values[0]
        state[self._velocity] = values[0]


class _Rotation:
    """An orientation, a quaternion in the state, by the first two axes of the body's frame."""

    def __init__(self, name: str, position: int) -> None:
        self.quantities = [Quantity(f"{name}_{axis}", "1") for axis in _AXES]
        self._at = slice(position, position + 4)

    def read(self, states: Values) -> Values:
        w, x, y, z = (states[:, self._at] / np.linalg.norm(states[:, self._at], axis=1, keepdims=True)).T
        forward = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)
        left = 2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)
        return np.stack([*forward, *left], 1)

    def write(self, state: Values, values: Values, seconds: float) -> None:
        forward, left = values[:3], values[3:]
        forward = forward / (np.linalg.norm(forward) + 1e-12)
        left = left - (left @ forward) * forward
        left = left / (np.linalg.norm(left) + 1e-12)
        turned = np.empty(4)
        mujoco.mju_mat2Quat(turned, np.stack([forward, left, np.cross(forward, left)], 1).ravel())
        state[self._at] = turned


_Part = _Number | _Followed | _Rotation
