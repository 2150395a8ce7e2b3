"""A scripted environment and agents that are simple enough to know what must come out."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

from forethought.core.checkpoints import Checkpoint
from forethought.core.runs import Run
from forethought.evaluations import jobs, training
from forethought.evaluations.collect import Collected
from forethought.evaluations.compare import compare
from forethought.evaluations.importing import ImportSettings, import_episodes
from forethought.evaluations.results import read_results
from forethought.evaluations.settings import TrainSettings
from forethought.evaluations.summary import summarise

from .scripted import WORKER
from .stubbed import TASK


class Countdown(gym.Env):
    """Ends after a number of steps that the seed decides; the reward is the first action plus a noise of the seed.

    ``fault`` is the step at which "reward" or "observation" (as told by ``where``) is not finite.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def __init__(self, render_mode=None, fault=None, where="reward", shortest=3, longest=9, dictionary=False):
        self.render_mode, self.fault, self.where = render_mode, fault, where
        self.lengths, self.dictionary = (shortest, longest), dictionary
        vector = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"a": vector, "b": vector}) if dictionary else vector
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(*self.lengths, endpoint=True))
        self.offset = float(self.np_random.normal())
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time += 1
        self.left -= 1
        reward = float(action[0]) + self.offset
        if self.fault == self.time and self.where == "reward":
            reward = float("nan")
        return self._observe(), reward, self.left == 0, False, {}

    def render(self):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, : 5 * self.time] = 255
        return frame

    def close(self):
        self.closed = True

    def _observe(self):
        broken = self.fault == self.time and self.where == "observation"
        vector = np.array([np.inf if broken else self.left, self.offset], np.float32)
        return {"a": vector, "b": -vector} if self.dictionary else vector


@dataclass
class SeededState:
    """What a planner's state is to evaluation: generators per episode that can be narrowed."""

    generators: list

    def select(self, index):
        return SeededState([self.generators[i] for i in index])


class SeededAgent:
    """Acts at random, each episode from a seed of its own."""

    def __init__(self):
        self.batches = []

    def initial_state(self, seeds):
        return SeededState([np.random.default_rng(seed) for seed in seeds])

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.batches.append((len(observation), episode_start.copy(), deterministic))
        actions = [generator.uniform(-1, 1, 2) for generator in state.generators]
        return np.array(actions, np.float32), state


class ConstantAgent:
    """Always acts the same."""

    def __init__(self, action=(0.5, 0.0)):
        self.action = np.array(action, np.float32)
        self.observations = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.observations.append(observation)
        size = len(observation["a"]) if isinstance(observation, dict) else len(observation)
        return np.tile(self.action, (size, 1)), state


@pytest.fixture
def countdown():
    return Countdown


@pytest.fixture
def seeded_agent():
    return SeededAgent()


@pytest.fixture
def constant_agent():
    return ConstantAgent


class StubLearner:
    """Learns nothing but to count: its weight is the sum of the steps it took, and it acts by it."""

    def __init__(self, env=None, resumable=True, on_step=None, formats=(), **settings):
        self.num_timesteps, self.weight, self.settings = 0, 0, settings
        self.logger = Logger(folder=None, output_formats=list(formats))
        self.on_step = on_step or (lambda agent: None)
        self.calls = []
        if resumable:
            self.checkpoint, self.restore = self._checkpoint, self._restore

    def learn(self, total_timesteps, callback=None, reset_num_timesteps=True):
        self.calls.append((total_timesteps, reset_num_timesteps))
        callback.init_callback(self)
        callback.on_training_start({}, {})
        for _ in range(total_timesteps):
            self.num_timesteps += 1
            self.weight += self.num_timesteps
            self.on_step(self)
            self.logger.record("train/loss", 1 / self.num_timesteps)
            if self.num_timesteps % 10 == 0:
                self.logger.dump(self.num_timesteps)
            if not callback.on_step():
                break
        return self

    def get_env(self):
        return None

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        assert deterministic
        return np.tile(np.float32([min(1.0, self.weight / 10_000), 0.0]), (len(observation), 1)), state

    def save(self, path):
        path.write_text(str(self.weight))

    def _checkpoint(self, saved_rows):
        return Checkpoint({"agent": {"steps": self.num_timesteps, "weight": self.weight}}, {})

    def _restore(self, checkpoint):
        self.num_timesteps, self.weight = (checkpoint.documents["agent"][name] for name in ("steps", "weight"))
        return True


def reproducible(row):
    """Return what another run of the same seed logs again: all but clock times and the process's memory."""
    return {name: value for name, value in row.items() if not re.match(r"time/|.*_ms$|memory/process", name)}


@pytest.fixture
def stub_learner():
    return StubLearner


def write_run(
    root,
    agent="jepa",
    seed=0,
    returns=(1.0, 2.0, 3.0, 4.0),
    task="Task-v0",
    status="finished",
    reason=None,
    random=0.0,
    policy=None,
    spread=1.0,
    cpu=10.0,
    memory_mb=None,
    **settings,
):
    """Write a run folder as a training would leave it; each evaluation has two episodes around its mean return."""
    asked = TrainSettings(**{"task": task, "agent": agent, "seed": seed, "steps": 400, "episodes": 2, **settings})
    folder = root / task / agent / f"seed_{seed}"
    run = Run.create(folder, asked.to_dict())
    run.log({"reference/random_returns": [random, random]}, 0)
    for index, value in enumerate(returns, 1):
        row = {"evaluation/returns": None if value is None else [value - spread, value + spread]}
        row["evaluation/returns"] = row["evaluation/returns"] or [None, None]
        if policy is not None:
            row["evaluation/policy_returns"] = [policy, policy]
        row |= {"time/cpu_seconds": cpu * index, "time/wall_seconds": cpu * index}
        if memory_mb is not None:
            row |= dict(zip(("memory/process_mb", "memory/experience_mb"), memory_mb, strict=True))
        run.log({"train/loss": 0.5}, index * 100 - 50)
        run.log(row, index * 100)
    run.set_status(status, reason)
    run.release()
    return folder


def summary_of(root, order=(), anchors=None, published=()):
    """Return what the runs in ``root`` say."""
    runs, notes = read_results([root])
    return summarise(runs, notes, order, anchors, published)


@pytest.fixture
def make_run(tmp_path):
    return partial(write_run, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """A recorded file that can be imported; needs the extra hdf5."""
    from .imported import File

    return File(tmp_path / "walks.h5")


@pytest.fixture
def bring(file: Any, tmp_path: Path) -> Callable[..., Collected]:
    """Return a function that imports the file, or another one, to the store ``out``."""

    def bring(source: Path | None = None, on_progress: Any = None, **settings: Any) -> Collected:
        return import_episodes(ImportSettings(str(source or file.path), **settings), tmp_path / "out", on_progress)

    return bring


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Replaces the training process by a script whose fate the agent's settings decide, seed by seed."""
    (tmp_path / "scripted_worker.py").write_text(textwrap.dedent(WORKER))
    monkeypatch.setattr(jobs, "WORKER", "scripted_worker")
    monkeypatch.setattr(jobs, "POLL_S", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys.modules[compare.__module__], "_built_settings", lambda run: run.agent_settings)
    return tmp_path / "root"


@pytest.fixture
def countdown_task(countdown):
    gym.register(TASK, countdown, max_episode_steps=50)
    yield
    del gym.registry[TASK]


@pytest.fixture
def stub(monkeypatch, stub_learner):
    """Makes "stub" the name of an agent; its options are returned for the test to change, its instances collected."""
    options, made = {}, []
    real = training.make_agent

    def make(name, env, **settings):
        if name != "stub":
            return real(name, env, **settings)
        made.append(stub_learner(env, **options, **settings))
        return made[-1]

    monkeypatch.setattr(training, "make_agent", make)
    stub_learner.options, stub_learner.made = options, made
    return stub_learner
