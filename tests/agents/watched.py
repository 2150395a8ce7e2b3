"""A world that is known exactly, the model that predicts it, and what can go wrong in it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from forethought.agents import SurpriseMonitor, SurpriseSettings
from forethought.envs.recording import RecordedEpisode
from forethought.world_model import JEPA, JEPASettings, LatentState

DIMS, ACTIONS = 4, 2
ANGLE = 0.3
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
DYNAMICS = 0.9 * np.kron(np.eye(2), TURN)
DRIVE = np.array([[0.5, 0.0], [0.0, 0.5], [0.3, -0.3], [0.0, 0.2]])
NOISE = 0.05
LENGTH = 60
QUICK: dict[str, Any] = {"errors": {"hidden": 16, "passes": 4}, "latent_window": 8, "directions": 8}


class World(gym.Env[Any, Any]):
    """A noisy linear system that turns, decays and is driven; the reward is its first coordinate."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, length: int = LENGTH, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (DIMS,), np.float32)
        self.action_space = spaces.Box(-2.0, 2.0, (ACTIONS,), np.float32)
        self.length, self.render_mode = length, render_mode
        self.gain = np.ones(ACTIONS)
        self.jump: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.standard_normal(DIMS) * 0.3, 0
        return self.place.astype(np.float32), {"own": 1}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        drive = DRIVE @ (np.asarray(action, np.float64) / 2 * self.gain)
        self.place = DYNAMICS @ self.place + drive + NOISE * self.np_random.standard_normal(DIMS)
        if self.jump is not None:
            self.place, self.jump = self.place + self.jump, None
        self.steps += 1
        return self.place.astype(np.float32), float(self.place[0]), False, self.steps == self.length, {"own": 2}

    def render(self) -> Any:
        return np.full((64, 96, 3), 200, np.uint8)


class ExactPredictor(nn.Module):
    """Predicts :class:`World` but for its noise; features are the prediction itself."""

    history, features = 1, DIMS

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.block, self.action_encoder = block, nn.Identity()
        self.dynamics = nn.Parameter(torch.tensor(DYNAMICS.T, dtype=torch.float32), requires_grad=False)
        self.drive = nn.Parameter(torch.tensor(DRIVE.T, dtype=torch.float32), requires_grad=False)

    def unroll(self, state: LatentState, actions: Tensor) -> tuple[Tensor, Tensor, LatentState]:
        latents, rollout = state.latents, []
        for blocks in actions.unbind(-2):
            for action in blocks.unflatten(-1, (self.block, ACTIONS)).unbind(-2):
                latents = latents @ self.dynamics + action @ self.drive
            rollout.append(latents)
        stacked = torch.stack(rollout, -2)
        return stacked, stacked, LatentState(latents)


class FirstCoordinate(nn.Module):
    """The reward head of :class:`World`."""

    def forward(self, features: Tensor) -> Tensor:
        return features[..., 0]


def exact_model(block: int = 1, reward: bool = True) -> JEPA:
    model = JEPA(
        DIMS,
        block * ACTIONS,
        JEPASettings(latent_dims=DIMS, block=block, heads=False),
        encoder=nn.Identity(),
        predictor=ExactPredictor(block),  # type: ignore[arg-type]
    )
    if reward:
        model.reward_head = FirstCoordinate()  # type: ignore[assignment]
    return model


def record(
    count: int, seed: int = 0, length: int = LENGTH, onset: int | None = None, fault: str = "", world: Any = None
) -> list[RecordedEpisode]:
    """Play episodes with random actions; from step ``onset`` on, or at it, the ``fault`` is there."""
    episodes = []
    for number in range(count):
        env, rng = world or World(length), np.random.default_rng((seed, number))
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        env.gain = np.ones(ACTIONS)
        observations, actions, rewards = [observation], [], []
        for step in range(length):
            if step == onset and fault == "jump":
                env.jump = np.array([0.0, 0.6, 0.0, 0.0])
            if step == onset and fault == "dead":
                env.gain = np.array([1.0, 0.0])
            action = rng.uniform(-1, 1, ACTIONS).astype(np.float32)
            observation, reward, *_ = env.step(2 * action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        episodes.append(
            RecordedEpisode(
                np.stack(observations), np.stack(actions), np.array(rewards, np.float32), False, True, states=None
            )
        )
    return episodes


def calibrated(block: int = 1, rate: float = 2.0, episodes: int = 80, **changes: Any) -> SurpriseMonitor:
    monitor = SurpriseMonitor(exact_model(block), SurpriseSettings.from_dict({**QUICK, **changes}))
    monitor.calibrate(record(episodes), rate)
    return monitor
