"""Channels: the ways in which a step can be surprising, each a score that has no unit; all pure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..world_model import JEPA, LatentState, SIGReg
from ..world_model.error_model import ErrorModel, Expected
from ..world_model.surprise import Whitening

CHANNELS = {
    "step": "what was observed at this step",
    "window": "what was observed over the last steps, hardly any of them unusual by itself",
    "actions": "one action did more, less or something else than predicted over the last steps",
    "reward": "the reward",
    "continue": "that the episode ended, or went on",
    "stillness": "observations hardly change",
    "distribution": "the latents of the last steps are spread as those of no usual episode",
}
"""What each channel is surprised at."""
TINY = 1e-12
SMALL_PROBABILITY = 1e-6
SMALL_SHIFT = 1e-3
"""An action that shifted residuals by less (a sum of squares) can explain nothing."""
LEAST_SIZE = 0.5
"""Mean square below which a step's residual counts no more for being smaller."""


@dataclass(frozen=True)
class Windows:
    """The last steps of B environments.

    Attributes:
        age: (B,) steps of the episode so far, -1 before its first observation.
        sizes: (B, W) log mean squares of the residuals, the newest last.
        gains: (B, W, 2, a): how the residual went along with the effect of each of a actions, and the effect's square.
        latents: (B, V, D), whitened.
    """

    age: Tensor
    sizes: Tensor
    gains: Tensor
    latents: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all of them."""
        return self.age, self.sizes, self.gains, self.latents


@dataclass(frozen=True)
class Predicted:
    """What B environments' last step was predicted to be, and what it was.

    Attributes:
        state: of the latents that were observed.
        before, actions: (B, D) and (B, A), from which it was predicted.
        errors: (B, E), of the latent, and of the reward where the model has a head for it.
        effects: (B, a, D), by how much the prediction changes without each of the actions, or ``None``.
        rewarded: whether the error of the reward is one.
        ends: (B,) how unlikely it was that the episode ended, or went on: -log of its probability; or ``None``.
        disagreement: (B,) between the members of an ensemble, or ``None``.
    """

    state: LatentState
    before: Tensor
    actions: Tensor
    errors: Tensor
    effects: Tensor | None
    rewarded: bool
    ends: Tensor | None
    disagreement: Tensor | None


@dataclass(frozen=True)
class Usual:
    """What is usual of a model's predictions: everything that channels are scored with.

    Attributes:
        errors: of what was predicted.
        latents: whitening of the latents themselves.
        directions: (D, M), in which their distribution is tested.
    """

    errors: ErrorModel
    latents: Whitening
    directions: Tensor


def predict(
    model: JEPA,
    state: LatentState,
    observations: Tensor,
    actions: Tensor,
    reset: Tensor,
    rewards: Tensor | None,
    terminated: Tensor | None,
    effects: bool = True,
) -> Predicted:
    """Return what the last step was predicted to be, and what it was.

    Args:
        model: predicts.
        state: of B environments before the step.
        observations: (B, *O), after it. Where one is not finite, the prediction stands in for it.
        actions: (B, A).
        reset: (B,) bool, where a new episode began and nothing was predicted.
        rewards: (B,), or ``None``.
        terminated: (B,) bool, or ``None``.
        effects: whether the effects of the single actions are predicted, too.
    """
    blind = ~observations.flatten(1).isfinite().all(1)
    seen = model.observe(state, observations.nan_to_num() if blind.any() else observations, actions, reset)
    candidates = actions.unsqueeze(1)
    if effects:
        candidates = torch.cat([candidates, _without_each(actions, model.settings.block)], 1)
    step = model.step(state, candidates)
    predicted = step.state.latents
    latents = torch.where((blind & ~reset).unsqueeze(1), predicted[:, 0], seen.latents)
    errors = [latents - predicted[:, 0]]
    if step.reward is not None:
        given = step.reward[:, 0] if rewards is None else rewards
        errors.append((given - step.reward[:, 0]).unsqueeze(1))
    ends = None
    if step.continues is not None and terminated is not None:
        likely = torch.where(terminated, 1 - step.continues[:, 0], step.continues[:, 0])
        ends = -likely.clamp(min=SMALL_PROBABILITY).log()
    return Predicted(
        state=LatentState(latents, seen.past),
        before=state.latents,
        actions=actions,
        errors=torch.cat(errors, 1),
        effects=predicted[:, 1:] - predicted[:, :1] if effects else None,
        rewarded=step.reward is not None and rewards is not None,
        ends=ends,
        disagreement=None if step.disagreement is None else step.disagreement[:, 0],
    )


def score(step: Predicted, windows: Windows, usual: Usual, reset: Tensor) -> tuple[dict[str, Tensor], Windows]:
    """Return the scores (B,) by channel, NaN where there are none, and the windows with this step."""
    age = torch.where(reset, 0, windows.age + 1)
    going_on = age > 0
    expected = usual.errors(step.before, step.actions)
    residuals = usual.errors.residuals(step.errors, expected)
    dims = step.before.shape[1]
    observed = residuals[:, :dims]
    square = observed.square().mean(1)
    latents = usual.latents(step.state.latents)
    moved = (latents - windows.latents[:, -1]).square().mean(1)
    sizes = _pushed(windows.sizes, (square + TINY).log(), age == 0)
    gains = _gains(step, expected, usual.errors, observed, square) * going_on[:, None, None]
    gains = _pushed(windows.gains, gains, age == 0)
    seen = _pushed(windows.latents, latents, age == 0)
    found = {
        "step": sizes[:, -1],
        "window": _where(age >= sizes.shape[1], sizes.mean(1)),
        "actions": _explained_by_one_action(gains),
        "stillness": -(moved + TINY).log(),
    }
    if step.rewarded:
        found["reward"] = (residuals[:, dims].square() + TINY).log()
    if step.ends is not None:
        found["continue"] = (step.ends + SMALL_PROBABILITY).log()
    full = age + 1 >= seen.shape[1]
    if full.any():
        statistic = SIGReg().per_step(seen, usual.directions)
        found["distribution"] = _where(full, statistic.log())
    return {name: _where(going_on, values) for name, values in found.items()}, Windows(age, sizes, gains, seen)


def _without_each(actions: Tensor, block: int) -> Tensor:
    """Return ``actions`` (B, block x a) a times (B, a, block x a), each time without one: zero in the whole block."""
    each = actions.shape[1] // block
    kept = 1 - torch.eye(each, device=actions.device).repeat(1, block)
    return actions.unsqueeze(1) * kept


def _gains(step: Predicted, expected: Expected, errors: ErrorModel, observed: Tensor, square: Tensor) -> Tensor:
    """Return (B, 2, a): products of residual and effect of each action, and squares of the effect.

    Both in units of the residual's own size, so that one step with a large error does not speak for all.
    """
    assert step.effects is not None
    more = errors.error_dims - step.effects.shape[-1]
    lost = errors.shifts(torch.nn.functional.pad(step.effects, (0, more)), _for_each(expected))
    lost = lost[..., : observed.shape[1]]
    gains = torch.stack([(lost * observed.unsqueeze(1)).sum(-1), lost.square().sum(-1)], 1)
    return gains / square.clamp(min=LEAST_SIZE)[:, None, None]


def _for_each(expected: Expected) -> Expected:
    return Expected(expected.mean.unsqueeze(1), expected.log_scale.unsqueeze(1))


def _explained_by_one_action(gains: Tensor) -> Tensor:
    """Return (B,) the logarithm of how much better the last steps are explained by another gain of one action.

    The generalised likelihood ratio of the gain that fits best: of an actuator that is weak, dead or reversed.
    """
    along, square = gains.sum(1).unbind(1)
    return (along.square() / (square + SMALL_SHIFT)).amax(1).add(SMALL_SHIFT).log()


def _pushed(window: Tensor, newest: Tensor, begins: Tensor) -> Tensor:
    """Return ``window`` (B, W, ...) one step later, empty before ``newest`` (B, ...) where an episode begins."""
    before = torch.where(begins.view(-1, *[1] * (window.dim() - 1)), 0, window[:, 1:])
    return torch.cat([before, newest.unsqueeze(1)], 1)


def _where(known: Tensor, values: Tensor) -> Tensor:
    return torch.where(known, values, torch.nan)
