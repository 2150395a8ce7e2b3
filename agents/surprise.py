"""SurpriseMonitor: tells at the very step that the world no longer behaves as the model expects.

At every real step the latent that the model predicted is compared with the one that the observation gave. How far they
are apart is measured by what is usual there (:mod:`~forethought.world_model.error_model`), in several channels, each
brought to the same level of rarity; the rarest decides. An alarm is a level that usual episodes reach as often as was
asked for, and not more.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA, ComputeSettings
from ..world_model.surprise import QUIET_STEPS
from .surprise_calibration import Calibration as Calibration
from .surprise_calibration import (
    Moment,
    Reference,
    by_episode,
    calibrate,
    calibrated_columns,
    highest,
    lengths_of,
    replay,
    require_fitting,
)
from .surprise_calibration import SurpriseSettings as SurpriseSettings
from .surprise_channels import CHANNELS as CHANNELS
from .surprise_channels import Tracked, compare, predict, without_each
from .surprise_files import load_reference, save_reference

_CHANNEL = "channel "


@dataclass(frozen=True)
class Surprise:
    """How B environments' last step compares with what is usual.

    Attributes:
        score: (B,), the highest level of all channels: -log10 of a p-value. Infinite where something is not finite, NaN
            where nothing can be said: at an episode's first observation.
        alarm: (B,) bool, whether the score lies above the threshold.
        begins: (B,) bool, whether an alarm begins here: it is alarmed, and the 10 steps before were not.
        channels: levels (B,) by channel, NaN where it cannot tell: -log10 of how rare its score is in usual steps,
            divided by its share of the false alarms. See :data:`CHANNELS`.
        novel: (B,) bool, whether the model's ensemble disagrees as it hardly ever does in usual steps, ``None`` without
            one. Then the model has never seen the like; an alarm elsewhere is of something that should be impossible.
    """

    score: Tensor
    alarm: Tensor
    begins: Tensor
    channels: dict[str, Tensor]
    novel: Tensor | None = None

    def cause(self, index: int = 0) -> str:
        """Return the channel that is surprised most in environment ``index``, or "nothing"."""
        levels = {name: float(level[index]) for name, level in self.channels.items()}
        known = {name: level for name, level in levels.items() if level == level}
        return max(known, key=known.__getitem__) if known else "nothing"


@dataclass(frozen=True)
class SurpriseState:
    """What a monitor remembers of B environments.

    Attributes:
        tracked: where they are, and their last steps.
        quiet: (B,) steps since the last alarmed one.
    """

    tracked: Tracked
    quiet: Tensor

    def select(self, index: Tensor) -> SurpriseState:
        """Return the state of the environments at ``index``."""
        return SurpriseState(self.tracked.select(index), self.quiet[index])

    def put(self, index: Tensor, other: SurpriseState) -> SurpriseState:
        """Return the state with the environments at ``index`` replaced by those of ``other``."""
        return SurpriseState(self.tracked.put(index, other.tracked), self.quiet.index_copy(0, index, other.quiet))


@dataclass(frozen=True)
class ScoredEpisode:
    """The surprises of an episode's T model steps, each at what was observed after it; see :class:`Surprise`.

    Attributes:
        score: (T,).
        alarm, begins: (T,) bool.
        channels: (T,) by channel.
    """

    score: NDArray[np.float32]
    alarm: NDArray[np.bool_]
    begins: NDArray[np.bool_]
    channels: dict[str, NDArray[np.float32]]


class SurpriseMonitor:
    """Says of every real step how surprising it is, and when that is an alarm.

    It is pure, as controllers are: everything that it remembers of environments travels in a :class:`SurpriseState`.
    A step is a model step: where the model takes blocks of environment steps, it is asked after whole blocks.

    Args:
        model: the world model. It is put into evaluation mode, and must stay as it is once the monitor is calibrated.
        settings: see :class:`SurpriseSettings`.

    Attributes:
        reference: what steps are compared with, ``None`` until the monitor is calibrated.
    """

    def __init__(self, model: JEPA, settings: SurpriseSettings | None = None) -> None:
        if not isinstance(model, JEPA):
            raise SettingsError(
                f"A monitor watches a world model, such as agent.model or that of load_pretrained(folder), not "
                f"{type(model).__name__}."
            )
        self.model, self.settings = model.eval(), settings or SurpriseSettings()
        self.reference: Reference | None = None
        self._without = without_each(model)
        self._compiled: Callable[..., Any] | None = None
        self._compiled_for = 0

    @property
    def calibration(self) -> Calibration:
        """What the monitor was calibrated on, and what that promises.

        Raises:
            SettingsError: the monitor is not calibrated.
        """
        return self._reference().calibration

    @property
    def threshold(self) -> float:
        """The level above which a step is alarmed.

        Raises:
            SettingsError: the monitor is not calibrated.
        """
        return self.calibration.threshold.level

    def compiled(self, batch: int) -> Self:
        """Return a monitor that says the same of ``batch`` environments at a time, in less time.

        It is compiled by torch at the first step, which takes about half a minute and needs a C++ compiler; without one
        there is a warning, and nothing is gained. It shares this one's model and reference.
        """
        monitor = copy.copy(self)
        monitor._compiled, monitor._compiled_for = ComputeSettings(compile=True).compiled(self._measure), batch
        return monitor

    # Step by step.

    def begin(self, batch: int) -> SurpriseState:
        """Return the state of B environments before anything was observed.

        Raises:
            SettingsError: the monitor is not calibrated.
        """
        tracked = Tracked.nowhere(self.model, self._reference().usual, batch)
        return SurpriseState(tracked, torch.full((batch,), QUIET_STEPS, device=self.model.device))

    @torch.inference_mode()
    def observe(
        self,
        state: SurpriseState,
        observations: Tensor,
        actions: Tensor,
        reset: Tensor,
        rewards: Tensor | None = None,
        terminated: Tensor | None = None,
    ) -> tuple[Surprise, SurpriseState]:
        """Compare what B environments showed after a step with what was predicted.

        A value that is not finite is an alarm by itself, of infinite score. Where it is in the observation, the
        prediction then stands in for it, so that the next step is judged by what should have been.

        Args:
            state: from :meth:`begin` or the last call.
            observations: (B, *O), coded.
            actions: (B, A) internal ones that led here; of no consequence where ``reset`` holds.
            reset: (B,) bool, where a new episode begins.
            rewards: (B,) of the step, summed over its block; without them, the channel of rewards is silent.
            terminated: (B,) bool, whether a terminal state was reached; likewise.

        Returns:
            ``(surprise, state)``.

        Raises:
            SettingsError: the monitor is not calibrated, or the shapes are not those of its model.
        """
        reference = self._reference()
        self._require_shapes(observations, actions)
        finite = blind = None
        if not _all_finite(observations, actions, rewards):
            finite = _finite(observations, actions, reset, rewards)
            blind = ~observations.flatten(1).isfinite().all(1)
            observations = observations.nan_to_num(0, 0, 0) if observations.is_floating_point() else observations
            actions = actions.nan_to_num(0, 0, 0)
            rewards = None if rewards is None else rewards.nan_to_num(0, 0, 0)
        given = state.tracked, observations, actions, reset, rewards, terminated, blind
        whole = rewards is not None and terminated is not None and blind is None
        compiled = self._compiled if whole and len(observations) == self._compiled_for else None
        levels, score, disagreement, tracked = (compiled or self._measure)(*given)
        if finite is not None:
            score = score.masked_fill(~finite, torch.inf)
        alarm = score > reference.calibration.threshold.level
        quiet = state.quiet.masked_fill(reset, QUIET_STEPS)
        channels = dict(zip(reference.calibration.channels, levels.unbind(1), strict=True))
        usual_disagreement = reference.calibration.usual_disagreement
        novel = None
        if disagreement is not None and usual_disagreement is not None:
            novel = (disagreement > usual_disagreement) & ~reset
        surprise = Surprise(score, alarm, alarm & (quiet >= QUIET_STEPS), channels, novel)
        return surprise, SurpriseState(tracked, (quiet + 1).masked_fill(alarm, 0))

    def _measure(
        self,
        tracked: Tracked,
        observations: Tensor,
        actions: Tensor,
        reset: Tensor,
        rewards: Tensor | None,
        terminated: Tensor | None,
        blind: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tracked]:
        """Return levels (B, K), scores (B,), the ensemble's disagreement (B,) and the environments after the step."""
        reference = self._reference()
        step = predict(
            self.model, tracked.latent, observations, actions, reset, rewards, terminated, self._without, blind
        )
        scores, tracked = compare(step, tracked, reference.usual, reset)
        levels = reference.tails(calibrated_columns(scores, reference.calibration.channels))
        return levels, highest(levels), step.disagreement, tracked

    # Whole episodes.

    def calibrate(self, episodes: Sequence[RecordedEpisode], false_alarms_per_1000: float = 1.0) -> Calibration:
        """Learn what is usual from episodes in which all was as it should be, and choose the threshold.

        Every second episode tells what is usual; the others give the threshold. Steps of an episode depend on each
        other, so only whole episodes are ever divided.

        Args:
            episodes: of the kind that is going to be watched, with the same agent in the same task.
            false_alarms_per_1000: alarms to expect of such episodes, per 1,000 model steps. One alarm is a run of
                alarmed steps after 10 quiet ones.

        Raises:
            SettingsError: the episodes are too few, and how many are needed; they are not of this model's observations
                and actions; or they hold values that are not finite.
        """
        self.reference = calibrate(self.model, episodes, self.settings, false_alarms_per_1000)
        return self.reference.calibration

    def score(self, episodes: Sequence[RecordedEpisode]) -> list[ScoredEpisode]:
        """Return what :meth:`observe` says of recorded episodes, step by step, many at a time.

        Raises:
            SettingsError: the monitor is not calibrated, or the episodes are not of its model's observations and
                actions.
        """
        self._reference()
        require_fitting(self.model, episodes)
        return [
            ScoredEpisode(
                columns.pop("score"),
                columns.pop("alarm"),
                columns.pop("begins"),
                {name.removeprefix(_CHANNEL): levels for name, levels in columns.items()},
            )
            for columns in by_episode(self._watched(episodes), lengths_of(self.model, episodes))
        ]

    # Files.

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the monitor, without its model, as one zip of safetensors and JSON; return the file.

        Raises:
            SettingsError: the monitor is not calibrated.
            WriteError: it could not be written; what stood in its place is unchanged.
        """
        return save_reference(self._reference(), self.settings, self.model, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: JEPA) -> Self:
        """Return the monitor that :meth:`save` wrote.

        Args:
            path: the file.
            model: the world model that it was calibrated for, as it was then.

        Raises:
            CheckpointError: the file holds no monitor, or one of another model, or is damaged.
        """
        reference, settings = load_reference(path, model)
        monitor = cls(model, settings)
        monitor.reference = reference
        return monitor

    def _watched(self, episodes: Sequence[RecordedEpisode]) -> Iterator[tuple[Moment, dict[str, Tensor]]]:
        state = self.begin(0)
        for m in replay(self.model, episodes):
            count = len(m.rows)
            if m.step == 0:
                state = self.begin(count)
            elif len(state.quiet) != count:
                state = state.select(torch.arange(count, device=self.model.device))
            surprise, state = self.observe(state, m.observations, m.actions, m.reset, m.rewards, m.terminated)
            own = {"score": surprise.score, "alarm": surprise.alarm, "begins": surprise.begins}
            yield m, {**{_CHANNEL + name: level for name, level in surprise.channels.items()}, **own}

    def _reference(self) -> Reference:
        if self.reference is None:
            raise SettingsError(
                "The monitor does not know yet what is usual: calibrate it with episodes in which all was as it should "
                "be, monitor.calibrate(episodes), or load one that is calibrated, SurpriseMonitor.load(path, model)."
            )
        return self.reference

    def _require_shapes(self, observations: Tensor, actions: Tensor) -> None:
        wanted = tuple(self.model.observation_shape), (self.model.action_dims,)
        for what, tensor, shape in zip(("observations", "actions"), (observations, actions), wanted, strict=True):
            if tuple(tensor.shape[1:]) != shape:
                raise SettingsError(
                    f"The monitor's world model takes {what} of the shape {shape} each, and was given a batch of the "
                    f"shape {tuple(tensor.shape)}."
                )


def _all_finite(*tensors: Tensor | None) -> bool:
    """Return whether all is finite, by sums; of what is large they overflow, and it is looked at again."""
    floating = (tensor for tensor in tensors if tensor is not None and tensor.is_floating_point())
    return all(math.isfinite(tensor.sum().item()) for tensor in floating)


def _finite(observations: Tensor, actions: Tensor, reset: Tensor, rewards: Tensor | None) -> Tensor:
    """Return where (B,) all that is of consequence is finite."""
    led = actions.isfinite().all(1)
    if rewards is not None:
        led &= rewards.isfinite()
    return observations.flatten(1).isfinite().all(1) & (led | reset)
