"""Objectives: what a plan costs, seen from one latent state. They are what planners minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import SettingsError
from ..world_model import JEPA, ComputeSettings, Imagination, LatentState, Precision, Step

RewardKind = Literal["task", "disagreement"]
Bootstrap = Literal["last", "mean"]
Deviation = Callable[[Tensor, Tensor], Tensor]
"""Of latents (..., D) and actions (..., A), tells the cost (...) of taking them there."""


def reward_of(imagined: Step | Imagination, kind: RewardKind) -> Tensor:
    """Return what imagined steps bring: the task's reward, or the disagreement of the model's ensemble."""
    task = imagined.reward if isinstance(imagined, Step) else imagined.rewards
    found = task if kind == "task" else imagined.disagreement
    assert found is not None
    return found


@dataclass(frozen=True)
class RewardObjective:
    """Minus the discounted return that the model predicts, plus the critic's value after the last step.

    Everything counts only as far as the model expects the episode to last: each term is weighted by the probability
    that no earlier step was terminal. Model and critic know the actions that the actor takes and explores around;
    far from them they guess, and a search finds the guesses that flatter. A cost on leaving the actor keeps plans
    where both are to be trusted.

    Attributes:
        model: a world model with a reward head.
        state: where the B environments are.
        value: latents (..., D) to values (...), or ``None`` for plans that end without one.
        discount: per model step.
        deviation: what it costs to leave the actor, or ``None`` for nothing.
        reward: which; see :func:`reward_of`.
        bootstrap: where there is a critic, the estimate that ends with its value after the last step, or the mean of
            those that end with it after each.

    Sources: the return estimate of TD-MPC2 (arXiv 2310.16828, section 3.2), with a soft termination mask; why plans
    should stay near the policy that the critic values: TD-M(PC)^2 (arXiv 2502.03550); estimates averaged over the steps
    at which they end: EfficientTDMPC (arXiv 2605.16692).
    """

    model: JEPA
    state: LatentState
    value: Callable[[Tensor], Tensor] | None
    discount: float
    deviation: Deviation | None = None
    reward: RewardKind = "task"
    bootstrap: Bootstrap = "last"

    def __post_init__(self) -> None:
        head = self.model.reward_head if self.reward == "task" else self.model.disagreement_head
        if head is None:
            lack = ("no reward", "heads=True") if self.reward == "task" else ("no disagreement", "ensemble=5")
            raise SettingsError(
                f"This world model predicts {lack[0]}, so plans cannot be judged by it: train it with {lack[1]}."
            )

    def __call__(self, actions: Tensor) -> Tensor:
        """Return costs (B, N), lower is better, of ``actions`` (B, N, H, A)."""
        return self.of(self.model.imagine(self.state, actions, self.reward == "disagreement"), actions)

    def of(self, imagined: Imagination, actions: Tensor) -> Tensor:
        """Return costs (B, N) of what was imagined from ``state`` for ``actions`` (B, N, H, A)."""
        gains, horizon = reward_of(imagined, self.reward), actions.shape[2]
        if self.deviation is not None:
            gains = gains - self.deviation(latents_before(self.state, imagined), actions)
        weights = self._weights(imagined.continues, actions.shape[:2], horizon)
        gains = weights[..., :-1] * gains
        if self.value is None:
            return -gains.sum(2)
        if self.bootstrap == "last":
            return -(gains.sum(2) + weights[..., -1] * self.value(imagined.latents[:, :, -1]))
        return -(gains.cumsum(2) + weights[..., 1:] * self.value(imagined.latents)).mean(2)

    def contradiction(
        self, act: Callable[[Tensor], Tensor], action_value: Callable[[Tensor, Tensor], Tensor], steps: int
    ) -> Tensor:
        """Return by how much (B,) the critic contradicts itself along ``steps`` imagined steps, in rewards.

        At each step the value of acting is compared with the reward and the value of what follows. What adds up of
        these differences, discounted, is how far an estimate of the return moves when the critic takes over a step
        later; returned is its standard deviation over none to ``steps`` of them, 0 where model and critic agree.

        Args:
            act: what is done, latents (B, 1, D) to actions (B, 1, A).
            action_value: the critic's values (...) of actions (..., A) in latents (..., D).
            steps: at least 1.
        """
        if self.value is None:
            raise SettingsError("Without a critic's values nothing can contradict itself.")
        state, before, actions, imagined = self.state.candidates(1), [], [], []
        for _ in range(steps):
            before.append(state.latents)
            actions.append(act(state.latents))
            imagined.append(self.model.step(state, actions[-1], self.reward == "disagreement"))
            state = imagined[-1].state
        rewards = torch.stack([reward_of(step, self.reward) for step in imagined], 2)  # (B, 1, H)
        known = [step.continues for step in imagined if step.continues is not None]
        continues = torch.stack(known, 2) if known else torch.ones_like(rewards)
        after = self.value(torch.stack([step.state.latents for step in imagined], 2))
        now = action_value(torch.stack(before, 2), torch.stack(actions, 2))
        errors = rewards + self.discount * continues * after - now
        moved = (self._weights(continues, rewards.shape[:2], steps)[..., :-1] * errors).cumsum(2)
        return torch.cat([torch.zeros_like(moved[..., :1]), moved], 2).std(2)[:, 0]

    def _weights(self, continues: Tensor | None, shape: torch.Size, horizon: int) -> Tensor:
        """Return what each step's reward weighs (B, N, H + 1), the last that of what follows the plan."""
        device = self.state.latents.device
        weights = self.discount ** torch.arange(horizon + 1, device=device)
        alive = torch.ones(*shape, horizon + 1, device=device)
        if continues is not None:
            alive = torch.cat([alive[..., :1], continues.cumprod(2)], 2)
        return weights * alive


def latents_before(state: LatentState, imagined: Imagination) -> Tensor:
    """Return the latents (B, N, H, D) in which each imagined step was taken, ``state``'s in the first."""
    now = state.latents[:, None, None].expand_as(imagined.latents[:, :, :1])
    return torch.cat([now, imagined.latents[:, :, :-1]], 2)


GoalForm = Literal["last", "sum", "best"]


@dataclass(frozen=True)
class GoalObjective:
    """How far imagined latents are from those of goals: squared Euclidean distances, or steps if these are learned.

    Attributes:
        model: a world model.
        state: where the B environments are.
        goal: (B, D), the latents to reach.
        form: which distance counts: that after the last step, as in LeWorldModel (arXiv 2603.19312); the sum over all
            steps, which hurries; or the smallest, for goals that are nearer than a plan is long.
        distance: latents (..., D) and goals (..., D) to distances (...), if not the squared Euclidean one.
        precision: of the model's arithmetic; distances are in fp32.
    """

    model: JEPA
    state: LatentState
    goal: Tensor
    form: GoalForm = "last"
    distance: Callable[[Tensor, Tensor], Tensor] | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.goal.shape != self.state.latents.shape:
            raise SettingsError(
                f"There are {len(self.state.latents)} environments with latents of {self.state.latents.shape[-1]} "
                f"dimensions, and the goals are of the shape {tuple(self.goal.shape)}."
            )

    def __call__(self, actions: Tensor) -> Tensor:
        """Return costs (B, N), lower is better, of ``actions`` (B, N, H, A)."""
        with ComputeSettings(self.precision).autocast(self.model.device):
            latents = self.model.imagine(self.state, actions, disagreement=False).latents
        latents, goal = latents.float(), self.goal[:, None, None]
        if self.form == "last":
            latents = latents[:, :, -1:]
        if self.distance is None:
            distances = (latents - goal).square().sum(-1)
        else:
            distances = self.distance(latents, goal.expand_as(latents))
        return distances.amin(2) if self.form == "best" else distances.sum(2)
