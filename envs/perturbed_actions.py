"""Perturbations of what is done: actuators that are weak, dead, reversed or late, and actions that arrive changed."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from .perturbations import PERTURBATIONS, Array, Floats, Perturbation


class _Actions(Perturbation):
    """What needs an action space of bounded numbers; whatever becomes of an action, it stays within the bounds."""

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only finite boxes of floats."""
        space = env.action_space
        suited = isinstance(space, gym.spaces.Box) and space.is_bounded() and np.issubdtype(space.dtype, np.floating)
        return "" if suited else f"its actions are {space}, and bounded numbers are needed"

    @property
    def box(self) -> gym.spaces.Box:
        """The action space."""
        assert isinstance(self.action_space, gym.spaces.Box)
        return self.action_space

    @property
    def half(self) -> Floats:
        """Half the range of each action."""
        return (self.box.high.astype(np.float64) - self.box.low.astype(np.float64)) / 2

    def act(self, action: Any) -> Any:
        """Return the changed action."""
        changed = self.changed(np.array(action, np.float64))
        return np.clip(changed, self.box.low, self.box.high).astype(self.box.dtype)

    def changed(self, action: Floats) -> Floats:
        """Return what becomes of ``action``, a copy, before it is clipped."""
        raise NotImplementedError


class _SomeActuators(_Actions):
    """What befalls so many actuators as the strength says, drawn by chance."""

    counts = True

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to all of them."""
        return 0.0, float(math.prod(env.action_space.shape or ()))

    def draw(self, rng: np.random.Generator) -> None:
        """Draw which; at a greater strength it is the same and others."""
        self.actuators: Array = rng.permutation(self.box.low.size)[: int(self.strength)]


@PERTURBATIONS.register("actuator_dead")
class ActuatorDead(_SomeActuators):
    """Some actuators do nothing."""

    name = "actuator_dead"
    meaning = "how many actuators are dead"

    def changed(self, action: Floats) -> Floats:
        """Do nothing there."""
        action.flat[self.actuators] = 0.0
        return action


@PERTURBATIONS.register("actuator_flipped")
class ActuatorFlipped(_SomeActuators):
    """Some actuators do the opposite."""

    name = "actuator_flipped"
    meaning = "how many actuators are reversed"

    def changed(self, action: Floats) -> Floats:
        """Do the opposite there."""
        action.flat[self.actuators] *= -1.0
        return action


@PERTURBATIONS.register("actuator_weakened")
class ActuatorWeakened(_Actions):
    """One actuator, drawn by chance, loses force."""

    name = "actuator_weakened"
    meaning = "share of its force that one actuator loses"
    standard = 0.5
    allowed: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def draw(self, rng: np.random.Generator) -> None:
        """Draw which."""
        self.actuators = rng.integers(self.box.low.size, size=1)

    def changed(self, action: Floats) -> Floats:
        """Do less there."""
        action.flat[self.actuators] *= 1.0 - self.strength
        return action


@PERTURBATIONS.register("actuator_delayed")
class ActuatorDelayed(_Actions):
    """Actions arrive late: when the delay begins, the last one is repeated."""

    name = "actuator_delayed"
    meaning = "steps by which actions are late"
    standard = 3.0
    allowed: ClassVar[tuple[float, float]] = (0.0, 1000.0)
    whole = True

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to twenty steps."""
        return 0.0, 20.0

    def draw(self, rng: np.random.Generator) -> None:
        """Forget the last episode's actions."""
        self._last: Any = None
        self._on_the_way: list[Floats] = []

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and remember its action."""
        outcome = super().step(action)
        self._last = np.array(action, np.float64)
        return outcome

    def begin(self) -> None:
        """Fill the line; before the first action, nothing is done."""
        nothing = np.zeros(self.box.shape)
        self._on_the_way = [nothing if self._last is None else self._last] * int(self.strength)

    def changed(self, action: Floats) -> Floats:
        """Return the action that arrives."""
        self._on_the_way.append(action)
        return self._on_the_way.pop(0)


@PERTURBATIONS.register("action_factor")
class ActionFactor(_Actions):
    """All actions arrive smaller."""

    name = "action_factor"
    meaning = "factor on every action"
    standard = 0.5
    allowed: ClassVar[tuple[float, float]] = (-10.0, 10.0)

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Down to nothing."""
        return 1.0, 0.0

    def changed(self, action: Floats) -> Floats:
        """Scale it."""
        return self.strength * action


@PERTURBATIONS.register("action_offset")
class ActionOffset(_Actions):
    """Something is added to all actions."""

    name = "action_offset"
    meaning = "what is added to every action, in half its range"
    standard = 0.25
    allowed: ClassVar[tuple[float, float]] = (-2.0, 2.0)

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to the whole range, where nothing else is left."""
        return 0.0, 2.0

    def changed(self, action: Floats) -> Floats:
        """Add it."""
        return action + self.strength * self.half


@PERTURBATIONS.register("action_noise")
class ActionNoise(_Actions):
    """Gaussian noise is added to all actions."""

    name = "action_noise"
    meaning = "standard deviation of noise on every action, in half its range"
    standard = 0.25

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to three half ranges, as Anomaly-Gym does."""
        return 0.0, 3.0

    def draw(self, rng: np.random.Generator) -> None:
        """Take up the chance."""
        self._noise = rng

    def changed(self, action: Floats) -> Floats:
        """Add it."""
        return action + self.strength * self.half * self._noise.normal(size=action.shape)
