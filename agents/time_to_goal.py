"""Time to goal: how many steps lie between two observations, learned from a store on a world model's latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ..core.errors import DivergedError, SettingsError
from ..core.seeding import derive_seed, numpy_generator, torch_generator
from ..core.settings import Range, Settings
from ..envs import EpisodeStore
from ..world_model import JEPA, Optimization, OptimizationSettings, Quasimetric, QuasimetricSettings
from .devices import memory_explained

ENCODED_AT_ONCE = 512
_PACE = 0.02
"""By which share the price rises or falls in one update, at most."""


@dataclass(frozen=True)
class TimeToGoalSettings(Settings):
    """Settings of :func:`learn_time_to_goal`."""

    quasimetric: QuasimetricSettings = field(default_factory=QuasimetricSettings)
    """What learns."""
    learner: OptimizationSettings = field(default_factory=lambda: OptimizationSettings(learning_rate=1e-3))
    """How it is optimised; the learning rate falls to zero along a cosine."""
    updates: Annotated[int, Range(ge=1, le=10**9)] = 3000
    """Updates in all."""
    batch_size: Annotated[int, Range(ge=2, le=1_000_000)] = 512
    """Pairs per update."""
    frames: Annotated[int, Range(ge=2)] = 100_000
    """Observations to learn from: of whole episodes, drawn at random until there are as many."""
    longest: Annotated[int, Range(ge=1)] | None = None
    """Environment steps; longer distances are not told apart. By default, the length of the longest episode."""


def learn_time_to_goal(
    model: JEPA,
    store: EpisodeStore,
    episodes: np.ndarray | None = None,
    settings: TimeToGoalSettings | None = None,
    seed: int = 0,
    on_update: Callable[[int, dict[str, float]], None] | None = None,
) -> Quasimetric:
    """Learn how many environment steps lie between latents of a world model, which stays as it is.

    Args:
        model: the world model; its latents are taken once, in evaluation mode.
        store: what was recorded; it is only read.
        episodes: numbers of those to learn from; all by default.
        settings: see :class:`TimeToGoalSettings`.
        seed: of everything random.
        on_update: called after each update with its number and its measures: ``loss``, ``too_long``, the root mean
            square by which recorded steps look too long, and ``price``.

    Raises:
        SettingsError: the model sees other observations, or no two observations follow each other.
        DivergedError: a loss was not finite.
    """
    s = settings or TimeToGoalSettings()
    if store.observation_shape != tuple(model.observation_shape):
        raise SettingsError(
            f"The world model takes observations of the shape {tuple(model.observation_shape)}, and those of the store "
            f"are {store.observation_shape}."
        )
    rows, left = _rows(store, episodes, s.frames, seed)
    reach = min(model.settings.block, int(left.max(initial=0)))
    if reach < 1:
        raise SettingsError("No two observations of the store follow each other in an episode of at least two steps.")
    with memory_explained("the latents", f"frames, which is {s.frames:,}"):
        latents = _encode(model, store, rows)
    longest = s.longest or int(left.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "quasimetric"))
        learned = Quasimetric(model.latent_dims, longest, s.quasimetric).to(model.device)
    optimization = Optimization(learned.parameters(), s.learner, torch_generator(seed, "quasimetric"))
    rng, begins, price = numpy_generator(seed, "pairs"), np.flatnonzero(left > 0), 1.0
    for update in range(s.updates):
        first = rng.choice(begins, s.batch_size)
        steps = np.minimum(rng.integers(1, reach + 1, s.batch_size), left[first])
        before, after = (latents[torch.from_numpy(index).to(latents.device)] for index in (first, first + steps))
        optimization.pace(0.5 * (1 + math.cos(math.pi * update / s.updates)))
        loss, too_long = learned.loss(before, after, torch.from_numpy(steps).to(before), price)
        optimization.step(loss)
        if optimization.skipped:
            raise DivergedError("The time to goal had a loss that is not finite: lower learner.learning_rate.")
        excess = float(too_long) / s.quasimetric.slack**2 - 1
        price *= math.exp(_PACE * min(max(excess, -1.0), 1.0))
        if on_update is not None:
            on_update(update + 1, {"loss": float(loss.detach()), "too_long": float(too_long) ** 0.5, "price": price})
    return learned.eval()


def _rows(store: EpisodeStore, episodes: np.ndarray | None, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of whole episodes, in order, and how many more of its episode follow each."""
    episode_of_row = store.arrays()["episode_of_row"]
    lengths = np.bincount(episode_of_row, minlength=store.episodes)
    candidates = np.arange(store.episodes) if episodes is None else episodes
    shuffled = numpy_generator(seed, "episodes").permutation(candidates)
    needed = int(np.searchsorted(np.cumsum(lengths[shuffled]), frames)) + 1
    rows = np.argsort(episode_of_row, kind="stable")  # environments that were recorded side by side alternate
    rows = rows[np.isin(episode_of_row[rows], shuffled[:needed])]
    numbers = episode_of_row[rows]
    last = np.flatnonzero(np.append(numbers[1:] != numbers[:-1], True))
    return rows, last[np.searchsorted(last, np.arange(len(rows)))] - np.arange(len(rows))


@torch.no_grad()
def _encode(model: JEPA, store: EpisodeStore, rows: np.ndarray) -> Tensor:
    observations = store.arrays()["observations"]
    parts = [rows[begin : begin + ENCODED_AT_ONCE] for begin in range(0, len(rows), ENCODED_AT_ONCE)]
    return torch.cat([model.encode(torch.from_numpy(observations[part]).to(model.device)).float() for part in parts])
