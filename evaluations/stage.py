"""The stage of what is measured: environments made and closed here, the camera, threads and generators put back."""

from __future__ import annotations

import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..core.errors import EnvironmentFault, SettingsError
from ..core.seeding import derive_seed
from ..envs import make_env
from .episodes import Episode
from .video import VideoRecorder, prepare_rendering

EnvLike = str | Callable[..., "gym.Env[Any, Any]"] | gym.Env[Any, Any]

UNLIMITED_STEPS = 10_000
"""Where neither the environment nor the caller limits an episode, it is cut here."""


class Stage:
    """Sets up held-out episodes.

    Args:
        env: the name of a task, a factory, or one environment that all episodes share.
        kwargs: passed on to the environment; only with a name or a factory.
        render: render mode of every environment.
        max_steps: cut of every episode; see :func:`~.evaluate.evaluate`.

    Attributes:
        recorded: the video that was written, if any.
    """

    def __init__(self, env: EnvLike, kwargs: dict[str, Any], render: str | None, max_steps: int | None) -> None:
        if not isinstance(env, str | gym.Env) and not callable(env):
            raise SettingsError(
                f"evaluate needs the name of a task, a factory or one environment, not {type(env).__name__}; "
                "it makes its own batch of environments, so a vector of them is not needed."
            )
        self._env, self._kwargs, self._render, self._max_steps = env, kwargs, render, max_steps
        self.recorded: Path | None = None

    @contextmanager
    def episodes(self, seed: int, indices: range, video: str | Path | None) -> Iterator[list[Episode]]:
        """Yield the episodes ``indices`` of the set that ``seed`` names; the first is filmed if ``video`` is given."""
        episodes: list[Episode] = []
        try:
            for index in indices:
                filmed = video is not None and index == indices[0]
                env, recorder = self.filmed(str(video)) if filmed else (self.make(self._render), None)
                # 31 bits, because some environments hand the seed to generators that take no more
                world, acting = derive_seed(seed, "evaluation", index) % 2**31, derive_seed(seed, "acting", index)
                episodes.append(Episode(env, world, acting, self._limit(env), recorder))
            yield episodes
        finally:
            if not isinstance(self._env, gym.Env):
                for episode in episodes:
                    episode.env.close()
        if episodes[0].recorder is not None:
            self.recorded = episodes[0].recorder.close()

    def make(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return an environment."""
        if isinstance(self._env, gym.Env):
            return self._env
        if isinstance(self._env, str):
            return make_env(self._env, render_mode=render_mode, **self._kwargs)
        if render_mode is not None and "render_mode" in inspect.signature(self._env).parameters:
            return self._env(render_mode=render_mode, **self._kwargs)
        return self._env(**self._kwargs)

    def filmed(self, video: str) -> tuple[gym.Env[Any, Any], VideoRecorder | None]:
        """Return an environment and what films it; where that cannot be, nothing in its place, after a warning."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*initialised with render_mode")  # told below
                env = self.make("rgb_array")
        except EnvironmentFault as error:
            warnings.warn(f"No video: {error}", stacklevel=5)
            return self.make(self._render), None
        modes = list(env.metadata.get("render_modes", []))
        if isinstance(self._env, str) and "rgb_array" not in modes:
            warnings.warn(f"No video: {self._env} draws no images; its render modes are {modes}.", stacklevel=5)
            return env, None
        if env.render_mode != "rgb_array":
            warnings.warn(
                f"No video: the environment's render mode is {env.render_mode!r}, and 'rgb_array' is needed; "
                "give a task's name, or a factory that takes render_mode.",
                stacklevel=5,
            )
            return env, None
        if env is not self._env:
            prepare_rendering(env)
        return env, VideoRecorder(video, float(env.metadata.get("render_fps") or 30))

    def _limit(self, env: gym.Env[Any, Any]) -> int:
        own = env.spec.max_episode_steps if env.spec is not None else None
        return self._max_steps or (sys.maxsize if own else UNLIMITED_STEPS)


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads, and afterwards with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def isolated_generators(seed: int) -> Iterator[None]:
    """Seed the global generators, on which SB3's models draw, and afterwards put them back as they were."""
    torch = sys.modules.get("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state() if torch else None
    cuda_states = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    start = derive_seed(seed, "global") % 2**32
    random.seed(start)
    np.random.seed(start)  # noqa: NPY002
    if torch:
        torch.random.default_generator.manual_seed(start)
        if cuda_states:
            torch.cuda.manual_seed_all(start)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if torch:
            torch.set_rng_state(torch_state)
            if cuda_states:
                torch.cuda.set_rng_state_all(cuda_states)
