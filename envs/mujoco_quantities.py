"""The physical quantities of a MuJoCo model, named after its joints, bodies, geoms and sites.

The *robot* is the tree of bodies that is attached to the world and has most bodies. It is *free* if its first body, the
root, can move in two directions at least: then there are the root's velocity (``x_velocity``), height
(``torso_height``) and orientation (``torso_angle`` in a plane). Directions in which nothing can move are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from .quantities import Quantity, wrapped

Values = NDArray[np.float64]
_Reader = Callable[[], Sequence[float] | Values]

_AXES = "xyz"
_TARGETS = ("target", "goal")
"""Bodies that are there to be reached."""


class MujocoQuantities:
    """Measures the quantities of a model, in simulator data of its own.

    Args:
        model: ``mujoco.MjModel``; what is changed in it later holds for what is measured later.

    Attributes:
        all: the quantities. Heights and places are in the world's frame; what is told of a body's end is told of its
            centre of mass; energies are of all bodies, the potential one that of gravity and springs.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        mujoco.mj_forward(model, self._data)
        self._robot, self._free = _largest_tree(model), root_of(model) is not None
        self._bodies = [body for body in range(1, model.nbody) if self._belongs(body)]
        self._axes = _moving_axes(model, self._data)
        self._parts: list[tuple[list[Quantity], _Reader]] = []
        if self._free:
            self._add_root()
        self._add_joints()
        self._add_places()
        self._add_centre_of_mass()
        self._add_contacts()
        energy = [Quantity("kinetic_energy", "J"), Quantity("potential_energy", "J")]
        self._parts.append((energy, lambda: self._data.energy[::-1]))
        self.all = tuple(quantity for quantities, _ in self._parts for quantity in quantities)
        if len({quantity.name for quantity in self.all}) < len(self.all):
            self.all = _distinct(self.all)

    def measure(self, states: Values) -> Values:
        """Return (N, Q) in states (N, positions and velocities), while no motor pushes."""
        model, data = self._model, self._data
        values = np.empty((len(states), len(self.all)))
        for row, state in zip(values, states, strict=True):
            mujoco.mj_resetData(model, data)  # nothing of the last state, such as the solver's first guess, is left
            data.qpos[:], data.qvel[:] = np.split(state, [model.nq])
            mujoco.mj_forward(model, data)
            mujoco.mj_energyPos(model, data)
            mujoco.mj_energyVel(model, data)
            mujoco.mj_subtreeVel(model, data)
            row[:] = np.concatenate([np.asarray(read(), np.float64) for _, read in self._parts])
        return values

    def _add(self, name: str, unit: str, read: Callable[[], float], angle: bool = False) -> None:
        quantity = Quantity(name, unit, angle)
        self._parts.append(([quantity], (lambda: [float(wrapped(read()))]) if angle else (lambda: [read()])))

    def _belongs(self, body: int) -> bool:
        """Whether a body is part of the robot."""
        return body == self._robot or (body > 0 and self._belongs(int(self._model.body_parentid[body])))

    def _leaves(self) -> list[int]:
        """Return the bodies to which no other is attached."""
        parents = set(self._model.body_parentid[1:].tolist())
        return [body for body in range(1, self._model.nbody) if body not in parents]

    # Where the robot is as a whole.

    def _add_root(self) -> None:
        model, data, root = self._model, self._data, self._robot
        body = _name(model, "body", root) or "root"
        for axis in self._axes:
            name = f"{body}_height" if axis == 2 else f"{_AXES[axis]}_position"
            self._add(name, "m", _at(data.xpos, root, axis))

        def velocity() -> Values:
            spatial = np.empty(6)
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, root, spatial, 0)
            return spatial[3:][self._axes]

        self._parts.append(([Quantity(f"{_AXES[axis]}_velocity", "m/s") for axis in self._axes], velocity))
        for joint in _joints(model, root):
            if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE:
                self._add_hinge(joint, body, "angular_velocity")
            elif model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
                self._add_orientation(joint, body)

    def _add_orientation(self, joint: int, body: str) -> None:
        """Add roll, pitch and yaw (intrinsic z, y, x), the tilt from upright, and angular velocities in the body."""
        data, root, dof = self._data, self._robot, int(self._model.jnt_dofadr[joint])

        def angles() -> list[float]:
            m = data.xmat[root].reshape(3, 3)
            roll, yaw = np.arctan2(m[2, 1], m[2, 2]), np.arctan2(m[1, 0], m[0, 0])
            return [roll, -np.arcsin(np.clip(m[2, 0], -1, 1)), yaw, np.arccos(np.clip(m[2, 2], -1, 1))]

        turning = [Quantity(f"{body}_{name}", "rad", True) for name in ("roll", "pitch", "yaw")]
        self._parts.append(([*turning, Quantity(f"{body}_tilt", "rad")], angles))
        rates = [Quantity(f"{body}_angular_velocity_{axis}", "rad/s") for axis in _AXES]
        self._parts.append((rates, _view(data.qvel[dof + 3 : dof + 6])))

    # Its joints, and those of all that is not the robot.

    def _add_joints(self) -> None:
        model, data = self._model, self._data
        for joint in range(model.njnt):
            if self._free and model.jnt_bodyid[joint] == self._robot:
                continue
            name, dof = joint_name(model, joint), int(model.jnt_dofadr[joint])
            kind = model.jnt_type[joint]
            if kind == mujoco.mjtJoint.mjJNT_HINGE:
                self._add_hinge(joint, name, "velocity")
            elif kind == mujoco.mjtJoint.mjJNT_SLIDE:
                position = int(model.jnt_qposadr[joint])
                self._add(f"{name}_position", "m", _at(data.qpos, position))
                self._add(f"{name}_velocity", "m/s", _at(data.qvel, dof))
            else:  # a ball, or something that is not attached to anything
                first = dof + (3 if kind == mujoco.mjtJoint.mjJNT_FREE else 0)
                rates = [Quantity(f"{name}_angular_velocity_{axis}", "rad/s") for axis in _AXES]
                self._parts.append((rates, _view(data.qvel[first : first + 3])))

    def _add_hinge(self, joint: int, name: str, rate: str) -> None:
        data, position, dof = self._data, int(self._model.jnt_qposadr[joint]), int(self._model.jnt_dofadr[joint])
        self._add(f"{name}_angle", "rad", _at(data.qpos, position), angle=True)
        self._add(f"{name}_{rate}", "rad/s", _at(data.qvel, dof))

    # Where its ends are.

    def _add_places(self) -> None:
        model, data = self._model, self._data
        places: list[tuple[str, Values]] = []
        for body in self._leaves():
            name = _name(model, "body", body) or _geom_name(model, int(model.body_geomadr[body]))
            places.append((name, data.xipos[body]))
        for site in range(model.nsite):
            if name := _name(model, "site", site):
                places.append((name, data.site_xpos[site]))
        for name, place in places:
            for axis in self._axes:
                if axis == 2:
                    self._add(f"{name}_height", "m", _at(place, axis))
                elif not self._free:  # a foot's place in the world says little beside the root's
                    self._add(f"{name}_{_AXES[axis]}", "m", _at(place, axis))
        for target, there in places:
            for name, here in places:
                if target in _TARGETS and name not in _TARGETS:
                    self._add(f"{name}_to_{target}", "m", _between(here, there))

    def _add_centre_of_mass(self) -> None:
        data, robot, axes = self._data, self._robot, self._axes
        places = [Quantity(f"com_{_AXES[axis]}", "m") for axis in axes]
        velocities = [Quantity(f"com_{_AXES[axis]}_velocity", "m/s") for axis in axes]
        self._parts.append((places, lambda: data.subtree_com[robot][axes]))
        self._parts.append((velocities, lambda: data.subtree_linvel[robot][axes]))

    # What pushes it.

    def _add_contacts(self) -> None:
        """Add the forces on the geoms at the robot's ends, and of the world on the whole robot."""
        model = self._model
        collides = (model.geom_contype | model.geom_conaffinity) > 0
        inside = np.isin(model.geom_bodyid, self._bodies)
        if model.npair:
            collides[np.concatenate([model.pair_geom1, model.pair_geom2])] = True
        if not (collides & inside).any():
            return
        ends = np.flatnonzero(collides & inside & np.isin(model.geom_bodyid, self._leaves())).tolist()
        quantities = [Quantity(f"{_geom_name(model, geom)}_contact_force", "N") for geom in ends]

        def forces() -> list[float]:
            on = {geom: np.zeros(3) for geom in [*ends, -1]}
            for first, second, force in self._contacts():
                for geom, push in ((first, -force), (second, force)):
                    if geom in on:
                        on[geom] += push
                if inside[first] != inside[second]:
                    on[-1] += force if inside[second] else -force
            return [float(np.linalg.norm(force)) for force in on.values()]

        self._parts.append(([*quantities, Quantity("contact_force", "N")], forces))

    def _contacts(self) -> Iterator[tuple[int, int, Values]]:
        """Yield two geoms, and the force (3,) of the first on the second in the world's frame, of each contact."""
        force = np.empty(6)
        for index in range(self._data.ncon):
            contact = self._data.contact[index]
            first, second = contact.geom.tolist()
            if min(first, second) >= 0:
                mujoco.mj_contactForce(self._model, self._data, index, force)
                yield first, second, contact.frame.reshape(3, 3).T @ force[:3]


# Readers: the simulator's arrays stay where they are, so that views of them always show what is there now.


def _at(values: Values, *index: int) -> Callable[[], float]:
    return lambda: float(values[index])


def _view(values: Values) -> _Reader:
    return lambda: values


def _between(here: Values, there: Values) -> Callable[[], float]:
    return lambda: float(np.linalg.norm(here - there))


def _joints(model: Any, body: int) -> range:
    first = int(model.body_jntadr[body])
    return range(first, first + int(model.body_jntnum[body]))


def root_of(model: Any) -> int | None:
    """Return the number of the robot's first body if it is free to move about, and nothing if it is not."""
    body = _largest_tree(model)
    kinds = [int(model.jnt_type[joint]) for joint in _joints(model, body)]
    free = mujoco.mjtJoint.mjJNT_FREE in kinds or kinds.count(mujoco.mjtJoint.mjJNT_SLIDE) >= 2
    return body if free else None


def joint_name(model: Any, joint: int) -> str:
    """Return what a joint is called in the names of quantities."""
    name: str = model.joint(joint).name
    return name.removesuffix("_joint") or f"joint_{joint}"


def _largest_tree(model: Any) -> int:
    """Return the body attached to the world that has most bodies after it, the first of these."""
    sizes = np.bincount(model.body_rootid[1:], minlength=model.nbody)
    movable = [body for body in range(1, model.nbody) if model.body_parentid[body] == 0]
    return max(movable, key=lambda body: int(sizes[body]), default=0)


def _moving_axes(model: Any, data: Any) -> list[int]:
    """Return the axes of the world along which anything can move, as numbers."""
    still = []
    for axis in range(3):
        kinds, along = model.jnt_type, np.abs(data.xaxis[:, axis])
        slides, hinges = kinds == mujoco.mjtJoint.mjJNT_SLIDE, kinds == mujoco.mjtJoint.mjJNT_HINGE
        if (slides | hinges).all() and (along[slides] < 1e-6).all() and (along[hinges] > 1 - 1e-6).all():
            still.append(axis)
    return [axis for axis in range(3) if axis not in still]


def _name(model: Any, kind: str, index: int) -> str:
    name: str = getattr(model, kind)(index).name
    return name


def _geom_name(model: Any, geom: int) -> str:
    name: str = model.geom(geom).name if geom >= 0 else ""
    body: str = model.body(int(model.geom_bodyid[geom])).name if geom >= 0 else ""
    return name.removesuffix("_geom") or body or f"geom_{geom}"


def _distinct(quantities: Sequence[Quantity]) -> tuple[Quantity, ...]:
    """Number the later ones of quantities whose names are the same."""
    seen: dict[str, int] = {}
    renamed = []
    for quantity in quantities:
        seen[quantity.name] = count = seen.get(quantity.name, 0) + 1
        name = quantity.name if count == 1 else f"{quantity.name}_{count}"
        renamed.append(Quantity(name, quantity.unit, quantity.angle))
    return tuple(renamed)
