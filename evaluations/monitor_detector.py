"""MonitorDetector: our own SurpriseMonitor among the detectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..agents.surprise import SurpriseMonitor
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA
from .detectors import Floats

STEPS_PER_ALARM = 2
"""Asks for so high a rate of alarms that few episodes are enough: the benchmark has thresholds of its own."""


class MonitorDetector:
    """The score of a :class:`~forethought.agents.surprise.SurpriseMonitor`: the rarest of all its channels.

    Args:
        model: predicts; a step is one of its blocks.

    Raises:
        SettingsError: when it is given too few episodes, or ones of other shapes than the model takes.
    """

    name = "monitor"

    def __init__(self, model: JEPA) -> None:
        self._monitor = SurpriseMonitor(model)

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Learn what is usual."""
        self._monitor.calibrate(episodes, 1000 / STEPS_PER_ALARM)

    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return the monitor's scores."""
        return [episode.score.astype(np.float64) for episode in self._monitor.score(episodes)]
