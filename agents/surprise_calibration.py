"""Calibration of a surprise monitor: what is usual, and which level is an alarm, from recorded episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError
from ..core.seeding import torch_generator
from ..core.settings import Range, Settings
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA, LatentState, unit_directions
from ..world_model.error_model import ErrorModel, ErrorModelSettings
from ..world_model.sigreg import SlidingSIGReg
from ..world_model.surprise import AlarmThreshold, Tails, Whitening, alarm_threshold, least_steps
from .surprise_channels import CHANNELS, SHARES, Tracked, Usual, compare, predict, without_each

AT_ONCE = 128
"""Episodes that are replayed side by side."""
LEAST_EPISODES = 8
"""Four tell what is usual, of which one only judges; four give the threshold."""
JUDGING_EVERY = 4
LEAST_FITTED_STEPS = 200
FITTED_STEPS_PER_DIMENSION = 2
DOUBTFUL = 0.999
"""Share of usual steps in which an ensemble disagrees less than where it has never been."""
LEAST_SCORES = 20
"""Usual scores that a channel needs to be calibrated."""


@dataclass(frozen=True)
class SurpriseSettings(Settings):
    """Settings of a :class:`~forethought.agents.surprise.SurpriseMonitor`."""

    errors: ErrorModelSettings = field(default_factory=ErrorModelSettings)
    """What is usual of errors, and how that is learned."""
    window: Annotated[int, Range(ge=2, le=1000)] = 5
    """Model steps over which residuals, and what actions did, are summed up."""
    latent_window: Annotated[int, Range(ge=2, le=1000)] = 16
    """Model steps over which the distribution of latents is tested."""
    directions: Annotated[int, Range(ge=1, le=8192)] = 32
    """Directions in which it is."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of everything random in the calibration."""


@dataclass(frozen=True)
class Calibration:
    """What a monitor was calibrated on, and what that promises. Steps are model steps.

    Attributes:
        false_alarms_per_1000: that were asked for, per 1,000 steps.
        threshold: the level above which a step is alarmed, with the alarms that the episodes it was chosen on raised,
            and what is guaranteed.
        channels: those that are known to it.
        fitted_episodes, fitted_steps: what is usual was learned on these.
        held_episodes, held_steps: the threshold was chosen on these.
        usual_disagreement: by how much the model's ensemble disagrees in the most doubtful of 1,000 usual steps;
            nothing for a model without one.
    """

    false_alarms_per_1000: float
    threshold: AlarmThreshold
    channels: tuple[str, ...]
    fitted_episodes: int
    fitted_steps: int
    held_episodes: int
    held_steps: int
    usual_disagreement: float | None = None


@dataclass(frozen=True)
class Reference:
    """What steps are compared with.

    Attributes:
        calibration: in words.
        usual: what scores are made with.
        tails: how rare scores are, by calibrated channel.
    """

    calibration: Calibration
    usual: Usual
    tails: Tails


def calibrated_columns(scores: Tensor, channels: Sequence[str]) -> Tensor:
    """Return the scores (n, K) of the calibrated channels, of those (n, C) of all."""
    names = list(CHANNELS)
    return scores if len(channels) == len(names) else scores[:, [names.index(name) for name in channels]]


def highest(levels: Tensor) -> Tensor:
    """Return the highest of ``levels`` (n, K) that are known, (n,), NaN where none is."""
    most = levels.nan_to_num(-torch.inf).amax(1)
    return most.masked_fill(most == -torch.inf, torch.nan)


def calibrate(
    model: JEPA, episodes: Sequence[RecordedEpisode], settings: SurpriseSettings, false_alarms_per_1000: float
) -> Reference:
    """Learn what is usual on every second episode, and choose the threshold on the others.

    Raises:
        SettingsError: the episodes are too few, of other spaces than the model's, or not finite.
    """
    if not 0 < false_alarms_per_1000 < 1000:
        raise SettingsError(f"false_alarms_per_1000 = {false_alarms_per_1000} does not lie between 0 and 1,000.")
    require_fitting(model, episodes)
    _require_finite(episodes)
    _require_enough(model, episodes, false_alarms_per_1000)
    fitted, held = episodes[::2], episodes[1::2]
    usual, usual_disagreement = _fit_usual(model, fitted, settings)
    scores = torch.from_numpy(np.concatenate(_scores(model, fitted, usual)))
    known = {name: column[column.isfinite()] for name, column in zip(CHANNELS, scores.unbind(1), strict=True)}
    channels = tuple(name for name, column in known.items() if len(column) >= LEAST_SCORES)
    tails = Tails.fit([known[name] for name in channels], [SHARES.get(name, 1.0) for name in channels])
    levels = [
        highest(tails(calibrated_columns(torch.from_numpy(episode), channels))).numpy()
        for episode in _scores(model, held, usual)
    ]
    threshold = alarm_threshold(levels, false_alarms_per_1000)
    steps = [sum(lengths_of(model, part)) for part in (fitted, held)]
    calibration = Calibration(
        false_alarms_per_1000,
        threshold,
        channels,
        *(len(fitted), steps[0], len(held), steps[1]),
        usual_disagreement,
    )
    return Reference(calibration, usual, tails.to(model.device))


@torch.no_grad()
def _fit_usual(
    model: JEPA, episodes: Sequence[RecordedEpisode], settings: SurpriseSettings
) -> tuple[Usual, float | None]:
    """Return what is usual of a model's predictions, and how far its ensemble disagrees in doubtful usual steps."""
    state, seed = model.initial(0), settings.seed
    numbers: list[NDArray[np.int64]] = []
    latents: list[Tensor] = []
    before: list[Tensor] = []
    actions: list[Tensor] = []
    errors: list[Tensor] = []
    disagreements: list[Tensor] = []
    for m in replay(model, episodes):
        state = model.initial(len(m.rows)) if m.step == 0 else _first(state, len(m.rows))
        step = predict(model, state, m.observations, m.actions, m.reset, m.rewards)
        state = step.state
        latents.append(state.latents)
        if m.step:
            numbers.append(m.rows)
            for parts, part in zip((before, actions, errors), (step.before, step.actions, step.errors), strict=True):
                parts.append(part)
            if step.disagreement is not None:
                disagreements.append(step.disagreement)
    judging = np.arange(len(episodes)) % JUDGING_EVERY == JUDGING_EVERY - 1
    held_out = torch.from_numpy(judging[np.concatenate(numbers)]).to(model.device)
    error_model = ErrorModel(model.latent_dims, model.action_dims, errors[0].shape[1], settings.errors).to(model.device)
    with torch.enable_grad():
        error_model.fit(torch.cat(before), torch.cat(actions), torch.cat(errors), held_out, seed)
    directions = unit_directions(
        model.latent_dims, settings.directions, torch_generator(seed, "directions"), model.device
    )
    sliding = SlidingSIGReg(directions, settings.latent_window)
    usual = Usual(error_model.eval(), Whitening.fit(torch.cat(latents)), sliding, settings.window)
    if not disagreements:
        return usual, None
    return usual, float(np.quantile(torch.cat(disagreements).cpu().numpy(), DOUBTFUL))


def _first(state: LatentState, count: int) -> LatentState:
    return state.map(lambda tensor: tensor[:count])


@torch.no_grad()
def _scores(model: JEPA, episodes: Sequence[RecordedEpisode], usual: Usual) -> list[NDArray[np.float32]]:
    """Return the scores (T, C) of each episode's steps in all channels."""
    without = without_each(model)

    def found() -> Iterator[tuple[Moment, dict[str, Tensor]]]:
        tracked = Tracked.nowhere(model, usual, 0)
        for m in replay(model, episodes):
            count = len(m.rows)
            if m.step == 0:
                tracked = Tracked.nowhere(model, usual, count)
            elif len(tracked.age) != count:
                tracked = tracked.select(torch.arange(count, device=model.device))
            step = predict(model, tracked.latent, m.observations, m.actions, m.reset, m.rewards, m.terminated, without)
            scores, tracked = compare(step, tracked, usual, m.reset)
            yield m, {"scores": scores}

    return [columns["scores"] for columns in by_episode(found(), lengths_of(model, episodes))]


# Recorded episodes, step by step.


@dataclass(frozen=True)
class Moment:
    """What was recorded side by side at the same step of R episodes.

    Attributes:
        step: 0 for the first observations, which follow no action.
        rows: (R,) numbers of the episodes; those of a later step are the first of these.
        observations: (R, *O) after the step.
        actions: (R, A), those of the whole block; zero at step 0.
        reset: (R,) bool, whether this is step 0.
        rewards: (R,), summed over the block.
        terminated: (R,) bool.
    """

    step: int
    rows: NDArray[np.int64]
    observations: Tensor
    actions: Tensor
    reset: Tensor
    rewards: Tensor
    terminated: Tensor


def lengths_of(model: JEPA, episodes: Sequence[RecordedEpisode]) -> list[int]:
    """Return the whole model steps of each episode; what is left of a block is of no use."""
    return [len(episode.actions) // model.settings.block for episode in episodes]


def replay(model: JEPA, episodes: Sequence[RecordedEpisode]) -> Iterator[Moment]:
    """Yield what was recorded, step by step, of up to 128 episodes at a time, each lot beginning with a step 0."""
    block, device = model.settings.block, model.device
    lengths = np.array(lengths_of(model, episodes))
    longest_first = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(episodes), AT_ONCE):
        lot = longest_first[begin : begin + AT_ONCE]
        for step in range(int(lengths[lot[0]]) + 1):
            rows = lot[lengths[lot] >= step]
            playing = [episodes[row] for row in rows]
            taken = slice((step - 1) * block, step * block) if step else slice(0, 0)
            nothing = np.zeros(model.action_dims, np.float32)
            actions = [episode.actions[taken].reshape(-1) if step else nothing for episode in playing]
            last = [episode.terminated and step * block == len(episode.actions) for episode in playing]
            yield Moment(
                step,
                rows,
                torch.from_numpy(np.stack([episode.observations[step * block] for episode in playing])).to(device),
                torch.from_numpy(np.stack(actions)).float().to(device),
                torch.full((len(rows),), step == 0, device=device),
                torch.tensor([float(episode.rewards[taken].sum()) for episode in playing], device=device),
                torch.tensor(last, device=device),
            )


def by_episode(
    found: Iterable[tuple[Moment, Mapping[str, Tensor]]], lengths: Sequence[int]
) -> list[dict[str, NDArray[Any]]]:
    """Return what was found (R, ...) by name at each moment as (T, ...) of each episode."""
    padded: dict[str, NDArray[Any]] = {}
    for moment, values in found:
        for name, tensor in values.items():
            array = tensor.cpu().numpy()
            if name not in padded:
                padded[name] = np.zeros((len(lengths), max(lengths), *array.shape[1:]), array.dtype)
            if moment.step:
                padded[name][moment.rows, moment.step - 1] = array
    return [{name: array[row, :length] for name, array in padded.items()} for row, length in enumerate(lengths)]


# What is refused.


def require_fitting(model: JEPA, episodes: Sequence[RecordedEpisode]) -> None:
    """Raise :class:`SettingsError` unless the episodes are of the model's observations and actions."""
    block, shape = model.settings.block, tuple(model.observation_shape)
    for number, episode in enumerate(episodes):
        where = f"Episode {number} of {len(episodes)}"
        if episode.observations.shape[1:] != shape:
            raise SettingsError(
                f"{where} has observations of the shape {episode.observations.shape[1:]}, and the world model takes "
                f"{shape}: it is of another environment, or not coded by its ObservationCodec."
            )
        if episode.actions.ndim != 2 or block * episode.actions.shape[1] != model.action_dims:
            raise SettingsError(
                f"{where} has actions of the shape {episode.actions.shape[1:]}, and the world model takes blocks of "
                f"{block} actions of {model.action_dims / block:g} dimensions: it is of another environment, or not "
                "coded by its ActionCodec."
            )
        if len(episode.observations) != len(episode.actions) + 1 or len(episode.rewards) != len(episode.actions):
            raise SettingsError(
                f"{where} has {len(episode.observations)} observations, {len(episode.actions)} actions and "
                f"{len(episode.rewards)} rewards: observations must be one more than the others."
            )


def _require_finite(episodes: Sequence[RecordedEpisode]) -> None:
    for number, episode in enumerate(episodes):
        for what in ("observations", "actions", "rewards"):
            values = getattr(episode, what)
            if values.dtype != np.uint8 and not np.isfinite(values).all():
                raise SettingsError(
                    f"The {what} of episode {number} of {len(episodes)} are not all finite, which is not usual: leave "
                    "the episode out of the calibration."
                )


def _require_enough(model: JEPA, episodes: Sequence[RecordedEpisode], per_1000: float) -> None:
    lengths = lengths_of(model, episodes)
    fitted = max(LEAST_FITTED_STEPS, FITTED_STEPS_PER_DIMENSION * model.latent_dims)
    held = least_steps(per_1000)
    if len(episodes) >= LEAST_EPISODES and sum(lengths[::2]) >= fitted and sum(lengths[1::2]) >= held:
        return
    needed = max(LEAST_EPISODES, 2 * math.ceil(max(fitted, held) * len(lengths) / max(sum(lengths), 1)))
    raise SettingsError(
        f"{len(episodes)} episodes of {sum(lengths):,} model steps in all are too few to calibrate for {per_1000:g} "
        f"false alarms per 1,000 steps. One half of them tells what is usual ({fitted:,} steps or more), the other "
        f"gives the threshold ({held:,} steps or more): that needs {needed:,} episodes or more, if they are as long."
    )
