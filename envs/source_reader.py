"""The reader: episodes of a source, as a store takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import FaultyEpisodeError, SettingsError
from .codecs import ActionCodec, ObservationCodec
from .recorded_images import RecordedImages, is_image
from .recording import RecordedEpisode
from .sources import Source, SourceColumn

Array = NDArray[Any]
_ROWS_AT_ONCE = 64
_ROUNDING = 1e-4
"""Share of their range by which actions may lie beyond their bounds, having been rounded."""
_WAYS_OUT = (
    "Give the bounds of the environment's actions (--action-bounds LOW HIGH), the task that they are of (--task NAME), "
    "or clip them (--clip-actions)."
)


class SourceReader:
    """Reads episodes of ``source``, coded for a store.

    Args:
        source: where they are.
        observations: columns that make up an observation: one of images, or vectors, which are concatenated; by
            default those that the source holds to be it.
        states: columns that make up the true state.
        size: height and width to which images are brought; see :class:`~.recorded_images.RecordedImages`.
        action_space: from which the actions come.
        clip_actions: whether actions beyond the bounds are clipped instead of refused.

    Attributes:
        observations: names of the columns that make up an observation.
        observation_shape: of one, coded: (O,), or (height, width, 3).
        state_dims: S, or 0.
        action_codec: of the actions.

    Raises:
        SettingsError: for columns that do not exist or do not go together, and actions that do not fit the space.
        UnsupportedSpaceError: for images and actions of kinds that are not understood.
        FaultyEpisodeError: the first episode, in which the range of images of floats shows, cannot be read.
    """

    def __init__(
        self,
        source: Source,
        observations: Sequence[str],
        states: Sequence[str],
        size: int | None,
        action_space: gym.Space[Any],
        clip_actions: bool = False,
    ) -> None:
        self._source, self._clip = source, clip_actions
        self.observations = tuple(observations) or source.default_observations
        if not self.observations:
            raise SettingsError(
                f"It is not clear what is observed in {source.path}: choose with --observations among "
                f"{source.list_columns()}."
            )
        self._seen = [source.column(name) for name in self.observations]
        self._states = [source.column(name) for name in states]
        self.state_dims = sum(int(np.prod(column.shape)) for column in self._states)
        self._images = self._image_codec(size)
        self._vectors = None if self._images else [_vector_codec(column) for column in self._seen]
        self.observation_shape = self._images.shape if self._images else (self._vector_dims(),)
        self.action_codec = ActionCodec(action_space)
        self._check_actions_fit()

    def close(self) -> None:
        """End the threads that bring images to size."""
        if self._images:
            self._images.close()

    def check_action_range(self) -> None:
        """Look at all actions before any episode is read, where that is quick.

        Raises:
            SettingsError: some lie beyond their bounds.
        """
        box, found = self.action_codec.space, None if self._clip else self._source.action_range()
        if found is not None and isinstance(box, gym.spaces.Box):
            low, high = float(box.low.min()), float(box.high.max())
            slack = _ROUNDING * (high - low)
            if found[0] < low - slack or found[1] > high + slack:
                raise SettingsError(
                    f"The actions of {self._source.path} reach from {found[0]:g} to {found[1]:g}, beyond their bounds "
                    f"{low:g} and {high:g}. {_WAYS_OUT}"
                )

    def read(self, episode: int) -> RecordedEpisode:
        """Return an episode, coded.

        Raises:
            FaultyEpisodeError: it cannot be read, or has values that are not finite or, of images, out of range.
            SettingsError: actions lie beyond their bounds.
        """
        outcome, steps = self._source.outcome(episode), int(self._source.lengths[episode]) - 1
        if (len(outcome.actions), outcome.rewards.size) != (steps, steps):
            raise FaultyEpisodeError(
                f"Episode {episode} of {self._source.path} has {len(outcome.actions)} actions and "
                f"{outcome.rewards.size} rewards for {steps} steps."
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is caught
            rewards = outcome.rewards.reshape(-1).astype(np.float32)
        return RecordedEpisode(
            observations=self._observed(episode),
            actions=self._actions(outcome.actions, episode),
            rewards=self._finite(rewards, "the reward", episode, "step"),
            terminated=outcome.terminated,
            truncated=outcome.truncated and not outcome.terminated,
            states=self._true_states(episode) if self._states else None,
        )

    def _image_codec(self, size: int | None) -> RecordedImages | None:
        images = [column for column in self._seen if _shows(column)]
        if images and len(self._seen) > 1:
            raise SettingsError(
                f"Images are understood alone, and {images[0].name} is one: choose with --observations among "
                f"{self._source.list_columns()}."
            )
        if images:
            [column] = images
            first = None
            if column.dtype.kind == "f":
                episode = int((self._source.lengths > 0).argmax())
                first = self._source.rows(episode, column.name, *next(self._blocks(episode)))
            return RecordedImages(column.shape, first, size)
        if size is not None:
            raise SettingsError(f"--size is for images, and {', '.join(map(str, self._seen))} are none.")
        return None

    def _vector_dims(self) -> int:
        discrete = zip(self._seen, self._vectors or (), strict=True)
        return sum(codec.shape[0] if codec else int(np.prod(column.shape)) for column, codec in discrete)

    def _check_actions_fit(self) -> None:
        space, shape = self.action_codec.space, self._source.action_shape
        if int(np.prod(space.shape or ())) != int(np.prod(shape)):
            raise SettingsError(f"The actions of {self._source.path} have shape {shape}, which {space} does not.")

    def _observed(self, episode: int) -> Array:
        images, dtype = self._images, np.float32 if self._images is None else np.uint8
        observed = np.empty((int(self._source.lengths[episode]), *self.observation_shape), dtype)
        for first, last in self._blocks(episode):
            if images is not None:
                rows = self._source.rows(episode, self._seen[0].name, first, last)
                observed[first:last] = images(rows, f"Episode {episode} of {self._source.path}")
            else:
                observed[first:last] = self._vector(episode, first, last)
        return observed if images is not None else self._finite(observed, "the observation", episode)

    def _blocks(self, episode: int) -> Iterator[tuple[int, int]]:
        length = int(self._source.lengths[episode])
        return ((first, min(first + _ROWS_AT_ONCE, length)) for first in range(0, length, _ROWS_AT_ONCE))

    def _vector(self, episode: int, first: int, last: int) -> Array:
        parts = []
        for column, codec in zip(self._seen, self._vectors or (), strict=True):
            rows = self._source.rows(episode, column.name, first, last)
            with self._source.reading(episode), np.errstate(over="ignore", invalid="ignore"):
                parts.append(codec(rows) if codec else rows.reshape(len(rows), -1).astype(np.float32))
        return np.concatenate(parts, axis=1)

    def _true_states(self, episode: int) -> Array:
        length = int(self._source.lengths[episode])
        parts = [self._source.rows(episode, column.name, 0, length) for column in self._states]
        states = np.concatenate([part.reshape(length, -1).astype(np.float64) for part in parts], axis=1)
        return self._finite(states, "the state", episode)

    def _actions(self, actions: Array, episode: int) -> Array:
        native = self._finite(actions.reshape(len(actions), -1), "the action", episode)
        space = self.action_codec.space
        if not isinstance(space, gym.spaces.Box):
            shaped = native.reshape(len(native), *(space.shape or ()))
            chosen = np.rint(shaped).astype(space.dtype)
            known = np.array([space.contains(choice) for choice in chosen])
            self._require((chosen == shaped).reshape(native.shape) & known[:, None], native, episode)
            return self.action_codec.encode(chosen)
        if not self._clip:
            low, high = (side.reshape(-1).astype(np.float64) for side in (space.low, space.high))
            slack = _ROUNDING * (high - low)
            self._require((native >= low - slack) & (native <= high + slack), native, episode)
        return self.action_codec.encode(native)

    def _require(self, allowed: NDArray[np.bool_], actions: Array, episode: int) -> None:
        """Refuse the first of the actions (T, ...) that is not allowed throughout."""
        if not allowed.all():
            row = int((~allowed).any(axis=1).argmax())
            raise SettingsError(
                f"Episode {episode} of {self._source.path}, row {row}: the action {actions[row].tolist()} is not one "
                f"of {self.action_codec.space}. {_WAYS_OUT}"
            )

    def _finite(self, values: Array, what: str, episode: int, place: str = "row") -> Array:
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            found = f"{place} {int((~finite).argmax())}"
            raise FaultyEpisodeError(f"Episode {episode} of {self._source.path}, {found}: {what} is not finite.")
        return values


def _shows(column: SourceColumn) -> bool:
    return is_image(column.shape, column.dtype)


def _vector_codec(column: SourceColumn) -> ObservationCodec | None:
    """Return what makes one-hots of a column of choices; numbers need none."""
    if column.space is None or isinstance(column.space, gym.spaces.Box):
        return None
    return ObservationCodec(column.space)
