"""Adapters: vectors that the user built, of Gymnasium in its three autoreset modes and of Stable-Baselines3."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from ..core.errors import EnvironmentFault, SettingsError
from .codecs import Array, ObservationCodec
from .transition import Transition
from .vectors import Mask, episode_seed, indices, to_float32


class _Adapter:
    """What both kinds share: names, spaces, and the step count that messages mention."""

    def __init__(self, env: Any, name: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.env, self.name, self.num_envs = env, name, int(env.num_envs)
        self.observation_space, self.action_space = observation_space, action_space
        self.codec = ObservationCodec(observation_space)
        self.steps = 0

    def where(self, index: int | None = None) -> str:
        """Name the vector environment, the environment in it and the step of the vector."""
        environment = "" if index is None else f", environment {index}"
        return f"{self.name}{environment}, vector step {self.steps}"

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def _call(self, call: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self.env, call)(*args, **kwargs)
        except Exception as error:
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            if isinstance(error, EOFError | ConnectionError):
                what += " (a worker process died)"
            raise EnvironmentFault(f"{self.where()}: {call} failed: {what}") from error

    def _cannot_restart(self, mask: Mask, what: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self.where(indices(mask)[0])}: the episode must be cut, because a value is not finite, and {what} "
            "cannot reset one environment alone. Give an id or a factory instead."
        )

    def _encode(self, observations: Any) -> Array:
        try:
            encoded = self.codec(observations)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{self.where()}: {error}") from error
        if len(encoded) != self.num_envs:
            raise EnvironmentFault(f"{self.where()}: {len(encoded)} observations for {self.num_envs} environments.")
        return encoded


class GymnasiumVector(_Adapter):
    """A Gymnasium vector environment, in the autoreset mode that its metadata name.

    Args:
        env: the vector environment.
        seed: of the run; its environments are seeded once, and every episode where they do not reset themselves.

    Raises:
        EnvironmentFault: if the autoreset mode is missing or unknown.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int) -> None:
        name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        super().__init__(env, name, env.single_observation_space, env.single_action_space)
        self.seed = seed
        try:
            self.mode = AutoresetMode(env.metadata.get("autoreset_mode"))
        except ValueError as error:
            modes = ", ".join(str(mode) for mode in AutoresetMode)
            raise EnvironmentFault(
                f"{name}: metadata['autoreset_mode'] is {env.metadata.get('autoreset_mode')!r}, so what a step after "
                f"an episode's end means is unknown. It must be one of {modes}."
            ) from error
        # Only these promise to take one seed per environment and, in every mode, to reset some of them.
        self._separable = isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        self._episodes = np.full(self.num_envs, -1)
        self._resetting = np.zeros(self.num_envs, bool)  # NEXT_STEP: the next step only resets these

    def reset(self) -> Array:
        """Start a fresh episode everywhere."""
        self._resetting[:] = False
        self.steps = 0
        seeds = self._next_seeds(np.ones(self.num_envs, bool))
        return self._encode(self._call("reset", seed=seeds if self._separable else seeds[0])[0])

    def restart(self, mask: Mask, observations: Array) -> None:
        """Start a fresh episode where ``mask`` holds, through ``reset_mask``."""
        if not self._separable and self.mode is not AutoresetMode.DISABLED:
            raise self._cannot_restart(mask, f"a {type(self.env.unwrapped).__name__} in mode {self.mode}")
        options = {"reset_mask": mask.copy()}
        seeds = self._next_seeds(mask) if self._separable else None
        fresh = self._encode(self._call("reset", seed=seeds, options=options)[0])
        observations[mask] = fresh[mask]
        self._resetting[mask] = False

    def _next_seeds(self, mask: Mask) -> list[int | None]:
        self._episodes[mask] += 1
        return [
            episode_seed(self.seed, index, int(self._episodes[index])) if chosen else None
            for index, chosen in enumerate(mask)
        ]

    def step(self, actions: Array, last: Mask) -> Transition:
        """Step, and bring the mode's account of ended episodes to one form."""
        native, rewards, terminated, truncated, vector_infos = self._call("step", actions)
        self.steps += 1
        infos = [unpack_info(vector_infos, index) for index in range(self.num_envs)]
        valid = ~self._resetting
        terminated, truncated = np.array(terminated, bool) & valid, np.array(truncated, bool) & valid
        ended = terminated | truncated
        observations = self._encode(native)
        after = observations.copy()
        started = ended.copy()
        if self.mode is AutoresetMode.NEXT_STEP:
            started, self._resetting = self._resetting, ended.copy()
        for index in indices(ended):
            if self.mode is AutoresetMode.SAME_STEP:
                final = self._final(infos[index], index)
                infos[index] = infos[index].get("final_info", {})
                after[index] = self.codec.single(final)
            else:
                final = _pick(native, index)
            infos[index]["terminal_observation"] = copy.deepcopy(final)
        if self.mode is AutoresetMode.DISABLED and ended.any():
            self.restart(ended, observations)
        return Transition(after, to_float32(rewards), terminated, truncated, valid, observations, started, infos)

    def _final(self, info: dict[str, Any], index: int) -> Any:
        if info.get("final_obs") is None:
            raise EnvironmentFault(
                f"{self.where(index)}: the episode ended in autoreset mode SAME_STEP without infos['final_obs']."
            )
        return info["final_obs"]


class StableBaselinesVector(_Adapter):
    """A Stable-Baselines3 ``VecEnv``; it is seeded at each :meth:`reset`, and its environments reset themselves.

    Args:
        env: the VecEnv.
        seed: of the run.

    Raises:
        SettingsError: for ``VecNormalize`` anywhere in it.
    """

    def __init__(self, env: Any, seed: int) -> None:
        from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper

        if unwrap_vec_wrapper(env, VecNormalize) is not None:
            raise SettingsError(
                "VecNormalize changes its scale while data are collected, so what was stored early and late would "
                "not agree. Pass the VecEnv without it: the world model keeps observation statistics of its own."
            )
        super().__init__(env, type(env.unwrapped).__name__, env.observation_space, env.action_space)
        self._seed, self._resets = seed, 0

    def reset(self) -> Array:
        """Start a fresh episode everywhere, not one of those before."""
        self.env.seed(episode_seed(self._seed, 0, self._resets))
        self.steps, self._resets = 0, self._resets + 1
        return self._encode(self._call("reset"))

    def restart(self, mask: Mask, observations: Array) -> None:
        """Start a fresh episode where ``mask`` holds, by resetting the single environments, beneath all wrappers."""
        if self.observation_space != self.env.unwrapped.observation_space:
            raise self._cannot_restart(mask, f"{type(self.env).__name__}, which makes observations of its own,")
        for index in indices(mask):
            [(observation, _)] = self._call("env_method", "reset", indices=[index])
            observations[index] = self.codec.single(observation)

    def step(self, actions: Array, last: Mask) -> Transition:
        """Step, and take apart what ``done`` has joined."""
        native, rewards, done, vector_infos = self._call("step", actions)
        self.steps += 1
        observations = self._encode(native)
        after, done = observations.copy(), np.array(done, bool)
        infos = [dict(info) for info in vector_infos]
        truncated = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & done
        for index in indices(done):
            after[index] = self.codec.single(infos[index]["terminal_observation"])
        return Transition(
            after,
            to_float32(rewards),
            done & ~truncated,
            truncated,
            np.ones_like(done),
            observations,
            done.copy(),
            infos,
        )


def unpack_info(infos: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the info of one environment from a Gymnasium vector's infos, where ``_key`` tells who has ``key``."""
    single: dict[str, Any] = {}
    for key, values in infos.items():
        present = infos.get(f"_{key}")
        if isinstance(present, np.ndarray) and present[index]:
            single[key] = unpack_info(values, index) if isinstance(values, dict) else values[index]
    return single


def _pick(batch: Any, index: int) -> Any:
    """Return one native observation out of a batch."""
    return {key: values[index] for key, values in batch.items()} if isinstance(batch, dict) else batch[index]
