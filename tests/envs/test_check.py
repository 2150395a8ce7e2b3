"""The doctor finds what is wrong with an environment, and nothing where nothing is."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from forethought.core.errors import UnknownNameError
from forethought.envs import Check, check_environment

ALL = ["building", "spaces", "Gymnasium's checker", "finite values", "seeding", "exact resume", "rendering"]


def found(env: Any, **settings: Any) -> dict[str, Check]:
    return {check.name: check for check in check_environment(env, **settings)}


@pytest.mark.parametrize("name", ["CartPole-v1", "InvertedPendulum-v5"])
def test_a_sound_environment_passes_everything(name: str) -> None:
    checks = found(name, steps=100)
    assert list(checks) == ALL
    assert all(check.ok for check in checks.values() if check.name != "rendering"), checks
    assert all("WARN" not in check.detail and "\x1b" not in check.detail for check in checks.values())


def test_a_value_that_is_not_finite_is_found_with_its_step(scripted: Any) -> None:
    checks = found(partial(scripted, longest=9, first=8, faults={(8, 5): "observation"}))
    assert checks["finite values"] == Check("finite values", False, "non-finite observation at step 5.")


def test_an_environment_that_ignores_its_seed_is_found() -> None:
    class Moody(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.Discrete(2)
        mood = np.random.default_rng(0)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.mood.uniform(-1, 1, 1).astype(np.float32), {}

        def step(self, action: Any) -> Any:
            return self.mood.uniform(-1, 1, 1).astype(np.float32), 0.0, False, False, {}

    checks = found(Moody, steps=5)
    assert [name for name, check in checks.items() if not check.ok] == [
        "Gymnasium's checker",
        "seeding",
        "exact resume",
    ]


def test_an_environment_without_chance_passes_and_says_so(scripted: Any) -> None:
    checks = found(partial(scripted, longest=30, first=29), steps=20)
    assert checks["seeding"].ok
    assert "the seed changes nothing" in checks["seeding"].detail
    assert checks["exact resume"].ok


def test_what_cannot_be_built_or_coded_ends_the_examination(scripted: Any) -> None:
    def broken() -> Any:
        raise RuntimeError("no licence")

    def infinite() -> Any:
        env = scripted()
        env.action_space = gym.spaces.Box(-np.inf, np.inf, (1,))
        return env

    checks = found(broken)
    assert checks["building"] == Check("building", False, "RuntimeError: no licence")
    checks = found(infinite)
    assert list(checks) == ["building", "spaces"]
    assert "infinite bounds" in checks["spaces"].detail
    with pytest.raises(UnknownNameError, match="Did you mean 'Hopper-v5'"):
        check_environment("Hoper-v5")
