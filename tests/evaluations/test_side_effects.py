"""What happens beside learning, in user code or in ours, changes nothing of what is learned."""

from __future__ import annotations

import os
import random
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch

from forethought.core.files import load_archive
from forethought.core.runs import Run
from forethought.evaluations import TrainSettings, resume, train

TASK = "Countdown-v0"
SMALL = {
    "model": {"latent_dims": 8, "hidden": 16, "directions": 8},
    "behaviour": {"hidden": 16},
    "planning": {"budget": 20, "proposals": 2},
    "acting": {"budget": 20, "proposals": 2},
    "learning_starts": 20,
    "batch_size": 8,
    "updates_per_step": 0.5,
    "health_interval": 25,
}
SETTINGS = TrainSettings(TASK, steps=80, evaluations=1, episodes=1, agent_settings=SMALL)


@pytest.fixture(autouse=True)
def countdown_task(countdown):
    gym.register(TASK, countdown, max_episode_steps=50)
    yield
    del gym.registry[TASK]


def learned(folder):
    """Return all that was learned, as bytes by name."""
    tensors = load_archive(folder / "agent.zip").tensors
    return {(group, name): tensor.numpy().tobytes() for group in tensors for name, tensor in tensors[group].items()}


@pytest.fixture
def quiet(tmp_path):
    """What is learned where next to nothing happens beside it."""
    train(SETTINGS, tmp_path / "quiet")
    return learned(tmp_path / "quiet")


def test_evaluations_film_progress_and_log_leave_learning_as_it_was(tmp_path, quiet):
    reported = []
    busy = SETTINGS.replace(evaluations=8, episodes=3, evaluation_seed=5, video=True)
    train(busy, tmp_path / "busy", reported.append)
    assert learned(tmp_path / "busy") == quiet
    assert reported
    assert list((tmp_path / "busy" / "videos").iterdir())


def test_user_code_on_the_global_generators_at_every_step_leaves_learning_as_it_was(tmp_path, quiet, countdown):
    class Meddler(countdown):
        """Draws from and seeds the global generators whenever it can."""

        def _meddle(self):
            for module in (random, np.random, torch):
                getattr(module, "manual_seed", getattr(module, "seed", None))(7)
            random.random(), np.random.rand(3), torch.rand(3)  # noqa: NPY002

        def reset(self, **rest):
            self._meddle()
            return super().reset(**rest)

        def step(self, action):
            self._meddle()
            return super().step(action)

    del gym.registry[TASK]
    gym.register(TASK, Meddler, max_episode_steps=50)
    train(SETTINGS, tmp_path / "meddled", lambda progress: torch.manual_seed(3))
    assert learned(tmp_path / "meddled") == quiet


def test_resuming_in_an_environment_that_ignores_its_seed_says_that_the_run_is_not_the_same(
    tmp_path, countdown, monkeypatch
):
    class Moody(countdown):
        mood = np.random.default_rng(0)

        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=int(self.mood.integers(2**31)), options=options)
            if len(seeds) == 12:
                os.kill(os.getpid(), signal.SIGTERM)
            seeds.append(seed)
            return observation, info

    seeds = []
    del gym.registry[TASK]
    gym.register(TASK, Moody, max_episode_steps=50)
    assert train(SETTINGS, tmp_path / "run").status == "interrupted"
    with pytest.warns(UserWarning, match=r"did not come back to where it had been.*doctor Countdown-v0"):
        result = resume(tmp_path / "run")
    assert result.status == "finished"
    assert Run.open(tmp_path / "run").manifest["resume"] == "inexact"
