"""Random steps in environments, and whether two were the same, for the tests of environments."""

from __future__ import annotations

import numpy as np

from forethought.envs import Environments, Transition


def walk(environments: Environments, steps: int, seed: int = 0) -> list[Transition]:
    """Take random steps."""
    rng = np.random.default_rng(seed)
    codec, batch = environments.action_codec, environments.num_envs
    return [environments.step(codec.sample(rng, batch)) for _ in range(steps)]


def same(one: Transition, two: Transition) -> bool:
    fields = ("next_observations", "rewards", "terminated", "truncated", "valid", "observations", "started")
    return all(np.array_equal(getattr(one, field), getattr(two, field)) for field in fields)
