"""Who acts when data are recorded: chance, or an expert that knows the task and none of the goals it is evaluated on.

Both are :class:`~.recording.RecordingPolicy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import UnknownNameError
from ..core.registry import Registry
from ..core.seeding import numpy_generator
from .codecs import ActionCodec

Array = NDArray[Any]


class Expert(Protocol):
    """Acts through one episode; it may look at everything that the environment's info tells."""

    def __call__(self, info: Mapping[str, Any]) -> Array:
        """Return the native action for the state that ``info`` describes, as returned by ``reset`` or ``step``."""
        ...


EXPERTS: Registry[Callable[[int], Expert]] = Registry("expert", __package__)
"""By the task's name, what makes an expert for one episode from a seed: ``EXPERTS.get("two-room")(seed)``."""


class ExpertPolicy:
    """The task's expert, a new one for every episode.

    Args:
        task: its name.

    Raises:
        UnknownNameError: for a task that has none, naming those that have one.
    """

    def __init__(self, task: str) -> None:
        try:
            self._make = EXPERTS.get(task)
        except UnknownNameError as error:
            raise UnknownNameError(f"{task} has no expert; {' and '.join(EXPERTS.names())} have one.") from error

    def begin(self, env: gym.Env[Any, Any], seeds: Sequence[int]) -> None:
        """Make the experts."""
        self._experts = [self._make(seed) for seed in seeds]

    def act(self, observations: Sequence[Any], infos: Sequence[Mapping[str, Any]], running: NDArray[np.int64]) -> Array:
        """Return native actions (R, ...)."""
        return np.stack([self._experts[index](info) for index, info in zip(running, infos, strict=True)])


class RandomPolicy:
    """Uniformly random actions."""

    def begin(self, env: gym.Env[Any, Any], seeds: Sequence[int]) -> None:
        """Take up the seeds."""
        self._codec = ActionCodec(env.action_space)
        self._generators = [numpy_generator(seed, "random policy") for seed in seeds]

    def act(self, observations: Sequence[Any], infos: Sequence[Mapping[str, Any]], running: NDArray[np.int64]) -> Array:
        """Return native actions (R, ...)."""
        drawn = [self._codec.sample(self._generators[index], 1) for index in running]
        return self._codec.decode(np.concatenate(drawn))
