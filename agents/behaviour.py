"""Behaviour: actor and critic learned on the latents of a world model, without shaping it.

The critic learns multi-step returns that bootstrap from copies following slowly. The returns follow the actor in
imagination, because recorded steps follow the noise that was explored with, and are corrected by what the model gets
wrong about the recorded ones. The actor climbs the critic's copy, and what acts when it counts is the actor's own
moving average: where everything goes well, one action more or less hardly matters, the critic's slope is mostly noise,
and averages are what keeps an actor there from drifting off. Latents come in detached, so no gradient of either reaches
the world model. Rewards are divided by their mean size, so that one set of settings serves tasks of any reward scale.

Sources: TD3 (arXiv 1802.09477) for twin critics, target smoothing and copies that follow; multi-step returns on
self-predictive latents, decoupled from the representation, as in ALM (arXiv 2209.08466) and MR.Q (arXiv 2501.16142);
model-based value expansion (arXiv 1803.00101) for targets that are continued in imagination, and for learning on what
they pass through, corrected in the manner of the doubly robust estimator (arXiv 1511.03722), though without importance
weights; PopArt (arXiv 1602.07714) for an output layer that keeps its values when their scale changes; Plan2Explore
(arXiv 2005.05960) for disagreement as a reward; SVG (arXiv 1510.09142) and DHMBPO for an actor that climbs through
imagined steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ..core.clip import Clip
from ..core.errors import SettingsError
from ..core.seeding import torch_generator
from ..core.settings import Range, Width
from ..world_model import JEPA, ComputeSettings, LatentState, MeanKind, Optimization, OptimizationSettings
from .actor import Actor, CategoricalActor, DeterministicActor
from .critic import CriticEnsemble
from .imagining import ImaginedPath
from .objective import RewardKind, reward_of

DISAGREEMENT_MEMORY = 100
"""Updates over which the size of the disagreement is averaged."""


@dataclass(frozen=True)
class BehaviourSettings(OptimizationSettings):
    """Settings of actor and critic, and of their optimiser."""

    BEFORE = {"value_expansion": None, "averaging_rate": 1.0}

    reward: RewardKind = "task"
    """What actor and critic are to collect: the reward of the task; or the disagreement of the model's ensemble, which
    explores, whatever the task (it needs model.ensemble)."""
    learning_rate: Annotated[float, Range(gt=0, le=1)] = 1e-3
    """AdamW's step size for the critic."""
    actor_learning_rate: Annotated[float, Range(gt=0, le=1)] = 3e-4
    """AdamW's step size for the actor. Larger ones are risky: where everything goes well the critic's slope is almost
    flat, and an actor that takes large steps all the same drifts off."""
    hidden: Width = 256
    """Width of the hidden layers of actor and critic."""
    critics: Annotated[int, Range(ge=1, le=64)] = 2
    """Members of the critic ensemble; targets use the smallest."""
    critic_bins: Annotated[int, Range(ge=0, le=4095)] = 0
    """Bins, odd in number, over which the critic predicts how values are distributed; what counts is the mean. 0 for a
    critic that regresses values."""
    critic_mean: MeanKind = "symlog"
    """What the mean of these distributions is taken of: the values' symlog, as TD-MPC2 does, which is below the mean of
    values that differ much; or the values themselves, as DreamerV3 does."""
    critic_bound: Annotated[float, Range(gt=0)] = 1.0
    """Error, in mean rewards, beyond which the loss of a critic that regresses values no longer grows as its square
    does, but as the error. Small bounds are calm, and lead to medians, large ones to means: by a median, what goes
    wrong less often than not hardly counts."""
    discount: Annotated[float, Range(ge=0, lt=1)] = 0.99
    """Discount per model step."""
    value_expansion: Annotated[int, Range(ge=0, le=64)] | None = 2
    """Steps by which targets are continued in imagination, following the actor, after the first recorded step; what
    the model gets wrong about the recorded steps, as far as clips reach, is made up for. None for targets from
    recorded steps alone, which follow the actions that were explored."""
    expansion_limit: Annotated[float, Range(gt=0)] | None = None
    """By how much, in mean rewards per imagined step, a target may at most differ from what was recorded for what the
    actor would have done instead; none for no limit. Beside the edge of a cliff the difference is all there is, and
    half imagined: whether the actor would have fallen."""
    imagined_noise: Annotated[float, Range(ge=0, le=1)] = 0.0
    """By how much the actor's imagined actions are disturbed, in the same measure as those with which it explores. What
    is then valued is the actor as it explores, which has to keep away from edges that a disturbance might carry it
    over; with actor_smoothing as large, that is also what the actor climbs."""
    imagined_starts: bool = False
    """Whether the critic also learns on the steps that its targets imagine, as far as the model expects to get there,
    from what they bring: what the actor would do in a recorded state, where it otherwise knows what was done alone, and
    in imagined ones, 1 to value_expansion - 1 steps deep, in which plans end."""
    actor_expansion: Annotated[int, Range(ge=0, le=64)] = 0
    """Imagined steps whose rewards the actor climbs before the critic's value of what follows them, through the model;
    0 for the critic alone (continuous actions)."""
    target_rate: Annotated[float, Range(gt=0, le=1)] = 0.01
    """Share of the way that the target copies move towards actor and critic at every update."""
    averaging_rate: Annotated[float, Range(gt=0, le=1)] = 0.003
    """Share of the way that the acting copy moves towards the actor at every update; 1 for the actor itself."""
    smoothing: Annotated[float, Range(ge=0, le=2)] = 0.2
    """Spread of the noise on target actions (continuous actions)."""
    actor_smoothing: Annotated[float, Range(ge=0, le=2)] = 0.0
    """Spread of the noise on the actions that the critic judges for the actor (continuous actions): it then climbs the
    mean over nearby ones, of which the critic knows as far as exploring goes, and not the ripples between them."""
    saturation_penalty: Annotated[float, Range(ge=0, le=1e6)] = 1e-3
    """Weight of the penalty on the actor's squared pre-activations (continuous actions)."""
    entropy: Annotated[float, Range(ge=0, le=1e6)] = 0.02
    """Weight of the policy's entropy, in units of the reward scale (discrete actions)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic_bins and (self.critic_bins < 3 or self.critic_bins % 2 == 0):
            raise SettingsError(
                f"BehaviourSettings.critic_bins = {self.critic_bins} must be 0, or odd and at least 3, so that zero is "
                "a bin."
            )
        if self.imagined_starts and not self.value_expansion:
            raise SettingsError(
                f"BehaviourSettings.imagined_starts needs targets that imagine steps: value_expansion = "
                f"{self.value_expansion} must be at least 1."
            )


class Behaviour(nn.Module):
    """Actor, critic ensemble, their copies and their optimiser.

    Args:
        latent_dims: D.
        action_dims: A.
        groups: sizes of the one-hot groups for discrete actions, empty for continuous ones.
        settings: see :class:`BehaviourSettings`.
        compute: how updates are computed.
        seed: of the target noise.

    Attributes:
        actor: what learns, and explores.
        mean_actor: its moving average, which acts by default when nothing is explored.
        critic: what learns.
        target_actor, target_critic: the copies that targets, the actor and plans are judged by.
    """

    reward_scale: Tensor

    def __init__(
        self,
        latent_dims: int,
        action_dims: int,
        groups: tuple[int, ...] = (),
        settings: BehaviourSettings | None = None,
        compute: ComputeSettings | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        s = self.settings = settings or BehaviourSettings()
        self.compute = compute or ComputeSettings()
        self.actor: Actor
        if groups:
            if s.actor_expansion:
                raise SettingsError(
                    f"BehaviourSettings.actor_expansion = {s.actor_expansion} needs continuous actions: discrete ones "
                    "pass no gradient through the model."
                )
            self.actor = CategoricalActor(latent_dims, groups, s.hidden, s.entropy)
        else:
            self.actor = DeterministicActor(latent_dims, action_dims, s.hidden)
        self.critic = CriticEnsemble(
            latent_dims, action_dims, s.hidden, s.critics, s.critic_bins, s.critic_mean, s.critic_bound
        )
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.mean_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.register_buffer("reward_scale", torch.ones(()))
        parameters: list[dict[str, Any]] = [
            {"params": self.critic.parameters()},
            {"params": self.actor.parameters(), "lr": s.actor_learning_rate},
        ]
        self.optimization = Optimization(parameters, s, torch_generator(seed, "behaviour"))
        self._losses = self.compute.compiled(self._objective)

    def value(self, latents: Tensor, actor: Actor | None = None) -> Tensor:
        """Return the value (...), in reward units, of following ``actor``, by default the average, from ``latents``.

        Those are (..., D). The smallest member counts, because a planner seeks out overestimates. Gradients pass to
        them alone.
        """
        actor, no_noise = actor or self.mean_actor, latents.new_zeros(())
        return actor.expected_value(latents, self.target_critic, no_noise, 0.0).amin(0) * self.reward_scale

    def action_value(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Return the value (...), in reward units, of ``actions`` (..., A) in ``latents`` (..., D).

        The acting copy is followed afterwards, and the smallest member counts, as in :meth:`value`.
        """
        return self.target_critic(latents, actions).amin(0) * self.reward_scale

    def update(self, clip: Clip, latents: Tensor, mean_reward_size: float, model: JEPA) -> dict[str, Tensor]:
        """Take one step of critic and actor.

        Args:
            clip: B clips of T steps.
            latents: (B, T + 1, D) encodings of the clip, detached.
            model: imagines, with its heads; nothing of it is changed.
            mean_reward_size: mean absolute reward of the data, the unit that rewards are measured in from now on.

        Returns:
            Scalars by name, detached.
        """
        if self.settings.reward == "disagreement":
            if self.settings.value_expansion is not None:  # the rewards of more steps are not asked for
                clip = clip.steps(0, min(clip.length, 1 + self.settings.value_expansion))
                latents = latents[:, : clip.length + 1]
            with self.compute.autocast(latents.device):
                clip = replace(clip, rewards=self._disagreement(clip, latents, model))
            size = float((clip.rewards * clip.valid).sum() / clip.valid.sum())
            memory = max(1 / DISAGREEMENT_MEMORY, 1 / (1 + self.optimization.updates))
            mean_reward_size = float(torch.lerp(self.reward_scale, self.reward_scale.new_tensor(size), memory))
        if mean_reward_size > 0:  # as long as there was no reward, there is no better unit than the last
            self._measure_rewards_by(mean_reward_size)
        shape = clip.batch, 1 + (self.settings.value_expansion or 0), clip.actions.shape[-1]
        noise = torch.randn(shape, generator=self.optimization.generator).to(latents)
        with self.compute.autocast(latents.device), _frozen(model):
            critic_loss, actor_loss, value = self._losses(clip, latents, noise, model)
        self.optimization.step(critic_loss + actor_loss)
        self._follow()
        return {
            "critic": critic_loss.detach(),
            "actor": actor_loss.detach(),
            "value": value.detach() * self.reward_scale,
        }

    def _objective(self, clip: Clip, latents: Tensor, noise: Tensor, model: JEPA) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of critic and actor and the mean value, in units of the reward scale.

        Args:
            clip: B clips of T steps.
            latents: (B, T + 1, D) encodings of the clip, detached.
            noise: (B, K + 1, A) standard normal, for the actions of K imagined steps and of the bootstrap.
            model: imagines.
        """
        first = latents[:, 0]
        if self.settings.value_expansion is None:
            path, targets = None, self._recorded_targets(clip, latents, noise[:, 0])
        else:
            path, targets = self._imagined_targets(clip, latents, noise, model)
        values, missed = self.critic.judged(first, clip.actions[:, 0], targets)
        critic_loss = missed.mean()
        if self.settings.imagined_starts and path is not None:
            critic_loss = critic_loss + self._imagined_loss(path, 1 - clip.terminated[:, 0])
        gain, saturation = self._climbed(first, noise[:, 0], model)
        actor_loss = (self.settings.saturation_penalty * saturation - gain).mean()
        return critic_loss, actor_loss, values.mean()

    def _climbed(self, latents: Tensor, noise: Tensor, model: JEPA) -> tuple[Tensor, Tensor]:
        """Return what the actor climbs from ``latents`` (B, D), and its penalty (B,); see ``actor_expansion``.

        What the critic judges is disturbed by standard normal ``noise`` (B, A); see ``actor_smoothing``.
        """
        steps, kind = self.settings.actor_expansion, self.settings.reward
        total = penalty = latents.new_zeros(len(latents))
        weight = total + 1
        for _ in range(steps):
            assert isinstance(self.actor, DeterministicActor)
            before = self.actor.pre_activation(latents)
            step = model.step(LatentState(latents), before.tanh().unsqueeze(1), kind == "disagreement")
            assert step.continues is not None
            total = total + weight * reward_of(step, kind)[:, 0] / self.reward_scale
            penalty = penalty + before.square().mean(-1)
            weight = weight * self.settings.discount * step.continues[:, 0]
            latents = step.state.latents[:, 0].float()
        value, last = self.actor.objective(latents, self.target_critic, noise, self.settings.actor_smoothing)
        return total + weight * value, (penalty + last) / (steps + 1)

    @torch.no_grad()
    def _recorded_targets(self, clip: Clip, latents: Tensor, noise: Tensor) -> Tensor:
        """Return multi-step targets (B,) in units of the reward scale, from the steps of the clip (if any is valid).

        Rewards are summed to the end of the clip or of the episode, whichever comes first; where the episode was cut
        by a time limit the value of its last observation is added, where it terminated nothing is.
        """
        steps = torch.arange(clip.length, device=latents.device)
        discounts = self.settings.discount**steps
        rewards = (clip.rewards * clip.valid * discounts).sum(1)
        taken = clip.valid.sum(1).long()  # (B,)
        rows = torch.arange(clip.batch, device=latents.device)
        alive = 1 - clip.terminated[rows, taken - 1]
        last = latents[rows, taken]
        return rewards / self.reward_scale + alive * self.settings.discount**taken * self._bootstrap(last, noise)

    @torch.no_grad()
    def _imagined_targets(self, clip: Clip, latents: Tensor, noise: Tensor, model: JEPA) -> tuple[ImaginedPath, Tensor]:
        """Return imagined steps, and targets (B,) in units of the reward scale: the first step of the clip, then those.

        They are corrected by what the model gets wrong about the recorded steps: by how much the recorded return
        exceeds what it imagines for the recorded actions. Errors that both imaginations share cancel; where the actor
        would have acted as recorded, the recorded return remains, and no target strays from it beyond expansion_limit.
        """
        start, steps, end_noise = latents[:, 1], noise.shape[1] - 1, noise[:, -1]

        def follow(now: Tensor, step: int) -> Tensor:
            return self.target_actor.explore(now, noise[:, step], self.settings.imagined_noise)

        path = self._imagined(start, follow, steps, end_noise, model)
        later = path.return_from(0)
        if known := min(steps, clip.length - 1):
            rest = clip.steps(1, 1 + known)

            def repeat(now: Tensor, step: int) -> Tensor:  # as recorded, and after the recorded end as the actor would
                return torch.where(rest.valid[:, step, None] > 0, rest.actions[:, step], follow(now, step))

            recorded = self._recorded_targets(rest, latents[:, 1:], end_noise)
            repeated = self._imagined(start, repeat, known, end_noise, model).return_from(0)
            whole = torch.maximum(rest.valid.prod(1), rest.terminated.amax(1))  # not where the episode was cut
            most = steps * (math.inf if self.settings.expansion_limit is None else self.settings.expansion_limit)
            later = torch.lerp(later, recorded + (later - repeated).clamp(-most, most), whole)
        goes_on = 1 - clip.terminated[:, 0]
        return path, clip.rewards[:, 0] / self.reward_scale + self.settings.discount * goes_on * later

    def _imagined(
        self, latents: Tensor, act: Callable[[Tensor, int], Tensor], steps: int, noise: Tensor, model: JEPA
    ) -> ImaginedPath:
        """Return ``steps`` imagined steps from ``latents`` (B, D), with the value of what follows them."""
        states, actions, rewards, continues = [], [], [], []
        for index in range(steps):
            states.append(latents)
            actions.append(act(latents, index))
            kind = self.settings.reward
            step = model.step(LatentState(latents), actions[-1].unsqueeze(1), kind == "disagreement")
            assert step.continues is not None
            rewards.append(reward_of(step, kind)[:, 0] / self.reward_scale)
            continues.append(step.continues[:, 0])
            latents = step.state.latents[:, 0].float()
        return ImaginedPath(
            states, actions, rewards, continues, self._bootstrap(latents, noise), self.settings.discount
        )

    def _imagined_loss(self, path: ImaginedPath, weight: Tensor) -> Tensor:
        """Return the critic's loss on the imagined steps of ``path``, the mean over their depths.

        Each counts as far as the model expects the episode to last until there, the first by ``weight`` (B,).
        """
        loss = weight.new_zeros(())
        for step in range(path.steps):
            _, missed = self.critic.judged(path.latents[step], path.actions[step], path.return_from(step))
            loss = loss + (weight * missed).mean()
            weight = weight * path.continues[step]
        return loss / path.steps

    @torch.no_grad()
    def _disagreement(self, clip: Clip, latents: Tensor, model: JEPA) -> Tensor:
        """Return by how much the ensemble disagrees on each step (B, T) of ``clip``."""
        disagreement = model.disagreement(latents[:, :-1], clip.actions)
        assert disagreement is not None
        return disagreement.float()

    def _bootstrap(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Return the smallest member's value (B,) of following the target copies from ``latents`` (B, D)."""
        return self.target_actor.expected_value(latents, self.target_critic, noise, self.settings.smoothing).amin(0)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the copies towards actor and critic."""
        s = self.settings
        averaging = max(s.averaging_rate, 1 / (1 + self.optimization.updates))  # at first the mean of all so far
        for copies, originals, rate in (
            (self.target_actor, self.actor, s.target_rate),
            (self.target_critic, self.critic, s.target_rate),
            (self.mean_actor, self.actor, averaging),
        ):
            torch._foreach_lerp_(list(copies.parameters()), list(originals.parameters()), rate)

    @torch.no_grad()
    def _measure_rewards_by(self, size: float) -> None:
        """Adopt ``size`` as the unit of rewards and values; what regressing critics say stays the same in rewards."""
        change = self.reward_scale / size
        for critic in (self.critic, self.target_critic):
            critic.rescale(change)
        self.reward_scale.fill_(size)


@contextmanager
def _frozen(model: JEPA) -> Iterator[None]:
    """Let gradients pass through ``model``, and none reach it, inside the block."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
