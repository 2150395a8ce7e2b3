"""Codecs: between the spaces that environments have and the float32 vectors that everything inside works with.

Observations become one vector each, and images stay what they are. Actions are [-1, 1] inside, or one-hots, and come
out exactly inside the bounds. Spaces that cannot be coded are refused on construction, naming the wrapper that helps.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault, UnsupportedSpaceError

Array = NDArray[Any]
Floats = NDArray[np.float32]
CHANNELS = (1, 3)
"""How many channels an image may have."""


class ObservationCodec:
    """Turns native observations into vectors, or images into images with three channels.

    A Box is flattened; Discrete, MultiDiscrete and MultiBinary become one-hots; a Dict of these is concatenated in
    the order of its keys. A Box of uint8 with two axes, or with three of which the last or the first is one of 1 or 3
    channels, is an image.

    Args:
        space: the space of a single observation.

    Attributes:
        shape: of a coded observation: (O,) for vectors, (height, width, 3) for images.
        dtype: of its values: float32 for vectors, uint8 for images.

    Raises:
        UnsupportedSpaceError: for images beside other observations, stacked or of floats, and for nested Dicts,
            Tuples, empty and other spaces.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self._parts = {key: _observation_part(part, key) for key, part in parts.items()}
        self._plain = space.shape if isinstance(self._parts.get(None), _BoxPart) else None
        if None in self._parts:
            self.shape, self.dtype = self._parts[None].coded_shape, self._parts[None].dtype
        else:
            self.shape, self.dtype = (sum(part.coded_shape[0] for part in self._parts.values()),), np.dtype(np.float32)
        if 0 in self.shape:
            raise UnsupportedSpaceError(f"The observation space {space} is empty; there is nothing to learn from.")

    def __call__(self, observations: Any) -> Array:
        """Return (B, *shape) for a batch as vector environments give it: an array, or a dict of arrays.

        The result never shares memory with the argument.

        Raises:
            EnvironmentFault: if the batch does not fit the space.
        """
        if None in self._parts:
            return self._parts[None].encode(observations)
        return np.concatenate([part.encode(_item(observations, key)) for key, part in self._parts.items()], axis=1)

    def empty(self, batch: int) -> Array:
        """Return (B, *shape) of zeros."""
        return np.zeros((batch, *self.shape), self.dtype)

    def single(self, observation: Any) -> Array:
        """Return (*shape) for one observation; raises as :meth:`__call__` does."""
        if isinstance(observation, np.ndarray) and observation.dtype == np.float32 and observation.shape == self._plain:
            return observation.flatten()  # the usual case, at a fraction of the cost
        if isinstance(observation, dict):
            return self({key: np.asarray(value)[None] for key, value in observation.items()})[0]
        return self(np.asarray(observation)[None])[0]

    def is_batch(self, observation: Any) -> bool:
        """Whether ``observation`` is a batch (one axis more than the space) rather than a single observation."""
        key, part = next(iter(self._parts.items()))
        return np.ndim(observation if key is None else _item(observation, key)) > len(part.shape)


class ActionCodec:
    """Turns internal actions into native ones and back.

    Inside, a Box is [-1, 1] per dimension (a dimension whose bounds coincide keeps its one value), and Discrete,
    MultiDiscrete and MultiBinary are one-hots, concatenated. Outside, decoded actions always lie in the space.

    Args:
        space: the space of a single action.

    Attributes:
        dims: internal dimensions A.
        discrete: whether actions are one-hots.
        planning_space: the space that planners search: Box(-1, 1, (A,)), Discrete(n) or MultiDiscrete(n, ...).

    Raises:
        UnsupportedSpaceError: for infinite, empty, Dict, Tuple and other spaces.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space
        self.discrete = not isinstance(space, spaces.Box)
        if isinstance(space, spaces.Box):
            _check_finite_box(space)
            self.dims = int(np.prod(space.shape))
            self.planning_space: gym.Space[Any] = spaces.Box(-1.0, 1.0, (self.dims,), np.float32)
            self._low, self._high = space.low.reshape(-1), space.high.reshape(-1)
            self._integer = np.issubdtype(space.dtype, np.integer)
            self._low64, self._high64 = self._low.astype(np.float64), self._high.astype(np.float64)
        else:
            self._choices, self._start = _choices(space, "action")
            self.dims, self._ends = int(self._choices.sum()), np.cumsum(self._choices)[:-1]
            single = isinstance(space, spaces.Discrete)
            self.planning_space = (
                spaces.Discrete(self.dims) if single else spaces.MultiDiscrete(self._choices.astype(np.int64))
            )
        if self.dims == 0:
            raise UnsupportedSpaceError(f"The action space {space} has no dimensions; there is nothing to decide.")
        self._shape, self._dtype = tuple(space.shape or ()), space.dtype

    def decode(self, actions: Array) -> Array:
        """Return native actions (B, *shape) for internal ones (B, A); values beyond [-1, 1] are clipped."""
        if self.discrete:
            groups = np.split(actions, self._ends, axis=1) if len(self._ends) else [actions]
            chosen = np.stack([group.argmax(axis=1) for group in groups], axis=1)
            native = (chosen + self._start).astype(self._dtype)
        else:
            native = self._into_box(np.asarray(actions, dtype=np.float64))
        return native.reshape(len(actions), *self._shape)

    def encode(self, native: Any) -> Floats:
        """Return internal actions (B, A) for native ones (B, *shape)."""
        native = np.asarray(native)
        native = native.reshape(len(native), -1)
        if self.discrete:
            return _one_hot(native - self._start, self._choices)
        low, high = self._low64, self._high64
        # Halved before they are subtracted, so that the widest range of float64 does not overflow.
        half, centre = high / 2 - low / 2, high / 2 + low / 2
        inside = (native.astype(np.float64) - centre) / np.where(half > 0, half, 1.0)
        return np.where(half > 0, np.clip(inside, -1.0, 1.0), 0.0).astype(np.float32)

    def sample(self, rng: np.random.Generator, batch: int) -> Floats:
        """Return ``batch`` uniformly random internal actions (B, A)."""
        if self.discrete:
            return _one_hot(rng.integers(self._choices, size=(batch, len(self._choices))), self._choices)
        return rng.uniform(-1.0, 1.0, (batch, self.dims)).astype(np.float32)

    def _into_box(self, actions: Array) -> Array:
        low, high = self._low64, self._high64
        share = np.minimum(np.maximum(actions / 2 + 0.5, 0.0), 1.0)
        values = low * (1.0 - share) + high * share  # exact at both ends, and without overflow
        if self._integer:
            values = np.rint(values)
            with np.errstate(invalid="ignore"):  # int64 and uint64 bounds may round beyond the type; mended below
                native = values.astype(self._dtype)
        else:
            native = values.astype(self._dtype)
        return np.where(values <= low, self._low, np.where(values >= high, self._high, native))


class _BoxPart:
    """A Box, flattened."""

    dtype = np.dtype(np.float32)

    def __init__(self, space: spaces.Box) -> None:
        self.shape = space.shape
        self.coded_shape: tuple[int, ...] = (int(np.prod(space.shape)),)

    def encode(self, values: Any) -> Array:
        values = _checked(values, self.shape)
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes inf, and is caught later
            return values.reshape(len(values), *self.coded_shape).astype(np.float32)


class _ImagePart:
    """An image of uint8, with its channels last, three of them."""

    dtype = np.dtype(np.uint8)

    def __init__(self, space: spaces.Box) -> None:
        self.shape = space.shape
        self._channels_first = len(self.shape) == 3 and self.shape[-1] not in CHANNELS
        height, width = self.shape[1:] if self._channels_first else self.shape[:2]
        self.coded_shape: tuple[int, ...] = (height, width, 3)

    def encode(self, values: Any) -> Array:
        values = _checked(values, self.shape)
        if values.dtype != np.uint8:
            raise EnvironmentFault(f"the image has dtype {values.dtype}, and the space says uint8.")
        if values.ndim == 3:
            values = values[..., None]
        if self._channels_first:
            values = np.moveaxis(values, 1, -1)
        return np.broadcast_to(values, (len(values), *self.coded_shape)).copy()


class _OneHotPart:
    """Discrete, MultiDiscrete or MultiBinary, as one-hots."""

    dtype = np.dtype(np.float32)

    def __init__(self, space: gym.Space[Any]) -> None:
        self.shape = tuple(space.shape or ())
        self._choices, self._start = _choices(space, "observation")
        self.coded_shape: tuple[int, ...] = (int(self._choices.sum()),)

    def encode(self, values: Any) -> Array:
        values = _checked(values, self.shape)
        index = values.reshape(len(values), -1).astype(np.int64) - self._start
        if (index < 0).any() or (index >= self._choices).any():
            raise EnvironmentFault(
                f"the observation {values.tolist()} is outside its space: from {self._start.tolist()}, "
                f"{self._choices.tolist()} values each."
            )
        return _one_hot(index, self._choices)


def _observation_part(space: gym.Space[Any], key: str | None) -> _BoxPart | _ImagePart | _OneHotPart:
    what = "The observation space" if key is None else f"The observation {key!r}"
    if isinstance(space, spaces.Box):
        if len(space.shape) < 2 or (len(space.shape) == 2 and space.dtype != np.uint8):
            return _BoxPart(space)
        if key is not None:
            raise UnsupportedSpaceError(
                f"{what} holds images, of shape {space.shape}, beside other observations. Images are understood alone: "
                "choose the one or the others with gymnasium.wrappers.FilterObservation."
            )
        if len(space.shape) > 3 or space.dtype != np.uint8 or (len(space.shape) == 3 and not _is_image(space.shape)):
            raise UnsupportedSpaceError(
                f"{what} has shape {space.shape} and dtype {space.dtype}. Images are understood as uint8 with two "
                "axes, or with three, the last or the first of 1 or 3 channels: not stacked, and not scaled to floats."
            )
        return _ImagePart(space)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return _OneHotPart(space)
    advice = (
        "gymnasium.wrappers.FlattenObservation makes one vector of it."
        if isinstance(space, spaces.Dict | spaces.Tuple)
        else "Turn it into a Box with gymnasium.wrappers.TransformObservation."
    )
    raise UnsupportedSpaceError(
        f"{what} is {type(space).__name__}; Box, Discrete, MultiDiscrete, MultiBinary and one Dict of these are "
        f"understood. {advice}"
    )


def _is_image(shape: tuple[int, ...]) -> bool:
    return shape[-1] in CHANNELS or shape[0] in CHANNELS


def _choices(space: gym.Space[Any], what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many values each part of a discrete space takes, and the first value, both flat."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n], np.int64), np.array([space.start], np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.reshape(-1).astype(np.int64), np.asarray(space.start).reshape(-1).astype(np.int64)
    if isinstance(space, spaces.MultiBinary):
        parts = int(np.prod(space.shape))
        return np.full(parts, 2, np.int64), np.zeros(parts, np.int64)
    raise UnsupportedSpaceError(
        f"The {what} space is {type(space).__name__}; finite Box, Discrete, MultiDiscrete and MultiBinary are "
        "understood. Flatten it: gymnasium.wrappers.TransformAction(env, lambda action: "
        "gymnasium.spaces.unflatten(env.action_space, action), gymnasium.spaces.flatten_space(env.action_space)), "
        "where every part is a finite Box."
    )


def _check_finite_box(space: spaces.Box) -> None:
    if not (space.bounded_below.all() and space.bounded_above.all()):
        raise UnsupportedSpaceError(
            f"The action space {space} has infinite bounds, so there is no range to search. Give it finite ones: "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, gymnasium.spaces.Box(low, high))."
        )


def _one_hot(index: NDArray[np.int64], choices: NDArray[np.int64]) -> Floats:
    """Return concatenated one-hots (B, sum of choices) for indices (B, parts)."""
    encoded = np.zeros((len(index), int(choices.sum())), np.float32)
    starts = np.cumsum(choices) - choices
    np.put_along_axis(encoded, (index + starts).astype(np.int64), 1.0, axis=1)
    return encoded


def _checked(values: Any, shape: tuple[int, ...]) -> Array:
    """Return the batch as an array of numbers, or say how its shape differs from the expected one."""
    values = np.asarray(values)
    if values.shape[1:] != shape or values.ndim == 0:
        raise EnvironmentFault(f"the observation has shape {values.shape[1:]}, and the space says {shape}.")
    if values.dtype.kind not in "biuf":
        raise EnvironmentFault(f"the observation has dtype {values.dtype}, which does not hold real numbers.")
    return values


def _item(observations: Any, key: str | None) -> Any:
    try:
        return observations[key]
    except (KeyError, TypeError, IndexError) as error:
        raise EnvironmentFault(f"the observation lacks {key!r}, which its Dict space promises.") from error
