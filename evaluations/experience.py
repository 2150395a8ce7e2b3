"""Experience: the episodes that an agent learned from, lived through once more for the true states behind them.

A run keeps observations and actions, and never the states of the simulator, from which nothing is learned. But each of
its episodes follows from its seed and its actions. Not one step is taken that was not taken before, and an episode in
which a single observation comes out otherwise is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.checkpoints import Checkpoint
from ..core.errors import CheckpointError, SettingsError
from ..core.runs import Run
from ..core.seeding import derive_seed
from ..core.trees import unflatten_tree
from ..envs import ActionCodec, EpisodeStore, ObservationCodec, make_env
from ..envs.recording import RecordedEpisode
from ..envs.states import State, state_of
from ..envs.vectors import episode_seed
from .settings import settings_of

SKIPPED = 3
"""Episodes in a row that an environment may have begun and never taken a step in."""


def relived(folder: str | os.PathLike[str]) -> list[RecordedEpisode]:
    """Return the episodes that a run's agent learned from, with true states, as far as they can be repeated.

    Args:
        folder: of a run of ``forethought train``, whose last checkpoint holds the experience.

    Raises:
        RunFolderError: no such run.
        CheckpointError: it has no checkpoint, or one that holds no experience.
        SettingsError: its task tells no states, or none of its episodes can be repeated.
    """
    run = Run.open(folder)
    settings = settings_of(run)
    checkpoint = run.latest_checkpoint()
    env = make_env(settings.task)
    try:
        if state_of(env) is None:
            raise SettingsError(f"{settings.task} does not tell its state, so that nothing can be measured in it.")
        codecs = ObservationCodec(env.observation_space), ActionCodec(env.action_space)
        store, begun = _kept(checkpoint, codecs, run.folder)
        found = [_repeat(env, codecs, store.episode(number), begun) for number in range(store.episodes)]
    finally:
        env.close()
    episodes = [episode for episode in found if episode is not None]
    if not episodes:
        raise SettingsError(
            f"None of the {len(found)} episodes of {folder} can be repeated, so that the true states behind them are "
            f"not known: forethought doctor {settings.task} tells whether it is deterministic."
        )
    return episodes


@dataclass
class _Begun:
    """Which episodes began in which environment of a run.

    Attributes:
        seed: of the environments.
        following: per environment, the number of its next episode.
    """

    seed: int
    following: list[int]

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Yield environments and numbers of what may have been the next episode, the likeliest first."""
        for skipped in range(SKIPPED + 1):
            yield from ((environment, number + skipped) for environment, number in enumerate(self.following))


def _kept(
    checkpoint: Checkpoint, codecs: tuple[ObservationCodec, ActionCodec], folder: Path
) -> tuple[EpisodeStore, _Begun]:
    """Return the experience that a checkpoint holds, and what is known of its episodes' seeds."""
    try:
        agent = checkpoint.documents["agent"]
        environments = int(agent["settings"]["num_envs"])
        training = unflatten_tree(checkpoint.documents["training"], checkpoint.tensors["training"])
        store = EpisodeStore(codecs[0].shape, codecs[1].dims, environments)
        parts = [{name: tensor.numpy() for name, tensor in segment.tensors.items()} for segment in checkpoint.segments]
        store.restore(parts, {name: tensor.numpy() for name, tensor in training["store"].items()})
        return store, _Begun(derive_seed(int(agent["seed"]), "environments", 0), [0] * environments)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"The last checkpoint of {folder} holds no experience: {error!r}.") from error


def _repeat(
    env: gym.Env[Any, Any],
    codecs: tuple[ObservationCodec, ActionCodec],
    recorded: Mapping[str, NDArray[Any]],
    begun: _Begun,
) -> RecordedEpisode | None:
    """Return a recorded episode with its states, or nothing where it comes out otherwise."""
    observation_codec, action_codec = codecs
    observations = recorded["observations"]
    for environment, number in begun.candidates():
        seen, _ = env.reset(seed=episode_seed(begun.seed, environment, number))
        if np.array_equal(observation_codec.single(seen), observations[0]):
            begun.following[environment] = number + 1
            break
    else:
        return None
    states = [_state(env)]
    for action, after in zip(action_codec.decode(recorded["actions"]), observations[1:], strict=True):
        seen, *_ = env.step(action)
        if not np.array_equal(observation_codec.single(seen), after):
            return None
        states.append(_state(env))
    ended = bool(recorded["terminated"][-1])
    cut = bool(recorded["closed"]) and not ended
    return RecordedEpisode(observations, recorded["actions"], recorded["rewards"], ended, cut, np.stack(states))


def _state(env: gym.Env[Any, Any]) -> State:
    state = state_of(env)
    assert state is not None
    return state
