"""Quantities: what physics can be told of an environment's state, by names that users type, in units.

MuJoCo environments have theirs derived from the model; see :mod:`.mujoco_quantities`. Any other environment has some if
its class has ``quantities``, a tuple of :class:`~forethought.core.quantity.Quantity`, or of units by name such as
``{"distance": "m", "speed": "m/s"}``, and ``measure(states (N, S)) -> (N, Q)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import EnvironmentFault, SettingsError, UnknownNameError, did_you_mean
from ..core.quantity import Quantity as Quantity
from .states import is_mujoco, state_of

Values = NDArray[np.float64]


class Quantities:
    """All quantities of an environment, each a function of its true state alone.

    Forces are therefore those while no motor pushes, live as well as from recorded states.

    Args:
        env: whose quantities they are; it is never disturbed. What holds in it when they are read (such as changed
            masses) holds for them.

    Attributes:
        all: Q of them, in the order of all values.

    Raises:
        EnvironmentFault: the environment has none.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        bare: Any = env.unwrapped
        self._name = env.spec.id if env.spec is not None else type(bare).__name__
        if is_mujoco(bare):
            from .mujoco_quantities import MujocoQuantities

            measured = MujocoQuantities(bare.model)
            self._measure, self.all, self._width = measured.measure, measured.all, bare.model.nq + bare.model.nv
        elif hasattr(bare, "quantities") and hasattr(bare, "measure"):
            self._measure, self.all, self._width = bare.measure, _named(bare.quantities, self._name), None
        else:
            raise EnvironmentFault(
                f"{self._name} has no physical quantities: it is no MuJoCo environment, and its class has neither "
                "'quantities' nor 'measure'."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(quantity.name for quantity in self.all)

    def index(self, name: str) -> int:
        """Return the place of a quantity among all.

        Raises:
            UnknownNameError: there is none of that name; it names the closest, and all there are.
        """
        if name not in self.names:
            raise UnknownNameError(f"{self._name} has no quantity {name!r}.{did_you_mean(name, self.names)}")
        return self.names.index(name)

    def select(self, names: Iterable[str]) -> tuple[Quantity, ...]:
        """Return the quantities of some names; raises as :meth:`index` does."""
        return tuple(self.all[self.index(name)] for name in names)

    def read(self, env: gym.Env[Any, Any]) -> Values:
        """Return (Q,), as they are in ``env`` now, which is one of the same kind.

        Raises:
            EnvironmentFault: it tells no state, or one that is not finite.
        """
        state = state_of(env)
        if state is None:
            raise EnvironmentFault(f"{self._name} does not tell its state.")
        return self.of_states(state[None])[0]

    def of_states(self, states: ArrayLike) -> Values:
        """Return (N, Q) in true states (N, S), as :func:`.states.state_of` returned them.

        Raises:
            SettingsError: states of another environment, by their width.
            EnvironmentFault: a state that is not finite.
        """
        states = np.asarray(states, np.float64)
        if states.ndim != 2 or (self._width is not None and states.shape[1] != self._width):
            raise SettingsError(
                f"States of {self._name} have the shape (N, {self._width or 'S'}), not {states.shape}: are these "
                "states of another task?"
            )
        if not np.isfinite(states).all():
            broken = int((~np.isfinite(states).all(1)).sum())
            raise EnvironmentFault(f"{broken} of {len(states)} states of {self._name} are not finite.")
        return np.asarray(self._measure(states), np.float64).reshape(len(states), len(self.all))


def wrapped(angles: ArrayLike) -> Values:
    """Return angles in radians as the same angles in (-pi, pi]."""
    return np.asarray(np.pi - (np.pi - np.asarray(angles, np.float64)) % (2 * np.pi))


def _named(quantities: Any, environment: str) -> tuple[Quantity, ...]:
    """Return what an environment's class calls its quantities.

    Raises:
        SettingsError: it is no such thing.
    """
    if isinstance(quantities, Mapping):
        return tuple(Quantity(str(name), str(unit)) for name, unit in quantities.items())
    if not isinstance(quantities, Iterable) or not all(isinstance(one, Quantity) for one in quantities):
        raise SettingsError(
            f"{environment}.quantities must give units by name, such as {{'distance': 'm'}}, or Quantity objects, "
            f"not {quantities!r}."
        )
    return tuple(quantities)
