"""Surprise monitors of runs: calibrated, kept in the run's folder, and filmed while something impossible happens."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..agents.surprise import SurpriseMonitor
from ..agents.surprise_files import SURPRISE_FILE
from ..agents.surprise_wrappers import SurpriseWrapper
from ..core.errors import CheckpointError, SettingsError
from ..envs import make_env, perturb
from ..envs.perturbations import NominalScale
from ..envs.perturbations import perturbation as perturbed_by
from .subject import Acting, Subject, load_subject
from .video import VideoRecorder, prepare_rendering

BEFORE_S = 5
"""Seconds of a film before something impossible happens."""
SCALED_BY = 8
"""Episodes that tell nominal standard deviations for a film."""


def calibrated_monitor(
    folder: str | os.PathLike[str], episodes: int = 100, false_alarms_per_1000: float = 1.0
) -> SurpriseMonitor:
    """Return the monitor of a run, calibrated on episodes that are played now, or as it was kept when it was last.

    Whoever acted in the run acts in these episodes: an agent, without exploring, or the policies of the recordings.

    Args:
        folder: of the run.
        episodes: that are played; half of them tell what is usual, the others give the threshold.
        false_alarms_per_1000: alarms to expect where nothing is out of the ordinary, per 1,000 model steps.

    Raises:
        RunFolderError: no such run, or one that has saved nothing yet.
        SettingsError: it has no world model, or the episodes are too few.
        CheckpointError: a damaged file.
    """
    return _monitor_of(load_subject(folder), episodes, false_alarms_per_1000)


def film_surprise(
    folder: str | os.PathLike[str],
    perturbation: str,
    video: str | os.PathLike[str],
    strength: float | None = None,
    episodes: int = 100,
    seed: int = 0,
    acting: Acting = "actor",
    policy: str | None = None,
) -> Path | None:
    """Film an episode in which something impossible happens, with the trace of a calibrated monitor under it.

    Args:
        folder: of the run.
        perturbation: its name; it begins a few seconds into the film.
        video: file; see :class:`~.video.VideoRecorder`.
        strength: of the perturbation; its standard one by default.
        episodes: see :func:`calibrated_monitor`.
        seed: of the episode.
        acting: see :func:`~.subject.load_subject`.
        policy: see :func:`~.subject.load_subject`.

    Returns:
        The file, or nothing where the task cannot be drawn, after a warning.

    Raises:
        UnknownNameError: for a perturbation that does not exist.
        SettingsError: one that the task cannot have, or as :func:`calibrated_monitor`.
    """
    subject = load_subject(folder, acting, policy)
    env = make_env(subject.task, "rgb_array", **subject.env)
    prepare_rendering(env)
    rate = float(env.metadata.get("render_fps") or 30)
    [world], [drawn] = subject.seeds("film", seed, range(1))
    scale = None
    if perturbed_by(perturbation, env).needs_scale:
        nominal = subject.watch(*subject.seeds("scale", seed, range(SCALED_BY)))
        scale = NominalScale.of(env, [watched.episode for watched in nominal if watched is not None])
    perturbed = perturb(env, perturbation, strength, onset=round(BEFORE_S * rate), scale=scale)
    watched = SurpriseWrapper(perturbed, _monitor_of(subject, episodes, 1.0, (acting, policy) == ("actor", None)))
    recorder = VideoRecorder(Path(video), rate)
    actor = max(subject.policies, key=lambda owned: owned[1])[0]
    observation, info = watched.reset(seed=world)
    actor.begin(watched, [drawn])
    done = False
    while not done:
        recorder.capture(watched)
        [action] = actor.act([observation], [info], np.zeros(1, np.int64))
        observation, _, terminated, truncated, info = watched.step(action)
        done = terminated or truncated
    recorder.capture(watched)
    watched.close()
    return recorder.close()


def _monitor_of(subject: Subject, episodes: int, false_alarms_per_1000: float, keeps: bool = True) -> SurpriseMonitor:
    """Return the monitor that is kept in the run's folder, or a new one, and keep that if it is of who acts usually."""
    if subject.model is None:
        raise SettingsError(f"{subject.folder} holds an agent without a world model, so that nothing can surprise it.")
    path = subject.folder / SURPRISE_FILE
    if keeps and path.exists():
        try:
            kept = SurpriseMonitor.load(path, subject.model)
        except CheckpointError:  # damaged, or of this model before it learned on
            pass
        else:
            asked = (false_alarms_per_1000, episodes)
            if (kept.calibration.false_alarms_per_1000, _episodes(kept)) == asked:
                return kept
    played = subject.watch(*subject.seeds("monitor", 0, range(episodes)))
    monitor = SurpriseMonitor(subject.model)
    monitor.calibrate([watched.episode for watched in played if watched is not None], false_alarms_per_1000)
    if keeps:
        monitor.save(path)
    return monitor


def _episodes(monitor: SurpriseMonitor) -> int:
    return monitor.calibration.fitted_episodes + monitor.calibration.held_episodes
