"""RandomAgent: uniformly random actions, the floor that every comparison stands on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.errors import CheckpointError, SettingsError
from ..core.files import load_archive, save_archive
from ..core.seeding import numpy_generator
from ..envs import ActionCodec, ObservationCodec
from ..envs.space_documents import describe_space, restore_space
from .registry import register_agent
from .surface import SB3Surface
from .training_env import build_vec_env

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

KIND = "random-agent"


@dataclass(frozen=True, eq=False)
class RandomState:
    """Where each of B environments is in its stream of random actions.

    Attributes:
        seeds: (B,) of the streams.
        ticks: (B,) actions drawn so far.
    """

    seeds: NDArray[np.int64]
    ticks: NDArray[np.int64]

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> RandomState:
        """Return the state of the environments at ``index``."""
        return RandomState(self.seeds[index], self.ticks[index])


@register_agent("random")
class RandomAgent(SB3Surface):
    """Uniformly random actions; learns nothing, on any space.

    Args:
        env: a task name, environment, factory or SB3 ``VecEnv``; ``None`` in :meth:`load` alone.
        seed: of the actions.
        verbose: 0 for silence, 1 for SB3's table of metrics.
        tensorboard_log: folder for TensorBoard events, or ``None``.
        device: of no importance here; for a surface like the others'.
    """

    def __init__(
        self,
        env: Any,
        seed: int | None = 0,
        verbose: int = 0,
        tensorboard_log: str | None = None,
        device: str = "auto",
        *,
        _spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None,
        **settings: Any,
    ) -> None:
        if settings:
            raise SettingsError(f"The random agent has no settings, so none is called {next(iter(settings))!r}.")
        super().__init__(seed, verbose, tensorboard_log)
        self._episodes: deque[dict[str, float]] = deque(maxlen=100)
        self._generator = numpy_generator(self.seed, "actions")
        self._env: VecEnv | None = None
        if env is None and _spaces is None:
            raise SettingsError("An agent needs an environment: make_agent('random', 'HalfCheetah-v5').")
        if _spaces is not None:
            self._adopt_spaces(*_spaces)
        if env is not None:
            self.set_env(env)

    def _adopt_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._observations, self._actions = ObservationCodec(observation_space), ActionCodec(action_space)

    # Acting

    def initial_state(self, seeds: Sequence[int] | NDArray[np.int64]) -> RandomState:
        """Return a state in which each environment has a stream of actions of its own, whoever acts beside it."""
        return RandomState(np.asarray(seeds, np.int64), np.zeros(len(seeds), np.int64))

    def predict(
        self,
        observation: Any,
        state: RandomState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], RandomState | None]:
        """Draw native actions for one native observation or a batch.

        From the streams of ``state``, or, without one, from the agent's own generator. ``episode_start`` and
        ``deterministic`` change nothing.
        """
        batched = self._observations.is_batch(observation)
        if state is not None:
            streams = zip(state.seeds.tolist(), state.ticks.tolist(), strict=True)
            drawn = [self._actions.sample(numpy_generator(seed, "actions", tick), 1) for seed, tick in streams]
            actions, state = np.concatenate(drawn), replace(state, ticks=state.ticks + 1)
        else:
            batch = len(self._observations(observation)) if batched else 1
            actions = self._actions.sample(self._generator, batch)
        native = self._actions.decode(actions)
        return (native if batched else native[0]), state

    # "Learning"

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 4,
        tb_log_name: str = "random",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Act at random for ``total_timesteps`` environment steps, with callbacks and log as if it were learning."""
        if self._env is None:
            raise SettingsError("This agent has no environment to act in: call set_env(env), or load(path, env=env).")
        until, prepared = self._set_up_learning(
            total_timesteps, callback, tb_log_name, reset_num_timesteps, progress_bar
        )
        prepared.on_rollout_start()
        self._episodes.clear()
        unlogged, batch = 0, self._env.num_envs
        self._env.reset()
        while self.num_timesteps < until:
            actions = self._actions.decode(self._actions.sample(self._generator, batch))
            new_obs, rewards, dones, infos = self._env.step(actions)
            self.num_timesteps += batch
            finished = [info["episode"] for info in infos if "episode" in info]
            self._episodes.extend(finished)
            unlogged += len(finished)
            prepared.update_locals(
                {"new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos, "actions": actions}
            )
            if not prepared.on_step():
                break
            if log_interval and unlogged >= log_interval:
                unlogged = 0
                self.dump_logs()
        prepared.on_rollout_end()
        prepared.on_training_end()
        return self

    @property
    def faults(self) -> int:
        """Episodes that were cut in the training environment, because something in them was not finite."""
        return int(getattr(self._env, "faults", 0))

    def dump_logs(self) -> None:
        """Write returns and lengths of the last hundred episodes, with SB3's keys."""
        self._dump(self._episodes)

    def get_env(self) -> VecEnv | None:
        """Return the environments, or ``None``."""
        return self._env

    def set_env(self, env: Any) -> None:
        """Act in ``env`` from now on; its spaces must be those that the agent was made for."""
        vec_env = build_vec_env(env)
        if hasattr(self, "action_space"):
            self._require_same_spaces(vec_env.observation_space, vec_env.action_space)
        else:
            self._adopt_spaces(vec_env.observation_space, vec_env.action_space)
        vec_env.seed(self.seed % 2**31)
        self._env = vec_env

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write spaces, seed and counter, in the format of all agents."""
        document = {
            "kind": KIND,
            "observation_space": describe_space(self.observation_space),
            "action_space": describe_space(self.action_space),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
        }
        save_archive(path, {"agent": document}, {})

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: Any = None, device: str = "auto", **kwargs: Any) -> Self:
        """Read what :meth:`save` wrote; raises :class:`CheckpointError` for anything else."""
        archive = load_archive(path)
        document = archive.documents.get("agent")
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise CheckpointError(f"{archive.path} does not hold a random agent.")
        try:
            known = restore_space(document["observation_space"]), restore_space(document["action_space"])
            agent = cls(env, int(document["seed"]), device=device, _spaces=known, **kwargs)
            agent.num_timesteps = int(document["num_timesteps"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{archive.path} does not fit a random agent: {error}.") from error
        return agent
