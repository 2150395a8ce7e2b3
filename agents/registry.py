"""Agents by name: ``make_agent("jepa", "HalfCheetah-v5", seed=0)`` and ``make_agent("sac", ...)`` side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.registry import Registry

agents: Registry[Any] = Registry("agent", "forethought.agents")
"""Classes called as ``(env, seed=0, verbose=0, tensorboard_log=None, device="auto", **settings)``."""


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
        SettingsError: for a setting that the agent does not have or that is out of range.
    """
    return agents.get(name)(env, **settings)
