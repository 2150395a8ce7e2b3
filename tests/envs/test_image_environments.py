"""Environments that are seen as images are stepped, stored and taken up as others are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from forethought.core.clip import ClipSpec
from forethought.core.errors import SettingsError
from forethought.envs import Environments, EpisodeStore, make_environments

from .walking import same, walk


class Flicker(gym.Env[Any, Any]):
    """Images that are drawn anew at every step."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (3, 8, 8), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._draw(), 0.0, False, self.steps == 5, {}

    def _draw(self) -> NDArray[np.uint8]:
        return self.np_random.integers(0, 256, (3, 8, 8), np.uint8)


@pytest.mark.parametrize("async_envs", [False, True])
def test_images_are_stepped_stored_and_taken_up_again(async_envs: bool) -> None:
    def made() -> Environments:
        return make_environments(Flicker, num_envs=2, seed=1, async_envs=async_envs)

    environments = made()
    store = EpisodeStore(environments.observation_codec.shape, 1, 2)
    store.begin(environments.reset())
    assert environments.observations.shape == (2, 8, 8, 3)
    for transition in (steps := walk(environments, 7)):
        store.append(np.zeros((2, 1)), transition)
    clip = store.sample(16, ClipSpec(2, block=2), np.random.default_rng(0))
    assert (clip.observations.dtype, clip.observations.shape) == (torch.uint8, (16, 3, 8, 8, 3))
    rows = store.arrays()["observations"]
    np.testing.assert_array_equal(rows[2:4], steps[0].observations)
    again = made()
    assert again.load_state_dict(json.loads(json.dumps(environments.state_dict())))
    np.testing.assert_array_equal(again.observations, environments.observations)
    assert same(walk(again, 1, seed=3)[0], walk(environments, 1, seed=3)[0])
    for each in (environments, again):
        each.close()


def test_a_store_of_images_lives_in_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, actions = rng.integers(0, 256, (4, 8, 8, 3), np.uint8), rng.uniform(-1, 1, (3, 2)).astype(np.float32)
    store = EpisodeStore((8, 8, 3), 2, folder=tmp_path)
    store.add_episode(images, actions, np.zeros(3), False, True)
    store.flush()
    np.testing.assert_array_equal(EpisodeStore.open(tmp_path).episode(0)["observations"], images)
    assert (tmp_path / "observations.bin").stat().st_size == 1024 * 8 * 8 * 3
    with pytest.raises(SettingsError, match=r"shapes \(4, 8, 8, 3\)"):
        store.add_episode(images[:, :4], actions, np.zeros(3), False, True)
