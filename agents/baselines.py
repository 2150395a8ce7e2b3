"""Baselines: Stable-Baselines3's algorithms behind the surface, the checks and the file format of our own agents.

Each is composed of an SB3 model, in ``agent.model``, that learns and acts exactly as it would alone: the same seed and
settings give the same weights. SB3's own files can execute code when they are loaded, so its ``save`` and ``load`` are
never called. Stable-Baselines3 is imported when a baseline is built, so that listing them stays quick.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.errors import CheckpointError, DivergedError, SettingsError, UnsupportedSpaceError, missing_extra
from ..core.files import load_archive, save_archive
from ..core.seeding import drawn_seed
from ..core.trees import flatten_tree, unflatten_tree
from ..envs.space_documents import describe_space, restore_space
from .devices import choose_device, memory_explained
from .registry import register_agent
from .sb3 import console_logger
from .sb3_checks import check_settings, check_spaces
from .training_env import build_vec_env

if TYPE_CHECKING:
    import torch
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import VecEnv

COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "exploration_rate")


class Baseline:
    """An SB3 algorithm as one of our agents; its subclasses name the algorithm, what it acts in, and new defaults.

    Args:
        env: a task name, environment, factory or SB3 ``VecEnv``; ``None`` in :meth:`load` alone.
        seed: SB3's; it seeds the global generators of Python, NumPy and torch, and the environments.
        verbose: 0 for silence, 1 for SB3's table of metrics.
        tensorboard_log: folder for TensorBoard events, or ``None``.
        device: "cpu", "cuda", or "auto".
        settings: SB3's keyword arguments that JSON can hold. ``action_noise`` is the standard deviation of Gaussian
            noise on actions in [-1, 1]. The policy is SB3's MLP.

    Attributes:
        model: the SB3 model.
        settings: the given settings over this baseline's defaults; SB3's defaults hold for the others.

    Raises:
        SettingsError: for a setting that SB3 does not have, naming the closest, or refuses.
        UnsupportedSpaceError: for spaces that the algorithm cannot work with, naming baselines that can.
        MissingExtraError: where sb3-contrib is needed and not installed.
    """

    name: ClassVar[str]
    algorithm: ClassVar[str]
    acts_in: ClassVar[tuple[type[gym.Space[Any]], ...]]
    defaults: ClassVar[dict[str, Any]]

    def __init_subclass__(
        cls,
        name: str,
        algorithm: str,
        acts_in: tuple[type[gym.Space[Any]], ...],
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        cls.name, cls.algorithm, cls.acts_in, cls.defaults = name, algorithm, acts_in, dict(defaults or {})
        register_agent(name)(cls)

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
        algorithm = self._import_algorithm()
        self.settings = copy.deepcopy({**self.defaults, **check_settings(self.name, algorithm, settings)})
        self.seed = drawn_seed(seed)
        if env is None and _spaces is None:
            raise SettingsError(f"An agent needs an environment: make_agent({self.name!r}, 'HalfCheetah-v5').")
        vec_env = build_vec_env(_Spaces(*_spaces) if env is None and _spaces is not None else env)
        self.observation_space, self.action_space = vec_env.observation_space, vec_env.action_space
        check_spaces(self.name, self.acts_in, self.observation_space, self.action_space)
        policy = "MultiInputPolicy" if isinstance(self.observation_space, spaces.Dict) else "MlpPolicy"
        if policy not in algorithm.policy_aliases:
            raise UnsupportedSpaceError(
                f"{self.name} cannot observe {self.observation_space}: flatten it with "
                "gymnasium.wrappers.FlattenObservation."
            )
        chosen = choose_device(device)  # SB3 would quietly compute on the CPU instead
        try:
            with memory_explained(f"{self.name}'s experience and networks", "buffer_size or net_arch"):
                self.model: BaseAlgorithm = algorithm(
                    policy,
                    vec_env,
                    seed=self.seed % 2**32,  # NumPy's global generator takes no larger one
                    verbose=verbose,
                    tensorboard_log=tensorboard_log,
                    device=chosen,
                    **self._for_sb3(),
                )
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise SettingsError(f"Stable-Baselines3 refuses to build {self.name} so: {error}") from error
        if tensorboard_log is None:
            self.model.set_logger(console_logger(verbose))
        # Callbacks see the SB3 model, with all that they may want of it; what they save shall be our format too.
        self.model.save = self.save  # type: ignore[method-assign,assignment]
        if env is None:
            self.model.env = None

    # Acting and learning

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Choose native actions for one native observation or a batch, as SB3's ``predict`` does."""
        return self.model.predict(observation, state, episode_start, deterministic)

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for at least ``total_timesteps`` environment steps; arguments and defaults are SB3's.

        Raises:
            DivergedError: once a weight is not finite any more and so no action either.
        """
        if self.model.env is None:
            raise SettingsError("This agent has no environment to learn in: call set_env(env), or load(path, env=env).")
        chosen = {"log_interval": log_interval, "tb_log_name": tb_log_name or self.name}
        try:
            with memory_explained("an update", "batch_size"):
                self.model.learn(
                    total_timesteps,
                    callback,
                    reset_num_timesteps=reset_num_timesteps,
                    progress_bar=progress_bar,
                    **{name: value for name, value in chosen.items() if value is not None},  # type: ignore[arg-type]
                )
        except ValueError as error:  # as torch's distributions raise it for parameters that are not finite
            weights = self.model.policy.state_dict()
            if wrong := [name for name, weight in weights.items() if not weight.isfinite().all()]:
                raise DivergedError(f"{self.name} has diverged: its weights {wrong[0]} are not finite.") from error
            raise
        return self

    @property
    def num_timesteps(self) -> int:
        """Environment steps learned from."""
        return self.model.num_timesteps

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def rollout_steps(self) -> int:
        """Environment steps after which it learns from all of them, for algorithms that do so; 0 for others."""
        from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

        model = self.model
        return model.n_steps * model.n_envs if isinstance(model, OnPolicyAlgorithm) else 0

    @property
    def faults(self) -> int:
        """Episodes that were cut in the training environment, because something in them was not finite."""
        return int(getattr(self.model.get_env(), "faults", 0))

    @property
    def logger(self) -> Logger:
        """SB3's logger; with ``tensorboard_log`` there is none before ``learn`` or ``set_logger``."""
        return self.model.logger

    def set_logger(self, logger: Logger) -> None:
        """Log to ``logger`` from now on."""
        self.model.set_logger(logger)

    def dump_logs(self) -> None:
        """Write what was recorded since the last time."""
        self.model.dump_logs()

    @property
    def env(self) -> VecEnv | None:
        """The training environments; see :meth:`get_env`."""
        return self.get_env()

    def get_env(self) -> VecEnv | None:
        """Return the training environments."""
        return self.model.get_env()

    def get_vec_normalize_env(self) -> None:
        """Return ``None``: ``VecNormalize`` is refused."""

    def set_env(self, env: Any) -> None:
        """Learn in ``env`` from now on; its spaces and number must be those that the agent was made for."""
        vec_env = build_vec_env(env)
        if (vec_env.observation_space, vec_env.action_space) != (self.observation_space, self.action_space):
            raise SettingsError(
                f"The environment observes {vec_env.observation_space} and acts in {vec_env.action_space}; this agent "
                f"was made for {self.observation_space} and {self.action_space}."
            )
        if vec_env.num_envs != self.model.n_envs:
            raise SettingsError(f"{self.name} was made for {self.model.n_envs} environments, not {vec_env.num_envs}.")
        vec_env.seed(self.seed % 2**32)
        self.model.set_env(vec_env)

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, optimisers and settings as one zip of safetensors and JSON; experience is not part of it."""
        state: dict[str, Any] = {"parameters": self.model.get_parameters()}
        if (temperature := getattr(self.model, "log_ent_coef", None)) is not None:
            state["log_ent_coef"] = temperature
        document, tensors = flatten_tree(state)
        agent = {
            "kind": f"{self.name}-agent",
            "settings": self.settings,
            "observation_space": describe_space(self.observation_space),
            "action_space": describe_space(self.action_space),
            "seed": self.seed,
            "counters": {name: getattr(self.model, name) for name in COUNTERS if hasattr(self.model, name)},
        }
        save_archive(path, {"agent": agent, "model": document}, {"model": tensors})

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: Any = None, device: str = "auto", **kwargs: Any) -> Self:
        """Read a baseline that :meth:`save` wrote, into a fresh SB3 model.

        Args:
            path: the file, with or without its suffix ``.zip``.
            env: an environment to go on learning in, with fresh experience; without one the agent predicts only.
            device: see the constructor.
            kwargs: ``verbose`` and ``tensorboard_log``.

        Raises:
            CheckpointError: for a damaged or foreign file; nothing in it is executed.
        """
        archive = load_archive(path)
        document = archive.documents.get("agent")
        if not isinstance(document, dict) or document.get("kind") != f"{cls.name}-agent":
            raise CheckpointError(f"{archive.path} does not hold a {cls.name} agent.")
        try:
            known = restore_space(document["observation_space"]), restore_space(document["action_space"])
            agent = cls(env, document["seed"], device=device, _spaces=known, **document["settings"], **kwargs)
            if (agent.observation_space, agent.action_space) != known:
                raise SettingsError(
                    f"The environment's spaces are not those of {archive.path}: {known[0]}, {known[1]}."
                )
            state = unflatten_tree(archive.documents["model"], archive.tensors["model"])
            agent.model.set_parameters(state["parameters"], exact_match=True)
            if "log_ent_coef" in state:
                agent.model.log_ent_coef.data.copy_(state["log_ent_coef"])  # type: ignore[attr-defined]
            for name in COUNTERS:
                if name in document["counters"]:
                    setattr(agent.model, name, document["counters"][name])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, SettingsError | UnsupportedSpaceError):
                raise
            raise CheckpointError(f"{archive.path} does not fit {cls.name}: {error}.") from error
        return agent

    # How SB3 wants it

    @classmethod
    def _import_algorithm(cls) -> type[BaseAlgorithm]:
        package, name = cls.algorithm.split(":")
        try:
            algorithm: type[BaseAlgorithm] = getattr(importlib.import_module(package), name)
        except ImportError as error:
            raise missing_extra(f"The baseline {cls.name!r}", "contrib") from error
        return algorithm

    def _for_sb3(self) -> dict[str, Any]:
        """Return the settings as SB3 takes them."""
        settings = copy.deepcopy(self.settings)  # SB3 adds entries of its own to policy_kwargs
        if settings.get("action_noise") is not None:
            from stable_baselines3.common.noise import NormalActionNoise

            dims = int(np.prod(self.action_space.shape or ()))
            settings["action_noise"] = NormalActionNoise(np.zeros(dims), np.full(dims, settings["action_noise"]))
        return settings


class _Spaces(gym.Env[Any, Any]):
    """Nothing but the spaces that a model is built for."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


BOX = (spaces.Box,)
ANY = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

# SB3's defaults hold, its 100 steps before learning starts included: 1,000 made SAC worse or no better after 4,000
# steps of InvertedPendulum-v5 and Pendulum-v1. The exceptions:
# - TD3 does not explore unless it is given noise; 0.1 is its paper's (Fujimoto et al. 2018, section 6.1).
# - DQN's are Atari's, with one copy of its target network in 10,000 steps: after 15,000 steps of CartPole-v1 it stood
#   at a return of 9 on each of 3 seeds, and with these at 120 to 173.
TD3_DEFAULTS = {"action_noise": 0.1}
DQN_DEFAULTS = {"learning_rate": 1e-3, "target_update_interval": 500}


class PPO(Baseline, name="ppo", algorithm="stable_baselines3:PPO", acts_in=ANY):
    """Proximal policy optimisation (SB3): on-policy, any actions; robust, and needs many steps."""


class SAC(Baseline, name="sac", algorithm="stable_baselines3:SAC", acts_in=BOX):
    """Soft actor-critic (SB3): off-policy, continuous actions; the usual yardstick for few steps."""


class TD3(Baseline, name="td3", algorithm="stable_baselines3:TD3", acts_in=BOX, defaults=TD3_DEFAULTS):
    """Twin delayed deterministic policy gradient (SB3): off-policy, continuous actions."""


class DQN(Baseline, name="dqn", algorithm="stable_baselines3:DQN", acts_in=(spaces.Discrete,), defaults=DQN_DEFAULTS):
    """Deep Q-network (SB3): off-policy, discrete actions."""


class TQC(Baseline, name="tqc", algorithm="sb3_contrib:TQC", acts_in=BOX):
    """Truncated quantile critics (sb3-contrib): SAC with a distributional critic."""


class CrossQ(Baseline, name="crossq", algorithm="sb3_contrib:CrossQ", acts_in=BOX):
    """CrossQ (sb3-contrib): SAC with batch normalisation and without target networks; learns from fewer steps."""
