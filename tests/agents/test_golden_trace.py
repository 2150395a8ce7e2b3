"""What 200 steps of learning do is written down, and changes only where somebody means it to.

What does not depend on rounding is compared exactly, as digests: seeds, rows, random actions, the clips that are drawn,
when updates and checks are made. The environment's transitions do not depend on the actions, so that a
different last digit, as another processor or version of torch may bring, stays out of them. Noise, weights and
losses are compared to a tolerance. If a change is meant::

    python tests/agents/test_golden_trace.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from forethought import JEPAAgent
from forethought.planners.noise import draw_noise

GOLDEN = Path(__file__).with_name("golden_trace.json")
SETTINGS = {
    "model": {"latent_dims": 8, "hidden": 16, "directions": 8, "target": "copy", "target_refresh": 20},
    "behaviour": {"hidden": 16},
    "acting": {"budget": 20, "proposals": 2},
    "learning_starts": 40,
    "batch_size": 8,
    "num_envs": 2,
    "endings": 0.25,
    "updates_per_step": 0.5,
    "health_interval": 25,
}


class Clockwork(gym.Env):
    """Shows fractions of powers of two, which are exact everywhere, and heeds its seed but no action."""

    observation_space = spaces.Box(-2, 2, (2,))
    action_space = spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed=None, options=None):
        self.number, self.time = seed % 1009, 0
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        ends = self.time == 3 + self.number % 9
        return self._observe(), self.number % 8 / 8, ends and self.number % 2 == 0, ends and self.number % 2 == 1, {}

    def _observe(self):
        return np.array([(self.number + 37 * self.time) % 128 / 64 - 1, self.time / 16], np.float32)


def digest(*arrays):
    """Return a short digest of arrays of numbers, the same on every machine."""
    total = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array)
        total.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()[:16]


def trace():
    """Return what is exact, as digests by name, and what is close, as numbers by name."""
    agent = JEPAAgent(Clockwork, seed=11, **SETTINGS)
    weights = {name: float(weight.detach().abs().mean()) for name, weight in agent.model.named_parameters()}
    training = agent._require_training()
    sample, clips, losses, updates, checks = training.store.sample, [], [], [], []

    def sampled(*arguments):
        clips.append(sample(*arguments))
        return clips[-1]

    def count(local, _):
        updates.append(agent.learner.optimization.updates)
        checks.append(training.checked)
        losses.append({name: float(value) for name, value in training.metrics.items()})
        return True

    training.store.sample = sampled
    agent.learn(200, count)
    rows = training.store.arrays()
    exact = {
        "streams": digest([agent.stream(name) for name in ("weights", "behaviour", "learner", "environments")]),
        "episode seeds": digest([episode["seed"] for episode in training.environments.state_dict()["open_episodes"]]),
        "rows": digest(*(rows[name] for name in ("observations", "rewards", "terminated", "successors", "latest"))),
        "random actions": digest(rows["actions"][: SETTINGS["learning_starts"]]),
        "clips": digest(*(getattr(clip, name) for clip in clips for name in ("observations", "terminated", "valid"))),
        "updates": digest(updates),
        "health checks": digest(checks),
        "plans": digest(training.control.plan.seeds, training.control.plan.ticks),
    }
    first = next(found for found in losses if found)
    noise = draw_noise((5,), (3,), (2, 3, 2), torch.device("cpu")).flatten().tolist()
    close = {
        **{f"noise {i}": value for i, value in enumerate(noise)},
        **{f"weight {name}": value for name, value in weights.items()},
        **{f"first loss {name}": value for name, value in first.items()},
        **{f"last loss {name}": value for name, value in losses[-1].items()},
    }
    return {"exact": exact, "close": close}


def test_the_run_is_the_one_that_was_written_down():
    written, found = json.loads(GOLDEN.read_text()), trace()
    assert found["exact"] == written["exact"], __doc__
    for name, value in written["close"].items():
        tolerance = 0.02 if name.startswith("last") else 1e-3
        assert found["close"][name] == pytest.approx(value, rel=tolerance, abs=1e-5), (name, __doc__)
    assert found["close"].keys() == written["close"].keys()


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(trace(), indent=1) + "\n")
