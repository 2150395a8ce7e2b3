"""Subject: a run's world model, the task that it knows, and who acts there while it is watched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import RunFolderError, SettingsError
from ..core.runs import Run
from ..core.seeding import derive_seed, numpy_generator
from ..envs import make_env
from ..envs.experts import RandomPolicy
from ..envs.perturbations import NominalScale, Perturbation
from ..envs.perturbed_sensors import SensorFrozen
from ..envs.recording import RecordedEpisode, Recorder, RecordingPolicy
from ..world_model import JEPA
from .collect import LONGEST, AgentPolicy, read_source, recording_policy
from .nominal import fingerprint, world_model_of
from .planner_table import bare_policy
from .pretraining import KIND
from .training import AGENT_FILE, load_trained

AT_ONCE = 25
"""Episodes that one process plays at a time."""
Acting = Literal["actor", "planner"]


@dataclass(frozen=True, eq=False)
class Watched:
    """An episode and what is known of its perturbation.

    Attributes:
        episode: what was seen.
        truth: (T,) whether each environment step was perturbed.
        event: the first that was, or nothing.
        moved: of a frozen sensor, whether what it should have shown moved by over a standard deviation in time.
    """

    episode: RecordedEpisode
    truth: NDArray[np.bool_]
    event: int | None
    moved: bool | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """Whom a benchmark watches.

    Attributes:
        folder: of the run.
        task, env: where it acts: a name, and arguments of the environment.
        model: its world model; nothing for an agent that has none.
        policies: who acts, each with its weight.
        acting: in words.
        fingerprint: of the file in which model and agent are.
    """

    folder: Path
    task: str
    env: dict[str, Any]
    model: JEPA | None
    policies: Sequence[tuple[RecordingPolicy, float]]
    acting: str
    fingerprint: str
    _spare: list[gym.Env[Any, Any]] = field(default_factory=list)

    @property
    def block(self) -> int:
        """Environment steps per model step."""
        return 1 if self.model is None else self.model.settings.block

    def make(self) -> gym.Env[Any, Any]:
        """Return an environment."""
        return make_env(self.task, **self.env)

    def close(self) -> None:
        """Close the environments that were kept."""
        while self._spare:
            self._spare.pop().close()

    def seeds(self, role: str, seed: int, indices: range) -> tuple[list[int], list[int]]:
        """Return seeds of the world, and of who acts, for episodes that were neither learned from nor evaluated on."""
        worlds = [derive_seed(seed, "watched", role, index) % 2**31 for index in indices]
        return worlds, [derive_seed(seed, "watched acting", role, index) for index in indices]

    def watch(
        self,
        worlds: Sequence[int],
        acting: Sequence[int],
        steps: int | None = None,
        perturb: Callable[[gym.Env[Any, Any]], Perturbation] | None = None,
        scale: NominalScale | None = None,
        random: bool = False,
    ) -> Iterator[Watched | None]:
        """Play one episode for each of ``worlds``, and yield them in that order.

        In place of one that held something non-finite, there is nothing.

        Args:
            worlds: seeds of the environments.
            acting: seeds of who acts.
            steps: after which an episode is cut, beside the environment's own limit.
            perturb: wraps an environment.
            scale: by which a frozen sensor is told to have moved.
            random: whether chance acts, in place of the policies.
        """
        made: list[gym.Env[Any, Any]] = []

        def make() -> gym.Env[Any, Any]:
            env = self._spare.pop() if self._spare else self.make()
            made.append(env if perturb is None else perturb(env))
            return made[-1]

        recorder = Recorder(make, steps or LONGEST)
        try:
            for first in range(0, len(worlds), AT_ONCE):
                chunk = slice(first, first + AT_ONCE)
                found: dict[int, Watched | None] = {}
                for policy, chosen in self._shared(acting[chunk], random):
                    few = [[seeds[chunk][index] for index in chosen] for seeds in (worlds, acting)]
                    episodes = recorder.record(policy, *few)
                    for index, episode, env in zip(chosen, episodes, made, strict=False):
                        found[index] = None if episode is None else self._told(episode, env, scale)
                yield from (found[index] for index in range(len(found)))
        finally:  # to build an environment takes longer than to play in one: they are kept for the next time
            self._spare.extend(env.restored() if isinstance(env, Perturbation) else env for env in made)

    def _shared(self, acting: Sequence[int], random: bool) -> list[tuple[RecordingPolicy, list[int]]]:
        """Return who acts in which of the episodes, by chance and weight."""
        if random:
            return [(RandomPolicy(), list(range(len(acting))))]
        ends = np.cumsum([weight for _, weight in self.policies])
        drawn = [numpy_generator(seed, "who acts").random() * ends[-1] for seed in acting]
        owners = np.searchsorted(ends, drawn, side="right").clip(max=len(ends) - 1)
        shares = [np.flatnonzero(owners == owner).tolist() for owner in range(len(ends))]
        return [(policy, share) for (policy, _), share in zip(self.policies, shares, strict=True) if share]

    def _told(self, episode: RecordedEpisode, env: gym.Env[Any, Any], scale: NominalScale | None) -> Watched:
        truth = np.zeros(len(episode.actions), bool)
        if not isinstance(env, Perturbation):
            return Watched(episode, truth, None)
        truth[: len(env.truth)] = env.truth
        moved = None
        if isinstance(env, SensorFrozen) and scale is not None:
            moved = env.moved(scale, MOVED_WITHIN * self.block)
        return Watched(episode, truth, env.event, moved)


MOVED_WITHIN = 10
"""Model steps in which the true value of a frozen sensor has to move."""


def load_subject(folder: str | os.PathLike[str], acting: Acting = "actor", policy: str | None = None) -> Subject:
    """Return whom a run is about: a trained agent in its task, or a pretrained world model and its store's policies.

    Args:
        folder: of the run.
        acting: whether an agent acts by its bare actor or by its planner.
        policy: who acts in place of the agent, or of the store's policies: random, expert, or another run's folder.

    Raises:
        RunFolderError: no such run, or one that has saved nothing yet.
        SettingsError: nobody is known to act there.
        CheckpointError: a damaged file.
    """
    run = Run.open(folder)
    if run.manifest.get("kind") == KIND:
        return _pretrained(run, policy)
    agent, settings = load_trained(folder)
    print_of = fingerprint(run.folder / AGENT_FILE)
    if policy is not None:
        named = [(recording_policy(settings.task, policy), 1.0)]
        return Subject(run.folder, settings.task, {}, _model_of(agent), named, policy, print_of)
    plans = hasattr(agent, "planning_with")
    actor = bare_policy(agent) if plans and acting == "actor" else agent
    how = {True: "its bare actor" if acting == "actor" else "its planner", False: "the agent"}[plans]
    acts = AgentPolicy(actor, deterministic=True)
    return Subject(run.folder, settings.task, {}, _model_of(agent), [(acts, 1.0)], how, print_of)


def _pretrained(run: Run, policy: str | None) -> Subject:
    world = world_model_of(run.folder)
    if world.task is None or world.store is None:
        raise SettingsError(f"{run.folder} does not know what task its recordings were of, so nothing can be played.")
    if policy is not None:
        weights = {policy: 1.0}
    else:
        unknown = "Whose episodes they were is not known; say who acts: --policy expert, or random."
        try:
            parts = read_source(world.store)["parts"]
        except RunFolderError as error:
            raise SettingsError(f"{error} {unknown}") from error
        weights = {}
        for part in parts:
            if "policy" not in part:
                raise SettingsError(f"{world.store} was imported. {unknown}")
            weights[part["policy"]] = weights.get(part["policy"], 0.0) + part["episodes"]
    policies = [(recording_policy(world.task, name), weight) for name, weight in weights.items()]
    return Subject(run.folder, world.task, world.env, world.model, policies, " and ".join(weights), world.fingerprint)


def _model_of(agent: Any) -> JEPA | None:
    model = getattr(agent, "model", None)
    return model.eval() if isinstance(model, JEPA) else None
