"""Channels: the ways in which a step can be surprising, each a score that has no unit; all pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..world_model import JEPA, LatentState
from ..world_model.error_model import ErrorModel
from ..world_model.sigreg import SlidingSIGReg
from ..world_model.surprise import Whitening

CHANNELS = {
    "step": "what was observed at this step",
    "window": "what was observed over the last steps, hardly any of them unusual by itself",
    "actions": "over the last steps, one action did more, less or something else than predicted",
    "reward": "the reward",
    "continue": "that the episode ended, or went on",
    "distribution": "the latents of the last steps are spread as in no usual episode: the SIGReg statistic",
}
"""What each channel is surprised at."""
SHARES = {"step": 10.0, "window": 3.0, "actions": 3.0}
"""Of the false alarms, in proportion: 1 for all other channels. Half is for what happens at a single step."""
SMALL_SHIFT = 1e-3
"""An action that shifted residuals by less (a sum of squares) explains nothing."""
SMALL_PROBABILITY = 1e-6
FLOORS = {"step": 1e-12, "actions": SMALL_SHIFT, "reward": 1e-12, "continue": SMALL_PROBABILITY, "distribution": 0.0}
"""What is added to a score before its logarithm is taken; that of the window is a mean of logarithms."""
LEAST_SIZE = 0.5
"""Mean square below which a step's residual counts no more for being smaller."""


@dataclass(frozen=True)
class Predicted:
    """What B environments' last step was predicted to be, and what it was.

    Attributes:
        state: of the latents that were observed.
        before, actions: (B, D) and (B, A), from which it was predicted.
        errors: (B, E), of the latent, and of the reward where the model has a head for it.
        effects: (B, a, D), by how much the prediction changes without each of the actions; none where not asked for.
        rewarded: whether the error of the reward is one.
        ends: (B,) how unlikely it was that the episode ended, or went on: -log of its probability; or ``None``.
        disagreement: (B,) of the model's ensemble on what would follow, or ``None``.
    """

    state: LatentState
    before: Tensor
    actions: Tensor
    errors: Tensor
    effects: Tensor
    rewarded: bool
    ends: Tensor | None
    disagreement: Tensor | None


def without_each(model: JEPA) -> Tensor:
    """Return (a, A) factors that leave out one of a actions each, in all steps of a block."""
    each = model.action_dims // model.settings.block
    return 1 - torch.eye(each, device=model.device).repeat(1, model.settings.block)


def predict(
    model: JEPA,
    state: LatentState,
    observations: Tensor,
    actions: Tensor,
    reset: Tensor,
    rewards: Tensor | None = None,
    terminated: Tensor | None = None,
    without: Tensor | None = None,
    blind: Tensor | None = None,
) -> Predicted:
    """Return what the last step was predicted to be, and what it was.

    Args:
        model: predicts.
        state: of B environments before the step.
        observations: (B, *O), after it.
        actions: (B, A).
        reset: (B,) bool, where a new episode began and nothing was predicted.
        rewards: (B,), if known.
        terminated: (B,) bool, if known.
        without: from :func:`without_each`, where the effects of the single actions are to be predicted, too.
        blind: (B,) bool, where nothing was observed, so that the prediction stands in for it.
    """
    seen = model.observe(state, observations, actions, reset)
    candidates = actions.unsqueeze(1)
    if without is not None:
        candidates = torch.cat([candidates, candidates * without], 1)
    step = model.step(state, candidates, disagreement=False)
    predicted, latents = step.state.latents, seen.latents
    if blind is not None:
        latents = torch.where((blind & ~reset).unsqueeze(1), predicted[:, 0], latents)
        seen = LatentState(latents, seen.past)
    errors = latents - predicted[:, 0]
    if step.reward is not None:
        missed = torch.zeros_like(step.reward[:, :1]) if rewards is None else rewards.unsqueeze(1) - step.reward[:, :1]
        errors = torch.cat([errors, missed], 1)
    ends = None
    if step.continues is not None and terminated is not None:
        likely = torch.where(terminated, 1 - step.continues[:, 0], step.continues[:, 0])
        ends = -likely.clamp(min=SMALL_PROBABILITY).log()
    return Predicted(
        seen,
        before=state.latents,
        actions=actions,
        errors=errors,
        effects=predicted[:, 1:] - predicted[:, :1],
        rewarded=step.reward is not None and rewards is not None,
        ends=ends,
        disagreement=model.disagreement(state.latents, actions),
    )


@dataclass(frozen=True)
class Usual:
    """What is usual of a model's predictions, which steps are compared with.

    Attributes:
        errors: of what was predicted.
        latents: whitening of the latents themselves.
        distribution: the statistic of the last whitened latents.
        span: W, steps of the windows that scores are taken over.
    """

    errors: ErrorModel
    latents: Whitening
    distribution: SlidingSIGReg
    span: int

    @cached_property
    def floors(self) -> Tensor:
        """The values of :data:`FLOORS`."""
        return self.latents.mean.new_tensor(list(FLOORS.values()))

    @cached_property
    def first_steps(self) -> Tensor:
        """The step of an episode (C,) from which on each of all channels can tell."""
        late = {"window": self.span, "distribution": self.distribution.samples - 1}
        return torch.tensor([late.get(name, 1) for name in CHANNELS], device=self.latents.mean.device)


@dataclass(frozen=True)
class Tracked:
    """Where B environments are, and their last steps.

    Attributes:
        latent: where they are, as the model sees it.
        age: (B,) steps of the episode so far, -1 before its first observation.
        sizes: (B, W) log mean squares of the residuals, the newest last.
        gains: (B, W, 2, a): how the residual went along with the effect of each of a actions, and the effect's square.
        projected, waves: see :class:`~forethought.world_model.sigreg.SlidingSIGReg`.
    """

    latent: LatentState
    age: Tensor
    sizes: Tensor
    gains: Tensor
    projected: Tensor
    waves: Tensor

    @classmethod
    def nowhere(cls, model: JEPA, usual: Usual, batch: int) -> Tracked:
        """Return environments of which nothing was observed."""
        device, each = model.device, model.action_dims // model.settings.block
        return cls(
            model.initial(batch),
            torch.full((batch,), -1, device=device),
            torch.zeros(batch, usual.span, device=device),
            torch.zeros(batch, usual.span, 2, each, device=device),
            *usual.distribution.empty(batch),
        )

    def select(self, index: Tensor) -> Tracked:
        """Return those at ``index``."""
        return Tracked(self.latent.select(index), *(tensor[index] for tensor in self._tensors()))

    def put(self, index: Tensor, other: Tracked) -> Tracked:
        """Return all, those at ``index`` replaced by ``other``."""
        pairs = zip(self._tensors(), other._tensors(), strict=True)
        tensors = (ours.index_copy(0, index, theirs) for ours, theirs in pairs)
        return Tracked(self.latent.put(index, other.latent), *tensors)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.age, self.sizes, self.gains, self.projected, self.waves


def compare(step: Predicted, before: Tracked, usual: Usual, reset: Tensor) -> tuple[Tensor, Tracked]:
    """Return the scores (B, C) of all :data:`CHANNELS`, NaN where there are none, and the environments after it."""
    dims = step.before.shape[1]
    age = (before.age + 1).masked_fill(reset, 0)
    expected = usual.errors(step.before, step.actions)
    residuals = usual.errors.residuals(step.errors, expected)
    observed = residuals[:, :dims]
    square = observed.square().mean(1)
    latents = usual.latents(step.state.latents)
    gain = _gains(usual.errors.shifts(step.effects, expected), observed, square)
    gains, waves = torch.cat([before.gains[:, 1:], gain.unsqueeze(1)], 1), before.waves
    begins = age == 0
    if torch.compiler.is_compiling() or begins.any():  # compiled, it costs nothing
        gains, waves = (tensor.masked_fill(begins[:, None, None, None], 0) for tensor in (gains, waves))
    projected, waves = usual.distribution.push(before.projected, waves, latents, age >= usual.distribution.samples)
    unknown = square if step.rewarded and step.ends is not None else torch.full_like(square, torch.nan)
    sizes = [
        square,
        _explained_by_one_action(gains),
        residuals[:, dims].square() if step.rewarded else unknown,
        unknown if step.ends is None else step.ends,
        usual.distribution.statistic(waves),
    ]
    scores = (torch.stack(sizes, 1) + usual.floors).log()
    recent = torch.cat([before.sizes[:, 1:], scores[:, :1]], 1)
    scores = torch.cat([scores[:, :1], recent.mean(1, keepdim=True), scores[:, 1:]], 1)
    scores = torch.where(age.unsqueeze(1) >= usual.first_steps, scores, torch.nan)
    return scores, Tracked(step.state, age, recent, gains, projected, waves)


def _gains(shifts: Tensor, observed: Tensor, square: Tensor) -> Tensor:
    """Return (B, 2, a): products of the residual and the effect of each action, and squares of the effect.

    Both in units of the residual's own size, so that one step with a large error does not speak for all.
    """
    gains = torch.stack([(shifts @ observed.unsqueeze(2)).squeeze(2), shifts.square().sum(2)], 1)
    return gains / square.clamp(min=LEAST_SIZE)[:, None, None]


def _explained_by_one_action(gains: Tensor) -> Tensor:
    """Return (B,) how much better the last steps are explained by another gain of one action.

    It is the generalised likelihood ratio of the gain that fits best: of an actuator that is weak, dead or reversed.
    """
    along, square = gains.sum(1).unbind(1)
    return (along.square() / (square + SMALL_SHIFT)).amax(1)
