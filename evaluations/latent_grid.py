"""LatentGrid: recorded episodes as a world model sees them, one row per observation that begins or ends a model step.

A model step may be a block of several environment steps. Rows of an episode follow each other, so that k model steps
after a row comes the row k further on, as long as the episode has that many left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import DivergedError, SettingsError
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA, LatentState, Past

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
AT_ONCE = 250
"""Observations that are encoded, and rollouts that are imagined, at a time."""


@dataclass(frozen=True, eq=False)
class LatentGrid:
    """M rows of several episodes.

    Attributes:
        observations: (M, O), or images.
        actions: (M, A), what was done in the model step that follows; zeros at an episode's end.
        states: (M, S), true ones.
        latents: (M, D), on the CPU.
        episode: (M,), numbers of the episodes, from 0.
        step: (M,), model steps before, in the episode.
        left: (M,), model steps that follow.
    """

    observations: NDArray[np.generic]
    actions: NDArray[np.float32]
    states: Array
    latents: Tensor
    episode: Rows
    step: Rows
    left: Rows

    @classmethod
    def of(cls, episodes: Sequence[RecordedEpisode], model: JEPA) -> LatentGrid:
        """Return the grid of episodes.

        Raises:
            SettingsError: an episode has no true states.
            DivergedError: a latent is not finite.
        """
        block = model.settings.block
        columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in ("seen", "done", "states", "numbers")}
        for number, episode in enumerate(episodes):
            if episode.states is None:
                raise SettingsError("Episodes without true states hold nothing to compare with.")
            steps = len(episode.actions) // block
            on_grid = slice(0, steps * block + 1, block)
            actions = episode.actions[: steps * block].reshape(steps, model.action_dims)
            columns["seen"].append(episode.observations[on_grid])
            columns["done"].append(np.concatenate([actions, np.zeros((1, model.action_dims), actions.dtype)]))
            columns["states"].append(episode.states[on_grid])
            columns["numbers"].append(
                np.stack([np.full(steps + 1, number), np.arange(steps + 1), np.arange(steps, -1, -1)], 1)
            )
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        latents = encoded(model, joined["seen"])
        if not latents.isfinite().all():
            raise DivergedError("The world model makes latents that are not finite of these observations.")
        numbers = joined["numbers"].T.astype(np.int64)
        states = joined["states"].astype(np.float64)
        return cls(joined["seen"], joined["done"].astype(np.float32), states, latents, *numbers)

    def __len__(self) -> int:
        return len(self.episode)

    def sample(self, count: int, rng: np.random.Generator, before: int = 0, after: int = 0) -> Rows:
        """Return at most ``count`` rows in order, with at least as many model steps ``before`` and ``after`` them."""
        rows = np.flatnonzero((self.step >= before) & (self.left >= after))
        return np.sort(rng.choice(rows, min(count, len(rows)), replace=False))

    def history(self, rows: Rows, steps: int) -> Tensor:
        """Return the last ``steps`` latents side by side (N, steps x D), the newest last."""
        return torch.cat([self.latents[rows - back] for back in range(steps - 1, -1, -1)], 1)

    def encoded_by(self, model: JEPA) -> LatentGrid:
        """Return the same rows with the latents of another model."""
        return replace(self, latents=encoded(model, self.observations))


@torch.no_grad()
def encoded(model: JEPA, observations: NDArray[np.generic]) -> Tensor:
    """Return latents (M, D) of observations (M, ...), on the CPU."""
    return torch.cat(
        [model.encode(part.to(model.device)).float().cpu() for part in _tensor(observations).split(AT_ONCE)]
    )


def model_state(model: JEPA, grid: LatentGrid, rows: Rows) -> LatentState:
    """Return where the model is in rows (B,), with the past that it looks back over, as if it had observed it all."""
    back = model.settings.context - 1
    latents = grid.latents[rows].to(model.device)
    if not back:
        return LatentState(latents)
    past = np.maximum(rows[:, None] - np.arange(back, 0, -1), 0)
    actions = model.predictor.action_encoder(torch.from_numpy(grid.actions[past]).to(model.device))
    padding = np.maximum(back - grid.step[rows], 0)
    return LatentState(
        latents, Past(grid.latents[past].to(model.device), actions, torch.from_numpy(padding).to(model.device))
    )


@torch.no_grad()
def imagined(model: JEPA, grid: LatentGrid, rows: Rows, steps: int) -> Tensor:
    """Return the latents (N, steps, D) predicted open loop from rows (N,), under what was really done, on the CPU.

    The one at index k - 1 is of k model steps later, which is when row + k was observed.
    """
    parts = []
    for begin in range(0, len(rows), AT_ONCE):
        part = rows[begin : begin + AT_ONCE]
        done = torch.from_numpy(grid.actions[part[:, None] + np.arange(steps)]).to(model.device)
        rollout = model.imagine(model_state(model, grid, part), done.unsqueeze(1))
        parts.append(rollout.latents[:, 0].float().cpu())
    return torch.cat(parts) if parts else torch.zeros(0, steps, model.latent_dims)


# How latents move, episode by episode.


def straightness(grid: LatentGrid, points: Tensor) -> Array:
    """Return, per episode, the mean cosine between successive displacements of ``points`` (M, P); 1 is a straight line.

    Steps in which nothing moved have no direction and are left out; so are episodes of fewer than two others.
    """

    def mean_cosine(path: Tensor) -> float:
        moved = path.diff(dim=0)
        moved = moved[moved.norm(dim=1) > 0]
        return float(torch.cosine_similarity(moved[:-1], moved[1:]).mean()) if len(moved) > 1 else np.nan

    return _by_episode(grid, points, mean_cosine)


def goal_rank_correlation(grid: LatentGrid, points: Tensor, window: int, goals: int, seed: int) -> Array:
    """Return, per episode, Spearman's correlation of the distance to a later point with the time to it.

    Args:
        grid: where points are.
        points: (M, P), such as the latents.
        window: model steps before a goal that count; further away, periodic motion comes by again and again.
        goals: drawn per episode, of which the mean is taken.
        seed: of the goals.
    """
    rng = np.random.default_rng(seed)

    def mean_rank_correlation(path: Tensor) -> float:
        if len(path) < 4:
            return np.nan
        drawn = rng.integers(3, len(path), goals)
        found = []
        for goal in drawn.tolist():
            before = path[max(goal - window, 0) : goal]
            distances = (before - path[goal]).norm(dim=1).numpy()
            found.append(_spearman(distances, np.arange(len(before), 0, -1)))
        return float(np.nanmean(found)) if np.isfinite(found).any() else np.nan

    return _by_episode(grid, points, mean_rank_correlation)


def _by_episode(grid: LatentGrid, points: Tensor, measure: Callable[[Tensor], float]) -> Array:
    """Return what ``measure`` makes of each episode's points, where that is finite."""
    ends = np.flatnonzero(grid.left == 0) + 1
    values = np.array([measure(path) for path in points.double().tensor_split(ends[:-1].tolist())])
    return values[np.isfinite(values)]


def _spearman(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    ranks = [_ranks(values) for values in (first, second)]
    if min(rank.std() for rank in ranks) == 0:
        return np.nan
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.generic]) -> Array:
    """Return ranks, of equal values their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def _tensor(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
