"""Held-out episodes and the loop that plays them: one call of ``predict`` decides for every running episode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault, SettingsError
from ..envs.single import described
from ..envs.states import diverged
from .video import VideoRecorder


@dataclass
class Episode:
    """One episode in an environment of its own, and what came of it.

    Attributes:
        env: where it is played.
        seed: with which ``env`` is reset.
        acting_seed: seeds the agent's own randomness in this episode.
        limit: environment steps after which it is cut.
        recorder: watches every step, if there is one.
        rewards: of the sound steps so far.
        total, length: undiscounted return and steps so far; a faulty step counts as a step, not towards the return.
        terminated: ended in a terminal state.
        faulty: cut because an observation, a reward or an action was not finite.
        cut: ended by ``limit`` alone.
        observation: what was seen last.
    """

    env: gym.Env[Any, Any]
    seed: int
    acting_seed: int
    limit: int
    recorder: VideoRecorder | None = None
    rewards: list[float] = field(default_factory=list)
    total: float = 0.0
    length: int = 0
    terminated: bool = False
    faulty: bool = False
    cut: bool = False
    done: bool = False
    observation: Any = None

    def start(self) -> None:
        """Reset the environment.

        Raises:
            EnvironmentFault: it raises.
        """
        with self._blamed():
            self.observation, _ = self.env.reset(seed=self.seed)
        self.faulty = self.done = not _is_finite(self.observation)
        self._watch()

    def step(self, action: Any) -> None:
        """Take one step; MuJoCo would hide an action that is not finite, so it never gets there.

        Raises:
            EnvironmentFault: the environment raises.
        """
        if not _is_finite(action):
            self.faulty = self.done = True
            return
        with self._blamed():
            self.observation, reward, terminated, truncated, _ = self.env.step(action)
        self.length += 1
        self._watch()
        if not (_is_finite(reward) and _is_finite(self.observation)) or diverged(self.env):
            self.faulty = self.done = True
            return
        self.rewards.append(float(reward))
        self.total += float(reward)
        self.terminated = bool(terminated)
        self.cut = self.length >= self.limit and not (terminated or truncated)
        self.done = bool(terminated or truncated) or self.cut

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Say which environment failed, in which episode and when."""
        try:
            yield
        except Exception as error:
            name = self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__
            raise EnvironmentFault(
                f"{name}, held-out episode with seed {self.seed}, failed after {self.length} steps: {described(error)}"
            ) from error

    def _watch(self) -> None:
        if self.recorder is not None:
            self.recorder.capture(self.env)


@dataclass
class Play:
    """Plays batches of episodes with one agent, and times its decisions.

    Attributes:
        seconds: wall time spent in ``predict``.
        calls: how often it was called.
        decisions: for how many environment steps it decided.
    """

    agent: Any
    deterministic: bool
    seconds: float = 0.0
    calls: int = 0
    decisions: int = 0
    _normalizer: Any = field(init=False)

    def __post_init__(self) -> None:
        # A raw SB3 model that learned on normalised observations knows by which statistics.
        self._normalizer = getattr(self.agent, "get_vec_normalize_env", lambda: None)()

    def run(self, episodes: Sequence[Episode]) -> None:
        """Play all ``episodes`` to their ends, dropping each from the batch as it finishes."""
        check_spaces(self.agent, episodes[0].env)
        for episode in episodes:
            episode.start()
        running = [episode for episode in episodes if not episode.done]
        state = None
        if running and hasattr(self.agent, "initial_state"):
            state = self.agent.initial_state([episode.acting_seed for episode in running])
        starts = np.ones(len(running), dtype=bool)
        while not all(episode.done for episode in running):
            actions, state = self._decide(running, state, starts)
            for episode, action in zip(running, actions, strict=True):
                if not episode.done:
                    episode.step(action)
            kept = [index for index, episode in enumerate(running) if not episode.done]
            # A state of unknown make, such as a recurrent SB3 policy's, cannot be narrowed: its batch stays whole.
            if len(kept) < len(running) and (state is None or hasattr(state, "select")):
                state = None if state is None else state.select(np.array(kept, dtype=np.int64))
                running = [running[index] for index in kept]
            starts = np.zeros(len(running), dtype=bool)

    def _decide(self, episodes: list[Episode], state: Any, starts: NDArray[np.bool_]) -> tuple[Any, Any]:
        batch = stack_observations([episode.observation for episode in episodes])
        if self._normalizer is not None:
            batch = self._normalizer.normalize_obs(batch)
        began = time.perf_counter()
        actions, state = self.agent.predict(batch, state=state, episode_start=starts, deterministic=self.deterministic)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        self.decisions += len(episodes)
        return actions, state


def check_spaces(agent: Any, env: gym.Env[Any, Any]) -> None:
    """Refuse an agent that was made for other spaces; bounds may differ, and an agent that has no spaces may try."""
    for kind in ("observation", "action"):
        made_for, found = getattr(agent, f"{kind}_space", None), getattr(env, f"{kind}_space")
        boxes = isinstance(made_for, gym.spaces.Box) and isinstance(found, gym.spaces.Box)
        if made_for is not None and (made_for.shape != found.shape if boxes else made_for != found):
            raise SettingsError(
                f"The agent was made for {kind}s in {made_for}, and {env} has {found}: it cannot act there."
            )


def stack_observations(observations: Sequence[Any]) -> Any:
    """Return native observations with a leading batch axis; a dict of stacked arrays for Dict spaces."""
    if isinstance(observations[0], Mapping):
        return {key: stack_observations([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack([np.asarray(observation) for observation in observations])


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    array = np.asarray(value)
    return not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())
