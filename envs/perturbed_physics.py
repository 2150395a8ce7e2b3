"""Perturbations of the physics: gravity, mass, friction, pushes and the clock of MuJoCo's tasks."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from .perturbations import PERTURBATIONS, Floats, Perturbation
from .states import is_mujoco
from .two_room import TwoRoomEnv

GRAVITY = 9.81
"""In m/s^2, the unit of weights."""
NO_MUJOCO = "it has no MuJoCo model"


class _Physics(Perturbation):
    """What needs a MuJoCo model."""

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only MuJoCo's tasks, and of those the ones that :meth:`lacks` has nothing to say of."""
        return cls.lacks(env.unwrapped.model) if is_mujoco(env.unwrapped) else NO_MUJOCO  # type: ignore[attr-defined]

    @classmethod
    def lacks(cls, model: Any) -> str:
        """Return why a model cannot have it, or nothing."""
        return ""

    @property
    def model(self) -> Any:
        """MuJoCo's."""
        bare: Any = self.unwrapped
        return bare.model


@PERTURBATIONS.register("gravity_flipped")
class GravityFlipped(_Physics):
    """Gravity fades and turns upwards."""

    name = "gravity_flipped"
    meaning = "how far it turns: at 0.5 there is none, at 1 it is as strong as it was, upwards"
    allowed: ClassVar[tuple[float, float]] = (0.0, 1.0)

    @classmethod
    def lacks(cls, model: Any) -> str:
        """Only where gravity moves something."""
        return "" if _feels(model, model.opt.gravity) else "gravity moves nothing there"

    def begin(self) -> None:
        """Change it."""
        self.put(self.model.opt.gravity, (1.0 - 2.0 * self.strength) * self.model.opt.gravity)


@PERTURBATIONS.register("gravity_tilted")
class GravityTilted(_Physics):
    """The ground slopes: gravity is turned towards -x."""

    name = "gravity_tilted"
    meaning = "slope in degrees"
    standard = 30.0
    allowed: ClassVar[tuple[float, float]] = (0.0, 180.0)

    @classmethod
    def lacks(cls, model: Any) -> str:
        """Only where gravity along x would move something."""
        if not np.any(model.opt.gravity):
            return "it has no gravity"
        return "" if _feels(model, np.array([-GRAVITY, 0.0, 0.0])) else "gravity moves nothing there"

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to a wall."""
        return 0.0, 90.0

    def begin(self) -> None:
        """Turn it about the y axis."""
        x, y, z = self.model.opt.gravity
        sine, cosine = np.sin(np.radians(self.strength)), np.cos(np.radians(self.strength))
        self.put(self.model.opt.gravity, (cosine * x + sine * z, y, cosine * z - sine * x))


@PERTURBATIONS.register("mass")
class Mass(_Physics):
    """Every body is heavier, and its inertia greater."""

    name = "mass"
    meaning = "factor on the mass of every body"
    standard = 2.0
    allowed: ClassVar[tuple[float, float]] = (0.01, 100.0)

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to ten times as heavy."""
        return 1.0, 10.0

    def begin(self) -> None:
        """Change it."""
        for array in (self.model.body_mass, self.model.body_inertia):
            self.put(array, self.strength * array)


@PERTURBATIONS.register("surface_friction")
class SurfaceFriction(_Physics):
    """Every surface is slippery."""

    name = "surface_friction"
    meaning = "what friction between surfaces is divided by"
    standard = 5.0
    allowed: ClassVar[tuple[float, float]] = (0.01, 1e4)

    @classmethod
    def lacks(cls, model: Any) -> str:
        """Only where surfaces can touch."""
        return "" if _can_touch(model) else "nothing touches anything there"

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Down to a hundredth."""
        return 1.0, 100.0

    def begin(self) -> None:
        """Change it, of explicit pairs too."""
        for array in (self.model.geom_friction, self.model.pair_friction):
            self.put(array, array / self.strength)


class _Joints(_Physics):
    """What acts in driven joints, in units of the greatest torque or force of their actuators."""

    @classmethod
    def lacks(cls, model: Any) -> str:
        """Only where actuators drive joints."""
        return "" if np.any(_greatest_torque(model)) else "no joint of it is driven by an actuator"

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to what an actuator can overcome."""
        return 0.0, 1.0


@PERTURBATIONS.register("joint_friction")
class JointFriction(_Joints):
    """Driven joints rub: a constant torque opposes their motion."""

    name = "joint_friction"
    meaning = "dry friction of driven joints, in the greatest torque of their actuators"
    standard = 0.2

    def begin(self) -> None:
        """Add it."""
        array = self.model.dof_frictionloss
        self.put(array, array + self.strength * _greatest_torque(self.model))


@PERTURBATIONS.register("joint_damping")
class JointDamping(_Joints):
    """Driven joints are stiff: a torque proportional to their velocity opposes their motion."""

    name = "joint_damping"
    meaning = "torque against 1 rad/s (or 1 m/s) in driven joints, in the greatest torque of their actuators"
    standard = 0.1

    def begin(self) -> None:
        """Add it."""
        array = self.model.dof_damping
        added = self.strength * _greatest_torque(self.model)
        self.put(array, array + (added if array.ndim == 1 else added[:, None]))


@PERTURBATIONS.register("force")
class Force(_Physics):
    """Something pushes the heaviest body towards -x."""

    name = "force"
    meaning = "push in units of the weight of everything that moves"
    standard = 0.5

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to five times the weight."""
        return 0.0, 5.0

    def begin(self) -> None:
        """Push."""
        bare: Any = self.unwrapped
        body = 1 + int(self.model.body_mass[1:].argmax())
        pushes = bare.data.xfrc_applied.copy()
        pushes[body, 0] -= self.strength * GRAVITY * float(self.model.body_mass[1:].sum())
        self.put(bare.data.xfrc_applied, pushes)


@PERTURBATIONS.register("clock_rate")
class ClockRate(Perturbation):
    """More time passes between two observations."""

    name = "clock_rate"
    meaning = "factor on the simulated time of a step, rounded to whole steps of the simulator"
    standard = 2.0
    allowed: ClassVar[tuple[float, float]] = (0.1, 100.0)

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only where the time of a step is known."""
        suited = is_mujoco(env.unwrapped) or isinstance(env.unwrapped, TwoRoomEnv)
        return "" if suited else "the simulated time of its steps is not known"

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to ten times as fast."""
        return 1.0, 10.0

    def begin(self) -> None:
        """Take other steps."""
        bare: Any = self.unwrapped
        if isinstance(bare, TwoRoomEnv):
            return
        before = bare.frame_skip
        bare.frame_skip = max(round(self.strength * before), 1)

        def back() -> None:
            bare.frame_skip = before

        self._undo.append(back)

    def act(self, action: Any) -> Any:
        """Move several times at once, where a step has no parts."""
        bare: Any = self.unwrapped
        if isinstance(bare, TwoRoomEnv):
            for _ in range(round(self.strength) - 1):
                bare.step(action)
        return action


def _feels(model: Any, gravity: Floats) -> bool:
    """Whether ``gravity`` exerts a force along any degree of freedom, in some posture."""
    import mujoco

    data, before = mujoco.MjData(model), model.opt.gravity.copy()
    mujoco.mj_integratePos(model, data.qpos, 0.3 * (1.0 + np.arange(model.nv) % 3), 1.0)
    forces = []
    for pull in (gravity, np.zeros(3)):
        model.opt.gravity[:] = pull
        mujoco.mj_forward(model, data)
        forces.append(data.qfrc_bias.copy())
    model.opt.gravity[:] = before
    return not np.allclose(forces[0], forces[1], rtol=0.0, atol=1e-9)


def _can_touch(model: Any) -> bool:
    """Whether two bodies could be in contact at all."""
    types, affinities, bodies = model.geom_contype, model.geom_conaffinity, model.geom_bodyid
    meet = (types[:, None] & affinities[None]) | (affinities[:, None] & types[None])
    return bool(np.any(meet * (bodies[:, None] != bodies[None]))) or model.npair > 0


def _greatest_torque(model: Any) -> Floats:
    """Return (V,), the greatest torque or force that an actuator exerts along each degree of freedom."""
    import mujoco

    greatest = np.zeros(model.nv)
    joints = [int(kind) for kind in (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)]
    for actuator in range(model.nu):
        if int(model.actuator_trntype[actuator]) in joints:
            dof = model.jnt_dofadr[model.actuator_trnid[actuator, 0]]
            control = np.abs(model.actuator_ctrlrange[actuator]).max()
            greatest[dof] += abs(model.actuator_gear[actuator, 0] * model.actuator_gainprm[actuator, 0]) * control
    return greatest
