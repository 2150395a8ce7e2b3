"""evaluate: held-out episodes, all played in one batch, through nothing but ``agent.predict``.

Whatever speaks Stable-Baselines3's ``predict`` can be judged: a JEPA agent, one of its planners, a baseline, a raw
SB3 model, or a class of three lines. Evaluating changes nothing: it uses environments and generators of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import SettingsError
from ..core.words import counted
from .episodes import Episode, Play
from .stage import UNLIMITED_STEPS, EnvLike, Stage, isolated_generators
from .statistics import Estimate, estimate, mean


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What E episodes brought.

    Attributes:
        returns: (E,) undiscounted return of each episode, up to the cut in a faulty one.
        lengths: (E,) environment steps.
        terminated: (E,) bool, ended in a terminal state rather than by a time limit.
        faulty: (E,) bool, cut because an observation, a reward or an action was not finite.
        seeds, acting_seeds: (E,) with which each environment was reset, and of the agent's own randomness there.
        rewards: of each episode's steps, up to the cut in a faulty one.
        decision_ms: wall time that ``predict`` took per environment step, in milliseconds.
        batch_ms: wall time per call of ``predict``, which decides for all running episodes at once, in milliseconds.
        video: the recorded first episode, if one was asked for and could be rendered.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    faulty: NDArray[np.bool_]
    seeds: NDArray[np.int64]
    acting_seeds: Sequence[int]
    rewards: Sequence[NDArray[np.float64]]
    decision_ms: float
    batch_ms: float
    video: Path | None = None

    @property
    def sound_returns(self) -> NDArray[np.float64]:
        """Returns of the episodes that were not cut as faulty."""
        return self.returns[~self.faulty]

    @property
    def return_mean(self) -> float:
        """Mean return of the sound episodes; NaN where there is none."""
        return float(self.sound_returns.mean()) if self.sound_returns.size else float("nan")

    @property
    def return_std(self) -> float:
        """Standard deviation between the sound episodes; NaN where there is none."""
        return float(self.sound_returns.std()) if self.sound_returns.size else float("nan")

    @property
    def faults(self) -> int:
        """Number of episodes that were cut as faulty."""
        return int(self.faulty.sum())

    def interval(self, seed: int = 0) -> Estimate | None:
        """Return the mean return with its 95 % bootstrap interval between episodes; ``None`` if all were faulty."""
        return estimate([self.sound_returns], mean, seed) if self.sound_returns.size else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        interval = self.interval()
        return {
            "return": interval.to_dict() if interval else None,
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
            "terminated": self.terminated.tolist(),
            "faulty": self.faulty.tolist(),
            "seeds": self.seeds.tolist(),
            "decision_ms": self.decision_ms,
            "batch_ms": self.batch_ms,
            "video": str(self.video) if self.video else None,
        }

    def __str__(self) -> str:
        faults = f", {self.faults} cut as faulty" if self.faults else ""
        return (
            f"return {self.interval() or 'unknown'} over {counted(len(self.returns), 'episode')}{faults}, "
            f"{self.lengths.mean():,.0f} steps each, {self.decision_ms:.2f} ms per decision"
        )


def evaluate(
    agent: Any,
    env: EnvLike,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool = True,
    *,
    at_once: int | None = None,
    max_steps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    render: Literal["human"] | None = None,
    video: str | Path | None = None,
) -> Evaluation:
    """Play held-out episodes and measure them.

    Episode i is reset with the seed ``derive_seed(seed, "evaluation", i)``, so every agent meets the same episodes,
    and none of them is met in training. If the agent has ``initial_state(seeds)``, its randomness too is seeded per
    episode, and the results do not depend on how many episodes run at once, up to floating-point rounding: a matrix
    product may round differently in a batch of another size, which moves continuous actions in their last digits, and
    chaotic dynamics amplify that.

    Args:
        agent: has ``predict(observations, state, episode_start, deterministic) -> (actions, state)`` over a batch of
            native observations. A state that has ``select(index)`` is narrowed as episodes finish.
        env: the name of a task, a factory, or one environment, in which the episodes are played one after another.
        episodes: number E of episodes.
        seed: names the set of held-out episodes.
        deterministic: passed on to ``predict``.
        at_once: how many episodes run at the same time; all by default. It bounds memory.
        max_steps: environment steps after which an episode is cut as truncated. Without it the environment's own
            limit holds, or 10,000 steps where it has none.
        env_kwargs: passed on to the environment; only with a name or a factory.
        render: "human" plays the episodes one after another in a window.
        video: file to which the first episode is recorded; see :class:`~.video.VideoRecorder`.

    Raises:
        SettingsError: arguments out of range.
        EnvironmentFault: an environment that fails or cannot be shown.
    """
    for name, value in (("episodes", episodes), ("at_once", at_once), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise SettingsError(f"evaluate: {name} = {value} is out of range: it must be at least 1.")
    if isinstance(env, gym.Env) or render == "human":
        at_once = 1
    stage = Stage(env, dict(env_kwargs or {}), render, max_steps)
    play = Play(agent, deterministic)
    played: list[Episode] = []
    with isolated_generators(seed):
        for first in range(0, episodes, at_once or episodes):
            indices = range(first, min(first + (at_once or episodes), episodes))
            with stage.episodes(seed, indices, video if first == 0 else None) as batch:
                play.run(batch)
            played += batch
    if max_steps is None and any(episode.cut for episode in played):
        warnings.warn(
            f"An episode was cut after {UNLIMITED_STEPS:,} steps, because the environment has no limit of its own: "
            "gymnasium.register(..., max_episode_steps=...) gives it one.",
            stacklevel=2,
        )
    return Evaluation(
        returns=np.array([episode.total for episode in played]),
        lengths=np.array([episode.length for episode in played]),
        terminated=np.array([episode.terminated for episode in played]),
        faulty=np.array([episode.faulty for episode in played]),
        seeds=np.array([episode.seed for episode in played]),
        acting_seeds=[episode.acting_seed for episode in played],
        rewards=[np.array(episode.rewards) for episode in played],
        decision_ms=1000 * play.seconds / max(1, play.decisions),
        batch_ms=1000 * play.seconds / max(1, play.calls),
        video=stage.recorded,
    )
