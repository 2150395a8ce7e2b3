"""An environment that fails where it is told to, for the tests of supervision."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


class Faulty(gym.Env[Any, Any]):
    """A random walk, the same for the same seed; a terminal state after 7 steps.

    ``faults`` happen at (episode seed, step), the reset being step 0. With ``jitter``, calls take a random time.
    """

    def __init__(self, faults: Mapping[tuple[int, int], str] | None = None, jitter: float = 0.0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.faults, self.jitter = dict(faults or {}), jitter

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.time, self.place = seed, 0, float(self.np_random.normal())
        self._maybe_fail()
        return np.array([self.place], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self._maybe_fail()
        self.place += float(action[0]) + float(self.np_random.normal())
        info = {"time": self.time, "odd": lambda: self.time, "torch": "torch" in sys.modules}
        return np.array([self.place], np.float32), self.place, self.time == 7, False, info

    def _maybe_fail(self) -> None:
        time.sleep(self.jitter * os.urandom(1)[0] / 255)
        fail(self.faults.get((self.seed, self.time)) or self.faults.get((-1, self.time), ""))


def fail(kind: str) -> None:
    """Raise, end this process, or hang, with the interpreter's lock held or released."""
    if kind == "raise":
        raise RuntimeError("the gearbox broke")
    if kind == "exit":
        os._exit(3)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "hang with the lock":
        ctypes.PyDLL(None).sleep(600)


def built_only_in(pid: int, otherwise: str) -> Faulty:
    """Build, except in another process."""
    if os.getpid() != pid:
        fail(otherwise)
    return Faulty()
