"""What a surprise monitor needs of recorded episodes: their model steps side by side, and what is usual of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError
from ..core.seeding import torch_generator
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA, LatentState, unit_directions
from ..world_model.error_model import ErrorModel, ErrorModelSettings
from ..world_model.surprise import Whitening, least_steps
from .surprise_channels import Usual, predict

AT_ONCE = 128
"""Episodes that are replayed side by side."""
LEAST_EPISODES = 6
"""Two to learn what is usual from, one to judge that on, and three for the threshold."""
LEAST_FITTED_STEPS = 200
FITTED_STEPS_PER_DIMENSION = 2
HELD_OUT_EVERY = 3


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


def steps_of(episode: RecordedEpisode, block: int) -> int:
    """Return the whole model steps of an episode; what is left of a block is of no use."""
    return len(episode.actions) // block


def replay(model: JEPA, episodes: Sequence[RecordedEpisode]) -> Iterator[Moment]:
    """Yield what was recorded, step by step, of up to 128 episodes at a time, each lot beginning with a step 0."""
    block, device = model.settings.block, model.device
    lengths = np.array([steps_of(episode, block) for episode in episodes])
    longest_first = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(episodes), AT_ONCE):
        lot = longest_first[begin : begin + AT_ONCE]
        for step in range(int(lengths[lot[0]]) + 1):
            rows = lot[lengths[lot] >= step]
            playing = [episodes[row] for row in rows]
            taken = slice((step - 1) * block, step * block) if step else slice(0, 0)
            zeros = np.zeros(model.action_dims, np.float32)
            actions = [episode.actions[taken].reshape(-1) if step else zeros for episode in playing]
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
    """Return what was found (R,) by name at each moment as (T,) of each episode, NaN or false where it was not."""
    padded: dict[str, NDArray[Any]] = {}
    for moment, values in found:
        for name, tensor in values.items() if moment.step else ():
            if name not in padded:
                shape = len(lengths), max(lengths)
                padded[name] = np.zeros(shape, bool) if tensor.dtype == torch.bool else np.full(shape, np.nan, "f4")
            padded[name][moment.rows, moment.step - 1] = tensor.cpu().numpy()
    return [{name: array[row, :length] for name, array in padded.items()} for row, length in enumerate(lengths)]


@torch.no_grad()
def fit_usual(
    model: JEPA, episodes: Sequence[RecordedEpisode], settings: ErrorModelSettings, directions: int, seed: int
) -> tuple[Usual, NDArray[np.bool_]]:
    """Learn what is usual of a model's predictions.

    Args:
        model: predicts.
        episodes: usual ones.
        settings: of the errors.
        directions: M, in which the distribution of latents will be tested.
        seed: of everything random.

    Returns:
        What is usual; and which of the episodes (n,) errors were not learned from, but only judged on.
    """
    state = model.initial(0)
    numbers: list[NDArray[np.int64]] = []
    latents: list[Tensor] = []
    before: list[Tensor] = []
    actions: list[Tensor] = []
    errors: list[Tensor] = []
    for moment in replay(model, episodes):
        count = len(moment.rows)
        state = model.initial(count) if moment.step == 0 else _first(state, count)
        step = predict(
            model, state, moment.observations, moment.actions, moment.reset, moment.rewards, None, effects=False
        )
        state = step.state
        latents.append(state.latents)
        if moment.step:
            numbers.append(moment.rows)
            for parts, part in zip((before, actions, errors), (step.before, step.actions, step.errors), strict=True):
                parts.append(part)
    held_out = np.arange(len(episodes)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    judged = torch.from_numpy(held_out[np.concatenate(numbers)]).to(model.device)
    known = ErrorModel(model.latent_dims, model.action_dims, errors[0].shape[1], settings).to(model.device)
    with torch.enable_grad():
        known.fit(torch.cat(before), torch.cat(actions), torch.cat(errors), judged, seed)
    drawn = unit_directions(model.latent_dims, directions, torch_generator(seed, "directions"), model.device)
    return Usual(known.eval(), Whitening.fit(torch.cat(latents)), drawn), held_out


def _first(state: LatentState, count: int) -> LatentState:
    return state if len(state.latents) == count else state.map(lambda tensor: tensor[:count])


def require_fitting(model: JEPA, episodes: Sequence[RecordedEpisode]) -> None:
    """Raise :class:`SettingsError` unless the episodes are of the model's observations and actions."""
    block, shape = model.settings.block, tuple(model.observation_shape)
    for number, episode in enumerate(episodes):
        where = f"Episode {number} of {len(episodes)}"
        if episode.observations.shape[1:] != shape:
            raise SettingsError(
                f"{where} has observations of the shape {episode.observations.shape[1:]}, and the world model takes "
                f"{shape}: these are episodes of another environment, or not coded by its ObservationCodec."
            )
        if episode.actions.ndim != 2 or block * episode.actions.shape[1] != model.action_dims:
            raise SettingsError(
                f"{where} has actions of the shape {episode.actions.shape[1:]}, and the world model takes blocks of "
                f"{block} actions of {model.action_dims / block:g} dimensions: these are episodes of another "
                "environment, or not coded by its ActionCodec."
            )
        if len(episode.observations) != len(episode.actions) + 1 or len(episode.rewards) != len(episode.actions):
            raise SettingsError(
                f"{where} has {len(episode.observations)} observations, {len(episode.actions)} actions and "
                f"{len(episode.rewards)} rewards: observations are one more than the others."
            )


def require_finite(episodes: Sequence[RecordedEpisode]) -> None:
    """Raise :class:`SettingsError` unless everything in the episodes is finite."""
    for number, episode in enumerate(episodes):
        for what in ("observations", "actions", "rewards"):
            values = getattr(episode, what)
            if values.dtype != np.uint8 and not np.isfinite(values).all():
                raise SettingsError(
                    f"The {what} of episode {number} of {len(episodes)} are not all finite: that is not usual, and "
                    "nothing can be calibrated on it. Leave the episode out."
                )


def require_enough(episodes: Sequence[RecordedEpisode], model: JEPA, per_1000: float) -> None:
    """Raise :class:`SettingsError`, which says how many are needed, unless the episodes suffice for a calibration."""
    block = model.settings.block
    lengths = np.array([steps_of(episode, block) for episode in episodes])
    fitted = max(LEAST_FITTED_STEPS, FITTED_STEPS_PER_DIMENSION * model.latent_dims)
    held = least_steps(per_1000)
    if len(episodes) >= LEAST_EPISODES and lengths[::2].sum() >= fitted and lengths[1::2].sum() >= held:
        return
    mean = lengths.mean() if lengths.any() else 1.0
    needed = max(LEAST_EPISODES, 2 * math.ceil(max(fitted, held) / mean))
    raise SettingsError(
        f"{len(episodes)} episodes of {lengths.sum():,} model steps in all are too few to calibrate for {per_1000:g} "
        f"false alarms per 1,000 steps. At least {LEAST_EPISODES} are needed, of which one half tells what is usual "
        f"({fitted:,} steps or more) and the other gives the threshold ({held:,} steps or more): of this length, "
        f"{needed:,} episodes or more."
    )
