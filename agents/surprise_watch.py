"""Watch: a surprise monitor on native observations and actions of B environments, a block of steps at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import SettingsError
from ..envs import ActionCodec, ObservationCodec
from .surprise import SurpriseMonitor
from .surprise_trace import SHOWN_STEPS, draw_trace

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """What a monitor says of one environment step of B environments.

    Attributes:
        judged: (B,) bool, where a model step ended, so that there is something to say.
        score: (B,), NaN elsewhere.
        alarm, begins: (B,) bool, false elsewhere.
        channels: (B,) by channel, NaN elsewhere.
        novel: (B,) bool, false elsewhere; nothing for a model without an ensemble.
    """

    judged: Mask
    score: NDArray[np.float32]
    alarm: Mask
    begins: Mask
    channels: dict[str, NDArray[np.float32]]
    novel: Mask | None = None

    def info(self, index: int) -> dict[str, Any]:
        """Return what the info of environment ``index`` is told."""
        return {
            "surprise": float(self.score[index]),
            "surprise_alarm": bool(self.alarm[index]),
            "surprise_begins": bool(self.begins[index]),
            "surprise_channels": {name: float(levels[index]) for name, levels in self.channels.items()},
            **({} if self.novel is None else {"surprise_novel": bool(self.novel[index])}),
        }

    def infos(self, told: Mask | None = None) -> dict[str, Any]:
        """Return what the infos of a vector are told, each key with the mask of the environments ``told``, or all."""
        told = np.ones(len(self.score), bool) if told is None else told
        channels = {**self.channels, **{f"_{name}": told.copy() for name in self.channels}}
        values = {
            "surprise": self.score,
            "surprise_alarm": self.alarm,
            "surprise_begins": self.begins,
            "surprise_channels": channels,
            **({} if self.novel is None else {"surprise_novel": self.novel}),
        }
        return {**values, **{f"_{name}": told.copy() for name in values}}

    def with_other(self, mask: Mask, other: Reading) -> Reading:
        """Return this reading, but ``other`` in the environments where ``mask`` (B,) holds."""

        def chosen(mine: Any, theirs: Any) -> Any:
            return np.where(mask, theirs, mine)

        return Reading(
            chosen(self.judged, other.judged),
            chosen(self.score, other.score),
            chosen(self.alarm, other.alarm),
            chosen(self.begins, other.begins),
            {name: chosen(levels, other.channels[name]) for name, levels in self.channels.items()},
            None if self.novel is None else chosen(self.novel, other.novel),
        )

    def sentence(self, index: int, threshold: float) -> str:
        """Return why environment ``index`` is alarmed."""
        known = {name: levels[index] for name, levels in self.channels.items() if levels[index] == levels[index]}
        if not np.isfinite(self.score[index]):
            return "a value is not finite"
        cause = max(known, key=known.__getitem__)
        where = ", where the model has never been" if self.novel is not None and self.novel[index] else ""
        return f"surprise {self.score[index]:.2f} above {threshold:.2f}, most of all in the channel {cause!r}{where}"


class Watch:
    """Follows B environments with a monitor.

    Args:
        monitor: calibrated.
        observation_space: native, of a single environment.
        action_space: likewise.
        num_envs: B.

    Raises:
        SettingsError: the monitor is not calibrated, or its model takes other observations or actions.
        UnsupportedSpaceError: spaces that cannot be coded.
    """

    def __init__(
        self, monitor: SurpriseMonitor, observation_space: gym.Space[Any], action_space: gym.Space[Any], num_envs: int
    ) -> None:
        self.observation_codec, self.action_codec = ObservationCodec(observation_space), ActionCodec(action_space)
        self._monitor, self._block, self._device = monitor, monitor.model.settings.block, monitor.model.device
        self._require_spaces()
        self._state = monitor.begin(num_envs)
        self._taken = np.zeros(num_envs, np.int64)
        self._actions = np.zeros((num_envs, self._block, self.action_codec.dims), np.float32)
        self._rewards = np.zeros(num_envs, np.float32)
        self._trace: list[deque[tuple[float, bool]]] = [deque(maxlen=SHOWN_STEPS) for _ in range(num_envs)]

    def start(self, begun: Mask, observations: NDArray[Any]) -> Reading:
        """Begin episodes where ``begun`` (B,) holds, with coded ``observations`` (B, *O)."""
        for index in np.flatnonzero(begun):
            self._trace[index].clear()
        self._taken[begun] = 0
        return self._judge(begun, observations, np.zeros(len(begun), bool), reset=True)

    def step(
        self,
        stepped: Mask,
        actions: NDArray[Any],
        observations: NDArray[Any],
        rewards: NDArray[np.float32],
        terminated: Mask,
    ) -> Reading:
        """Follow an environment step where ``stepped`` (B,) holds.

        Args:
            stepped: (B,).
            actions: native (B, ...).
            observations: coded (B, *O), those after the step.
            rewards: (B,).
            terminated: (B,).
        """
        rows = np.flatnonzero(stepped)
        first = rows[self._taken[rows] == 0]
        self._rewards[first] = 0
        self._actions[rows, self._taken[rows]] = self.action_codec.encode(actions)[rows]
        self._rewards[rows] += rewards[rows]
        self._taken[rows] += 1
        judged = stepped & (self._taken == self._block)
        self._taken[judged] = 0
        return self._judge(judged, observations, terminated, reset=False)

    def drawn(self, picture: Any, index: int) -> Any:
        """Return ``picture`` with the trace of environment ``index`` under it, if it is an array that shows colours."""
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.dtype != np.uint8:
            return picture
        return draw_trace(picture, list(self._trace[index]), self._monitor.threshold)

    def _judge(self, judged: Mask, observations: NDArray[Any], terminated: Mask, reset: bool) -> Reading:
        rows, count = np.flatnonzero(judged), len(judged)
        everywhere = len(rows) == count  # to pick out all takes its time
        names, nowhere = self._monitor.calibration.channels, np.zeros(count, bool)
        novel = None if self._monitor.calibration.usual_disagreement is None else nowhere
        if not len(rows):
            nothing = np.full(count, np.nan, np.float32)
            return Reading(judged, nothing, nowhere, nowhere.copy(), {name: nothing.copy() for name in names}, novel)

        def given(array: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array if everywhere else array[rows]).to(self._device)

        def told(tensor: torch.Tensor, elsewhere: Any) -> NDArray[Any]:
            values = tensor.cpu().numpy()
            if everywhere:
                return values
            whole = np.full((count, *values.shape[1:]), elsewhere, values.dtype)
            whole[rows] = values
            return whole

        index = torch.from_numpy(rows).to(self._device)
        surprise, state = self._monitor.observe(
            self._state if everywhere else self._state.select(index),
            given(observations),
            given(self._actions.reshape(count, -1)),
            torch.full((len(rows),), reset, device=self._device),
            given(self._rewards),
            given(terminated),
        )
        self._state = state if everywhere else self._state.put(index, state)
        score, alarm = told(surprise.score, np.nan), told(surprise.alarm, False)
        if not reset:
            for row in rows:
                self._trace[row].append((float(score[row]), bool(alarm[row])))
        levels = told(torch.stack([surprise.channels[name] for name in names], 1), np.nan)
        channels = {name: levels[:, column] for column, name in enumerate(names)}
        if surprise.novel is not None:
            novel = told(surprise.novel, False)
        return Reading(judged, score, alarm, told(surprise.begins, False), channels, novel)

    def _require_spaces(self) -> None:
        model = self._monitor.model
        if tuple(model.observation_shape) != self.observation_codec.shape:
            raise SettingsError(
                f"The monitor's world model takes observations of the shape {tuple(model.observation_shape)}; those of "
                f"the environment, {self.observation_codec.space}, have the shape {self.observation_codec.shape}."
            )
        if model.action_dims != self._block * self.action_codec.dims:
            raise SettingsError(
                f"The monitor's world model takes blocks of {self._block} actions of "
                f"{model.action_dims / self._block:g} dimensions; those of the environment, {self.action_codec.space}, "
                f"have {self.action_codec.dims}."
            )
