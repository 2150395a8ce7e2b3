"""HalfCheetah-v5 with other rewards: what an agent that plans is asked to do without having learned it.

An agent that cannot plan is trained on them, each anew, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .tasks import make_env, register_task

DEAD = "bthigh"
"""The hind thigh's motor, the strongest of the six."""


class ForwardVelocity(gym.Wrapper[Any, Any, Any, Any]):
    """Rewards each step by a function of the forward velocity in m/s, and by nothing else."""

    def __init__(self, env: gym.Env[Any, Any], reward: Callable[[float], float]) -> None:
        super().__init__(env)
        self._of_velocity = reward

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, self._of_velocity(float(info["x_velocity"])), terminated, truncated, info


class DeadActuator(gym.ActionWrapper[Any, Any, Any]):
    """One of a MuJoCo robot's motors never does anything, whatever is asked of it."""

    def __init__(self, env: gym.Env[Any, Any], actuator: str) -> None:
        super().__init__(env)
        model: Any = env.unwrapped.model  # type: ignore[attr-defined]
        self._index = model.actuator(actuator).id

    def action(self, action: Any) -> NDArray[Any]:
        """Return the action without what the motor would have done."""
        done = np.array(action)
        done[self._index] = 0
        return done


def _hold(velocity: float) -> Callable[[float], float]:
    return lambda found: -abs(found - velocity)


@register_task("cheetah-hold-1")
def hold_1(render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """HalfCheetah-v5 that is to hold 1 m/s: minus the distance of its velocity from that; 1,000 steps."""
    return ForwardVelocity(make_env("HalfCheetah-v5", render_mode, **kwargs), _hold(1.0))


@register_task("cheetah-hold-2")
def hold_2(render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """HalfCheetah-v5 that is to hold 2 m/s: minus the distance of its velocity from that; 1,000 steps."""
    return ForwardVelocity(make_env("HalfCheetah-v5", render_mode, **kwargs), _hold(2.0))


@register_task("cheetah-stand-still")
def stand_still(render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """HalfCheetah-v5 that is to stand still: minus its speed; 1,000 steps."""
    return ForwardVelocity(make_env("HalfCheetah-v5", render_mode, **kwargs), _hold(0.0))


@register_task("cheetah-backward")
def backward(render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """HalfCheetah-v5 that is to run backward: minus its velocity; 1,000 steps."""
    return ForwardVelocity(make_env("HalfCheetah-v5", render_mode, **kwargs), lambda found: -found)


@register_task("cheetah-dead-actuator")
def dead_actuator(render_mode: str | None = None, **kwargs: Any) -> gym.Env[Any, Any]:
    """HalfCheetah-v5 whose hind thigh has a dead motor, with its usual reward; 1,000 steps."""
    return DeadActuator(make_env("HalfCheetah-v5", render_mode, **kwargs), DEAD)
