"""The task "reacher-goals": Gymnasium's two-joint arm, which is to take up a pose that it is shown as a state."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from numpy.typing import ArrayLike, NDArray

from ..core.errors import SettingsError, did_you_mean
from ..core.seeding import derive_seed, numpy_generator
from .experts import EXPERTS
from .goals import GOALS
from .held_out import ANY_GOAL, HeldOut
from .states import state_of
from .tasks import register_task

Array = NDArray[Any]

TOLERANCE = 0.1
"""Of each joint's angle, in radians, within which a pose counts as taken up."""
EPISODE_STEPS = 100
LONGEST_HOLD = 10
"""Steps for which a babbling arm goes on with the same torques, at most."""
_JOINTS = 2
_NUMBERS = 8
_OPTIONS = ("state", "goal")
_NAME = "reacher-goals held-out"


class ReacherGoalsEnv(ReacherEnv):
    """The arm of Reacher-v5, without its target: what is to be reached is another state of the arm.

    A state, float64 (8,), is what MuJoCo needs: two joint angles and two coordinates of the marker, and the velocities
    of all four. The marker is what Reacher-v5 calls the target; here it shows where the goal's fingertip is, and
    nothing else depends on it. An observation, float64 (6,), holds the cosines, sines and velocities of the joints; an
    action in Box(-1, 1, (2,)) holds their torques, for 0.02 seconds.

    ``reset(options={"state": ..., "goal": ...})`` sets either: without a state the pose is drawn uniformly and rests,
    without a goal there is none. With a goal, a step after which both joints are within 0.1 radians of it is rewarded
    by 1 and terminates the episode; every other reward is 0. There is no time limit.

    The info of ``reset`` and ``step`` holds "state", and with a goal also "goal", "distance", the larger of the two
    angles that are missing, and "is_success".

    Args:
        **kwargs: of Gymnasium's MuJoCo environments, such as render_mode.

    Raises:
        SettingsError: for options, states and goals that are not allowed.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._goal: Array | None = None
        super().__init__(**kwargs)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3 * _JOINTS,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode; see the class for the options."""
        options = options or {}
        for key in options:
            if key not in _OPTIONS:
                raise SettingsError(f"Unknown reset option {key!r}.{did_you_mean(str(key), _OPTIONS)}")
        state, goal = (None if options.get(key) is None else _numbers(options[key], key) for key in _OPTIONS)
        super().reset(seed=seed)
        self._goal = goal
        if goal is not None:
            self._mark(goal)
        if state is not None:
            marker = self.data.qpos[_JOINTS:].copy()
            positions, velocities = np.split(state.copy(), 2)
            positions[_JOINTS:], velocities[_JOINTS:] = marker, 0.0
            self._put(positions, velocities)
        return self._get_obs(), self._told()

    def reset_model(self) -> Array:
        """Rest in a random pose, the marker at the fingertip."""
        low, high = self.model.jnt_range[1]
        positions, velocities = np.zeros(2 * _JOINTS), np.zeros(2 * _JOINTS)
        positions[:_JOINTS] = self.np_random.uniform([-np.pi, low], [np.pi, high])
        self._put(positions, velocities)
        self._mark(np.concatenate([positions, velocities]))
        return self._get_obs()

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """Apply torques (2,)."""
        self.do_simulation(np.clip(action, -1.0, 1.0), self.frame_skip)
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
        told = self._told()
        reached = bool(told.get("is_success", False))
        return self._get_obs(), float(reached), reached, False, told

    def observe(self, state: ArrayLike) -> Array:
        """Return the observation (6,) at a state (8,); the episode is not disturbed."""
        angles, velocities = (half[:_JOINTS] for half in np.split(_numbers(state, "state"), 2))
        return np.concatenate([np.cos(angles), np.sin(angles), velocities])

    @staticmethod
    def distance(state: ArrayLike, goal: ArrayLike) -> Array:
        """Return (...), the larger of the two joint angles between states (..., 8) and goals (..., 8), in radians."""
        missing = (np.asarray(state) - np.asarray(goal))[..., :_JOINTS]
        return np.asarray(np.abs((missing + np.pi) % (2 * np.pi) - np.pi).max(-1))

    @staticmethod
    def is_success(state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        """Return (...), whether states (..., 8) have taken up the poses of goals (..., 8)."""
        return np.asarray(ReacherGoalsEnv.distance(state, goal) <= TOLERANCE)

    def _get_obs(self) -> Array:
        return self.observe(np.concatenate([self.data.qpos, self.data.qvel]))

    def _told(self) -> dict[str, Any]:
        state = state_of(self)
        assert state is not None
        told: dict[str, Any] = {"state": state}
        if self._goal is not None:
            distance = float(self.distance(state, self._goal))
            told |= {"goal": self._goal.copy(), "distance": distance, "is_success": distance <= TOLERANCE}
        return told

    def _put(self, positions: Array, velocities: Array) -> None:
        self.set_state(positions, velocities)  # type: ignore[no-untyped-call]

    def _mark(self, goal: Array) -> None:
        """Put the marker where the fingertip is at ``goal``, and the arm back to where it was."""
        positions, velocities = self.data.qpos.copy(), self.data.qvel.copy()
        self._put(goal[: 2 * _JOINTS], np.zeros(2 * _JOINTS))
        positions[_JOINTS:] = self.get_body_com("fingertip")[:2]  # type: ignore[no-untyped-call]
        self._put(positions, velocities)


def _numbers(value: ArrayLike, what: str) -> Array:
    """Return a state (8,) of its own memory, or say why it is none."""
    try:
        state = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"The {what} {value!r} is not a state of the arm.") from error
    if state.shape != (_NUMBERS,) or not np.isfinite(state).all():
        raise SettingsError(
            f"The {what} {value!r} is not a state of the arm: it must be eight finite numbers, two joint angles and "
            "the marker's place, and their velocities."
        )
    return state


@register_task("reacher-goals", "Bring a two-joint arm to a given pose; 2 torques, 100 steps.")
def reacher_goals(
    render_mode: str | None = None, max_episode_steps: int | None = EPISODE_STEPS, **kwargs: Any
) -> gym.Env[Any, Any]:
    """Make :class:`ReacherGoalsEnv` with a time limit, or ``None``; the other arguments are its own."""
    spec = gym.envs.registration.EnvSpec(
        "reacher-goals", f"{__name__}:ReacherGoalsEnv", max_episode_steps=max_episode_steps, kwargs=kwargs
    )
    return gym.make(spec, render_mode=render_mode, disable_env_checker=True)


class Babbler:
    """Tries out torques: each uniformly random pair is held for one to ten steps. It knows nothing of goals.

    Args:
        rng: all its chance, drawn from as it goes.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._left = rng, 0

    def __call__(self, info: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return torques (2,), whatever the state; see :class:`.experts.Expert`."""
        if self._left == 0:
            self._torques = self._rng.uniform(-1.0, 1.0, 2).astype(np.float32)
            self._left = int(self._rng.integers(1, LONGEST_HOLD + 1))
        self._left -= 1
        return self._torques.copy()


@EXPERTS.register("reacher-goals")
def babbler(seed: int) -> Babbler:
    """Make a babbler for one episode."""
    return Babbler(numpy_generator(seed, "reacher babbler"))


def _walk(index: int) -> Array:
    """Return the states of one babbling arm (101, 8)."""
    env = ReacherGoalsEnv()
    babbling = babbler(derive_seed(_NAME, "babbler", index))
    _, info = env.reset(seed=derive_seed(_NAME, "start", index) % 2**31)
    states = [info["state"]]
    for _ in range(EPISODE_STEPS):
        *_, info = env.step(babbling(info))
        states.append(info["state"])
    return np.array(states)


def _at_rest(state: Array) -> Array:
    """Return the pose of a state (8,), without its velocities."""
    return np.concatenate([state[: 2 * _JOINTS], np.zeros(2 * _JOINTS)])


HELD_OUT = HeldOut(
    _NAME,
    {25: 50, 50: 100, ANY_GOAL: 200},
    _walk,
    ReacherGoalsEnv.is_success,
    resources.files(__package__) / "reacher_goals_held_out.json",
    _at_rest,
)
"""Goals are poses at rest. For each offset there are twice as many steps; for poses of other episodes, 200."""
GOALS.register("reacher-goals")(HELD_OUT.task)
