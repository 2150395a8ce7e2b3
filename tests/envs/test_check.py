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


class _Careless(gym.Env[Any, Any]):
    """Sound for our agents, though not as it says that it is."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float64), 0.0, False, False, {}


def test_what_was_warned_of_is_noted_once_and_apart_from_the_finding() -> None:
    checks = found(_Careless, steps=10)
    assert all(check.ok for check in checks.values())
    assert checks["Gymnasium's checker"].detail == "passed."
    notes = [note for check in checks.values() for note in check.notes]
    assert len(set(notes)) == len(notes)
    assert any("float64" in note for note in notes)
    assert any("none has a limit" in note and "max_episode_steps" in note for note in checks["finite values"].notes)
    assert not any("symmetric and normalized" in note for note in notes)


def test_images_that_agents_cannot_see_are_found_before_training() -> None:
    class Wide(_Careless):
        observation_space = gym.spaces.Box(0, 255, (48, 64, 3), np.uint8)

    checks = found(Wide)
    assert not checks["spaces"].ok
    assert "images of 48 x 64 pixels, and agents see square ones" in checks["spaces"].detail


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

    assert found(broken) == {"building": Check("building", False, "RuntimeError: no licence")}
    checks = found(infinite)
    assert list(checks) == ["building", "spaces"]
    assert "infinite bounds" in checks["spaces"].detail
    with pytest.raises(UnknownNameError, match="Did you mean 'Hopper-v5'"):
        check_environment("Hoper-v5")
