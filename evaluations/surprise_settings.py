"""Settings of the surprise benchmark: which detectors judge which perturbations, at which strengths, on how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from ..core.errors import SettingsError, UnknownNameError, did_you_mean
from ..core.settings import Range, Settings
from ..envs.perturbations import perturbation, perturbations_for
from ..world_model import JEPA
from ..world_model.surprise import least_steps
from .detectors import Detector, MeanKernel, NearestNeighbour, SuccessiveDistance
from .ensemble_detector import EnsembleDynamics
from .latent_detector import LatentError
from .monitor_detector import MonitorDetector
from .subject import Acting, Subject


def _model(subject: Subject) -> JEPA:
    if subject.model is None:
        raise SettingsError(
            f"{subject.folder} holds an agent without a world model, so there are no latents to be surprised in: "
            "leave the detectors 'monitor' and 'latent' out, or give a run of a JEPA agent or of forethought pretrain."
        )
    return subject.model


DETECTORS: dict[str, Callable[[Subject, int], Detector]] = {
    "monitor": lambda subject, seed: MonitorDetector(_model(subject)),
    "latent": lambda subject, seed: LatentError(_model(subject)),
    "pedm": lambda subject, seed: EnsembleDynamics(subject.block, seed),
    "pedm-nearest": lambda subject, seed: EnsembleDynamics(subject.block, seed, "nearest"),
    "nearest": lambda subject, seed: NearestNeighbour(subject.block, seed),
    "mean-kernel": lambda subject, seed: MeanKernel(subject.block, seed),
    "successive": lambda subject, seed: SuccessiveDistance(subject.block),
}
"""By name; the first is ours, the second its simplest part, the others are baselines."""


@dataclass(frozen=True)
class SurpriseSettings(Settings):
    """What is asked of detectors."""

    perturbations: tuple[str, ...] = ()
    """By name; all that the task can have if none is given."""
    strengths: str = "standard"
    """standard: one for each perturbation; calibrated: those at which the nominal agent's normalised return falls to
    0.99, 0.95, 0.90, 0.75 and 0.50; or numbers, such as 1,3."""
    detectors: tuple[str, ...] = tuple(DETECTORS)
    """By name: monitor, latent, pedm, pedm-nearest, nearest, mean-kernel, successive."""
    episodes: Annotated[int, Range(ge=1, le=100_000)] = 100
    """Episodes per perturbation and strength."""
    fit_episodes: Annotated[int, Range(ge=1, le=100_000)] = 50
    """Nominal episodes that detectors are fitted to."""
    calibration_episodes: Annotated[int, Range(ge=1, le=100_000)] = 100
    """Nominal episodes on which thresholds are calibrated."""
    fresh_episodes: Annotated[int, Range(ge=1, le=100_000)] | None = None
    """Nominal episodes on which false alarms are counted; by default enough for 30 expected ones, and at least as
    many as episodes."""
    steps: Annotated[int, Range(ge=1)] | None = None
    """Environment steps after which every episode is cut, beside the task's own limit."""
    false_alarms: Annotated[float, Range(gt=0, le=100)] = 1.0
    """False alarms per 1,000 steps that thresholds are calibrated to."""
    acting: Acting = "actor"
    """How an agent acts: by its bare actor, or by its planner."""
    policy: str | None = None
    """Who acts in place of the agent, or of the store's policies: random, expert, or another run's folder."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of all episodes and of the detectors."""
    jobs: Annotated[int, Range(ge=1, le=1024)] = 1
    """Processes that play and judge."""


def check_names(subject: Subject, settings: SurpriseSettings) -> None:
    """Refuse what does not exist or does not fit, before anything is played.

    Raises:
        UnknownNameError: a detector or a perturbation that does not exist.
        SettingsError: a perturbation that the subject's task cannot have, or at a strength that is out of range; or too
            few episodes to calibrate.
    """
    for name in settings.detectors:
        if name not in DETECTORS:
            raise UnknownNameError(f"Unknown detector {name!r}.{did_you_mean(name, DETECTORS)}")
    if not settings.detectors:
        raise SettingsError("At least one detector is needed.")
    env = subject.make()
    for name in settings.perturbations or perturbations_for(env):
        kind = perturbation(name, env)
        if settings.strengths not in ("standard", "calibrated"):
            for number in given_strengths(settings.strengths):
                kind.checked(number, env)
    limits = [limit for limit in (settings.steps, env.spec.max_episode_steps if env.spec else None) if limit]
    env.close()
    needed = least_steps(settings.false_alarms)
    if limits and settings.calibration_episodes * (min(limits) // subject.block) < needed:
        raise SettingsError(
            f"{settings.calibration_episodes} episodes of at most {min(limits) // subject.block:,} model steps are too "
            f"few to calibrate {settings.false_alarms:g} false alarms per 1,000 steps: {needed:,} steps are needed at "
            "least (calibration_episodes)."
        )


def given_strengths(text: str) -> list[float]:
    """Return the numbers in ``text``, separated by commas.

    Raises:
        SettingsError: it holds something else.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(
            f"strengths = {text!r} is neither 'standard' nor 'calibrated', nor numbers separated by commas."
        ) from error
