"""LatentError: how far the next latent is from the one that a world model predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA, LatentState
from .detectors import Floats, ModelSteps, Whitening, require_steps

_ENCODED_AT_ONCE = 250


class LatentError:
    """The squared error of the predicted next latent, whitened by what it is in nominal steps, per dimension.

    Args:
        model: predicts; a step is one of its blocks.

    Raises:
        SettingsError: when it is given observations or actions of other shapes than the model takes.
    """

    name = "latent"

    def __init__(self, model: JEPA) -> None:
        self._model = model

    def fit(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Learn the statistics of nominal errors."""
        steps = ModelSteps.of(episodes, self._model.settings.block)
        require_steps(steps, 2 * self._model.latent_dims, "the statistics of latent errors")
        self._whiten = Whitening(self._errors(steps))

    def scores(self, episodes: Sequence[RecordedEpisode]) -> list[Floats]:
        """Return the mean square of the whitened error."""
        steps = ModelSteps.of(episodes, self._model.settings.block)
        return steps.per_episode(np.square(self._whiten(self._errors(steps))).mean(1))

    @torch.no_grad()
    def _errors(self, steps: ModelSteps) -> Floats:
        """Return (S, D)."""
        require_shapes(self._model, steps)
        device = self._model.device
        actions = torch.from_numpy(np.ascontiguousarray(steps.actions, np.float32)).to(device)
        if self._model.settings.context == 1:  # nothing but the present counts, so that all steps can be at once
            parts = zip(self._encoded(steps.before).split(4096), actions.split(4096), strict=True)
            predicted = torch.cat([self._predicted(LatentState(now), done) for now, done in parts])
        else:
            predicted = self._looking_back(steps, actions)
        return (self._encoded(steps.after) - predicted).double().cpu().numpy()

    def _looking_back(self, steps: ModelSteps, actions: Tensor) -> Tensor:
        """Return predictions (S, D), of all episodes at a time, one step after the other."""
        device, lengths = actions.device, np.array(steps.lengths)
        starts, alive = np.cumsum(lengths) - lengths, np.arange(len(lengths))
        state = self._model.initial(len(lengths))
        predicted = torch.zeros(len(actions), self._model.latent_dims, device=device)
        done = torch.zeros(len(lengths), actions.shape[1], device=device)
        for step in range(lengths.max(initial=0)):
            running = np.flatnonzero(step < lengths[alive])
            alive, index = alive[running], torch.from_numpy(running).to(device)
            state, done = state.select(index), done[index]
            rows = starts[alive] + step
            seen = torch.from_numpy(steps.before[rows]).to(device)
            state = self._model.observe(state, seen, done, torch.full((len(rows),), step == 0, device=device))
            done = actions[torch.from_numpy(rows).to(device)]
            predicted[torch.from_numpy(rows).to(device)] = self._predicted(state, done)
        return predicted

    def _predicted(self, state: LatentState, actions: Tensor) -> Tensor:
        return self._model.step(state, actions.unsqueeze(1)).state.latents.squeeze(1)

    def _encoded(self, observations: np.ndarray) -> Tensor:
        parts = np.array_split(observations, max(-(-len(observations) // _ENCODED_AT_ONCE), 1))
        device = self._model.device
        return torch.cat(
            [self._model.encode(torch.from_numpy(np.ascontiguousarray(part)).to(device)) for part in parts]
        )


def require_shapes(model: JEPA, steps: ModelSteps) -> None:
    """Raise :class:`SettingsError` unless a model takes these observations and actions."""
    found = tuple(steps.before.shape[1:]), steps.actions.shape[1]
    wanted = tuple(model.observation_shape), model.action_dims
    if found != wanted:
        block = model.settings.block
        raise SettingsError(
            f"The episodes do not fit the world model: their observations have the shape {found[0]}, and it takes "
            f"{wanted[0]}; their actions, {block} to a step, have {found[1]} dimensions, and it takes {wanted[1]}."
        )
