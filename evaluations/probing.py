"""probe_states: how well the true states of a store's episodes can be read off a pretrained model's latents."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor

from ..core.quantity import Quantity
from ..core.runs import Run
from ..core.seeding import numpy_generator
from ..envs import EpisodeStore
from ..world_model import JEPA
from .pretraining import begin_training, load_pretrained, pretrain_settings_of

FITTED, HELD_OUT = 5000, 2000
"""Observations that a probe is fitted to, and judged on, at most."""
_ENCODED_AT_ONCE = 250


def probe_states(folder: str | os.PathLike[str]) -> list[float | None] | None:
    """Return r of a linear probe for each dimension of the true state, on episodes that the model never learned from.

    Args:
        folder: of a run that was pretrained.

    Returns:
        r, ``None`` for a dimension that does not vary; nothing where the store holds no true states, or is gone.

    Raises:
        RunFolderError: no such run, or one without a model.
        CheckpointError: a damaged file.
    """
    settings = pretrain_settings_of(Run.open(folder))
    model, _ = load_pretrained(folder)
    if not os.path.isdir(settings.store) or not EpisodeStore.open(settings.store).state_dims:
        return None
    training = begin_training(settings)
    data = training.store.arrays()

    def sample(name: str, episodes: np.ndarray, count: int) -> tuple[ProbeSamples, np.ndarray]:
        rows = np.flatnonzero(np.isin(data["episode_of_row"], episodes))
        rng = numpy_generator(settings.seed, "probe", name)
        rows = np.sort(rng.choice(rows, min(count, len(rows)), replace=False))
        latents = _encode(model, data["observations"], rows)
        return ProbeSamples(latents, torch.from_numpy(data["states"][rows])), data["episode_of_row"][rows]


@torch.no_grad()
def _encode(model: JEPA, observations: np.ndarray, rows: np.ndarray) -> Tensor:
    parts = np.split(rows, range(_ENCODED_AT_ONCE, len(rows), _ENCODED_AT_ONCE))
    return torch.cat([model.encode(torch.from_numpy(observations[part])).float() for part in parts])
