"""Controller: a world model, a planner and an objective, acting for B environments at once.

A controller is pure, as planners are: everything that it remembers travels in a :class:`ControllerState`.
Evaluation, training and the agent's ``predict`` all act through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import DivergedError
from ..core.seeding import derive_seed
from ..planners import ActionSpec, Plan, Planner, PlanState
from ..planners.noise import draw_noise
from ..world_model import JEPA, LatentState
from .actor import Actor

FAILURES_IN_A_ROW = 10

ObjectiveFactory = Callable[..., Callable[[Tensor], Tensor]]
"""Of the latent state, and of the goals' latents (B, D) where there are goals, makes what plans are judged by."""


@dataclass(frozen=True, eq=False)
class ControllerState:
    """What a controller remembers of B environments between two calls.

    Attributes:
        latent: where the environments are, as the model sees it.
        plan: the planner's warm start, with seed and tick per environment.
        queue: (B, Q, a) environment actions of the plan being executed, the next one first.
        left: (B,) host integers, how many of the queue are still to be executed.
        executed: (B, block, a) the last environment actions, as many as make a model step, the newest last.
        failed: (B,) host integers, plans that failed so far.
        failed_in_a_row: (B,) host integers, how many of them since the last sound one.
        goal: (B, D), the latents of what is to be reached, or ``None`` where the objective needs none.
    """

    latent: LatentState
    plan: PlanState
    queue: Tensor
    left: NDArray[np.int64]
    executed: Tensor
    failed: NDArray[np.int64]
    failed_in_a_row: NDArray[np.int64]
    goal: Tensor | None = None

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> ControllerState:
        """Return the state of the environments at ``index``."""
        rows = torch.as_tensor(np.asarray(index), dtype=torch.long)
        on_device = rows.to(self.queue.device)
        return ControllerState(
            self.latent.select(on_device),
            self.plan.select(rows),
            self.queue[on_device],
            self.left[rows.numpy()],
            self.executed[on_device],
            self.failed[rows.numpy()],
            self.failed_in_a_row[rows.numpy()],
            None if self.goal is None else self.goal[on_device],
        )

    def to_tree(self) -> dict[str, Any]:
        """Return plain values and tensors from which :meth:`Controller.restore_state` continues."""
        return {
            "latent": self.latent.tensors(),
            "actions": self.plan.actions,
            "elites": self.plan.elites,
            "seeds": list(self.plan.seeds),
            "ticks": list(self.plan.ticks),
            "queue": self.queue,
            "left": self.left.tolist(),
            "executed": self.executed,
            "failed": self.failed.tolist(),
            "failed_in_a_row": self.failed_in_a_row.tolist(),
            **({} if self.goal is None else {"goal": self.goal}),
        }


class Controller:
    """Acts by planning.

    Args:
        model: the world model.
        planner: searches plans of H model steps.
        objective: makes the cost function of a latent state, and of goals where it has any; see
            :mod:`forethought.agents.objective`.
        actor: proposes plans, and explores; ``None`` for none.
        proposals: plans that the actor proposes; the first follows it exactly, the others are disturbed.
        proposal_noise: how much (see the actor's ``explore``).
        execute: model steps of a plan that are executed before planning anew.
        possible: the actions that can be taken, where plans may go beyond them.
    """

    def __init__(
        self,
        model: JEPA,
        planner: Planner,
        objective: ObjectiveFactory,
        actor: Actor | None = None,
        proposals: int = 1,
        proposal_noise: float = 0.2,
        execute: int = 1,
        possible: ActionSpec | None = None,
    ) -> None:
        self.possible = possible
        self.model, self.planner, self.objective, self.actor = model, planner, objective, actor
        self.proposals = min(proposals, planner.max_proposals) if actor is not None else 0
        self.proposal_noise = proposal_noise
        self.execute = min(execute, planner.horizon)
        self.block = planner.spec.block

    def initial_state(self, seeds: int | Sequence[int], goal: Tensor | None = None) -> ControllerState:
        """Return the state of environments that have not been observed, one per seed.

        Args:
            seeds: of the B environments.
            goal: (B, D), latents to reach, for objectives that have goals.
        """
        plan = self.planner.initial_state(seeds)
        batch, dims, device = len(plan), self.planner.spec.dims, self.model.device
        return ControllerState(
            self.model.initial(batch),
            plan,
            torch.zeros(batch, self.execute * self.block, dims // self.block, device=device),
            np.zeros(batch, np.int64),
            torch.zeros(batch, self.block, dims // self.block, device=device),
            np.zeros(batch, np.int64),
            np.zeros(batch, np.int64),
            goal,
        )

    def restore_state(self, tree: Mapping[str, Any]) -> ControllerState:
        """Return the state that :meth:`ControllerState.to_tree` described.

        Where another planner, horizon or number of executed steps plans from now on, plans begin anew.
        """
        state, device = self.initial_state(tree["seeds"]), self.model.device
        plan = replace(state.plan, ticks=tuple(tree["ticks"]))
        queue, executed = tree["queue"].to(device), tree["executed"].to(device)
        left, failed, in_a_row = (np.array(tree[name], np.int64) for name in ("left", "failed", "failed_in_a_row"))
        known = {"actions": plan.actions, "elites": plan.elites, "queue": state.queue}
        if all(tree[name].shape == tensor.shape for name, tensor in known.items()):
            plan = replace(plan, actions=tree["actions"].to(device), elites=tree["elites"].to(device))
        else:
            queue, left = state.queue, np.zeros_like(left)
        saved = iter(tree["latent"])
        latent = state.latent.map(lambda _: next(saved).to(device))
        goal = tree["goal"].to(device) if "goal" in tree else None
        return ControllerState(latent, plan, queue, left, executed, failed, in_a_row, goal)

    @torch.no_grad()
    def act(
        self,
        state: ControllerState,
        observations: Tensor,
        reset: NDArray[np.bool_],
        explore: float | NDArray[np.float64] | None = None,
    ) -> tuple[Tensor, ControllerState]:
        """Choose one environment action per environment.

        Args:
            state: from :meth:`initial_state` or the last call.
            observations: (B, O).
            reset: (B,) where a new episode begins: warm start and plan being executed are forgotten.
            explore: disturb the actions by this much, all alike or (B,), from each environment's own seed; ``None``
                for not at all. A planner that does not search explores as its actor does, any other around what it
                planned.

        Returns:
            ``(actions (B, a), state)``.

        Raises:
            DivergedError: if more than 10 plans in a row failed in an environment. Before, it does what is left of
                the last sound plan, or rests.
        """
        left = np.where(reset, 0, state.left)
        plan = state.plan.reset(reset) if reset.any() else state.plan
        state = replace(state, left=left, plan=plan)
        observed = np.flatnonzero(left % self.block == 0)  # elsewhere a model step is still being executed
        if len(observed):
            state = self._observe(state, observations, reset, observed)
        due = np.flatnonzero(left == 0)
        amounts = None if explore is None else torch.tensor(np.broadcast_to(explore, len(left))).to(state.queue)
        proposing = amounts is not None and self.actor is not None and not self.planner.searches
        if len(due):
            state = self._replan(state, due, amounts if proposing else None)
        actions = state.queue[:, 0]
        if amounts is not None and not proposing:
            actions = self._disturb(state, actions, amounts)
        executed = torch.cat([state.executed[:, 1:], actions.unsqueeze(1)], 1)
        return actions, replace(state, queue=state.queue.roll(-1, 1), left=state.left - 1, executed=executed)

    def _observe(
        self, state: ControllerState, observations: Tensor, reset: NDArray[np.bool_], rows: NDArray[np.int64]
    ) -> ControllerState:
        index = torch.from_numpy(rows).to(observations.device)
        begun = torch.from_numpy(reset[rows]).to(observations.device)
        seen = self.model.observe(
            state.latent.select(index), observations[index], state.executed[index].flatten(1), begun
        )
        return replace(state, latent=state.latent.put(index, seen))

    def _replan(self, state: ControllerState, rows: NDArray[np.int64], amounts: Tensor | None) -> ControllerState:
        index = torch.from_numpy(rows).to(state.queue.device)
        latent, warm = state.latent.select(index), state.plan.select(rows)
        objective = self.objective(latent) if state.goal is None else self.objective(latent, state.goal[index])
        proposals = self._propose(latent, warm, None if amounts is None else amounts[index])
        plan = _sound(self.planner.plan(objective, warm, proposals), warm)
        executed = plan.actions[:, : self.execute]
        if self.possible is not None:
            executed = self.possible.project(executed)
        left = state.left.copy()
        left[rows] = self.execute * self.block
        return replace(
            _with_failures(state, rows, plan.failed.cpu().numpy()),
            plan=state.plan.put(rows, plan.state.shift(self.execute)),
            queue=state.queue.index_copy(0, index, executed.reshape(len(rows), *state.queue.shape[1:])),
            left=left,
        )

    def _propose(self, latent: LatentState, warm: PlanState, amounts: Tensor | None) -> Tensor | None:
        """Return plans (B, P, H, A) that the actor would follow in the model, or ``None`` without an actor.

        The first follows it exactly, or exploring by ``amounts`` (B,) where the planner does nothing but follow it.
        """
        if self.actor is None or self.proposals == 0:
            return None
        horizon, dims, count = self.planner.horizon, self.planner.spec.dims, self.proposals
        noise = None
        if count > 1 or amounts is not None:
            seeds = tuple(derive_seed(seed, "proposals") for seed in warm.seeds)
            noise = draw_noise(seeds, warm.ticks, (count, horizon, dims), latent.latents.device)
        state = latent.candidates(count)
        plan = []
        for step in range(horizon):
            actions = self.actor(state.latents)
            if noise is not None:
                amount = self.proposal_noise if amounts is None else amounts[:, None, None]
                disturbed = self.actor.explore(state.latents, noise[:, :, step], amount)
                actions = disturbed if amounts is not None else torch.cat([actions[:, :1], disturbed[:, 1:]], 1)
            actions = self._bounded(actions)
            plan.append(actions)
            if step + 1 < horizon:
                state = self.model.step(state, actions, disagreement=False).state
        return torch.stack(plan, 2)

    def _disturb(self, state: ControllerState, actions: Tensor, amounts: Tensor) -> Tensor:
        """Return ``actions`` (B, a) disturbed by ``amounts`` (B,), with noise from each environment's seed and tick."""
        seeds = tuple(derive_seed(s, "explore", int(n)) for s, n in zip(state.plan.seeds, state.left, strict=True))
        noise = draw_noise(seeds, state.plan.ticks, (1, 1, actions.shape[-1]), actions.device)[:, 0, 0]
        if not self.planner.spec.discrete:
            return self._bounded(actions + amounts[:, None] * noise)
        return self._resample(actions, noise, amounts[:, None])

    def _bounded(self, actions: Tensor) -> Tensor:
        """Return actions (..., a) of one environment step, or of a block, within the planner's bounds."""
        spec, dims = self.planner.spec, actions.shape[-1]
        return actions if spec.discrete else torch.clamp(actions, spec.low[:dims], spec.high[:dims])

    def _resample(self, actions: Tensor, noise: Tensor, amounts: Tensor) -> Tensor:
        """Return one-hots ``actions`` (B, a), each group replaced by another with probability ``amounts`` (B, 1)."""
        spec = self.planner.spec
        per_step = spec.groups[: len(spec.groups) // self.block]
        mixed = []
        for hot, normal in zip(actions.split(per_step, -1), noise.split(per_step, -1), strict=True):
            uniform = (0.5 * (1 + torch.erf(normal[:, :1] / 2**0.5))).clamp(0, 1 - 1e-7)
            choice = (uniform / amounts.clamp(min=1e-9) * hot.shape[-1]).long().clamp(max=hot.shape[-1] - 1)
            other = torch.nn.functional.one_hot(choice[:, 0], hot.shape[-1]).to(hot.dtype)
            mixed.append(torch.where(uniform < amounts, other, hot))
        return torch.cat(mixed, -1)


def _sound(plan: Plan, warm: PlanState) -> Plan:
    """Return ``plan`` with the warm start, marked failed, where a planner returned what is not finite."""
    unsound = ~(plan.actions.isfinite() & plan.state.actions.isfinite()).flatten(1).all(1)
    actions, later = (
        torch.where(unsound[:, None, None], warm.actions, given) for given in (plan.actions, plan.state.actions)
    )
    return replace(plan, actions=actions, failed=plan.failed | unsound, state=replace(plan.state, actions=later))


def _with_failures(state: ControllerState, rows: NDArray[np.int64], failed: NDArray[np.bool_]) -> ControllerState:
    """Return ``state`` with the plans of ``rows`` counted; raise :class:`DivergedError` for too many failures."""
    total, in_a_row = state.failed.copy(), state.failed_in_a_row.copy()
    total[rows] += failed
    in_a_row[rows] = np.where(failed, in_a_row[rows] + 1, 0)
    if in_a_row.max() > FAILURES_IN_A_ROW:
        raise DivergedError(
            f"{in_a_row.max()} plans in a row failed in environment {in_a_row.argmax()}: neither a cost nor a plan was "
            "finite. Either the planner is at fault (check_planner tells), or the model has diverged: then go back to "
            "a checkpoint from before, with a smaller learning rate."
        )
    return replace(state, failed=total, failed_in_a_row=in_a_row)
