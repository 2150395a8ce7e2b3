"""Trainings of the agent "stub" on the scripted environment, and what their runs were judged at."""

from __future__ import annotations

from forethought.core.runs import Run
from forethought.evaluations.settings import TrainSettings

TASK = "Countdown-v0"
"""What the scripted environment is called, by the fixture countdown_task."""


def settings(**changes):
    return TrainSettings(**({"task": TASK, "agent": "stub", "steps": 100, "episodes": 3} | changes))


def evaluations(folder):
    return [row for row in Run.open(folder).read_metrics() if "evaluation/returns" in row]
