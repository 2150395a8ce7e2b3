"""Perturbations of what is seen: sensors that freeze, rattle, fail or are exchanged, and readings that are shifted."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from .perturbations import PERTURBATIONS, Array, Floats, NominalScale, Perturbation
from .states import state_of

TILES = 4
"""Along each side of an image, of which some are exchanged."""


def is_image(env: gym.Env[Any, Any]) -> bool:
    """Whether observations are images of 8 bits."""
    space = env.observation_space
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


def is_vector(env: gym.Env[Any, Any]) -> bool:
    """Whether observations are numbers that can be changed one by one."""
    space = env.observation_space
    return isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)


class _Sensors(Perturbation):
    """What befalls sensors, each of which shows one coordinate of the observation; of an image, all of it."""

    images: ClassVar[bool] = True

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only boxes of floats, and most of the time images."""
        if is_vector(env) or (cls.images and is_image(env)):
            return ""
        kinds = "numbers or images" if cls.images else "numbers"
        return f"its observations are {env.observation_space}, and {kinds} are needed"

    @property
    def size(self) -> int:
        """How many sensors there are."""
        return 1 if is_image(self) else math.prod(self.observation_space.shape or ())

    def shuffled(self, rng: np.random.Generator) -> Array:
        """Return all sensors by chance; those that never vary in nominal episodes, as far as is known, come last."""
        order = rng.permutation(self.size)
        if is_image(self) or self._scale is None or self._scale.observations is None:
            return order
        return order[np.argsort(self._scale.observations[order] <= 0.0, kind="stable")]


class _SomeSensors(_Sensors):
    """What befalls so many sensors as the strength says, drawn by chance."""

    meaning = "how many sensors; an image is one"
    counts = True

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to all of them."""
        return 0.0, 1.0 if is_image(env) else float(math.prod(env.observation_space.shape or ()))

    def draw(self, rng: np.random.Generator) -> None:
        """Draw which; at a greater strength it is the same and others."""
        self.sensors: Array = self.shuffled(rng)[: int(self.strength)]


@PERTURBATIONS.register("sensor_frozen")
class SensorFrozen(_SomeSensors):
    """Some sensors go on showing what they showed last."""

    name = "sensor_frozen"

    def draw(self, rng: np.random.Generator) -> None:
        """Draw which, and forget the last episode."""
        super().draw(rng)
        self._true: list[Floats] = []

    def watch(self, observation: Any) -> None:
        """Remember what is true."""
        self._latest = np.array(observation)
        state = state_of(self) if is_image(self) else np.asarray(observation, np.float64).reshape(-1)[self.sensors]
        if state is not None:
            self._true.append(np.array(state, np.float64))

    def begin(self) -> None:
        """Freeze."""
        self._frozen = self._latest

    def observe(self, observation: Any) -> Any:
        """Show what was shown last."""
        if is_image(self):
            return self._frozen.copy() if len(self.sensors) else observation
        shown = np.array(observation)
        shown.flat[self.sensors] = self._frozen.flat[self.sensors]
        return shown

    def moved(self, scale: NominalScale, steps: int) -> bool:
        """Whether what the frozen sensors should show moved by more than a standard deviation within ``steps``."""
        if is_image(self):
            parts = [part for part in (scale.positions, scale.velocities) if part is not None]
            deviations = np.concatenate(parts) if parts else np.ones(0)
        else:
            deviations = np.ones(0) if scale.observations is None else scale.observations[self.sensors]
        values = np.array(self._true[self.onset : self.onset + steps + 1])
        if len(values) < 2 or values.shape[1:] != deviations.shape:
            return False
        return bool((np.abs(values[1:] - values[0]) > deviations).any())


@PERTURBATIONS.register("sensor_dropped")
class SensorDropped(_SomeSensors):
    """Some sensors show zero; an image is black."""

    name = "sensor_dropped"

    def observe(self, observation: Any) -> Any:
        """Show nothing there."""
        shown = np.array(observation)
        if is_image(self):
            shown[...] = 0 if len(self.sensors) else shown
        else:
            shown.flat[self.sensors] = 0
        return shown


@PERTURBATIONS.register("sensor_permuted")
class SensorPermuted(_Sensors):
    """Some sensors, drawn by chance, are exchanged in a ring; of an image, tiles of a quarter of its sides."""

    name = "sensor_permuted"
    meaning = "how many sensors are exchanged; of an image, how many of its 16 tiles"
    standard = 2.0
    counts = True

    @classmethod
    def unsuited(cls, env: gym.Env[Any, Any]) -> str:
        """Only where there are at least two."""
        few = is_vector(env) and math.prod(env.observation_space.shape or ()) < 2
        return super().unsuited(env) or ("it has a single sensor" if few else "")

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to all of them."""
        return 1.0, float(TILES**2 if is_image(env) else math.prod(env.observation_space.shape or ()))

    def draw(self, rng: np.random.Generator) -> None:
        """Draw which."""
        order = rng.permutation(TILES**2) if is_image(self) else self.shuffled(rng)
        self.sensors: Array = order[: int(self.strength)]

    def observe(self, observation: Any) -> Any:
        """Exchange them."""
        shown = np.array(observation)
        if is_image(self):
            height, width = (side // TILES for side in _sides(shown))
            tiles = [_tile(shown, index, height, width) for index in self.sensors.tolist()]
            for tile, other in zip(tiles, [np.array(tile) for tile in [*tiles[1:], *tiles[:1]]], strict=True):
                tile[...] = other
        else:
            shown.flat[self.sensors] = shown.flat[np.roll(self.sensors, 1)]
        return shown


@PERTURBATIONS.register("sensor_noisy")
class SensorNoisy(_Sensors):
    """One sensor, drawn by chance, rattles."""

    name = "sensor_noisy"
    meaning = "standard deviation of the noise, in that of the sensor's nominal readings"
    images = False
    needs_scale = True

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to ten deviations."""
        return 0.0, 10.0

    def draw(self, rng: np.random.Generator) -> None:
        """Draw which, and take up the chance."""
        self.sensors: Array = self.shuffled(rng)[:1]
        self._noise = rng

    def observe(self, observation: Any) -> Any:
        """Add noise there."""
        assert self._scale is not None
        assert self._scale.observations is not None
        shown = np.array(observation)
        shown.flat[self.sensors] += self.strength * self._scale.observations[self.sensors] * self._noise.normal()
        return shown


class _Readings(_Sensors):
    """What befalls all readings alike."""

    images = False

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to five."""
        return 0.0, 5.0


@PERTURBATIONS.register("observation_factor")
class ObservationFactor(_Readings):
    """All readings are scaled."""

    name = "observation_factor"
    meaning = "factor on every reading"
    standard = 1.5
    allowed: ClassVar[tuple[float, float]] = (-100.0, 100.0)

    @classmethod
    def search(cls, env: gym.Env[Any, Any]) -> tuple[float, float]:
        """Up to five times as great."""
        return 1.0, 5.0

    def observe(self, observation: Any) -> Any:
        """Scale them."""
        return (self.strength * np.asarray(observation)).astype(observation.dtype)


@PERTURBATIONS.register("observation_offset")
class ObservationOffset(_Readings):
    """Something is added to all readings."""

    name = "observation_offset"
    meaning = "what is added to every reading, in its own unit"
    standard = 0.25
    allowed: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def observe(self, observation: Any) -> Any:
        """Add it."""
        return (np.asarray(observation) + self.strength).astype(observation.dtype)


@PERTURBATIONS.register("observation_noise")
class ObservationNoise(_Readings):
    """Gaussian noise is added to all readings, or to all pixels."""

    name = "observation_noise"
    meaning = "standard deviation of noise on every reading, in its own unit; of pixels, 1 is from black to white"
    standard = 0.1
    images = True

    def draw(self, rng: np.random.Generator) -> None:
        """Take up the chance."""
        self._noise = rng

    def observe(self, observation: Any) -> Any:
        """Add it."""
        noise = self.strength * self._noise.normal(size=observation.shape)
        if is_image(self):
            return (observation + 255.0 * noise).clip(0, 255).round().astype(np.uint8)
        return (np.asarray(observation) + noise).astype(observation.dtype)


def _sides(image: Array) -> tuple[int, int]:
    """Return height and width of an image whose channels, if any, come last."""
    return image.shape[0], image.shape[1]


def _tile(image: Array, index: int, height: int, width: int) -> Array:
    """Return a view of one of an image's tiles."""
    row, column = divmod(index, TILES)
    return image[row * height : (row + 1) * height, column * width : (column + 1) * width]
