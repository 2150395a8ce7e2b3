"""PlanningPolicy: a controller behind Stable-Baselines3's ``predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import EnvironmentFault, SettingsError
from ..core.seeding import derive_seed
from ..envs import ActionCodec, ObservationCodec
from ..planners import Planner
from ..world_model import LatentState
from .controller import Controller, ControllerState
from .devices import memory_explained
from .objective import Deviation, RewardObjective

if TYPE_CHECKING:
    from .actor import Actor
    from .jepa_agent import JEPAAgent
    from .settings import PlanningSettings
    from .trials import AgentState


class PlanningPolicy:
    """Acts in native observations and actions by a controller.

    Args:
        controller: chooses internal actions.
        observation_codec, action_codec: translate at the boundary.
        seed: of predictions that are begun without a state.
        exploration: how much ``deterministic=False`` disturbs the actions.
    """

    def __init__(
        self,
        controller: Controller,
        observation_codec: ObservationCodec,
        action_codec: ActionCodec,
        seed: int,
        exploration: float,
    ) -> None:
        self.controller, self.observation_codec, self.action_codec = controller, observation_codec, action_codec
        self.seed, self.exploration = seed, exploration

    @property
    def planner(self) -> Planner:
        """The planner that acts."""
        return self.controller.planner

    @property
    def observation_space(self) -> gym.Space[Any]:
        """The native observations that it was made for."""
        return self.observation_codec.space

    @property
    def action_space(self) -> gym.Space[Any]:
        """The native actions that it was made for."""
        return self.action_codec.space

    def initial_state(self, seeds: Sequence[int] | NDArray[np.int64]) -> ControllerState:
        """Return the state of environments that begin an episode, one per seed."""
        return self.controller.initial_state([int(seed) for seed in seeds])

    def predict(
        self,
        observation: Any,
        state: ControllerState | None = None,
        episode_start: NDArray[np.bool_] | Sequence[bool] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], ControllerState]:
        """Choose actions, as SB3's ``predict`` does.

        Args:
            observation: one native observation, or a batch of B.
            state: what the last call returned; ``None`` begins anew.
            episode_start: (B,) where a new episode begins, so that the warm start is forgotten there.
            deterministic: without exploration; otherwise noise is drawn from each environment's own seed.

        Returns:
            ``(actions, state)``: a native action, or a batch of B.

        Raises:
            EnvironmentFault: an observation is not finite.
        """
        batched = self.observation_codec.is_batch(observation)
        vectors = self.observation_codec(observation) if batched else self.observation_codec.single(observation)[None]
        batch = len(vectors)
        if not np.isfinite(vectors).all():
            wrong = np.flatnonzero(~np.isfinite(vectors).reshape(batch, -1).all(1)).tolist()
            raise EnvironmentFault(f"Nothing can be decided by observations that are not finite: those at {wrong}.")
        if state is None:
            state = self.initial_state([derive_seed(self.seed, "predict", index) for index in range(batch)])
        elif len(state.left) != batch:
            raise SettingsError(
                f"The state belongs to {len(state.left)} environments and there are observations of {batch}: "
                "pass state=None, or state.select(index) for some of them."
            )
        reset = np.zeros(batch, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(batch)
        observations = torch.from_numpy(vectors).to(self.controller.model.device)
        explore = None if deterministic else self.exploration
        with memory_explained("planning an action", "planning.budget or the number of environments"):
            actions, state = self.controller.act(state, observations, reset, explore)
        native = self.action_codec.decode(actions.cpu().numpy())
        return (native if batched else native[0]), state


def actor_of(agent: JEPAAgent | AgentState, planning: PlanningSettings, learning: bool = False) -> Actor:
    """Return the state of an agent's actor that proposes plans; ``learning``: whether they are to be learned from.

    Of what was proven that is the average, as it is kept with the model of its time.
    """
    usual: Literal["latest", "average"] = "latest" if learning else "average"
    which = usual if planning.actor == "auto" else planning.actor
    behaviour = agent.behaviour
    states = {"copy": behaviour.target_actor, "latest": behaviour.actor}
    return states.get(which, behaviour.mean_actor)


def reward_objective(
    agent: JEPAAgent | AgentState, state: LatentState, planning: PlanningSettings, actor: Actor
) -> RewardObjective:
    """Return what plans from ``state`` cost by an agent's model and critic: ``actor`` follows, and is free to leave."""
    return RewardObjective(
        agent.model,
        state,
        partial(agent.behaviour.value, actor=actor),
        agent.settings.behaviour.discount,
        reward=agent.settings.behaviour.reward,
        bootstrap=planning.bootstrap,
    )


def critic_contradiction(
    agent: JEPAAgent | AgentState, objective: RewardObjective, actor: Actor, steps: int
) -> torch.Tensor:
    """Return by how much (B, 1, 1), in rewards, an agent's critic contradicts itself about ``actor``."""
    return objective.contradiction(actor, agent.behaviour.action_value, steps)[:, None, None]


def cost_of_leaving(actor: Actor, planning: PlanningSettings, price: float | torch.Tensor) -> Deviation:
    """Return what it costs to leave ``actor``, at a price per nat: one, or one for each environment (B, 1, 1)."""

    def deviation(latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return price * actor.surprise(latents, actions, planning.proposal_noise)

    return deviation


def trial_policy(candidate: AgentState) -> PlanningPolicy:
    """Return the bare actor of ``candidate``, as it acts when it counts."""
    from .settings import PlanningSettings

    return _policy(candidate, PlanningSettings(planner="policy", horizon=1, budget=None, proposals=1, actor="average"))


def reward_policy(
    agent: JEPAAgent, planning: PlanningSettings, own: Mapping[str, Any] | None = None, learning: bool = False
) -> PlanningPolicy:
    """Return what plans for the rewards that an agent's model predicts and the value that its critic gives their end.

    Args:
        agent: whose model and behaviour are used, as they learn on.
        planning: how to plan.
        own: settings of the planner itself.
        learning: whether the agent is to learn from what is done.
    """
    proven = agent.proven if planning.actor in ("auto", "proven") and not learning else None
    return _policy(proven or agent, planning, own, learning)


def _policy(
    agent: JEPAAgent | AgentState,
    planning: PlanningSettings,
    own: Mapping[str, Any] | None = None,
    learning: bool = False,
) -> PlanningPolicy:
    planner, actor = planning.build(agent.spec, own or {}), actor_of(agent, planning, learning)
    doubts = planning.doubt > 0 and planner.compares

    def objective(state: LatentState) -> RewardObjective:
        judged = reward_objective(agent, state, planning, actor)
        if not doubts and not planning.prior_weight:
            return judged
        price = planning.prior_weight * agent.behaviour.reward_scale
        if doubts:
            price = price + planning.doubt * critic_contradiction(agent, judged, actor, planner.horizon)
        return replace(judged, deviation=cost_of_leaving(actor, planning, price))

    controller = Controller(
        agent.model,
        planner,
        objective,
        actor,
        proposals=planning.proposals,
        proposal_noise=planning.proposal_noise,
        execute=planning.execute,
    )
    return PlanningPolicy(
        controller, agent.observation_codec, agent.action_codec, agent.seed, agent.settings.exploration
    )
