"""Environments: one batch interface over everything that a user may give us to act in."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from ..core.errors import CheckpointError, EnvironmentFault, SettingsError
from .codecs import ActionCodec, Array, Floats
from .transition import Transition
from .vectors import BuiltVector, Mask, Vector, clip_rewards, clipping_note, finite_rows, indices

FAULTS_IN_A_ROW = 10

logger = logging.getLogger("forethought.envs")


class Environments:
    """B environments that take internal actions, give coded observations, and keep faulty values out.

    A non-finite observation, reward or action cuts the episode: it is counted, nothing of that step is valid, and a
    fresh episode starts. So does an environment that fails, where it can be built anew: see :class:`BuiltVector`. A
    finite reward of more than 100,000 in size is clipped. Made by :func:`make_environments`.

    Attributes:
        name: what messages call the environments.
        num_envs: B.
        observation_space: of a single environment, native.
        action_space: of a single environment, native.
        observation_codec: to coded observations (B, O).
        action_codec: between internal actions (B, A) and native ones.
        observations: (B, O), or (B, height, width, 3), what to act on now.
        started: (B,), where ``observations`` begins a new episode.
        faults: episodes cut so far because of non-finite values.
        clipped_rewards: rewards clipped so far.
    """

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.name, self.num_envs = vector.name, vector.num_envs
        self.observation_space, self.action_space = vector.observation_space, vector.action_space
        self.observation_codec, self.action_codec = vector.codec, ActionCodec(vector.action_space)
        self.observations = self.observation_codec.empty(self.num_envs)
        self.started = np.zeros(self.num_envs, bool)
        self.faults = self.clipped_rewards = 0
        self._faults_in_a_row = np.zeros(self.num_envs, np.int64)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._actions: list[list[Floats]] = [[] for _ in range(self.num_envs)]  # of the open episodes
        self._was_reset = False

    def reset(self) -> Array:
        """Start a fresh episode in every environment and return its observations (B, O), or images."""
        observations = self.vector.reset()
        self._ensure_finite(observations, np.zeros(self.num_envs, bool))
        self._forget(np.ones(self.num_envs, bool))
        self._was_reset = True
        self.observations, self.started = observations, np.ones(self.num_envs, bool)
        return observations.copy()

    def step(self, actions: Array, longest: int | None = None) -> Transition:
        """Step every environment with internal actions (B, A), and start a fresh episode where one ended.

        Args:
            actions: (B, A).
            longest: steps after which an episode is truncated, in environments that were built here; those that came
                as a vector keep their own time.

        Raises:
            SettingsError: if the actions have another shape, or nothing was reset yet.
            EnvironmentFault: if an environment raises, hangs, dies or returns something of the wrong shape, and cannot
                be built anew (again); or if more than 10 of its episodes in a row have to be cut.
        """
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, self.action_codec.dims):
            expected = (self.num_envs, self.action_codec.dims)
            raise SettingsError(f"{self.name} takes actions of shape {expected}, not {actions.shape}.")
        if not self._was_reset:
            raise SettingsError(f"{self.name} must be reset before its first step.")
        usable = finite_rows(actions)
        native = self.action_codec.decode(actions if usable.all() else np.where(usable[:, None], actions, 0.0))
        last = self._lengths + 1 >= (np.inf if longest is None else longest)
        transition = self.vector.step(native, last)
        transition.truncated[transition.terminated] = False
        self._cut_faulty(transition, usable)
        self._clip_rewards(transition)
        self._account(actions, transition)
        self.observations, self.started = transition.observations.copy(), transition.started.copy()
        return transition

    @property
    def restarts(self) -> int:
        """Environments that failed and were built anew so far."""
        return self.vector.budget.restarts if isinstance(self.vector, BuiltVector) else 0

    def close(self) -> None:
        """Close the environments."""
        self.vector.close()

    # Faults

    def _cut_faulty(self, transition: Transition, usable: Mask) -> None:
        """Take back steps with non-finite values, in place, and make sure that what follows is finite."""
        finite_after = finite_rows(transition.next_observations)
        finite_reward = np.isfinite(transition.rewards)
        sound = usable & finite_after & finite_reward
        if sound.all() and finite_rows(transition.observations).all():
            return
        cut = transition.valid & ~sound
        for index in indices(cut):
            what = "action" if not usable[index] else "observation" if not finite_after[index] else "reward"
            transition.infos[index] = {"fault": f"non-finite {what}"}
            self._count_fault(index, what)
        self._ensure_finite(transition.observations, cut & ~transition.started)
        transition.valid[cut] = transition.terminated[cut] = transition.truncated[cut] = False
        transition.started[cut] = True
        unused = ~transition.valid
        transition.rewards[unused] = 0.0
        transition.next_observations[unused] = transition.observations[unused]

    def _ensure_finite(self, observations: Array, restart: Mask) -> None:
        """Start fresh episodes where ``restart`` holds, and again where they begin with a non-finite observation."""
        while True:
            if restart.any():
                self.vector.restart(restart, observations)
            restart = ~finite_rows(observations)
            if not restart.any():
                return
            for index in indices(restart):
                self._count_fault(index, "first observation")

    def _count_fault(self, index: int, what: str) -> None:
        if not self.faults:
            where = self.vector.where(index)
            logger.warning("%s: cut an episode because of a non-finite %s; more will be counted.", where, what)
        self.faults += 1
        self._faults_in_a_row[index] += 1
        if self._faults_in_a_row[index] > FAULTS_IN_A_ROW:
            raise EnvironmentFault(
                f"{self.vector.where(index)}: {self._faults_in_a_row[index]} episodes in a row had to be cut, "
                f"the last because of a non-finite {what}. The environment itself needs mending; `forethought doctor` "
                "tells more."
            )

    def _clip_rewards(self, transition: Transition) -> None:
        clipped = clip_rewards(transition.rewards)
        for index in indices(clipped != transition.rewards):
            if not self.clipped_rewards:
                logger.warning(clipping_note(self.vector.where(index), transition.rewards[index]))
            self.clipped_rewards += 1
        transition.rewards[:] = clipped

    # Accounts

    def _account(self, actions: Floats, transition: Transition) -> None:
        valid = transition.valid
        self._returns += transition.rewards
        self._lengths += valid
        if isinstance(self.vector, BuiltVector):  # only then can an episode be repeated
            for index in indices(valid):
                self._actions[index].append(actions[index].copy())
        ended = transition.terminated | transition.truncated
        self._faults_in_a_row[ended] = 0
        for index, info in enumerate(transition.infos):
            if not ended[index]:
                info.pop("episode", None)  # the environment's own, whatever it means by it
                continue
            info["TimeLimit.truncated"] = bool(transition.truncated[index])
            if not _is_tally(info.get("episode")):  # SB3's Monitor, below wrappers that change rewards, knows better
                info["episode"] = {"r": float(self._returns[index]), "l": int(self._lengths[index])}
        self._forget(ended | transition.started)

    def _forget(self, mask: Mask) -> None:
        self._returns[mask] = 0.0
        self._lengths[mask] = 0
        for index in indices(mask):
            self._actions[index] = []

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to take the open episodes up again, as plain data for JSON.

        That is each episode's number, reset seed and actions; of environments that we did not build, only counts.
        """
        vector = self.vector
        state: dict[str, Any] = {
            "num_envs": self.num_envs,
            "faults": self.faults,
            "faults_in_a_row": self._faults_in_a_row.tolist(),
            "clipped_rewards": self.clipped_rewards,
        }
        if isinstance(vector, BuiltVector) and self._was_reset:
            state["seed"], state["restarts"] = vector.seed, vector.budget.state_dict()
            state["open_episodes"] = [
                {
                    "episode": int(vector.episodes[index]),
                    "seed": int(vector.seeds[index]),
                    "steps": len(self._actions[index]),
                    "actions": _pack(np.array(self._actions[index], np.float32)),
                    "observation": _digest(self.observations[index]),
                    "return": float(self._returns[index]),
                }
                for index in range(self.num_envs)
            ]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Take up the open episodes of :meth:`state_dict`: reset with their seeds and repeat their actions.

        Afterwards ``observations`` and ``started`` say where each environment stands.

        Returns:
            Whether every environment came back to the observation and return that it had. Where one did not, or the
            environments were not built here, a fresh episode was started instead.

        Raises:
            CheckpointError: if the state is of another number of environments, or damaged.
        """
        if state.get("num_envs") != self.num_envs:
            raise CheckpointError(f"The saved state has {state.get('num_envs')} environments, not {self.num_envs}.")
        self.faults, self.clipped_rewards = int(state.get("faults", 0)), int(state.get("clipped_rewards", 0))
        self._faults_in_a_row[:] = state.get("faults_in_a_row", 0)
        episodes = state.get("open_episodes")
        if not isinstance(self.vector, BuiltVector) or episodes is None:
            self.reset()
            return False
        try:
            self.vector.seed = int(state.get("seed", self.vector.seed))  # of the episodes to come
            self.vector.budget.load_state_dict(state.get("restarts", {}))
            exact = [self._repeat(self.vector, index, episode) for index, episode in enumerate(episodes)]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"The saved state of {self.name} is damaged: {error!r}") from error
        self._was_reset = True
        fresh = ~np.array(exact)
        self._forget(fresh)
        self._ensure_finite(self.observations, fresh)
        self.started = fresh | (self._lengths == 0)
        return all(exact)

    def _repeat(self, vector: BuiltVector, index: int, episode: Mapping[str, Any]) -> bool:
        """Repeat one open episode; return whether it led where it had led before."""
        actions = _unpack(episode["actions"]).reshape(int(episode["steps"]), self.action_codec.dims)
        earned, ended = 0.0, False
        try:
            observation = vector.begin(index, int(episode["episode"]), int(episode["seed"]))
            for native in self.action_codec.decode(actions):
                if ended:
                    return False
                outcome = vector.advance(index, native)
                observation, ended = outcome.observation, outcome.terminated or outcome.truncated
                earned += float(clip_rewards(outcome.reward))
        except EnvironmentFault as fault:
            self.observations[index] = vector.replace(index, fault)
            return False
        self.observations[index] = observation
        self._actions[index] = list(actions)
        self._returns[index], self._lengths[index] = earned, len(actions)
        same = _digest(observation) == episode["observation"] and earned == float(episode["return"])
        return same and not ended


def _is_tally(known: Any) -> bool:
    """Whether it is what SB3's Monitor tells of an episode: its return and length."""
    numbers = [known.get(name) for name in ("r", "l")] if isinstance(known, dict) else [None]
    return all(isinstance(number, Real) and np.isfinite(float(number)) for number in numbers)


def _digest(observation: Array) -> str:
    """Return what tells one observation from another, bit for bit."""
    return hashlib.sha256(observation.tobytes()).hexdigest()


def _pack(values: Floats) -> str:
    """Return float32 numbers as text, exactly and much shorter than in decimals."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _unpack(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
