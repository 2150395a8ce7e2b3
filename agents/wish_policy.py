"""Acting on a wish: the same model, actor and planners, and costs that nothing was trained for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch

from ..core.errors import SettingsError
from ..envs import ActionCodec, ObservationCodec
from ..planners import ActionSpec
from ..world_model import JEPA, LatentState, Probe
from .controller import Controller
from .policy import PlanningPolicy, actor_of, cost_of_leaving, critic_contradiction, reward_objective
from .settings import JEPAAgentSettings, PlanningSettings
from .wish import Wish
from .wish_objective import WishObjective, probes_by_name

if TYPE_CHECKING:
    from .actor import Actor
    from .jepa_agent import JEPAAgent
    from .wish_objective import Returns

WISH_PLANNING = PlanningSettings(
    horizon=10, budget=300, proposals=32, proposal_noise=0.5, prior_weight=0.01, doubt=0.0, bootstrap="last"
)
"""How plans for physical quantities are searched: further ahead than for rewards, because no critic tells what comes
after them, and near what the actor might do, where the model has been. ``prior_weight`` is in units of the wish's cost;
at a third of it a search on HalfCheetah finds plans that move the robot in the model alone."""


def wish_planning(settings: JEPAAgentSettings, wish: Wish, planner: str | None = None) -> PlanningSettings:
    """Return how an agent of these settings plans for ``wish``, by ``planner`` if one is named.

    For quantities that is ``WISH_PLANNING``; for a wish that names none it is as for rewards, by the agent's own
    planner where that searches.
    """
    if wish.quantities:
        return WISH_PLANNING if planner is None else WISH_PLANNING.replace(planner=planner)
    return settings.planning_by(planner or ("auto" if settings.planning.bare else settings.planning.planner))


def wish_policy(
    model: JEPA,
    codecs: tuple[ObservationCodec, ActionCodec],
    wish: Wish,
    probes: Probe | Mapping[str, Probe],
    planning: PlanningSettings = WISH_PLANNING,
    own: Mapping[str, Any] | None = None,
    *,
    limits: gym.spaces.Box | None = None,
    actor: Actor | None = None,
    returns: Callable[[LatentState], Returns] | None = None,
    contradiction: Callable[[LatentState], torch.Tensor] | None = None,
    disagreement: bool = False,
    seed: int = 0,
    exploration: float = 0.0,
) -> PlanningPolicy:
    """Return what plans for a wish.

    Args:
        model: the world model.
        codecs: of native observations and actions.
        wish: what is asked.
        probes: read its quantities off the model's latents: one for all of them, or several by name.
        planning: how to plan; without an actor, its proposals and the price of leaving it are of no account.
        own: settings of the planner itself.
        limits: a box of native actions inside the action space that plans are to stay in.
        actor: proposes plans.
        returns: of a latent state, makes what tells minus the return of imagined plans, in rewards of mean size.
        contradiction: of a latent state, tells by how much (B, 1, 1) values contradict each other, in rewards of mean
            size. ``planning.doubt`` is of no account without it, or for a wish that asks for no reward.
        disagreement: whether returns are made of that of the model's ensemble.
        seed: of predictions that are begun without seeds.
        exploration: how much ``deterministic=False`` disturbs the actions.

    Raises:
        UnknownNameError: a quantity that no probe reads.
        SettingsError: one that cannot be planned for; or limits that do not fit the action space.
    """
    if wish.needs_reward and returns is None:
        raise SettingsError(
            f"The wish {wish} asks for reward, and there is no agent here that has learned to seek any."
        )
    known = probes_by_name(probes, wish)
    spec = ActionSpec.from_space(codecs[1].planning_space, block=model.settings.block).to(model.device)
    if limits is not None:
        spec = _narrowed(spec, codecs[1], limits)
    planner = planning.build(spec, own or {})
    doubt = planning.doubt * sum(term.weight for term in wish.terms if term.form == "reward") if planner.compares else 0

    def objective(state: LatentState) -> WishObjective:
        told = None if returns is None else returns(state)
        price: float | torch.Tensor = planning.prior_weight
        deviation = None
        if actor is not None and contradiction is not None and doubt:
            price = price + doubt * contradiction(state)
        if actor is not None and (doubt or planning.prior_weight):
            deviation = cost_of_leaving(actor, planning, price)
        return WishObjective(model, state, wish, known, told, deviation, disagreement)

    controller = Controller(
        model,
        planner,
        objective,
        actor,
        proposals=planning.proposals,
        proposal_noise=planning.proposal_noise,
        execute=planning.execute,
    )
    return PlanningPolicy(controller, *codecs, seed, exploration)


def agents_wish_policy(
    agent: JEPAAgent,
    wish: Wish,
    probes: Probe | Mapping[str, Probe],
    planning: PlanningSettings,
    own: Mapping[str, Any],
    limits: gym.spaces.Box | None,
) -> PlanningPolicy:
    """Return what plans for a wish in an agent's model, near its actor; arguments are those of :func:`wish_policy`."""
    behaviour, actor = agent.behaviour, actor_of(agent, planning)

    def returns(state: LatentState) -> Returns:
        objective = reward_objective(agent, state, planning, actor)
        return lambda imagined, actions: objective.of(imagined, actions) / behaviour.reward_scale

    def doubted(state: LatentState) -> torch.Tensor:
        judged = reward_objective(agent, state, planning, actor)
        return critic_contradiction(agent, judged, actor, planning.horizon) / behaviour.reward_scale

    return wish_policy(
        agent.model,
        (agent.observation_codec, agent.action_codec),
        wish,
        probes,
        planning,
        own,
        limits=limits,
        actor=actor,
        returns=returns,
        contradiction=doubted,
        disagreement=wish.needs_reward and agent.settings.behaviour.reward == "disagreement",
        seed=agent.seed,
        exploration=agent.settings.exploration,
    )


def _narrowed(spec: ActionSpec, codec: ActionCodec, limits: gym.spaces.Box) -> ActionSpec:
    """Return ``spec`` within ``limits`` of native actions.

    Raises:
        SettingsError: the actions are choices, or the limits are of another shape or beyond the action space.
    """
    space = codec.space
    if codec.discrete or not isinstance(space, gym.spaces.Box):
        raise SettingsError(f"Limits are for actions that are quantities, not for {space}.")
    if limits.shape != space.shape:
        raise SettingsError(f"Limits of the shape {limits.shape} do not fit actions of the shape {space.shape}.")
    if (limits.low < space.low).any() or (limits.high > space.high).any() or (limits.low > limits.high).any():
        raise SettingsError(f"The limits {limits} are not within the action space {space}.")
    sides = codec.encode(np.stack([limits.low, limits.high])).astype(np.float32)
    low, high = (torch.as_tensor(np.tile(side, spec.block), device=spec.device) for side in sides)
    return spec.within(low, high)
