"""Perturbations: the world changes at a known step of an episode, for judging who notices.

A perturbation is a Gymnasium wrapper around a whole environment. Until its onset the episode is, bit for bit, the one
without it; reset puts everything back, the simulator's model included. Its chance is its own, a function of the seed of
the reset, so that the environment's is not disturbed and the same seed gives the same event at every strength.

The protocol of factor, offset and noise on observations and actions, of mass, force and joint friction, with an onset
drawn uniformly over the episode, is that of Anomaly-Gym.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import SettingsError, UnknownNameError, did_you_mean
from ..core.registry import Registry
from ..core.seeding import numpy_generator
from .recording import RecordedEpisode
from .states import is_mujoco

Array = NDArray[Any]
Floats = NDArray[np.float64]
Onset = int | Callable[[int], int] | None
"""The step of the onset; or a function of the reset's seed that returns it; or nothing, for one that is drawn."""

HORIZON = 1000
"""Steps over which an onset is drawn, where nothing limits the episode."""


@dataclass(frozen=True, eq=False)
class NominalScale:
    """By how much things vary in nominal episodes: standard deviations.

    Attributes:
        observations: (O,) of what is observed; nothing for images.
        positions: (V,) of the true state's positions, along the degrees of freedom in MuJoCo.
        velocities: (V,) of its velocities; nothing where the task has none.
    """

    observations: Floats | None
    positions: Floats | None
    velocities: Floats | None

    @classmethod
    def of(cls, env: gym.Env[Any, Any], episodes: Sequence[RecordedEpisode]) -> NominalScale:
        """Measure it in nominal ``episodes`` of ``env``.

        Raises:
            SettingsError: there is no episode.
        """
        if not episodes:
            raise SettingsError("There are no nominal episodes to measure deviations in: at least 1 is needed.")
        seen = [episode.observations for episode in episodes]
        observations = np.concatenate(seen).std(axis=0, dtype=np.float64) if seen[0].ndim == 2 else None
        if any(episode.states is None for episode in episodes):
            return cls(observations, None, None)
        states = np.concatenate([episode.states for episode in episodes if episode.states is not None])
        bare: Any = env.unwrapped
        if not is_mujoco(bare):
            return cls(observations, states.std(axis=0), None)
        import mujoco

        moved = np.zeros((len(states), bare.model.nv))
        for row, state in zip(moved, states, strict=True):  # of a free joint, four numbers turn along three axes
            mujoco.mj_differentiatePos(bare.model, row, 1.0, states[0, : bare.model.nq], state[: bare.model.nq])
        return cls(observations, moved.std(axis=0), states[:, bare.model.nq :].std(axis=0))


class Perturbation(gym.Wrapper[Any, Any, Any, Any]):
    """What all perturbations have in common; subclasses say what changes.

    ``info["perturbed"]`` of every step, and of the reset, says whether what it shows was perturbed.

    Args:
        env: the whole environment, time limit included.
        strength: in the units that :attr:`meaning` states; :attr:`standard` by default.
        onset: number of the first perturbed step, from 0; by default drawn uniformly over ``horizon`` steps.
        horizon: the episode's length as far as it is known; by default the environment's own limit.
        duration: steps that it lasts; ``None`` for the rest of the episode. Events that happen at once ignore it.
        scale: what is nominal, for perturbations that are measured by it.

    Attributes:
        onset: of the present episode.
        truth: for each step so far, whether it was perturbed.

    Raises:
        SettingsError: the environment cannot have it, or an argument is out of range.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    """Of the strength."""
    standard: ClassVar[float] = 1.0
    """Strength by default."""
    allowed: ClassVar[tuple[float, float]] = (0.0, math.inf)
    """Least and greatest strength."""
    whole: ClassVar[bool] = False
    """Whether strengths are whole numbers."""
    counts: ClassVar[bool] = False
    """Whether the strength is a number of parts, of which there are as many as :meth:`search` says."""
    at_once: ClassVar[bool] = False
    """Whether it happens in a single step, after which the world is as it was."""
    control: ClassVar[bool] = False
    """Whether a physical model should not call it impossible."""
    needs_scale: ClassVar[bool] = False

    def __init__(
        self,
        env: gym.Env[Any, Any],
        strength: float | None = None,
        onset: Onset = None,
        horizon: int | None = None,
        duration: int | None = None,
        scale: NominalScale | None = None,
    ) -> None:
        super().__init__(env)
        if reason := self.unsuited(env):
            raise SettingsError(f"{_label(env)} cannot have the perturbation {self.name!r}: {reason}.")
        self.strength = self.checked(self.standard if strength is None else strength, env)
        for what, value, least in (("onset", onset, 0), ("horizon", horizon, 1), ("duration", duration, 1)):
            if isinstance(value, int) and value < least:
                raise SettingsError(f"{what} = {value} is out of range: it must be at least {least}.")
        limit = env.spec.max_episode_steps if env.spec is not None else None
        self._when, self._horizon = onset, horizon or limit or HORIZON
        self._duration = 1 if self.at_once else duration or math.inf
        if self.needs_scale and scale is None:
            raise SettingsError(
                f"The perturbation {self.name!r} is measured in nominal standard deviations: give "
                "scale=NominalScale.of(env, episodes)."
            )
        self._scale = scale
        self._undo: list[Callable[[], None]] = []
        self._rng = np.random.default_rng()
        self._active = False
        self.onset = 0
        self.truth: list[bool] = []

    # What subclasses say

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Return why ``env`` cannot have it, or nothing."""
        return ""

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Return the strengths between which one is searched for: one without effect, and the greatest of use."""
        return cls.allowed

    def draw(self, rng: np.random.Generator) -> None:
        """Draw the chance of an episode that begins."""

    def watch(self, observation: Any) -> None:
        """See what the environment really shows, after its reset and after every step."""

    def begin(self) -> None:
        """Change the world, just before the first perturbed step; :attr:`_undo` changes it back."""

    def act(self, action: Any) -> Any:
        """Return what becomes of an action while the perturbation lasts."""
        return action

    def observe(self, observation: Any) -> Any:
        """Return what is shown in place of an observation while the perturbation lasts."""
        return observation

    def was_perturbed(self) -> bool:
        """Whether the step just taken, while the perturbation lasts, differed from what is normal."""
        return True

    # What all have

    @classmethod
    def checked(cls, strength: float, env: gym.Env[Any, Any]) -> float:
        """Return ``strength``.

        Raises:
            SettingsError: it is out of range.
        """
        low, high = (0.0, cls.search(env)[1]) if cls.counts else cls.allowed
        whole = cls.whole or cls.counts
        if not (math.isfinite(strength) and low <= strength <= high) or (whole and strength != int(strength)):
            number = "a whole number" if whole else "a number"
            raise SettingsError(
                f"strength = {strength:g} is out of range for {cls.name!r}: it must be {number} in [{low:g}, {high:g}] "
                f"({cls.meaning})."
            )
        return float(strength)

    @property
    def event(self) -> int | None:
        """The first perturbed step of the present episode, or nothing if there has been none."""
        return self.truth.index(True) if True in self.truth else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put everything back and begin an episode."""
        self._restore()
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = numpy_generator(seed, "perturbation", self.name)
        self.onset = self._draw_onset(seed)
        self.draw(self._rng)
        self.truth = []
        self.watch(observation)
        return observation, {"perturbed": False, **info}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, perturbed or not."""
        lasts = self.onset <= len(self.truth) < self.onset + self._duration
        if lasts and not self._active:
            self._active = True
            self.begin()
        elif self._active and not lasts:
            self._restore()
        observation, reward, terminated, truncated, info = self.env.step(self.act(action) if lasts else action)
        self.watch(observation)
        shown = self.observe(observation) if lasts else observation
        self.truth.append(lasts and self.was_perturbed())
        inside = bool(info.get("perturbed"))  # by another one
        return shown, reward, terminated, truncated, {**info, "perturbed": self.truth[-1] or inside}

    def close(self) -> None:
        """Put everything back and close the environment."""
        self._restore()
        super().close()

    def restored(self) -> gym.Env[Any, Any]:
        """Put everything back, and return the environment without the perturbation."""
        self._restore()
        return self.env

    def put(self, array: Array, values: Any) -> None:
        """Write ``values`` into an ``array`` of the simulator until the perturbation ends."""
        before = array.copy()
        array[:] = values

        def back() -> None:
            array[:] = before

        self._undo.append(back)

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._active = False

    def _draw_onset(self, seed: int | None) -> int:
        if callable(self._when):
            if seed is None:
                raise SettingsError("An onset that is a function of the seed needs reset(seed=...).")
            return int(self._when(seed))
        if self._when is not None:
            return self._when
        rng = self._rng if seed is None else numpy_generator(seed, "onset")
        return int(rng.integers(self._horizon))


PERTURBATIONS: Registry[type[Perturbation]] = Registry("perturbation", __package__)
"""All perturbations by name."""


def perturbations_for(env: gym.Env[Any, Any]) -> list[str]:
    """Return the names of the perturbations, controls included, that ``env`` can have."""
    return [name for name in PERTURBATIONS.names() if not PERTURBATIONS.get(name).unsuited(env)]


def perturbation(name: str, env: gym.Env[Any, Any]) -> type[Perturbation]:
    """Return the perturbation ``name``, which ``env`` can have.

    Raises:
        UnknownNameError: there is none of that name.
        SettingsError: ``env`` cannot have it; it says why, and which it can have.
    """
    if not isinstance(env, gym.Env):
        raise SettingsError(f"What is perturbed is an environment, not {env!r}: make_env({env!r}) makes one of a name.")
    possible = perturbations_for(env)
    if name not in PERTURBATIONS:
        raise UnknownNameError(f"Unknown perturbation {name!r}.{did_you_mean(name, possible)}")
    found = PERTURBATIONS.get(name)
    if reason := found.unsuited(env):
        raise SettingsError(
            f"{_label(env)} cannot have the perturbation {name!r}: {reason}. It can have: {', '.join(possible)}."
        )
    return found


def perturb(env: gym.Env[Any, Any], name: str, strength: float | None = None, **how: Any) -> Perturbation:
    """Return ``env`` under the perturbation ``name``; the other arguments are those of :class:`Perturbation`.

    Raises:
        UnknownNameError: there is none of that name.
        SettingsError: ``env`` cannot have it, or an argument is out of range.
    """
    return perturbation(name, env)(env, strength, **how)


def _label(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
