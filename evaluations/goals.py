"""evaluate_goals: held-out starts and goals, all at once, beside the floors of doing nothing and of chance."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault
from ..core.seeding import derive_seed, numpy_generator
from ..envs import ActionCodec
from ..envs.goals import GoalPairs
from .episodes import stack_observations
from .stage import Stage, isolated_generators
from .statistics import Estimate, estimate, mean


class GoalSeeker(Protocol):
    """Acts towards goals; :class:`~forethought.agents.goals.GoalPolicy` does."""

    def initial_state(self, seeds: Sequence[int], goals: Any) -> Any:
        """Return the state of episodes that begin, with a seed and a native observation of the goal each."""
        ...

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool) -> tuple[Any, Any]:
        """Return native actions and the next state, as SB3's ``predict`` does; the state can be narrowed."""
        ...


@dataclass(frozen=True, eq=False)
class GoalEvaluation:
    """What E episodes with a goal each brought.

    Attributes:
        success: (E,) bool, whether the goal was reached at some step.
        steps: (E,) environment steps until then, or all that there were.
        decision_ms: wall time that deciding took per environment step, in milliseconds.
        excluded: pairs that were left out beforehand, because their start was at the goal already.
        video: the film that was written, if any.
    """

    success: NDArray[np.bool_]
    steps: NDArray[np.int64]
    decision_ms: float
    excluded: int
    video: Path | None = None

    def interval(self, seed: int = 0) -> Estimate:
        """Return the share of goals reached with its 95 % bootstrap interval between episodes."""
        return estimate([self.success.astype(np.float64)], mean, seed)

    def percentage(self) -> str:
        """Return the share as text, in per cent, with its interval."""
        share = self.interval()
        bounds = "" if share.low is None or share.high is None else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
        return f"{100 * share.value:.1f}{bounds}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "success": self.interval().to_dict(),
            "reached": self.success.tolist(),
            "steps": self.steps.tolist(),
            "decision_ms": self.decision_ms,
            "excluded": self.excluded,
        }

    def __str__(self) -> str:
        return f"{self.percentage()} % of {len(self.success)} goals reached, {self.decision_ms:.1f} ms per decision"


def evaluate_goals(
    seeker: GoalSeeker,
    task: str,
    pairs: GoalPairs,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    video: str | Path | None = None,
) -> GoalEvaluation:
    """Play one episode from each start to its goal, all at the same time, and count those that get there.

    Args:
        seeker: acts.
        task: a goal task; see :mod:`forethought.envs.goals`.
        pairs: starts and goals, and the steps that there are for them.
        seed: of the seeker's chance.
        env_kwargs: arguments of the environment.
        video: file for a film of the first episode; see :class:`~.video.VideoRecorder`.

    Raises:
        EnvironmentFault: the task cannot show goals or be started in a given state, or fails.
    """
    stage = Stage(task, {"max_episode_steps": None, **(env_kwargs or {})}, None, None)
    first, recorder = (stage.make(), None) if video is None else stage.filmed(str(video))
    envs = [first, *(stage.make() for _ in range(len(pairs) - 1))]
    if not hasattr(envs[0].unwrapped, "observe"):
        raise EnvironmentFault(f"{task} is no goal task: it cannot show what is seen in a state.")
    success, steps = np.zeros(len(pairs), bool), np.full(len(pairs), pairs.step_budget)
    seconds, decisions = 0.0, 0
    with isolated_generators(seed):
        goals = stack_observations([env.unwrapped.observe(goal) for env, goal in zip(envs, pairs.goals, strict=True)])  # type: ignore[attr-defined]
        observations = [
            env.reset(seed=derive_seed(seed, "goal", index) % 2**31, options={"state": start, "goal": goal})[0]
            for index, (env, start, goal) in enumerate(zip(envs, pairs.starts, pairs.goals, strict=True))
        ]
        state = seeker.initial_state([derive_seed(seed, "seeking", index) for index in range(len(pairs))], goals)
        running, begun = np.arange(len(pairs)), np.ones(len(pairs), bool)
        if recorder is not None:
            recorder.capture(first)
        for step in range(1, pairs.step_budget + 1):
            began = time.perf_counter()
            actions, state = seeker.predict(stack_observations(observations), state, begun, True)
            seconds, decisions = seconds + time.perf_counter() - began, decisions + len(running)
            outcomes = [envs[index].step(action) for index, action in zip(running, actions, strict=True)]
            reached = np.array([bool(info["is_success"]) for *_, info in outcomes])
            if recorder is not None and running[0] == 0:
                recorder.capture(first)
            success[running[reached]], steps[running[reached]] = True, step
            kept = np.flatnonzero(~reached)
            if not len(kept):
                break
            observations, running = [outcomes[index][0] for index in kept], running[kept]
            state, begun = state.select(kept), np.zeros(len(kept), bool)
    film = None if recorder is None else recorder.close()
    for env in envs:
        env.close()
    return GoalEvaluation(success, steps, 1000 * seconds / max(1, decisions), pairs.excluded, film)


class Idle:
    """Does nothing: a floor, because some goals are reached by themselves."""

    def __init__(self, action_space: Any) -> None:
        self._codec = ActionCodec(action_space)

    def initial_state(self, seeds: Sequence[int], goals: Any) -> _Seeds:
        """Return nothing but who is there."""
        return _Seeds(np.array(seeds))

    def predict(self, observation: Any, state: _Seeds, episode_start: Any, deterministic: bool) -> tuple[Any, _Seeds]:
        """Return the middle of the action space, or its first choice."""
        return self._codec.decode(np.zeros((len(state.seeds), self._codec.dims), np.float32)), state


class Chance(Idle):
    """Acts at random: the other floor."""

    def predict(self, observation: Any, state: _Seeds, episode_start: Any, deterministic: bool) -> tuple[Any, _Seeds]:
        """Return uniformly random actions."""
        drawn = [self._codec.sample(numpy_generator(seed, "chance", state.ticks), 1) for seed in state.seeds.tolist()]
        return self._codec.decode(np.concatenate(drawn)), _Seeds(state.seeds, state.ticks + 1)


@dataclass(frozen=True)
class _Seeds:
    seeds: NDArray[np.int64]
    ticks: int = 0

    def select(self, index: NDArray[np.int64]) -> _Seeds:
        return _Seeds(self.seeds[index], self.ticks)
