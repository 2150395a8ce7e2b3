"""Surprise monitors of runs: calibrated, kept in the run's folder, and filmed while something impossible happens."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from ..agents.surprise import SurpriseMonitor
from ..agents.surprise_files import SURPRISE_FILE
from ..agents.surprise_wrappers import SurpriseWrapper
from ..core.errors import CheckpointError, SettingsError
from ..envs import make_env, perturb
from ..envs.perturbations import NominalScale
from ..envs.perturbations import perturbation as perturbed_by
from ..world_model import JEPA
from .subject import Acting, Subject, load_subject
from .video import VideoRecorder, prepare_rendering

EPISODES = 100
"""Episodes that a monitor is calibrated on, where nothing else is asked for."""
BEFORE_S = 5
"""Seconds of a film before something impossible happens."""
SCALED_BY = 8
"""Episodes that tell nominal standard deviations for a film."""


def calibrated_monitor(
    folder: str | os.PathLike[str], episodes: int = EPISODES, false_alarms_per_1000: float = 1.0
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
    subject = load_subject(folder)
    try:
        return _monitor_of(subject, episodes, false_alarms_per_1000)
    finally:
        subject.close()


def film_surprise(
    folder: str | os.PathLike[str],
    perturbation: str,
    video: str | os.PathLike[str],
    strength: float | None = None,
    episodes: int | None = None,
    seed: int = 0,
    acting: Acting = "actor",
    policy: str | None = None,
) -> Path | None:
    """Film an episode in which something impossible happens, with the trace of a calibrated monitor under it.

    Args:
        folder: of the run.
        perturbation: its name; it begins a few seconds into the film, or halfway through an episode that is short.
        video: file; see :class:`~.video.VideoRecorder`.
        strength: of the perturbation; its standard one by default.
        episodes: that the monitor is calibrated on, see :func:`calibrated_monitor`; by default it is the one that is
            kept in the run's folder, if there is one.
        seed: of the episode.
        acting: see :func:`~.subject.load_subject`.
        policy: see :func:`~.subject.load_subject`.

    Returns:
        The file, or nothing where the task cannot be drawn, after a warning.

    Raises:
        UnknownNameError: for a perturbation that does not exist.
        SettingsError: one that the task cannot have, or as :func:`calibrated_monitor`.

    Warns:
        UserWarning: the episode ended before it happened.
    """
    subject = load_subject(folder, acting, policy)
    env = make_env(subject.task, "rgb_array", **subject.env)
    try:
        prepare_rendering(env)
        rate = float(env.metadata.get("render_fps") or 30)
        kind = perturbed_by(perturbation, env)  # a misspelt one fails before any work
        [world], [drawn] = subject.seeds("film", seed, range(1))
        [nominal] = subject.watch([world], [drawn])
        lasts = 0 if nominal is None else len(nominal.episode.actions)
        scale = None
        if kind.needs_scale:
            usual = subject.watch(*subject.seeds("scale", seed, range(SCALED_BY)))
            scale = NominalScale.of(env, [watched.episode for watched in usual if watched is not None])
        onset = min(round(BEFORE_S * rate), lasts // 2)
        perturbed = perturb(env, perturbation, strength, onset=onset, scale=scale)
        keeps = (acting, policy) == ("actor", None)
        monitor = _kept(subject) if keeps and episodes is None else None
        watched = SurpriseWrapper(perturbed, monitor or _monitor_of(subject, episodes or EPISODES, 1.0, keeps))
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
        if perturbed.event is None:
            warnings.warn(f"The episode ended before {perturbation} happened in it.", stacklevel=2)
        return recorder.close()
    finally:
        env.close()
        subject.close()


def _monitor_of(subject: Subject, episodes: int, false_alarms_per_1000: float, keeps: bool = True) -> SurpriseMonitor:
    """Return the monitor that is kept in the run's folder, or a new one, and keep that if it is of who acts usually."""
    if keeps and (kept := _kept(subject)) is not None:
        known = kept.calibration
        asked = (false_alarms_per_1000, episodes)
        if (known.false_alarms_per_1000, known.fitted_episodes + known.held_episodes) == asked:
            return kept
    monitor = SurpriseMonitor(_model(subject))
    played = subject.watch(*subject.seeds("monitor", 0, range(episodes)))
    monitor.calibrate([watched.episode for watched in played if watched is not None], false_alarms_per_1000)
    if keeps:
        monitor.save(subject.folder / SURPRISE_FILE)
    return monitor


def _kept(subject: Subject) -> SurpriseMonitor | None:
    """Return the monitor in the run's folder; ``None`` for none, a damaged one, and that of what has learned on."""
    path = subject.folder / SURPRISE_FILE
    try:
        return SurpriseMonitor.load(path, _model(subject)) if path.exists() else None
    except CheckpointError:
        return None


def _model(subject: Subject) -> JEPA:
    if subject.model is None:
        raise SettingsError(f"{subject.folder} holds an agent without a world model, so that nothing can surprise it.")
    return subject.model
