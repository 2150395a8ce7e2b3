"""Agents by name: ``make_agent("jepa", "HalfCheetah-v5", seed=0)`` and ``make_agent("sac", ...)`` side by side.

One of your own is a class under :func:`register_agent` that is called as they are and has

- ``num_timesteps``, and ``learn(total_timesteps, callback, reset_num_timesteps=...)``, which calls the SB3 callback's
  ``on_training_start``, ``on_step`` after every step, until that returns false, and ``on_training_end``;
- ``predict(observations, state, episode_start, deterministic)``, which returns actions and the next state;
- ``save(path)`` and the class method ``load(path)``.

What it further has is made use of: a ``logger``; ``checkpoint`` and ``restore``, with which runs go on;
``planning_with``, by which planners are compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..core.errors import SettingsError
from ..core.registry import Registry

agents: Registry[Any] = Registry("agent", "forethought.agents")
"""Classes called as ``(env, seed=0, verbose=0, tensorboard_log=None, device="auto", **settings)``."""

NEEDED = ("learn", "predict", "save", "load", "num_timesteps")
"""What every agent has."""


def register_agent(name: str, summary: str = "") -> Callable[[Any], Any]:
    """Return a decorator that makes an agent class available under ``name``."""
    return agents.register(name, summary)


def available_agents() -> list[str]:
    """Return the names that :func:`make_agent` knows."""
    return agents.names()


def make_agent(name: str, env: Any, **settings: Any) -> Any:
    """Build an agent by name.

    Args:
        name: one of :func:`available_agents`.
        env: a task name, environment, factory, Gymnasium vector environment or SB3 ``VecEnv``.
        settings: ``seed``, ``verbose``, ``tensorboard_log``, ``device`` and the agent's own settings.

    Returns:
        An agent with Stable-Baselines3's surface: ``learn``, ``predict``, ``save``, ``load`` and so on.

    Raises:
        UnknownNameError: for a name that is not registered, naming the closest.
        SettingsError: for a setting that the agent does not have or that is out of range, or an agent that lacks what
            every one has.
    """
    kind = agents.get(name)
    try:
        inspect.signature(kind).bind(env, **settings)
    except TypeError as error:
        raise SettingsError(f"The agent {name!r} cannot be built so: {error}.") from error
    agent = kind(env, **settings)
    if lacks := [part for part in NEEDED if not hasattr(agent, part)]:
        raise SettingsError(
            f"The agent {name!r} lacks {', '.join(lacks)}; forethought.agents.registry says what it needs."
        )
    return agent
