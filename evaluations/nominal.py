"""World models of runs, and the nominal episodes that they are judged with: nothing in them is out of the ordinary."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

from ..core.errors import SettingsError
from ..core.runs import Run
from ..core.seeding import derive_seed, numpy_generator
from ..envs import EpisodeStore, make_env
from ..envs.recording import RecordedEpisode, Recorder
from ..world_model import JEPA
from .collect import LONGEST, AgentPolicy
from .pretraining import KIND, MODEL_FILE, load_pretrained, pretrain_settings_of, training_of
from .training import AGENT_FILE, load_trained

LEAST_EPISODES = 4
"""To fit, to choose by, and two to judge with, between which results may differ."""


@dataclass(frozen=True)
class WorldModel:
    """The world model of a run.

    Attributes:
        folder: of the run.
        model: the world model, ready to predict.
        task: where it was learned, where that is known.
        env: arguments of the environment.
        fingerprint: of the file that holds it; another one if it learned on.
        agent: that acts by it, or nothing for one that learned from a store.
        store: folder of the store, or nothing.
    """

    folder: Path
    model: JEPA
    task: str | None
    fingerprint: str
    env: dict[str, Any] = field(default_factory=dict)
    agent: Any = None
    store: str | None = None

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Make the environment of its task.

        Raises:
            SettingsError: the task is not known.
        """
        if self.task is None:
            raise SettingsError(f"{self.folder} does not know the task that its episodes are of.")
        return make_env(self.task, render_mode, **self.env)


@dataclass(frozen=True)
class NominalEpisodes:
    """Whole episodes, split.

    Attributes:
        fitting: to fit to.
        held_out: to judge with; the world model never learned from them.
    """

    fitting: list[RecordedEpisode]
    held_out: list[RecordedEpisode]


def world_model_of(folder: str | os.PathLike[str]) -> WorldModel:
    """Return the world model of an agent's run, or of a pretrained one.

    Raises:
        RunFolderError: no such run, or one that has saved nothing yet.
        CheckpointError: a damaged file.
        SettingsError: the run's agent has no world model.
    """
    run = Run.open(folder)
    if run.manifest.get("kind") == KIND:
        model, source = load_pretrained(folder)
        return WorldModel(
            run.folder,
            model,
            source.get("task"),
            fingerprint(run.folder / MODEL_FILE),
            source.get("env", {}),
            store=pretrain_settings_of(run).store,
        )
    agent, settings = load_trained(folder)
    learned = getattr(agent, "model", None)
    if not isinstance(learned, JEPA):
        raise SettingsError(f"{folder} holds the agent {settings.agent!r}, which has no world model.")
    return WorldModel(run.folder, learned.eval(), settings.task, fingerprint(run.folder / AGENT_FILE), agent=agent)


def fingerprint(file: Path) -> str:
    """Return what a file is known again by."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def nominal_episodes(
    world: WorldModel, count: int = 20, seed: int = 0, frames: tuple[int, int] = (5000, 2000)
) -> NominalEpisodes:
    """Return episodes in which a world model is judged, with true states where there are any.

    An agent acts in fresh episodes of its task, as it does in training, explorations apart; half of them are held out.
    A world model that learned from a store is judged with the episodes that were held out then, and what is fitted is
    fitted to those that it learned from.

    Args:
        world: the world model.
        count: episodes that an agent plays; of a store, the least that are taken of each part, if it holds as many.
        seed: of the episodes.
        frames: of a store, observations to fit to and to judge with; as many episodes are taken as hold these.

    Raises:
        SettingsError: too few episodes, or observations that the model does not take.
        RunFolderError: the store is gone.
        CheckpointError: it is damaged.
        EnvironmentFault: the task's environment fails.
    """
    if world.store is not None:
        return _stored(world, count, seed, frames)
    if count < LEAST_EPISODES:
        raise SettingsError(f"{count} episodes are too few to split: at least {LEAST_EPISODES} are needed.")
    recorder = Recorder(world.make_env, LONGEST)
    try:
        _require_shape(world, recorder.observation_codec.shape, recorder.action_codec.dims)
        worlds = [derive_seed(seed, "nominal episode", index) % 2**31 for index in range(count)]
        acting = [derive_seed(seed, "nominal policy", index) for index in range(count)]
        episodes = [
            episode for episode in recorder.record(AgentPolicy(world.agent), worlds, acting) if episode is not None
        ]
    finally:
        recorder.close()
    if len(episodes) < LEAST_EPISODES:
        raise SettingsError(
            f"Only {len(episodes)} of {count} episodes had no values that are not finite: at least {LEAST_EPISODES} "
            f"are needed; forethought doctor {world.task} tells what is wrong with it."
        )
    half = len(episodes) // 2
    return NominalEpisodes(episodes[:half], episodes[half:])


def _stored(world: WorldModel, count: int, seed: int, frames: tuple[int, int]) -> NominalEpisodes:
    training = training_of(Run.open(world.folder))
    store = training.store
    _require_shape(world, store.observation_shape, store.action_dims)
    parts = []
    for name, numbers, enough in zip(
        ("fitting", "held out"), (training.learned, training.held_out), frames, strict=True
    ):
        block, taken = world.model.settings.block, 0
        part: list[RecordedEpisode] = []
        for number in numpy_generator(seed, "nominal", name).permutation(numbers).tolist():
            if taken >= enough and len(part) >= count:
                break
            part.append(_episode(store, number))
            taken += len(part[-1].actions) // block + 1
        parts.append(part)
    return NominalEpisodes(*parts)


def _episode(store: EpisodeStore, number: int) -> RecordedEpisode:
    data = store.episode(number)
    terminated = bool(data["terminated"][-1])
    truncated = bool(data["closed"]) and not terminated
    observations, actions, rewards = (data[name] for name in ("observations", "actions", "rewards"))
    return RecordedEpisode(observations, actions, rewards, terminated, truncated, data.get("states"))


def _require_shape(world: WorldModel, observation_shape: tuple[int, ...], action_dims: int) -> None:
    """Refuse data that a model cannot take, saying what differs."""
    model, block = world.model, world.model.settings.block
    if tuple(model.observation_shape) != tuple(observation_shape):
        raise SettingsError(
            f"The world model of {world.folder} takes observations of the shape {tuple(model.observation_shape)}, and "
            f"those here are {tuple(observation_shape)}."
        )
    if model.action_dims != action_dims * block:
        raise SettingsError(
            f"The world model of {world.folder} takes {model.action_dims} action dimensions per step, and {block} "
            f"steps here have {action_dims * block}."
        )
