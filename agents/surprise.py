"""SurpriseMonitor: tells at the very step that the world no longer behaves as the model expects.

At every real step the latent that the model predicted is compared with the one that the observation gave. How far they
are apart is measured by what is usual there (:mod:`~forethought.world_model.error_model`), in several channels, each
brought to the same level of rarity; the rarest decides. An alarm is a level that usual episodes reach as often as was
asked for, and not more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import SettingsError
from ..core.settings import Range, Settings
from ..envs.recording import RecordedEpisode
from ..world_model import JEPA, LatentState
from ..world_model.error_model import ErrorModelSettings
from ..world_model.surprise import QUIET_STEPS, AlarmThreshold, Tails, alarm_threshold
from .surprise_calibration import (
    Moment,
    by_episode,
    fit_usual,
    replay,
    require_enough,
    require_finite,
    require_fitting,
    steps_of,
)
from .surprise_channels import CHANNELS as CHANNELS
from .surprise_channels import Predicted, Usual, Windows, predict, score

_CHANNEL = "channel "
LEAST_SCORES = 20
"""Usual scores that a channel needs to be calibrated."""


@dataclass(frozen=True)
class SurpriseSettings(Settings):
    """Settings of a :class:`SurpriseMonitor`."""

    errors: ErrorModelSettings = field(default_factory=ErrorModelSettings)
    """What is usual of errors, and how that is learned."""
    window: Annotated[int, Range(ge=2, le=1000)] = 5
    """Model steps over which residuals, and what actions did, are summed up."""
    latent_window: Annotated[int, Range(ge=2, le=1000)] = 32
    """Model steps over which the distribution of latents is tested."""
    directions: Annotated[int, Range(ge=1, le=8192)] = 64
    """Directions in which it is."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Of everything random in the calibration."""


@dataclass(frozen=True)
class Surprise:
    """How B environments' last step compares with what is usual.

    Attributes:
        score: (B,), the highest level among the channels: -log10 of how often one is as rare in a usual step. Infinite
            where something is not finite, NaN where nothing can be said: at an episode's first observation.
        alarm: (B,) bool, whether the score lies above the threshold.
        begins: (B,) bool, whether an alarm begins here: it is alarmed, and the 10 steps before were not.
        channels: levels (B,) by channel, NaN where it cannot tell; see :data:`CHANNELS`.
        disagreement: (B,) between the members of an ensemble, where the model is one. It is high where the model has
            never been; a high score where it is low is of something that should be impossible.
    """

    score: Tensor
    alarm: Tensor
    begins: Tensor
    channels: dict[str, Tensor]
    disagreement: Tensor | None = None

    def cause(self, index: int = 0) -> str:
        """Return the channel that is surprised most in environment ``index``, or "nothing"."""
        levels = {name: float(level[index]) for name, level in self.channels.items()}
        known = {name: level for name, level in levels.items() if level == level}
        return max(known, key=known.__getitem__) if known else "nothing"


@dataclass(frozen=True)
class SurpriseState:
    """What a monitor remembers of B environments.

    Attributes:
        latent: where they are, as the model sees it.
        windows: their last steps.
        quiet: (B,) steps since the last alarmed one.
    """

    latent: LatentState
    windows: Windows
    quiet: Tensor

    def select(self, index: Tensor) -> SurpriseState:
        """Return the state of the environments at ``index``."""
        windows = Windows(*(tensor[index] for tensor in self.windows.tensors()))
        return SurpriseState(self.latent.select(index), windows, self.quiet[index])

    def put(self, index: Tensor, other: SurpriseState) -> SurpriseState:
        """Return the state with the environments at ``index`` replaced by those of ``other``."""
        pairs = zip(self.windows.tensors(), other.windows.tensors(), strict=True)
        windows = Windows(*(ours.index_copy(0, index, theirs) for ours, theirs in pairs))
        return SurpriseState(
            self.latent.put(index, other.latent), windows, self.quiet.index_copy(0, index, other.quiet)
        )


@dataclass(frozen=True)
class Calibration:
    """What a monitor was calibrated on, and what that promises. Steps are model steps.

    Attributes:
        false_alarms_per_1000: that were asked for, per 1,000 steps.
        threshold: level above which a step is alarmed; what the episodes of the second half raised of alarms, and what
            is guaranteed.
        channels: that were calibrated, in the order of the tails.
        fitted_episodes, fitted_steps: what is usual was learned on these.
        held_episodes, held_steps: the threshold was chosen on these.
    """

    false_alarms_per_1000: float
    threshold: AlarmThreshold
    channels: tuple[str, ...]
    fitted_episodes: int
    fitted_steps: int
    held_episodes: int
    held_steps: int


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
        calibration: what :meth:`calibrate` came to, or ``None``.
    """

    def __init__(self, model: JEPA, settings: SurpriseSettings | None = None) -> None:
        self.model, self.settings = model.eval(), settings or SurpriseSettings()
        self.calibration: Calibration | None = None
        self._usual: Usual | None = None
        self._tails: Tails | None = None

    @property
    def threshold(self) -> float:
        """The level above which a step is alarmed.

        Raises:
            SettingsError: the monitor is not calibrated.
        """
        return self._calibrated()[0].threshold.level

    # Step by step.

    def begin(self, batch: int) -> SurpriseState:
        """Return the state of B environments before anything was observed."""
        s, device, each = self.settings, self.model.device, self.model.action_dims // self.model.settings.block
        windows = Windows(
            torch.full((batch,), -1, device=device),
            torch.zeros(batch, s.window, device=device),
            torch.zeros(batch, s.window, 2, each, device=device),
            torch.zeros(batch, s.latent_window, self.model.latent_dims, device=device),
        )
        return SurpriseState(self.model.initial(batch), windows, torch.full((batch,), QUIET_STEPS, device=device))

    @torch.no_grad()
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

        A value that is not finite is an alarm by itself, of infinite score. Where it is observed, the prediction stands
        in for the observation, so that the next step is judged by what should have been.

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
        calibration, usual, tails = self._calibrated()
        self._require_shapes(observations, actions)
        step, found, windows = self._compare(state, usual, observations, actions, reset, rewards, terminated)
        nothing = torch.full_like(found["step"], torch.nan)
        levels = tails(torch.stack([found.get(name, nothing) for name in calibration.channels], 1))
        highest = _highest(levels).masked_fill(~_finite(observations, actions, reset, rewards), torch.inf)
        alarm = highest > calibration.threshold.level
        quiet = torch.where(reset, QUIET_STEPS, state.quiet)
        channels = dict(zip(calibration.channels, levels.unbind(1), strict=True))
        surprise = Surprise(highest, alarm, alarm & (quiet >= QUIET_STEPS), channels, step.disagreement)
        return surprise, SurpriseState(step.state, windows, torch.where(alarm, 0, quiet + 1))

    def _compare(
        self,
        state: SurpriseState,
        usual: Usual,
        observations: Tensor,
        actions: Tensor,
        reset: Tensor,
        rewards: Tensor | None,
        terminated: Tensor | None,
    ) -> tuple[Predicted, dict[str, Tensor], Windows]:
        """Return the step, its scores by channel, and the windows after it."""
        if rewards is not None:
            rewards = rewards.nan_to_num(0, 0, 0)
        actions = actions.nan_to_num(0, 0, 0)
        step = predict(self.model, state.latent, observations, actions, reset, rewards, terminated)
        return step, *score(step, state.windows, usual, reset)

    # Whole episodes.

    def score(self, episodes: Sequence[RecordedEpisode]) -> list[ScoredEpisode]:
        """Return what :meth:`observe` says of recorded episodes, step by step, many at a time.

        Raises:
            SettingsError: the monitor is not calibrated, or the episodes are not of its model's spaces.
        """
        self._calibrated()
        require_fitting(self.model, episodes)

        def found() -> Iterator[tuple[Moment, dict[str, Tensor]]]:
            state = self.begin(0)
            for m in replay(self.model, episodes):
                state = self._at(state, m)
                surprise, state = self.observe(state, m.observations, m.actions, m.reset, m.rewards, m.terminated)
                own = {"score": surprise.score, "alarm": surprise.alarm, "begins": surprise.begins}
                yield m, {**{_CHANNEL + name: level for name, level in surprise.channels.items()}, **own}

        return [
            ScoredEpisode(
                columns.pop("score"),
                columns.pop("alarm"),
                columns.pop("begins"),
                {name.removeprefix(_CHANNEL): levels for name, levels in columns.items()},
            )
            for columns in by_episode(found(), self._lengths(episodes))
        ]

    def calibrate(self, episodes: Sequence[RecordedEpisode], false_alarms_per_1000: float = 1.0) -> Calibration:
        """Learn what is usual from episodes in which all was as it should be, and choose the threshold.

        Every second episode tells what is usual; the others give the threshold. Steps of an episode depend on each
        other, so only whole episodes are ever divided.

        Args:
            episodes: of the kind that is going to be watched, with the same agent in the same task.
            false_alarms_per_1000: alarms to expect of such episodes, per 1,000 model steps. One alarm is a run of
                alarmed steps after 10 quiet ones.

        Returns:
            What it came to, also kept as :attr:`calibration`.

        Raises:
            SettingsError: the episodes are too few, and how many are needed; they are not of this model's observations
                and actions; or they hold values that are not finite.
        """
        if not 0 < false_alarms_per_1000 < 1000:
            raise SettingsError(f"false_alarms_per_1000 = {false_alarms_per_1000} does not lie between 0 and 1,000.")
        require_fitting(self.model, episodes)
        require_finite(episodes)
        require_enough(episodes, self.model, false_alarms_per_1000)
        s, fitted, held = self.settings, episodes[::2], episodes[1::2]
        usual, judged = fit_usual(self.model, fitted, s.errors, s.directions, s.seed)
        lately = [scores for scores, other in zip(self._scores(fitted, usual), judged, strict=True) if other]
        known = {name: np.concatenate([scores[name] for scores in lately]) for name in lately[0]}
        known = {name: values[np.isfinite(values)] for name, values in known.items()}
        channels = tuple(name for name in CHANNELS if len(known.get(name, ())) >= LEAST_SCORES)
        tails = Tails.fit([torch.from_numpy(known[name]) for name in channels]).to(self.model.device)
        levels = [
            _highest(tails(torch.from_numpy(np.stack([scores[name] for name in channels], 1)).to(self.model.device)))
            for scores in self._scores(held, usual)
        ]
        threshold = alarm_threshold([level.cpu().numpy() for level in levels], false_alarms_per_1000)
        steps = [sum(self._lengths(part)) for part in (fitted, held)]
        self._usual, self._tails = usual, tails
        self.calibration = Calibration(
            false_alarms_per_1000, threshold, channels, len(fitted), steps[0], len(held), steps[1]
        )
        return self.calibration

    def _scores(self, episodes: Sequence[RecordedEpisode], usual: Usual) -> list[dict[str, NDArray[np.float32]]]:
        """Return the scores (T,) of each episode by channel, which are not levels yet."""

        def found() -> Iterator[tuple[Moment, dict[str, Tensor]]]:
            state = self.begin(0)
            for m in replay(self.model, episodes):
                state = self._at(state, m)
                with torch.no_grad():
                    step, scores, windows = self._compare(
                        state, usual, m.observations, m.actions, m.reset, m.rewards, m.terminated
                    )
                state = SurpriseState(step.state, windows, state.quiet)
                yield m, scores

        return by_episode(found(), self._lengths(episodes))

    def _at(self, state: SurpriseState, moment: Moment) -> SurpriseState:
        """Return the state of the episodes that go on at ``moment``."""
        count = len(moment.rows)
        if moment.step == 0:
            return self.begin(count)
        return state if len(state.quiet) == count else state.select(torch.arange(count, device=self.model.device))

    def _lengths(self, episodes: Sequence[RecordedEpisode]) -> list[int]:
        return [steps_of(episode, self.model.settings.block) for episode in episodes]

    def _calibrated(self) -> tuple[Calibration, Usual, Tails]:
        if self.calibration is None or self._usual is None or self._tails is None:
            raise SettingsError(
                "The monitor does not know what is usual: calibrate it with episodes in which all was as it should be, "
                "monitor.calibrate(episodes), or load one."
            )
        return self.calibration, self._usual, self._tails

    def _require_shapes(self, observations: Tensor, actions: Tensor) -> None:
        wanted = tuple(self.model.observation_shape), (self.model.action_dims,)
        for what, tensor, shape in zip(("observations", "actions"), (observations, actions), wanted, strict=True):
            if tuple(tensor.shape[1:]) != shape:
                raise SettingsError(
                    f"The monitor's world model takes {what} of the shape {shape} each, and was given a batch of the "
                    f"shape {tuple(tensor.shape)}."
                )


def _highest(levels: Tensor) -> Tensor:
    """Return the highest of ``levels`` (n, C) that are known, (n,), NaN where none is."""
    highest = torch.where(levels.isnan(), -torch.inf, levels).amax(1)
    return torch.where(highest.isinf(), torch.nan, highest)


def _finite(observations: Tensor, actions: Tensor, reset: Tensor, rewards: Tensor | None) -> Tensor:
    """Return where (B,) everything that is of consequence is finite."""
    finite = observations.flatten(1).isfinite().all(1)
    finite = finite & (reset | actions.isfinite().all(1))
    return finite if rewards is None else finite & (reset | rewards.isfinite())
