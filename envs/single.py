"""One environment, wherever it runs: what a vector asks of it, and how it answers from this process."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from ..core.errors import EnvironmentFault, ForethoughtError
from .codecs import Array, ObservationCodec
from .states import diverged

CUT_NOTE = (
    " Its episode had been truncated before its own end, because it had grown too long; where the environment does not "
    'allow that, let episodes be whole (episode_share=None, on the command line "none").'
)


class Outcome(NamedTuple):
    """Where a reset or a step led; after a reset, everything but the observation is nothing.

    Attributes:
        observation: (O,) coded, or an image (height, width, 3).
        reward: of the step.
        terminated, truncated: whether it ended the episode.
        info: of the step; at an episode's end with "terminal_observation", native.
    """

    observation: Array
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class Single(Protocol):
    """An environment that is asked first and answers later, so that several can work at the same time."""

    name: str
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def ask_reset(self, seed: int) -> None:
        """Begin a reset."""
        ...

    def ask_step(self, action: Any, next_seed: int, last: bool = False) -> None:
        """Begin a step with a native action.

        Args:
            action: native.
            next_seed: with which the next episode will be reset, if this step ends the present one.
            last: whether the episode is truncated after this step, if it has not ended by itself.
        """
        ...

    def answer(self) -> Outcome:
        """Finish what was asked.

        Raises:
            EnvironmentFault: it failed; what the environment raised is the cause.
        """
        ...

    def rebuild(self) -> None:
        """Replace a failed environment by a new one.

        Raises:
            EnvironmentFault: it cannot be built.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...


class LocalEnvironment:
    """An environment in this process; what it is asked to do, it does when the answer is wanted.

    Args:
        factory: builds it.

    Raises:
        EnvironmentFault: it cannot be built.
        UnsupportedSpaceError: its observations cannot be coded.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory
        self.env = _build(factory)
        self.name = self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        self._codec = ObservationCodec(self.observation_space)
        self._asked: tuple[str, Callable[[Any], Outcome], Any]
        self._was_cut = False

    def ask_reset(self, seed: int) -> None:
        """Remember the seed."""
        self._asked = "reset", self._reset, seed

    def ask_step(self, action: Any, next_seed: int, last: bool = False) -> None:
        """Remember the action."""
        self._asked = "step", self._step, (action, last)

    def answer(self) -> Outcome:
        """Do what was asked."""
        call, do, argument = self._asked
        try:
            return do(argument)
        except Exception as error:
            note = CUT_NOTE if call == "reset" and self._was_cut else ""
            raise EnvironmentFault(f"{call} failed: {described(error)}{note}") from error

    def rebuild(self) -> None:
        """Close the environment, as far as it still can, and build another."""
        with suppress(Exception):
            self.env.close()
        self.env = _build(self._factory)
        self._was_cut = False

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _reset(self, seed: int) -> Outcome:
        observation, _ = self.env.reset(seed=int(seed))
        return Outcome(self._codec.single(observation), 0.0, False, False, {})

    def _step(self, asked: tuple[Any, bool]) -> Outcome:
        action, last = asked
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._was_cut = bool(last and not (terminated or truncated))
        truncated = truncated or self._was_cut
        coded, number = self._codec.single(observation), _scalar(reward)
        if diverged(self.env):  # what it shows by now is of another episode
            number = np.nan
        # The info belongs to the environment, which may change it later.
        info = dict(info) if isinstance(info, dict) else {}
        if terminated or truncated:
            info["terminal_observation"] = copy.deepcopy(observation)
        return Outcome(coded, number, bool(terminated), bool(truncated), info)


def _build(factory: Callable[[], Any]) -> gym.Env[Any, Any]:
    try:
        env = factory()
    except ForethoughtError:
        raise
    except Exception as error:
        raise EnvironmentFault(f"The environment's factory failed: {described(error)}") from error
    if not isinstance(env, gym.Env):
        raise EnvironmentFault(f"The environment's factory returned {type(env).__name__}, not a gymnasium.Env.")
    return env


def described(error: Exception) -> str:
    """Return what an environment raised and where, as the end of a sentence."""
    if isinstance(error, ForethoughtError):
        return str(error)
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{what} ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name})."


def _scalar(reward: Any) -> float:
    if isinstance(reward, float):  # NumPy's float64 included
        return float(reward)
    values = np.asarray(reward, dtype=np.float64)
    if values.size != 1:
        raise EnvironmentFault(f"the reward has shape {values.shape}, and must be one number.")
    return float(values.item())
