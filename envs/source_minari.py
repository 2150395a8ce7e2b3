"""Minari datasets: episodes of Gymnasium environments, with their spaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError, MissingExtraError, missing_extra
from ..core.files import damage_reported, read_json
from .sources import Outcome, Source, SourceColumn

Array = NDArray[Any]
_READABLE = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)


class MinariSource(Source):
    """The episodes of one dataset.

    The columns are the parts of a Dict of observations under their own names (``inner/name`` where Dicts are nested),
    or ``observations``; then those of the infos, as ``infos/name``.

    Args:
        path: of the folder that holds ``metadata.json``.

    Raises:
        MissingExtraError: minari, or what it needs for the format of this dataset, is not installed.
        CheckpointError: the dataset is damaged, of a version that the installed minari does not read, or one for which
            minari would have to build the environment that the dataset names.
    """

    kind = "minari"

    def __init__(self, path: Path) -> None:
        try:
            from minari import MinariDataset
        except ImportError as error:
            raise missing_extra("Reading Minari datasets", "minari") from error
        self.path = path.resolve()
        metadata = read_json(path / "metadata.json")
        if not isinstance(metadata, dict) or not {"observation_space", "action_space"} <= metadata.keys():
            raise CheckpointError(f"{path} does not say its spaces: import it into Minari anew, with both of them.")
        try:
            dataset = MinariDataset(path)
        except ImportError as error:
            kept = metadata.get("data_format")
            if kept == "hdf5":
                raise missing_extra("Reading Minari datasets", "minari") from error
            raise MissingExtraError(f"{path} is kept as {kept}: pip install 'minari[arrow]'") from error
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read by Minari: {' '.join(str(error).split())}") from error
        self._storage: Any = dataset.storage
        with damage_reported(path):
            told = self._storage.get_episode_metadata(range(dataset.total_episodes))
            steps = [int(episode["total_steps"]) for episode in told]
        self.lengths = np.array(steps, np.int64) + 1
        self.action_space = dataset.action_space
        self.action_shape, self.action_dtype = self.action_space.shape or (), np.dtype(self.action_space.dtype or "O")
        self.task = None if dataset.env_spec is None else dataset.env_spec.id
        self._episode: tuple[int, dict[str, Any]] | None = None
        self._places: dict[str, tuple[str, ...]] = {}
        self.columns = {}
        for keys, space in _leaves(dataset.observation_space):
            if isinstance(space, _READABLE):
                self._add("/".join(keys) or "observations", ("observations", *keys), space.shape, space.dtype, space)
        self.default_observations = ("pixels",) if "pixels" in self.columns else tuple(self.columns)
        if len(self.lengths):
            with self.reading(0):
                self._add_infos(self._read(0)["infos"] or {})

    def rows(self, episode: int, column: str, first: int, last: int) -> Array:
        """Return a column at the observations ``first`` to ``last`` of an episode."""
        with self.reading(episode):
            values: Any = self._read(episode)
            for key in self._places[column]:
                values = values[key]
            if len(values) != self.lengths[episode]:
                raise ValueError(f"{column} has {len(values)} rows for {self.lengths[episode] - 1} steps")
            return np.asarray(values[first:last])

    def outcome(self, episode: int) -> Outcome:
        """Return what was done in an episode."""
        with self.reading(episode):
            told = self._read(episode)
            actions, rewards = np.asarray(told["actions"]), np.asarray(told["rewards"])
            return Outcome(actions, rewards, bool(told["terminations"][-1]), bool(told["truncations"][-1]))

    def close(self) -> None:
        """Nothing is open between two reads."""

    def _read(self, episode: int) -> dict[str, Any]:
        """Return an episode whole, as Minari gives it; the last one read is kept."""
        if self._episode is None or self._episode[0] != episode:
            self._episode = None
            self._episode = episode, next(iter(self._storage.get_episodes([episode])))
        return self._episode[1]

    def _add(self, name: str, keys: tuple[str, ...], shape: Any, dtype: Any, space: gym.Space[Any] | None) -> None:
        self._places[name] = keys
        self.columns[name] = SourceColumn(name, tuple(shape or ()), np.dtype(dtype), space)

    def _add_infos(self, infos: Mapping[str, Any], *keys: str) -> None:
        for key, value in infos.items():
            path = "infos", *keys, key
            if isinstance(value, Mapping):
                self._add_infos(value, *path[1:])
                continue
            values = np.asarray(value)
            if values.ndim and len(values) == self.lengths[0] and values.dtype.kind in "biuf":
                self._add("/".join(path), path, values.shape[1:], values.dtype, None)


def _leaves(space: gym.Space[Any], *keys: str) -> Iterator[tuple[tuple[str, ...], gym.Space[Any]]]:
    if not isinstance(space, gym.spaces.Dict):
        yield keys, space
        return
    for key, part in space.spaces.items():
        yield from _leaves(part, *keys, key)
