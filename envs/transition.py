"""Transition: what one step of all environments yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Transition:
    """One step of B environments.

    Attributes:
        next_observations: (B, O) float32, or images (B, height, width, 3) uint8, where the step led; at an episode's
            end its final observation.
        rewards: (B,) float32.
        terminated: (B,) bool, whether a terminal state was reached.
        truncated: (B,) bool, whether the episode was cut short, as by a time limit; never together with
            ``terminated``, which takes precedence.
        valid: (B,) bool. Where False nothing happened that may be stored: a vector environment spent the step on
            its own reset, or the step was faulty and the episode was cut.
        observations: like ``next_observations``, what to act on now.
        started: (B,) bool, whether ``observations`` begins a new episode.
        infos: one dict per environment. At an episode's end it holds "episode" with return "r" and length "l",
            "terminal_observation" (native) and "TimeLimit.truncated"; where the episode was cut, "fault" says why.
    """

    next_observations: NDArray[Any]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    observations: NDArray[Any]
    started: NDArray[np.bool_]
    infos: list[dict[str, Any]]
