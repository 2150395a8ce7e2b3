"""The online loop: act, store, learn."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.checkpoints import Segment
from ..core.clip import Clip
from ..core.errors import DivergedError, SettingsError
from ..core.seeding import derive_seed, numpy_generator, torch_generator
from ..envs import EpisodeStore
from ..world_model import collapse_alarm, measure_health
from .devices import memory_explained
from .recovery import Recovery
from .trials import Trials

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback

    from ..envs import Environments
    from .controller import ControllerState
    from .jepa_agent import JEPAAgent

HELD_OUT_ROWS = 128
_COUNTERS = (
    "steps",
    "owed",
    "frontier",
    "checked",
    "in_control",
    "reward_size_sum",
    "episodes_done",
    "episodes_logged",
)
METRIC_UPDATES = 100
SHORTEST_CUT = 100
"""Steps that every episode may take, however few were taken in all."""
CATCH_UP = 10
"""How many times its own updates a step may make while those of the first, random steps are made up for. All at once
they would keep the callbacks, and whoever wants to stop, waiting for minutes."""


def longest_episode(share: float | None, steps: int) -> int | None:
    """Return the length at which an episode is cut, if at all, when ``steps`` were taken in all.

    Args:
        share: of all steps that an episode may take; see :class:`~.settings.JEPAAgentSettings`.
        steps: taken so far.
    """
    return None if share is None else max(SHORTEST_CUT, math.ceil(share * steps))


class OnlineTraining:
    """What one agent's training carries from step to step: environments, experience, counters and streams.

    Args:
        agent: whose model and behaviour learn.
        environments: where it acts.
    """

    def __init__(self, agent: JEPAAgent, environments: Environments) -> None:
        self.agent, self.environments = agent, environments
        self.store = EpisodeStore(
            environments.observation_codec.shape, environments.action_codec.dims, environments.num_envs
        )
        self.exploration = numpy_generator(agent.seed, "exploration")
        self.sampling = numpy_generator(agent.seed, "sampling")
        self.recovery = Recovery(agent)
        self.trials = Trials(agent) if agent.settings.trial_share else None
        self.control: ControllerState | None = None
        self.amounts = np.zeros(environments.num_envs)  # by which each explores until its episode ends
        self.paused = np.zeros(environments.num_envs, bool)  # where it does not for now
        self.in_control = False  # not while actions are random
        self.terminates = False  # whether an episode has reached a terminal state
        self.steps = 0
        self.owed = 0.0
        self.frontier = 0  # rows before it are learned from
        self.checked = 0  # rows there were when health was last checked
        self.reward_size_sum = 0.0
        self.episodes: deque[dict[str, float]] = deque(maxlen=100)
        self.episodes_done = self.episodes_logged = 0
        self.metrics: dict[str, torch.Tensor] = {}
        self.unlogged: dict[str, float] = {}  # of the run that this one goes on with

    @property
    def _fewest_rows(self) -> int:
        """Fewer of the newest rows may hold no complete block, of which clips are cut."""
        return 4 * self.agent.settings.model.block * self.environments.num_envs

    @property
    def _warm_up(self) -> int:
        return max(self.agent.settings.learning_starts, self._fewest_rows)

    def move_to(self, environments: Environments) -> None:
        """Go on in other environments, with the experience, counters and streams so far."""
        self.environments = environments
        self.store, self.amounts = self.store.moved_to(environments.num_envs), np.zeros(environments.num_envs)
        self.paused = np.zeros(environments.num_envs, bool)
        self.control = None
        if self.trials is not None:
            self.trials.forget()

    def begin(self) -> None:
        """Begin fresh episodes in all environments; those that were open are left as they are."""
        self.store.begin(self.environments.reset())
        if self.trials is not None:
            self.trials.abandon()
        if self.control is None:  # later, it goes on ticking, so that no two episodes see the same noise
            moves = self.agent.learner.optimization.updates  # other environments later are explored otherwise
            seeds = [derive_seed(self.agent.stream("acting", i), moves) for i in range(self.environments.num_envs)]
            self.control = self.agent.acting_policy.initial_state(seeds)

    def run(self, until: int, callback: BaseCallback, log_interval: int | None) -> None:
        """Step the environments until the agent has taken ``until`` steps or the callback stops it."""
        agent, settings = self.agent, self.agent.settings
        for name, value in self.unlogged.items():
            agent.logger.record(name, value)
        self.unlogged = {}
        callback.on_rollout_start()
        while agent.num_timesteps < until:
            share = settings.episode_share if settings.cut_if_terminating or not self.terminates else None
            actions = self._act(whole=share is None)
            transition = self.environments.step(actions, longest_episode(share, self.steps))
            self.store.append(actions, transition)
            if self.trials is not None:
                self.trials.note(transition)
            taken = int(transition.valid.sum())
            self.reward_size_sum += float(np.abs(transition.rewards[transition.valid]).sum())
            self.steps += taken
            self.terminates |= bool(transition.terminated.any())
            agent.num_timesteps += taken
            infos, rewards, dones = transition.infos, transition.rewards, transition.terminated | transition.truncated
            for info in infos:
                if "episode" in info:
                    episode = {"r": float(info["episode"]["r"]), "l": int(info["episode"]["l"])}
                    if "is_success" in info:
                        episode["success"] = float(info["is_success"])
                    self.episodes.append(episode)
                    self.episodes_done += 1
            callback.update_locals(
                {"self": agent, "infos": infos, "rewards": rewards, "dones": dones, "total_timesteps": until}
                | {"actions": self.environments.action_codec.decode(actions), "env": agent.get_env()}
            )
            go_on = callback.on_step()
            self.owed += taken * settings.updates_per_step
            if self.steps >= self._warm_up:  # even if this was the last step, so that resuming is exact
                updates = int(min(self.owed, max(1.0, CATCH_UP * taken * settings.updates_per_step)))
                self.learn(updates)
                self.owed -= updates
            if log_interval and self.episodes_done >= self.episodes_logged + log_interval:
                self.episodes_logged = self.episodes_done
                agent.dump_logs()
            if not go_on:
                break
        callback.on_rollout_end()

    def _act(self, whole: bool) -> np.ndarray:
        if self.steps < self._warm_up and not self.agent.learner.optimization.updates:
            return self.environments.action_codec.sample(self.exploration, self.environments.num_envs)
        assert self.control is not None
        policy, environments = self.agent.acting_policy, self.environments
        observations = torch.from_numpy(environments.observations).to(self.agent.device)
        begins = environments.started | (not self.in_control)  # it has not seen what happened before
        self.in_control = True
        self._draw_amounts(begins)
        explore = np.where(self.paused, 0.0, self.amounts)
        with memory_explained("planning an action", "acting.budget or num_envs"):
            actions, self.control = policy.controller.act(self.control, observations, begins, explore)
            if self.trials is not None:
                actions = self.trials.act(actions, observations, environments.started, self.steps, whole)
        return actions.cpu().numpy()

    def _draw_amounts(self, begins: np.ndarray) -> None:
        """Draw by how much the environments that begin an episode (B,) explore in it, and which pause or go on."""
        usual, spread = self.agent.acting_policy.exploration, self.agent.settings.exploration_spread
        self.amounts[begins] = usual
        if spread and begins.any():
            share = self.exploration.uniform(-spread, spread, int(begins.sum()))
            self.amounts[begins] = (usual * (1 + share)).clip(0, 1)
        if spell := self.agent.settings.exploration_spell:
            self.paused ^= self.exploration.random(len(self.paused)) < 1 / spell

    def learn(self, updates: int) -> None:
        """Update model, critic and actor ``updates`` times from the store.

        Raises:
            DivergedError: gradients stay non-finite, or the latents have collapsed and ``on_collapse`` is "stop".
        """
        agent, settings = self.agent, self.agent.settings
        self._advance_frontier()
        for _ in range(updates):
            with memory_explained("an update", f"batch_size, which is {settings.batch_size:,}, or model.hidden"):
                clip, rewarded, reward_size = self._draw()
                losses = agent.learner.update(clip)
                behaviour = agent.behaviour.update(
                    clip.first(rewarded), losses.latents[:rewarded], reward_size, agent.model
                )
            metrics = {**losses.metrics(), **behaviour}
            self.recovery.check(clip, metrics)
            for name, value in metrics.items():
                mean = self.metrics.get(name, value)
                mean = torch.lerp(mean, value, 1 / METRIC_UPDATES).where(value.isfinite(), mean)
                self.metrics[name] = mean.where(mean.isfinite(), value)

    def record(self) -> None:
        """Give the logger the newest figures."""
        agent, environments, record = self.agent, self.environments, self.agent.logger.record
        for name, value in self.metrics.items():
            record(f"train/{name}", float(value))
        counts = {
            "time/episodes": self.episodes_done,
            "train/n_updates": agent.learner.optimization.updates,
            "train/skipped_updates": agent.learner.optimization.skipped + agent.behaviour.optimization.skipped,
            "train/rollbacks": self.recovery.rollbacks,
            "env/faults": environments.faults,
            "env/restarts": environments.restarts,
            "env/clipped_rewards": environments.clipped_rewards,
        }
        if self.control is not None:
            counts["rollout/failed_plans"] = int(self.control.failed.sum())
        for name, count in counts.items():
            record(name, count, exclude="tensorboard")
        if self.trials is not None:
            for name, figure in self.trials.metrics().items():
                record(name, figure)

    def _draw(self) -> tuple[Clip, int, float]:
        """Return the clips of one update, of how many of them, the first, rewards are known, and the size of these.

        First come the agent's own, then the recorded ones, if it was given any.
        """
        agent, s, recordings = self.agent, self.agent.settings, self.agent.recordings
        spec = agent.model.clip_spec
        own_size = spec.block * self.reward_size_sum / max(self.steps, 1)  # of a model step
        recorded = 0 if recordings is None else min(max(round(s.recorded_share * s.batch_size), 1), s.batch_size - 1)
        own = s.batch_size - recorded
        clip = self.store.sample(own, spec, self.sampling, slice(0, self.frontier), s.endings, s.fading)
        if recordings is None:
            return clip.to(agent.device), own, own_size
        if not s.recorded_rewards:
            clip = replace(clip, rewarded=torch.ones(own))
        clip = clip.joined(recordings.sample(recorded, spec, self.sampling, s.endings, s.recorded_rewards))
        if not s.recorded_rewards:
            return clip.to(agent.device), own, own_size
        share = recorded / s.batch_size
        size = (1 - share) * own_size + share * spec.block * recordings.reward_size
        return clip.to(agent.device), s.batch_size, size

    def _advance_frontier(self) -> None:
        """Release the newest rows to learning, except the last few before a check of the model's health.

        Those have never been trained on when the check comes, so they are held-out states, and the freshest there
        are; and hardly any experience waits for long.
        """
        rows, interval = self.store.rows, self.agent.settings.health_interval
        held_out = max(min(HELD_OUT_ROWS, interval // 2), self._fewest_rows)
        if not self.frontier:
            self.checked = rows
            self.recovery.keep()
        elif rows - self.checked >= interval and rows - self.frontier >= self._fewest_rows:
            self._check_health(slice(self.frontier, rows))
            self.checked = rows
            self.recovery.keep()
        elif rows - self.checked > interval - held_out:
            return
        if rows > self.frontier:
            fresh = self.store.arrays()["observations"][self.frontier : rows]
            self.agent.model.normalizer.update(torch.from_numpy(fresh))
            self.frontier = rows

    def _check_health(self, held_out: slice) -> None:
        agent = self.agent
        clip = self.store.clips(agent.model.clip_spec, held_out).to(agent.device)
        # The stream depends on the step alone, so that checking does not change learning.
        health = measure_health(agent.model, clip, torch_generator(agent.seed, "health", self.steps))
        alarm = collapse_alarm(health, clip.batch)
        before = agent.logger.name_to_value.get("health/collapsed", 0.0)  # by a check that was not logged yet
        for name, value in {**health, "collapsed": max(before, float(alarm is not None))}.items():
            agent.logger.record(f"health/{name}", value)
        if alarm and agent.settings.on_collapse == "stop":
            raise DivergedError(alarm)
        if alarm:
            warnings.warn(alarm, stacklevel=2)

    def state(self) -> dict[str, Any]:
        """Return what continues this training, beside the rows: open episodes, counters and streams.

        Raises:
            SettingsError: it has not begun in its environment.
        """
        if self.control is None:
            raise SettingsError("There is nothing to go on from yet: call learn first, and checkpoint afterwards.")
        logged = self.agent.logger.name_to_value  # recorded, and not written yet
        return {
            "store": _tensors(self.store.standing()),
            "environments": self.environments.state_dict(),
            "control": self.control.to_tree(),
            "amounts": torch.tensor(self.amounts),
            "paused": torch.tensor(self.paused),
            "streams": {name: getattr(self, name).bit_generator.state for name in ("exploration", "sampling")},
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "episodes": list(self.episodes),
            "metrics": self.metrics,
            "recovery": self.recovery.state(),
            "trials": None if self.trials is None else self.trials.state(),
            "unlogged": {name: value for name, value in logged.items() if name.startswith("health/")},
        }

    def segments(self, first: int) -> list[Segment]:
        """Return the rows of experience from ``first`` on, if there are any, as a segment."""
        rows = self.store.rows
        return [Segment(first, rows, _tensors(self.store.segment(first)))] if rows > first else []

    def load_state(self, state: dict[str, Any], segments: Sequence[Segment]) -> bool:
        """Continue from :meth:`state`'s output and all rows; return whether the open episodes were restored exactly."""
        self.store = EpisodeStore(self.store.observation_shape, self.store.action_dims, self.store.num_envs)
        self.store.restore([_arrays(segment.tensors) for segment in segments], _arrays(state["store"]))
        self.terminates = bool(self.store.arrays()["terminated"].any())
        for name, value in state["counters"].items():
            setattr(self, name, value)
        for name, stream in state["streams"].items():
            getattr(self, name).bit_generator.state = stream
        self.episodes.extend(state["episodes"])
        self.metrics = {name: value.to(self.agent.device) for name, value in state["metrics"].items()}
        self.recovery.load_state(state["recovery"])
        if self.trials is not None and state.get("trials") is not None:
            self.trials.load_state(state["trials"])
        self.unlogged = dict(state["unlogged"])
        exact = self.environments.load_state_dict(state["environments"])
        self.control = self.agent.acting_policy.controller.restore_state(state["control"])
        usual = torch.full((self.environments.num_envs,), self.agent.acting_policy.exploration, dtype=torch.float64)
        self.amounts = state.get("amounts", usual).numpy().copy()  # before they were drawn, all were the same
        self.paused = state.get("paused", torch.zeros_like(usual, dtype=torch.bool)).numpy().copy()
        if not exact:
            self.store.begin(self.environments.observations)
            if self.trials is not None:
                self.trials.abandon()
        return exact


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
