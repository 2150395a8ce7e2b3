"""JEPAAgent: learns a world model from environment rollouts and acts by planning in it.

It speaks Stable-Baselines3: the constructor's and ``learn``'s arguments, ``predict``, ``save``, ``load``, the
logger's keys and the callbacks are those of an SB3 algorithm, though it shares no code with one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.checkpoints import Checkpoint
from ..core.errors import SettingsError
from ..core.files import load_archive, save_archive
from ..core.seeding import derive_seed
from ..core.settings import merged
from ..envs import ActionCodec, Environments, EpisodeStore, ObservationCodec, make_environments
from ..planners import ActionSpec
from ..world_model import JEPA, Learner, Probe
from .controller import ControllerState
from .devices import choose_device, memory_explained
from .networks import make_networks
from .online import OnlineTraining
from .policy import PlanningPolicy, reward_policy
from .pretrain import take_statistics
from .pretrained import pretrained_model, require_spaces, settings_from, take_over
from .recordings import Recordings, described_lack, require_same
from .registry import register_agent
from .saving import checkpoint_of, parts, read_agent, restore_checkpoint, restore_parts
from .settings import JEPAAgentSettings, split_changes
from .surface import SB3Surface
from .trials import AgentState
from .wish import Wish
from .wish_policy import agents_wish_policy, wish_planning

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


@register_agent("jepa")
class JEPAAgent(SB3Surface):
    """Model-based: learns a JEPA world model online and plans in it by any registered planner.

    Args:
        env: a task name, environment, factory, Gymnasium vector environment or SB3 ``VecEnv``.
        planner: planner for ``predict`` and evaluation by name; short for ``planning={"planner": ...}``.
        seed: of every random stream.
        verbose: 0 for silence, 1 for SB3's table of metrics.
        tensorboard_log: folder for TensorBoard events, or ``None``.
        device: "cpu", "cuda", or "auto".
        world_model: a pretrained world model to go on from: a run of ``forethought pretrain``, a saved model or a
            :class:`JEPA`. Its settings are then the defaults of ``model``; see :mod:`.pretrained`.
        store: recorded episodes of the task, as a folder or an :class:`EpisodeStore`, from which ``recorded_share`` of
            every batch is drawn. They are only read; the agent's own steps are kept apart.
        settings: fields of :class:`JEPAAgentSettings`; nested settings as objects or as mappings.

    Attributes:
        built_anew: heads that the pretrained world model lacked.
        proven: the state of the agent that did best in trials (``trial_share``), if any did; it acts when it counts.
        recordings: the recorded episodes that are learned from, if any.
        learned_from: what they are known again by, which outlives them: a loaded agent needs :meth:`set_store`.

    Raises:
        UnknownNameError, SettingsError: for a planner or setting that does not exist, naming the closest.
        UnsupportedSpaceError: for spaces that the agent cannot work with.
        CheckpointError: there is no world model or store, or it is damaged.
    """

    Settings: ClassVar[type[JEPAAgentSettings]] = JEPAAgentSettings
    Model: ClassVar[type[JEPA]] = JEPA

    def __init__(
        self,
        env: Any,
        planner: str | None = None,
        *,
        seed: int | None = 0,
        verbose: int = 0,
        tensorboard_log: str | None = None,
        device: str = "auto",
        world_model: JEPA | str | os.PathLike[str] | None = None,
        store: EpisodeStore | str | os.PathLike[str] | None = None,
        _spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None,
        **settings: Any,
    ) -> None:
        pretrained = None if world_model is None else pretrained_model(world_model)
        if pretrained is not None:
            settings["model"] = settings_from(pretrained, settings.get("model"))
        self.settings = self.Settings.from_dict(merged(self.Settings().to_dict(), settings))
        if planner is not None:
            self.settings = self.settings.replace(planning=self.settings.planning.replace(planner=planner))
        super().__init__(seed, verbose, tensorboard_log)
        self.device = choose_device(device)
        self._training: OnlineTraining | None = None
        self.proven: AgentState | None = None
        self.recordings: Recordings | None = None
        self.learned_from: dict[str, Any] | None = None
        self._env_source: Any = None
        self._environments: Environments
        self._vec_env: VecEnv | None = None
        self._started = (time.monotonic(), 0)
        if env is not None:
            self.set_env(env)
        elif _spaces is not None:
            self._adopt_spaces(*_spaces)
        else:
            raise SettingsError("An agent needs an environment: JEPAAgent('HalfCheetah-v5'), or JEPAAgent.load(path).")
        if pretrained is not None:
            require_spaces(pretrained, self.observation_codec, self.action_codec)
        self._build(pretrained)
        if store is not None:
            self.set_store(store)

    def _adopt_spaces(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_codec, self.action_codec = ObservationCodec(observation_space), ActionCodec(action_space)
        self.settings = self.settings.settled(self.observation_codec.shape)

    def _build(self, pretrained: JEPA | None) -> None:
        s = self.settings
        self.spec = ActionSpec.from_space(self.action_codec.planning_space, block=s.model.block)
        room = memory_explained("the world model, actor and critic", "model.hidden or behaviour.hidden")
        with room:
            self.model, self.behaviour = make_networks(self)
        self._pretrained = pretrained is not None
        self.built_anew = [] if pretrained is None else take_over(self.model, pretrained)
        self.learner = Learner(self.model, s.learner, s.compute, self.stream("learner"))
        self.spec = self.spec.to(self.device)
        self.acting_policy = reward_policy(self, s.acting, learning=True)
        self.planning_policy = reward_policy(self, s.planning)

    def prove(self, state: AgentState | None) -> None:
        """Act as ``state`` does from now on when it counts, which is copied; ``None`` for as what learns on does."""
        if state is None:
            self.proven = None
        else:
            self.proven = self.proven or AgentState(self)
            self.proven.take(state, state.step)
            self.proven.worst_return = state.worst_return
        self.planning_policy = reward_policy(self, self.settings.planning)

    def stream(self, name: str, index: int = 0) -> int:
        """Return the seed of one of the agent's random streams."""
        return derive_seed(self.seed, name, index)

    # Acting

    def predict(
        self,
        observation: Any,
        state: ControllerState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], ControllerState]:
        """Choose actions by planning; see :meth:`PlanningPolicy.predict`."""
        return self.planning_policy.predict(observation, state, episode_start, deterministic)

    def initial_state(self, seeds: Any) -> ControllerState:
        """Return the state from which ``predict`` acts in environments that begin an episode, one per seed."""
        return self.planning_policy.initial_state(seeds)

    def planning_with(self, planner: str, **changes: Any) -> PlanningPolicy:
        """Return a view of this agent that acts by another planner, without any training.

        Args:
            planner: a registered name; "policy" is the bare actor, or the best of several ``proposals``.
            changes: fields of :class:`PlanningSettings` (horizon, budget, ...), or else the planner's own settings.
        """
        shared, own = split_changes(planner, changes)
        planning = self.settings.planning_by(planner).replace(**shared)
        return reward_policy(self, planning, own)

    def planning_for(
        self,
        wish: Wish,
        probes: Probe | Mapping[str, Probe] = MappingProxyType({}),
        planner: str | None = None,
        limits: gym.spaces.Box | None = None,
        **changes: Any,
    ) -> PlanningPolicy:
        """Return a view of this agent that acts on a wish that it was never trained for.

        Args:
            wish: such as ``quantity("x_velocity", target=2.0)``.
            probes: read its quantities off the latents, such as :func:`~forethought.evaluations.wish_probes` makes;
                one for all of them, or several by name.
            planner: a registered name; by default icem or categorical_cem, and for a wish that names no quantity the
                agent's own, where that searches.
            limits: a box of native actions inside the action space that plans are to stay in.
            changes: fields of :class:`PlanningSettings` that are not to be those of ``WISH_PLANNING`` (or, for a wish
                that names no quantity, the agent's own), or else the planner's own settings.

        Raises:
            UnknownNameError, SettingsError: see :func:`.wish_policy.wish_policy`.
        """
        planning = wish_planning(self.settings, wish, planner)
        shared, own = split_changes(planning.planner, changes)
        return agents_wish_policy(self, wish, probes, planning.replace(**shared), own, limits)

    # Learning

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 4,
        tb_log_name: str = "jepa",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for ``total_timesteps`` environment steps; the arguments are those of SB3's ``learn``.

        Args:
            total_timesteps: environment steps to take, beyond those already taken if ``reset_num_timesteps`` is off.
            callback: SB3 callback, a list of them, or a function of (locals, globals).
            log_interval: finished episodes between two lines of the log; ``None`` for none.
            tb_log_name: name of the run in TensorBoard.
            reset_num_timesteps: count from zero and begin fresh episodes; what was learned and stored stays.
            progress_bar: show one (needs tqdm).
        """
        if self.learned_from is not None and self.recordings is None:
            raise SettingsError(described_lack(self.learned_from))
        training = self._require_training()
        if reset_num_timesteps or training.control is None or not self._builds_environments():
            training.begin()
        self._started = (time.monotonic(), 0 if reset_num_timesteps else self.num_timesteps)
        until, prepared = self._set_up_learning(
            total_timesteps, callback, tb_log_name, reset_num_timesteps, progress_bar
        )
        training.run(until, prepared, log_interval)
        prepared.on_training_end()
        return self

    @property
    def experience_bytes(self) -> int:
        """Bytes of the experience gathered so far."""
        return self._training.store.nbytes if self._training else 0

    def dump_logs(self) -> None:
        """Write what was recorded since the last time, with SB3's keys."""
        training = self._require_training()
        since, at_start = self._started
        elapsed = max(time.monotonic() - since, 1e-9)
        self.logger.record("time/fps", int((self.num_timesteps - at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        training.record()
        self._dump(training.episodes)

    # Environments

    def set_env(self, env: Any) -> None:
        """Learn in ``env`` from now on, with the experience so far; its spaces must be those the agent was made for."""
        if self.recordings is not None and self.settings.recorded_rewards:
            self.recordings.require_task(env)
        before = self.num_timesteps + (self.learner.optimization.updates if hasattr(self, "learner") else 0)
        s, seed = self.settings, self.stream("environments", before)  # other episodes than before
        environments = make_environments(env, s.num_envs, seed, async_envs=s.async_envs, supervision=s.supervision)
        spaces = environments.observation_space, environments.action_space
        if hasattr(self, "observation_space"):
            self._require_same_spaces(*spaces)
        else:
            self._adopt_spaces(*spaces)
        if self._builds_environments():
            self._environments.close()
        self._env_source, self._environments, self._vec_env = env, environments, None
        if self.proven is not None:
            self.proven.worst_return = -math.inf  # it was proven elsewhere
        if self._training is not None:
            self._training.move_to(environments)

    def _builds_environments(self) -> bool:
        """Whether the environments are the agent's own, made from a name or a factory, and nobody else moves them."""
        factory = callable(self._env_source) and not isinstance(self._env_source, gym.Env | gym.vector.VectorEnv)
        return isinstance(self._env_source, str) or factory

    def get_env(self) -> VecEnv | None:
        """Return the training environments as an SB3 ``VecEnv``, or ``None`` for an agent without any.

        Objects of yours are shared with the agent; whatever was done to them, ``learn`` begins fresh episodes in them.
        """
        if self._env_source is None:
            return None
        if self._vec_env is None:
            from .sb3 import as_vec_env

            self._vec_env = as_vec_env(self._env_source, self._environments)
        return self._vec_env

    @property
    def faults(self) -> int:
        """Episodes that were cut because of non-finite values."""
        return 0 if self._env_source is None else self._environments.faults

    @property
    def restarts(self) -> int:
        """Environments that failed and were built anew."""
        return 0 if self._env_source is None else self._environments.restarts

    def _require_training(self) -> OnlineTraining:
        if self._env_source is None:
            raise SettingsError("This agent has no environment to learn in: call set_env(env), or load(path, env=env).")
        if self._training is None:
            self._training = OnlineTraining(self, self._environments)
        return self._training

    # Recordings

    def set_store(self, store: EpisodeStore | str | os.PathLike[str] | None) -> None:
        """Learn from these recorded episodes too from now on, as they are now; ``None`` for none.

        They are only read. An agent that has seen nothing yet takes the statistics of what it sees and does from them.

        Raises:
            CheckpointError: there is no store, or it is damaged.
            SettingsError: it is empty, or of another environment or task; see ``recorded_rewards``.
        """
        recordings = None if store is None else Recordings(store)
        if recordings is not None:
            recordings.require_spaces(self.observation_codec, self.action_codec)
            if self.settings.recorded_rewards:
                recordings.require_task(self._env_source)
            learned = self._pretrained or self.learner.optimization.updates  # a fixed normaliser does not count
            if not float(getattr(self.model.normalizer, "count", learned)):
                take_statistics(self.model, recordings.store, np.ones(recordings.rows, bool))
        self.recordings = recordings
        self.learned_from = None if recordings is None else recordings.identity()

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent as one zip of safetensors and JSON, which loads without executing code.

        It holds weights, statistics, settings and optimisers; :meth:`checkpoint` adds the experience and all
        random streams, from which a run goes on.
        """
        save_archive(path, *parts(self))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: Any = None,
        device: str = "auto",
        store: EpisodeStore | str | os.PathLike[str] | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> Self:
        """Read an agent that :meth:`save` wrote.

        Args:
            path: the file, with or without its suffix ``.zip``.
            env: an environment to go on learning in; without one the agent predicts only.
            device: see the constructor.
            store: recordings to go on learning from; see :meth:`set_store`.
            verbose: likewise.
            tensorboard_log: likewise. All other settings are those that it was saved with.

        Raises:
            CheckpointError: for a damaged or foreign file; nothing in it is executed.
        """
        archive = load_archive(path)
        saved = read_agent(archive, cls.Settings)
        shown: dict[str, Any] = {"verbose": verbose, "tensorboard_log": tensorboard_log, "device": device}
        agent = cls(None, seed=saved.seed, _spaces=saved.spaces, **shown, **saved.settings)
        restore_parts(agent, archive.documents, archive.tensors)
        agent.learned_from = saved.recordings
        if env is not None:
            agent.set_env(env)
        if store is not None:
            agent.set_store(store)
        return agent

    def checkpoint(self, saved_rows: int = 0) -> Checkpoint:
        """Return everything that :meth:`restore` needs to go on: the agent, its experience, streams and episodes.

        Args:
            saved_rows: rows of experience that earlier checkpoints hold; this one has those that came since.
        """
        return checkpoint_of(self, self._require_training(), saved_rows)

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Continue from :meth:`checkpoint`'s output, with all segments of the experience.

        Returns:
            Whether the open episodes were restored exactly; where not, fresh ones were begun.

        Raises:
            CheckpointError: it is of another agent, or of one that learned from other recordings.
        """
        require_same(checkpoint.documents.get("agent", {}).get("recordings"), self.recordings)
        return restore_checkpoint(self, self._require_training(), checkpoint)
