"""Gymnasium wrappers that watch with a surprise monitor: what it says stands in ``info``, and under the picture.

Keys of ``info``, at every step: ``surprise``, the score; ``surprise_alarm`` and ``surprise_begins``; and
``surprise_channels``, levels by channel. Where the model takes blocks of steps, only the last step of a block is
judged: at the others the score is NaN, and nothing is alarmed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from ..core.errors import SettingsError
from ..envs.vectors import indices
from .surprise import SurpriseMonitor
from .surprise_watch import Mask, Reading, Watch

OnAlarm = Callable[[dict[str, Any], int], None]
"""Called when an alarm begins, with what ``info`` is told of it, and the number of the environment."""


class SurpriseWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Watches a single environment.

    Where it stops an episode, ``info["surprise_stop"]`` says why. Pictures, where they are arrays, have the trace of
    the surprise under them, so that any recorder of videos shows it.

    Args:
        env: what is watched; its spaces are those that the monitor's world model was made for.
        monitor: calibrated.
        on_alarm: what to do when an alarm begins: nothing, "stop" to truncate the episode, at its first step if what
            it begins with is alarming, or a function to call.
        trace: whether the trace is drawn under pictures.

    Raises:
        SettingsError: the monitor is not calibrated, or its model takes other observations or actions; or ``on_alarm``
            is something else.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        monitor: SurpriseMonitor,
        on_alarm: Literal["stop"] | OnAlarm | None = None,
        trace: bool = True,
    ) -> None:
        super().__init__(env)
        _require_on_alarm(on_alarm)
        self.monitor, self.on_alarm, self.trace = monitor, on_alarm, trace
        self._watch = Watch(monitor, env.observation_space, env.action_space, 1)
        self._first: Reading | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(**kwargs)
        everywhere = np.ones(1, bool)
        first = self._first = self._watch.start(everywhere, self._watch.observation_codec.single(observation)[None])
        if first.begins[0] and callable(self.on_alarm):
            self.on_alarm(first.info(0), 0)
        return observation, {**info, **first.info(0)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and say how surprising it was."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        reading = self._watch.step(
            np.ones(1, bool),
            np.asarray(action)[None],
            self._watch.observation_codec.single(observation)[None],
            np.array([reward], np.float32),
            np.array([terminated]),
        )
        info = {**info, **reading.info(0)}
        first, self._first = self._first, None
        if self.on_alarm == "stop":
            if cause := next((one for one in (first, reading) if one is not None and one.begins[0]), None):
                truncated, info["surprise_stop"] = True, cause.sentence(0, self.monitor.threshold)
        elif reading.begins[0] and self.on_alarm is not None:
            self.on_alarm(reading.info(0), 0)
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Return the picture of the environment, with the trace under it."""
        picture = self.env.render()
        return self._watch.drawn(picture, 0) if self.trace else picture


class VectorSurpriseWrapper(VectorWrapper):  # of older Gymnasium it takes no parameters
    """Watches the environments of a vector, in any autoreset mode; ``infos`` hold arrays, as Gymnasium has them.

    Args:
        env: the vector; its metadata tell the autoreset mode.
        monitor: calibrated.
        on_alarm: what to do when an alarm begins: nothing, or a function to call; "stop", to truncate the episode, is
            for vectors that do not reset themselves.
        trace: whether the trace is drawn under pictures.

    Raises:
        SettingsError: as for :class:`SurpriseWrapper`; and where a vector that resets itself is to be stopped, or does
            not tell when.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        monitor: SurpriseMonitor,
        on_alarm: Literal["stop"] | OnAlarm | None = None,
        trace: bool = True,
    ) -> None:
        super().__init__(env)
        _require_on_alarm(on_alarm)
        try:
            self._mode = AutoresetMode(env.metadata.get("autoreset_mode"))
        except ValueError as error:
            raise SettingsError(
                f"metadata['autoreset_mode'] is {env.metadata.get('autoreset_mode')!r}, so what a step after an "
                f"episode's end means is unknown. It must be one of {', '.join(map(str, AutoresetMode))}."
            ) from error
        if on_alarm == "stop" and self._mode is not AutoresetMode.DISABLED:
            raise SettingsError(
                "A vector that resets its environments by itself does not know that an episode was stopped. Wrap the "
                "single environments in SurpriseWrapper(env, monitor, on_alarm='stop'), or make the vector with "
                "autoreset_mode=AutoresetMode.DISABLED."
            )
        self.monitor, self.on_alarm, self.trace = monitor, on_alarm, trace
        self._watch = Watch(monitor, env.single_observation_space, env.single_action_space, env.num_envs)
        self._resetting = np.zeros(env.num_envs, bool)
        self._first: Reading | None = None  # alarming beginnings of episodes that are to be stopped at their first step

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes, everywhere or where ``options["reset_mask"]`` holds."""
        begun = np.array((options or {}).get("reset_mask", np.ones(self.num_envs, bool)), bool)
        observations, infos = self.env.reset(seed=seed, options=options)
        self._resetting[begun] = False
        reading = self._watch.start(begun, self._watch.observation_codec(observations))
        if self.on_alarm == "stop":
            kept = reading if self._first is None else self._first.with_other(begun, reading)
            self._first = kept if kept.begins.any() else None
        self._call(reading)
        return observations, {**infos, **reading.infos()}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step everywhere, and say how surprising each was."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        infos = dict(infos)
        coded = self._watch.observation_codec(observations)
        stepped, ended = ~self._resetting, np.asarray(terminated) | np.asarray(truncated)
        after = coded
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            after = coded.copy()
            for index in indices(ended):
                after[index] = self._watch.observation_codec.single(infos["final_obs"][index])
        reading = self._watch.step(
            stepped, np.asarray(actions), after, np.asarray(rewards, np.float32), np.asarray(terminated, bool)
        )
        if self.on_alarm == "stop":
            truncated = self._stopped(reading, np.asarray(truncated), infos)
        self._call(reading)
        if self._mode is AutoresetMode.NEXT_STEP:
            reading = self._begun(self._resetting, self._resetting, coded, reading)
            self._resetting = ended & stepped
        elif self._mode is AutoresetMode.SAME_STEP and ended.any():
            if isinstance(infos.get("final_info"), dict):
                infos["final_info"] = {**infos["final_info"], **reading.infos(ended)}
            reading = self._begun(ended, np.zeros_like(ended), coded, reading)
        infos.update(reading.infos())
        return observations, rewards, terminated, truncated, infos

    def render(self) -> Any:
        """Return the pictures of the environments, with the traces under them."""
        pictures = self.env.render()
        if not self.trace or not isinstance(pictures, tuple | list):
            return pictures
        return tuple(self._watch.drawn(picture, index) for index, picture in enumerate(pictures))

    def _begun(self, mask: Mask, told: Mask, observations: Any, reading: Reading) -> Reading:
        """Return ``reading`` with that of the episodes that begin where ``mask`` (B,) holds.

        It stands where ``told`` (B,) holds, and where it is alarming; elsewhere the step before is told of.
        """
        first = self._watch.start(mask, observations)
        self._call(first)
        return reading.with_other(told | first.alarm, first)

    def _call(self, reading: Reading) -> None:
        """Call whoever is to be called where alarms begin."""
        if callable(self.on_alarm):
            for index in indices(reading.begins):
                self.on_alarm(reading.info(index), index)

    def _stopped(self, reading: Reading, truncated: Mask, infos: dict[str, Any]) -> Mask:
        """Return ``truncated`` (B,) with the episodes that are to be stopped, and tell why in ``infos``."""
        if self._first is not None:
            reading, self._first = reading.with_other(self._first.begins, self._first), None
        if not reading.begins.any():
            return truncated
        sentences = np.full(self.num_envs, None, object)
        for index in indices(reading.begins):
            sentences[index] = reading.sentence(index, self.monitor.threshold)
        infos["surprise_stop"], infos["_surprise_stop"] = sentences, reading.begins.copy()
        return truncated | reading.begins


def _require_on_alarm(on_alarm: Any) -> None:
    if on_alarm is not None and on_alarm != "stop" and not callable(on_alarm):
        raise SettingsError(f"on_alarm = {on_alarm!r} must be None, 'stop' or a function.")
